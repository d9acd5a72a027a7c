"""Programs, balances and targets that commands keep for later ones: the same, and never out of date."""

import dataclasses
import json
import os
import time

import jax
import numpy as np
import pytest
from conftest import random_image, run_python
from PIL import Image
from same_bytes import normalised
from test_calibration import images, weighed  # noqa: F401
from test_engine import Bench, same

import jaxstyle
from jaxstyle.cell import solvers
from jaxstyle.cell.state import Targets
from jaxstyle.cell.wasserstein import Normal
from jaxstyle.device import batch, engine, kept, kept_programs, kept_targets
from jaxstyle.device.loss_balance import Balances
from jaxstyle.run import planning
from jaxstyle.run.inputs import read_inputs
from jaxstyle.run.start_jax import nothing_kept
from jaxstyle.rundir import manifest
from jaxstyle.spec import tables
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.run_options import RunOptions
from jaxstyle.vgg import convolution
from jaxstyle.vgg.padding import REPLICATE


@pytest.fixture
def folder(tmp_path):
    """A folder in which this process keeps what it makes, as if it were a command."""
    kept.keep_in(tmp_path / "cache", time.time())
    assert kept.keeps()
    yield tmp_path / "cache"
    kept.keep_in(None, None)


def files(folder, kind):
    return sorted((folder / kind).iterdir()) if (folder / kind).is_dir() else []


def test_what_was_saved_is_found_under_its_key_alone(folder):
    assert kept.load("kind", "key") is None
    kept.save("kind", "key", b"data" * 100)
    assert kept.load("kind", "key") == b"data" * 100
    assert kept.load("kind", "another key") is None
    assert kept.load("another kind", "key") is None
    kept.save("kind", "key", b"new")
    assert kept.load("kind", "key") == b"new"


def test_where_nothing_is_to_be_kept_what_is_there_is_found_and_not_touched(folder):
    kept.save("kind", "key", b"data")
    (path,) = files(folder, "kind")
    os.utime(path, (1, 1))
    with nothing_kept():
        kept.save("kind", "another key", b"data")
        kept.save("another kind", "key", b"data")
        assert kept.load("kind", "key") == b"data"
    assert (files(folder, "kind"), files(folder, "another kind")) == ([path], [])
    assert path.stat().st_mtime == 1
    assert kept.load("kind", "key") == b"data"
    assert path.stat().st_mtime > 1
    kept.save("kind", "another key", b"data")
    assert len(files(folder, "kind")) == 2


CACHED = """
import os, sys

import jax

from jaxstyle.run.start_jax import nothing_kept, start_jax
from jaxstyle.spec.settings import RunOptions, Sweep

hits = []
jax.monitoring.register_event_listener(lambda name, **of: hits.extend([name] * name.endswith("_hits")))
start_jax(Sweep(), RunOptions())
before = jax.config.values.copy()
cache = jax.config.jax_compilation_cache_dir


def compiled(number):
    jax.clear_caches()
    del hits[:]
    jax.jit(lambda x: x * number + 1).lower(jax.ShapeDtypeStruct((3,), "float32")).compile()
    return len(hits), len(os.listdir(cache))


print(compiled(2.0))
with nothing_kept():
    print(compiled(2.0), compiled(3.0), compiled(3.0))
print(compiled(3.0), compiled(3.0), jax.config.values == before)
"""


def test_where_nothing_is_to_be_kept_xla_s_programs_are_read_and_not_written(tmp_path):
    done = run_python("-c", CACHED, check=True, XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.splitlines() == ["(0, 1)", "(1, 1) (0, 1) (0, 1)", "(0, 2) (1, 2) True"]


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:40] + b"\0" + d[41:], lambda d: b""])
def test_a_damaged_file_counts_as_absent(folder, damage):
    kept.save("kind", "key", bytes(range(256)))
    (path,) = files(folder, "kind")
    path.write_bytes(damage(path.read_bytes()))
    assert kept.load("kind", "key") is None
    kept.save("kind", "key", b"mended")
    assert kept.load("kind", "key") == b"mended"


