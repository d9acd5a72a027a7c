"""Stimuli: grey pictures, finishing, and the tables of what a picture is as light."""

import csv
import dataclasses
import io
import re
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import ROOT, random_image
from PIL import Image

import jaxstyle
from jaxstyle.cell import colours
from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.start import noise
from jaxstyle.cell.state import Targets
from jaxstyle.derived import crops, stimuli
from jaxstyle.device.drive import Launch
from jaxstyle.device.engine import Engine
from jaxstyle.inputs import encode, encode_high_bit_depth, finishing, light
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.preprocess import luma, mean_image
from jaxstyle.inputs.resize import resize
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir import fingerprints
from jaxstyle.rundir.chunks import PER_CELL
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

SET = ("conv1_1", "pool1")
SIZE = (37, 45)


def grey_of(pixels):
    """BT.601 luma in float64, rounded, in all channels."""
    y = np.asarray(pixels, np.float64) @ [0.299, 0.587, 0.114]
    return np.repeat(np.floor(y + 0.5 + 1e-9)[..., None], 3, -1).astype(np.uint8)


def one_cell(weights, **settings):
    """An engine, the program of one texture, and its launch from the mean pixel and noise of seed 0."""
    given = {"content": ("none",), "style": ("/s.png",), "style_layers": ("+".join(SET),)}
    sweep = resolve(Sweep(**given, **{"alpha_beta": (0.0,), "pyramid": 0, **settings}))
    (cell,) = cells = sweep_cells(sweep)
    shapes = {cell.shaped_by: SIZE}
    program = make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1).programs[0]
    engine = Engine(weights, winograd=False)
    style = random_image(50, 41, 2)
    seen = luma(style) if sweep.colour == "grey" else style
    rows = engine.target_rows(program, seen)
    blank = engine.blank_rows(program, "content")
    targets = jax.tree.map(lambda a: a[None], Targets(blank.content, rows.style))
    knobs = knobs_of(cell, program, sweep, content_row=0, style_row=0, extent=SIZE)
    start = mean_image(*SIZE, grey=sweep.colour == "grey")
    launch = Launch(jax.tree.map(lambda a: np.asarray(a)[None], knobs), start[None], targets)
    return engine, program, launch


def ended(course):
    for _ in course:
        pass
    return course.outcome


# --- grey -----------------------------------------------------------------------------------------


def test_luma_is_rounded_bt601_and_leaves_grey_as_it_is():
    image = random_image(40, 50, 3)
    np.testing.assert_array_equal(luma(image), grey_of(image))
    every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, -1)
    np.testing.assert_array_equal(luma(every), every)


def test_grey_noise_is_the_projected_noise_with_a_deviation_of_1():
    drawn = noise(jnp.uint32(7), (*SIZE, 3))
    found = np.asarray(colours.noise_in("grey", drawn))
    np.testing.assert_allclose(
        found[..., 1], np.sqrt(3) * np.asarray(drawn, np.float64).mean(-1), rtol=1e-5, atol=1e-6
    )
    assert found.std() == pytest.approx(1, abs=0.05)
    assert colours.noise_in("free", drawn) is drawn


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_grey_texture_follows_the_projected_gradient_in_float64(narrow, optimizer):
    memory = {"lbfgs_memory": 3} if optimizer == "lbfgs" else {"learning_rate": (5.0,)}
    engine, program, launch = one_cell(narrow, colour="grey", optimizer=optimizer, noise_std=20.0, **memory)
    outcome = ended(engine.course(program, launch, (6,)))
    image, style = outcome.images[0, -1], grey_of(random_image(50, 41, 2))
    np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, -1))
    drawn = np.asarray(noise(jnp.uint32(0), (*SIZE, 3)), np.float64).mean(-1, keepdims=True)
    mean = np.array([123.68, 116.779, 103.939]) @ [0.299, 0.587, 0.114]
    start = np.repeat(mean + 20 * np.sqrt(3) * drawn, 3, -1)

    def evaluate(x):
        weights = dict.fromkeys(SET, 0.5)
        terms, slope = oracle.loss_and_gradient(
            narrow, x, x, style, alpha=0.0, content_layer="conv1_1", style_weights=weights
        )
        return terms["total"], np.repeat(slope.mean(-1, keepdims=True), 3, -1)

    if optimizer == "adam":
        expected = oracle.adam(lambda x: evaluate(x)[1], start, 6, 5.0)
    else:
        images, losses, _ = oracle.lbfgs(evaluate, start, 6, 3, 10.0)
        expected = images[-1]
        np.testing.assert_allclose(outcome.info.loss_total[0], losses, rtol=1e-3)
    assert np.abs(image - expected).max() < 0.3
    assert np.abs(image - start).max() > 5


