"""Programs and balances that commands keep for later ones: the same bytes, and never out of date."""

import json
import time

import jax
import numpy as np
import pytest
from same_bytes import normalised
from test_calibration import images, weighed  # noqa: F401
from test_engine import Bench, same

from jaxstyle.cell import solvers
from jaxstyle.device import batch, engine, kept, kept_programs
from jaxstyle.device.loss_balance import Balances
from jaxstyle.rundir import manifest
from jaxstyle.spec import tables
from jaxstyle.vgg import convolution


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


def shallow(narrow):
    """A bench of two layers, one of them by Winograd's algorithm."""
    bench = Bench(narrow, shape=(32, 36), content_layer=("conv1_2",), style_layers=("conv1_1",))
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


@pytest.mark.parametrize("winograd", [False, True])
def test_a_prepared_kernel_is_used_where_it_lies(winograd):
    made = convolution.prepare(np.ones((3, 3, 5, 7), np.float32), winograd=winograd)
    for array, own in zip(jax.device_put(made), made, strict=True):
        assert array.unsafe_buffer_pointer() == own.ctypes.data


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_state_is_read_as_the_types_it_was_made_of(optimizer):
    own = dict(tables.OPTIMIZERS[optimizer].own)
    state = solvers.make(optimizer, own).init(jax.numpy.zeros((4, 4, 3)))
    numbers = jax.tree.map(lambda _: 0, (state, None))
    read = kept_programs._meant(json.loads(json.dumps(kept_programs._spelled(numbers))))
    assert jax.tree.structure(read) == jax.tree.structure(numbers)


@pytest.mark.parametrize(
    "name", ["os:system", "jaxstyle.device.kept:Path", "jaxstyle.sweep:main", "builtins:eval"]
)
def test_a_file_makes_nothing_but_named_tuples_of_our_own(name):
    with pytest.raises(ValueError, match=name):
        kept_programs._meant(["builtins:tuple", [name, "true"]])
