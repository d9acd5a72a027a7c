"""The effect of a precision on the result; `python -m bench precision`.

The same transfers run in every precision and form of convolution, each in its own process. The final
pictures are judged by one yardstick, their loss in float32 by XLA's own convolution. Optimisation
amplifies every rounding, so pictures drift apart even between two forms of float32 that are equal in
exact arithmetic: compare the other rows with that drift.

On a device without TF32 its rounding is imitated: operands of every product are rounded to 10 bits of
mantissa and summed in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import processes, work

PAIRS = (("astronaut", "brushwork"), ("cat", "glass"), ("pagoda", "starry_night"), ("coffee", "cafe"))


class Variant(NamedTuple):
    """A precision and a form of convolution."""

    name: str
    precision: str
    conv: str
    imitate_tf32: bool = False


def variants(platform: str, tf32: bool) -> list[Variant]:
    """The variants that a platform has, float32 by XLA's convolution first."""
    found = [Variant("f32, plain", "f32", "plain")]
    if platform == "cpu":
        found.append(Variant("f32, Winograd", "f32", "auto"))
    found.append(
        Variant("tf32" if tf32 else "tf32 (imitated)", "tf32" if tf32 else "f32", "plain", not tf32)
    )
    found.append(Variant("bf16, plain", "bf16", "plain"))
    if platform == "cpu":
        found.append(Variant("bf16, Winograd", "bf16", "auto"))
    return found


def _imitate_tf32() -> None:
    """Round the operands of convolutions and Gram products to TF32's ten bits of mantissa."""
    from jax import lax

    from jaxstyle.cell import gram_matrix
    from jaxstyle.vgg import convolution

    plain, product = convolution._plain, gram_matrix.product

    def rounded(x: Any) -> Any:
        return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)

    convolution._plain = lambda x, kernel, precision, **border: plain(
        rounded(x), rounded(kernel), precision, **border
    )
    gram_matrix.product = lambda a, b, *rest: product(rounded(a), rounded(b), *rest)


def _names(count: int) -> list[tuple[str, str]]:
    pairs = []
    for content, style in PAIRS[:count]:
        paths = [next(work.EXAMPLES.glob(f"{name}.*")) for name in (content, style)]
        pairs.append((str(paths[0]), str(paths[1])))
    return pairs


def _run(pipe: Any, variant: Variant, size: int, steps: int, inits: Sequence[str], pairs: int) -> None:
    from jaxstyle.console import allocator

    allocator.keep_freed_memory()
    if variant.imitate_tf32:
        _imitate_tf32()
    from jaxstyle import RunOptions, Sweep, run_sweep

    contents, styles = zip(*_names(pairs), strict=True)
    sweep = Sweep(
        grid=(
            {
                "content": list(contents),
                "style": list(styles),
                "init": list(inits),
                "zip": ["content", "style"],
            },
        ),
        alpha_beta=(1e-3,),
        size=str(size),
        optimizer="adam",
        steps=(steps,),
        precision=variant.precision,
        conv=variant.conv,
    )
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(out=str(Path(folder) / "run"), quiet=True, no_compile_cache=True)
        run = run_sweep(sweep, options)
        pipe.send((run.rows, [run.image(row["cell"]) for row in run.rows]))


def _judge(pipe: Any, rows: Sequence[dict[str, Any]], pictures: Sequence[Sequence[np.ndarray]]) -> None:
    """Send the float32 loss of every picture of every variant."""
    import jax
    import jax.numpy as jnp

    from jaxstyle.cell import objective
    from jaxstyle.cell.knobs import knobs_of
    from jaxstyle.cell.poolings import pooling
    from jaxstyle.cell.state import Targets
    from jaxstyle.inputs import decode, weights
    from jaxstyle.inputs.resize import resize
    from jaxstyle.plan.cells import sweep_cells
    from jaxstyle.plan.planner import make_plan
    from jaxstyle.spec import settings
    from jaxstyle.spec.resolve import resolve
    from jaxstyle.vgg.network import bind

    loaded = weights.load().layers
    found: list[list[float]] = [[] for _ in pictures]
    for index, row in enumerate(rows):
        sweep = resolve(
            settings.Sweep(content=(row["content"],), style=(row["style"],), alpha_beta=(1e-3,))
        )
        (cell,) = sweep_cells(sweep)
        height, width = pictures[0][index].shape[:2]
        plan = make_plan(
            sweep, [cell], {cell.content: (height, width)}, platform="cpu", choose_width=lambda *_: 1
        )
        program = plan.programs[0]
        network = bind(loaded, taps=program.taps, pool=pooling(program.pool))
        content = resize(decode.read(row["content"]).pixels, max(height, width))
        style = resize(decode.read(row["style"]).pixels, max(height, width))
        targets = [
            objective.target_rows(network.features, network.params, program, jnp.asarray(x, jnp.float32))
            for x in (content, style)
        ]
        table = Targets(
            tuple(x[None] for x in targets[0].content), tuple(x[None] for x in targets[1].style)
        )
        knobs = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=(height, width))
        loss = jax.jit(
            lambda image, network=network, program=program, knobs=knobs, table=table: objective.total_loss(
                network.features, network.params, program, knobs, table, image
            )[0]
        )
        for variant, own in enumerate(pictures):
            found[variant].append(float(loss(np.asarray(own[index], np.float32))))
    pipe.send(found)


def _platform(pipe: Any) -> None:
    import jax

    from jaxstyle.device.memory import can_tf32

    pipe.send((work.device(), can_tf32(jax.devices()[0])))


def main(arguments: Sequence[str]) -> None:
    """Run every variant, print a table, save it and the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench precision", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=192, help="longest edge in px (default: 192)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--init", nargs="+", default=["noise", "content"])
    parser.add_argument(
        "--pairs", type=int, default=2, help=f"pairs of content and style, up to {len(PAIRS)} (default: 2)"
    )
    args = parser.parse_args(arguments)
    about, tf32 = processes.in_process(_platform)
    tried = variants(about["platform"], tf32)
    pictures: list[list[np.ndarray]] = []
    rows: list[dict[str, Any]] = []
    values: dict[str, Any] = {"device": about, "rows": rows}
    print(f"{'':20}  final loss over that of f32, plain   grey levels away from it")
    for variant in tried:
        cells, own = processes.in_process(_run, variant, args.size, args.steps, args.init, args.pairs)
        pictures.append(own)
        (loss,) = processes.in_process(_judge, cells, [own])
        first = rows[0]["loss"] if rows else loss
        row = {
            "variant": variant._asdict(),
            "loss_ratio": [a / b for a, b in zip(loss, first, strict=True)],
            "mean_grey_levels_away": [
                float(np.abs(a.astype(int) - b).mean()) for a, b in zip(own, pictures[0], strict=True)
            ],
            "loss": loss,
        }
        rows.append(row)
        print(
            f"{variant.name:20}  {'  '.join(f'{r:.4f}' for r in row['loss_ratio'])}"
            f"     {'  '.join(f'{d:.2f}' for d in row['mean_grey_levels_away'])}",
            flush=True,
        )
        values["cells"] = [
            {
                **{k: Path(cell[k]).name for k in ("content", "style")},
                **{k: cell[k] for k in ("init", "steps", "height", "width")},
            }
            for cell in cells
        ]
        work.save("precision", arguments, about["platform"], values, complete=False)
    path = work.save("precision", arguments, about["platform"], values)
    work.sheet(pictures, [v.name for v in tried], path.with_suffix(".png"))
    print(f"saved {path} and {path.with_suffix('.png').name}")
