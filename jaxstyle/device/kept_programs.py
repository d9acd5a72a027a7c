"""Programs kept as they were traced, so that later commands need not trace them again.

JAX keeps what XLA has compiled, but finds it by the text of the program: to ask for it, a process must
first trace and lower the program, which takes longer than to load what was compiled. Here that text itself
is kept, exported by `jax.export`, with the structure of what it returns. A program that is kept is compiled
from the same text by the command that traced it and by those that load it, and so it is the same program,
found in JAX's cache.

# Differs from `Exported.serialize`: it needs another package, flatbuffers. A file is a line of JSON and the
text; no object is made from it but numbers, tuples, and named tuples of `TYPES_OF`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export, lax
from jax.core import ShapedArray
from jax.sharding import SingleDeviceSharding

from jaxstyle.device import kept

KIND = "traced"
"""The folder of traced programs."""
ANY_PLATFORM = export.DisabledSafetyCheck.platform()
"""Freedom to give an exported program another platform than its own, which is part of its key anyway.

For a program of the platform `cpu`, JAX starts LAPACK, for which it imports much of SciPy: 0.15 s.
"""
PLAIN = (
    "fun_name",
    "platforms",
    "calling_convention_version",
    "module_kept_var_idx",
    "uses_global_constants",
)
"""The parts of an exported program that are text and numbers."""
TYPES_OF = ("jaxstyle", "optax")
"""The packages whose named tuples a program may take and return."""


class Source(NamedTuple):
    """A function that is to be compiled."""

    function: Callable[..., Any]
    """A pure function of pytrees of arrays."""
    arguments: tuple[Any, ...]
    """Its arguments, or their shapes."""
    donated: tuple[int, ...] = ()
    """Numbers of the arguments whose memory it may reuse."""
    told: Callable[[], Any] = lambda: None
    """Function that is called once it has been traced, for what else is to be kept: tuples of numbers."""


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
    """The tuples that its source told."""


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
    if data is not None and (found := _unpacked(data)) is not None:
        return _ready(found, options, device)
    traced = _traced(source())
    data = traced and _packed(traced)
    if traced is None or data is None:
        return None
    kept.save(KIND, key, data)
    return _ready(traced, options, device)


# --- files ----------------------------------------------------------------------------------------


def _packed(traced: Traced) -> bytes | None:
    """The file of a program; None if the program has something that a file does not tell."""
    exported = traced.exported
    avals = {name: [_aval(a) for a in getattr(exported, name)] for name in ("in_avals", "out_avals")}
    head = {
        **avals,
        **{name: getattr(exported, name) for name in PLAIN},
        **{name: sorted(getattr(traced, name)) for name in ("donated", "placed")},
        "result": spelled(traced.result.unflatten(range(traced.result.num_leaves))),
        "told": spelled(traced.told),
    }
    data = json.dumps(head, default=repr).encode() + b"\n" + exported.mlir_module_serialized
    return data if _unpacked(data) == traced else None


def _unpacked(data: bytes) -> Traced | None:
    """The program in a file; None if it is none."""
    line, _, text = data.partition(b"\n")
    try:
        head = json.loads(line)
        found: dict[str, Any] = {name: head[name] for name in PLAIN}
        count = len(head["in_avals"])
        for name in ("in_avals", "out_avals"):
            found[name] = tuple(ShapedArray(tuple(shape), np.dtype(of)) for shape, of in head[name])
        found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        found["in_tree"] = jax.tree.structure(((0,) * count, {}))
        found["out_tree"] = jax.tree.structure([0] * len(head["out_avals"]))
        for name in ("_in_named_shardings", "in_shardings_hlo"):
            found[name] = (None,) * count
        for name in ("_out_named_shardings", "out_shardings_hlo"):
            found[name] = (None,) * len(head["out_avals"])
        found |= {"nr_devices": 1, "ordered_effects": (), "unordered_effects": (), "_get_vjp": None}
        found |= {"mlir_module_serialized": text, "disabled_safety_checks": (ANY_PLATFORM,)}
        found["_has_named_shardings"] = True
        names = {field.name for field in dataclasses.fields(export.Exported)}
        exported = export.Exported(**{name: found[name] for name in names})
        donated, placed = frozenset(head["donated"]), frozenset(head["placed"])
        result = jax.tree.structure(meant(head["result"]))
        return Traced(exported, donated, placed, result, meant(head["told"]))
    except (ValueError, TypeError, KeyError, AttributeError, ImportError):
        return None


def _aval(aval: Any) -> tuple[Any, str]:
    return aval.shape, aval.dtype.name


def spelled(tree: Any) -> Any:
    """A tree of tuples and dictionaries, tuples as lists that begin with the name of their type."""
    if isinstance(tree, dict):
        return {name: spelled(of) for name, of in tree.items()}
    if not isinstance(tree, tuple):
        return tree
    kind = type(tree)
    return [f"{kind.__module__}:{kind.__qualname__}", *map(spelled, tree)]


def meant(spelled: Any) -> Any:
    """The tree that `spelled` spelled; it raises ValueError for one that it never does."""
    if isinstance(spelled, dict):
        return {name: meant(of) for name, of in spelled.items()}
    if not isinstance(spelled, list):
        return spelled
    name, *parts = spelled[0], *map(meant, spelled[1:])
    if name == "builtins:tuple":
        return tuple(parts)
    module, _, kind = name.partition(":")
    if module.partition(".")[0] not in TYPES_OF:
        raise ValueError(name)
    of = getattr(importlib.import_module(module), kind)
    if not (isinstance(of, type) and issubclass(of, tuple) and hasattr(of, "_fields")):
        raise ValueError(name)
    return of(*parts)


# --- programs -------------------------------------------------------------------------------------


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
    except (NotImplementedError, ValueError):
        # A custom call without a promise that it will stay. An error of the function itself is raised again
        # by the caller, which then traces it without `jax.export`.
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