def test_free_colours_are_no_other_program_and_no_other_fingerprint(monkeypatch):
    given = {"content": ("none",), "style": ("/s.png",), "size": "40"}
    free, grey = (resolve(Sweep(**given, colour=colour)) for colour in ("free", "grey"))
    assert "colour" not in fingerprints._settings(free)
    assert fingerprints._settings(grey)["colour"] == "grey"
    cells = sweep_cells(free)
    programs = [
        make_plan(s, cells, {cells[0].shaped_by: SIZE}, platform="cpu", choose_width=lambda *_: 1).programs[
            0
        ]
        for s in (free, grey)
    ]
    assert "colour" not in programs[0].record()
    assert programs[1].record()["colour"] == programs[1].facts()["colour"] == "grey"


# --- light and finishing --------------------------------------------------------------------------


def light_in_float64(pixels):
    """Mean, sd, contrast and clipping of a picture, pixel by pixel."""
    values = []
    for pixel in pixels.reshape(-1, 3).tolist():
        c = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in pixel]
        values.append(0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2])
    mean = sum(values) / len(values)
    sd = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    clipped = sum(bool({0, 255} & {*pixel}) for pixel in pixels.reshape(-1, 3).tolist())
    return mean, sd, sd / mean, clipped / len(values)


def test_light_is_the_oracles():
    image = random_image(20, 30, 4)
    assert light.light_of(image) == pytest.approx(light_in_float64(image), rel=1e-12)
    assert light.light_of(np.zeros((4, 5, 3), np.uint8)) == (0, 0, 0, 1)
    back = light.encoded(light.linear(np.arange(256.0)[:, None].repeat(3, 1)))
    np.testing.assert_allclose(back[:, 0], np.arange(256), atol=1e-4)


