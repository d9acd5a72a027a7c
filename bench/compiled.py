"""The kernels that XLA compiles a step into for an H200, read without one; `python -m bench compiled`.

With `--target v5e`, `v5p` or `v6e` the step is compiled for a TPU instead (`bench.tpu`).

XLA compiles for a GPU that is not present (`jax[cuda13]` has to be). The least that each kernel of a step
must read and write gives a floor for its time and for the whole step: no run is faster, and a run that is
slower than this is slower in a kernel, not between kernels. How near a kernel comes to its floor cannot be
seen: cuDNN chooses its algorithm by timing it on the device.

A kernel's floor is the longer of two times: its arithmetic at the rate of the matrix units, and its
traffic, every operand and every result once, at the rate of the memory. Data held in caches counts as
traffic too.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench import experiments, processes, tpu, work, xla_text

TARGET = Path(__file__).resolve().parent / "h200.txtpb"
CARD = "H200"
"""The GPU that a step is compiled for, and whose rates the floors are by."""
BYTES_PER_S = 4.3e12
"""Measured: a copy of 8 GB on an H200."""
FLOPS_PER_S = {"bf16": 790e12, "tf32": 495e12, "f32": 67e12}
"""Measured in bf16, 8192 x 8192 on random numbers; from the data sheet for the others."""
LISTED = 20
"""The number of kernels that a row names, the longest ones."""

_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Kernel(NamedTuple):
    """One kernel of a step."""

    name: str
    """The name of its operation in the compiled program."""
    kind: str
    """`convolution`, `product`, `copy` or `pass`."""
    result: str
    """The shapes that it writes."""
    source: str
    """The operation of the step that it comes from."""
    traffic: int
    """Bytes read and written."""
    flops: float
    fused: tuple[str, ...]
    """Operations fused into a convolution: `bias`, `relu`, `add`."""

    def floor_s(self, precision: str) -> float:
        """The least number of seconds that it takes."""
        return max(self.traffic / BYTES_PER_S, self.flops / FLOPS_PER_S[precision])


def shape_bytes(shapes: str) -> int:
    """Bytes of all arrays named in a text of HLO."""
    total = 0
    for kind, dims in _SHAPE.findall(shapes):
        total += xla_text.ITEM_BYTES.get(kind, 1) * math.prod(int(n) for n in dims.split(",") if n)
    return total


def kernels(hlo: str) -> list[Kernel]:
    """Kernels of the computation with the most convolutions, which is the body of a module's loop."""
    computations = xla_text.computations(hlo)
    step = max(computations.values(), key=lambda lines: sum("__cudnn$conv" in line for line in lines))
    return list(_kernels(step, computations))


def _kernels(step: Sequence[str], computations: dict[str, list[str]]) -> Iterator[Kernel]:
    shapes: dict[str, str] = {}
    for name, result, operation, operands, rest, _ in xla_text.instructions(step):
        shapes[name] = result
        if operation in xla_text.SILENT:
            continue
        taken = [shapes.get(operand, "") for operand in dict.fromkeys(re.findall(r"%([\w.\-]+)", operands))]
        traffic = shape_bytes(result) + sum(map(shape_bytes, taken))
        called = re.search(r"calls=%([\w.\-]+)", rest)
        body = computations.get(called[1], []) if called else []
        if part := _written_in_place(body):
            traffic += part - 2 * shape_bytes(result)
        kind, flops, fused = "pass", 0.0, []
        if "__cudnn$conv" in rest:
            kind, flops = "convolution", _convolution_flops(result, taken)
            fused = [what for what, there in _fusions(rest, taken).items() if there]
        elif operation in ("dot", "custom-call") or any(" dot(" in line for line in body):
            kind = "product"
        elif operation == "copy":
            kind = operation
        source = re.search(r'op_name="([^"]*)"', rest)
        shown = ", ".join(f"{kind}[{dims}]" for kind, dims in _SHAPE.findall(result) if dims)
        last = source[1].rsplit("/", 1)[-1] if source else ""
        backward = "gradient: " if source and "transpose(" in source[1] else ""
        yield Kernel(name, kind, shown, backward + last, traffic, flops, tuple(fused))


