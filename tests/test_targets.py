"""Styles that are no single image: blends, and files of targets with what they are made of."""

import csv
import io
import itertools
import re
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import ROOT, random_image
from PIL import Image

from jaxstyle import targets as command
from jaxstyle.cell import losses, moments, wasserstein
from jaxstyle.console import progress
from jaxstyle.derived.crops import write_crops
from jaxstyle.device import engine as engines
from jaxstyle.device.engine import Engine
from jaxstyle.device.loss_balance import Balances, plain_program
from jaxstyle.device.style_rows import style_rows
from jaxstyle.inputs import target_sets
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.target_files import (
    FORMAT,
    MADE_FOR,
    Statistics,
    TargetFile,
    check_made_for,
    file_bytes,
    read_targets,
)
from jaxstyle.inputs.weights import PACKAGED_SHA256
from jaxstyle.metrics import feature_distances
from jaxstyle.metrics.build import score_run
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.fingerprints import _contents
from jaxstyle.rundir.picture_names import PictureNames
from jaxstyle.rundir.records import open_record
from jaxstyle.spec import blends
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.folders import without
from jaxstyle.spec.moved_files import named_files, renamed
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.toml import to_toml

SET = ("conv1_1", "pool1")


# --- texts ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with files of awkward names, as the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "x+y.jpg", "p:0.5", "c.npz"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("a.jpg", {"a.jpg": 1}),
        ("a.jpg+b.jpg", {"a.jpg": 0.5, "b.jpg": 0.5}),
        ("a.jpg:0.7+b.jpg:0.3", {"a.jpg": 0.7, "b.jpg": 0.3}),
        ("a.jpg:14 + b.jpg:6", {"a.jpg": 0.7, "b.jpg": 0.3}),
        ({"a.jpg": 14, "b.jpg": np.float32(6)}, {"a.jpg": 0.7, "b.jpg": 0.3}),
        ("a.jpg:1+b.jpg:0", {"a.jpg": 1}),
        ("x+y.jpg", {"x+y.jpg": 1}),
        ("x+y.jpg:1+a.jpg:3", {"x+y.jpg": 0.25, "a.jpg": 0.75}),
        ("b.jpg+x+y.jpg", {"b.jpg": 0.5, "x+y.jpg": 0.5}),
        ("p:0.5", {"p:0.5": 1}),
        ("p:0.5:3+c.npz:1", {"p:0.5": 0.75, "c.npz": 0.25}),
        ("gone.jpg+b.jpg", {"gone.jpg": 0.5, "b.jpg": 0.5}),
        ("gone:0.5", {"gone:0.5": 1}),
    ],
)
def test_a_blend_has_weights_of_sum_1_and_a_files_name_is_that_file(files, given, parts):
    found = blends.as_style("style", given)
    assert dict(blends.parts_of(found)) == pytest.approx({str(files / k): w for k, w in parts.items()})
    assert blends.as_style("style", found) == found
    assert blends.is_blend(found) == (len(parts) > 1)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("a.jpg:0+b.jpg:0", "all 0"),
        ("a.jpg:-1+b.jpg:2", "at least 0"),
        ("a.jpg:nan+b.jpg:2", "not finite"),
        ("a.jpg:1+b.jpg", "give every file of a blend a weight, or none"),
        ("a.jpg+a.jpg", "twice"),
        ("a.jpg+", "empty name"),
        ("none+a.jpg", "none is no part of a blend"),
        ({}, "without files"),
        ({"a.jpg": "much"}, "not a number"),
    ],
)
def test_a_wrong_blend_is_told_in_one_line(files, given, why):
    with pytest.raises(JaxstyleError, match=why) as error:
        blends.as_style("style", given)
    assert str(error.value).startswith("style: ")


def test_blends_are_equal_whatever_the_order_of_their_files(files):
    with pytest.raises(JaxstyleError, match="given twice"):
        resolve(Sweep(content=("none",), style=("a.jpg+b.jpg", "b.jpg:2+a.jpg:2")))


def test_a_spec_is_read_as_it_was_written_wherever_its_files_are_now(files):
    (files / "spec.toml").write_text(
        'content = "none"\nsize = "64"\nstyle = [{"a.jpg" = 1, "x+y.jpg" = 2, "b.jpg" = 3}, "c.npz"]\n'
        '[[grid]]\nstyle = ["a.jpg:0.1+b.jpg:0.2", "b.jpg"]\nseed = [1, 2]\nzip = ["style", "seed"]\n'
    )
    sweep = assemble({"spec": "spec.toml"}, cwd=files).sweep
    (files / "run").mkdir()
    (files / "run" / "spec.toml").write_text(to_toml(sweep, {}, run=files / "run"))
    assert '{"../a.jpg" = ' in (files / "run" / "spec.toml").read_text()
    again = assemble({"spec": "run/spec.toml"}, cwd=files).sweep
    assert sweep_cells(again) == sweep_cells(sweep)
    assert {str(files / n) for n in ("a.jpg", "b.jpg", "c.npz", "x+y.jpg")} == {*named_files(sweep)}
    moved = renamed(sweep, {axis: {str(files / "a.jpg"): "/new/a.jpg"} for axis in (*AXES, "weights")})
    assert "/new/a.jpg" in named_files(moved)
    assert str(files / "a.jpg") not in named_files(moved)
    left = without(sweep, {str(files / "a.jpg"): "gone"})
    assert [cell.style for cell in sweep_cells(left)] == [str(files / "b.jpg")]


