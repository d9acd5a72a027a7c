"""Variants of the step, each interleaved with the present one; `python -m bench experiments`.

A variant is a change of a few lines or of XLA's options, made in a process of its own. It takes turns with
the present form, both in every round; what counts is the ratio within a round. Its loss after two steps
must agree, or it is a mistake and not a variant. The expected effect of each is shown beside the measured
one. One of them changes nothing: its ratio is the noise.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench import borders, processes, work

AGREES = 3e-2
"""Largest relative distance of a variant's loss from ours after two steps: amplified bfloat16 rounding."""
PATIENCE_S = 150.0
"""Limit for compiling a variant, because some options are known to hang."""


class Variant(NamedTuple):
    """A changed form of the step."""

    name: str
    expected: str
    """Its expected time over ours and why, from `python -m bench compiled` or its memory traffic."""
    patch: Callable[[], None] | None = None
    """The function that turns our form into it, called before anything is traced."""
    options: tuple[tuple[str, Any], ...] = ()
    """XLA's options for the step alone."""
    flags: str = ""
    """XLA's flags for the whole process."""


# --- patches --------------------------------------------------------------------------------------


def _mask_by_sign() -> None:
    import jax.numpy as jnp

    from jaxstyle.vgg import convolution

    def backward(precision: Any, border: Any, planes: Any, residuals: Any, g: Any) -> Any:
        y, kernel = residuals
        g = jnp.where(y > 0, g, 0)
        return convolution.conv3x3_adjoint(g, kernel.backward, precision, border, planes), None, None, None

    convolution.conv_relu.defvjp(convolution._conv_relu_forward, backward)


def _sum_outside() -> None:
    import jax.numpy as jnp
    from jax import lax

    from jaxstyle.vgg import convolution

    def backward(precision: Any, border: Any, planes: Any, residuals: Any, g: Any) -> Any:
        y, kernel = residuals
        g = jnp.where(y != 0, g, 0)
        gradient = convolution.conv3x3_adjoint(g, kernel.backward, precision, border, planes)
        return lax.optimization_barrier(gradient), None, None, None

    convolution.conv_relu.defvjp(convolution._conv_relu_forward, backward)


def _channels(few: str, to: int) -> None:
    """Convolve images, or make their gradients, with channels of zeros added up to a multiple of `to`."""
    import jax.numpy as jnp

    from jaxstyle.vgg import convolution

    def padded(x: Any, kernel: Any, precision: Any, **border: Any) -> Any:
        i, o = (-channels % to for channels in kernel.shape[2:])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, i)))
        wide = jnp.pad(kernel, ((0, 0), (0, 0), (0, i), (0, o)))
        return convolution._correlate(x, wide, precision, **border)[..., : kernel.shape[3]]

    if few in ("inputs", "both"):
        convolution.sum_of_patches = padded
    if few in ("outputs", "both"):
        convolution.sum_of_shifts = padded


def _float32_parts() -> None:
    """The nine parts of an image's gradient in float32."""
    import jax.numpy as jnp
    from jax import lax

    from jaxstyle.vgg import convolution

    rounded = lax.dot_general

    def exact(x: Any, flat: Any, dimensions: Any, precision: Any) -> Any:
        return rounded(x, flat, dimensions, precision=precision, preferred_element_type=jnp.float32)

    def shifts(x: Any, kernel: Any, precision: Any, **border: Any) -> Any:
        convolution.lax.dot_general = exact
        try:
            return ours(x, kernel, precision, **border)
        finally:
            convolution.lax.dot_general = rounded

    ours = convolution.sum_of_shifts
    convolution.sum_of_shifts = shifts


def _gathered_patches() -> None:
    """The patches by one gather, whose indices are a sum, instead of nine pieces side by side."""
    import jax.numpy as jnp

    from jaxstyle.vgg import convolution

    def patches(x: Any, kernel: Any, precision: Any, *, has_border: bool) -> Any:
        around = x if has_border else jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        h, w, i = around.shape[0] - 2, around.shape[1] - 2, x.shape[2]
        rows = around.reshape(h + 2, -1)
        flat = kernel.reshape(-1, kernel.shape[-1])
        missing = -len(flat) % convolution.TENSOR_CORE_CHANNELS
        tap = jnp.arange(len(flat) + missing)
        down = jnp.arange(h)[:, None, None] + tap // (3 * i)
        across = i * jnp.arange(w)[:, None] + tap % (3 * i)
        gathered = rows.at[down, across].get(mode="clip")  # what is beyond the border meets zeros
        flat = jnp.pad(flat, ((0, missing), (0, 0)))
        return convolution._correlate(gathered, flat[None, None], precision)

    convolution.sum_of_patches = patches