def _written_in_place(body: Sequence[str]) -> int:
    """Bytes of an array that a fused computation updates in place; 0 where it makes a new one."""
    shapes = {}
    for line in body:
        if found := xla_text.INSTRUCTION.match(line):
            name, shapes[name] = found[1], found[2]
            if line.startswith("ROOT") and found[3] == "dynamic-update-slice":
                return shape_bytes(shapes[re.findall(r"%([\w.\-]+)", found[4])[1]])
    return 0


def dimensions(shape: str) -> list[int]:
    """The dimensions of the first array named in a text of HLO; none if there is no array."""
    found = _SHAPE.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def _convolution_flops(result: str, taken: Sequence[str]) -> float:
    """FLOPs of a 3x3 convolution, from its result, (b, h, w, o), and its first operand, (b, h, w, i)."""
    return 2.0 * 9 * dimensions(taken[0])[-1] * math.prod(dimensions(result))


def _fusions(rest: str, taken: Sequence[str]) -> dict[str, bool]:
    fused = "__cudnn$convBiasActivationForward" in rest
    return {
        "bias": fused and len(taken) == 3,
        "relu": '"activation_mode":"kRelu"' in rest,
        "add": fused and len(taken) > 3,
    }


class Setting(NamedTuple):
    """A program to compile and read."""

    size: int
    cells: int
    precision: str
    optimizer: str
    pool: str
    canvas: bool
    """Whether the images lie on a canvas larger than themselves."""
    devices: int = 1
    """The number of devices that share a launch; each has `cells` cells."""
    padding: str = "replicate"
    clamp: bool = True


