"""What XLA makes of a step for a TPU, read without one: `python -m bench compiled --target v5e`.

`jax[tpu]` brings the compiler, which compiles for a TPU that is not present. What it made is read from its
text and its own accounts: memory, how arrays lie in tiles, its estimate of cycles for every operation, and
what moves between the high-bandwidth memory and the chip's own. Nothing here was ever run on a TPU.

The floor is one of published peak rates: the longer of all products at the rate of the matrix units and of
all traffic with the high-bandwidth memory at its rate. In f32 a product is six passes in bf16 (`HIGHEST`).
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import xla_text


class Chip(NamedTuple):
    """A kind of TPU, with the peak rates that Google publishes (cloud.google.com/tpu/docs)."""

    topology: str
    """The smallest one of a whole host."""
    accelerator: str
    flops_per_s: float
    """In bf16."""
    bytes_per_s: float
    """Of the high-bandwidth memory."""
    memory_bytes: int


CHIPS = {
    "v5e": Chip("v5e:2x2", "v5litepod-4", 197e12, 819e9, 16 * 2**30),
    "v5p": Chip("v5p:2x2x1", "v5p-8", 459e12, 2765e9, 95 * 2**30),
    "v6e": Chip("v6e:2x2", "v6e-4", 918e12, 1640e9, 32 * 2**30),
}
PASSES = {"f32": 6, "bf16": 1}
"""Passes of the matrix units for a product, by precision."""
LISTED = 20
"""The number of operations that a row names, the longest ones."""
MOVES = {
    "copy",
    "copy-start",
    "copy-done",
    "slice-start",
    "slice-done",
    "reshape",
    "transpose",
    "slice",
    "pad",
}

_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)((?::[^{}]*)?)\})?")


class Laid(NamedTuple):
    """An array as the compiler lays it out."""

    data: int
    """Bytes of its numbers."""
    padded: int
    """Bytes of its tiles."""
    on_chip: bool
    """Whether it is in the chip's own memory."""


class Operation(NamedTuple):
    """One operation of a step."""

    name: str
    kind: str
    """`convolution`, `product`, `move` or `pass`."""
    result: str
    source: str
    """The operation of the step that it comes from."""
    cycles: int
    """The compiler's own estimate; 0 where it has none."""
    traffic: int
    """Bytes that it exchanges with the high-bandwidth memory."""