@pytest.mark.parametrize(
    ("of", "name", "value"),
    [
        (manifest, "code_digest", lambda: "changed"),
        (manifest, "versions", lambda *names: {**dict.fromkeys(names, "1"), "jax": "2"}),
        (manifest, "environment", lambda: {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}),
        (kept, "_processor", lambda: ["flags : avx512f"]),
        (kept.limits, "xla_threads", lambda: 999),
    ],
)
def test_nothing_is_found_after_a_change_of_code_versions_flags_or_machine(
    tmp_path, monkeypatch, folder, of, name, value
):
    kept.save("kind", "key", b"data")
    monkeypatch.setattr(of, name, value)
    kept.keep_in(folder, time.time())
    assert kept.load("kind", "key") is None
    monkeypatch.undo()
    kept.keep_in(folder, time.time())
    assert kept.load("kind", "key") == b"data"


def test_nor_after_a_change_of_jax_s_settings(folder):
    kept.save("kind", "key", b"data")
    before = jax.config.jax_threefry_partitionable
    try:
        jax.config.update("jax_threefry_partitionable", not before)
        kept.keep_in(folder, time.time())
        assert kept.load("kind", "key") is None
    finally:
        jax.config.update("jax_threefry_partitionable", before)


def test_only_a_command_whose_files_are_older_and_without_plugins_keeps_anything(folder, monkeypatch):
    kept.save("kind", "key", b"data")
    for place, began in ((folder, None), (None, time.time()), (folder, 0.0)):
        kept.keep_in(place, began)
        kept.save("kind", "another", b"data")
        assert not kept.keeps()
        assert kept.load("kind", "key") is None
    kept.keep_in(folder, time.time())
    monkeypatch.setattr(type(tables.POOLINGS), "added", property(lambda table: (object(),)))
    assert kept.load("kind", "key") is None
    kept.save("kind", "another", b"data")
    assert len(files(folder, "kind")) == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    kept.keep_in(tmp_path / "file", time.time())
    try:
        kept.save("kind", "key", b"data")
        assert kept.load("kind", "key") is None
    finally:
        kept.keep_in(None, None)


def forget(bench):
    """Drop the programs of this process, as if it were another one."""
    bench.engine.forget(bench.program)
    engine._target_programs.clear()


def shallow(narrow, **settings):
    """A bench of two layers, one of them by Winograd's algorithm."""
    settings |= {"content_layer": ("conv1_2",), "style_layers": ("conv1_1",)}
    bench = Bench(narrow, shape=(32, 36), **settings)
    bench.engine.winograd = True
    return bench


def test_a_kept_program_is_the_traced_one_and_is_not_traced_again(narrow, folder, monkeypatch):
    kept.keep_in(None, None)
    bench = shallow(narrow)
    first, traced = bench.run([0]), bench.engine.compile(bench.program)[0]
    forget(bench)
    kept.keep_in(folder, time.time())
    same(bench.run([0]), first)  # traced again, exported and kept
    compiled, ready = batch.compiled, []
    monkeypatch.setattr(batch, "compiled", lambda *of: ready.append(compiled(*of)) or ready[-1])
    forget(bench)
    monkeypatch.setattr(kept_programs, "_traced", None)  # nothing may trace from here on
    same(bench.run([0]), first)
    again, fresh = bench.engine.compile(bench.program)
    assert (again.step_traces, again.device_bytes, fresh) == (1, traced.device_bytes, False)
    (step,) = (one.compiled for one in ready if one.told is not None)
    assert normalised(step.as_text()) == normalised(traced.segment.as_text())
    assert len(files(folder, "traced")) == 3  # the step, and targets of two shapes
    forget(bench)


def test_a_damaged_program_is_traced_again(narrow, folder):
    bench = shallow(narrow)
    forget(bench)
    first = bench.run([0])
    for path in files(folder, "traced"):
        path.write_bytes(path.read_bytes()[:-9])
    forget(bench)
    same(bench.run([0]), first)
    forget(bench)
    assert all(len(path.read_bytes()) > 1000 for path in files(folder, "traced"))


