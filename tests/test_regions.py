"""Regions against float64: grids, masks, their loss and their gradient, and runs that have them."""

import csv
import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import random_image
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_resume import events

from jaxstyle import report, variance
from jaxstyle.cell import regions
from jaxstyle.device.loss_balance import plain_program
from jaxstyle.device.region_rows import image_maps
from jaxstyle.inputs import decode
from jaxstyle.inputs.masks import read_mask
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.region_maps import RegionMaps, scaled
from jaxstyle.inputs.resize import halved
from jaxstyle.plan import region_grids
from jaxstyle.plan.cells import check_new, sweep_cells
from jaxstyle.plan.masks import masks_of
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Program
from jaxstyle.run.dry_run import dry_run
from jaxstyle.run.inputs import read_inputs
from jaxstyle.run.one_cell import single_sweep, transfer
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.regions_h5 import regions_bytes
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.regions import as_masks, as_region_list
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.study import recompute
from jaxstyle.vgg import layers

# --- the loss of one layer against float64 --------------------------------------------------------


def grams(features, maps):
    """G_r by its definition; 0 for a region without a position."""
    flat, found = features.reshape(-1, features.shape[-1]).astype(np.float64), []
    for t in maps.astype(np.float64):
        weights = t.ravel() ** 2
        total = weights.sum()
        found.append(
            (flat * weights[:, None]).T @ flat / total if total else np.zeros((flat.shape[1],) * 2)
        )
    return np.stack(found)


def loss(features, maps, target, shares):
    """E_l and its gradient by its definition; regions that a side lacks do not count."""
    n, value, gradient = features.shape[-1], 0.0, np.zeros(features.shape)
    for t, a, g, share in zip(maps.astype(np.float64), target, grams(features, maps), shares, strict=True):
        if t.any() and a.any():
            value += share * ((g - a) ** 2).sum() / (4 * n**2)
            gradient += share * (t**2)[..., None] * (features @ (g - a)) / ((t**2).sum() * n**2)
    return value, gradient


def program(**changes):
    own = {"content_taps": (), "style_taps": ("conv1_1",), "width": 1}
    return Program(12, 17, "avg", "adam", "f32", **own, **changes)


def tile_of(kind, h, w):
    """Maps of tiles, by the definition of their rows and columns."""
    rows, columns = map(int, kind.split("x"))
    found = np.zeros((rows * columns, h, w))
    for i in range(rows):
        for j in range(columns):
            down = slice(int(np.floor(i * h / rows)), int(np.floor((i + 1) * h / rows)))
            found[i * columns + j, down, int(j * w / columns) : int((j + 1) * w / columns)] = 1
    return found


@pytest.mark.parametrize("grids", [("3x3",), ("2x5",), ("7x2",), ("2x4", "8x1")])
def test_tiles_have_the_loss_and_the_gradient_of_float64(grids):
    """At a size that no grid divides; 7x2 and 8x1 have tiles without a position."""
    random, (h, w), kind = np.random.default_rng(1), (5, 11), grids[0]
    features, other = random.normal(0, 3, (2, h, w, 6)).astype(np.float32)
    maps = tile_of(kind, h, w)
    target, shares = grams(other, maps), random.uniform(0.1, 1, len(maps))
    of = program(regions=len(maps), grids=grids)
    weights = (shares * maps.any((1, 2))).astype(np.float32)
    means = region_grids.tile_means(kind, grids, len(maps), h, w)
    arrays = (features, target.astype(np.float32), means, weights)
    value, gradient = jax.jit(jax.value_and_grad(regions.layer_loss), static_argnums=4)(
        *map(jnp.asarray, arrays), of
    )
    expected, slope = loss(features, maps, target, shares)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.linalg.norm(gradient - slope) < 1e-5 * np.linalg.norm(slope)