@pytest.mark.parametrize("shape", [(24, 31), (17, 40), (9, 8)])
def test_a_rank_matched_picture_has_the_styles_values_in_its_own_order(shape):
    image = random_image(24, 31, 5).astype(np.float64) * 1.3 - 20
    style = random_image(*shape, 6)
    found = finishing.rank_matched(image, [style])
    for channel in range(3):
        own, values = image[..., channel].ravel().tolist(), sorted(style[..., channel].ravel().tolist())
        order = sorted(range(len(own)), key=lambda i: (own[i], i))
        expected = np.zeros(len(own))
        for rank, at in enumerate(order):  # the quantile (rank + 1/2) / n, in whole numbers
            expected[at] = values[-(-(2 * rank + 1) * len(values) // (2 * len(own))) - 1]
        np.testing.assert_array_equal(found[..., channel].ravel(), expected)
    if shape == (24, 31):
        np.testing.assert_array_equal(np.sort(found, axis=None), np.sort(style, axis=None))


def test_a_blend_is_matched_by_its_shares():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((3, 5, 3), 200, np.uint8)
    found = finishing.rank_matched(random_image(20, 20, 1), [dark, bright], [0.25, 0.75])
    assert [(found == value).mean() for value in (10, 200)] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("contrast", "mean"), [(0.3, 0.2), (0.9, 0.25), (0.2, None), (None, 0.1), (0.4, 0.5)]
)
def test_contrast_and_luminance_are_as_asked_for(contrast, mean):
    image = random_image(40, 50, 7).astype(np.float64)
    own = light_in_float64(encode.to_uint8(image))
    found = light_in_float64(encode.to_uint8(finishing.with_contrast(image, contrast, mean)))
    assert found[0] == pytest.approx(own[0] if mean is None else mean, rel=2e-3)
    assert found[2] == pytest.approx(own[2] if contrast is None else contrast, rel=3e-3)


def test_values_that_no_picture_can_have_are_approached():
    """Half black and half white at most: rms contrast 1.5 at mean 0.3 is beyond 0 to white."""
    ramp = np.repeat(np.linspace(0, 255, 64, dtype=np.float32), 3).reshape(8, 8, 3)
    contrast, mean = 1.8, 0.3

    def off(image):
        seen = finishing.linear(image) @ [0.2126, 0.7152, 0.0722]
        return np.hypot(seen.mean() - mean, seen.std() - contrast * mean)

    found = off(finishing.with_contrast(ramp, contrast, mean))
    c = finishing.linear(ramp)
    tried = [
        off(finishing.encoded(np.clip(a * c + b, 0, 1)))
        for a in np.geomspace(0.1, 300, 60) for b in np.linspace(-a, 1, 60)
    ]  # fmt: skip
    assert 0.005 < found < 1.3 * min(tried)


def test_a_flat_picture_keeps_its_contrast_of_0():
    found = finishing.with_contrast(np.full((4, 4, 3), 80.0), 0.5, 0.25)
    np.testing.assert_allclose(light.linear(found), 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"finish": "contrast"}, "^finish: contrast needs"),
        ({"rms_contrast": 0.3}, "^rms_contrast: is for --finish contrast"),
        ({"finish": "histogram", "mean_luminance": 0.3}, "^mean_luminance: is for"),
        ({"finish": "contrast", "mean_luminance": 1.0}, "^mean_luminance: 1.0 must be below 1"),
        ({"colour": "gray"}, "^colour: "),
    ],
)
def test_what_cannot_be_finished_is_one_line(named, error):
    with pytest.raises(JaxstyleError, match=error):
        resolve(Sweep(content=("none",), style=("/s.png",), size="40", **named))


def test_a_histogram_needs_a_style_of_pixels(tmp_path):
    Image.fromarray(random_image(40, 40, 1)).save(tmp_path / "c.png")
    sweep = resolve(
        Sweep(content=(str(tmp_path / "c.png"),), style=("none",), size="40", finish="histogram")
    )
    with pytest.raises(JaxstyleError, match="histogram needs the pixels of a style"):
        Pictures(sweep, sweep_cells(sweep))


# --- a run ----------------------------------------------------------------------------------------