def test_a_function_that_cannot_be_exported_is_not_kept(folder):
    def function(x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    source = kept_programs.Source(function, (jax.ShapeDtypeStruct((3,), np.float32),))
    assert kept_programs.compiled("key", lambda: source, {}, jax.devices()[0]) is None
    assert not files(folder, "traced")


def test_arguments_that_a_program_does_not_need_are_never_copied(folder):
    def function(used, unused, also):
        return {"sum": used["a"] + also}

    arguments = {"a": np.ones(3, np.float32)}, np.ones((5, 5), np.float32), np.ones(3, np.float32)
    for _ in range(2):  # traced, and kept
        source = kept_programs.Source(function, arguments, donated=(0,), told=lambda: "told")
        ready = kept_programs.compiled("key", lambda of=source: of, {}, jax.devices()[0])
        np.testing.assert_array_equal(ready.call(*arguments)["sum"], [2, 2, 2])
        assert ready.told == "told"
        assert len(ready.compiled.in_avals[0]) == 2


def test_a_kept_balance_is_the_measured_one(images, narrow, folder, monkeypatch):  # noqa: F811
    settings = {"content_layer": ("conv1_2",), "style_layers": ("conv1_1+conv1_2",), "padding": "replicate"}
    found, sweep, cell, pictures, measuring = weighed(images, narrow, **settings)
    balances = Balances(sweep, [cell], pictures, measuring)
    table = {"alpha_beta": found.alpha_beta, "weights": found.weights}
    assert balances.table(cell, "sha256") == table
    monkeypatch.setattr(Balances, "of", None)  # nothing may be measured from here on
    assert balances.table(cell, "sha256") == table
    with pytest.raises(TypeError):
        balances.table(cell, "of other weights")
    with pytest.raises(TypeError):  # a caller that does not say which weights
        balances.table(cell, "")
    pictures.content[cell.content] = pictures.content[cell.content] ^ 1
    with pytest.raises(TypeError):
        balances.table(cell, "sha256")
    assert len(files(folder, "balances")) == 1


@pytest.mark.parametrize("role", ["content", "style"])
@pytest.mark.parametrize("style_loss", ["gram", "moments", "wasserstein"])
def test_kept_targets_are_the_computed_ones_of_the_same_image_and_weights(
    narrow, folder, monkeypatch, role, style_loss
):
    bench = shallow(narrow, style_loss=(style_loss,))
    program, pixels = bench.program, random_image(48, 56, seed=3)
    canvas = None if role == "content" else (64, 64)
    if role == "content":
        pixels = pixels[:32, :36]

    def rows(pixels=pixels, kept_by="sha256", program=program, canvas=canvas):
        machine = engine.Engine(narrow, winograd=True, kept_by=kept_by)
        return machine.target_rows(
            program, pixels, of_cells=role == "content", canvas=canvas, role=role, maps=()
        )

    alone, first = rows(kept_by=""), rows()
    assert len(files(folder, "targets")) == 1
    assert (first.content, first.style)[role == "content"] == ()
    monkeypatch.setattr(engine.Engine, "_rows", None)  # nothing may be computed from here on
    again = rows()
    for found in (first, again):
        assert jax.tree.structure(found) == jax.tree.structure(alone)
        assert all(leaf.flags.writeable for leaf in jax.tree.leaves(found))
        jax.tree.map(np.testing.assert_array_equal, found, alone)
    wider = dataclasses.replace(program, padding="circular")
    for other in (
        {"pixels": pixels ^ 1},
        {"pixels": np.ascontiguousarray(pixels.transpose(1, 0, 2))},
        {"kept_by": "other weights"},
        {"kept_by": ""},
        {"program": wider},
        {"canvas": (80, 64)},
    ):
        with pytest.raises(TypeError):
            rows(**other)


def test_targets_go_in_the_order_in_which_they_were_asked_for(folder, monkeypatch):
    def targets(seed):
        return Targets((), (np.random.default_rng(seed).random((9, 9), np.float32),))

    kept_targets.save("0", targets(0))
    (first,) = files(folder, "targets")
    monkeypatch.setattr(kept_targets, "LIMIT_BYTES", 5 * first.stat().st_size // 2)
    kept_targets.save("1", targets(1))
    (second,) = {*files(folder, "targets")} - {first}
    for hours, path in ((2, first), (1, second)):
        os.utime(path, times=(time.time() - hours * 3600,) * 2)
    assert kept_targets.load("0") is not None
    kept_targets.save("2", targets(2))
    assert kept_targets.load("1") is None
    for seed in (0, 2):
        found = kept_targets.load(f"{seed}")
        assert found is not None
        np.testing.assert_array_equal(found.style[0], targets(seed).style[0])
    kept_targets.save("large", Targets((), (np.zeros((99, 99), np.float32),)))
    assert kept_targets.load("large") is None
    assert len(files(folder, "targets")) == 2


def test_targets_that_a_file_cannot_tell_are_not_kept(folder):
    values = np.ones(3, np.float32)
    for targets in (
        Targets((), (), {"term": [values, values]}),
        Targets((values.astype(np.float64),), ()),
    ):
        kept_targets.save("key", targets)
        assert kept_targets.load("key") is None
    assert not files(folder, "targets")
    targets = Targets((), (), {"term": (values, {"of": Normal(values, 2 * values, 3 * values)})})
    kept_targets.save("key", targets)
    jax.tree.map(np.testing.assert_array_equal, kept_targets.load("key"), targets)


def test_a_run_of_one_cell_keeps_targets_and_one_of_several_does_not(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(kept, "keep_in", lambda *_: None)  # as if this process were a command
    pair = [str(tmp_path / f"{seed}.png") for seed in (1, 2)]
    for seed, path in enumerate(pair):
        Image.fromarray(random_image(72, 80, seed=seed)).save(path)
    settings = {"size": "80", "steps": 2, "content_layer": "conv1_2", "style_layers": "conv1_1"}
    settings |= {"style_weights": "equal", "alpha_beta": 1e-3, "conv": "plain"}
    settings |= {"optimizer": "adam", "init": "content", "pyramid": "1"}

    def style_rows(**other):
        inputs = read_inputs(resolve(jaxstyle.Sweep(*pair, **{**settings, **other})))
        launcher = planning.make_launcher(inputs, RunOptions(quiet=True))
        pixels = inputs.pictures.style_pixels(inputs.cells[0].style_source)
        launcher.engine.target_rows(launcher.program(0).stage(0), pixels, role="style")

    style_rows(seed=(0, 1))
    assert not files(folder, "targets")
    first = jaxstyle.stylize(*pair, **settings)
    assert len(files(folder, "targets")) == 4  # of two images, in two stages
    monkeypatch.setattr(engine.Engine, "_rows", None)  # nothing may be computed from here on
    np.testing.assert_array_equal(jaxstyle.stylize(*pair, **settings), first)
    style_rows()
    for other in ({"network": "normalised"}, {"content_layer": "conv1_1"}, {"pool": "max"}):
        with pytest.raises(TypeError):  # computed anew
            style_rows(**other)


@pytest.mark.parametrize("border", [None, REPLICATE])
@pytest.mark.parametrize("winograd", [False, True])
def test_a_prepared_kernel_is_used_where_it_lies(winograd, border):
    made = convolution.prepare(np.ones((3, 3, 5, 7), np.float32), winograd=winograd, border=border)
    for array, own in zip(jax.device_put(made), made, strict=True):
        assert array.unsafe_buffer_pointer() == own.ctypes.data


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_state_is_read_as_the_types_it_was_made_of(optimizer):
    own = dict(tables.OPTIMIZERS[optimizer].own)
    state = solvers.make(optimizer, own).init(jax.numpy.zeros((4, 4, 3)))
    numbers = jax.tree.map(lambda _: 0, (state, None))
    read = kept_programs.meant(json.loads(json.dumps(kept_programs.spelled(numbers))))
    assert jax.tree.structure(read) == jax.tree.structure(numbers)


@pytest.mark.parametrize(
    "name", ["os:system", "jaxstyle.device.kept:Path", "jaxstyle.sweep:main", "builtins:eval"]
)
def test_a_file_makes_nothing_but_named_tuples_of_our_own(name):
    with pytest.raises(ValueError, match=name):
        kept_programs.meant(["builtins:tuple", [name, "true"]])
