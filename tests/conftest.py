"""Shared fixtures. Shapes in annotations are checked here, and only here, by jaxtyping and beartype."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The threads of NumPy's matrix products wait for each other busily: where two tests run side by side on two
# cores, one float64 oracle took 7 s of CPU time instead of 0.5.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "JAXSTYLE_TESTS_CACHE" not in os.environ:  # in the first process; workers take its folder
    _CACHE = tempfile.TemporaryDirectory(prefix="jaxstyle-tests-")
    atexit.register(_CACHE.cleanup)
    os.environ["JAXSTYLE_TESTS_CACHE"] = _CACHE.name
os.environ["XDG_CACHE_HOME"] = os.environ["JAXSTYLE_TESTS_CACHE"]  # compiled programs, shared by all tests
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so does a shell start what is in its background,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and commands that tests interrupt inherit it
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent
SLOWEST_FIRST = (
    "tutorial step plugins sweep resume engine means mesh continued regions variance bad_inputs page"
    " ambient vgg19 calibration"
)
"""Names of the test files that are begun before all others, so that the workers end together."""


def pytest_collection_modifyitems(items):
    """Put the slowest files first; the order within a file stays."""
    first = [f"test_{name}.py" for name in SLOWEST_FIRST.split()]
    items.sort(key=lambda item: first.index(name) if (name := item.path.name) in first else len(first))


def module_paths():
    """The files of the package's modules by module name: `store`, or `a.b` for one in a folder."""
    package = ROOT / "jaxstyle"
    names = ((p, ".".join(p.relative_to(package).with_suffix("").parts)) for p in package.rglob("*.py"))
    return {name.removesuffix(".__init__"): path for path, name in sorted(names)}


CHECKED = [name for name, path in module_paths().items() if "jaxtyping" in path.read_text()]
"""The modules with shapes in their annotations."""
install_import_hook([f"jaxstyle.{name}" for name in CHECKED], "beartype.beartype")

import hypothesis
import jax
import numpy as np
import pytest
from forks import Forks
from PIL import Image

from jaxstyle.inputs import weights
from jaxstyle.run.start_jax import cache_directory
from jaxstyle.vgg import layers

# What one test has compiled is compiled for all, in this process and in others. Numbers of traces and of
# programs are counted before this cache is asked.
jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("unhurried")


def narrow_weights(factor=16, seed=0):
    """A VGG19 with `factor` times fewer channels and He-scaled random weights."""
    random = np.random.default_rng(seed)
    made = {}
    for row in layers.VGG19:
        i = 3 if row.in_channels == 3 else row.in_channels // factor
        o = row.out_channels // factor
        kernel = random.normal(0, np.sqrt(2 / (9 * i)), (3, 3, i, o)).astype(np.float32)
        made[row.name] = kernel, random.normal(0, 1, o).astype(np.float32)
    return made


def random_image(height, width, seed):
    """Smooth random colours with some detail, uint8: close enough to a photo for the network."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def narrow():
    return narrow_weights()


@pytest.fixture(scope="session")
def vgg19_weights():
    """The real, packaged weights."""
    return weights.load().layers


@pytest.fixture
def save_image(tmp_path):
    """Write a random image of the given size as PNG and return its path."""

    def save(name, height, width, seed=0):
        path = tmp_path / name
        Image.fromarray(random_image(height, width, seed)).save(path)
        return path

    return save


EXAMPLES = ROOT / "jaxstyle" / "examples"
FEW_LAYERS = ("--content-layer", "conv2_2", "--style-layers", "conv1_1+conv2_1", "--style-weights", "equal")
"""Layers of a program that compiles in a few seconds, for what does not depend on the network's depth, with
the paper's formulas."""
SHALLOW = (*FEW_LAYERS, "--conv", "plain")
"""The same for what does not depend on how a convolution is computed: Winograd's programs compile twice as
long."""
FIVE_CHUNKS = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg", "--seed", "0:5")
FIVE_CHUNKS += ("--size", 64, "--steps", 15, "--optimizer", "adam", "--checkpoint-every", 0.1)
FIVE_CHUNKS += SHALLOW
"""A sweep of five cells, each in its own chunk."""


QUICKLY = {"xla_backend_optimization_level": 0}
"""Options of `jax.jit` for a test's own functions, whose values are compared with others but for rounding:
their programs compile in half the time. The package's own programs are compiled as for users."""


class Told:
    """A command in its own process that reports its events through a pipe, and the events so far."""

    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments), "--log-format", "json"],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events = []

    def __iter__(self):
        """Its events as they arrive, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            yield self.events[-1]

    def until(self, condition):
        """Wait until a condition on its events holds; whether it did before the command ended."""
        return any(condition() for _ in self)

    def named(self, name):
        """The events with a given name."""
        return [event for event in self.events if event["event"] == name]

    def end(self):
        """Its exit code and its standard error."""
        for _ in self:
            pass
        _, said = self.process.communicate()
        return self.process.returncode, said


def run_python(*arguments, cwd=None, check=False, **environment):
    """Run `python` with `arguments` in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
"""The environment before any test has changed it."""
_forks: list[Forks] = []


def run_forked(*arguments, cwd=None, check=False, **environment):
    """As `run_python`, for what does not depend on how libraries are imported: by a fork (see `forks`)."""
    line = [*map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    if not _forks:
        _forks.append(Forks(ENVIRONMENT))
    if not _forks[0].can_run(line, env):
        return run_python(*arguments, cwd=cwd, check=check, **environment)
    done = _forks[0].run(line, env, str(cwd or os.getcwd()), timeout_s=300)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def pytest_sessionfinish():
    """End the process whose forks have run commands."""
    while _forks:
        _forks.pop().end()
