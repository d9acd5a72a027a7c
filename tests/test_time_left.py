"""The time that is printed: corrected by what is measured, never in a plan; and the line on precision."""

import itertools
import json
from types import SimpleNamespace

import pytest

from jaxstyle.console import progress
from jaxstyle.console.progress import Display
from jaxstyle.console.time_left import FIRST_S, MOVED, Estimate
from jaxstyle.device.course import Course
from jaxstyle.device.drive import Segment
from jaxstyle.plan.cells import Cell
from jaxstyle.plan.programs import Program
from jaxstyle.run.finishing import Finisher
from jaxstyle.run.launcher import _advances
from jaxstyle.run.planning import precision_hint
from jaxstyle.spec.settings import Sweep


def told(segments, *, compiling=lambda at: (0.0, 0.0)):
    """What is told of a run: (when, total by the estimate), and how long it really takes.

    Args:
        segments: the run, as (seconds, FLOPs) of each segment.
    """
    clock, said = 0.0, []
    estimate = Estimate(sum(flops for _, flops in segments), lambda: compiling(clock))
    for seconds, flops in segments:
        clock += seconds
        estimate.add(flops, clock)
        left = estimate.news(clock)
        if left is not None:
            said.append((clock, clock + left))
    return said, clock


STEADY = [(1.0, 2.0)] * 100
SLOW_AT_FIRST = ([(1.0, 1.0)] * 12 + [(1.0, 3.0)] * 40) * 3
"""Coarser stages do fewer FLOPs a second."""
TWO_SHAPES = [(1.0, 5.0)] * 30 + [(0.2, 1.0)] * 300


@pytest.mark.parametrize("run", [STEADY, SLOW_AT_FIRST, SLOW_AT_FIRST[:52], TWO_SHAPES])
def test_what_is_told_last_is_within_half_of_what_it_takes(run):
    said, took = told(run)
    assert said[0][0] >= FIRST_S
    assert took / 1.5 < said[-1][1] < took * 1.5
    assert all(later >= 2 * earlier for (earlier, _), (later, _) in itertools.pairwise(said))


def test_a_steady_run_is_told_once_and_right():
    said, took = told(STEADY)
    assert len(said) == 1
    assert said[0][1] == pytest.approx(took)
    assert MOVED < 1.5


def test_what_is_done_once_is_no_part_of_the_rate():
    said, took = told([(30.0, 1.0)] + [(1.0, 1.0)] * 60)
    assert said[0][1] == pytest.approx(took)


def test_a_run_of_seconds_is_told_nothing():
    assert told([(1.0, 1.0)] * 8)[0] == []


def test_compiling_counts_beside_computing():
    # Three programs of 20 s computing each; the second and third take 10 s to compile.
    segments = [(1.0, 1.0)] * 20 + ([(11.0, 1.0)] + [(1.0, 1.0)] * 19) * 2

    def compiling(at):
        done = sum(at > end for end in (20.5, 50.5))
        return 10.0 * done, 10.0 * (2 - done)

    said, took = told(segments, compiling=compiling)
    assert said[0][1] == pytest.approx(took)


