"""Regions against float64: grids, masks, their loss and their gradient, and runs that have them."""

import csv
import json

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from conftest import random_image
from PIL import Image

from jaxstyle.cell import regions
from jaxstyle.plan import tiles
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Program
from jaxstyle.run.one_cell import single_sweep, transfer
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

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


@pytest.mark.parametrize("kind", ["2x4", "3x3", "2x5", "1x1", "7x2"])
def test_tiles_have_the_loss_and_the_gradient_of_float64(kind):
    """In a program that holds other grids as well, at a size that no grid divides; 7x2 has empty tiles."""
    random, grids, (h, w) = np.random.default_rng(1), ("2x4", "2x5", "3x3", "7x2"), (5, 11)
    features, other = random.normal(0, 3, (2, h, w, 6)).astype(np.float32)
    maps = tile_of(kind, h, w)
    target, shares = grams(other, maps), random.uniform(0.1, 1, len(maps))
    of = program(regions=14, grids=grids)
    padded = np.zeros((14, 6, 6), np.float32)
    padded[: len(maps)] = target
    weights = np.zeros(14, np.float32)
    weights[: len(maps)] = shares * maps.any((1, 2))
    means = tiles.tile_means(kind, grids, 14, h, w)
    value, gradient = jax.value_and_grad(regions.layer_loss)(
        jnp.asarray(features), jnp.asarray(padded), jnp.asarray(means), jnp.asarray(weights), of
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
    own = regions_scaled(maps)
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


def regions_scaled(maps):
    from jaxstyle.inputs.region_maps import scaled

    return scaled(maps, len(maps))


# --- plans ----------------------------------------------------------------------------------------

PAIR = {"content": ("/c",), "style": ("/s",), "padding": "zeros", "optimizer": "adam", "steps": (2,)}


def plan_of(shapes, count=tiles.tile_count, **settings):
    sweep = resolve(Sweep(**PAIR | settings))
    cells = sweep_cells(sweep)
    return make_plan(sweep, cells, shapes, platform="cpu", choose_width=lambda *_: 1, regions=count)


def test_all_grids_share_a_program_and_whole_pictures_have_theirs():
    plan = plan_of({"/c": (64, 64)}, regions=("none", "1x1", "2x2", "3x3", "4x4"))
    assert [(p.regions, p.grids) for p in plan.programs] == [(0, ()), (16, ("2x2", "3x3", "4x4"))]
    assert [plan.program_cells(i) for i in range(2)] == [2, 3]


def test_cells_with_regions_share_no_canvas():
    shapes = {f"/{name}": (48 - i, 64) for i, name in enumerate("abc")}
    for kind, canvas in (("none", True), ("2x2", False)):
        plan = plan_of(shapes, content=tuple(shapes), regions=(kind,))
        assert any(p.canvas for p in plan.programs) == canvas


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
