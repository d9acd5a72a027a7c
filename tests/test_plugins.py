"""A user's own losses, optimizers and poolings: swept, killed, resumed, shown, refused."""

import csv
import functools
import json
import os
import re
import shutil
import signal
import sys
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import EXAMPLES, ROOT, SHALLOW, Told, random_image, run_forked, run_python
from jax.test_util import check_grads
from made_runs import write_run
from test_step import loss_and_gradient, make

import jaxstyle
from jaxstyle import sweep
from jaxstyle.cell import objective
from jaxstyle.cell.state import View
from jaxstyle.inputs import decode
from jaxstyle.inputs.resize import resize
from jaxstyle.plan.cells import Cell, sweep_cells, terms_of
from jaxstyle.plan.chunks import plan_from_record, plan_record
from jaxstyle.plan.planner import make_plan
from jaxstyle.rundir import chunks, fingerprints
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_csv import read_rows
from jaxstyle.spec import function_identity, plugins, settings, tables
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.rows import Origin
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.toml import to_toml

DOCS = (ROOT / "docs" / "plugins.md").read_text()
PALETTE = re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1]  # pyright: ignore[reportOptionalSubscript]
FILES = ("results.csv", "images/*.png", "chunks/*.h5")
IMAGES = ("--content", EXAMPLES / "pagoda.jpg", "--style", EXAMPLES / "cafe.jpg")
SMALL = ("--size", 48, *SHALLOW)
SWEEP = (*IMAGES, *SMALL, "--optimizer", "adam", "--steps", 6, "--checkpoint-every", 0.1)
TRANSFER = {"size": 48, "steps": 20, "optimizer": "adam", "content_layer": "conv1_2"}
TRANSFER |= {"style_layers": "conv1_1"}
"""Settings of a transfer of a second."""
GRID = (*SWEEP, "--palette-weight", 0, "1e4", "1e7", "--seed", "0:2")


@pytest.fixture(autouse=True)
def own_tables():
    """Tables as they were before the test."""
    before = [(table, table.copy()) for table in tables.EVERY]
    yield
    for table, rows in before:
        table.reset(rows)
    plugins._loaded.clear()