def _lowered(setting: Setting, devices: Sequence[Any], platform: str) -> tuple[Any, Any]:
    """The program of a setting, and its step lowered for the first of some devices or for several."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from jaxstyle.device.batch import lower
    from jaxstyle.device.engine import Engine
    from jaxstyle.inputs import weights
    from jaxstyle.plan.cells import sweep_cells
    from jaxstyle.plan.planner import make_plan
    from jaxstyle.spec import settings
    from jaxstyle.spec.resolve import resolve

    mesh = Mesh(np.array(devices[: setting.devices]), ("cell",))

    def placed(tree: Any, of: P) -> Any:
        there = NamedSharding(mesh, of)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there), tree)

    sweep = resolve(
        settings.Sweep(
            content=("content",),
            style=("style",),
            alpha_beta=(1e-3,),
            precision=setting.precision,
            optimizer=setting.optimizer,
            pool=(setting.pool,),
            padding=(setting.padding,),
            clamp=(setting.clamp,),
            pyramid=0,
        )
    )
    cells = list(sweep_cells(sweep))
    shapes = {cell.content: (setting.size, setting.size) for cell in cells}
    plan = make_plan(sweep, cells, shapes, platform=platform, choose_width=lambda *_: setting.cells)
    program = replace(plan.programs[0], canvas=setting.canvas)
    network = Engine(weights.load(taps=program.taps).layers, winograd=False).network(program)
    return program, lower(
        program,
        network.features,
        placed(network.params, P()),
        mesh=mesh if setting.devices > 1 else None,
        placed=placed,
    )


def read(
    setting: Setting,
    options: dict[str, Any],
    save: Path | None = None,
    number: int = 0,
    target: str = "h200",
) -> dict[str, Any]:
    """The compiled form of one step, as a row of the table with its kernels.

    Args:
        setting: the program to compile.
        options: XLA's.
        save: the folder to write the compiled module to, as text.
        number: the number of the variant of the step; 0 is the present one.
        target: the device to compile for, `h200` or a key of `tpu.CHIPS`.
    """
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
    variant = experiments.VARIANTS[number]
    if variant.patch is not None:
        variant.patch()
    options = {**options, **dict(variant.options)}
    from jax.experimental import topologies

    from jaxstyle.device.batch import compiler_options

    if target in tpu.CHIPS:
        program, lowered = _lowered(setting, tpu.topology(target).devices, "tpu")
        path = None if save is None else save / f"{'-'.join(map(str, setting))}-{target}.hlo"
        found = tpu.row(
            lowered.segment,
            {**compiler_options(program), **options},
            target,
            cells=setting.cells,
            precision=setting.precision,
            step_flops=program.step_flops,
            save=path,
        )
        return {**setting._asdict(), "options": options, **found}
    there = topologies.get_topology_desc(
        platform="cuda",
        topology_name="h200",
        target_config=TARGET.read_text(),
        topology=f"1x{setting.devices}x1",
    )
    program, lowered = _lowered(setting, there.devices, "gpu")
    compiled = lowered.segment.compile({**compiler_options(program), **options})
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    if save is not None:
        name = "-".join(map(str, (*setting, *([f"variant{number}"] if number else []))))
        (save / f"{name}.hlo").write_text(hlo)
    found = kernels(hlo)
    ms = {
        kind: 1e3 * sum(k.floor_s(setting.precision) for k in found if k.kind == kind) / setting.cells
        for kind in ("convolution", "product", "pass", "copy")
    }
    return {
        **setting._asdict(),
        "variant": variant.name if number else "ours",
        "options": options,
        "floor_ms_per_image_step": {**ms, "all": sum(ms.values())},
        "ideal_ms_per_image_step": 1e3 * program.step_flops / FLOPS_PER_S[setting.precision],
        "traffic_bytes_per_image_step": sum(k.traffic for k in found) / setting.cells,
        "kernels": len(found),
        "collectives": len(re.findall(xla_text.COLLECTIVE, hlo)),
        "convolutions": sum(k.kind == "convolution" for k in found),
        "fused": {what: sum(what in k.fused for k in found) for what in ("bias", "relu", "add")},
        "temporary_bytes_per_cell": memory.temp_size_in_bytes / setting.cells,
        "longest": [
            {**k._asdict(), "floor_us": 1e6 * k.floor_s(setting.precision)}
            for k in sorted(found, key=lambda k: -k.floor_s(setting.precision))[:LISTED]
        ],
    }


HEAD = (
    "   px cells  prec optimizer pool   floor: ms/img   conv  product   pass   copy   kernels   conv+relu"
    "   MB/cell  variant"
)


def _is_unseen(variant: experiments.Variant) -> bool:
    """Whether a variant leaves the kernels of a step of a given width as they are."""
    return bool(variant.flags) or variant.patch is experiments.wide_launches


def _send(pipe: Any, *arguments: Any) -> None:
    pipe.send(read(*arguments))


def _line(row: dict[str, Any]) -> str:
    ms = row["floor_ms_per_image_step"]
    return (
        f"{row['size']:5} {row['cells']:5} {row['precision']:>5} {row['optimizer']:>9} {row['pool']:>4}"
        f" {ms['all']:15.3f} {ms['convolution']:6.3f} {ms['product']:8.3f} {ms['pass']:6.3f}"
        f" {ms['copy']:6.3f} {row['kernels']:9}"
        f" {row['fused']['relu']:6} of {row['convolutions']:2} {row['temporary_bytes_per_cell'] / 1e6:9.0f}"
        f"  {row['variant']}" + (f", collectives: {row['collectives']}" if row["devices"] > 1 else "")
    )


def main(arguments: Sequence[str]) -> None:
    """Compile, print a table and the longest kernels, save everything."""
    parser = argparse.ArgumentParser(
        prog="python -m bench compiled", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--target",
        default="h200",
        choices=("h200", *tpu.CHIPS),
        help="device to compile for (default: h200)",
    )
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="px, square (default: 512)")
    parser.add_argument(
        "--cells", type=int, nargs="+", default=[16], help="cells per launch and device (default: 16)"
    )
    parser.add_argument("--precision", nargs="+", default=["bf16"], choices=("f32", "tf32", "bf16"))
    parser.add_argument("--optimizer", nargs="+", default=["adam"], choices=("adam", "lbfgs"))
    parser.add_argument("--pool", nargs="+", default=["avg"], choices=("avg", "max"))
    parser.add_argument(
        "--padding",
        choices=("replicate", "reflect", "circular", "zeros"),
        help="padding of the network (default: replicate, as everywhere; zeros with --canvas)",
    )
    parser.add_argument("--no-clamp", action="store_true", help="pixels may leave 0 to 255")
    parser.add_argument("--canvas", action="store_true", help="images of several shapes share the program")
    parser.add_argument("--devices", type=int, default=1, help="devices that share a launch (default: 1)")
    parser.add_argument(
        "--variant",
        type=int,
        nargs="+",
        default=[0],
        choices=range(len(experiments.VARIANTS)),
        metavar="NUMBER",
        help="numbers from `bench experiments --list` (default: 0, the present step)",
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an XLA option")
    parser.add_argument(
        "--top", type=int, default=0, help=f"also print this many kernels of each (at most {LISTED})"
    )
    parser.add_argument(
        "--hlo", type=Path, metavar="FOLDER", help="write the compiled modules to it, as text"
    )
    parser.add_argument("--tag", default="", help="tag in the name of the file with the figures")
    args = parser.parse_args(arguments)
    if unseen := [n for n in args.variant if _is_unseen(experiments.VARIANTS[n])]:
        parser.error(
            f"variants {', '.join(map(str, unseen))} change how kernels are started or chosen, or how many"
            " cells a launch has, which a compiled step does not show: bench experiments measures them"
        )
    padding = args.padding or ("zeros" if args.canvas else "replicate")
    if args.canvas and padding != "zeros":
        parser.error("images on a canvas are padded with zeros")
    is_tpu = args.target in tpu.CHIPS
    if is_tpu:
        work.require("libtpu", mend="pip install '.[tpu]'")
        tpu.prepare(args.target)
        if "tf32" in args.precision or args.variant != [0]:
            parser.error("a TPU has no tf32, and the variants of the step are for a GPU")
    else:
        work.require("jax-cuda13-plugin", mend="pip install '.[cuda13]'")
    # A kernel's algorithm cannot be timed here, so XLA takes its default.
    if not is_tpu:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    options = dict(option.split("=", 1) for option in args.option)
    rows: list[dict[str, Any]] = []
    values = {**(tpu.about() if is_tpu else {}), "rows": rows}
    name = f"tpu-{args.target}" if is_tpu else "h200"
    save = functools.partial(work.save, "compiled", arguments, name, values, tag=args.tag)
    print(tpu.HEAD if is_tpu else HEAD)
    for precision in args.precision:
        for optimizer in args.optimizer:
            for pool in args.pool:
                for size in args.size:
                    for cells, number in itertools.product(args.cells, args.variant):
                        setting = Setting(
                            size,
                            cells,
                            precision,
                            optimizer,
                            pool,
                            args.canvas,
                            args.devices,
                            padding,
                            not args.no_clamp,
                        )
                        row = processes.in_process(_send, setting, options, args.hlo, number, args.target)
                        rows.append(row)
                        save(complete=False)
                        print(tpu.line(row) if is_tpu else _line(row), flush=True)
                        for k in () if is_tpu else row["longest"][: args.top]:
                            print(
                                f"      {k['floor_us']:7.0f} us  {k['kind']:12} {'+'.join(k['fused']):10}"
                                f" {k['result'][:60]:60} {k['source']}"
                            )
    print(f"saved {save()}", file=sys.stderr)