def laid(text: str) -> list[Laid]:
    """Every array that a text of HLO names, with its layout."""
    found = []
    for kind, dims, order, rest in _ARRAY.findall(text):
        shape = [int(n) for n in dims.split(",") if n]
        size = xla_text.ITEM_BYTES.get(kind, 1)
        data, padded = size * math.prod(shape), list(shape)
        axes = [int(n) for n in order.split(",") if n]
        if (tile := re.search(r"T\(([\d,]+)\)", rest)) and axes:
            edges = [int(n) for n in tile[1].split(",")]
            for axis, edge in zip(axes, reversed(edges), strict=False):
                padded[axis] = -(-padded[axis] // edge) * edge
        found.append(Laid(data, size * math.prod(padded), "S(" in rest))
    return found


def operations(hlo: str) -> list[Operation]:
    """Operations of the computation with the most products, which is the body of a module's loop."""
    computations = xla_text.computations(hlo)
    products = {
        name: sum(1 for _ in _products(lines, computations)) for name, lines in computations.items()
    }
    fused = {
        name
        for lines in computations.values()
        for name in re.findall(r"calls=%([\w.\-]+)", "\n".join(lines))
    }
    loops = [name for name in computations if name not in fused]
    step = max(loops, key=lambda name: (products[name], len(computations[name])))
    return list(_operations(computations[step], computations))


def _products(lines: Sequence[str], computations: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The kind of every product in lines and in the computations that are fused into them.

    On a TPU a product of matrices is a convolution, too.
    """
    for line in lines:
        found = xla_text.INSTRUCTION.match(line)
        if found and found[3] in ("convolution", "dot"):
            yield "convolution" if re.search(r"window=\{size=3x3\b", found[5] or "") else "product"
        elif found and found[3] == "fusion" and (called := re.search(r"calls=%([\w.\-]+)", found[5] or "")):
            yield from _products(computations.get(called[1], ()), computations)


def _operations(step: Sequence[str], computations: Mapping[str, Sequence[str]]) -> Iterator[Operation]:
    shapes: dict[str, str] = {}
    for name, result, operation, operands, rest, line in xla_text.instructions(step):
        shapes[name] = result
        if operation in xla_text.SILENT or operation.endswith("-done"):
            continue
        taken = "".join(
            shapes.get(each, "") for each in dict.fromkeys(re.findall(r"%([\w.\-]+)", operands))
        )
        inside = list(_products([line], computations))
        cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
        source = re.search(r'op_name="([^"]*)"', rest)
        last = source[1].rsplit("/", 1)[-1] if source else ""
        yield Operation(
            name,
            min(inside) if inside else _kind(operation),
            result[:90],
            ("gradient: " if source and "transpose(" in source[1] else "") + last,
            int(cycles[1]) if cycles else 0,
            _traffic(operation, result, taken),
        )


def _traffic(operation: str, result: str, taken: str) -> int:
    """Bytes that an operation exchanges with the high-bandwidth memory."""
    if operation.endswith("-start"):  # from one memory to the other; its result names both sides
        return min(array.padded for array in laid(result)[:2])
    return sum(array.padded for array in laid(result + taken) if not array.on_chip)


def _kind(operation: str) -> str:
    return "move" if operation in MOVES else "pass"


def prepare(target: str) -> None:
    """Set the variables with which the compiler does not look for a TPU."""
    os.environ.update(
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE=CHIPS[target].accelerator,
    )


def about() -> dict[str, Any]:
    """What a file with figures says of how they were made."""
    return {
        "ran": "compiled for the target, never run on it",
        "libtpu": importlib.metadata.version("libtpu"),
        "processors": os.cpu_count(),
    }


def topology(target: str) -> Any:
    """The devices of one host, for the compiler."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[target].topology)


def row(
    lowered: Any,
    options: Mapping[str, Any],
    target: str,
    *,
    cells: int,
    precision: str,
    step_flops: float,
    save: Path | None,
) -> dict[str, Any]:
    """The account of a lowered step, which is compiled here.

    Args:
        lowered: the step, lowered for `topology(target)`.
        options: the compiler's.
        target: a key of `CHIPS`.
        cells: number of cells of a launch on one device.
        precision: that of its products.
        step_flops: FLOPs of the products of one cell.
        save: the file to write the compiled module to, as text.
    """
    began, used = time.perf_counter(), _processor_s()
    compiled = lowered.compile(dict(options))
    seconds, used = time.perf_counter() - began, _processor_s() - used
    memory, counted, hlo = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if save is not None:
        save.write_text(hlo)
    chip, found = CHIPS[target], operations(hlo)
    kinds = ("convolution", "product", "move", "pass")
    cycles = {kind: sum(one.cycles for one in found if one.kind == kind) / cells for kind in kinds}
    traffic = sum(one.traffic for one in found)
    products_ms = 1e3 * PASSES[precision] * step_flops / chip.flops_per_s
    traffic_ms = 1e3 * traffic / chip.bytes_per_s / cells
    arrays = [laid(one.result) for one in found]
    data = sum(array.data for group in arrays for array in group)
    return {
        "target": target,
        "compile_s": round(seconds, 1),
        "compile_processor_s": round(used, 1),
        "temporary_bytes_per_cell": memory.temp_size_in_bytes / cells,
        "code_bytes": memory.generated_code_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "launch_bytes": memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "compiler_flops_per_image_step": counted["flops"] / cells,
        "compiler_bytes_per_image_step": counted["bytes accessed"] / cells,
        "published_floor_ms_per_image_step": {
            "products": products_ms,
            "traffic": traffic_ms,
            "all": max(products_ms, traffic_ms),
        },
        "passes_of_products": PASSES[precision],
        "compiler_cycles_per_image_step": {**cycles, "all": sum(cycles.values())},
        "not_on_matrix_units": (cycles["move"] + cycles["pass"]) / (sum(cycles.values()) or 1),
        "tiles_over_data": sum(array.padded for group in arrays for array in group) / (data or 1),
        "collectives": len(re.findall(xla_text.COLLECTIVE, hlo)),
        "operations": len(found),
        "longest": [one._asdict() for one in sorted(found, key=lambda one: -one.cycles)[:LISTED]],
    }


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


HEAD = (
    "   px cells  prec optimizer pool   compiled: s  processor s   MB/cell  tiles/data   floor: ms/img"
    "   Mcycles/img   conv  product   move   pass  collectives"
)


def line(row: Mapping[str, Any]) -> str:
    """A row as a line of the printed table."""
    cycles = row["compiler_cycles_per_image_step"]
    return (
        f"{row['size']:5} {row['cells']:5} {row['precision']:>5} {row['optimizer']:>9} {row['pool']:>4}"
        f" {row['compile_s']:13.0f} {row['compile_processor_s']:12.0f}"
        f" {row['temporary_bytes_per_cell'] / 1e6:9.1f} {row['tiles_over_data']:11.2f}"
        f" {row['published_floor_ms_per_image_step']['all']:15.3f} {cycles['all'] / 1e6:13.2f}"
        + "".join(f" {cycles[kind] / 1e6:6.2f} " for kind in ("convolution", "product", "move", "pass"))
        + f" {row['collectives']:9}"
    )