def _backward_data() -> None:
    """The input gradient as XLA derives it: cuDNN's backward-data instead of a forward convolution."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxstyle.vgg import convolution

    def transposed(kernel: Any, g: Any, precision: Any) -> Any:
        forward = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
        shape = jax.ShapeDtypeStruct((*g.shape[:2], forward.shape[2]), g.dtype)
        (x,) = jax.linear_transpose(lambda x: convolution._correlate(x, forward, precision), shape)(g)
        return x

    def backward(precision: Any, border: Any, planes: Any, residuals: Any, g: Any) -> Any:
        y, kernel = residuals
        assert border is None  # measured with zeros alone
        return transposed(kernel.backward, jnp.where(y != 0, g, 0), precision), None, None, None

    convolution.conv_relu.defvjp(convolution._conv_relu_forward, backward)


def _windowed_pool() -> None:
    from jax import lax

    from jaxstyle.vgg import pooling

    def pool(x: Any) -> Any:
        return 0.25 * lax.reduce_window(x, 0.0, lax.add, (2, 2, 1), (2, 2, 1), "VALID").astype(x.dtype)

    pooling.avg_pool = pool


def wide_launches() -> None:
    from jaxstyle.device import memory

    memory.MAX_WIDTH = 256


VARIANTS = (
    Variant("the same", "1.00: this is the noise"),
    Variant(
        "mask by y > 0", "1.06: the ReLU becomes passes of its own, 0.64 ms for 16 images", _mask_by_sign
    ),
    Variant(
        "conv1_1 and its gradient as convolutions of three channels",
        "1.1: no matrix units for them",
        functools.partial(_channels, "both", 1),
    ),
    Variant(
        "Gram gradient added outside the convolution",
        "1.02 by its traffic, or less: a plain convolution may be the faster kernel",
        _sum_outside,
    ),
    Variant(
        "cuDNN's backward-data",
        "1.02 by its traffic, to 1.05: nothing is added in it, and there are fewer engines",
        _backward_data,
    ),
    Variant("windowed pooling", "1.00 to 1.03: as many bytes, more arithmetic on indices", _windowed_pool),
    Variant(
        "convolutions as cuDNN graphs",
        "1.05: biases become whole tensors, and masks stay outside",
        options=(("xla_gpu_experimental_enable_conv_fusion", True),),
    ),
    Variant(
        "products by cuBLASLt alone",
        "1.09 by its traffic: sums over all positions are not split",
        options=(("xla_gpu_enable_triton_gemm", False),),
    ),
    Variant(
        "products by cuDNN too",
        "0.98 to 1.00: a sum may join the product of a gradient",
        options=(("xla_gpu_cudnn_gemm_fusion_level", 2),),
    ),
    Variant(
        "no command buffers",
        "1.00 at 512 px and 16 images, more where kernels are short",
        flags="--xla_gpu_enable_command_buffer=",
    ),
    Variant(
        "loop and convolutions in command buffers",
        "1.00 at 512 px and 16 images; 0.3 to 0.5 at 128 px and one",
        flags="--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE",
    ),
    Variant(
        "latency hiding",
        "1.00: one device has nothing to wait for",
        options=(("xla_gpu_enable_latency_hiding_scheduler", True),),
    ),
    Variant(
        "no autotuning",
        "1.3 to 3: cuDNN's first algorithm, not its best",
        options=(("xla_gpu_autotune_level", 0),),
    ),
    Variant(
        "deterministic",
        "1.3 to 3: what --deterministic costs, for it goes without autotuning",
        flags="--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0",
    ),
    Variant(
        "launches of up to 256 cells",
        "0.85 to 0.95 at 128 px and 256 cells: 64 of them fill the chip half; 1.00 from 256 px on",
        wide_launches,
    ),
    Variant(
        "conv1_1 and its gradient as convolutions of eight channels",
        "1.05: 0.72 + 0.61 ms for two products of 0.2 ms, patches of 0.1 and a sum of 0.1",
        functools.partial(_channels, "both", 8),
    ),
    Variant(
        "conv1_1 as a convolution of eight channels",
        "1.03: 0.72 ms for 0.3",
        functools.partial(_channels, "inputs", 8),
    ),
    Variant(
        "conv1_1's gradient as a convolution to eight channels",
        "1.03: 0.61 ms for 0.3",
        functools.partial(_channels, "outputs", 8),
    ),
    Variant(
        "patches by a gather",
        "0.96: 0.1 ms for 0.6 of nine pieces side by side, which are bound by their index arithmetic",
        _gathered_patches,
    ),
    Variant("the nine parts of an image's gradient in float32", "1.02: twice the bytes", _float32_parts),
    Variant(
        "borders by a gather",
        "0.97 by its traffic with the default look, if a gather reads as fast as a concatenation",
        borders.gathered,
    ),
    Variant(
        "borders as sums of padded parts",
        "0.97 by its traffic with the default look, or above 1: more arithmetic on indices",
        borders.summed,
    ),
    Variant(
        "edges apart",
        "0.95 by its traffic with the default look; a hundred short kernels more in every step",
        borders.edges_apart,
    ),
)


def _side(
    pipe: Any, number: int | None, size: int, cells: int, precision: str, default_look: bool = False
) -> None:
    """Answer each number of steps with a loss and seconds; runs in a process of its own."""
    variant = VARIANTS[number] if number is not None else Variant("ours", "")
    if variant.flags:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {variant.flags}".strip()
    from jaxstyle.device import batch, engine

    if variant.patch is not None:
        variant.patch()
    engine.WINOGRAD_PLATFORMS = ()  # on a CPU too, so that every patch can be tried there
    ours = batch.compiler_options
    batch.compiler_options = lambda program: {**ours(program), **dict(variant.options)}
    job = work.Work(size, cells, precision, default_look=default_look)
    pipe.send(job.compiled.compile_s)
    while True:
        pipe.send(job.advance(pipe.recv()))


class _Tried:
    """One form of the step in its process, until that process gives no answer."""

    def __init__(self, side: Any, name: str, number: int | None, setting: Sequence[Any]):
        self.failed, self.compile_s, self.loss = "", 0.0, 0.0
        self.ms: list[float] = []
        """Milliseconds per image-step, by round."""
        self._turn = processes.Turn(side, name, number, *setting, patience_s=PATIENCE_S)

    def ask(self, question: Callable[[processes.Turn], None]) -> None:
        """Ask the process something, unless it has failed."""
        if self.failed:
            return
        try:
            question(self._turn)
        except processes.TurnError as error:
            self.failed = str(error)
            self.end()  # it must not go on compiling while the others are timed

    def start(self, turn: processes.Turn) -> None:
        """Wait until it is compiled and tuned, then take two steps, also to warm up."""
        self.compile_s = turn.ready()
        self.loss = turn.run(2).loss

    def end(self) -> None:
        """End the process."""
        self._turn.end()


def compare(
    numbers: Sequence[int],
    size: int,
    cells: int,
    precision: str,
    *,
    rounds: int,
    steps: int,
    default_look: bool = False,
    side: Any = _side,
) -> list[dict[str, Any]]:
    """The times of variants over ours, round by round.

    Args:
        numbers: numbers of the variants.
        size: edge of the images in px.
        cells: number of cells.
        precision: as in `--precision`.
        rounds: rounds in which each form has a turn.
        steps: steps of a turn.
        default_look: see `work.Work`.
        side: what runs in the process of each form; its arguments are those of `_side`.
    """
    tried: list[_Tried] = []

    def timed(one: _Tried, turn: processes.Turn) -> None:
        one.ms.append(1e3 * turn.run(steps).seconds / steps / cells)

    try:
        # One after another, because XLA chooses algorithms by timing them; what the others share with ours
        # they find in the cache.
        for number in (None, *numbers):
            name = "ours" if number is None else VARIANTS[number].name
            tried.append(_Tried(side, name, number, (size, cells, precision, default_look)))
            tried[-1].ask(tried[-1].start)
        for turn in range(rounds):
            for one in tried if turn % 2 == 0 else tried[::-1]:
                one.ask(functools.partial(timed, one))
    finally:
        for one in tried:
            one.end()
    about = {"size": size, "cells": cells, "precision": precision, "default_look": default_look}
    rows = zip(map(VARIANTS.__getitem__, numbers), tried[1:], strict=True)
    return [_row(variant, tried[0], one, about) for variant, one in rows]


def _row(variant: Variant, ours: _Tried, one: _Tried, about: dict[str, Any]) -> dict[str, Any]:
    """What is saved of a variant."""
    row = {"variant": variant.name, "expected": variant.expected, "options": dict(variant.options)}
    row |= {"flags": variant.flags, **about}
    if why := ours.failed or one.failed:
        return {**row, "failed": why}
    ratios = sorted(b / a for a, b in zip(ours.ms, one.ms, strict=True))
    return {
        **row,
        "compile_s": [ours.compile_s, one.compile_s],
        "loss": [ours.loss, one.loss],
        "ms_per_image_step": [statistics.median(ours.ms), statistics.median(one.ms)],
        "ratio": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        "agrees": abs(one.loss / ours.loss - 1) <= AGREES,
    }


def _line(row: dict[str, Any]) -> str:
    begins = f"{row['size']:5} {row['cells']:5} {row['variant']:44}"
    if "failed" in row:
        return f"{begins} {row['failed']}"
    ours, other = row["ms_per_image_step"]
    median, least, most = (row["ratio"][name] for name in ("median", "min", "max"))
    return (
        f"{begins} {ours:8.3f} {other:8.3f}  {median:5.3f} ({least:.3f} to {most:.3f})"
        f"  compiled in {row['compile_s'][1]:.0f} s{'' if row['agrees'] else '  ANOTHER LOSS'}"
        f"  [expected {row['expected'].split(':')[0]}]"
    )


def main(arguments: Sequence[str]) -> None:
    """Try variants, print a line for each, save the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench experiments", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=int,
        choices=range(len(VARIANTS)),
        metavar="NUMBER",
        help="numbers of variants (default: all)",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the variants and the expected effect of each"
    )
    parser.add_argument("--size", type=int, default=512, help="px, square (default: 512)")
    parser.add_argument("--cells", type=int, default=16, help="cells per launch (default: 16)")
    parser.add_argument("--precision", default="bf16", choices=("f32", "tf32", "bf16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps per round (default: 20)")
    parser.add_argument(
        "--at-once", type=int, default=1, help="variants that share the device and take turns (default: 1)"
    )
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="start no variant after this time (default: 9)"
    )
    parser.add_argument("--default-look", action="store_true", help=work.DEFAULT_LOOK_HELP)
    args = parser.parse_args(arguments)
    if args.at_once < 1:
        parser.error(f"--at-once {args.at_once}: at least 1")
    if args.list:
        for number, variant in enumerate(VARIANTS):
            print(f"{number:3}  {variant.name:44} {variant.expected}")
        return
    about = processes.in_process(work.tell_device)
    if about["platform"] != "cpu":  # two processes use it at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    numbers = list(range(len(VARIANTS))) if args.only is None else args.only
    rows: list[dict[str, Any]] = []
    values: dict[str, Any] = {"device": about, "rows": rows, "not_tried": list(numbers)}
    save = functools.partial(
        work.save, "experiments", arguments, about["platform"], values, tag=f"{args.size}px-{args.cells}"
    )
    print(
        f"{'px':>5} {'cells':>5} {'variant':44} {'ours':>8} {'variant':>8}  ratio (ms per image-step)"
        "  [expected on an H200]"
    )
    began = time.monotonic()
    while left := values["not_tried"]:
        if time.monotonic() - began > 60 * args.minutes:
            print(f"out of time before variant {left[0]}")
            break
        group, values["not_tried"] = left[: args.at_once], left[args.at_once :]
        found = compare(
            group,
            args.size,
            args.cells,
            args.precision,
            rounds=args.rounds,
            steps=args.steps,
            default_look=args.default_look,
        )
        rows += found
        print("\n".join(map(_line, found)), flush=True)
        save(complete=False)
    print(f"saved {save()}")