GIVEN = {
    "content": ("none",),
    "style_layers": ("+".join(SET),),
    "style_weights": "equal",
    "alpha_beta": (0.0,),
    "size": "40",
    "seed": (0, 1, 2),
    "steps": (2, 8),
    "pyramid": 0,
    "optimizer": "adam",
    "conv": "plain",
    "noise_std": (20.0,),
    "colour": "grey",
    "finish": "histogram",
    "image_format": "png16",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of finished grey textures, of two styles and two shapes, on one canvas or not."""
    folder = tmp_path_factory.mktemp("stimuli")
    for name, shape in (("a", (60, 60)), ("b", (60, 48))):
        Image.fromarray(random_image(*shape, len(name))).save(folder / f"{name}.png")
    styles = tuple(str(folder / f"{name}.png") for name in "ab")
    run_sweep(Sweep(style=styles, **GIVEN), RunOptions(out=str(folder / "run"), quiet=True))
    return folder / "run"


def table(run, name):
    with (run / name).open() as file:
        return list(csv.DictReader(file))


def png(run, row):
    return np.asarray(Image.open(run / row["image"]))


def test_losses_before_and_after_finishing_are_in_the_tables(run, vgg19_weights):
    rows = table(run, "results.csv")
    assert len(rows) == 6
    for row in (rows[0], rows[5]):
        style = np.asarray(Image.open(row["style"] if "/" in row["style"] else run.parent / row["style"]))
        height, width = int(row["height"]), int(row["width"])
        style = resize(grey_of(style), 40)
        saved = png(run, row)
        np.testing.assert_array_equal(np.sort(saved, axis=None), np.sort(style, axis=None))
        terms, _ = oracle.loss_and_gradient(
            vgg19_weights, saved, np.zeros((height, width, 3)), style, alpha=0.0, content_layer="conv1_1",
            style_weights=dict.fromkeys(SET, 0.5),
        )  # fmt: skip
        assert float(row["loss_finished"]) == pytest.approx(terms["total"], rel=1e-4)
        assert float(row["loss_total"]) != float(row["loss_finished"])
        with h5py.File(run / "results.h5") as file:
            group = file[f"{height}x{width}"]
            at = group["cell"][()].tolist().index(int(row["cell"]))
            assert group["loss_finished"][at] == np.float32(row["loss_finished"])
            np.testing.assert_array_equal(group["image"][at, -1], saved)
            early = np.sort(group["image"][at, 0], axis=None)  # snapshots are finished too
            np.testing.assert_array_equal(early, np.sort(style, axis=None))


def test_stimuli_say_light_layers_and_seeds(run):
    rows, results = table(run, stimuli.FILE), table(run, "results.csv")
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / "numbers.md").read_text(), flags=re.M | re.S)
    described = {word for span in re.findall(r"`([^`]+)`", text) for word in span.split(", ")}
    assert {re.sub("left_.*", "left_NAME", name) for name in rows[0]} <= described
    with h5py.File(run / "results.h5") as file:
        for row, result in zip(rows, results, strict=True):
            assert row["loss_finished"] == f"{float(result['loss_finished']):.6g}"
            found = [float(row[name]) for name in light.Light._fields]
            assert found == pytest.approx(light_in_float64(png(run, row)), rel=1e-5)
            group = file[f"{row['height']}x{row['width']}"]
            curve = group["style_layer_loss"][group["cell"][()].tolist().index(int(row["cell"]))]
            names = [name.decode() for name in group["layer"][()]]
            for name in SET:
                left = curve[-1, names.index(name)] / curve[0, names.index(name)]
                assert float(row[f"left_{name}"]) == pytest.approx(left, rel=1e-5)
    for of in (rows[:3], rows[3:]):
        assert {row["seeds"] for row in of} == {"3"}
        order = sorted(of, key=lambda row: float(row["loss_total"]))
        assert [row["place"] for row in order] == ["1", "2", "3"]


def unpacked_png(data):
    """Levels of a PNG of 16 bits, (h, w, 3), whose rows are unfiltered."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        found[kind] = data[at + 8 : at + 8 + size]
        assert int.from_bytes(data[at + 8 + size : at + 12 + size]) == zlib.crc32(kind + found[kind])
        at += 12 + size
    width, height, bits, kind = struct.unpack(">2I2B", found[b"IHDR"][:10])
    assert (bits, kind) == (16, 2)
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].copy().view(">u2").reshape(height, width, 3)


def test_pictures_of_more_than_8_bits_are_the_floats_that_are_kept(run):
    for row in table(run, "results.csv"):
        with h5py.File(run / "results.h5") as file:
            group = file[f"{row['height']}x{row['width']}"]
            floats = group["image_float"][group["cell"][()].tolist().index(int(row["cell"])), -1]
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(floats, png(run, row))  # a histogram's values are whole
        found = unpacked_png((run / "images_float" / Path(row["image"]).name).read_bytes())
        np.testing.assert_array_equal(found, np.rint(floats.astype(np.float64) * 257))


