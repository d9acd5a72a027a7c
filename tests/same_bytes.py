"""Comparison with an earlier version, byte for byte: `python -m tests.same_bytes BASE`.

The files of the commit BASE are checked out to a folder, and both versions run the same small sweeps with
the real network. Every setting is named, so that a changed default makes no difference. Pictures, chunk
files and tables must be equal; additions of this version, such as a column or a dataset, are listed and are
no difference. This version resumes runs that BASE began and was killed in, or finished.

With `--programs`, the programs are compared instead: the optimised HLO of everything that the sweeps
compile, without names and positions in the source.

With `--make-fixture` nothing is compared: BASE begins a run and is killed in it, and that run is kept with
the results of BASE undisturbed. `test_growth` resumes it.

Each version runs in its own process. Nothing here imports the package; its files are read whenever a
process begins, so leave them alone until the end.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "jaxstyle" / "examples"
SHOWN = 12
"""Differences of a sweep that are printed."""
SHALLOW = {"content_layer": "conv2_2", "style_layers": "conv1_1+conv2_1"}
SETTINGS: Mapping[str, Any] = {
    **SHALLOW,
    "init": "noise",
    "alpha_beta": 1e-3,
    "learning_rate": 10.0,
    "seed": 0,
    "steps": 4,
    "size": 48,
    "style_size": 48,
    "pool": "avg",
    "network": "raw",
    "style_weights": "equal",
    "optimizer": "adam",
    "pyramid": 0,
    "schedule": "constant",
    "keep": "last",
    "noise_std": 1.0,
    "precision": "f32",
    "conv": "auto",
    "canvas": "auto",
    "beta": 1.0,
    "tv_weight": 0.0,
    "trace_every": 1,
    "checkpoint_every": 60.0,
    "max_cells": 100_000,
}
"""Settings of every sweep here that does not name others."""
SWITCHES = """
fast = false
clamp = false
split_depth = false
deterministic = false
"""
"""Settings that are off, for a spec, because not every version has flags for that."""
LBFGS: Mapping[str, Any] = {"optimizer": "lbfgs", "lbfgs_memory": 10}
MIDDLE = {"content_layer": "conv3_1", "style_layers": "conv1_1+conv2_1+conv3_1"}
DEEP = {"content_layer": "conv4_2", "style_layers": "conv1_1+conv2_1+conv3_1+conv4_1+conv5_1"}
SWEEPS_ONLY = ("canvas", "trace_every", "checkpoint_every", "max_cells")
"""Settings that `jaxstyle.transfer` does not have."""


class Command(NamedTuple):
    """A command of one version, in the folder of its case."""

    module: str
    arguments: tuple[str, ...]
    kill: str = ""
    """`chunks=2`: it is killed just before a file in `chunks` gets its name for the second time."""
    by_base: bool = False
    """Whether BASE runs it even among the commands of this version."""


class Case(NamedTuple):
    """The commands of both versions, and the runs that are compared."""

    name: str
    commands: tuple[Command, ...]
    before: tuple[Command, ...] = ()
    """The commands of BASE, if they differ."""
    environment: Mapping[str, str] = {}
    is_compiled: bool = True
    """Whether it compiles programs that no other case does."""


def flags(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as flags; a tuple is several values, None no flag at all."""
    found: list[str] = []
    for name, value in settings.items():
        if value is not None:
            values = () if value is True else value if isinstance(value, tuple) else (value,)
            found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return tuple(found)


def sweep(
    *more: str, spec: str = "switches", kill: str = "", by_base: bool = False, **settings: Any
) -> Command:
    """A sweep into `run`, with the flags `more`; `spec` lies where the folders of the versions do."""
    arguments = ("--spec", f"../../{spec}.toml", *flags({**SETTINGS, **settings}))
    arguments += ("--out", "run", "--quiet", *more)
    return Command("jaxstyle.sweep", arguments, kill, by_base)


SHAPES = {"cat": (96, 72), "pagoda": (72, 96), "coffee": (96, 84), "glass": (80, 80), "cafe": (96, 64)}
"""(width, height) of the pictures by name."""


