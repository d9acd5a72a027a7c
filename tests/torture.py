"""Repeated kills of a real sweep with SIGKILL, and a count of the damage: `python -m tests.torture`.

Half of the kills come at random moments, half at named points, where the process kills itself: before and
after files are renamed, and with a file half written. After each kill the run is resumed; when it ends,
every byte of its chunks, tables and pictures is compared with those of an undisturbed run.

`--every-step` instead kills a small sweep before each operation on its directory, the first of them before
the directory is made, with another process for the same run that begins at about that moment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POINTS = (
    "start-up",
    "compile",
    "steps",
    "checkpoint: half written",
    "checkpoint: before its name",
    "checkpoint: after its name",
    "chunk: half written",
    "chunk: before its name",
    "chunk: after its name",
    "merge: half written",
    "merge: before its name",
    "report",
)
FILES = {"checkpoint": "checkpoints", "chunk": "chunks", "merge": "results.h5"}
"""A part of the path of the file that is written at each point."""
EXAMPLES = ROOT / "jaxstyle" / "examples"
IMAGES = ("--content", str(EXAMPLES / "cat.jpg"), "--style", str(EXAMPLES / "glass.jpg"), "--size", "64")
LIMIT_S = 600.0
"""Seconds that one process may take: minutes, where it compiles on a busy machine."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SHALLOW = (*IMAGES, "--content-layer", "conv2_2", "--style-layers", "conv1_1+conv2_1", "--seed", "0:2")
SHALLOW += ("--style-weights", "equal", "--conv", "plain")
SHALLOW += ("--optimizer", "adam", "--steps", "2", "4", "--checkpoint-every", "0.1", "--quiet")
SWEEP = (*IMAGES, "--alpha-beta", "1e-3", "--seed", "0:3", "--steps", "30", "60", "--checkpoint-every", "1")


