"""Programs kept as they were traced, so that later commands need not trace them again.

JAX keeps what XLA has compiled, but finds it by the text of the program: to ask for it, a process must
first trace and lower the program, which takes longer than to load what was compiled. Here that text itself
is kept, exported by `jax.export`, with the structure of what it returns. A program that is kept is compiled
from the same text by the command that traced it and by those that load it, and so it is the same program,
found in JAX's cache.

# Differs from `Exported.serialize`: it needs another package, flatbuffers; Python's own pickle does as well
where the versions are part of the key.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export, lax
from jax.sharding import SingleDeviceSharding

from jaxstyle.device import kept

KIND = "traced"
"""The folder of traced programs."""
ANY_PLATFORM = export.DisabledSafetyCheck.platform()
"""Freedom to give an exported program another platform than its own, which is part of its key anyway.

For a program of the platform `cpu`, JAX starts LAPACK, for which it imports much of SciPy: 0.15 s.
"""


class Source(NamedTuple):
    """A function that is to be compiled."""

    function: Callable[..., Any]
    """A pure function of pytrees of arrays."""
    arguments: tuple[Any, ...]
    """Its arguments, or their shapes."""
    donated: tuple[int, ...] = ()
    """Numbers of the arguments whose memory it may reuse."""
    told: Callable[[], Any] = lambda: None
    """Function that is called once it has been traced, for what else is to be kept."""


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function as it was traced, of the leaves of its arguments."""

    exported: export.Exported
    donated: frozenset[int]
    """Numbers of the leaves whose memory it may reuse."""
    placed: frozenset[int]
    """Numbers of the leaves that were on a device."""
    result: Any
    """The tree structure of what it returns."""
    told: Any


class Ready(NamedTuple):
    """A function that has been compiled."""

    call: Callable[..., Any]
    """Function of the arguments of its source."""
    compiled: Any
    """The `jax.stages.Compiled`, a function of the leaves that it uses."""
    told: Any
    """The value that its source told."""


def compiled(
    key: str, source: Callable[[], Source], options: Mapping[str, Any], device: Any
) -> Ready | None:
    """A function compiled from the program that is kept under `key`, or from its source, then kept.

    Args:
        key: everything that the program follows from, beside what every key has; see `kept`.
        source: called only where nothing is kept.
        options: options of the compiler.
        device: the device that its arguments are on.

    Returns:
        None where nothing is kept, or where `jax.export` cannot export the function.
    """
    if not kept.keeps():
        return None
    data = kept.load(KIND, key)
    if data is not None:
        return _ready(pickle.loads(data), options, device)
    traced = _traced(source())
    if traced is None:
        return None
    kept.save(KIND, key, pickle.dumps(traced))
    return _ready(traced, options, device)


def _traced(source: Source) -> Traced | None:
    """A function traced and exported; None if it has parts that `jax.export` refuses."""
    leaves, structure = jax.tree.flatten(source.arguments)
    result = None

    def flat(*leaves: Any) -> list[Any]:
        nonlocal result
        found, result = jax.tree.flatten(source.function(*structure.unflatten(leaves)))
        return found

    flat.__name__ = source.function.__name__  # the program's name in profiles
    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves]
    try:
        exported = export.export(jax.jit(flat), disabled_checks=[ANY_PLATFORM])(*shapes)
    except (NotImplementedError, ValueError):  # a custom call without a promise that it will stay
        return None
    if b"lapack" not in exported.mlir_module_serialized:
        exported = dataclasses.replace(exported, platforms=("any",))
    counts = [len(jax.tree.leaves(argument)) for argument in source.arguments]
    ends = np.cumsum([0, *counts]).tolist()
    donated = (leaf for number in source.donated for leaf in range(ends[number], ends[number + 1]))
    placed = (number for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array))
    # The derivative is a function, which cannot be kept, and nothing differentiates a program.
    exported = dataclasses.replace(exported, _get_vjp=None)
    return Traced(exported, frozenset(donated), frozenset(placed), result, source.told())


def _ready(traced: Traced, options: Mapping[str, Any], device: Any) -> Ready:
    """A traced function, compiled for a device."""
    exported, used = traced.exported, traced.exported.module_kept_var_idx

    def function(*own: Any) -> Any:
        given = dict(zip(used, own, strict=True))
        unused = (n for n in range(len(exported.in_avals)) if n not in given)
        given |= {n: lax.full(exported.in_avals[n].shape, 0, exported.in_avals[n].dtype) for n in unused}
        return exported.call(*(given[n] for n in range(len(given))))

    function.__name__ = exported.fun_name
    donated = tuple(place for place, n in enumerate(used) if n in traced.donated)
    here = SingleDeviceSharding(device)
    shapes = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here if n in traced.placed else None)
        for n, a in ((n, exported.in_avals[n]) for n in used)
    ]
    made = jax.jit(function, donate_argnums=donated).lower(*shapes).compile(dict(options))

    def call(*arguments: Any) -> Any:
        leaves = jax.tree.leaves(arguments)
        return traced.result.unflatten(made(*(leaves[n] for n in used)))

    return Ready(call, made, traced.told)