def test_overlapping_soft_masks_have_the_loss_and_the_gradient_of_float64():
    random, (h, w) = np.random.default_rng(2), (7, 9)
    features, other = random.normal(0, 3, (2, h, w, 6)).astype(np.float32)
    maps = random.uniform(0, 1, (4, h, w)).astype(np.float32)
    maps[3] = 0
    shares = np.array([0.2, 0.5, 0.3, 0.0])
    own = scaled(maps, 4)
    target = regions.grams(jnp.asarray(other), jnp.asarray(own))
    assert np.abs(target - grams(other, maps)).max() < 1e-4
    value, gradient = jax.value_and_grad(regions.layer_loss)(
        jnp.asarray(features),
        target,
        jnp.asarray(own),
        jnp.asarray(shares, jnp.float32),
        program(regions=4),
    )
    expected, slope = loss(features, maps, grams(other, maps), shares)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.linalg.norm(gradient - slope) < 1e-5 * np.linalg.norm(slope)


# --- plans ----------------------------------------------------------------------------------------

PAIR = {"content": ("/c",), "style": ("/s",), "padding": "zeros", "optimizer": "adam", "steps": (2,)}


def plan_of(shapes, count=region_grids.tile_count, **settings):
    sweep = resolve(Sweep(**PAIR | settings))
    cells = sweep_cells(sweep)
    return make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1, regions=count)


def test_every_number_of_regions_has_a_program():
    plan = plan_of({"/c": (64, 64)}, regions=("none", "1x1", "2x4", "2x2", "8x1"))
    assert [(p.regions, p.grids) for p in plan.programs] == [(0, ()), (8, ("2x4", "8x1")), (4, ("2x2",))]
    assert [plan.program_cells(i) for i in range(3)] == [2, 2, 1]


def test_cells_with_regions_share_no_canvas():
    shapes = {f"/{name}": (48 - i, 64) for i, name in enumerate("abc")}
    for kind, canvas in (("none", True), ("2x2", False)):
        plan = plan_of(shapes, content=tuple(shapes), regions=(kind,))
        assert any(p.canvas for p in plan.programs) == canvas


def test_maps_of_a_style_are_as_large_as_its_own_program_takes_it(save_image):
    """One that is too low to be halved for pool5 is halved for shallow programs beside that."""
    content, style = save_image("c.png", 96, 128), save_image("s.png", 40, 128)
    sweep = resolve(
        Sweep(
            content=(str(content),),
            style=(str(style),),
            style_layers=("conv1_1", "conv1_1+pool5"),
            content_layer=("conv1_2",),
            alpha_beta=(1e-3,),
            size="128",
            split_depth=True,
            pyramid=1,
            regions=("1x2",),
        )
    )
    cells = sweep_cells(sweep)
    pictures = Pictures(sweep, cells)
    maps, seen = RegionMaps(pictures), []
    for cell in cells:
        shallow = plain_program(cell, (96, 128), [cell])
        own = dataclasses.replace(shallow, regions=2)
        source = cell.style_parts[0][0]
        pixels = halved(pictures.style_pixels(source), 1, least_px=layers.least_edge_px(own.taps))
        found = image_maps(maps, cell, source, own, 1)
        shapes = [layers.feature_shape(tap, *pixels.shape[:2])[:2] for tap in own.style_taps]
        assert [own.shape[1:] for own in found] == shapes
        seen.append(pixels.shape[0])
    assert seen == [20, 40]


