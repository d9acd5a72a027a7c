"""The engine: one trace, and bytes that depend only on what they should."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from conftest import ROOT, random_image, run_forked

from jaxstyle.cell.knobs import knobs_of
from jaxstyle.cell.state import Targets
from jaxstyle.device import batch, drive, engine
from jaxstyle.device.measured_memory import measure_memory
from jaxstyle.device.memory import (
    MAX_WIDTH,
    MEMORY_SHARE,
    can_tf32,
    choose_width,
    is_out_of_memory,
    launches_beside,
    planned_memory,
)
from jaxstyle.inputs.preprocess import mean_image
from jaxstyle.inputs.resize import halved
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.planner import make_plan
from jaxstyle.plan.programs import Memory
from jaxstyle.plan.stages import COARSE_EVALUATIONS
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep
from jaxstyle.vgg import layers

SHALLOW = {"content_layer": ("conv2_2",), "style_layers": ("conv1_1+conv2_1",)}
STYLE_SIZES = {"/s0": (40, 50), "/s1": (33, 64), "/s2": (48, 32), "/s3": (96, 128)}


class Bench:
    """A sweep of random images without any file, on the real network or on a few layers of a narrow one."""

    def __init__(self, weights, *, width=1, shape=(32, 40), winograd=None, **settings):
        # Narrow networks use XLA's convolution, which compiles fast; real ones use that of a run.
        real = weights["conv1_1"][1].size == 64
        winograd = winograd if real else False
        settings = {**({} if real else SHALLOW), **settings}
        settings = {"alpha_beta": (1e-3,), "steps": (4,), "optimizer": "adam", **settings}
        settings = {"content": ("/c0",), "style": ("/s0",), **settings}
        self.sweep = resolve(Sweep(**settings))
        self.cells = sweep_cells(self.sweep)
        self.engine = engine.Engine(weights, winograd=winograd)
        self.content = {p: random_image(*shape, seed=10 + i) for i, p in enumerate(self.sweep.content)}
        self.style = {p: random_image(*STYLE_SIZES[p], seed=20 + i) for i, p in enumerate(self.sweep.style)}
        self.plan = make_plan(
            self.sweep,
            self.cells,
            dict.fromkeys(self.content, shape),
            platform="cpu",
            choose_width=lambda p, n: width,
        )
        (self.program,) = self.plan.programs

    def stage(self, cells, coarser):
        """Knobs, targets and starts of cells in one stage."""
        program = self.program.stage(coarser)
        content, style = (
            {path: halved(pixels, coarser) for path, pixels in table.items()}
            for table in (self.content, self.style)
        )
        contents = list(dict.fromkeys(c.content for c in cells))
        styles = list(dict.fromkeys(c.style for c in cells))
        p = [self.engine.target_rows(program, content[x], of_cells=True).content for x in contents]
        a = [self.engine.target_rows(program, style[x]).style for x in styles]
        knobs = [
            knobs_of(
                c,
                program,
                self.sweep,
                content_row=contents.index(c.content),
                style_row=styles.index(c.style),
                extent=content[c.content].shape[:2],
                full_extent=self.content[c.content].shape[:2] if coarser else None,
            )
            for c in cells
        ]
        targets = Targets(
            tuple(np.stack(rows) for rows in zip(*p, strict=True)),
            tuple(np.stack(rows) for rows in zip(*a, strict=True)),
        )
        start = [
            mean_image(*content[c.content].shape[:2])
            if c.init == "noise"
            else content[c.content].astype(np.float32)
            for c in cells
        ]
        return drive.Stage(jax.tree.map(lambda *rows: np.stack(rows), *knobs), targets), np.stack(start)

    def launch(self, ids):
        cells = [self.cells[i] for i in ids]
        stages = [self.stage(cells, coarser) for coarser in range(self.program.coarser, -1, -1)]
        (knobs, targets), _ = stages[-1]
        first = self.program.stage(self.program.coarser)
        canvas = (first.height_px, first.width_px) if first.canvas else None
        start = np.stack([drive.on_canvas(image, canvas) for image in stages[0][1]])
        return drive.Launch(knobs, start, targets, tuple(stage for stage, _ in stages[:-1]))

    def course(self, ids, steps=None, **options):
        return self.engine.course(self.program, self.launch(ids), steps or self.sweep.steps, **options)

    def run(self, ids, steps=None, **options):
        return self.course(ids, steps, **options).finish()


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


FULL_GRID = {
    "content": ("/c0", "/c1", "/c2"),
    "style": ("/s0", "/s1", "/s2"),
    "alpha_beta": (0.0, 1e-3),
    "content_layer": ("conv1_2", "conv2_2"),
    "style_layers": ("conv2_1", "conv1_1:20+conv2_2:0.05"),
    "learning_rate": (1.0, 10.0),
    "init": ("noise", "content"),
    "seed": (0, 7),
}


@pytest.fixture(scope="module")
def grid(narrow):
    """A cell of every kind, and whether its program was new."""
    # Another height than any other test's, so that no program of this process is reused.
    bench = Bench(narrow, shape=(68, 80), **FULL_GRID)
    return bench, bench.engine.compile(bench.program)[1]


def numbers(bench, **wanted):
    """The cells with some values, by number."""
    own = (c.id for c in bench.cells if all(getattr(c, name) == value for name, value in wanted.items()))
    return list(own)


def test_a_grid_over_every_axis_traces_the_step_once(grid):
    bench, fresh = grid
    assert fresh
    assert len(bench.cells) == 3**2 * 2**6
    picked = [0, 1, 2, 4, 8, 16, 32, 64, 128, 200, 400, len(bench.cells) - 1]
    for ids, steps in zip(picked, itertools.cycle([(1,), (2, 3), (4,)]), strict=False):
        bench.run([ids], steps)
    again, fresh = bench.engine.compile(bench.program)
    assert not fresh
    assert again.step_traces == 1
    # A program for the contents' shape and a canvas of 64x64 for all three shapes of style.
    assert bench.engine.target_traces == 2


def test_other_settings_of_a_run_do_not_retrace_either(narrow):
    bench = Bench(narrow)
    compiled, _ = bench.engine.compile(bench.program)
    for settings in ({"tv_weight": 2.0}, {"noise_std": 30.0}, {"beta": 3.0}, {"steps": (1, 2, 9)}):
        other = Bench(narrow, **settings)
        again, fresh = other.engine.compile(other.program)
        assert again is compiled
        assert not fresh
        other.run([0])


def test_n_steps_give_n_plus_one_losses_and_an_image_at_every_snapshot(narrow):
    outcome = Bench(narrow).run([0], (2, 5))
    assert outcome.images.shape == (1, 2, 32, 40, 3)
    assert outcome.info.loss_total.shape == (1, 6)
    assert outcome.info.style_layer_loss.shape == (1, 6, 2)
    assert np.isfinite(outcome.info.loss_total).all()
    assert outcome.diverged_step == [-1]


def test_the_loss_at_step_k_is_the_loss_of_the_image_after_k_updates(narrow):
    bench = Bench(narrow)
    outcome = bench.run([0], (3, 4))
    launch = bench.launch([0])
    for index, k in enumerate((3, 4)):
        start = launch._replace(
            start=outcome.images[:, index], knobs=launch.knobs._replace(noise_std=np.zeros(1, np.float32))
        )
        fresh = bench.engine.course(bench.program, start, (1,)).finish()
        np.testing.assert_array_equal(fresh.info.loss_total[0, 0], outcome.info.loss_total[0, k])


def test_snapshots_are_the_runs_of_fewer_steps(narrow):
    bench = Bench(narrow)
    outcome = bench.run([0], (2, 4, 7))
    for index, steps in enumerate((2, 4, 7)):
        shorter = bench.run([0], (steps,))
        np.testing.assert_array_equal(shorter.images[:, 0], outcome.images[:, index])
        np.testing.assert_array_equal(shorter.info.loss_total, outcome.info.loss_total[:, : steps + 1])


@pytest.fixture(scope="module")
def whole(vgg19_weights):
    """The real network, down to the deepest layer of a run, with a cell that starts from its content."""
    return Bench(vgg19_weights, shape=(96, 128), style=("/s3",), init=("content",), steps=(1,))


def test_a_content_start_has_no_content_loss_at_all(whole):
    assert whole.run([0]).info.loss_content[0, 0] == 0


@pytest.mark.parametrize("length", [1, 2, 3])
def test_where_segments_end_changes_no_byte(narrow, monkeypatch, length):
    bench = Bench(narrow)
    whole = bench.run([0], (7,))
    monkeypatch.setattr(drive, "SEGMENT_PASSES", length)  # the program's own buffer stays as it is
    course = bench.course([0], (7,))
    ends = [segment.passes for segment in course]
    assert sum(ends) == 8
    assert max(ends) == length
    same(whole, course.outcome)


def test_a_launch_goes_as_far_as_it_is_gone_through_and_settles_jax_only_meanwhile(narrow, monkeypatch):
    bench = Bench(narrow)
    whole = bench.run([0], (3,))
    monkeypatch.setattr(drive, "SEGMENT_PASSES", 1)
    with jax.numpy_rank_promotion("raise"):
        course = bench.course([0], (3,))
        for number, segment in enumerate(course, 1):
            assert segment.progress().passes == number
            assert jax.config.jax_numpy_rank_promotion == "raise"  # pyright: ignore[reportAttributeAccessIssue]
            assert not hasattr(course, "outcome")
    same(whole, course.outcome)


def pyramid(weights, optimizer="lbfgs", **settings):
    """Cells that are solved at half of their size first."""
    memory = 4 if optimizer == "lbfgs" else None
    own = {"shape": (45, 64), "width": 4, "optimizer": optimizer, "lbfgs_memory": memory, "pyramid": 3}
    return Bench(weights, **{**own, **settings})


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_launch_goes_on_from_every_segment_to_the_same_bytes(narrow, monkeypatch, optimizer):
    bench = pyramid(narrow, optimizer, seed=(0, 1, 2), steps=(2, 7))
    monkeypatch.setattr(engine, "COARSE_EVALUATIONS", 5)
    whole = bench.run([0, 1, 2])
    monkeypatch.setattr(drive, "SEGMENT_PASSES", 2)
    kept = [segment.progress() for segment in bench.course([0, 1, 2])]
    assert {(p.coarser, p.passes) for p in kept} >= {(1, 2), (1, 5), (0, 2), (0, 3), (0, 8)}
    for progress in kept:
        assert len(progress.images) == (progress.coarser == 0 and progress.passes > 3)
        same(bench.run([0, 1, 2], begin=progress), whole)


def test_real_cells_are_the_same_bytes_in_any_place_order_and_padding(vgg19_weights, monkeypatch):
    # All channels, because on CPUs without AVX-512 one of XLA's libraries rounds products of a few channels
    # by their position. No run on a CPU has a width of 4, and no other uses Winograd's algorithm.
    monkeypatch.setattr(engine, "COARSE_EVALUATIONS", 3)
    settings = {"shape": (32, 64), "steps": (2,), **SHALLOW}
    axes = {"init": ("noise", "content"), "alpha_beta": (1e-3, 1e-2), "seed": ("0:4",)}
    bench = pyramid(vgg19_weights, winograd=False, **settings, **axes)
    full = bench.run([0, 1, 2, 3])
    mixed = bench.run([5, 3, 6, 0])
    padded = bench.run([3])
    for name in ("images", "diverged_step"):
        np.testing.assert_array_equal(getattr(full, name)[3], getattr(mixed, name)[1])
        np.testing.assert_array_equal(getattr(full, name)[3], getattr(padded, name)[0])
    for a, b, c in zip(*(jax.tree.leaves(of.info) for of in (full, mixed, padded)), strict=True):
        np.testing.assert_array_equal(a[3], b[1])
        np.testing.assert_array_equal(a[3], c[0])
    same(full, bench.run([0, 1, 2, 3]))


DIGESTS = """
import hashlib, os, sys
sys.path.insert(0, "tests")
import conftest, jax, numpy as np, test_engine
from jaxstyle.device import engine

