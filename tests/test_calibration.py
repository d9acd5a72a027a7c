"""The balance of content and style: against the oracle, its laws, and its use in a sweep."""

import contextlib
import io
import json
import pickle
import threading
from dataclasses import replace

import jax
import numpy as np
import oracle
import pytest
from conftest import random_image, run_forked
from PIL import Image

from jaxstyle import calibrate
from jaxstyle.cell import start
from jaxstyle.device.engine import Engine
from jaxstyle.device.loss_balance import Balances, balanced_weights
from jaxstyle.device.loss_pull import measure_pull
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.weights import load
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.run.dry_run import dry_run
from jaxstyle.run.sweep import run_sweep
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.tables import POOLINGS
from jaxstyle.spec.toml import to_toml

FIVE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A content of 64x48 px and a style of another shape, as files."""
    folder = tmp_path_factory.mktemp("images")
    paths = {}
    for name, height, width, seed in (("content", 48, 64, 1), ("style", 64, 40, 2)):
        paths[name] = str(folder / f"{name}.png")
        Image.fromarray(random_image(height, width, seed)).save(paths[name])
    return paths


def weighed(images, loaded, **settings):
    """The balance of the two images, and everything it was made from."""
    settings = {"size": "64", "alpha_beta": ("1x",), **settings}
    sweep = resolve(Sweep(content=(images["content"],), style=(images["style"],), **settings))
    (cell,) = sweep_cells(sweep)
    pictures, engine = Pictures(sweep, [cell]), Engine(loaded, winograd=False)
    return Balances(sweep, [cell], pictures, engine).of(cell), sweep, cell, pictures, engine


def test_the_balance_is_the_oracles(images, vgg19_weights):
    found, _, cell, pictures, _ = weighed(images, vgg19_weights)
    content, style = pictures.content[cell.content], pictures.style[cell.style_source]
    fitted = pictures.fitted(cell.style, (48, 64))
    alone = {"alpha": 0.0, "beta": 1.0}
    at_content, _ = oracle.loss_and_gradient(vgg19_weights, content, content, style, **alone)
    at_style, _ = oracle.loss_and_gradient(vgg19_weights, fitted, content, style, **alone)
    assert found.style_loss == pytest.approx(at_content["style"], rel=1e-4)
    assert found.content_loss == pytest.approx(at_style["content"], rel=1e-5)
    assert found.alpha_beta == pytest.approx(at_content["style"] / at_style["content"], rel=1e-4)
    for name in FIVE:
        assert found.layer_loss[name] == pytest.approx(at_content["layers"][name], rel=1e-4)
    grams = oracle.style_grams(vgg19_weights, style, FIVE, "avg")
    for name in FIVE:
        assert found.gram_trace[name] == pytest.approx(np.trace(grams[name]), rel=1e-5)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.shares["conv4_1"] > 0.5  # as with every raw VGG19


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_features_times_s_make_the_balance_times_s_squared(images, narrow, scale):
    """L_content goes with s^2 and L_style with s^4."""
    first = next(iter(narrow))
    scaled = {
        name: (kernel * (scale if name == first else 1), bias * scale)
        for name, (kernel, bias) in narrow.items()
    }
    plain, larger = (weighed(images, loaded)[0].alpha_beta for loaded in (narrow, scaled))
    assert larger / plain == pytest.approx(scale**2, rel=1e-4)


def test_how_hard_losses_pull_is_the_oracles_gradient(images, vgg19_weights):
    balance, sweep, cell, pictures, engine = weighed(images, vgg19_weights)
    with jax.transfer_guard("disallow"):  # as a surrounding program may have set it
        found = measure_pull(sweep, cell, balance, pictures, engine)
    content, style = pictures.content[cell.content], pictures.style[cell.style_source]
    noise = np.array([123.68, 116.779, 103.939]) + np.asarray(
        start.noise(np.asarray(0, np.uint32), (48, 64, 3))
    )

    def rms(image, **weights):
        gradient = oracle.loss_and_gradient(vgg19_weights, image, content, style, **weights)[1]
        return np.sqrt((gradient**2).mean())

    assert found["noise"].content == pytest.approx(rms(noise, alpha=1.0, beta=0.0), rel=1e-3)
    assert found["noise"].style == pytest.approx(rms(noise, alpha=0.0, beta=1.0), rel=1e-3)
    only = {"alpha": 0.0, "beta": 1.0, "style_weights": {"conv2_1": 0.2}}
    assert found["content"].layer["conv2_1"] == pytest.approx(rms(content, **only), rel=1e-3)
    assert found["content"].content == 0
    assert found["content"].alpha_beta == np.inf


def test_balanced_weights_give_each_layer_its_equal_share(images, vgg19_weights):
    found = weighed(images, vgg19_weights, style_weights="balanced")[0]
    assert list(found.shares.values()) == pytest.approx([0.2] * 5)
    assert sum(found.weights.values()) == pytest.approx(1.0)
    own = weighed(images, vgg19_weights, style_weights="balanced", style_layers=("conv1_1:2+conv2_1:0.5",))[
        0
    ]
    assert own.weights == {"conv1_1": 2.0, "conv2_1": 0.5}


def test_what_cannot_be_balanced_says_so(images, vgg19_weights):
    with pytest.raises(JaxstyleError, match=r"^style_weights: the style loss of conv2_1 is 0 "):
        balanced_weights({"conv1_1": 1.0, "conv2_1": 0.0})
    same = {"content": images["content"], "style": images["content"]}
    with pytest.raises(
        JaxstyleError, match=r"^alpha_beta: no balance: the style image's content loss"
    ) as error:
        weighed(same, vgg19_weights)
    pair = f"{same['content']} and {same['style']}, which are equal there; leave that pair out"
    assert pair in str(error.value)


def test_equal_pictures_have_no_balance_though_rounding_and_a_crop_tell_them_apart(narrow, tmp_path):
    """At 32 px, 75x61 becomes 32x26; as a style it is fitted to that, which crops it."""
    path = str(tmp_path / "same.png")
    Image.fromarray(random_image(61, 75, 3)).save(path)
    for weights, what, style_loss in (
        ("equal", "style loss 0, ", "gram"),
        ("balanced", "is 0 at the content image", "gram"),
        ("equal", "style loss 0, ", "wasserstein"),
    ):
        settings = {"size": "32", "style_weights": weights, "style_loss": style_loss}
        settings |= {"style_layers": ("conv1_1+conv2_1",), "content_layer": ("conv2_1",)}
        with pytest.raises(JaxstyleError, match=what):
            weighed({"content": path, "style": path}, narrow, **settings)


def test_the_normalised_networks_balance_is_decades_below_the_raw_ones(images, vgg19_weights):
    raw = weighed(images, vgg19_weights)[0].alpha_beta
    normalised = weighed(images, load(network="normalised").layers)[0].alpha_beta
    assert 1e-7 < normalised / raw < 1e-3


# --- in a sweep ------------------------------------------------------------------------------------

SMALL = {"size": "48x36", "steps": (2,), "optimizer": "adam", "style_layers": ("conv1_1+conv2_1",)}
SMALL |= {"content_layer": ("conv2_2",), "conv": "plain"}


def test_a_relative_ratio_becomes_a_number_that_the_spec_keeps(images, tmp_path, monkeypatch):
    sweep = Sweep(
        content=(images["content"],),
        style=(images["style"],),
        alpha_beta=("0.1x", 1e-3, "2x"),
        style_weights="balanced",
        **SMALL,
    )
    first = run_sweep(sweep, RunOptions(out=str(tmp_path / "a"), quiet=True))
    given = [row["alpha_beta_given"] for row in first.rows]
    assert given == ["0.1x", 1e-3, "2x"]
    low, plain, high = (row["alpha_beta"] for row in first.rows)
    assert high / low == pytest.approx(20)
    assert plain == 1e-3

    # At 2x the balance, pure content costs half of what pure style does: by the oracle, from the CSV alone.
    recorded = dict(part.split(":") for part in first.rows[0]["style_layer_weights"].split("+"))
    ours = {name: float(w) for name, w in recorded.items()}
    assert sum(ours.values()) == pytest.approx(1.0)
    resolved = resolve(sweep)
    pictures = Pictures(resolved, sweep_cells(resolved))
    content, style = pictures.content[images["content"]], pictures.style[images["style"], "auto"]
    fitted = pictures.fitted(images["style"], content.shape[:2])
    about = {"content_layer": "conv2_2", "style_weights": ours, "alpha": 0.0}
    layers = load(taps=["conv2_2"]).layers
    at_content, _ = oracle.loss_and_gradient(layers, content, content, style, **about)
    at_style, _ = oracle.loss_and_gradient(layers, fitted, content, style, **about)
    assert at_content["style"] * 2 == pytest.approx(high * at_style["content"], rel=1e-4)
    shares = [ours[name] * at_content["layers"][name] for name in ours]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)

    # The spec records the measurement: nothing is measured again, and the results are the same bytes.
    monkeypatch.setattr(Balances, "of", None)
    again = assemble({"spec": str(tmp_path / "a" / "spec.toml"), "out": str(tmp_path / "b")})
    run_sweep(again.sweep, RunOptions(out=str(tmp_path / "b"), quiet=True))
    for name in ("results.csv", "results.h5", "spec.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    resumed = run_sweep(sweep, RunOptions(out=str(tmp_path / "a"), resume=True, quiet=True))
    assert resumed.rows == first.rows


def test_what_a_spec_measured_is_dropped_with_what_it_was_measured_for(images, tmp_path):
    table = {**images, "content_layer": "conv2_2", "style_layers": "conv1_1+conv2_1"}
    table |= {"alpha_beta": 0.5, "weights": {"conv1_1": 0.25, "conv2_1": 0.75}}
    sweep = resolve(
        Sweep(content=(images["content"],), style=(images["style"],), alpha_beta=("1x",), balance=(table,))
    )
    (tmp_path / "s.toml").write_text(to_toml(sweep, {}))
    spec = {"spec": str(tmp_path / "s.toml")}
    table |= {"style_size": "auto", "regions": "none"}  # which a spec need not say, nor
    table |= {"pool": "avg", "padding": "zeros", "style_loss": "gram", "style_weights": "equal"}
    assert assemble(spec).sweep.balance == (table,)
    assert assemble({**spec, "seed": [3]}).sweep.balance == (table,)
    for changed in ({"size": "48"}, {"pool": "max"}, {"network": "normalised"}, {"style_size": [48]}):
        assert assemble({**spec, **changed}).sweep.balance == ()


def test_only_who_asks_for_a_balance_is_refused_a_pair_without_one(images, tmp_path, capsys):
    flat = str(tmp_path / "flat.png")
    Image.new("RGB", (64, 48), (90, 120, 150)).save(flat)
    pairs = ({"content": [flat], "style": [flat]}, images | {"zip": ["content", "style"]})
    grid = tuple({k: v if isinstance(v, list) else [v] for k, v in pair.items()} for pair in pairs)
    unnamed = Sweep(grid=grid, **SMALL)
    run = run_sweep(unnamed, RunOptions(out=str(tmp_path / "a"), log_format="json"))
    plain, measured = run.rows
    assert float(np.float32(plain["alpha_beta"])) == np.float32(1e-3)
    assert plain["style_layer_weights"] == "conv1_1:0.5+conv2_1:0.5"
    assert measured["alpha_beta"] != pytest.approx(1e-3)
    assert measured["style_layer_weights"] != plain["style_layer_weights"]
    kept = json.loads((tmp_path / "a" / "manifest.json").read_text())
    of_pairs = [table["alpha_beta"] / 10 for table in kept["balance"]]
    assert of_pairs == pytest.approx([plain["alpha_beta"], measured["alpha_beta"]])
    assert kept["style_layer_weights"][0]["weights"] == {"conv1_1": 0.5, "conv2_1": 0.5}
    assert [table["content"] for table in kept["balance"]] == [plain["content"], measured["content"]]
    notes = [line for line in capsys.readouterr().out.splitlines() if '"note"' in line]
    assert [json.loads(line)["path"] for line in notes] == [flat]
    with pytest.raises(JaxstyleError, match="no balance"):
        run_sweep(replace(unnamed, alpha_beta=("0.3x",)), RunOptions(out=str(tmp_path / "b"), quiet=True))


def test_a_run_of_earlier_defaults_goes_on_by_the_same_command(images, tmp_path):
    sweep = Sweep(content=(images["content"],), style=(images["style"],), **SMALL)
    out = tmp_path / "run"
    first = run_sweep(replace(sweep, alpha_beta=(1e-3,)), RunOptions(out=str(out), quiet=True))
    assert run_sweep(sweep, RunOptions(out=str(out), resume=True, quiet=True)).rows == first.rows
    named = {"content": [images["content"]], "style": [images["style"]]} | {k: SMALL[k] for k in SMALL}
    found = assemble({**named, "out": str(out), "resume": True}).sweep
    assert (found.alpha_beta, found.style_weights) == ((1e-3,), ("equal",))
    more = assemble({**named, "out": str(out), "extend": True, "seed": [0, 1]}).sweep
    assert len(run_sweep(more, RunOptions(out=str(out), extend=True, quiet=True)).rows) == 2


def test_a_dry_run_of_relative_ratios_measures_nothing(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Balances, "of", None)
    sweep = Sweep(content=(images["content"],), style=(images["style"],), alpha_beta=("1x",), **SMALL)
    dry_run(sweep, RunOptions(out=str(tmp_path / "none"), json=True, dry_run=True))
    assert json.loads(capsys.readouterr().out)["cells"] == 1


@pytest.fixture(scope="module")
def printed(images):
    """What the command prints of the two images: a table, and JSON."""
    flags = [images["content"], images["style"], "--size", SMALL["size"], "--content-layer", "conv2_2"]
    flags += ["--style-layers", "conv1_1+conv2_1"]
    said = []
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()) as out:
            calibrate.main([*flags, *extra])
        assert stop.value.code == 0
        said.append(out.getvalue())
    return said[0], json.loads(said[1])


def test_the_command_prints_a_table_and_json(printed):
    text, found = printed
    assert f"{found['balance']:.3g} (1x)" in text
    assert [line["layer"] for line in found["layers"]] == ["conv1_1", "conv2_1"]
    assert {(m["network"], m["pool"]) for m in found["moves"]} == {
        (network, pool) for network in ("raw", "normalised") for pool in POOLINGS.names
    }
    balances = {(m["network"], m["pool"]): m["balance"] for m in found["moves"]}
    assert balances["raw", "avg"] == found["balance"]
    assert balances["raw", "max"] > balances["raw", "avg"]


def test_the_command_measures_at_half_and_twice_the_size_too():
    pair = {"content": ("/c.png",), "style": ("/s.png",)}
    moved = calibrate._moved(Sweep(**pair, size="64"))
    assert [other.size for other in moved] == ["64"] * 2 * len(POOLINGS.names) + ["32", "128"]
    assert len(calibrate._moved(Sweep(**pair, size="64x48"))) == 2 * len(POOLINGS.names)


def test_the_balance_of_the_default_look_is_that_of_a_run_that_names_no_ratio(images, printed, tmp_path):
    look = printed[1]["default_look"]
    assert (look["style_weights"], look["padding"]) == ("balanced", "replicate")
    sweep = Sweep(content=(images["content"],), style=(images["style"],), **SMALL)
    (row,) = run_sweep(sweep, RunOptions(out=str(tmp_path / "run"), quiet=True)).rows
    assert row["alpha_beta_given"] == "0.1x"
    assert float(row["alpha_beta"]) == pytest.approx(0.1 * look["balance"], rel=1e-5)


def test_a_wrong_layer_is_one_line(images):
    done = run_forked("-m", "jaxstyle.calibrate", *images.values(), "--style-layers", "conv9_1")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "jaxstyle: error: style_layers: VGG19 has no layer 'conv9_1'; did you mean"
    )
    assert len(done.stderr.splitlines()) == 1


def test_pictures_can_be_sent_to_a_worker(images):
    """They once kept who is told of each image that is read, with a lock of the display."""
    sweep = resolve(Sweep(content=(images["content"],), style=(images["style"],), alpha_beta=(1.0,)))
    told, lock = [], threading.RLock()

    def tell(done, total):
        with lock:
            told.append((done, total))

    read = Pictures(sweep, sweep_cells(sweep), on_read=tell)
    assert told[-1] == (2, 2)
    sent = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(sent.content[images["content"]], read.content[images["content"]])