def arm(point: str, count: int) -> None:
    """Make this process kill itself when it reaches `point` for the `count`-th time."""
    from jaxstyle.derived import build
    from jaxstyle.device import engine
    from jaxstyle.run import site
    from jaxstyle.run.unfinished import Unfinished
    from jaxstyle.rundir import directory, files, results_h5

    hits = 0

    def hit() -> None:
        nonlocal hits
        hits += 1
        if hits == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(module, name):
        real = getattr(module, name)

        def wrapped(*args, **kwargs):
            hit()
            return real(*args, **kwargs)

        setattr(module, name, wrapped)

    stage, _, moment = point.partition(": ")
    if stage == "step":
        out = os.path.abspath(sys.argv[sys.argv.index("--out") + 1])

        def watch(event: str, arguments: tuple) -> None:
            if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                return
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
                return
            if isinstance(arguments[0], str | os.PathLike) and os.path.abspath(arguments[0]).startswith(
                out
            ):
                hit()

        sys.addaudithook(watch)
    elif stage == "start-up":
        before(site, "start_jax")
    elif stage == "compile":
        before(engine, "compile_program")
    elif stage == "steps":
        before(Unfinished, "is_due")
    elif stage == "report":
        before(build, "write_sheets")
    elif moment == "half written":
        write_atomic, write, written = files.write_atomic, os.write, ""

        def remember(path, *args, **kwargs):
            nonlocal written
            written = str(path)
            return write_atomic(path, *args, **kwargs)

        def half(handle, data):
            nonlocal hits
            if FILES[stage] in written:
                if hits + 1 == count:
                    write(handle, data[: len(data) // 2])
                hit()
            return write(handle, data)

        directory.write_atomic = results_h5.write_atomic = remember
        os.write = half
    else:
        replace = os.replace

        def renamed(source, target, **kwargs):
            ours = FILES[stage] in str(target)
            if ours and moment.startswith("before"):
                hit()
            replace(source, target, **kwargs)
            if ours and moment.startswith("after"):
                hit()

        os.replace = renamed


def start(out: Path, *, point: str = "", count: int = 0, settings=SWEEP) -> subprocess.Popen:
    """A process that runs the sweep into `out`, or resumes it."""
    arguments = ["--child", f"{point}={count}"] if point else ["--child", ""]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.torture", *arguments, *settings, "--out", str(out), "--resume"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, limit_s: float = LIMIT_S) -> str:
    """Wait for a process while reading what it says, for it would wait for room in a full pipe.

    Raises:
        SystemExit: after it was killed, if it does not end in time.
    """
    try:
        return process.communicate(timeout=limit_s)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1]
        raise SystemExit(f"a process did not end within {limit_s:.0f} s: {said}") from None


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every file that must not differ, by its path in the run."""
    files = [*run.glob("chunks/*.h5"), *run.glob("images/*.png"), *run.glob("results.*")]
    files += run.glob("pictures/*.png")
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def repeated(run: Path, began: float, killed: float) -> float:
    """Seconds between the last work that a killed process had saved and its end."""
    times = [began]
    for line in (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").exists() else ():
        event = json.loads(line)
        if event["event"] in ("compile", "checkpoint", "chunk") and began < event["time"] < killed:
            times.append(event["time"])
    return killed - times[-1]


def torture(kills: int, seed: int, settings: tuple[str, ...] = SWEEP) -> int:
    """Kill this many times, print the damage, and return the number of wrong files and cells."""
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="jaxstyle-torture-"))
    os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
    for _ in range(2):  # the second time with compiled programs, like the killed runs
        shutil.rmtree(folder / "whole", ignore_errors=True)
        began = time.time()
        finish(process := start(folder / "whole", settings=settings))
        assert process.returncode == 0
        whole_s = time.time() - began
    expected, cells = digests(folder / "whole"), 3
    done = runs = lost = wrong = set_aside = 0
    costs: list[float] = []
    by_point: dict[str, int] = {}
    while done < kills or (folder / f"run{runs}").exists():
        out = folder / f"run{runs}"
        point, count = "", 0
        if done < kills and done % 2:
            point, count = POINTS[done // 2 % len(POINTS)], chance.choice((1, 1, 1, 2, 3))
        began = time.time()
        process = start(out, point=point, count=count, settings=settings)
        if done < kills and not point:
            try:
                process.communicate(timeout=chance.uniform(0.1, 1.1 * whole_s))
            except subprocess.TimeoutExpired:
                process.kill()
        said = finish(process)
        if process.returncode == -signal.SIGKILL:
            done += 1
            by_point[point or "at random"] = by_point.get(point or "at random", 0) + 1
            costs.append(repeated(out, began, time.time()))
            for name, digest in digests(out).items() if out.exists() else ():
                # Files that exist after a kill are whole; only tables and sheets still grow.
                wrong += not name.startswith("results") and digest != expected[name]
            print(f"kill {done}: {point or 'at random'}", flush=True)
        elif process.returncode == 0:
            found = digests(out)
            wrong += sum(found.get(name) != digest for name, digest in expected.items())
            wrong += len(set(found) - set(expected))
            lost += cells - len((out / "results.csv").read_text().splitlines()[1:])
            set_aside += len(list(out.rglob("*.bad*")))
            shutil.rmtree(out)
            runs += 1
        else:
            print(f"exit code {process.returncode}: {said}")
            return 1
    print(
        f"\nan undisturbed run takes {whole_s:.1f} s, start and compiled programs from the cache included"
    )
    for name, number in sorted(by_point.items()):
        print(f"  {name:30} {number}")
    print(f"kills {done}, runs {runs}, cells lost {lost}, files that differ {wrong}, set aside {set_aside}")
    print(f"seconds repeated: {sum(costs):.0f} in all, at most {max(costs):.1f} after one kill")
    shutil.rmtree(folder)
    return lost + wrong + set_aside


def every_step(seed: int, settings: tuple[str, ...] = SHALLOW) -> int:
    """Kill a sweep before each of its steps in turn, and return the number of errors.

    Each time another process for the same run is begun: within 50 ms after the kill, or every other time
    together with the one that is killed. A process that ends with a code other than 0 must say why.
    """
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="jaxstyle-steps-"))
    os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
    for _ in range(2):
        shutil.rmtree(folder / "whole", ignore_errors=True)
        finish(process := start(folder / "whole", settings=settings))
        assert process.returncode == 0
    expected, out = digests(folder / "whole"), folder / "run"
    wrong, ends, step = 0, {}, 0
    while True:
        step += 1
        together, processes = step % 2 == 0, [start(out, point="step", count=step, settings=settings)]
        if together:
            time.sleep(chance.uniform(0, 0.05))
            processes.append(start(out, settings=settings))
        said = [finish(processes[0])]
        first = processes[0].returncode
        if not together:
            time.sleep(chance.uniform(0, 0.05))
        processes.append(start(out, settings=settings))
        if together:  # it may find the process running that began with the first
            said += map(finish, processes[1:])
            processes.append(start(out, settings=settings))
        said += map(finish, processes[len(said) :])
        for process, words in zip(processes, said, strict=True):
            code = process.returncode
            ends[code] = ends.get(code, 0) + 1
            if code not in (0, -signal.SIGKILL) and not words.startswith("jaxstyle: error: "):
                print(f"step {step}: exit code {code}: {words!r}", flush=True)
                wrong += 1
        if processes[-1].returncode != 0 or digests(out) != expected or list(out.rglob("*.bad*")):
            print(f"step {step}: {processes[-1].returncode}, {sorted(digests(out))}", flush=True)
            wrong += 1
        shutil.rmtree(out, ignore_errors=True)
        if first == 0 and not together:
            break
    print(f"{step - 1} steps, exit codes {dict(sorted(ends.items()))}, {wrong} wrong")
    shutil.rmtree(folder)
    return wrong


def main() -> None:
    """`python -m tests.torture --kills 100`."""
    if sys.argv[1:2] == ["--child"]:
        point, _, count = sys.argv[2].rpartition("=")
        if point:
            arm(point, int(count))
        from jaxstyle import sweep

        sweep.main(sys.argv[3:])
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true", help="as a GPU needs it for equal bytes")
    parser.add_argument("--every-step", action="store_true", help="kill before each step of a small sweep")
    args = parser.parse_args()
    if args.every_step:
        raise SystemExit(bool(every_step(args.seed)))
    settings = (*SWEEP, "--deterministic") if args.deterministic else SWEEP
    raise SystemExit(bool(torture(args.kills, args.seed, settings)))


if __name__ == "__main__":
    main()