AXES = ("content", "style", "init")


def test_a_fingerprint_is_of_the_contents_and_the_weights_of_a_blend(files):
    one, other = (blends.as_style("style", f"a.jpg:{w}+b.jpg:1") for w in (1, 2))
    digests = {str(files / "a.jpg"): "A", str(files / "b.jpg"): "B"}
    moved = blends.renamed(one, lambda path: path.replace("a.jpg", "new.jpg"))
    assert _contents(one, digests) == [["A", 0.5], ["B", 0.5]] != _contents(other, digests)
    assert _contents(moved, {str(files / "new.jpg"): "A", **digests}) == _contents(one, digests)


def test_a_picture_is_named_after_the_files_of_a_blend(files):
    text = "styles/Café nr 1.jpg:0.7+b.jpg:0.3"
    style = blends.as_style("style", text)
    (cell,) = sweep_cells(resolve(Sweep(content=("none",), style=(text,), size="64")))
    names = PictureNames((cell,), (5,), {("style", style): text})
    assert names.name(0, 5) == "pictures/none__Cafe_nr_1_0.7+b_0.3__000000.png"


def test_a_style_that_is_no_image_is_no_start(files):
    for style in ("a.jpg+b.jpg", "c.npz"):
        with pytest.raises(JaxstyleError, match=r"init: style: .* is no image"):
            sweep_cells(resolve(Sweep(content=("/c",), style=(style,), init=("style",))))


# --- the oracle -----------------------------------------------------------------------------------


def raw_moments(weights, image):
    """A and mu at the layers of SET, in float64 by the oracle's network."""
    _, found = oracle.network(weights, image, "avg", SET[-1])
    flat = {name: found[name].reshape(-1, found[name].shape[-1]) for name in SET}
    return {name: (f.T @ f / len(f), f.mean(0)) for name, f in flat.items()}


def blend_of(parts, shares):
    return {
        name: tuple(sum(b * part[name][i] for b, part in zip(shares, parts, strict=True)) for i in (0, 1))
        for name in SET
    }


def gram_loss(x, a):
    return ((x[0] - a[0]) ** 2).sum() / (4 * len(a[0]) ** 2)


def moments_loss(x, a):
    return gram_loss(x, a) + 2 * np.trace(a[0]) * ((x[1] - a[1]) ** 2).sum() / (4 * len(a[0]) ** 2)


def wasserstein_loss(x, a):
    (c, c_a), n = (m[0] - np.outer(m[1], m[1]) for m in (x, a)), len(a[1])
    ridge = 0.1 * np.trace(c_a) / n * np.eye(n)
    c, c_a = c + ridge, c_a + ridge
    values, vectors = np.linalg.eigh(c_a)
    root = vectors * np.sqrt(values) @ vectors.T
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c @ root), 0)).sum()
    return (((x[1] - a[1]) ** 2).sum() + np.trace(c) + np.trace(c_a) - 2 * trace) / n


LOSSES = {
    "gram": (gram_loss, losses.style_layer_loss),
    "moments": (moments_loss, moments.loss),
    "wasserstein": (wasserstein_loss, wasserstein.loss),
}


@pytest.fixture(scope="module")
def images():
    return random_image(40, 56, 1), random_image(56, 40, 2), random_image(40, 56, 3)


@pytest.fixture(scope="module")
def narrow_engine():
    from conftest import narrow_weights

    return Engine(narrow_weights(), winograd=False)


def rows_of(engine, loss, parts, in_files=()):
    """The rows of a blend of images and files: `(image or targets, weight)`."""
    settings = {"content": ("none",), "size": "64", "style_layers": ("+".join(SET),), "padding": "zeros"}
    names = [f"/{i}.npz" if i in in_files else f"/{i}" for i in range(len(parts))]
    style = dict(zip(names, (weight for _, weight in parts), strict=True))
    sweep = resolve(Sweep(style=(style,), style_loss=loss, **settings))
    (cell,) = sweep_cells(sweep)
    program, made = plain_program(cell, (40, 56), [cell]), dict(zip(names, parts, strict=True))
    files = {name: of for name, (of, _) in made.items() if name.endswith(".npz")}
    rows = style_rows(cell, program, files, lambda part: engine.target_rows(program, made[part[0]][0]))
    return program, jax.tree.map(jnp.asarray, rows)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_blend_of_images_and_files_is_that_of_float64(narrow, narrow_engine, images, loss):
    *styles, x = images
    parts = [raw_moments(narrow, image) for image in (*styles, x)]
    in_file = TargetFile({name: Statistics(*parts[2][name]) for name in SET}, {})
    shares = (0.5, 0.2, 0.3)
    mixed = [(styles[0], 0.5), (styles[1], 0.2), (in_file, 0.3)]
    for own, given in ((shares, mixed), ((0, 0, 1), [(in_file, 1)])):
        in_files = {len(given) - 1}
        program, rows = rows_of(narrow_engine, loss, given, in_files)
        expected, generated = blend_of(parts, own), raw_moments(narrow, styles[1])
        _, found = oracle.network(narrow, styles[1], "avg", SET[-1])
        for name, kept in zip(program.style_taps, rows.style, strict=True):
            of_float64, of_package = LOSSES[loss]
            e = of_package(jnp.asarray(found[name], jnp.float32), kept)
            assert float(e) == pytest.approx(of_float64(generated[name], expected[name]), rel=1e-4)