def test_steps_that_were_kept_or_lost_are_not_counted_twice(monkeypatch, capsys):
    now = itertools.count(0.0, 2.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Display() as display:
        display.start(image_steps=20, cells=2, estimate=Estimate(200.0), assumed="9 min 0 s")
        display.skip(5, 50.0)
        for _ in range(4):
            display.advance(1, 10.0)
        display.advance(-1, -10.0)
        left = display._estimate.left_s(10.0)
    assert left == pytest.approx((10.0 - 2.0) / (30 - 10) * 120)  # without the first segment
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "measured so far: about 24.0 s more (the plan assumed 9 min 0 s in all)"


@pytest.fixture
def seconds(monkeypatch):
    """A clock that tests set, where a line of progress is printed at every call."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    return now


def test_a_line_has_the_steps_and_the_image_steps_of_a_second(seconds, capsys):
    with Display() as display:
        display.start(image_steps=100, cells=5)
        for _ in range(2):
            seconds[0] += 2.0
            display.advance(20, 20, 5)  # of four pictures together
        display.advance(-20, -20)  # lost; how many steps these were is not told
        display.advance(20)
    lines = capsys.readouterr().out.splitlines()
    rates = "0/5 cells  2.50 steps/s  10.00 image-steps/s"
    assert lines[:2] == [f" 20 %  {rates}  ETA 8.0 s", f" 40 %  {rates}  ETA 6.0 s"]
    assert "0/5 cells  1.25 steps/s  5.00 image-steps/s" in lines[2]
    assert rates in lines[3]


def test_things_are_counted_with_their_rate_and_the_time_that_is_left(seconds, capsys):
    events = []
    with progress.listening(events.append), Display() as display:
        for _ in display.each(iter("abcd"), 4, "image"):
            seconds[0] += 5.0
    assert capsys.readouterr().out.splitlines() == [
        " 25 %  1/4 images  0.20 images/s  ETA 15.0 s",
        " 50 %  2/4 images  0.20 images/s  ETA 10.0 s",
        " 75 %  3/4 images  0.20 images/s  ETA 5.0 s",
        "100 %  4/4 images  0.20 images/s  ETA 0.0 s",
    ]
    last = {"event": "progress", "images": 3, "of": 4, "eta_s": 5.0}
    assert {name: events[2][name] for name in last} == last


def test_runs_that_are_parts_of_a_whole_show_their_progress_there(seconds, capsys):
    with Display() as whole:
        whole.count(1, 1, "thing")
    with whole, progress.parts_of(whole, 3):
        capsys.readouterr()
        for _ in range(3):
            with Display(quiet=True) as part:
                part.start(image_steps=20, cells=2)
                seconds[0] += 1.0
                part.advance(20, 7e9, 10)
                part.cells_done(2)
                part.finish()
    assert capsys.readouterr().out.splitlines() == [
        " 33 %  0/6 cells  10.00 steps/s  20.00 image-steps/s  ETA 2.0 s",
        " 67 %  2/6 cells  10.00 steps/s  20.00 image-steps/s  ETA 1.0 s",
        "100 %  4/6 cells  10.00 steps/s  20.00 image-steps/s  ETA 0.0 s",
    ]


@pytest.mark.parametrize("own", [{"quiet": True}, {"log_format": "json"}], ids=str)
def test_counts_are_as_quiet_or_as_json_as_everything_else(seconds, capsys, own):
    with Display(**own) as display:
        for _ in display.each("ab", 2, "image"):
            seconds[0] += 1.0
    said = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["images"] for line in said] == ([] if "quiet" in own else [1, 2])


def test_segments_count_as_much_as_the_plan_says():
    program = Program(64, 96, "avg", "lbfgs", "f32", ("conv4_2",), ("conv1_1",), width=2, coarser=1)
    # Ten steps, and the evaluation of the last image, which is none.
    segments = [Segment(1, 60, lambda: None), Segment(0, 7, lambda: None), Segment(0, 4, lambda: None)]
    cells = [object.__new__(Cell) for _ in range(2)]
    unused = tuple.__new__(Finisher, [None] * len(Finisher._fields))  # nothing is finished before the end
    found = _advances([cells], program, Course(iter(segments)), 10, unused)
    cost = sum(advance.cost for advance in itertools.islice(found, len(segments)))
    assert cost == pytest.approx(2 * program.trajectory_cost(10))
    assert cost > 2 * (10 * program.step_flops + 60 * program.coarse_flops)


def device(platform, capability=""):
    return SimpleNamespace(platform=platform, compute_capability=capability)


def test_f32_on_a_gpu_names_what_is_faster_and_what_it_costs():
    line = precision_hint(Sweep(precision="f32"), device("gpu", "9.0"))
    for words in ("tf32", "bf16", "a quarter", "an eighth", "12 % higher"):
        assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("precision", "where"),
    [
        ("f32", device("cpu")),
        ("f32", device("tpu")),
        ("f32", device("gpu", "7.5")),
        ("bf16", device("gpu", "9.0")),
        ("tf32", device("gpu", "9.0")),
    ],
)
def test_nothing_is_said_where_nothing_is_faster(precision, where):
    assert precision_hint(Sweep(precision=precision), where) == ""