def test_the_axis_stands_after_all_other_optional_ones():
    sweep = resolve(
        Sweep(**PAIR, regions=("none", "2x2"), tv_weight=(0.0, 1.0), spectrum_weight=(0.0, 1.0))
    )
    assert sweep.axes[-5:] == ("tv_weight", "spectrum_weight", "regions", "learning_rate", "seed")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"regions": ("4x5",)}, "4x5 has 20 tiles; at most 16"),
        ({"regions": ("2 by 2",)}, "'2 by 2' is no kind of regions; use none, masks"),
        ({"regions": ("2x0",)}, "has no tiles"),
        ({"regions": ("2x2",), "style_loss": "moments"}, "2x2 needs --style-loss gram"),
        ({"regions": ("2x2",), "style": ("/s.npz",)}, "s has targets of a whole one"),
        ({"regions": ("masks",)}, "0 masks for 1 content image; give one for each"),
        ({"content_mask": ("/m.png",)}, "is for --regions masks"),
        ({"regions": ("masks",), "content": ("none",)}, "masks needs a content"),
    ],
)
def test_regions_that_cannot_be_are_told_in_one_line(settings, why):
    with pytest.raises(JaxstyleError, match=why) as error:
        sweep_cells(resolve(Sweep(**PAIR | settings)))
    assert "\n" not in str(error.value)


# --- runs -----------------------------------------------------------------------------------------

LAYERS = {"conv1_1": 0.5, "pool1": 0.3, "conv2_1": 0.2}
GIVEN = {
    "content_layer": ("conv2_1",),
    "style_layers": ("+".join(f"{name}:{w}" for name, w in LAYERS.items()),),
    "padding": "zeros",
    "alpha_beta": (1e-3,),
    "conv": "plain",
    "size": "40",
}
DRAWN = {"content": (66, 80), "style": (56, 72)}
"""(height, width) of the files of images and masks."""


