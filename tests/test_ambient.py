"""Whatever the process around it is set to: the same bytes, or one line and an exit code that says so."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import EXAMPLES, narrow_weights, run_forked

from jaxstyle.cell.poolings import pooling
from jaxstyle.console.command import run_command
from jaxstyle.device import jax_settings
from jaxstyle.device.batch import lower
from jaxstyle.plan.programs import Program
from jaxstyle.run.start_jax import cache_directory
from jaxstyle.rundir import manifest
from jaxstyle.vgg.network import bind

PICTURES = """
import hashlib, json, sys
import jaxstyle
content, style = sys.argv[1:]
shallow = {"content_layer": "conv2_2", "style_layers": "conv1_1+conv2_1", "size": 64, "steps": 4}
shallow |= {"alpha_beta": 1e-3}
print(json.dumps([
    hashlib.sha256(jaxstyle.stylize(content, style, optimizer=name, conv=conv, **shallow)).hexdigest()
    for name, conv in (("adam", "auto"), ("lbfgs", "plain"))
]))
"""
"""SHA-256 of a picture by each optimizer, the second one with its coarser stages."""
MADE_ELSEWHERE = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_DISABLE_JIT": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_NO_EXECUTION": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
}
SWEEP = ("-m", "jaxstyle.sweep", "--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg")
SWEEP += ("--size", 48, "--steps", 2, "--out", "run")


def pictures(**environment):
    arguments = ("-c", PICTURES, EXAMPLES / "pagoda.jpg", EXAMPLES / "cafe.jpg")
    return json.loads(run_forked(*arguments, check=True, **environment).stdout)


def test_settings_of_jax_in_the_environment_change_no_byte():
    assert pictures(**MADE_ELSEWHERE) == pictures()


def test_a_programs_own_settings_of_jax_stay_as_they_are():
    jax.config.update("jax_enable_x64", True)
    try:
        with jax_settings.default_settings():
            assert jnp.ones(2).dtype == jnp.float32
        assert jnp.ones(2).dtype == jnp.float64
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("canvas", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_step_is_float32_where_floats_are_64_bits_by_default(optimizer, canvas):
    program = Program(
        height_px=32,
        width_px=48,
        pool="avg",
        optimizer=optimizer,
        precision="f32",
        content_taps=("conv2_2",),
        style_taps=("conv1_1", "conv2_1"),
        width=2,
        canvas=canvas,
        lbfgs_memory=3,
    )
    network = bind(narrow_weights(), taps=program.taps, pool=pooling("avg"), winograd=True)

    def types():
        lowered = lower(program, network.features, network.params)
        shapes = jax.tree.leaves(lowered.segment.out_info)  # a state goes in and comes out
        return [str(info.dtype) for info in shapes]

    with jax.enable_x64(True):
        wide = types()
    assert wide == types()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_PLATFORMS": "banana"}, "JAX: does not start here: RuntimeError: Unable to initialize"),
        ({"JAX_ENABLE_X64": "banana"}, "JAX: does not start here: ValueError: invalid truth value"),
        ({"JAX_ERROR_CHECKING_BEHAVIOR_NAN": "raise"}, "JAX_ERROR_CHECKING_BEHAVIOR_NAN: is raise"),
        ({"XLA_FLAGS": "--xla_nonsense=1"}, "Unknown flag in XLA_FLAGS: --xla_nonsense=1"),
        ({"XLA_FLAGS": "--xla_cpu_use_xnnpack=banana"}, "Couldn't interpret value banana for flag"),
    ],
)
def test_an_environment_that_cannot_run_it_is_one_line_and_exit_code_4(environment, said, tmp_path):
    done = run_forked(*SWEEP, cwd=tmp_path, **environment)
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaxstyle: error: ")
    assert said in line
    assert (done.returncode, done.stdout) == (4, "")
    assert not list(tmp_path.iterdir())


# --- what nobody expected -------------------------------------------------------------------------


def ended(command, capsys):
    """The exit code of a command and its only line."""
    with pytest.raises(SystemExit) as stop:
        run_command(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxstyle: error: ")
    return stop.value.code, line


def raising(error):
    def command():
        raise error

    return command


def test_a_fault_is_one_line_that_names_the_file_of_its_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, line = ended(raising(KeyError("style_layer_loss")), capsys)
    assert code == 70
    assert "an internal error" in line
    assert f"KeyError: 'style_layer_loss' ({Path(__file__).name}:" in line
    (kept,) = tmp_path.iterdir()
    assert str(kept) in line
    assert (text := kept.read_text()).rstrip().endswith("KeyError: 'style_layer_loss'")
    assert "in command" in text  # where it was raised


def test_a_fault_names_settings_of_jax_that_may_be_its_cause(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("JAX_ERROR_CHECKING_BEHAVIOR_NAN", "raise")
    _, line = ended(raising(KeyError("x")), capsys)
    assert line.endswith("; it may work without JAX_ERROR_CHECKING_BEHAVIOR_NAN")


def test_a_fault_is_told_where_no_file_can_be_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    code, line = ended(raising(ZeroDivisionError()), capsys)
    assert code == 70
    assert "ZeroDivisionError: no message" in line
    assert "could not be written (No such file or directory)" in line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'flax'", name="flax"), "flax: cannot be imported: No module"),
        (
            ImportError("libstdc++.so.6: cannot open shared object file"),
            "Python: cannot be imported: libstd",
        ),
        (
            SystemError("error return without exception set"),
            "Python: a compiled library failed: error return without",
        ),
        (
            MemoryError("Unable to allocate 8.00 GiB"),
            "memory: there is not enough: Unable to allocate 8.00",
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: no driver"), "JAX: the device or its driver failed: Jax"),
    ],
)
def test_what_is_no_fault_of_ours_is_of_the_environment(error, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, line = ended(raising(error), capsys)
    assert code == 4
    assert said in line


# --- the cache ------------------------------------------------------------------------------------


def test_compiled_programs_lie_in_an_absolute_folder_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    inside = Path("jaxstyle") / "xla"
    assert cache_directory({"XDG_CACHE_HOME": str(tmp_path / "x")}) == tmp_path / "x" / inside
    for other in ("", "relative", "~/cache"):
        found = cache_directory({"XDG_CACHE_HOME": other})
        assert found == tmp_path / "home" / ".cache" / inside
    for none in ("", "~", "relative"):  # a user of a container has no home
        monkeypatch.setenv("HOME", none)
        assert cache_directory({}) is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert cache_directory({}) is None
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # asking for it creates nothing


def test_only_variables_of_the_libraries_stand_in_a_manifest(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    monkeypatch.setenv("TF_VAR_password", "secret")  # Terraform's
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", "/home/a/.terraformrc")
    found = manifest.environment()
    assert found["TF_XLA_FLAGS"] == "--tf_xla_auto_jit=1"
    assert not {"TF_VAR_password", "TF_CLI_CONFIG_FILE"} & found.keys()
    was = {"TF_VAR_password": "secret", **found}
    now = {"versions": {}, "device": {"kind": "cpu"}, "threads": 2, "code_sha256": "", "environment": found}
    assert manifest.changes({**now, "environment": was}, now) == []
    (process,) = manifest.earlier_processes({"environment": was, "before": []})
    assert process == {"environment": found}