for devices in (8, 1):
    if os.fork():  # JAX has not started yet
        assert os.wait()[1] == 0
        continue
    os.environ.update(XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}", NPROC="8")
    assert len(jax.devices()) == devices
    few = {"content_layer": ("conv1_2",), "style_layers": ("conv1_1",)}
    bench = test_engine.Bench(conftest.narrow_weights(), **few)
    bench.engine = engine.Engine(conftest.narrow_weights(), device=jax.devices()[-1], winograd=False)
    data = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(bench.run([0])))
    print(hashlib.sha256(data).hexdigest(), flush=True)
    os._exit(0)
"""
"""Prints results of a cell on the last of eight devices and on one alone, with as many threads for both."""


def test_a_cell_is_the_same_bytes_on_every_device_of_eight_and_on_one():
    found = run_forked("-c", DIGESTS, check=True, cwd=ROOT)
    on_eight, on_one = found.stdout.split()
    assert on_eight == on_one


def test_a_batch_agrees_with_single_cells(narrow, grid):
    single, _ = grid
    wide = Bench(narrow, shape=(68, 80), width=2, **FULL_GRID)
    for ids in ([0, 77], [300, 501]):
        batch = wide.run(ids)
        for place, i in enumerate(ids):
            alone = single.run([i])
            # Widths may differ in the last bits; step 0 agrees to 1e-5 (contract).
            first, other = (outcome.info.loss_total[:, 0] for outcome in (batch, alone))
            np.testing.assert_allclose(first[place], other[0], rtol=1e-5)
            np.testing.assert_allclose(batch.images[place], alone.images[0], atol=0.5)


def test_a_diverging_cell_leaves_its_neighbours_alone(narrow):
    settings = {**FULL_GRID, "shape": (68, 80), "width": 2, "init": ("noise",)}
    good = Bench(narrow, **{**settings, "alpha_beta": (1e-3,), "seed": (0, 1)})
    bad = Bench(narrow, **{**settings, "alpha_beta": (1e-3, 1e36), "seed": (0,)})
    assert good.program == bad.program
    own = {"content": "/c0", "style": "/s0", "content_layer": "conv2_2", "learning_rate": 10.0}
    with_neighbour, with_bad = (bench.run(numbers(bench, **own)[:2]) for bench in (good, bad))
    assert list(with_bad.diverged_step) == [-1, 0]
    np.testing.assert_array_equal(with_neighbour.images[0], with_bad.images[0])
    np.testing.assert_array_equal(with_neighbour.info.loss_total[0], with_bad.info.loss_total[0])
    assert np.isfinite(with_bad.images[1]).all()
    assert np.isnan(with_bad.info.loss_total[1]).all()


def test_a_divergence_past_the_last_step_is_none(narrow):
    bench = Bench(narrow, learning_rate=(1e12,), init=("content",))
    assert bench.run([0], (3,)).diverged_step == [1]
    # The update that follows the last loss is discarded, whatever it would have been.
    bench = Bench(narrow, alpha_beta=(1e-3,), learning_rate=(3e38,), init=("content",))
    assert bench.run([0], (2,)).diverged_step == [1]


def test_launches_side_by_side_are_each_filled_up_to_the_width(narrow):
    bench = Bench(narrow, width=2, seed=("10:15",))
    launches = [bench.launch(ids) for ids in ([0, 1], [2], [3, 4])]
    found = drive.side_by_side(launches, 2)
    assert list(found.knobs.seed) == [10, 11, 12, 12, 13, 14]
    assert len(found.start) == 6
    assert len(found.targets.content[0]) == 6


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_launches_at_the_same_time_have_the_bytes_of_each_alone_and_go_on_to_them(narrow, optimizer):
    bench = pyramid(narrow, optimizer, seed=("10:19",))
    groups, steps = ([0, 1, 2, 3], [4, 5, 6, 7], [8]), (2, 5)
    launch = drive.side_by_side([bench.launch(ids) for ids in groups], 4)
    course = bench.engine.course(bench.program, launch, steps)
    kept = [segment.progress() for segment in course]
    assert {progress.coarser for progress in kept} == {0, 1}
    for progress in (kept[0], kept[-1]):
        again = bench.engine.course(bench.program, launch, steps, begin=progress).finish()
        same(course.outcome, again)
    for number, ids in enumerate(groups):
        own = slice(4 * number, 4 * number + len(ids))
        same(bench.run(ids, steps), jax.tree.map(lambda a, own=own: a[own], course.outcome))


def test_a_cpu_advances_a_launch_for_each_thread_that_a_quarter_of_the_memory_holds():
    memory = Memory(fixed=400, per_cell=100)
    assert launches_beside(memory, 1, available=10**6, threads=3) == 3
    assert launches_beside(memory, 1, available=4 * 650, threads=3) == 2
    assert launches_beside(memory, 2, available=4 * 650, threads=3) == 1
    assert launches_beside(memory, 1, available=4, threads=3) == 1


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 8388608 bytes.", True),
        ("INTERNAL: YNNPACK operation failed: error", True),  # what it says when an allocation fails
        ("INTERNAL: YNNPACK operation failed: invalid parameter", False),
        ("INTERNAL: CUDA error: CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        ("INTERNAL: CUDNN_STATUS_ALLOC_FAILED in cudnnCreate", True),
        ("INTERNAL: cuBLAS: CUBLAS_STATUS_EXECUTION_FAILED", False),
        ("INTERNAL: the driver is gone", False),
    ],
)
def test_memory_that_runs_out_inside_a_library_is_told_as_such(message, memory):
    assert is_out_of_memory(jax.errors.JaxRuntimeError(message)) is memory


def test_targets_are_taken_once_per_image_and_gathered_by_row(narrow):
    bench = Bench(narrow, width=4, content=("/c0", "/c1"), style=("/s0", "/s1"))
    launch = bench.launch([0, 1, 2, 3])
    assert launch.targets.content[0].shape[0] == 2
    assert launch.targets.style[0].shape[0] == 2
    assert list(launch.knobs.content_row) == [0, 0, 1, 1]
    assert list(launch.knobs.style_row) == [0, 1, 0, 1]


def test_lowered_step_has_one_loop_and_no_select_and_scatter(narrow):
    bench = Bench(narrow, pool="max")
    text = batch.lower(bench.program, *bench.engine.network(bench.program)[::-1]).segment.as_text()
    assert "select_and_scatter" not in text
    assert text.count("stablehlo.while") == 1


def test_width_is_1_on_a_cpu_and_a_power_of_two_within_memory_elsewhere(narrow):
    program = Bench(narrow).program
    memory = Memory(fixed=10**8, per_cell=10**7)
    assert choose_width(program, 1000, platform="cpu", memory=memory, available=10**12) == 1

    def width(cells, bytes_for_cells):
        available = int((memory.fixed + bytes_for_cells) / MEMORY_SHARE)
        return choose_width(program, cells, platform="gpu", memory=memory, available=available)

    assert width(1000, 1.5e7) == 1
    assert width(1000, 2.5e7) == 2
    assert width(1000, 20e7) == 16
    assert width(1000, 1e12) == MAX_WIDTH
    assert width(3, 1e12) == 4
    assert width(1, 1e12) == 1
    assert width(8, -memory.fixed) == 1  # the floor is one cell, however small the device


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer": "adam"}, 64),
        ({"optimizer": "lbfgs", "lbfgs_memory": 30}, 32),  # 64 histories of 30 pairs are 3.0e9 numbers
        ({"optimizer": "adam", "regions": 4}, 16),
        ({"optimizer": "adam", "regions": 4, "grids": ("2x2",)}, 64),
    ],
)
def test_no_tensor_of_a_launch_has_more_elements_than_32_bits_count(narrow, changes, expected):
    program = dataclasses.replace(Bench(narrow).program, height_px=512, width_px=512, **changes)
    memory = Memory(fixed=0, per_cell=1)
    found = choose_width(program, 1000, platform="gpu", memory=memory, available=10**12)
    assert found == expected


def test_memory_is_linear_in_the_width_as_measured(narrow):
    bench = Bench(narrow, shape=(68, 80), **FULL_GRID)  # whose program is there for widths 1 and 2
    memory = measure_memory(bench.program, narrow, device=jax.devices()[0], winograd=bench.engine.winograd)
    assert memory.per_cell > 4 * layers.activation_floats(68, 80, bench.program.taps) / 16
    compiled, _ = bench.engine.compile(dataclasses.replace(bench.program, width=8))
    planned = memory.fixed + 8 * memory.per_cell
    assert planned == pytest.approx(compiled.device_bytes, rel=0.1)


def test_planned_memory_of_the_real_network_is_what_the_compiler_accounts_for(whole):
    planned = planned_memory(whole.program, winograd=True)
    compiled, _ = whole.engine.compile(whole.program)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(whole.engine.network(whole.program).params))
    plain = layers.parameter_bytes(whole.program.taps, winograd=False)  # for styles of other shapes
    assert planned.fixed == weights + plain
    assert planned.per_cell == pytest.approx(compiled.device_bytes - weights, rel=0.15)


@pytest.mark.parametrize("terms", [{}, {"photorealism": (100.0,)}], ids=["", "matting"])
def test_planned_memory_of_a_few_layers_is_no_less_than_the_compiler_accounts_for(vgg19_weights, terms):
    layer = {"content_layer": ("conv1_1",), "style_layers": ("conv1_1",), **terms}
    bench = Bench(vgg19_weights, shape=(192, 256), winograd=False, **layer)
    compiled, _ = bench.engine.compile(bench.program)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(bench.engine.network(bench.program).params))
    assert 0.6 < (compiled.device_bytes - weights) / bench.program.bytes_per_cell() < 1.05


def test_tf32_is_for_nvidia_gpus_from_ampere_on():
    class Device:
        def __init__(self, platform, capability=None):
            self.platform = platform
            if capability:
                self.compute_capability = capability

    assert can_tf32(Device("gpu", "9.0"))
    assert can_tf32(Device("gpu", "12.0"))
    assert not can_tf32(Device("gpu", "7.5"))
    assert not can_tf32(Device("gpu", "gfx942"))
    assert not can_tf32(Device("tpu"))
    assert not can_tf32(jax.devices("cpu")[0])


def test_noise_of_a_seed_does_not_depend_on_the_cell(grid):
    bench, _ = grid
    by_seed = {0: [], 7: []}
    for seed, starts in by_seed.items():
        for i in numbers(bench, seed=seed, init="noise")[::40]:
            launch = bench.launch([i])
            stage = drive.Stage(launch.knobs, launch.targets)
            begun = bench.engine._begin(bench.program, 0, stage, launch.start, ())
            starts.append(np.asarray(begun.parts[0].state.image))
    for starts in by_seed.values():
        assert len(starts) == 4
        for start in starts:
            np.testing.assert_array_equal(start, starts[0])
    assert np.abs(by_seed[0][0] - by_seed[7][0]).max() > 1


def test_stages_under_32_px_are_skipped(narrow):
    bench = pyramid(narrow)
    assert bench.program.coarser == 1
    assert bench.program.stage(1).shape == "22x32"


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_pyramid_goes_on_from_the_best_image_of_the_stage_before(narrow, optimizer):
    bench = pyramid(narrow, optimizer, steps=(3, 6))
    course = bench.course([0])
    passes = [(segment.coarser, segment.passes) for segment in course]
    outcome = course.outcome
    assert sum(n for coarser, n in passes if coarser) == COARSE_EVALUATIONS
    assert sum(n for coarser, n in passes if not coarser) == 7
    # The same two stages as runs of their own: the coarse one from noise, ...
    (coarse, targets), start = bench.stage(bench.cells[:1], 1)
    assert coarse.content_weight[0] == pytest.approx(4e-3)
    first = bench.engine.course(
        bench.program.stage(1),
        drive.Launch(coarse, start, targets),
        (COARSE_EVALUATIONS - 1,),
        keep="best",
    ).finish()
    # ... and the full-size one from its best image, enlarged.
    (full, targets), _ = bench.stage(bench.cells[:1], 0)
    image = jax.image.resize(first.images[0, 0], (45, 64, 3), "cubic")
    start = np.asarray(image)[None]
    full = full._replace(noise_std=np.zeros(1, np.float32))
    second = bench.engine.course(
        bench.program.stage(0), drive.Launch(full, start, targets), bench.sweep.steps
    ).finish()
    np.testing.assert_allclose(outcome.info.loss_total, second.info.loss_total, rtol=2e-4)
    assert np.abs(outcome.images - second.images).mean() < 0.05


def test_targets_of_a_coarser_stage_are_the_same_on_a_canvas_of_all(narrow):
    bench = pyramid(narrow, style=("/s0", "/s1"))
    stage, before = bench.program.stage(1), bench.engine.target_traces
    pictures = [halved(p, 1) for p in (*bench.content.values(), *bench.style.values())]
    shared = [bench.engine.target_rows(stage, p, canvas=(80, 72)) for p in pictures]
    assert bench.engine.target_traces == before + 1
    for pixels, found in zip(pictures, shared, strict=True):
        alone = engine.Engine(narrow, canvases=False, winograd=False).target_rows(stage, pixels)
        for a, b in zip(found.style, alone.style, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    exact = bench.engine.target_rows(stage, pictures[0], of_cells=True)
    np.testing.assert_allclose(shared[0].content[0], exact.content[0], rtol=1e-4, atol=1e-3)


def test_a_pyramid_compiles_a_step_for_every_stage_once(narrow):
    bench = pyramid(narrow, "adam", steps=(1,), seed=(0, 1))
    for ids in ([0], [1], [0]):
        bench.run(ids)
    made = [bench.engine.compile(bench.program.stage(times)) for times in range(2)]
    assert [(compiled.step_traces, fresh) for compiled, fresh in made] == [(1, False)] * 2


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_image_that_is_kept_has_the_loss_that_is_told(narrow, keep):
    bench = Bench(narrow, learning_rate=(60.0,), optimizer="adam")
    outcome = bench.run([0], (5, 20), keep=keep)
    curve = outcome.info.loss_total[0]
    expected = [curve[5], curve[20]] if keep == "last" else [curve[:6].min(), curve.min()]
    assert curve[20] > curve.min()
    launch = bench.launch([0])
    for index, loss in enumerate(expected):
        again = launch._replace(
            start=outcome.images[:, index], knobs=launch.knobs._replace(noise_std=np.zeros(1, np.float32))
        )
        assert bench.engine.course(bench.program, again, (1,)).finish().info.loss_total[0, 0] == loss


def test_a_pyramid_on_a_canvas_is_that_of_the_image_alone(narrow, monkeypatch):
    monkeypatch.setattr(engine, "COARSE_EVALUATIONS", 3)  # more would amplify what rounding leaves
    expected = pyramid(narrow, steps=(3,)).run([0])
    bench = pyramid(narrow, steps=(3,), width=1)
    bench.program = dataclasses.replace(bench.program, height_px=64, width_px=96, canvas=True)
    outcome = bench.run([0])
    assert outcome.images.shape == (1, 1, 64, 96, 3)
    np.testing.assert_allclose(outcome.info.loss_total, expected.info.loss_total, rtol=1e-3)
    assert np.abs(outcome.images[:, :, :45, :64] - expected.images).mean() < 0.05


def test_planned_memory_holds_the_history_of_lbfgs(narrow):
    bench, bytes_of = pyramid(narrow), {}
    for memory in (4, 24):
        program = dataclasses.replace(bench.program.stage(0), lbfgs_memory=memory)
        compiled, _ = bench.engine.compile(program)
        bytes_of[memory] = compiled.device_bytes, planned_memory(program, winograd=False).per_cell
    grown = [b - a for a, b in zip(bytes_of[4], bytes_of[24], strict=True)]
    assert grown[1] == 20 * 2 * 4 * 3 * 45 * 64
    assert grown[0] == pytest.approx(program.width * grown[1], rel=0.15)