def test_the_losses_of_a_blends_styles_differ_from_its_own_by_a_constant(narrow, narrow_engine, images):
    """sum_s b_s |G - A_s|^2 = |G - sum_s b_s A_s|^2 + sum_s b_s |A_s|^2 - |sum_s b_s A_s|^2."""
    *styles, x = images
    shares, others = (0.6, 0.4), random_image(24, 33, 9)
    grams = [{n: m[0] for n, m in raw_moments(narrow, image).items()} for image in styles]
    alone = [rows_of(narrow_engine, "gram", [(image, 1)])[1] for image in styles]
    program, blend = rows_of(narrow_engine, "gram", list(zip(styles, shares, strict=True)))
    for at, name in enumerate(program.style_taps):
        mean = sum(b * a[name] for b, a in zip(shares, grams, strict=True))
        constant = sum(b * (a[name] ** 2).sum() for b, a in zip(shares, grams, strict=True))
        constant = (constant - (mean**2).sum()) / (4 * len(mean) ** 2)
        assert np.abs(blend.style[at] - mean).max() < 1e-4 * np.abs(mean).max()
        for image in (x, others):
            _, found = oracle.network(narrow, image, "avg", name)
            features = jnp.asarray(found[name], jnp.float32)
            each = [float(losses.style_layer_loss(features, rows.style[at])) for rows in alone]
            own = float(losses.style_layer_loss(features, blend.style[at]))
            assert np.dot(shares, each) == pytest.approx(own + constant, rel=1e-4)