def draw_mask(path, shape, levels=(0, 128, 255), at=0.4):
    """Two halves whose edge falls within a pixel of a smaller size, and a slanting third one."""
    h, w = shape
    labels = np.full(shape, levels[0], np.uint8)
    labels[:, int(at * w) + 1 :] = levels[1]
    y, x = np.mgrid[:h, :w]
    labels[(3 * y > 2 * h) & (x > y)] = levels[2]
    Image.fromarray(labels).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Paths of a content and a style with their masks, as settings."""
    found = {}
    for seed, (role, shape) in enumerate(DRAWN.items()):
        Image.fromarray(random_image(*shape, seed)).save(tmp_path / f"{role}.png")
        found[role] = (str(tmp_path / f"{role}.png"),)
        mask = draw_mask(tmp_path / f"{role}_mask.png", shape, at=0.4 + 0.2 * seed)
        found[f"{role}_mask"] = (mask,)
    return found


def run_in(folder, **settings):
    run_sweep(Sweep(**GIVEN | settings), RunOptions(out=str(folder), quiet=True))
    return folder


def rows_of(run):
    return list(csv.DictReader((run / "results.csv").read_text().splitlines()))


def maps_in(run, role, cell):
    """T_r by layer, and the shares, of the picture or the style of a cell."""
    with h5py.File(run / "regions.h5") as file:
        (group,) = (g for g in file[role].values() if cell in g["cell"][:])
        share = group["share"][:] if role == "picture" else None
        return {name: group[name][:] for name in LAYERS}, share, group.attrs["regions"]


def features_of(weights, image):
    _, found = oracle.network(weights, np.asarray(image, np.float64), "avg", "conv2_1")
    return {name: found[name] for name in LAYERS}


def layer_losses(found, style, own, of_style, shares):
    """E_l by layer, of features for a style with its maps."""
    return {
        name: loss(found[name], own[name], grams(style[name], of_style[name]), shares)[0] for name in LAYERS
    }


def resized(path, width=40):
    image = Image.open(path)
    return np.asarray(image.resize((width, round(image.height * width / image.width)), Image.LANCZOS))


HELD = {"regions": ("masks",), "hold": ("255",), "optimizer": "adam", "steps": (2,)}
HELD |= {"learning_rate": (20.0,), "size": "64", "pyramid": 1}
"""Of runs that hold a region; 64 px is the least that has a coarser stage."""


def test_runs_come_to_the_losses_of_float64_on_the_maps_they_wrote(files, tmp_path, vgg19_weights):
    """Grids and masks on one axis, by L-BFGS; balanced layers too."""
    kinds = ("2x4", "masks")
    plain = "+".join(LAYERS)
    run = run_in(
        tmp_path / "run",
        **files,
        regions=kinds,
        style_layers=(plain,),
        style_weights="balanced",
        steps=(4,),
        lbfgs_memory=3,
        image_format="npy",
    )
    programs = json.loads((run / "manifest.json").read_text())["programs"]
    assert [p.get("regions", 0) for p in programs] == [8, 3]
    style, content = (features_of(vgg19_weights, resized(files[role][0])) for role in ("style", "content"))
    with h5py.File(run / "results.h5") as file:
        (shape,) = file.values()
        images, losses = shape["image_float"][:, -1], shape["style_layer_loss"][:, -1]
        names = [name.decode() for name in shape["layer"][:]]
    for cell, row in enumerate(rows_of(run)):
        assert row["regions"] == kinds[cell]
        own, shares, kind = maps_in(run, "picture", cell)
        of_style = maps_in(run, "style", cell)[0]
        assert kind == kinds[cell]
        assert sum(shares) == pytest.approx(1)
        assert own["conv1_1"].mean((1, 2)) == pytest.approx(shares, abs=1e-6)
        found = layer_losses(features_of(vgg19_weights, images[cell]), style, own, of_style, shares)
        assert losses[cell] == pytest.approx([found[name] for name in names], rel=1e-4)
        at_content = layer_losses(content, style, own, of_style, shares)
        balanced = {name: 1 / value for name, value in at_content.items()}
        given = dict(part.split(":") for part in row["style_layer_weights"].split("+"))
        for name, value in given.items():
            assert float(value) == pytest.approx(balanced[name] / sum(balanced.values()), rel=1e-4)
        total = sum(float(given[name]) * found[name] for name in LAYERS)
        assert float(row["loss_style"]) == pytest.approx(total, rel=1e-4)
    page = (run / "report.html").read_text()
    assert page.count("<figcaption>pictures of ") == page.count("<figcaption>style ") == 2
    own, _, _ = maps_in(run, "picture", 1)
    assert ((own["conv1_1"] > 0.01) & (own["conv1_1"] < 0.99)).any()  # the edges are soft


def test_every_region_has_its_own_style_and_one_is_held_at_the_content(files, tmp_path, vgg19_weights):
    """A blend whose images are a region each, one by its mask and one by a colour, and a region held,
    with a coarser stage.
    """
    files["style"] = (f"{files['style'][0]}+{files['content'][0]}",)
    Image.new("L", DRAWN["style"][::-1]).save(files["style_mask"][0])
    files["style_mask"] = (files["style_mask"][0], "128")
    run = run_in(tmp_path / "run", **files, **HELD, image_format="npy")
    with h5py.File(run / "results.h5") as file:
        (shape,) = file.values()
        image, losses = shape["image_float"][0, -1], shape["style_layer_loss"][0, -1]
        names = [name.decode() for name in shape["layer"][:]]
    own, shares, _ = maps_in(run, "picture", 0)
    assert shares[2] == 0
    held = own["conv1_1"][2] >= 0.5
    content = resized(files["content"][0], 64)
    assert (image[held] == content[held]).all()
    assert (image[~held] != content[~held]).mean() > 0.9
    styles = [features_of(vgg19_weights, of) for of in (resized(tmp_path / "style.png", 64), content)]
    found = features_of(vgg19_weights, image)
    for name, value in zip(names, losses, strict=True):
        flat = [of[name].reshape(-1, of[name].shape[-1]) for of in styles]
        target = np.stack([*(f.T @ f / len(f) for f in flat), np.zeros((flat[0].shape[1],) * 2)])
        assert value == pytest.approx(loss(found[name], own[name], target, shares)[0], rel=1e-4)


def test_the_loss_of_a_finished_picture_is_that_of_the_file_where_pixels_were_held(
    files, tmp_path, vgg19_weights
):
    """A histogram of the style changes held pixels too, and the loss is of what was saved."""
    run = run_in(tmp_path / "run", **files, **HELD, finish="histogram")
    (row,) = rows_of(run)
    content, saved = resized(files["content"][0], 64), np.asarray(Image.open(run / row["image"]))
    own, shares, _ = maps_in(run, "picture", 0)
    held = own["conv1_1"][2] >= 0.5
    assert (saved[held] != content[held]).any()
    style = features_of(vgg19_weights, resized(files["style"][0], 64))
    of_style = maps_in(run, "style", 0)[0]
    found = layer_losses(features_of(vgg19_weights, saved), style, own, of_style, shares)
    loss_style = sum(weight * found[name] for name, weight in LAYERS.items())
    seen = (
        oracle.network(vgg19_weights, np.asarray(image, np.float64), "avg", "conv2_1")[1]["conv2_1"]
        for image in (saved, content)
    )
    loss_content = 0.5 * np.square(np.subtract(*seen)).sum()
    total = (float(row["alpha_beta"]) * loss_content + loss_style) * open_record(run).sweep.beta
    assert float(row["loss_finished"]) == pytest.approx(total, rel=1e-4)


def test_a_layer_that_leaves_every_region_out_has_no_part_in_the_balance(files, tmp_path):
    """A lone object of some px is too small for conv3_1; the layers that see it are balanced for it."""
    mask = Image.new("L", DRAWN["content"][::-1])
    mask.paste(255, (8, 8, 24, 24))
    mask.save(files["content_mask"][0])
    about = {**files, "style_mask": ("255",), "regions": ("masks",), "leave": ("0",), "steps": (1,)}
    about |= {"optimizer": "adam", "style_weights": "balanced", "alpha_beta": ("1x",)}
    sets = {"style_layers": ("conv1_1+conv2_1+conv4_1", "conv1_1+conv2_1")}
    rows = rows_of(run_in(tmp_path / "run", **about | sets))
    of_all, of_two = (
        {name: float(w) for name, w in (part.split(":") for part in row["style_layer_weights"].split("+"))}
        for row in rows
    )
    assert of_all.pop("conv4_1") == 0
    assert of_all == pytest.approx(of_two, rel=1e-5)
    assert float(rows[0]["alpha_beta"]) == pytest.approx(float(rows[1]["alpha_beta"]), rel=1e-5)
    about["style_layers"] = ("conv4_1",)
    with pytest.raises(
        JaxstyleError, match=r"every region of .* is too small for every layer of the style"
    ):
        run_in(tmp_path / "none", **about)


def test_names_of_regions_are_the_levels_of_the_file_whatever_gamma_it_says(tmp_path):
    path = draw_mask(tmp_path / "m.png", (24, 32), levels=(0, 100, 128))
    plain, _ = read_mask(path, {})
    gamma = PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    with Image.open(path) as image:
        image.save(tmp_path / "linear.png", pnginfo=gamma)
    assert decode.read(str(tmp_path / "linear.png")).pixels.max() > 180  # as a picture
    linear, _ = read_mask(str(tmp_path / "linear.png"), {})
    assert linear.names == plain.names == ("0", "100", "128")
    np.testing.assert_array_equal(linear.labels, plain.labels)


def test_a_mask_of_one_colour_is_no_mask(files, tmp_path):
    for role in ("content", "style"):
        draw_mask(files[f"{role}_mask"][0], DRAWN[role], (7, 7, 7))
    settings = {**files, "regions": ("none", "masks", "1x1"), "optimizer": "adam", "steps": (2,)}
    run = run_in(tmp_path / "run", **settings)
    assert len(json.loads((run / "manifest.json").read_text())["programs"]) == 1
    pictures = {(run / f"images/{i:06d}.png").read_bytes() for i in range(3)}
    assert len(pictures) == 1
    assert len({tuple(row[key] for key in row if key.startswith("loss")) for row in rows_of(run)}) == 1


def test_a_transfer_is_the_cell_of_a_sweep(files, tmp_path):
    settings = {**files, "regions": ("masks",), "optimizer": "adam", "steps": (2,)}
    run = run_in(tmp_path / "run", **settings)
    pair = {key: settings.pop(key)[0] for key in ("content", "style")}
    done = transfer(single_sweep(*pair.values(), {**GIVEN, **settings}))
    assert (done.image == np.asarray(Image.open(run / "images/000000.png"))).all()
    assert "regions.h5" in {path.name for path in run.iterdir()}


def test_a_study_of_seeds_has_the_spread_of_every_region(files, tmp_path):
    settings = {**files, "regions": ("masks",), "optimizer": "adam", "steps": (2,), "seed": (0, 1)}
    run = run_in(tmp_path / "run", init=("noise",), **settings)
    with pytest.raises(SystemExit) as done:
        variance.main([str(run), "--no-floor"])
    assert done.value.code == 0
    images = np.stack([np.asarray(Image.open(run / f"images/00000{i}.png"), float) for i in range(2)])
    spread = np.sqrt(images.var(0, ddof=1).mean(-1))
    maps, _, _ = maps_in(run, "picture", 0)
    lines = list(csv.DictReader((run / "variance.csv").read_text().splitlines()))
    for name, t in zip(("0", "128", "255"), maps["conv1_1"], strict=True):
        (line,) = (line for line in lines if line["quantity"] == f"pixel_sd {name}")
        assert float(line["mean"]) == pytest.approx(spread[t >= 0.5].mean(), rel=1e-6)
    page = (run / "report.html").read_bytes()
    assert b"in region " in page
    # A damaged file of maps is made again, and without its images left out of the page.
    whole = (run / "regions.h5").read_bytes()
    (run / "regions.h5").write_bytes(whole[:2000])
    for moved in (True, False):
        if moved:
            os.rename(files["content_mask"][0], tmp_path / "away.png")
        with pytest.raises(SystemExit) as done:
            report.main([str(run)])
        assert done.value.code == 0
        if moved:
            os.rename(tmp_path / "away.png", files["content_mask"][0])
            assert (run / "report.html").read_bytes() != page
    assert (run / "regions.h5").read_bytes() == whole
    assert (run / "report.html").read_bytes() == page


def test_a_setting_alone_has_the_masks_of_its_own_images(files):
    settings = {"content": files["content"] + files["style"], "regions": ("masks", "none"), "leave": ("0",)}
    settings |= {"content_mask": files["content_mask"] + files["style_mask"], "seed": (0, 1)}
    sweep = resolve(Sweep(**{**GIVEN, **files, **settings}))
    masks = masks_of(sweep)
    for cell in sweep_cells(sweep):
        alone = recompute.of_setting(sweep, cell, (0, 1), 3)
        found = sweep_cells(alone)
        assert [dataclasses.replace(c, id=cell.id, seed=cell.seed) for c in found] == [cell] * 2
        own = [("content", cell.content), ("style", cell.style)] if cell.regions == "masks" else []
        assert masks_of(alone) == {key: masks[key] for key in own}


def test_regions_to_leave_are_named_by_colours_in_any_form():
    assert as_region_list("leave", ("#FF8000", "007", "Sky")) == ("#ff8000", "7", "Sky")
    assert as_region_list("leave", ("#FFFFFF", 0)) == ("#ffffff", "0")
    assert as_masks("style_mask", (0, "#FFFFFF")) == ("0", "#ffffff")


def test_greys_may_be_written_as_colours(files):
    """Specs and fingerprints keep what was written; regions have the names of their levels."""
    settings = GIVEN | {**files, "regions": ("masks",), "style_mask": ("#808080",)}
    settings |= {"leave": ("#000000",), "hold": ("#ffffff",), "region_names": {"#808080": "sea"}}
    pictures = read_inputs(resolve(Sweep(**settings))).pictures
    (content,) = settings["content"]
    assert pictures.mask("content", content).names == ("0", "255", "sea")
    assert pictures.mask("style", *settings["style"]).names == ("sea",)
    assert (pictures.left_alone, pictures.held) == ({"0", "255"}, {"255"})


def test_a_few_patches_are_a_mask_and_labels_of_16_bits_are_told(tmp_path):
    labels = np.zeros((12, 16), np.uint16)
    labels[:, 9:] = 1
    path = str(tmp_path / "labels.png")
    Image.fromarray(labels.astype(np.uint8)).save(path)
    mask, _ = read_mask(path, {})
    assert mask.names == ("0", "1")
    assert mask.maps(24, 32).sum() == 24 * 32
    Image.fromarray(labels).save(path)
    with pytest.raises(JaxstyleError, match="has labels of 16 bits, of which names keep 8"):
        read_mask(path, {})
    for white in (65535, 65280):  # black and white, as scanners save them
        Image.fromarray(labels * white).save(path)
        assert read_mask(path, {})[0].names == ("0", "255")


def test_pixels_are_not_held_where_there_is_no_style_to_keep_them_from(files):
    settings = {
        **GIVEN,
        **files,
        "style": ("none", *files["style"]),
        "regions": ("masks",),
        "hold": ("255",),
    }
    sweep = resolve(Sweep(**settings))
    cells = sweep_cells(sweep)
    with pytest.raises(JaxstyleError, match="hold: keeps pixels beside those of a style"):
        check_new(sweep, cells)
    check_new(sweep, cells[1:])  # the first is of a run that is there


def test_a_run_with_masks_goes_on_with_its_own_and_no_others(files, tmp_path):
    settings = {**files, "regions": ("masks",), "optimizer": "adam", "steps": (2,)}
    run = run_in(tmp_path / "run", **settings)
    before = {path.name: path.read_bytes() for path in [*run.glob("chunks/*.h5"), run / "regions.h5"]}
    for path in run.glob("chunks/*.h5"):
        path.unlink()
    again = RunOptions(out=str(run), quiet=True, resume=True)
    sweep = open_record(run).sweep
    run_sweep(sweep, again)
    assert all(path.read_bytes() == before[path.name] for path in run.glob("chunks/*.h5"))
    other = draw_mask(tmp_path / "other.png", DRAWN["content"], (0, 128, 255), at=0.2)
    with pytest.raises(JaxstyleError, match=r"content_mask is .* there and"):
        run_sweep(Sweep(**GIVEN | settings | {"content_mask": (other,)}), again)
    more = {**GIVEN, **settings, "content": files["content"] + files["style"]}
    more["content_mask"] = files["content_mask"] + files["style_mask"]
    run_sweep(Sweep(**more), RunOptions(out=str(run), quiet=True, extend=True))
    assert len(rows_of(run)) == 2
    assert open_record(run).sweep.content_mask == more["content_mask"]
    sweep = open_record(run).sweep
    draw_mask(files["content_mask"][0], DRAWN["content"], (0, 128, 255), at=0.7)
    with pytest.raises(JaxstyleError, match=r"content_mask\.png: has sha256"):
        run_sweep(sweep, again)


def test_names_join_regions_and_small_ones_are_told_and_left_out(files):
    """Two colours with one name are one region; tiles without a position of pool5 do not count there."""
    names = {"0": "ground", "128": "ground", "#ffffff": "corner"}
    settings = {**GIVEN, **files, "style_layers": ("conv1_1:1+pool5:1",), "region_names": names}
    inputs = read_inputs(resolve(Sweep(**settings | {"size": "48", "regions": ("4x4", "masks")})))
    told = [note for notes in inputs.pictures.notes.values() for note in notes]
    tile = "tile of 4x4 1,1, 1,2, 1,3, 1,4 and others: too small for pool5, left out there"
    assert told.count(tile) == 2
    assert {*told} - {tile} == {"region corner: too small for pool5, left out there"}
    data = regions_bytes(inputs.cells, RegionMaps(inputs.pictures), lambda _, path: path)
    with h5py.File(io.BytesIO(data)) as file:
        tiles, masks = (file["picture"][key] for key in "01")
        assert [name.decode() for name in masks["region"][:]] == ["corner", "ground"]
        assert tiles["pool5"][:].ravel().tolist() == [0.0] * 15 + [1.0]
        assert np.abs(masks["conv1_1"][:].sum(0) - 1).max() < 1e-6


def test_names_and_digests_that_nothing_answers_to_are_told(files, capsys):
    """A misspelt path would be a promise that nobody keeps: the file could change unseen."""
    names = {"#808080": "sea", "129": "shore"}
    right, wrong, other = (os.path.abspath(path) for path in (*files["content"], "typo.png", "more.png"))
    digests = dict.fromkeys((wrong, other), "ab" * 32)
    digests[right] = hashlib.sha256(Path(right).read_bytes()).hexdigest()
    settings = {**GIVEN, **files, "regions": ("masks",), "region_names": names, "digests": digests}
    dry_run(Sweep(**settings), RunOptions(dry_run=True))
    told = capsys.readouterr().out
    assert f"digests: there is no file {wrong}, nor 1 file more of that table" in told
    assert "regions: no mask has the colour 129, which is to be called shore" in told
    assert "sea" not in told
    assert right not in told
    run_sweep(Sweep(**settings), RunOptions(out=str(Path(right).parent / "told")))
    notes = [event["text"] for event in events(Path(right).parent / "told", "note")]
    assert sum(line.startswith(("digests: ", "regions: ")) for line in notes) == 2


def save_levels(path, shape, count):
    levels = (np.arange(shape[0] * shape[1]) % count * 3).astype(np.uint8)
    Image.fromarray(levels.reshape(shape)).save(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: save_levels(m, (66, 90), 2), "content_mask.png: is 90x66 and its image .* is 80x66"),
        (lambda m: save_levels(m, DRAWN["content"], 17), "content_mask.png: has 17 regions; at most 16"),
        (lambda m: draw_mask(m, (66, 80), (0, 128, 0)), "content_mask.png: has no region 255"),
        (lambda m: Image.new("RGB", (80, 66)).save(m, "JPEG"), "content_mask.png: a mask must be a PNG"),
    ],
)
def test_masks_that_cannot_be_are_told_in_one_line(files, tmp_path, change, why):
    change(files["content_mask"][0])
    settings = GIVEN | {**files, "regions": ("masks",)}
    with pytest.raises(JaxstyleError, match=why) as error:
        run_in(tmp_path / "run", **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"leave": ("7",)}, "leave: .*content_mask.png has no region 7; it has 0, 128, 255"),
        ({"leave": ("0", "128"), "hold": ("255",)}, "all regions of .* are left alone"),
        ({"style_mask": ("128",)}, "128: has no region 0, which .* has; draw it, or give --leave 0"),
        (
            {"content_mask": ("255",), "style_mask": ("0",)},
            "255: has no region 0, which 0 has; a colour is one region: give 255 as the style's too",
        ),
        ({"style_mask": ("128", "0")}, "style_mask: 2 masks for 1 style image"),
        (
            {"regions": ("2x2",), "content_mask": (), "style_mask": (), "leave": ("1",)},
            "is for --regions masks",
        ),
    ],
)
def test_regions_that_a_side_lacks_are_told_in_one_line(files, settings, why):
    with pytest.raises(JaxstyleError, match=why) as error:
        read_inputs(resolve(Sweep(**GIVEN | {**files, "regions": ("masks",), **settings})))
    assert "\n" not in str(error.value)