def pictures(folder: Path, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> dict[str, str]:
    """Paths by name of small pictures in `folder`, made from the examples."""
    folder.mkdir(parents=True)
    found = {}
    for name, size in shapes.items():
        with Image.open(EXAMPLES / f"{name}.jpg") as image:
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(folder / f"{name}.png")
        found[name] = str(folder / f"{name}.png")
    return found


GRIDS = """
[[grid]]
content = ["{cat}", "{cafe}"]
style = ["{glass}", "{pagoda}"]
content_layer = ["conv1_2", "conv2_2"]
style_layers = ["conv1_1", "conv1_1:20+conv2_1:0.05"]
zip = ["content", "style"]

[[grid]]
content = ["{cat}"]
style = ["{glass}"]
content_layer = ["conv2_2"]
style_layers = ["conv2_1"]
init = ["content", "style"]
alpha_beta = [0.0, 0.1]
"""


def cases(folder: Path) -> list[Case]:
    """The cases to compare; their pictures and specs are made in `folder`."""
    of = pictures(folder / "pictures")
    (folder / "switches.toml").write_text(SWITCHES)
    (folder / "grids.toml").write_text(SWITCHES + GRIDS.format(**of))
    pair = {"content": of["cat"], "style": of["glass"]}
    axes = ("content_layer", "style_layers", "init", "alpha_beta", "learning_rate", "seed")
    half = {**pair, **MIDDLE, **LBFGS, "size": 64, "style_size": 64, "pyramid": 1, "steps": (20, 40)}
    half |= {"seed": (0, 1), "checkpoint_every": 0.1}
    shared = {**pair, "seed": "0:4", "checkpoint_every": 0.1, "steps": 30}
    one = {key: value for key, value in SETTINGS.items() if key not in SWEEPS_ONLY}
    studied = {**pair, "seed": "0:4", "alpha_beta": (1e-3, 1e-2)}
    measured = ("content_layer", "style_layers", "style_weights", "size", "style_size", "pool", "network")
    balance = {**{name: SETTINGS[name] for name in measured}, **DEEP, "noise_std": 1.0, "json": True}
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

    def by(name: str, *more: str, environment: Mapping[str, str] = {}, **settings: Any) -> Case:
        return Case(name, (sweep(*more, **{**pair, **settings}),), environment=environment)

    return [
        by("Adam, and a cell that diverges", **DEEP, alpha_beta=(1e-3, 1e35), learning_rate=(2.0, 10.0)),
        by("L-BFGS with a pyramid", **MIDDLE, **LBFGS, pyramid=1, size=64, steps=6, beta=2.0),
        by(
            "canvases",
            content=(of["cat"], of["pagoda"], of["coffee"]),
            style=(of["glass"], of["cafe"]),
            style_size=64,
            **LBFGS,
        ),
        by(
            "relative ratios, balanced weights",
            **MIDDLE,
            alpha_beta=("0.1x", "1x"),
            style_weights="balanced",
        ),
        by("snapshots, the best of each", **LBFGS, steps=(2, 4, 7), keep="best", trace_every=3),
        # Adam's first step moves a pixel by its rate: from whole numbers to halves, which are rounded.
        by("a file to start from", init=(of["coffee"], "content"), learning_rate=0.5, steps=(1, 4)),
        by("max pooling", **MIDDLE, **LBFGS, pool="max"),
        by("bf16", **MIDDLE, precision="bf16"),
        by("a normalised network", **MIDDLE, **LBFGS, network="normalised"),
        by("plain convolutions", **MIDDLE, conv="plain", noise_std=20.0),
        by("clamp, total variation and decay", clamp=True, tv_weight=1e3, schedule="decay", size="48x40"),
        Case(
            "grids with zip",
            (sweep(spec="grids", split_depth=True, **dict.fromkeys(axes)),),
        ),
        by("two devices", **LBFGS, seed="0:4", checkpoint_every=0.1, environment=two_devices),
        Case(
            "shares",
            (sweep("--shard", "0/2", **shared), sweep("--shard", "1/2", **shared)),
            is_compiled=False,
        ),
        Case(
            "gone on with after a chunk",
            (sweep(**half, kill="chunks=2", by_base=True), sweep("--resume", **half)),
            before=(sweep(**half),),
            is_compiled=False,  # BASE compiles here too, and the two share programs
        ),
        Case(
            "gone on with in a chunk, no setting named",
            (
                sweep(**half, kill="checkpoints=4", by_base=True),
                Command("jaxstyle.sweep", ("--resume", "--out", "run", "--quiet")),
            ),
            before=(sweep(**half),),
            is_compiled=False,
        ),
        Case(
            "extended",
            (sweep(**pair, by_base=True), sweep("--extend", **{**pair, "seed": (0, 3)})),
            before=(sweep(**pair), sweep("--extend", **{**pair, "seed": (0, 3)})),
            is_compiled=False,
        ),
        Case(
            "a study of seeds",  # which computes some cells again, several at once
            (sweep(**studied), Command("jaxstyle.variance", ("run", "--floor-steps", "3"))),
        ),
        Case(
            "one picture",
            (
                Command(
                    "jaxstyle.transfer",
                    (of["cat"], of["glass"], "-o", "picture.png", *flags(one), "--clamp", "--quiet"),
                ),
            ),
            is_compiled=False,
        ),
        Case("a balance", (Command("jaxstyle.calibrate", (of["cat"], of["glass"], *flags(balance))),)),
    ]


# --- two versions ---------------------------------------------------------------------------------


def lay_out(commit: str, folder: Path) -> None:
    """Write the files of `commit` to `folder`."""
    found = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
    if found.returncode:
        raise SystemExit(f"{commit}: {found.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")


def be(root: str, kill: str, module: str) -> None:
    """Become `python -m module` of the version at `root`; for `kill` see `Command`."""
    import jaxstyle

    assert Path(str(jaxstyle.__file__)).resolve().is_relative_to(Path(root).resolve()), jaxstyle.__file__
    if kill:
        place, count = kill.split("=")
        left = int(count)

        def watch(event: str, arguments: tuple) -> None:
            nonlocal left
            if event == "os.rename" and f"{os.sep}{place}{os.sep}" in os.path.abspath(arguments[1]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run(command: Command, root: Path, folder: Path, environment: Mapping[str, str]) -> int:
    """The exit code of a command of the version at `root`, in `folder`.

    Raises:
        SystemExit: if it ended as no command should.
    """
    # Some would appear in a manifest, and the result must be the same wherever this runs.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "XLA_"))}
    arguments = ("--be", str(root), command.kill, command.module, *command.arguments)
    done = subprocess.run(
        [sys.executable, "-P", __file__, *arguments],
        cwd=folder,
        env={"JAX_PLATFORMS": "cpu", **inherited, "PYTHONPATH": str(root), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if "--json" in command.arguments:
        (folder / "said.json").write_text(done.stdout)
    if done.returncode not in ((-signal.SIGKILL,) if command.kill else (0, 1)):
        raise SystemExit(f"{root}: {command.module} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode


def run_case(case: Case, roots: Mapping[str, Path], version: str, folder: Path, **environment: str) -> int:
    """Run the commands of `version`, "base" or "now", for a case in `folder`; their last exit code."""
    folder.mkdir(parents=True)
    code = 0
    for command in (version == "base" and case.before) or case.commands:
        root = roots["base" if command.by_base else version]
        code = run(command, root, folder, {**environment, **case.environment})
    return code


# --- files ----------------------------------------------------------------------------------------


class Found(NamedTuple):
    """The differences of two runs."""

    differences: list[str]
    added: list[str]

    def names(self, where: str, base: Sequence[str], now: Sequence[str]) -> list[str]:
        """The names that both have; missing names are recorded as differences, new ones as additions."""
        self.differences.extend(f"{where}: {name} is gone" for name in base if name not in now)
        self.added.extend(f"{where}: {name}" for name in now if name not in base)
        return [name for name in base if name in now]


def compare(base: Path, now: Path, *, sheets: bool = True) -> Found:
    """The differences between this version's files in `now` and those of BASE in `base`."""
    found = Found([], [])
    every = ({str(path.relative_to(folder)) for path in _compared(folder)} for folder in (base, now))
    names = [{name for name in own if sheets or not _is_drawn(name)} for own in every]
    found.differences.extend(f"{name} is in one of them only" for name in sorted(names[0] ^ names[1]))
    for name in sorted(names[0] & names[1]):
        compare_file(found, name, base / name, now / name)
    return found


def compare_file(found: Found, name: str, base: Path, now: Path) -> None:
    """Add the differences of two files called `name` to `found`."""
    if base.read_bytes() == now.read_bytes():
        return
    if name.endswith(".h5"):
        with h5py.File(base) as was, h5py.File(now) as is_now:
            _compare_hdf5(found, name, was, is_now)
    elif name.endswith(".csv"):
        _compare_csv(found, name, base, now)
    elif name.endswith(".json"):
        _compare_json(found, name, json.loads(base.read_text()), json.loads(now.read_text()))
    else:
        found.differences.append(f"{name}: {_pixels(base, now)}")


def _compared(folder: Path) -> Iterator[Path]:
    """The files of a case that must be equal, all but those of times and words, and the files set aside."""
    for pattern in ("*.png", "*.h5", "*.csv", "said.json", "*.bad*"):
        # The readable names in `pictures` are links to files of `images`, which are compared.
        found = (p for p in folder.rglob(pattern) if ".tmp-" not in p.name)
        yield from (p for p in found if p.parent.name != "pictures")


def _is_drawn(name: str) -> bool:
    """Whether a file is a drawing of results, with letters."""
    return "sheets" in Path(name).parts


def _pixels(base: Path, now: Path) -> str:
    with Image.open(base) as was, Image.open(now) as is_now:
        a, b = np.asarray(was), np.asarray(is_now)
    if a.shape != b.shape:
        return f"{a.shape} was, {b.shape} is"
    if np.array_equal(a, b):
        return "the same pixels in other bytes"
    apart = np.abs(a.astype(int) - b)
    return f"{np.count_nonzero(apart)} of {a.size} values differ, by at most {apart.max()}"


def _compare_hdf5(found: Found, file: str, base: h5py.Group, now: h5py.Group) -> None:
    """Add the differences of two HDF5 groups and of everything in them."""
    where = f"{file}{base.name}"
    _compare_attributes(found, where, base, now)
    for name in found.names(where, sorted(base), sorted(now)):
        was, is_now = base[name], now[name]
        if isinstance(was, h5py.Group) and isinstance(is_now, h5py.Group):
            _compare_hdf5(found, file, was, is_now)
            continue
        assert isinstance(was, h5py.Dataset)
        assert isinstance(is_now, h5py.Dataset)
        here = f"{file}{was.name}"
        _compare_attributes(found, here, was, is_now)
        axes = [[list(dimension.keys()) for dimension in data.dims] for data in (was, is_now)]
        if axes[0] != axes[1]:
            found.differences.append(f"{here}: the axes were {axes[0]} and are {axes[1]}")
        a, b = was[()], is_now[()]
        if (was.dtype, was.shape) != (is_now.dtype, is_now.shape):
            kinds = f"{was.dtype}{was.shape} was, {is_now.dtype}{is_now.shape} is"
            found.differences.append(f"{here}: {kinds}")
        elif (a.tolist() != b.tolist()) if a.dtype.hasobject else (a.tobytes() != b.tobytes()):
            apart = np.argwhere(~((a == b) | ((a != a) & (b != b))))
            at = tuple(apart[0]) if len(apart) else ()
            text = f"{a[at]!r} was, {b[at]!r} is at {tuple(map(int, at))}" if len(apart) else "NaNs do"
            found.differences.append(f"{here}: {len(apart)} of {a.size} values differ; {text}")


REFERENCES = ("DIMENSION_LIST", "REFERENCE_LIST")
"""HDF5 attributes that hold positions in the file; the axes they refer to are compared instead."""


def _compare_attributes(found: Found, where: str, base: Any, now: Any) -> None:
    own = [[name for name in node.attrs if name not in REFERENCES] for node in (base, now)]
    for name in found.names(f"{where} attributes", *own):
        was, is_now = base.attrs[name], now.attrs[name]
        if name == "coordinates":  # a list of names, which may grow
            found.names(f"{where} {name}", was.split(), is_now.split())
        elif not np.array_equal(was, is_now):
            found.differences.append(f"{where}: {name} was {was!r} and is {is_now!r}")


def _compare_csv(found: Found, name: str, base: Path, now: Path) -> None:
    """Add the differences of two tables in the columns that both have."""
    tables = []
    for path in (base, now):
        with path.open(encoding="utf-8", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    if len(tables[0]) != len(tables[1]):
        found.differences.append(f"{name}: {len(tables[0])} rows were, {len(tables[1])} are")
    for column in found.names(name, *(list(table[0]) for table in tables)):
        pairs = enumerate(zip(*([row[column] for row in table] for table in tables), strict=False))
        unequal = [(row, was, is_now) for row, (was, is_now) in pairs if was != is_now]
        if unequal:
            row, was, is_now = unequal[0]
            text = f"{len(unequal)} rows differ; {was!r} was, {is_now!r} is in row {row}"
            found.differences.append(f"{name} {column}: {text}")


def _compare_json(found: Found, where: str, base: Any, now: Any) -> None:
    """Add the differences of two JSON values."""
    if isinstance(base, dict) and isinstance(now, dict):
        for name in found.names(where, list(base), list(now)):
            _compare_json(found, f"{where} {name}", base[name], now[name])
    elif isinstance(base, list) and isinstance(now, list) and len(base) == len(now):
        for index, (was, is_now) in enumerate(zip(base, now, strict=True)):
            _compare_json(found, f"{where} {index}", was, is_now)
    elif base != now:
        found.differences.append(f"{where}: {base!r} was, {now!r} is")


# --- programs -------------------------------------------------------------------------------------

DUMPED = ".cpu_after_optimizations.txt"
METADATA = re.compile(r', metadata=\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}')
TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
"""Headings of the tables at the start of a module that give source positions of its instructions."""


def dump_flags(folder: Path, environment: Mapping[str, str]) -> str:
    """`XLA_FLAGS` that have every program written to `folder`."""
    given = environment.get("XLA_FLAGS", "")
    return f"{given} --xla_dump_to={folder} --xla_dump_hlo_as_text".strip()


def normalised(text: str) -> str:
    """The optimised HLO of a module, its names numbered in order and source positions removed."""
    lines, skipped = [], False
    for line in text.splitlines():
        skipped = bool(line) and (line in TABLES or (skipped and line[:1].isdigit()))
        if not skipped and line:
            lines.append(METADATA.sub("", line))
    numbers: dict[str, str] = {}
    lines[0] = re.sub(r"^HloModule [^,]+", "HloModule", lines[0])
    for index, line in enumerate(lines):
        if line.endswith("{"):  # a computation; its arguments have names without a sign
            line = re.sub(r"([(,]\s*|\*/)[\w.\-]+: ", r"\1", line)
        lines[index] = re.sub(r"%[\w.\-]+", lambda m: numbers.setdefault(m[0], f"%{len(numbers)}"), line)
    return "\n".join(lines)


def programs(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """All programs that were dumped to `folder`, by their digest: each one's name and normalised text."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(folder.rglob(f"*{DUMPED}")):
        text = normalised(path.read_text())
        digest = hashlib.sha256(text.encode()).hexdigest()
        found.setdefault(digest, []).append((path.name.removesuffix(DUMPED), text))
    return found


def compare_programs(base: Path, now: Path) -> tuple[int, list[str]]:
    """The number of programs that BASE compiled for a case, and the differences of this version's."""
    were, are = programs(base), programs(now)
    gone, come = (
        [one for digest, same in of.items() for one in same[len(other.get(digest, ())) :]]
        for of, other in ((were, are), (are, were))
    )
    differences = []
    for name, text in gone:
        kind = name.partition(".")[2]
        twin = next((other for other in come if other[0].partition(".")[2] == kind), None)
        if twin is None:
            differences.append(f"{name} is gone ({text.count(chr(10))} lines)")
            continue
        come.remove(twin)
        pairs = zip([*text.splitlines(), ""], [*twin[1].splitlines(), ""], strict=False)
        number, (was, is_now) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        at = next((i for i, (a, b) in enumerate(zip(was, is_now, strict=False)) if a != b), 0)
        was, is_now = (line[max(0, at - 60) : at + 100] for line in (was, is_now))
        differences.append(f"{name} differs in line {number}:\n      was {was}\n      is  {is_now}")
    differences += [f"{name} is new ({text.count(chr(10))} lines)" for name, text in come]
    return sum(map(len, were.values())), differences


# --- a run that an earlier version began ------------------------------------------------------------

HALF: Mapping[str, Any] = {
    **{"content": "pictures/cat.png", "style": "pictures/glass.png", "size": 32, "style_size": 32},
    **{"content_layer": "conv2_1", "optimizer": "lbfgs", "lbfgs_memory": 1, "pyramid": 0},
    **{"seed": "0:8", "steps": 36, "checkpoint_every": 0.1},
}
"""Eight cells in four chunks."""


def machine() -> dict[str, str]:
    """Properties of this machine that a picture's bytes may depend on, beside code and threads."""
    import jaxlib

    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    able = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join([platform.machine(), *able]).encode()).hexdigest()
    return {"processor_sha256": digest, "jaxlib": jaxlib.__version__}


def make_fixture(base: str, folder: Path) -> None:
    """Have `base` begin a run in `folder`, killed after two chunks, and keep its undisturbed result."""
    with tempfile.TemporaryDirectory(prefix="jaxstyle-half-") as temporary:
        work = Path(temporary)
        lay_out(base, work / "version")
        (work / "switches.toml").write_text(SWITCHES)
        results = {}
        for name, kill in (("whole", ""), ("killed", "chunks=3")):
            place = work / "of" / name
            pictures(place / "pictures", shapes={"cat": (32, 28), "glass": (28, 32)})
            environment = {"XDG_CACHE_HOME": str(work / "cache")}
            run(sweep(**HALF, kill=kill), work / "version", place, environment)
            results[name] = place
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(results["killed"], folder)
        (folder / "expected").mkdir()
        whole = results["whole"] / "run"
        for name in ("results.h5", "results.csv"):
            shutil.copy(whole / name, folder / "expected" / name)
        files = sorted([*whole.glob("chunks/*"), *whole.glob("images/*")])
        about = {
            "commit": base,
            "machine": machine(),
            "sha256": {
                str(path.relative_to(whole)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in files
            },
        }
        (folder / "expected" / "about.json").write_text(json.dumps(about, indent=1) + "\n")


# --- the command ----------------------------------------------------------------------------------


def check(base: str, *, only: str = "", of_programs: bool = False, sheets: bool = True) -> int:
    """Compare this version with `base` and print the differences; the number of cases that have any."""
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="jaxstyle-same-") as temporary:
        folder = Path(temporary)
        roots = {"base": folder / "version", "now": ROOT}
        lay_out(base, roots["base"])
        for number, case in enumerate(cases(folder)):
            if only not in case.name or (of_programs and not case.is_compiled):
                continue
            began, places, codes = time.monotonic(), {}, {}
            for version in roots:
                places[version] = folder / version / f"{number:02d}"
                environment = {"XDG_CACHE_HOME": str(folder / "cache")}
                if of_programs:
                    flags = dump_flags(folder / "dumps" / version / f"{number:02d}", case.environment)
                    environment = {"XDG_CACHE_HOME": str(places[version] / "cache")}
                    case = case._replace(environment={**case.environment, "XLA_FLAGS": flags})
                codes[version] = run_case(case, roots, version, places[version], **environment)
            added: list[str] = []
            if of_programs:
                dumps = (folder / "dumps" / version / f"{number:02d}" for version in roots)
                count, differences = compare_programs(*dumps)
                about = f"{count} programs"
                assert count, f"{case.name} compiled nothing"
            else:
                differences, added = compare(*places.values(), sheets=sheets)
                about = f"{len(list(_compared(places['base'])))} files"
            if len(set(codes.values())) > 1:
                differences.append(f"the exit code was {codes['base']} and is {codes['now']}")
            wrong += bool(differences)
            said = "differs" if differences else "same"
            print(f"{said:8} {case.name} ({about}, {time.monotonic() - began:.0f} s)", flush=True)
            for text in differences[:SHOWN]:
                print(f"    {text}", flush=True)
            if len(differences) > SHOWN:
                print(f"    and {len(differences) - SHOWN} more", flush=True)
            for text in added:
                print(f"    added: {text}", flush=True)
            for place in ("base", "now", "dumps"):
                shutil.rmtree(folder / place, ignore_errors=True)
    return wrong


def main() -> None:
    """`python -m tests.same_bytes BASE`."""
    if sys.argv[1:2] == ["--be"]:
        root, kill, module = sys.argv[2:5]
        sys.argv[1:] = sys.argv[5:]
        be(root, kill, module)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # to clean up
    parser = argparse.ArgumentParser(
        prog="python -m tests.same_bytes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("--programs", action="store_true", help="compare what is compiled")
    parser.add_argument("--no-sheets", action="store_true", help="leave out drawings of results")
    parser.add_argument("--make-fixture", metavar="DIR", help="keep a run there that BASE began")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    args = parser.parse_args()
    if args.make_fixture:
        make_fixture(args.base, Path(args.make_fixture))
        return
    wrong = check(args.base, only=args.only, of_programs=args.programs, sheets=not args.no_sheets)
    print(f"\n{wrong} cases differ from {args.base}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