@pytest.fixture(scope="module")
def palette(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "palette.py"
    path.write_text(PALETTE)
    return path


@pytest.fixture(scope="module")
def finished(palette, tmp_path_factory):
    """The run of the example that nobody disturbed."""
    out = tmp_path_factory.mktemp("palette") / "run"
    run_python("-m", "jaxstyle.sweep", *GRID, "--plugin", palette, "--out", out, check=True)
    return out


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        sweep.main(list(map(str, arguments)))
    return stop.value.code


def contents(run):
    """The bytes of all results of a run."""
    return {p.relative_to(run): p.read_bytes() for name in FILES for p in sorted(run.glob(name))}


def lines(run):
    with (run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def quantile_loss(picture, style):
    """The example's loss as it is documented, in float64."""
    directions = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    levels = (np.arange(64) + 0.5) / 64
    found = [
        np.quantile(x.reshape(-1, 3).astype(np.float64) @ directions.astype(np.float64), levels, axis=0)
        for x in (picture, style)
    ]
    return np.mean((found[0] - found[1]) ** 2)


def term(name="bright", **changes):
    """A term that compares mean colours."""

    def mean(view):
        return view.image.mean((0, 1))

    row = {"keep": mean, "loss": lambda view, kept: jnp.sum((mean(view) - kept) ** 2), **changes}
    return jaxstyle.LossTerm(name, **row)


# --- the worked example ---------------------------------------------------------------------------


def test_the_example_has_its_axis_and_curve_in_every_table(finished):
    rows = lines(finished)
    assert [(row["palette_weight"], row["seed"]) for row in rows] == [
        (weight, seed) for weight in ("0.0", "10000.0", "10000000.0") for seed in "01"
    ]
    assert all(row["status"] == "done" for row in rows)
    last = [float(row["loss_palette"]) for row in rows]
    assert max(last[4:]) < 0.9 * min(last[:2])  # a heavy weight brings it down
    with h5py.File(finished / "results.h5") as file:
        group = file[next(iter(file))]
        curve, weights = group["loss_palette"][()], group["palette_weight"][()]
        assert "palette_weight" in group["image"].attrs["coordinates"].split()
        np.testing.assert_array_equal(weights, [0, 0, 1e4, 1e4, 1e7, 1e7])
        assert curve.shape == (6, 7)
        np.testing.assert_array_equal(curve[:, -1].astype(str), [row["loss_palette"] for row in rows])
    run = jaxstyle.open_run(finished)
    np.testing.assert_array_equal(run.losses(3)["loss_palette"], curve[3])


def test_the_loss_in_the_tables_is_that_of_the_pictures(finished):
    style = resize(decode.read(str(EXAMPLES / "cafe.jpg")).pixels, 48)
    for row in lines(finished):
        picture = decode.read(str(finished / row["image"])).pixels
        # Rounded and clipped pixels differ a little from the optimised ones.
        assert float(row["loss_palette"]) == pytest.approx(quantile_loss(picture, style), rel=0.05, abs=2)


def test_the_total_has_the_weighted_term(finished):
    for row in lines(finished):
        terms = {name: float(row[f"loss_{name}"]) for name in ("total", "content", "style", "palette")}
        weight, ratio = float(row["palette_weight"]), float(row["alpha_beta"])
        expected = ratio * terms["content"] + terms["style"] + weight * terms["palette"]
        assert terms["total"] == pytest.approx(expected, rel=1e-5)


def test_the_page_of_a_plugins_run_is_made_without_the_plugin(finished, tmp_path):
    page = finished / "report.html"
    before = page.read_text()
    page.unlink()
    code = "import sys; from jaxstyle import report; report.main(sys.argv[1:])"
    done = run_forked("-c", code, finished)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    data = json.loads(re.search(r'<script[^>]*id="run"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert data["losses"]["loss_palette"] == "palette loss"
    assert [dim["label"] for dim in data["dimensions"]] == ["weight of the palette loss", "seed"]
    assert len(data["tiles"]["loss_palette"]) == 6
    assert ">palette loss<" in text
    assert len(text) == pytest.approx(len(before), rel=0.01)


def test_the_seed_study_has_the_curve_with_and_without_the_plugin(finished, palette):
    run_forked("-m", "jaxstyle.variance", finished, "--plugin", palette, "--floor-steps", 2, check=True)
    with (finished / "variance.csv").open(encoding="utf-8") as file:
        found = {(row["palette_weight"], row["quantity"]): row for row in csv.DictReader(file)}
    assert float(found["10000000.0", "loss_palette"]["mean"]) < float(found["0.0", "loss_palette"]["mean"])
    with h5py.File(finished / "variance.h5") as file:
        assert "loss_palette" in file["32x48"]["term"].asstr()[()]
        assert len(file["floor"]) > 1
    assert "palette loss" in (finished / "maps" / "curves.svg").read_text()
    done = run_forked("-m", "jaxstyle.variance", finished, check=True)
    assert "loss_palette" in (finished / "variance.csv").read_text()
    report_text = (finished / "variance.json").read_text()
    assert "give the file with --plugin" in report_text + done.stdout


def test_a_run_is_read_without_its_plugin_whatever_the_plugin_names(tmp_path):
    origin = Origin("mine.py", "0" * 64)
    kinds = (
        jaxstyle.LossTerm("mean", loss=len, keep=len, axis="brightness", origin=origin),
        jaxstyle.Pooling("mine", pool=len, means="avg", origin=origin),
        jaxstyle.Pooling("plain", pool=len, origin=origin),
    )
    rows = [{"kind": row.what, **row.record()} for row in kinds]
    assert [row.keys() & {"axis", "means"} for row in rows] == [{"axis"}, {"means"}, set()]
    found = plugins.recorded_rows([{"file": "mine.py", "sha256": "0" * 64, "rows": rows}])
    assert [row.record() for row in found] == [row.record() for row in kinds]
    plugins.add_recorded(found)
    pools = {"pool": ("avg", "mine"), "network": "normalised"}
    sweep = resolve(Sweep(content=("/a",), style=("/b",), **pools, extra={"brightness": (0.0, 2.0)}))
    assert len(sweep_cells(sweep)) == 4


def test_the_example_is_the_same_bytes_on_two_devices(finished, palette, tmp_path):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "2"}
    out = tmp_path / "run"
    run_forked("-m", "jaxstyle.sweep", *GRID, "--plugin", palette, "--out", out, check=True, **two)
    found, expected = contents(out), contents(finished)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_killed_run_goes_on_with_the_same_file_alone(finished, palette, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    told = Told("-m", "jaxstyle.sweep", *GRID, "--plugin", palette, "--out", out)
    assert told.until(lambda: len(told.named("chunk")) == 2)
    told.process.send_signal(signal.SIGKILL)
    assert told.end()[0] == -signal.SIGKILL
    kept = contents(out)

    done = run_forked("-m", "jaxstyle.sweep", "--resume", "--out", out)
    assert done.returncode == 2
    assert re.fullmatch(
        r"jaxstyle: error: palette_weight: belongs to a plugin \(sha256 \w+\.\.\.\); [^\n]+\n", done.stderr
    )
    changed = tmp_path / "palette.py"
    changed.write_text(PALETTE.replace("** 2)", "** 2) / 2"))
    done = run_forked("-m", "jaxstyle.sweep", "--resume", "--out", out, "--plugin", changed)
    assert done.returncode == 2
    digests = re.findall(r"\b[0-9a-f]{64}\b", done.stderr)
    assert len(set(digests)) == 2
    assert len(done.stderr.splitlines()) == 1
    assert contents(out) == kept

    moved = tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    moved.write_text(PALETTE)  # the same file, wherever it lies
    run_forked("-m", "jaxstyle.sweep", "--resume", "--out", out, "--plugin", moved, check=True)
    assert contents(out) == contents(finished)
    again = tmp_path / "again"
    arguments = ("--spec", out / "spec.toml", "--plugin", moved, "--out", again)
    run_forked("-m", "jaxstyle.sweep", *arguments, check=True)
    assert contents(again) == contents(finished)


def test_shares_of_a_plugins_run_come_to_the_same_bytes(finished, palette, tmp_path):
    out = tmp_path / "run"
    for share in ("0/2", "1/2"):
        arguments = (*GRID, "--plugin", palette, "--out", out, "--shard", share)
        run_forked("-m", "jaxstyle.sweep", *arguments, check=True)
    assert contents(out) == contents(finished)


# --- a term in the numbers ------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", [None, (64, 64)])
def test_a_term_adds_its_weight_times_its_loss_and_gradient(vgg19_weights, canvas):
    def mean(view):
        if view.inside is None:
            return view.image.mean((0, 1))
        return jnp.sum(jnp.where(view.inside, view.image, 0), (0, 1)) / jnp.sum(view.inside)

    jaxstyle.register(
        term(keep=mean, loss=lambda view, kept: jnp.sum((mean(view) - kept) ** 2), canvas=True)
    )
    content, style, image = (
        random_image(*shape, s) for shape, s in (((45, 61), 1), ((40, 50), 2), ((45, 61), 3))
    )
    own = {
        "content": ("/c.png",),
        "style": ("/s.png",),
        "style_layers": ("conv1_1",),
        "content_layer": ("conv1_2",),
        "alpha_beta": (1e-3,),
    }
    found = {}
    for weight in (0.0, 7.0):
        made = make(Sweep(**own, bright_weight=weight), vgg19_weights, content, style, canvas=canvas)
        start = np.zeros((*canvas, 3), np.float32) if canvas else image.astype(np.float32)
        start[:45, :61] = image
        found[weight] = loss_and_gradient(*made, start)
    difference = image.astype(np.float64).mean((0, 1)) - style.astype(np.float64).mean((0, 1))
    expected = np.sum(difference**2)
    (plain, info), slope = found[0.0]
    (total, with_term), gradient = found[7.0]
    assert info.terms == {}
    assert with_term.terms["bright"] == pytest.approx(expected, rel=1e-5)
    assert total - plain == pytest.approx(7 * expected, rel=1e-3)
    added = (np.asarray(gradient) - np.asarray(slope))[:45, :61]
    own_slope = np.broadcast_to(7 * 2 * difference / (45 * 61), added.shape)
    np.testing.assert_allclose(added, own_slope, rtol=1e-2, atol=1e-4 * np.abs(slope).max())


def test_the_examples_gradient_agrees_with_finite_differences(palette):
    plugins.load([str(palette)])
    row = tables.TERMS["palette"]
    view = lambda x: View(x, {}, None)  # noqa: E731
    random = np.random.default_rng(0)
    style, picture = (jnp.asarray(random.uniform(0, 255, (6, 8, 3)), jnp.float32) for _ in range(2))
    kept = row.keep(view(style))
    check_grads(lambda x: row.loss(view(x), kept), (picture,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


def test_a_term_sees_the_layers_it_asks_for_and_the_content(vgg19_weights):
    seen = []

    def keep(view):
        seen.append(sorted(view.features))
        return {"deep": view.features["conv2_2"]}

    def loss(view, kept):
        return jnp.mean((view.features["conv2_2"] - kept["deep"]) ** 2)

    jaxstyle.register(
        jaxstyle.LossTerm("near", of="content", taps=("conv2_2", "conv1_1"), keep=keep, loss=loss)
    )
    content, style = random_image(48, 64, 1), random_image(32, 32, 2)
    own = {
        "content": ("/c.png",),
        "style": ("/s.png",),
        "style_layers": ("conv1_2",),
        "content_layer": ("conv1_2",),
    }
    network, program, knobs, targets = make(Sweep(**own, near_weight=1.0), vgg19_weights, content, style)
    assert program.taps == ("conv1_1", "conv1_2", "conv2_2")
    (_, info), _ = loss_and_gradient(network, program, knobs, targets, content.astype(np.float32))
    assert info.terms["near"] == 0
    assert seen
    assert set(map(tuple, seen)) == {("conv1_1", "conv2_2")}


def test_a_term_that_no_cell_weighs_is_in_no_program_fingerprint_or_table(tmp_path):
    plain = Sweep(content="/c.png", style="/s.png", seed=("0:2",))
    before = resolve(plain)
    jaxstyle.register(term())
    after = resolve(Sweep(content="/c.png", style="/s.png", seed=("0:2",), bright_weight=0))
    assert after == before
    assert after.extra == {}
    plans = [planned(of) for of in (before, after)]
    assert plans[0] == plans[1]
    assert plans[1].programs[0].record().keys() == plans[0].programs[0].record().keys()
    sources = fingerprints.Sources(after, {"/c.png": "1", "/s.png": "2"}, "3")
    marks = {fingerprints.fingerprint(sources, plan, 0) for plan in plans}
    weighed = resolve(Sweep(content="/c.png", style="/s.png", seed=("0:2",), bright_weight=(0, 1)))
    plan = planned(weighed)
    assert plan.programs[0].terms == ("bright",)
    marks.add(fingerprints.fingerprint(sources, plan, 0))
    assert len(marks) == 2
    assert "bright" not in to_toml(after, {})
    assert "bright_weight = [0.0, 1.0]" in to_toml(weighed, {})


def planned(resolved, shapes=None, **options):
    cells = sweep_cells(resolved)
    shapes = shapes or {"/c.png": (48, 64)}
    options = {"platform": "cpu", "choose_width": lambda p, n: 1, **options}
    return make_plan(resolved, cells, shapes, **options)


def test_only_terms_that_know_of_canvases_share_them():
    for canvas in (False, True):
        jaxstyle.register(term(canvas=canvas))
        many = tuple(f"/{i}.png" for i in range(12))
        resolved = resolve(Sweep(content=many, style="/s.png", alpha_beta=1e-3, bright_weight=1, steps=5))
        plan = planned(resolved, {path: (40 + i, 64) for i, path in enumerate(many)})
        assert any(program.canvas for program in plan.programs) == canvas


# --- axes and settings that are no fields -----------------------------------------------------------


def test_the_weight_of_a_term_is_an_axis_like_others(tmp_path):
    jaxstyle.register(term())
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'content = ["a.png"]\nstyle = ["b.png", "c.png"]\n'
        '[[grid]]\nbright_weight = [0, 2]\nstyle = ["b.png", "c.png"]\nzip = ["style", "bright_weight"]\n'
        "[[grid]]\nbright_weight = [5]\nlearning_rate = [1, 2]\n"
    )
    cells = sweep_cells(assemble({"spec": str(spec)}).sweep)
    found = [(os.path.basename(c.style), c.bright_weight, c.learning_rate) for c in cells]
    assert found == [
        ("b.png", 0.0, 10.0), ("c.png", 2.0, 10.0),
        *(("b.png", 5.0, rate) for rate in (1, 2)), *(("c.png", 5.0, rate) for rate in (1, 2)),
    ]  # fmt: skip
    assert [c.id for c in cells] == list(range(6))
    spec.write_text(spec.read_text().replace("zip", "#"))
    flagged = assemble({"spec": str(spec), "bright_weight": [3]}).sweep
    assert {c.bright_weight for c in sweep_cells(flagged)} == {3.0}
    again = resolve(Sweep(content="/a", style="/b", extra={"bright_weight": (1, 2)}, seed=(0, 1)))
    assert [(c.bright_weight, c.seed) for c in sweep_cells(again)] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert again.axes.index("bright_weight") == again.axes.index("learning_rate") - 1


@pytest.mark.parametrize(
    ("value", "says"),
    [(-1, "at least 0"), ("x", "is not a number"), ((1, 1), "is given twice"), ((), "the axis is empty")],
)
def test_a_wrong_weight_is_an_error_of_its_axis(value, says):
    jaxstyle.register(term())
    with pytest.raises(JaxstyleError, match=rf"bright_weight: .*{says}"):
        resolve(Sweep(content="/c.png", style="/s.png", bright_weight=value))


def test_an_optimizers_own_settings_are_flags_that_others_refuse(tmp_path):
    own = {"nadam_b1": 0.9, "nadam_delay": 3}
    make_one = lambda nadam_b1, nadam_delay: optax.scale_by_adam(b1=nadam_b1, nesterov=True)  # noqa: E731
    jaxstyle.register(jaxstyle.Optimizer("nadam", make=make_one, own=own, steps=7, pyramid=1))
    resolved = resolve(Sweep(content="/c.png", style="/s.png", optimizer="nadam", nadam_b1=0.5))
    assert (resolved.steps, resolved.pyramid) == ((7,), 1)
    assert resolved.extra == {"nadam_b1": 0.5, "nadam_delay": 3}
    assert planned(resolved).programs[0].optimizer_settings == {"nadam_b1": 0.5, "nadam_delay": 3}
    with pytest.raises(
        JaxstyleError, match="nadam_b1: adam does not have it; leave it out or give --optimizer nadam"
    ):
        resolve(Sweep(content="/c.png", style="/s.png", optimizer="adam", nadam_b1=0.5))
    with pytest.raises(JaxstyleError, match=r"nadam_delay: '2\.5' is not a whole number"):
        resolve(Sweep(content="/c.png", style="/s.png", optimizer="nadam", nadam_delay="2.5"))
    record = plan_record(planned(resolved))
    assert plan_from_record(resolved, sweep_cells(resolved), json.loads(json.dumps(record))) == planned(
        resolved
    )


OWN = """
import jax.numpy as jnp
import optax

import jaxstyle


def corner(x):
    h, w = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:h:2, :w:2]


jaxstyle.register(
    jaxstyle.Optimizer("lion", make=lambda b1: optax.scale_by_lion(b1=b1), own={"b1": 0.9}),
    jaxstyle.Pooling("corner", pool=corner, title="every other position"),
)
"""


@pytest.mark.parametrize("there", [False, True], ids=["no cache yet", "an empty cache"])
def test_a_dry_run_that_compiles_writes_nothing(tmp_path, there):
    file, cache = tmp_path / "own.py", tmp_path / "home" / "cache"
    file.write_text(OWN)
    if there:
        (cache / "jaxstyle" / "xla").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    arguments = (*IMAGES, *SMALL, "--steps", 20, "--plugin", file, "--optimizer", "lion", "--dry-run")
    own = {"XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_python("-m", "jaxstyle.sweep", *arguments, cwd=tmp_path, check=True, **own)
    assert "would write" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_an_optimizer_and_a_pooling_run_are_resumed_and_shown(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    arguments = (*IMAGES, *SMALL, "--steps", 20, 40, "--plugin", file, "--optimizer", "lion")
    arguments = (*arguments, "--b1", 0.8, "--pool", "corner", "--seed", 0, 1, "--out", tmp_path / "run")
    run_forked("-m", "jaxstyle.sweep", *arguments, check=True)
    assert len(lines(tmp_path / "run")) == 2
    with h5py.File(tmp_path / "run" / "results.h5") as file:
        group = file[next(iter(file))]
        assert group["loss_total"][0, -1] < 0.5 * group["loss_total"][0, 0]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [row["name"] for row in manifest["plugins"][0]["rows"]] == ["lion", "corner"]
    for chunk in (tmp_path / "run" / "chunks").iterdir():
        chunk.unlink()
    kept = contents(tmp_path / "run")
    run_forked("-m", "jaxstyle.sweep", "--resume", *arguments, check=True)
    assert contents(tmp_path / "run").items() >= kept.items()
    done = run_forked("-m", "jaxstyle.report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "b1" in (tmp_path / "run" / "report.html").read_text()
    # A study compares features, and so needs the pooling's functions.
    done = run_forked("-m", "jaxstyle.variance", tmp_path / "run", "--no-floor")
    assert done.returncode == 2
    assert "pooling corner: belongs to the plugin" in done.stderr
    assert "give the file with --plugin FILE.py" in done.stderr


def test_a_registered_optimizer_does_what_optax_does(narrow):
    jaxstyle.register(jaxstyle.Optimizer("descent", make=lambda: optax.identity(), state_images=0))
    from jaxstyle.cell import solvers

    solver = solvers.make("descent", {})
    image, gradient = jnp.full((4, 5, 3), 9.0), jnp.arange(60.0).reshape(4, 5, 3)
    seen = solvers.Evaluation(image, jnp.float32(1), gradient)
    move = solver.update(seen, image, solver.init(image), jnp.float32(0.5), jnp.int32(0))
    np.testing.assert_array_equal(move.image, image - 0.5 * gradient)
    assert move.accepted
    assert move.able


# --- from Python ----------------------------------------------------------------------------------


def test_an_optimizer_may_have_a_state_of_any_numbers_and_need_a_size():
    """Momentum in Fourier space, over blocks of 8 px."""

    def init(image):
        return {"n": 0.0, "sum": jnp.fft.fft2(image, axes=(0, 1))}

    def update(gradient, state, image):
        h, w, _ = gradient.shape
        blocks = gradient.reshape(h // 8, 8, w // 8, 8, 3)
        means = jnp.broadcast_to(blocks.mean((1, 3), keepdims=True), blocks.shape).reshape(gradient.shape)
        summed = 0.9 * state["sum"] + jnp.fft.fft2(means, axes=(0, 1))
        return jnp.sign(jnp.fft.ifft2(summed, axes=(0, 1)).real), {"n": state["n"] + 1.0, "sum": summed}

    jaxstyle.register(jaxstyle.Optimizer("waves", make=lambda: optax.GradientTransformation(init, update)))
    content, own = random_image(32, 48, 1), {"content_layer": "conv1_2", "style_layers": "conv1_1"}
    picture = jaxstyle.stylize(content, content, size=48, steps=3, optimizer="waves", **own)
    assert picture.shape == (32, 48, 3)


def test_stylize_takes_the_weight_of_a_registered_term():
    jaxstyle.register(term())
    content, style = random_image(32, 48, 1), random_image(32, 32, 2)
    pictures = [jaxstyle.stylize(content, style, bright_weight=weight, **TRANSFER) for weight in (0, 1e6)]
    target = style.astype(float).mean((0, 1))
    distances = [np.abs(picture.astype(float).mean((0, 1)) - target).max() for picture in pictures]
    assert distances[1] < 2 < distances[0]
    with pytest.raises(JaxstyleError, match="brigth_weight: no such setting; did you mean bright_weight"):
        jaxstyle.stylize(content, style, brigth_weight=1)


def test_a_term_registered_again_takes_the_place_of_the_one_before():
    content, style = random_image(32, 48, 1), random_image(32, 32, 2)
    own = {
        "size": 48,
        "steps": 2,
        "optimizer": "adam",
        "content_layer": "conv1_2",
        "style_layers": "conv1_1",
    }
    pictures = []
    for factor in (1.0, -1.0):
        loss = lambda view, kept, factor=factor: factor * jnp.sum(view.image.mean((0, 1)) - kept)  # noqa: E731
        jaxstyle.register(term(loss=loss))
        pictures.append(jaxstyle.stylize(content, style, bright_weight=1e12, **own).astype(float).mean())
    assert pictures[0] < pictures[1] - 20


def test_a_term_is_refused_once_what_it_reads_has_changed():
    """Programs that are compiled keep the old value, and a run would hold cells of both."""
    held = {"factor": 1.0}
    changing = lambda view, kept: held["factor"] * jnp.sum(view.image.mean((0, 1)) - kept)  # noqa: E731
    jaxstyle.register(term(loss=changing))
    held["factor"] = -1.0
    transfer = functools.partial(jaxstyle.stylize, random_image(32, 48, 1), random_image(32, 32, 2))
    with pytest.raises(
        JaxstyleError, match=r"bright: reads something that has changed .* register it again"
    ):
        transfer(bright_weight=1e12, **TRANSFER)
    assert transfer(**TRANSFER).shape == (32, 48, 3)  # which has no such term
    jaxstyle.register(term(loss=changing))
    assert transfer(bright_weight=1e12, **TRANSFER).mean() > 200


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (lambda: jaxstyle.LossTerm("style", loss=len), "loss term style: .*(jaxstyle's own|already)"),
        (lambda: jaxstyle.LossTerm("total", loss=len), "loss term total: there is a loss of that name"),
        (lambda: jaxstyle.LossTerm("best", loss=len), "loss term best: there is a loss of that name"),
        (
            lambda: jaxstyle.LossTerm("y", loss=len, always=True),
            "loss term y: there is a loss of that name",
        ),
        (lambda: jaxstyle.LossTerm("y", loss=len, curve=1), "loss term y: curve is 1; give True or False"),
        (lambda: jaxstyle.LossTerm("finished", loss=len), "there is a loss of that name in every run"),
        (lambda: jaxstyle.Optimizer("o", make=len, own={"extra": 1}), "there is a setting extra already"),
        (lambda: jaxstyle.Optimizer("o", make=len, own={"axes": 1}), "there is a setting axes already"),
        (lambda: jaxstyle.Optimizer("o", make=len, own={"from": 1}), "from is a Python keyword"),
        (lambda: jaxstyle.Optimizer("auto", make=len), "'auto' stands for something else in settings"),
        (lambda: jaxstyle.Optimizer("o", make=len, help=3), "optimizer o: help is 3; give a text"),
        (
            lambda: jaxstyle.Optimizer("o", make=len, own={"b": 1}, state_images=lambda: 1),
            "optimizer o: state_images fails for its settings",
        ),
        (lambda: jaxstyle.Pooling("p", pool=len, means="avgg"), "means is 'avgg'; give avg or max"),
        (lambda: jaxstyle.LossTerm("y", loss=len, help=3), "loss term y: help is 3; give a text"),
        (lambda: jaxstyle.LossTerm("y", loss=len, axis="my-weight"), "axis: 'my-weight' is not a name"),
        (lambda: jaxstyle.LossTerm("y", loss=len, axis=3), "axis: 3 is not a name"),
        (lambda: jaxstyle.LossTerm("y", loss=len, axis="lambda"), "lambda is a Python keyword"),
        (
            lambda: jaxstyle.LossTerm("tv", loss=len),
            "loss term tv: is jaxstyle's own|a setting tv_weight already",
        ),
        (lambda: jaxstyle.LossTerm("Palette", loss=len), "loss term: 'Palette' is not a name"),
        (lambda: jaxstyle.LossTerm("palette"), "loss term palette: has no loss; give a function"),
        (lambda: jaxstyle.LossTerm("palette", loss=3), "loss term palette: loss is 3, not a function"),
        (lambda: jaxstyle.LossTerm("p", loss=len, of="both"), "of is 'both'; give style or content"),
        (lambda: jaxstyle.LossTerm("p", loss=len, taps="conv9_1"), "VGG19 has no layer 'conv9_1'"),
        (lambda: jaxstyle.Optimizer("adam", make=len), "optimizer adam: is jaxstyle's own"),
        (lambda: jaxstyle.Optimizer("o", make=len, own={"size": 3}), "there is a setting size already"),
        (lambda: jaxstyle.Optimizer("o", make=len, own={"x": "y"}), "give a name and a number"),
        (lambda: jaxstyle.Optimizer("o", make=len, steps=0), "steps is 0; give a whole number from 1"),
        (lambda: jaxstyle.Pooling("avg", pool=len), "pooling avg: is jaxstyle's own"),
        (lambda: len, "register: <built-in function len> is none of LossTerm, Optimizer, Pooling"),
    ],
)
def test_what_cannot_be_registered_is_one_line(row, says):
    with pytest.raises(JaxstyleError, match=says) as error:
        jaxstyle.register(row())
    assert "\n" not in str(error.value)


def test_two_plugins_cannot_have_one_name_for_a_setting():
    jaxstyle.register(jaxstyle.Optimizer("one", make=len, own={"inertia": 0.5}))
    with pytest.raises(JaxstyleError, match="optimizer two: there is a setting inertia already"):
        jaxstyle.register(jaxstyle.Optimizer("two", make=len, own={"inertia": 0.5}))
    jaxstyle.register(jaxstyle.Optimizer("one", make=len, own={"inertia": 0.25}))
    assert settings.added()["inertia"] == 0.25


# --- what is wrong with a file ----------------------------------------------------------------------

HEAD = "import jax.numpy as jnp\nimport jaxstyle\n"
REGISTER = "jaxstyle.register(jaxstyle.LossTerm('bad', keep=keep, loss=loss))\n"
KEEP = "def keep(view):\n    return view.image.mean((0, 1))\n"
LOSS = "def loss(view, kept):\n    return jnp.sum(view.image.mean((0, 1)) - kept)\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("import jaxstyle\nx = (1,\n", 2, "SyntaxError: '(' was never closed"),
        ("import jaxstyle\n\nprint(undefined)\n", 3, "NameError: name 'undefined' is not defined"),
        ("import no_such_module\n", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit('bye')\n", 1, "SystemExit: bye"),
        ("import jaxstyle\n", None, "registers nothing"),
        (HEAD + "jaxstyle.register(jaxstyle.LossTerm('style', loss=len))\n", 3, "is jaxstyle's own"),
        (
            HEAD + "BINS = jnp.linspace(0, 1, 8)\n" + KEEP + LOSS + REGISTER,
            None,
            "starts JAX while it is read",
        ),
        (
            HEAD + KEEP + "def loss(view, kept):\n    return view.imge.sum()\n" + REGISTER,
            6,
            "has no attribute",
        ),
        (HEAD + KEEP + "def loss(view, kept):\n    return 1 / 0\n" + REGISTER, 6, "ZeroDivisionError"),
        (HEAD + KEEP + "def loss(view, kept):\n    view.image.sum()\n" + REGISTER, None, "returns None"),
        (
            HEAD + KEEP + "def loss(view, kept):\n    return view.features['conv1_1'].sum()\n" + REGISTER,
            6,
            "a view holds only the layers that the term names in taps",
        ),
        (
            HEAD + KEEP + "def loss(view, kept):\n    return view.image\n" + REGISTER,
            None,
            "its loss is float32[32, 48, 3]; it must be one float",
        ),
        (
            HEAD + KEEP + "def loss(view, kept):\n    return 1\n" + REGISTER,
            None,
            "its loss is int32; it must be one float",
        ),
        (
            HEAD
            + KEEP
            + "def loss(view, kept):\n    if view.image.sum() > 0:\n        return 0.0\n"
            + REGISTER,
            6,
            "use jnp.where",
        ),
        (
            HEAD + "def keep(view):\n    return view.image[:0].reshape(2)\n" + LOSS + REGISTER,
            4,
            "TypeError",
        ),
        (
            HEAD + "def keep(view):\n    return view.image[:, :, 0]\n"
            "def loss(view, kept):\n    return jnp.sum(kept)\n" + REGISTER,
            None,
            "must not depend on the size of the image",
        ),
        (
            HEAD + "jaxstyle.register(jaxstyle.Pooling('bad', pool=lambda x: x))\n",
            None,
            "makes float32",
        ),
        (
            HEAD + "jaxstyle.register(jaxstyle.Optimizer('bad', make=lambda: missing))\n",
            3,
            "NameError: name 'missing' is not defined",
        ),
        (
            HEAD + "import jax\n"
            "def loss(view, kept):\n    return jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1,"
            " view.image.sum())\n" + KEEP + REGISTER,
            None,
            "Reverse-mode differentiation does not work",
        ),
        (
            HEAD
            + "import functools\n@functools.cache\ndef target():\n    return jnp.array([1.0, 2.0, 3.0])\n"
            "def loss(view, kept):\n    return jnp.sum(view.image.mean((0, 1)) - target())\n"
            + KEEP
            + REGISTER,
            None,
            "traces to a different program each time",
        ),
        (
            HEAD
            + "import optax\njaxstyle.register(jaxstyle.Optimizer('bad', make=lambda: optax.adam(1.0)))\n",
            None,
            "its first step goes up",
        ),
        (
            HEAD + "import optax\njaxstyle.register(jaxstyle.Optimizer('bad',"
            " make=lambda: optax.scale_by_adam(mu_dtype=jnp.bfloat16)))\n",
            None,
            "no checkpoint can hold bfloat16",
        ),
        (
            HEAD + "import jax, optax\njaxstyle.register(jaxstyle.Optimizer('bad',"
            " make=lambda: optax.add_noise(0.1, 0.5, jax.random.key(0))))\n",
            None,
            "no checkpoint can hold key<fry>",
        ),
    ],
)
def test_an_error_in_a_plugin_is_one_line_with_its_own_number(tmp_path, capsys, text, line, says):
    file, out = tmp_path / "bad.py", tmp_path / "run"
    file.write_text(text)
    flag = "--pool" if "Pooling" in text else "--optimizer" if "Optimizer" in text else "--bad-weight"
    value = "1" if flag == "--bad-weight" else "bad"
    images_of_two_shapes = (*IMAGES, "--style-size", 40)
    arguments = (*images_of_two_shapes, *SMALL, "--steps", 2, "--plugin", file, flag, value, "--out", out)
    if "starts JAX" in says:  # which has happened here
        done = run_forked("-m", "jaxstyle.sweep", *arguments)
        code, text = done.returncode, done.stderr
    else:
        code, text = command(*arguments), capsys.readouterr().err
    assert code == 2, text
    (said,) = text.splitlines()
    assert said.startswith("jaxstyle: error: ")
    assert says in said
    if line is not None:
        assert f"{file}, line {line}: " in said
    assert not out.exists()


def test_a_spec_cannot_name_a_plugin(tmp_path, capsys, palette):
    spec = tmp_path / "spec.toml"
    spec.write_text(f'plugin = "{palette}"\n')
    assert command("--spec", spec) == 2
    assert "plugin: a spec never runs code" in capsys.readouterr().err
    assert "palette" not in tables.TERMS


def test_a_plugin_that_is_not_there_is_one_line(tmp_path, capsys):
    assert command("--plugin", tmp_path / "none.py") == 2
    assert "none.py: cannot be read: No such file or directory" in capsys.readouterr().err


def test_help_lists_what_a_plugin_adds(palette):
    for name in ("sweep", "transfer"):
        plain = run_forked("-m", f"jaxstyle.{name}", "--help", check=True).stdout
        own = run_forked("-m", f"jaxstyle.{name}", "--plugin", palette, "--help", check=True).stdout
        assert "--palette-weight" not in plain
        assert "--palette-weight" in own
        assert "Weight of the palette loss." in own


def test_transfer_takes_a_plugin(tmp_path, palette, finished):
    out = tmp_path / "out.png"
    arguments = (IMAGES[1], IMAGES[3], *SMALL, "--optimizer", "adam", "--steps", 6, "-o", out)
    arguments = (*arguments, "--plugin", palette, "--palette-weight", "1e7", "--seed", 1)
    done = run_forked("-m", "jaxstyle.transfer", *arguments, check=True)
    assert "palette" in done.stdout
    np.testing.assert_array_equal(
        decode.read(str(out)).pixels, decode.read(str(finished / "images" / "000005.png")).pixels
    )


def test_workers_are_sent_the_file_and_refuse_what_has_none(palette):
    plugins.load([str(palette)])
    resolved = resolve(Sweep(content="/c.png", style="/s.png", palette_weight=1))
    assert plugins.sources(resolved) == {str(palette): PALETTE.encode()}
    namespace = {}
    exec("def loss(view, kept):\n    return view.image.sum()\n", namespace)
    jaxstyle.register(jaxstyle.LossTerm("loose", loss=namespace["loss"]))
    resolved = resolve(Sweep(content="/c.png", style="/s.png", loose_weight=1))
    with pytest.raises(JaxstyleError, match=r"loss term loose: .* give that with --plugin FILE\.py"):
        plugins.sources(resolved)


def test_options_from_python_name_a_plugin(tmp_path, palette, save_image):
    content, style = save_image("c.png", 32, 48), save_image("s.png", 32, 32, seed=1)
    asked = Sweep(
        content=content,
        style=style,
        size=48,
        steps=2,
        optimizer="adam",
        content_layer="conv1_2",
        style_layers="conv1_1",
        extra={"palette_weight": (1.0,)},
    )
    options = RunOptions(plugin=str(palette), out=str(tmp_path / "run"), quiet=True)
    run = jaxstyle.run_sweep(asked, options)
    assert run.rows[0]["palette_weight"] == 1.0
    assert run.rows.columns[-2:] == ("palette_weight", "loss_palette")
    assert len(run.losses(0)["loss_palette"]) == 3


# --- several plugins, several runs, in one process ----------------------------------------------------


def plain_run(path, **weights):
    """A run of two cells without a plugin's functions, whose manifest describes the plugin's rows."""
    resolved = resolve(Sweep(content="/c.png", style="/s.png", steps=2, seed=(0, 1), **weights))
    rows = plugins.record(resolved)
    return write_run(path, resolved, [[result_of(resolved)]], manifest={"plugins": rows}, shape=(32, 32))


def result_of(resolved):
    """Made-up results of every cell of a sweep: numbers drawn at random."""
    cells, random = sweep_cells(resolved), np.random.default_rng(0)
    losses = tuple(tables.curves(tables.TERMS[name] for name in terms_of(cells)))
    layer, n = sweep_cells(resolved)[0].taps, len(cells)
    layer = tuple(name for name in layer if name in cells[0].layer_weights)
    return chunks.ChunkResult(
        cell=np.arange(n),
        image=random.integers(0, 256, (n, 1, 32, 32, 3), np.uint8),
        snapshot=(2,),
        step=(0, 1, 2),
        layer=layer,
        losses=losses,
        curves={name: random.random((n, 3)).astype(np.float32) for name in losses},
        style_layer_loss=random.random((n, 3, len(layer))).astype(np.float32),
        diverged_step=np.full(n, -1),
        loss_best=np.ones(n, np.float32),
        step_best=np.zeros(n, np.int64),
        evaluations=np.ones(n, np.float32),
        steps=np.full(n, 2),
        loss_final=random.random((n, len(losses))).astype(np.float32),
    )


def test_runs_of_different_plugins_with_one_name_are_read_side_by_side(tmp_path):
    jaxstyle.register(term(title="light"))
    plain_run(tmp_path / "a", bright_weight=1)
    jaxstyle.register(term(title="glow", curve=False))
    plain_run(tmp_path / "b", bright_weight=1)
    for table in tables.EVERY:
        table.reset({row.name: row for row in table if row not in table.added})
    one, other = (open_record(tmp_path / name) for name in "ab")
    assert one.losses["loss_bright"] == "light"
    assert "loss_bright" not in other.losses
    for record in (one, other, one):
        lines = list(read_rows(record))
        assert ("loss_bright" in lines[0]) == (record is one)
    assert tables.TERMS["bright"].loss is None
    with pytest.raises(JaxstyleError, match="loss term bright: belongs to the plugin"):
        plugins.check(one.sweep)


def test_the_order_in_which_terms_are_registered_changes_nothing():
    found = []
    for names in (("alpha_first", "zed"), ("zed", "alpha_first")):
        for table in tables.EVERY:
            table.reset({row.name: row for row in table if row not in table.added})
        jaxstyle.register(*(term(name) for name in names))
        resolved = resolve(
            Sweep(content="/c.png", style="/s.png", zed_weight=(0, 1), alpha_first_weight=(0, 2))
        )
        plan = planned(resolved)
        mark = fingerprints.fingerprint(fingerprints.Sources(resolved, {}, "3"), plan, 0)
        found.append((resolved.axes, sweep_cells(resolved), plan.programs, mark, to_toml(resolved, {})))
    assert found[0] == found[1]


def test_a_manifest_names_no_code_and_no_setting_of_jaxstyles(tmp_path, monkeypatch):
    jaxstyle.register(term())
    path = tmp_path / "run"
    plain_run(path, bright_weight=1)
    (tmp_path / "evil_mod.py").write_text("raise SystemExit('code was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    own = manifest["plugins"][0]["rows"]
    hostile = [
        own[0] | {"loss": "evil_mod:loss", "keep": "evil_mod:keep"},
        own[0] | {"always": True},
        own[0] | {"taps": "evil_mod"},
        own[0] | {"name": "style"},
        {"kind": "optimizer", "name": "x", "title": "", "steps": 1, "pyramid": 0, "own": {"seed": 1},
         "state_images": 2, "decays": True, "help": ""},
        {"kind": "module", "name": "evil_mod"},
    ]  # fmt: skip
    for row in hostile:
        for table in tables.EVERY:
            table.reset({row.name: row for row in table if row not in table.added})
        manifest["plugins"][0]["rows"] = [row]
        (path / "manifest.json").write_text(json.dumps(manifest))
        try:
            record = open_record(path)
        except JaxstyleError:
            pass
        else:
            assert not tables.TERMS["bright"].always
            assert tables.TERMS["bright"].loss is None
            list(read_rows(record))
        assert "evil_mod" not in sys.modules
        assert Sweep(content="a.jpg", seed=(3,)).content == "a.jpg"


def test_a_weight_of_zero_is_no_part_of_a_cell_even_where_the_term_is_not_finite():
    def far(view, kept):
        return jnp.sqrt(jnp.sum((view.image - view.image) ** 2)) + jnp.inf * jnp.sum(view.image)

    jaxstyle.register(jaxstyle.LossTerm("far", loss=far))
    own = {
        "size": 48,
        "steps": 2,
        "optimizer": "adam",
        "content_layer": "conv1_2",
        "style_layers": "conv1_1",
    }
    content, style = random_image(32, 48, 1), random_image(32, 32, 2)
    plain = jaxstyle.stylize(content, style, **own)
    with pytest.raises(JaxstyleError, match="diverged at step 0"):
        jaxstyle.stylize(content, style, far_weight=1, **own)
    gated = jax.grad(lambda x: jnp.sum(objective._gated(jnp.float32(0), x) * jnp.nan))(jnp.ones(3))
    np.testing.assert_array_equal(gated, 0)
    np.testing.assert_array_equal(jaxstyle.stylize(content, style, far_weight=0, **own), plain)


def test_extending_by_a_weight_of_zero_adds_that_cell(tmp_path, palette, save_image):
    content, style = save_image("c.png", 32, 48), save_image("s.png", 32, 32, seed=1)
    common = (
        "--content",
        content,
        "--style",
        style,
        "--size",
        48,
        "--content-layer",
        "conv1_2",
        "--plugin",
        palette,
    )
    common = (
        *common,
        "--style-layers",
        "conv1_1",
        "--steps",
        2,
        "--optimizer",
        "adam",
        "--out",
        tmp_path / "run",
    )
    assert command(*common, "--palette-weight", "1e3", "--quiet") == 0
    chunk = (tmp_path / "run" / "chunks" / "000000.h5").read_bytes()
    assert command(*common, "--palette-weight", 0, "5", "--extend", "--quiet") == 0
    assert [row["palette_weight"] for row in lines(tmp_path / "run")] == ["1000.0", "0.0", "5.0"]
    assert (tmp_path / "run" / "chunks" / "000000.h5").read_bytes() == chunk


def test_a_file_that_was_read_before_has_its_rows_again(tmp_path):
    for name, factor in (("a", 1), ("b", 2)):
        text = HEAD + KEEP + f"def loss(view, kept):\n    return {factor} * jnp.sum(kept)\n" + REGISTER
        (tmp_path / f"{name}.py").write_text(text)
    for name in ("a", "b", "a"):
        plugins.load([str(tmp_path / f"{name}.py")])
        assert tables.TERMS["bad"].origin.file == str(tmp_path / f"{name}.py")
    with pytest.raises(JaxstyleError, match=r"b\.py: registers the loss term bad, and so does .*a\.py"):
        plugins.load([str(tmp_path / "a.py"), str(tmp_path / "b.py")])


def test_a_file_that_fails_leaves_the_tables_as_they_were(tmp_path):
    (tmp_path / "bad.py").write_text(HEAD + KEEP + LOSS + REGISTER + "raise ValueError('late')\n")
    with pytest.raises(JaxstyleError, match="line 8: ValueError: late"):
        plugins.load([str(tmp_path / "bad.py")])
    assert "bad" not in tables.TERMS
    with pytest.raises(JaxstyleError):
        jaxstyle.register(term("fine"), term("style"))
    assert "fine" not in tables.TERMS


def test_a_digest_is_of_everything_that_a_row_is():
    def digest(row):
        jaxstyle.register(row)
        return tables.TERMS[row.name].origin.sha256

    space = [{"jnp": jnp} for _ in range(3)]
    for names, body in zip(space, ("jnp.sin", "jnp.cos", "(lambda x: jnp.sin(x))"), strict=True):
        exec(f"def loss(view, kept):\n    return {body}(view.image).sum()\n", names)
    digests = [digest(term(loss=names["loss"])) for names in space]
    digests.append(digest(term(loss=space[0]["loss"], of="content")))
    digests.append(digest(term(loss=space[0]["loss"], keep=space[1]["loss"])))
    digests.append(digest(term(loss=jax.jit(space[0]["loss"]))))
    assert len(set(digests)) == 5
    assert digests[5] == digests[0]  # compiled, it does the same
    around = [digest(term(loss=lambda view, kept, k=k: k * view.image.sum())) for k in (1, 2)]
    bound = [digest(term(loss=functools.partial(space[0]["loss"], kept=k))) for k in (1, 2)]
    assert len({*digests, *around, *bound}) == 9
    again = digest(term(loss=space[2]["loss"]))
    assert again == digests[2]


def names_of_tables(run):
    """The columns, datasets and fields that a run and its study have beside the plugin's own."""
    with jaxstyle.open_run(run)._results() as results, h5py.File(run / "variance.h5") as study:
        found = set()
        for file in (results, study):
            shapes = [group for group in file if re.fullmatch(r"\d+x\d+", group)]
            found |= {name for group in shapes for name in file[group]}
    for name in ("results.csv", "variance.csv"):
        found |= {*next(csv.reader((run / name).read_text("utf-8").splitlines()))}
    found |= {name for name in dir(Cell) if not name.startswith("_")}
    return {name for name in found if name.isidentifier() and not name.endswith("_palette")}


def test_no_axis_takes_the_name_of_a_column_a_dataset_or_a_field(finished, tmp_path):
    """Such a run was once computed to its end, and then had no results."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    run_python("-m", "jaxstyle.variance", run, "--no-floor", check=True)
    names = names_of_tables(run)
    assert {"cell", "image", "seeds", "loss_total", "snapshot", "label", "step", "palette_weight"} <= names
    for name in sorted(names - {"palette_weight", *("quantile", "x64")}):
        with pytest.raises(
            JaxstyleError, match=f"(a setting {name} already|a dataset {name}; give another)"
        ):
            jaxstyle.register(term(axis=name))
    jaxstyle.register(term(axis="brightness"))


READERS = """
import dataclasses, functools
def half(x): return HALF * x.sum()
class Twice:
    def __init__(self): self.by = BY
    def __call__(self, x): return self.by * x.sum()
    @property
    def slope(self): return SLOPE
twice = Twice()
@dataclasses.dataclass
class Both:
    first: object
both = Both(FIRST)
def noisy(function):
    @functools.wraps(function)
    def called(*arguments): return NOISE + function(*arguments)
    return called
@noisy
def quiet(x): return x.sum()
def nested(x):
    def outer():
        def inner(): return INNER
        return inner()
    return outer()
def loss(view, kept): return {body}
"""
VALUES = {
    "K": (1.0, 2.0),
    "TABLE": ({"k": np.ones(3)}, {"k": np.zeros(3)}),
    "SET": ({"a", "b", "c"}, {"a", "b", "d"}),
    "OBJECTS": (np.array(["a", None], object), np.array(["b", None], object)),
    "KEY": (jax.random.key(0), jax.random.key(1)),
    "LARGE": (np.zeros(2000), np.eye(2000)[1]),
    "HALF": (0.5, 0.25),
    "BY": (2.0, 3.0),
    "SLOPE": (0.0, 1.0),
    "FIRST": (np.zeros(2000), np.eye(2000)[1]),
    "NOISE": (0.0, 1.0),
    "INNER": (0.0, 1.0),
    "image": (0, 1),
}
"""Two values of every constant; no body reads the last one."""


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("K * view.image.sum()", "K"),
        ("view.image.sum() * TABLE['k'][0]", "TABLE"),
        ("view.image.sum() * len(SET)", "SET"),
        ("view.image.sum() * len(OBJECTS)", "OBJECTS"),
        ("jax.random.normal(KEY, ()) * view.image.sum()", "KEY"),
        ("view.image.sum() * LARGE[1]", "LARGE"),
        ("half(view.image)", "HALF"),
        ("twice(view.image)", "BY SLOPE"),
        ("twice.__call__(view.image)", "BY SLOPE"),
        ("both.first[0] * view.image.sum()", "FIRST"),
        ("quiet(view.image)", "NOISE"),
        ("nested(view.image)", "INNER"),
        ("jax.jit(half)(view.image) + sum(map(lambda k: k * K, [1]))", "HALF K"),
    ],
)
def test_a_digest_is_of_the_values_that_a_function_reads_where_it_was_defined(body, read):
    """As in a notebook: a cell sets a constant, and another one registers the functions."""

    def digest(**constants):
        names = (
            {"__name__": "__main__", "jax": jax, "np": np}
            | {name: first for name, (first, _) in VALUES.items()}
            | constants
        )
        exec(READERS.replace("{body}", body), names)
        return function_identity.identity(names["loss"])

    assert digest() == digest()
    changed = {name for name, (_, second) in VALUES.items() if digest(**{name: second}) != digest()}
    assert changed == {*read.split()}


def test_the_digest_of_a_function_is_the_same_in_every_process():
    text = (
        "from jaxstyle.spec.function_identity import identity\nimport numpy as np\n"
        "LAYERS, RANDOM = {'conv1_1', 'conv2_1', 'conv3_1'}, np.random.default_rng(0)\n"
        "TABLE = {'o': object(), 's': frozenset('abc'), 'f': len, 'a': np.array(['x', 'y'], object)}\n"
        "def loss(view, kept):\n    return len(LAYERS) + RANDOM.random() + len(TABLE) + helper(view)\n"
        "def helper(view):\n    return loss and helper\n"
        "print(identity(loss).hex())\n"
    )
    said = [run_python("-c", text, PYTHONHASHSEED=seed, check=True).stdout for seed in ("1", "2")]
    assert said[0] == said[1]
    assert len(said[0]) == 65


def test_helpers_that_share_helpers_are_looked_into_once():
    names = {"deep0": 1.0}
    for depth in range(1, 40):
        exec(f"def a{depth}(x): return deep{depth - 1}\ndef b{depth}(x): return deep{depth - 1}\n", names)
        exec(f"def deep{depth}(x): return a{depth}(x) + b{depth}(x)\n", names)
    began = time.monotonic()
    assert function_identity.identity(names["deep39"]) != function_identity.identity(names["deep38"])
    assert time.monotonic() - began < 10  # not 2**39 looks


def test_a_script_that_registers_other_values_is_another_version(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport jaxstyle\nfrom jaxstyle.spec import tables\n"
        "def made(k):\n    def loss(view, kept):\n        return k * view.image.sum()\n    return loss\n"
        "jaxstyle.register(jaxstyle.LossTerm('dark', loss=made(float(sys.argv[1]))))\n"
        "print(tables.TERMS['dark'].origin.sha256)\n"
    )
    said = [run_python(script, k, check=True).stdout for k in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_term_registered_again_reads_its_constants_again():
    names = {"jnp": jnp, "K": 0.0}
    exec("def loss(view, kept):\n    return jnp.sum((view.image.mean((0, 1)) - K) ** 2)\n", names)
    content, means = random_image(32, 48, 1), []
    for names["K"] in (0.0, 255.0):
        jaxstyle.register(term(loss=names["loss"], keep=None))
        means.append(jaxstyle.stylize(content, content, bright_weight=1e9, **TRANSFER).mean())
    assert means[0] < means[1] - 50


@pytest.mark.parametrize("flags", [("--plugin",), ("--plugin", ""), ("--plugin=",)])
def test_a_plugin_flag_without_a_file_is_an_error(flags, capsys):
    assert command(*flags, "--dry-run") == 2
    assert "plugin: no file is named; give the path of a Python file" in capsys.readouterr().err


def test_the_plan_names_the_terms(palette, tmp_path, save_image, capsys):
    content, style = save_image("c.png", 32, 48), save_image("s.png", 32, 32, seed=1)
    common = ("--content", content, "--style", style, "--size", 48, "--plugin", palette, "--dry-run")
    assert command(*common, "--palette-weight", 1) == 0
    assert "and the palette loss" in capsys.readouterr().out
    assert command(*common, "--palette-weight", 0) == 0
    assert "palette" not in capsys.readouterr().out
