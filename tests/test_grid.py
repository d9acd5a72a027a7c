"""Cells, programs and chunks."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstyle.plan import planner
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.chunks import plan_from_record, plan_record, trace_steps
from jaxstyle.plan.nominal_rates import NOMINAL_FLOPS
from jaxstyle.plan.stages import coarser_stages, evaluation_count, halved_shape
from jaxstyle.rundir import fingerprints
from jaxstyle.spec import settings
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

IMAGES = {"content": ("/c.png",), "style": ("/s.png",), "style_weights": "equal"}


def cells_of(**settings):
    return sweep_cells(resolve(Sweep(**{**IMAGES, **settings})))


def plan_of(width=1, shapes=None, platform="cpu", **settings):
    sweep = resolve(Sweep(**{**IMAGES, **settings}))
    cells = sweep_cells(sweep)
    shapes = shapes or dict.fromkeys(sweep.content, (48, 64))
    return planner.make_plan(sweep, cells, shapes, platform=platform, choose_width=lambda p, n: width)


def test_the_last_axis_is_the_fastest():
    found = cells_of(content=("/a", "/b"), alpha_beta=(1.0, 2.0), seed=(0, 1))
    assert [c.id for c in found] == list(range(8))
    assert [(c.content, c.alpha_beta, c.seed) for c in found[:4]] == [
        ("/a", 1.0, 0),
        ("/a", 1.0, 1),
        ("/a", 2.0, 0),
        ("/a", 2.0, 1),
    ]
    assert found[4].content == "/b"


IN_ORDER = {
    "content": ("/a", "/b"),
    "style": ("/x", "/y"),
    "content_layer": ("conv4_2", "conv3_1"),
    "style_layers": ("conv2_1", "conv1_1"),
    "init": ("noise", "content"),
    "alpha_beta": (2.0, 1.0),
    "style_size": (64, 48),
    "pool": ("max", "avg"),
    "padding": ("zeros", "reflect"),
    "style_weights": ("balanced", "equal"),
    "style_loss": ("moments", "gram"),
    "clamp": (True, False),
    "noise_std": (9.0, 1.0),
    "tv_weight": (0.5, 0.0),
    "photorealism": (2.0, 0.0),
    "spectrum_weight": (3.0, 0.0),
    "regions": ("2x2", "none"),
    "learning_rate": (10.0, 1.0),
    "seed": (1, 0),
}
"""Two values of every axis, not ascending; the axes in the order of their product."""
OF_THE_CONTRACT = ["content", "style", "content_layer", "style_layers", "init", "alpha_beta", "style_size"]
OF_THE_CONTRACT += ["noise_std", "tv_weight", "spectrum_weight", "regions", "learning_rate", "seed"]


def test_the_order_of_the_axes_is_the_contracts():
    assert [axis for axis in IN_ORDER if axis in OF_THE_CONTRACT] == OF_THE_CONTRACT
    assert {*IN_ORDER} == {*settings.AXES, *settings.optional_axes()}  # a new axis needs a place here
    assert resolve(Sweep(**IMAGES | IN_ORDER, max_cells=2 ** len(IN_ORDER))).axes == tuple(IN_ORDER)


@pytest.mark.parametrize("slow", IN_ORDER)
def test_cells_are_numbered_in_the_order_of_the_axes(slow):
    names = list(IN_ORDER)
    for fast in names[names.index(slow) + 1 :]:
        if (slow, fast) == ("style_loss", "regions"):
            continue  # regions need one kind of style loss
        own = {fast: IN_ORDER[fast], slow: IN_ORDER[slow]}  # the order in which they are given is no matter
        values = [(one, other) for one in IN_ORDER[slow] for other in IN_ORDER[fast]]
        for named in (own, {"grid": (own,)}):
            found = cells_of(**named)
            assert [cell.id for cell in found] == [0, 1, 2, 3]
            assert [(getattr(cell, slow), getattr(cell, fast)) for cell in found] == values, fast


def test_grids_are_united_in_order_without_repeats():
    found = cells_of(grid=({"seed": [0, 1]}, {"seed": [1, 2]}, {"alpha_beta": [5.0]}))
    assert [(c.seed, c.alpha_beta) for c in found] == [(0, 1e-3), (1, 1e-3), (2, 1e-3), (0, 5.0)]


@pytest.mark.parametrize(
    ("schemes", "cells"), [(("balanced",), 2), (("equal",), 1), (("equal", "balanced"), 3)]
)
def test_weights_of_layers_that_are_given_are_other_cells_only_than_balanced_ones(schemes, cells):
    """Given weights are used as they are; of layers without, balanced ones are measured."""
    sets = ("conv1_1+conv2_1", "conv2_1:0.5+conv1_1:0.5")
    given = {**IMAGES, "style_weights": schemes, "alpha_beta": (1e-3,)}
    for both in ({"style_layers": sets}, {"grid": tuple({"style_layers": (one,)} for one in sets)}):
        found = sweep_cells(resolve(Sweep(**{**given, **both})))
        assert len(found) == cells
        assert {cell.style_layers for cell in found} == {*sets[: 1 + ("balanced" in schemes)]}


def test_zipped_axes_move_together():
    found = cells_of(
        grid=(
            {"content": ["/a", "/b"], "style": ["/x", "/y"], "zip": ["content", "style"], "seed": [0, 1]},
        )
    )
    assert [(c.content, c.style, c.seed) for c in found] == [
        ("/a", "/x", 0),
        ("/a", "/x", 1),
        ("/b", "/y", 0),
        ("/b", "/y", 1),
    ]


def test_an_axis_that_nothing_sets_may_be_zipped():
    for zipped in (["tv_weight", "content"], ["content", "tv_weight"], ["tv_weight", "photorealism"]):
        assert len(cells_of(grid=({"zip": zipped, "seed": [0, 1]},))) == 2


def test_cells_of_a_zipped_grid_that_another_grid_has_are_not_repeated():
    pairs = {"style": ["/x", "/y"], "seed": [0, 1], "zip": ["style", "seed"], "alpha_beta": [5.0, 2.0]}
    found = cells_of(grid=(pairs, {"style": ["/x"], "seed": [0, 1], "alpha_beta": [5.0]}))
    assert [(c.style, c.alpha_beta, c.seed) for c in found] == [
        ("/x", 5.0, 0),
        ("/x", 2.0, 0),
        ("/y", 5.0, 1),
        ("/y", 2.0, 1),
        ("/x", 5.0, 1),
    ]


def test_a_grid_over_max_cells_is_refused_before_it_is_made():
    seeds = tuple(range(1000))
    with pytest.raises(JaxstyleError, match="1000000 cells are more than --max-cells 5000"):
        cells_of(seed=seeds, alpha_beta=tuple(float(i) for i in range(1000)), max_cells=5000)


def test_one_program_for_everything_of_one_shape():
    plan = plan_of(
        content=("/a", "/b", "/c"),
        style=("/x", "/y"),
        alpha_beta=(0.1, 0.01),
        content_layer=("conv2_2", "conv4_2"),
        style_layers=("conv2_1", "conv4_1:3+conv5_1:1"),
        init=("noise", "content"),
        seed=("0:3",),
        steps=(5, 10),
    )
    assert len(plan.programs) == 1
    assert plan.programs[0].content_taps == ("conv2_2", "conv4_2")
    assert plan.programs[0].style_taps == ("conv2_1", "conv4_1", "conv5_1")


def test_shapes_make_programs_and_taps_are_the_whole_runs():
    plan = plan_of(
        shapes={"/a": (48, 64), "/b": (64, 48)},
        canvas="off",
        grid=({"content": ["/a"], "content_layer": ["conv2_2"]}, {"content": ["/b"]}),
    )
    assert [p.shape for p in plan.programs] == ["48x64", "64x48"]
    assert plan.programs[0].taps == plan.programs[1].taps


def test_split_depth_makes_a_program_per_depth():
    settings = {"style_layers": ("conv1_1", "conv5_1"), "content_layer": ("conv1_2",)}
    assert len(plan_of(**settings).programs) == 1
    split = plan_of(**settings, split_depth=True)
    assert [p.taps[-1] for p in split.programs] == ["conv1_2", "conv5_1"]


@given(
    seeds=st.integers(1, 60),
    width=st.sampled_from([1, 2, 8]),
    steps=st.sampled_from([1, 100, 100_000]),
    contents=st.integers(1, 3),
)
def test_chunks_hold_every_cell_once_in_order(seeds, width, steps, contents):
    names = tuple(f"/c{i}" for i in range(contents))
    shapes = {name: (48 + 16 * (i % 2), 64) for i, name in enumerate(names)}
    plan = plan_of(width=width, shapes=shapes, content=names, seed=(f"0:{seeds}",), steps=(steps,))
    assert sorted(i for chunk in plan.chunks for i in chunk.cells) == list(range(len(plan.cells)))
    assert [chunk.number for chunk in plan.chunks] == list(range(len(plan.chunks)))
    for chunk in plan.chunks:
        assert list(chunk.cells) == sorted(chunk.cells)
        program = plan.programs[chunk.program]
        held = {shapes[plan.cells[i].content] for i in chunk.cells}
        assert all(h <= program.height_px and w <= program.width_px for h, w in held)
        assert program.canvas or held == {(program.height_px, program.width_px)}
    # Only the last chunk of a program may end in a launch that is not full.
    for index in range(len(plan.programs)):
        own = [chunk for chunk in plan.chunks if chunk.program == index]
        assert all(len(chunk.cells) % width == 0 for chunk in own[:-1])


@pytest.mark.parametrize(
    ("shape", "pyramid", "expected"),
    [
        ((256, 256), 0, 0),
        ((256, 256), 2, 2),
        ((256, 192), 8, 3),
        ((64, 64), 2, 1),
        ((63, 63), 2, 0),
        ((31, 128), 2, 0),  # 15 px is too small for the network
        ((32, 128), 2, 1),
    ],
)
def test_stages_under_32_px_are_skipped(shape, pyramid, expected):
    assert coarser_stages(shape, pyramid) == expected
    plan = plan_of(shapes={"/c.png": shape}, pyramid=pyramid, canvas="off")
    (program,) = plan.programs
    assert program.coarser == expected
    for times in range(expected + 1):
        stage = program.stage(times)
        assert (stage.height_px, stage.width_px, stage.coarser) == (*halved_shape(shape, times), 0)


def test_evaluations_count_coarser_stages_by_their_pixels():
    assert evaluation_count((256, 256), 0, 10) == 11
    assert evaluation_count((256, 256), 2, 100) == 101 + 60 / 4 + 60 / 16


def test_shapes_of_different_stages_share_no_canvas():
    shapes = {f"/c{i}": (60 + i, 62 + i) for i in range(5)}  # the longest edges are 62 to 66
    plan = plan_of(content=tuple(shapes), shapes=shapes, seed=("0:9",), platform="gpu", width=8, pyramid=1)
    for program in plan.programs:
        own = [c for chunk in plan.chunks if plan.programs[chunk.program] == program for c in chunk.cells]
        stages = {coarser_stages(shapes[plan.cells[i].content], 1) for i in own}
        assert stages == {program.coarser}
    assert {program.coarser for program in plan.programs} == {0, 1}


def test_chunks_follow_from_work_not_from_time():
    short = plan_of(seed=("0:16",), steps=(1,), optimizer="adam")
    assert len(short.chunks) == 1  # it takes less time than a chunk should
    many = plan_of(seed=("0:2000",), steps=(150,))
    launch_s = many.programs[0].cell_flops(150) / NOMINAL_FLOPS["cpu"]
    sizes = [len(chunk.cells) for chunk in many.chunks]
    assert sizes[0] == int(60 / launch_s) > 1
    assert sizes[-2] == math.ceil(planner.MIN_CHUNK_S / launch_s) > 0


def test_chunks_are_no_more_than_a_part_of_what_is_left_and_whole_launches():
    plan = plan_of(seed=("0:4000",), steps=(20,), width=8, platform="gpu")
    sizes, left = [len(chunk.cells) for chunk in plan.chunks], 4000
    for size in sizes[:-1]:
        assert size % 8 == 0
        assert (
            size <= left / planner.CHUNK_SHARE + 8
            or size * plan.flops / 4000 < 1.1 * planner.MIN_CHUNK_S * 1e14
        )
        left -= size
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 4000


def test_shares_are_disjoint_complete_and_of_about_equal_work():
    shapes = {"/c0": (64, 64), "/c1": (256, 192)}
    plan = plan_of(content=tuple(shapes), shapes=shapes, seed=("0:200",), steps=(100,), canvas="off")
    assert len(plan.programs) == 2
    for count in (1, 2, 5, 16):
        shares = plan.shares(count, compile_flops=1e12)
        assert sorted(n for share in shares for n in share) == list(range(len(plan.chunks)))
        work = [plan.only(share).flops for share in shares]
        largest = max(plan.chunk_flops(n) for n in range(len(plan.chunks)))
        assert max(work) - min(work) <= largest + 2e12
    assert plan.shares(1000)[len(plan.chunks) :] == [[]] * (1000 - len(plan.chunks))


def test_a_chunk_of_half_the_width_is_one_of_the_run():
    plan = plan_of(seed=("0:4000",), steps=(500,), width=8, platform="gpu")
    for width in (8, 4, 1):
        found = fingerprints.narrowed_to(plan, 3, width)
        assert [found.programs[c.program].width for c in found.chunks[2:5]] == [8, width, 8]
    assert fingerprints.narrowed_to(plan, 3, 3) == plan


def test_shares_are_dealt_the_same_whatever_widths_a_back_off_has_left():
    plan = plan_of(seed=("0:4000",), steps=(500,), width=4, platform="gpu")
    assert len(plan.chunks) > 5
    narrowed = plan.narrowed({0, 3})
    assert narrowed.chunks[0].program != plan.chunks[0].program
    assert narrowed.shares(5, compile_flops=1e12) == plan.shares(5, compile_flops=1e12)


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [(4, 1, (0, 1, 2, 3, 4)), (10, 4, (0, 4, 8, 10)), (8, 4, (0, 4, 8)), (3, 100, (0, 3))],
)
def test_traces_keep_the_first_and_the_last(last, every, expected):
    assert trace_steps(last, every) == expected


# --- canvases -------------------------------------------------------------------------------------


def folder_plan(shapes, *, steps, platform="gpu", **settings):
    """A cell for every shape, as from a folder of photographs."""
    named = {f"/p{i}": shape for i, shape in enumerate(shapes)}
    return named, plan_of(
        width=16 if platform == "gpu" else 1,
        platform=platform,
        shapes=named,
        content=tuple(named),
        steps=(steps,),
        **settings,
    )


def test_two_hundred_shapes_share_a_few_canvases_on_a_gpu():
    shapes = [(256, 97 + i) for i in range(100)] + [(120 + i, 256) for i in range(100)]
    named, plan = folder_plan(shapes, steps=500)
    assert len(plan.programs) <= 16
    for chunk in plan.chunks:
        program = plan.programs[chunk.program]
        for i in chunk.cells:
            h, w = named[plan.cells[i].content]
            assert h <= program.height_px
            assert w <= program.width_px
    for program in plan.programs:
        assert not program.canvas or (program.height_px % 32, program.width_px % 32) == (0, 0)


def test_canvases_are_used_only_where_they_are_predicted_to_pay():
    shapes = [(256, 160), (256, 170), (192, 256)]
    # On a CPU a compilation costs more than a few steps, but less than the pixels that many would waste.
    assert [p.shape for p in folder_plan(shapes, steps=5, platform="cpu")[1].programs] == ["256x256"]
    many = folder_plan(shapes, steps=5000, platform="cpu")[1]
    assert [(p.shape, p.canvas) for p in many.programs] == [
        ("256x160", False),
        ("256x170", False),
        ("192x256", False),
    ]
    assert len(folder_plan(shapes, steps=5, platform="cpu", canvas="off")[1].programs) == 3


def test_no_canvas_is_larger_than_the_device():
    named = {"/a": (2048, 768), "/b": (768, 2048)}
    sweep = resolve(Sweep(content=tuple(named), style=("/s",), steps=(5,), style_weights="equal"))
    arguments = (sweep, sweep_cells(sweep), named)
    options = {"platform": "gpu", "choose_width": lambda p, n: 1}
    assert len(planner.make_plan(*arguments, **options).programs) == 1
    small = planner.make_plan(*arguments, **options, fits=lambda p: p.bytes_per_cell() < 8e9)
    assert [p.shape for p in small.programs] == ["2048x768", "768x2048"]


def test_one_shape_needs_no_canvas():
    _, plan = folder_plan([(100, 60)] * 5, steps=2)
    assert [(p.shape, p.canvas) for p in plan.programs] == [("100x60", False)]


@given(order=st.permutations([(256, 160), (256, 170), (192, 256), (64, 64), (250, 170), (96, 200)]))
def test_canvases_do_not_depend_on_the_order_of_the_grid(order):
    _, plan = folder_plan(order, steps=40, platform="cpu")
    _, sorted_plan = folder_plan(sorted(order), steps=40, platform="cpu")
    assert {p.shape for p in plan.programs} == {p.shape for p in sorted_plan.programs}


# --- seeds that cannot matter ---------------------------------------------------------------------


def test_a_cell_without_noise_is_computed_for_one_seed():
    settings = {"init": ("noise", "content"), "alpha_beta": (1.0, 2.0), "seed": ("0:3",), "steps": (10,)}
    plan = plan_of(**settings)
    kept = [plan.cells[i] for chunk in plan.chunks for i in plan.computed(chunk)]
    assert [(c.init, c.alpha_beta, c.seed) for c in kept] == [
        *(("noise", ratio, seed) for ratio in (1.0, 2.0) for seed in range(3)),
        ("content", 1.0, 0),
        ("content", 2.0, 0),
    ]
    assert plan.twins == {7: 6, 8: 6, 10: 9, 11: 9}
    assert sorted(i for chunk in plan.chunks for i in chunk.cells) == list(range(12))
    assert plan.image_steps == 8 * 10
    sweep = resolve(Sweep(**{**IMAGES, **settings}))
    assert plan_from_record(sweep, plan.cells, plan_record(plan)) == plan


def test_every_seed_matters_where_there_is_noise():
    assert not plan_of(init=("noise",), seed=("0:5",), alpha_beta=(1.0, 2.0)).twins
    assert len(plan_of(init=("noise",), seed=("0:5",), noise_std=0.0).twins) == 4


@pytest.mark.parametrize("checkpoint_every", [0.1, 60.0])
@pytest.mark.parametrize("width", [1, 4])
def test_twins_share_a_chunk(checkpoint_every, width):
    plan = plan_of(
        width, init=("content", "noise"), seed=("0:7",), alpha_beta=(1.0, 2.0, 3.0), steps=(400,),
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    assert len(plan.twins) == 3 * 6
    for chunk in plan.chunks:
        assert {plan.twins[i] for i in chunk.cells if i in plan.twins} <= set(plan.computed(chunk))
    assert len(plan.chunks) > 1 or checkpoint_every == 60


def test_more_twins_than_a_chunk_holds_are_computed_once_in_each(monkeypatch):
    monkeypatch.setattr(planner, "CHUNK_BYTES", 600_000)
    plan = plan_of(init=("content",), seed=("0:50",), steps=(10,))
    assert 1 < len(plan.chunks) < 50
    assert [len(plan.computed(chunk)) for chunk in plan.chunks] == [1] * len(plan.chunks)
    assert sorted(i for chunk in plan.chunks for i in chunk.cells) == list(range(50))


def test_fingerprints_are_those_of_the_versions_before():
    settings = {"seed": ("0:40",), "alpha_beta": (1.0, "0.5x"), "steps": (20, 40)}
    sweep, plan = resolve(Sweep(**IMAGES, **settings)), plan_of(**settings)
    sources = fingerprints.Sources(sweep, {"/c.png": "1" * 64, "/s.png": "2" * 64}, weights="3" * 64)
    marks = [fingerprints.fingerprint(sources, plan, chunk.number) for chunk in plan.chunks]
    pinned = "f72199ef4965cbfb59c7041bd189d4f4546e7974b4db3e11f87dd849b9d17d77"
    assert hashlib.sha256("".join(marks).encode()).hexdigest() == pinned