def test_a_balance_takes_the_content_losses_of_a_blend_and_no_features_of_a_file(
    narrow, narrow_engine, tmp_path
):
    pictures = {"c": random_image(32, 40, 1), "a": random_image(40, 56, 2), "b": random_image(48, 40, 3)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    path = {name: str(tmp_path / f"{name}.png") for name in pictures}
    style = f"{path['a']}:0.7+{path['b']}:0.3"
    given = {"content": (path["c"],), "content_layer": ("conv1_2",), "style_layers": ("conv1_1",)}
    sweep = resolve(Sweep(**given, style=(style,), size="40", alpha_beta=("1x",)))
    (cell,) = cells = sweep_cells(sweep)
    made = Pictures(sweep, cells)
    found = Balances(sweep, cells, made, narrow_engine).of(cell)

    def features(pixels):
        return oracle.network(narrow, pixels, "avg", "conv1_2")[1]["conv1_2"]

    p = features(made.content[path["c"]])
    loss = {n: 0.5 * ((features(made.fitted(path[n], (32, 40))) - p) ** 2).sum() for n in "ab"}
    assert found.content_loss == pytest.approx(0.7 * loss["a"] + 0.3 * loss["b"], rel=1e-4)
    with_file = TargetFile({"conv1_1": Statistics(np.eye(4), np.zeros(4))}, {})
    made.targets[path["b"]] = with_file
    balance = Balances(sweep, cells, made, narrow_engine).of(cell)
    assert balance.content_loss == pytest.approx(0.7 * loss["a"] + 0.3 * 0.5 * (p**2).sum(), rel=1e-4)


# --- files ----------------------------------------------------------------------------------------

MADE = {"network": "raw", "pool": "avg", "padding": "zeros", "weights_sha256": PACKAGED_SHA256}


def entries(seed=0, channels=64, name="conv1_1", rank=None):
    """The entries of a file, as anybody's NumPy would make them from the description."""
    random = np.random.default_rng(seed)
    f = np.maximum(random.normal(0.3, 1, (rank or 900, channels)), 0).astype(np.float32) * 20
    return {
        "format": FORMAT,
        **MADE,
        f"gram/{name}": f.T @ f / np.float32(len(f)),
        f"mean/{name}": f.mean(0),
        f"positions/{name}": np.int64(len(f)),
    }


def saved(path, found):
    with open(path, "wb") as file:
        np.savez(file, **found)
    return str(path)


def test_a_file_is_read_as_it_was_written(tmp_path):
    own = entries()
    found = read_targets(saved(tmp_path / "t.npz", own))
    assert found.made_for == MADE
    of = found.layers["conv1_1"]
    assert np.abs(of.gram - own["gram/conv1_1"]).max() < 1e-3
    assert (of.mean == own["mean/conv1_1"]).all()
    assert of.positions == 900
    (tmp_path / "again.npz").write_bytes(file_bytes(found))
    assert file_bytes(read_targets(str(tmp_path / "again.npz"))) == file_bytes(found)
    with np.load(tmp_path / "again.npz") as plain:
        assert {n: str(plain[n].dtype) for n in plain.files if "/" in n} == {
            "gram/conv1_1": "float32",
            "mean/conv1_1": "float32",
            "positions/conv1_1": "int64",
        }


def changed(**own):
    """`entries` with some replaced: `_` in names for `/conv1_1`, None to leave one out."""
    found = entries() | {key.replace("_of", "/conv1_1"): value for key, value in own.items()}
    return {key: value for key, value in found.items() if value is not None}


LOPSIDED = np.eye(64, dtype=np.float32)
LOPSIDED[0, 1] = 0.5
NEGATIVE = np.diag([-1.0, *[5.0] * 63]).astype(np.float32)
HOSTILE = {
    "a pickle": (changed(gram_of=np.array([{}], object)), "type object"),
    "pickled text": (changed(format=np.array([FORMAT], object)), "type object"),
    "another shape": (changed(gram_of=np.eye(8, dtype="f4")), r"shape \(8, 8\); it must be \(64, 64\)"),
    "a flat shape": (changed(gram_of=np.zeros(4096, "f4")), "shape"),
    "whole numbers": (changed(gram_of=np.eye(64, dtype=int)), "type int64"),
    "NaN": (changed(gram_of=np.full((64, 64), np.nan)), "not finite"),
    "too large for float32": (changed(gram_of=np.eye(64) * 1e39), "not finite"),
    "not symmetric": (changed(gram_of=LOPSIDED), "gram/conv1_1 is not symmetric"),
    "not positive": (changed(gram_of=NEGATIVE), "gram/conv1_1 is not positive"),
    "negative": (changed(gram_of=-np.eye(64)), "gram/conv1_1 is not positive"),
    "a mean that no features have": (changed(mean_of=np.full(64, 1e4)), "is too large for"),
    "a bomb": (changed(gram_of=np.zeros((4000, 4000), "f4")), "64000128 bytes"),
    "no positions": (changed(positions_of=np.int64(0)), "at least 1"),
    "another format": (changed(format="jaxstyle-targets-2"), "jaxstyle-targets-2"),
    "no format": (changed(format=None), "no entry format"),
    "no network": (changed(network=None), "no entry network"),
    "no mean": (changed(mean_of=None), "no entry mean/conv1_1"),
    "no layer": (changed(gram_of=None), "of no layer"),
    "a spectrum of real numbers": (changed(spectrum=np.zeros((8, 8, 3))), "type float64"),
    "a spectrum of one channel": (changed(spectrum=np.zeros((8, 8), "c8")), r"must be \(h, w, 3\)"),
    "a spectrum of no image": (
        changed(spectrum=np.full((8, 8, 3), 1j, "c8") * 1e3),
        "spectrum is of no image",
    ),
    "NaN in a spectrum": (changed(spectrum=np.full((8, 8, 3), np.nan, "c8")), "not finite"),
    "a negative spread": (changed(gram_sd_of=-np.eye(64), mean_sd_of=np.ones(64)), "is negative"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_told_in_one_line(tmp_path, kind):
    found, why = HOSTILE[kind]
    path = saved(tmp_path / "t.npz", found)
    with pytest.raises(JaxstyleError, match=why) as error:
        read_targets(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_a_damaged_archive_is_told_in_one_line(tmp_path):
    path = tmp_path / "t.npz"
    saved(path, entries())
    whole = path.read_bytes()
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (64, 64)})
    short = io.BytesIO()
    with zipfile.ZipFile(short, "w") as archive, zipfile.ZipFile(io.BytesIO(whole)) as own:
        for name in own.namelist():
            archive.writestr(name, huge.getvalue() if name.startswith("gram") else own.read(name))
    for data in (b"", b"PK", b"no archive", whole[:5000], whole[:200] + b"\xff" * 4000 + whole[4200:],
                 short.getvalue()):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(JaxstyleError) as error:
            read_targets(str(path))
        assert str(error.value).startswith(str(path))
    with pytest.raises(JaxstyleError, match=r"gone\.npz: cannot be read"):
        read_targets(str(tmp_path / "gone.npz"))


def test_rounding_of_float32_is_no_fault(tmp_path):
    own = entries(channels=512, name="conv4_1", rank=40)
    assert np.linalg.eigvalsh(own["gram/conv4_1"])[0] < 0
    read_targets(saved(tmp_path / "t.npz", own), ["conv4_1"])


@pytest.mark.parametrize("name", MADE_FOR)
def test_targets_of_another_network_are_refused_with_both_named(tmp_path, name):
    here = dict(zip(MADE_FOR, ("normalised", "max", "circular", "0" * 64), strict=True))
    sweep = Sweep(content=("none",), style=("t.npz",), **{name: here[name]} if name in MADE_FOR[:3] else {})
    path = saved(tmp_path / "t.npz", entries())
    sha256 = here[name] if name == "weights_sha256" else PACKAGED_SHA256
    sweep = resolve(Sweep(**{**vars(sweep), "alpha_beta": (0.0,)}))
    with pytest.raises(JaxstyleError) as error:
        check_made_for(path, read_targets(path), sweep, sha256)
    assert MADE[name] in str(error.value)
    assert here[name] in str(error.value)


def test_a_layer_that_a_file_lacks_is_named(tmp_path):
    with pytest.raises(JaxstyleError, match="has no layer conv2_1, only conv1_1"):
        read_targets(saved(tmp_path / "t.npz", entries()), ["conv1_1", "conv2_1"])


# --- ladders, means, random ones ------------------------------------------------------------------


def statistics(seed, positions, channels=24):
    random = np.random.default_rng(seed)
    f = np.maximum(random.normal(0.2, 1, (positions, channels)) @ random.normal(0, 1, (channels,) * 2), 0)
    return Statistics(f.T @ f / positions, f.mean(0), positions)


def as_targets(of):
    return TargetFile({"conv1_1": of}, MADE)


def covariance(of):
    return of.gram - np.outer(of.mean, of.mean)


def w2(a, b):
    """The squared Wasserstein-2 distance, by eigenvalues of the product of the covariances."""
    values = np.linalg.eigvals(covariance(a) @ covariance(b)).real
    cross = np.sqrt(np.maximum(values, 0)).sum()
    spread = np.trace(covariance(a)) + np.trace(covariance(b)) - 2 * cross
    return ((a.mean - b.mean) ** 2).sum() + spread


@pytest.mark.parametrize("positions", [500, 12], ids=["regular", "singular"])
def test_a_wasserstein_ladder_has_its_ends_and_is_the_shortest_way(positions):
    a, b = statistics(1, positions), statistics(2, positions)
    ladder = [
        of.layers["conv1_1"] for of in target_sets.ladder(as_targets(a), as_targets(b), 11, "wasserstein")
    ]
    assert (ladder[0].gram == a.gram).all()
    assert (ladder[-1].gram == b.gram).all()
    whole = w2(a, b)
    for rung, own in enumerate(ladder):
        assert w2(a, own) == pytest.approx((rung / 10) ** 2 * whole, rel=1e-4, abs=1e-6 * whole)
        assert np.linalg.eigvalsh(covariance(own))[0] > -1e-9 * np.trace(own.gram)
    nearly = target_sets._geodesic(a, b, 1.0), target_sets._geodesic(a, b, 0.0)
    for end, own in zip((b, a), nearly, strict=True):
        assert np.abs(own.gram - end.gram).max() < 1e-9 * np.abs(end.gram).max()
    if positions > 24:  # McCann's map needs the inverse root of the first covariance
        c, d, t = covariance(a), covariance(b), 0.3
        root = oracle_root(c)
        inverse = np.linalg.inv(root)
        way = 0.7 * np.eye(24) + t * inverse @ oracle_root(root @ d @ root) @ inverse
        mean = 0.7 * a.mean + t * b.mean
        expected = way @ c @ way + np.outer(mean, mean)
        assert np.abs(ladder[3].gram - expected).max() < 1e-9 * np.abs(expected).max()


def oracle_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def test_a_linear_ladder_has_its_ends_and_blends_raw_moments():
    a, b = statistics(1, 60), statistics(2, 60)
    ladder = [of.layers["conv1_1"] for of in target_sets.ladder(as_targets(a), as_targets(b), 5, "linear")]
    assert next(
        target_sets.ladder(as_targets(a), as_targets(b), 10**9, "linear")
    )  # one in memory at a time
    for rung, own in enumerate(ladder):
        t = rung / 4
        assert np.abs(own.gram - ((1 - t) * a.gram + t * b.gram)).max() <= 1e-12 * a.gram.max()
        assert np.allclose(own.mean, (1 - t) * a.mean + t * b.mean, rtol=1e-12)
    assert (ladder[0].gram == a.gram).all()
    assert (ladder[4].gram == b.gram).all()


def test_the_mean_and_the_spread_are_numpys():
    several = [statistics(seed, 30 + seed) for seed in range(5)]
    found = target_sets.mean_and_sd(map(as_targets, several)).layers["conv1_1"]
    for kind in ("gram", "mean"):
        values = np.stack([getattr(of, kind) for of in several])
        assert np.allclose(getattr(found, kind), values.mean(0), rtol=1e-12)
        assert np.allclose(getattr(found, f"{kind}_sd"), values.std(0), rtol=1e-9)
    assert found.positions == sum(of.positions for of in several)


def test_random_targets_follow_from_their_seed_and_are_moments_of_some_features():
    mean = target_sets.mean_and_sd(as_targets(statistics(seed, 80)) for seed in range(6))
    draws = [target_sets.drawn("m.npz", mean, seed).layers["conv1_1"] for seed in range(40)]
    again = target_sets.drawn("m.npz", mean, 3).layers["conv1_1"]
    assert (again.gram == draws[3].gram).all()
    for a, b in itertools.combinations(draws[:4], 2):
        assert np.abs(a.gram - b.gram).max() > 0.01 * a.gram.max()
    for own in draws:
        assert (own.gram == own.gram.T).all()
        for matrix in (own.gram, covariance(own)):
            assert np.linalg.eigvalsh(matrix)[0] > -1e-9 * np.trace(own.gram)
    of = mean.layers["conv1_1"]
    off = ~np.eye(24, dtype=bool)  # cutting eigenvalues raises the diagonal
    apart = (np.mean([own.gram for own in draws], 0) - of.gram)[off] / of.gram_sd[off]
    assert np.abs(apart).mean() < 0.3
    with pytest.raises(JaxstyleError, match=r"m\.npz: has no standard deviations"):
        target_sets.drawn("m.npz", as_targets(statistics(1, 9)), 0)


def test_a_mixture_of_pictures_is_no_distance_from_their_blend():
    """The features of two pictures side by side have the blended moments."""
    random = np.random.default_rng(0)
    a, b = (random.normal(m, 1, (6, n, 5)) for m, n in ((0, 30), (2, 10)))
    side = [np.concatenate([a, b], 1)]
    blend = feature_distances.blended([feature_distances.gaussians([x]) for x in (a, b)], (0.75, 0.25))
    assert feature_distances.style_distance(feature_distances.gaussians(side), blend) < 1e-6


# --- runs -----------------------------------------------------------------------------------------

SHALLOW = {
    "content": ("none",),
    "style_layers": ("conv1_1+pool1",),
    "size": "40x32",
    "optimizer": "adam",
    "conv": "plain",
    "steps": (2,),
}


def run_command(*arguments):
    with pytest.raises(SystemExit) as done:
        command.main([*map(str, arguments), "--layers", "conv1_1", "pool1", "--size", "40"])
    return done.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two images, their ladder and a run of the first alone."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("a.png", 1), ("b.png", 2)):
        Image.fromarray(random_image(40, 40, seed)).save(folder / name)
    code = run_command(folder / "a.png", folder / "b.png", "--interpolate", 3, "-o", folder / "l.npz")
    assert code == 0
    run_sweep(Sweep(style=(str(folder / "a.png"),), **SHALLOW), options(folder, "alone"))
    return folder


def options(folder, name, **more):
    return RunOptions(out=str(folder / name), quiet=True, no_compile_cache=True, **more)


def test_a_ladders_files_are_numbered_and_their_ends_are_the_images(made):
    ladder = [read_targets(str(made / f"l-0{n}.npz")) for n in range(3)]
    assert not (made / "l-03.npz").exists()
    assert ladder[0].made_for == {**MADE, "padding": "replicate"}
    weights = oracle_weights()
    for own, name in ((ladder[0], "a.png"), (ladder[2], "b.png")):
        pixels = np.asarray(Image.open(made / name))
        _, found = oracle.network(weights, pixels, "avg", "pool1", "replicate")
        for layer in ("conv1_1", "pool1"):
            f = found[layer].reshape(-1, 64)
            gram = f.T @ f / len(f)
            assert np.abs(own.layers[layer].gram - gram).max() < 1e-4 * np.abs(gram).max()
            assert np.allclose(own.layers[layer].mean, f.mean(0), rtol=1e-4, atol=1e-3)
            assert own.layers[layer].positions == len(f)


def oracle_weights():
    from jaxstyle.inputs import weights

    return weights.load(taps=["pool1"]).layers


def test_blends_and_files_reuse_the_very_same_compiled_programs(made):
    steps, targets = {*engines._step_programs}, {*engines._target_programs}
    a, b = (str(made / name) for name in ("a.png", "b.png"))
    styles = (f"{a}:0.7+{b}:0.3", str(made / "l-01.npz"), f"{b}+{made / 'l-00.npz'}", {a: 1, b: 1})
    run = run_sweep(Sweep(style=styles, **SHALLOW), options(made, "several"))
    assert {*engines._step_programs} == steps
    assert {*engines._target_programs} == targets
    (program,) = open_record(run.path).manifest["programs"]
    assert program["step_traces"] == program["target_traces"] == 0

    rows = list(csv.DictReader((run.path / "results.csv").read_text().splitlines()))
    assert [row["style"] for row in rows][:2] == [f"{a}:0.7+{b}:0.3", str(made / "l-01.npz")]
    # The middle of the linear ladder is the even blend.
    middle, even = (float(rows[i]["loss_style"]) for i in (1, 3))
    assert middle == pytest.approx(even, rel=1e-4)

    again = run_sweep(Sweep(style=styles, **SHALLOW), options(made, "several", resume=True))
    assert [row["loss_style"] for row in again.rows] == [row["loss_style"] for row in run.rows]
    with RunDirectory(run.path) as held:
        scored = score_run(held).scored
    # An image of 40 px is too small for the held-out network, but not for the other scores.
    assert [scored[i].scores["noise"] is None for i in range(4)] == [False, True, True, False]
    more = Sweep(style=(*styles, f"{a}:0.1+{b}:0.9"), **SHALLOW)
    with pytest.raises(JaxstyleError, match="give that run's settings"):
        run_sweep(more, options(made, "several", resume=True))
    grown = run_sweep(more, options(made, "several", extend=True))
    assert len(grown.rows) == 5


def test_forty_cells_of_one_image_are_one_compiled_program(made):
    sets = ("conv1_1", "upto:pool1", "pool1", "conv1_1:0.2+pool1:0.9")
    given = {**SHALLOW, "style": (str(made / "a.png"),), "style_layers": sets}
    cells = sweep_cells(sweep := resolve(Sweep(**given, seed=("0:10",))))
    plan = make_plan(
        sweep, cells, {c.shaped_by: (32, 40) for c in cells}, platform="cpu", choose_width=lambda *_: 1
    )
    assert (len(cells), len(plan.programs)) == (40, 1)

    before = {*engines._step_programs}
    run = run_sweep(Sweep(**given, seed=("0:2",)), options(made, "sets"))
    assert {*engines._step_programs} == before  # that of the one set that was computed before
    (program,) = open_record(run.path).manifest["programs"]
    assert program["cells"] == len({row["loss_style"] for row in run.rows}) == 8


def test_a_file_gives_the_losses_of_its_image(made):
    styles = (str(made / "a.png"), str(made / "l-00.npz"))
    run = run_sweep(Sweep(style=styles, **SHALLOW), options(made, "both"))
    one, other = (float(row["loss_style"]) for row in run.rows)
    assert one == pytest.approx(other, rel=1e-4)


def test_a_blend_without_one_of_its_files_is_left_out_or_told_in_one_line(made):
    a, gone = str(made / "a.png"), str(made / "gone.png")
    sweep = Sweep(style=(a, f"{a}+{gone}"), **SHALLOW)
    with pytest.raises(JaxstyleError, match=r"gone\.png: cannot be read.*part of a blend"):
        run_sweep(sweep, options(made, "no"))
    run = run_sweep(sweep, options(made, "skips", skip_bad=True))
    assert [row["style"] for row in run.rows] == [a]
    assert gone in open_record(run.path).skipped


def test_targets_for_another_padding_are_refused_before_a_run_begins(made):
    sweep = Sweep(style=(str(made / "l-00.npz"),), **SHALLOW, padding="zeros")
    with pytest.raises(JaxstyleError, match="with padding replicate, and here it is zeros"):
        run_sweep(sweep, options(made, "refused"))
    assert not (made / "refused").exists()


def test_a_file_is_refused_as_a_start_before_a_run_begins(made):
    style = str(made / "l-00.npz")
    sweep = Sweep(style=(style,), init=(style,), **SHALLOW)
    with pytest.raises(JaxstyleError, match=r"l-00\.npz: is a ZIP file"):
        run_sweep(sweep, options(made, "start"))
    assert not (made / "start").exists()


def test_files_made_with_other_paddings_go_each_with_its_own(made):
    command_line = [made / "a.png", "-o", made / "zeros.npz", "--padding", "zeros"]
    assert run_command(*command_line) == 0
    styles = str(made / "zeros.npz"), str(made / "l-00.npz")
    own = {"style": styles, "padding": ("zeros", "replicate")}
    about = {name: value for name, value in SHALLOW.items() if name not in own}
    run = run_sweep(Sweep(**about, grid=({**own, "zip": ("style", "padding")},)), options(made, "zipped"))
    assert [(row["style"], row["padding"]) for row in run.rows] == [*zip(*own.values(), strict=True)]
    with pytest.raises(JaxstyleError, match="with padding zeros, and here it is zeros and replicate"):
        run_sweep(Sweep(**about, **own), options(made, "crossed"))


def test_files_have_the_colours_that_they_were_made_of(made, capsys):
    flags = [made / "a.png", "-o", made / "grey.npz", "--colour", "grey"]
    assert run_command(*flags) == 0
    grey, free = str(made / "grey.npz"), str(made / "l-00.npz")
    image = str(made / "a.png")
    run = run_sweep(Sweep(style=(image, grey, free), **SHALLOW, colour="grey"), options(made, "lumas"))
    of_image, of_grey, of_free = (float(row["loss_style"]) for row in run.rows)
    assert of_grey == pytest.approx(of_image, rel=1e-4)
    assert of_free != pytest.approx(of_image, rel=1e-2)
    images = open_record(run.path).manifest["images"]
    notes = {path: about.get("notes") for path, about in images.items() if path.endswith(".npz")}
    assert [own and own[0].split(";")[0] for own in notes.values()] == [
        [], "has targets of colours in a run of lumas"
    ]  # fmt: skip
    assert main(grey, "-o", made / "again.npz") == 0
    assert read_targets(str(made / "again.npz")).colour == "grey"
    assert main(grey, free, "--mean", "-o", made / "mixed.npz") == 2
    assert "l-00.npz: has targets of colour free, and the others are grey" in capsys.readouterr().err


def main(*arguments):
    with pytest.raises(SystemExit) as done:
        command.main([*map(str, arguments)])
    return done.value.code


def test_a_count_of_positions_that_is_not_known_stays_unknown(made):
    with np.load(made / "l-00.npz") as entries:
        np.savez(made / "own.npz", **{k: v for k, v in entries.items() if not k.startswith("positions")})
    own, other = made / "own.npz", made / "l-02.npz"
    for more in ([], [other, "--interpolate", 3], [other, "--mean"]):
        assert main(own, *more, "-o", made / "made.npz") == 0
    ladder = [read_targets(str(made / f"made-0{n}.npz")) for n in range(3)]
    assert [of.layers["pool1"].positions for of in ladder] == [0, 0, 400]
    assert read_targets(str(made / "made.npz")).layers["pool1"].positions == 0


def test_crops_need_a_style_of_pixels(made):
    sweep = Sweep(style=(str(made / "l-00.npz"),), **SHALLOW, crops=2)
    with pytest.raises(JaxstyleError, match="crops: are of style images, and there is none"):
        run_sweep(sweep, options(made, "crops"))


def test_parts_of_a_blend_have_the_texts_that_name_them(made, monkeypatch):
    monkeypatch.chdir(made)
    about = {
        key: value if isinstance(value, str) else list(map(str, value)) for key, value in SHALLOW.items()
    }
    flags = {**about, "style": ["./a.png:0.7+b.png:0.3", "b.png"], "style_size": ["60"], "crops": 1}
    found = assemble(flags | {"out": "parts", "quiet": True, "regions": ["2x2"]})
    run = run_sweep(found.sweep, found.options)
    rows = list(csv.DictReader((run.path / "crops.csv").read_text().splitlines()))
    assert [row["style"] for row in rows] == ["./a.png", "b.png"]
    before = (run.path / "crops.csv").read_bytes()
    with RunDirectory(run.path) as held:
        write_crops(held, open_record(run.path))
    assert (run.path / "crops.csv").read_bytes() == before
    with h5py.File(run.path / "regions.h5") as file:
        assert {group.attrs["image"] for group in file["style"].values()} == {"./a.png", "b.png"}


def test_the_command_refuses_what_it_cannot_make(made, capsys):
    a, b, npz = made / "a.png", made / "b.png", made / "l-00.npz"
    lines = {
        (a, b, "-o", made / "x.npz"): "2 images; give --mean",
        (a, "-o", made / "x.png"): "its name must end in .npz",
        (npz, "-o", npz): "is read by this command",
        (npz, "--spectrum", "-o", made / "x.npz"): "--spectrum: is that of an image",
        (f"{a}+{b}", "--spectrum", "-o", made / "x.npz"): "--spectrum: is that of an image",
        (a, "--interpolate", 3, "-o", made / "x.npz"): "give two",
        (a, b, "--interpolate", 1, "-o", made / "x.npz"): "must be 2 to 1000",
        (a, b, "--interpolate", 3, "--along", "up", "-o", made / "x.npz"): "use linear or wasserstein",
        (a, b, "--mean", "--spectrum", "-o", made / "x.npz"): "leave --mean out",
        (npz, "--random", 1, "-o", made / "x.npz"): "no standard deviations",
        (npz, "--pool", "max", "-o", made / "x.npz"): "with pool avg, and here it is max",
        (made, "-o", made / "x.npz"): "is a folder",
        ("none", "-o", made / "x.npz"): "none: it has no targets",
        (a, a, "--mean", "-o", made / "x.npz"): f"IMAGE: {a} is given twice",
    }
    for arguments, why in lines.items():
        assert run_command(*arguments) == 2
        said = capsys.readouterr().err
        assert why in said
        assert said.count("\n") == 1
    assert not [*made.glob("x*")]


def test_the_command_says_how_far_it_is_unless_it_is_quiet(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes((made / name).read_bytes())
    mean = (tmp_path / "images", "--mean", "-o", tmp_path / "m.npz")
    draws = (tmp_path / "m.npz", "--random", "0:3", "-o", tmp_path / "r.npz")
    for given, done in (
        (mean, ["reading images: 1 of 2", "reading images: 2 of 2", "1/2 images", "2/2 images"]),
        (draws, ["1/3 files", "2/3 files", "3/3 files"]),
    ):
        capsys.readouterr()
        assert run_command(*given) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.partition(" %  ")[2].partition("  ")[0] or line for line in said[: len(done)]] == done
        assert said[len(done)].startswith("targets of conv1_1, pool1")
        assert run_command(*given, "--quiet") == 0
        assert capsys.readouterr().out == ""


def test_the_command_makes_means_random_targets_and_spectra(made, capsys):
    folder = made / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((made / name).read_bytes())
    assert run_command(folder, "--mean", "-o", made / "mean.npz") == 0
    mean = read_targets(str(made / "mean.npz")).layers["conv1_1"]
    a, b = (read_targets(str(made / f"l-0{n}.npz")).layers["conv1_1"].gram for n in (0, 2))
    assert np.allclose(mean.gram, (a + b) / 2, rtol=1e-5)
    assert np.allclose(mean.gram_sd, np.abs(a - b) / 2, atol=1e-4 * a.max())
    assert run_command(made / "mean.npz", "--random", "0:2", 7, "-o", made / "r.npz") == 0
    assert len({read_targets(str(made / f"r-0{n}.npz")).sha256 for n in range(3)}) == 3
    assert run_command(made / "mean.npz", "--random", "0:2", 1, "-o", made / "r.npz") == 2
    assert "1 is given twice" in capsys.readouterr().err
    # The mean of one file that is a mean keeps its spread, and one image has none to draw from.
    assert run_command(made / "mean.npz", "--mean", "-o", made / "again.npz") == 0
    again = read_targets(str(made / "again.npz")).layers["conv1_1"]
    np.testing.assert_array_equal(again.gram_sd, mean.gram_sd)
    assert run_command(made / "mean.npz", "--mean", "--random", 7, "-o", made / "d.npz") == 0
    drawn, before = (read_targets(str(made / name)).layers["conv1_1"] for name in ("d.npz", "r-02.npz"))
    np.testing.assert_array_equal(drawn.gram, before.gram)
    assert run_command(made / "a.png", "--mean", "--random", 7, "-o", made / "d.npz") == 2
    assert "no standard deviations to draw from" in capsys.readouterr().err
    assert run_command(made / "a.png", "--spectrum", "-o", made / "s.npz") == 0
    with np.load(made / "s.npz") as plain:
        found = plain["spectrum"]
    assert found.dtype == np.complex64
    pixels = np.asarray(Image.open(made / "a.png"), np.float64)
    assert np.abs(np.fft.ifft2(found, axes=(0, 1)).real - pixels).max() < 1e-3


def test_the_pages_file_of_a_program_of_ones_own_is_a_style(made):
    page = (ROOT / "docs" / "textures.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    before = "".join(line for line in code.splitlines(True) if not re.search("run|weights/", line))
    digest = f'own["weights_sha256"] = "{PACKAGED_SHA256}"\n'
    before = before.replace("brick.jpg", str(made / "a.png")).replace("own.npz", str(made / "own.npz"))
    before = before.replace("size=96", "size=40")
    head, loop, rest = before.partition("for name")
    exec(head + digest + loop + rest, found := {})
    gram = found["gram"]
    _, maps = oracle.network(oracle_weights(), np.asarray(Image.open(made / "a.png")), "avg", "pool1")
    f = maps["pool1"].reshape(-1, 64)
    assert np.abs(gram - f.T @ f / len(f)).max() < 1e-4 * np.abs(gram).max()
    assert read_targets(str(made / "own.npz")).made_for == MADE