def test_formats_of_more_than_8_bits_hold_the_pixels(tmp_path):
    pixels = (random_image(5, 7, 1) * 1.1 - 9.3).astype(np.float32)
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_high_bit_depth.npy_bytes(pixels))), pixels)
    levels = unpacked_png(encode_high_bit_depth.png16_bytes(pixels))
    np.testing.assert_array_equal(levels, np.clip(np.rint(pixels.astype(float) * 257), 0, 65535))
    (tmp_path / "a.png").write_bytes(encode_high_bit_depth.png16_bytes(pixels))
    eight = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), int)
    assert np.abs(eight - np.clip(pixels, 0, 255)).max() <= 1
    tiff = encode_high_bit_depth.tiff_bytes(pixels)
    at = struct.unpack_from("<I", tiff, 4)[0]
    entries = struct.iter_unpack(
        "<2H2I", tiff[at + 2 : at + 2 + 12 * struct.unpack_from("<H", tiff, at)[0]]
    )
    tags = {tag: (kind, count, value) for tag, kind, count, value in entries}
    assert list(tags) == sorted(tags)
    assert [struct.unpack_from("<3H", tiff, tags[tag][2]) for tag in (258, 339)] == [(32,) * 3, (3,) * 3]
    height, width, strip = (tags[tag][2] for tag in (257, 256, 273))
    data = np.frombuffer(tiff, "<f4", height * width * 3, strip).reshape(height, width, 3)
    np.testing.assert_array_equal(data, pixels)
    assert tags[279][2] == pixels.nbytes


def test_a_resumed_or_rebuilt_run_has_the_same_bytes(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    names = ["results.csv", "results.h5", stimuli.FILE, "images/000004.png", "chunks/000000.h5"]
    names += ["images_float/000000.png", "images_float/000004-step000002.png"]
    before = {name: (run / name).read_bytes() for name in names}
    styles = tuple(str(run.parent / f"{name}.png") for name in "ab")
    for missing in (names, names[-2:], []):  # chunks, pictures alone, nothing
        for name in missing:
            (copy / name).unlink()
        run_sweep(Sweep(style=styles, **GIVEN), RunOptions(out=str(copy), resume=True, quiet=True))
        assert {name: (copy / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
    ("total", "layer", "diverged", "why"),
    [
        ([8.0, 1.0, 1.0], [4.0, 0.5, 0.5], -1, ""),
        ([8.0, 1.0, 0.8], [4.0, 0.5, 0.4], -1, "falling"),
        ([8.0, 1e-4, 5e-5], [4.0, 5e-5, 4e-5], -1, ""),  # of next to nothing
        ([8.0, 1.0, 1.0], [0.5, 0.5, 0.5], -1, "no nearer"),
        ([8.0, 1.0, np.nan], [4.0, 0.5, np.nan], 97, "diverged"),
    ],
)
def test_the_rule_for_failed_syntheses(run, total, layer, diverged, why):
    record = open_record(run)
    (part, *_) = record.chunks()
    one = {
        name: getattr(part, name)[:1] for name in (*PER_CELL, "cell", "image", "image_float", "loss_final")
    }
    one["further"] = {name: values[:1] for name, values in part.further.items()}
    one["diverged_step"] = np.array([diverged])
    chunk = dataclasses.replace(
        part,
        **one,
        step=(0, 90, 100),
        curves={name: np.float32([total]) for name in part.losses},
        style_layer_loss=np.repeat(np.float32([layer])[..., None], len(part.layer), -1),
    )
    (row,) = stimuli._rows(record, chunk, stimuli._staged(record))
    assert row["why"] == why
    # Whether stages came before is what the plan says, of all cells of the program.
    (program,) = record.plan.programs
    plan = dataclasses.replace(record.plan, programs=(dataclasses.replace(program, coarser=1),))
    staged = dataclasses.replace(record)
    staged.__dict__["plan"] = plan
    assert [row["why"] for row in stimuli._rows(staged, chunk, stimuli._staged(staged))] == [
        "" if why == "no nearer" else why
    ]
    inverted = dataclasses.replace(record)
    inverted.__dict__["cells"] = tuple(dataclasses.replace(c, style="none") for c in record.cells)
    plain = dataclasses.replace(chunk, style_layer_loss=np.full_like(chunk.style_layer_loss, np.nan))
    assert [row["why"] for row in stimuli._rows(inverted, plain, ())] == [why if why == "diverged" else ""]
    assert stimuli.fall(np.array([8.0, 4.0, 2.0]), (0, 90, 100)) == 0.5
    assert stimuli.fall(np.array([8.0, 2.0]), (95, 100)) is None
    assert stimuli.fall(np.array([8.0, 4.0, 2.0]), (0, 80, 100)) is None  # which is the last fifth
    assert stimuli.fall(np.array([8.0, 4.0, 2.0]), (0, 86, 100)) == 0.5
    assert stimuli.fall(np.array([8.0, 4.0, 2.0]), (0, 4, 5)) == 0.5
    assert stimuli.fall(np.array([8.0, 2.0]), (0, 250)) is None


def test_an_outlier_among_seeds_has_failed(run):
    record = open_record(run)
    rows = [{"cell": cell, "why": "", "loss_total": loss} for cell, loss in enumerate((1.0, 2.5, 1.1))]
    stimuli._compare_seeds(record, rows)
    assert [(row["why"], row["failed"], row["place"]) for row in rows] == [
        ("", 0, 1),
        ("outlier", 1, 3),
        ("", 0, 2),
    ]


def test_runs_of_transfers_have_no_such_table():
    transfers = SimpleNamespace(sweep=Sweep(), cells=[SimpleNamespace(has_content=True)])
    assert not stimuli.is_wanted(transfers)
    transfers.sweep = Sweep(finish="histogram")
    assert stimuli.is_wanted(transfers)


# --- crops ------------------------------------------------------------------------------------------


ALONE = {**GIVEN, "size": "40x32", "style_size": (72,), "seed": (1,), "steps": (3,)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one picture, with crops of its style."""
    folder = tmp_path_factory.mktemp("alone")
    Image.fromarray(random_image(90, 70, 3)).save(folder / "s.png")
    asked = Sweep(style=(str(folder / "s.png"),), crops=3, **ALONE)
    run_sweep(asked, RunOptions(out=str(folder / "run"), quiet=True))
    return folder / "run"


def test_a_single_picture_is_finished_as_in_a_run(alone):
    one = {name: value[0] if isinstance(value, tuple) else value for name, value in ALONE.items()}
    del one["image_format"]  # is for run directories
    found = jaxstyle.stylize(style=str(alone.parent / "s.png"), **one)
    np.testing.assert_array_equal(found, png(alone, table(alone, "results.csv")[0]))


def test_crops_are_places_of_the_style_by_seed(alone):
    style = alone.parent / "s.png"
    seen = resize(grey_of(np.asarray(Image.open(style))), 72)
    rows = table(alone, crops.FILE)
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    text = (ROOT / "docs" / "numbers.md").read_text()
    assert all(f"`{name}`" in text for name in rows[0])
    for row in rows:
        random = np.random.default_rng(int(row["seed"]))
        top, left = int(random.integers(0, 72 - 32 + 1)), int(random.integers(0, 56 - 40 + 1))
        assert (row["top"], row["left"], row["height"], row["width"]) == (str(top), str(left), "32", "40")
        found = png(alone, row)
        np.testing.assert_array_equal(found, seen[top : top + 32, left : left + 40])
        assert float(row["luminance"]) == pytest.approx(light_in_float64(found)[0], rel=1e-5)
    sweep = resolve(Sweep(style=(str(style),), crops=3, **{**ALONE, "style_size": (36,)}))
    with pytest.raises(JaxstyleError, match="leave no room"):
        Pictures(sweep, sweep_cells(sweep))


def test_crops_are_in_the_estimate_of_the_disk(alone):
    plan = open_record(alone).plan
    more = plan.result_bytes(crops=100) - plan.result_bytes()
    shapes = {(p.height_px, p.width_px) for p in plan.programs}
    styles = {part for cell in plan.cells for part, _ in cell.style_parts}
    ((height, width),) = shapes
    assert more == 100 * len(styles) * 3 * height * width > 0


def test_crops_are_finished_as_the_pictures_if_asked(alone, tmp_path):
    """A crop gets the values of its whole style by rank, or the light that is asked for."""
    style = alone.parent / "s.png"
    plain = {row["seed"]: png(alone, row) for row in table(alone, crops.FILE)}
    asked = Sweep(style=(str(style),), crops=3, finish_crops=True, **ALONE)
    light = {"finish": "contrast", "rms_contrast": 0.3, "mean_luminance": 0.2}
    for name, own in (("histogram", asked), ("contrast", dataclasses.replace(asked, **light))):
        run_sweep(own, RunOptions(out=str(tmp_path / name), quiet=True))
    whole = np.sort(resize(grey_of(np.asarray(Image.open(style))), 72)[..., 0], axis=None)
    size = 32 * 40
    expected = [whole[int((2 * i + 1) * len(whole) / (2 * size))] for i in range(size)]
    for row in table(tmp_path / "histogram", crops.FILE):
        found = png(tmp_path / "histogram", row)[..., 0]
        np.testing.assert_array_equal(np.sort(found, axis=None), expected)
        order = np.argsort(plain[row["seed"]][..., 0], axis=None, kind="stable")
        assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    for row in table(tmp_path / "contrast", crops.FILE):
        luminance, deviation, *_ = light_in_float64(png(tmp_path / "contrast", row))
        assert luminance == pytest.approx(0.2, rel=0.01)
        assert deviation / luminance == pytest.approx(0.3, rel=0.01)
        assert np.corrcoef(png(tmp_path / "contrast", row).ravel(), plain[row["seed"]].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("settings", "needs"),
    [({}, "--crops and --finish"), ({"crops": 2}, "--finish"), ({"finish": "histogram"}, "--crops")],
)
def test_crops_to_finish_need_both(alone, settings, needs):
    asked = Sweep(
        style=(str(alone.parent / "s.png"),), finish_crops=True, **{**ALONE, "finish": "none"} | settings
    )
    with pytest.raises(JaxstyleError, match=f"finish_crops: needs {needs};"):
        resolve(asked)


# --- presets --------------------------------------------------------------------------------------


def test_presets_have_the_numbers_of_their_papers(tmp_path):
    for number in range(2):
        Image.fromarray(random_image(40, 40, number)).save(tmp_path / f"{number}.png")
    wallis, jagadeesh = (
        assemble({"preset": name, "style": [str(tmp_path)]}).sweep
        for name in ("wallis2017", "jagadeesh2022")
    )
    cells = sweep_cells(wallis)
    assert len(cells) == 2 * 5 * 10
    assert [cell.taps for cell in cells[:50:10]] == [
        tuple(f"conv{block}_1" for block in range(1, deepest + 1)) for deepest in range(1, 6)
    ]
    assert (wallis.colour, wallis.finish, wallis.network) == ("grey", "histogram", "normalised")
    assert (wallis.optimizer, wallis.pyramid, wallis.steps) == ("lbfgs", 0, (1000,))
    cells = sweep_cells(jagadeesh)
    assert len(cells) == 2 * 160
    assert [cell.regions for cell in cells[:40:10]] == ["1x1", "2x2", "3x3", "4x4"]
    assert [cell.taps for cell in cells[:160:40]] == [
        ("conv1_1", *(f"pool{n}" for n in range(1, deepest + 1))) for deepest in range(1, 5)
    ]
    assert (jagadeesh.optimizer, jagadeesh.learning_rate, jagadeesh.steps) == ("adam", (2.0,), (10000,))
    assert {cell.noise_std for cell in cells} == {1.0}
