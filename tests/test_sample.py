"""The part of a huge run that is shown: a grid, even, never too large, the same every time."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import fill

from jaxstyle.derived import sample
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.rundir.records import Record
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep


def product(*sizes):
    return np.array(list(itertools.product(*map(range, sizes))), np.int64).reshape(-1, len(sizes))


def kept(codes, limit, **options):
    """The values of each axis that are kept, and how many cells."""
    mask = sample.chosen(codes, limit, **options)
    return [len(np.unique(column)) for column in codes[mask].T], int(mask.sum())


def test_a_single_cell_of_more_snapshots_than_are_shown_is_thinned(tmp_path):
    sweep = Sweep(content=("/a",), style=("/b",), steps=tuple(range(1, 41)))
    record = Record(tmp_path, sweep, sweep_cells(resolve(sweep)), {}, (), {}, ())
    shown = sample.shown(record, [0], 10)
    assert shown.cells == (0,)
    assert len(shown.snapshots) == 10
    assert shown.left_out == 30


def test_even_indices_hold_both_ends_and_are_spread():
    assert sample.even(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert sample.even(9, 3).tolist() == [0, 4, 8]
    assert sample.even(100, 7).tolist() == [0, 16, 33, 50, 66, 82, 99]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ((10, 10, 10, 3), 3000, (10, 10, 10, 3)),  # all of them
        ((10, 10, 10, 100), 3000, (10, 10, 10, 3)),  # seeds first
        ((2, 2, 10, 2500), 3000, (2, 2, 10, 75)),
        ((100, 100, 10, 1), 3000, (17, 17, 10, 1)),  # then the longest, short ones stay whole
        ((1000, 100, 1, 1), 3000, (54, 54, 1, 1)),
        ((40, 40, 1, 10), 3000, (38, 38, 1, 2)),  # two seeds stay
        ((1, 1, 1, 10_000), 3000, (1, 1, 1, 3000)),
    ],
)
def test_a_part_of_a_grid_is_a_grid(sizes, limit, expected):
    codes = product(*sizes)
    assert kept(codes, limit, seeds=(3,)) == (list(expected), int(np.prod(expected)))


def test_axes_that_move_together_are_thinned_together():
    pairs = np.repeat(np.arange(500), 2)
    codes = np.stack([pairs, pairs, np.tile([0, 1], 500)], axis=1)
    assert sample.together(codes) == [[0, 1], [2]]
    assert kept(codes, 200) == ([100, 100, 2], 200)


def test_grids_that_share_no_values_are_thinned_evenly():
    one, other = product(30, 30), product(30, 30) + 30
    mask = sample.chosen(np.concatenate([one, other]), 100)
    assert 25 <= mask.sum() <= 100
    assert 0.3 < mask[:900].sum() / mask.sum() < 0.7


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 1),
)
def test_no_more_are_kept_than_asked_for_and_some_are(sizes, limit, seed, share):
    codes = product(*sizes)
    codes = codes[np.random.default_rng(seed).random(len(codes)) < share]  # a run that is not done
    if not len(codes):
        return
    codes = np.stack([np.unique(column, return_inverse=True)[1] for column in codes.T], axis=1)
    mask = sample.chosen(codes, limit, seeds=(len(sizes) - 1,))
    assert min(len(codes), limit) / 4 <= mask.sum() <= limit
    np.testing.assert_array_equal(sample.chosen(codes, limit, seeds=(len(sizes) - 1,)), mask)


def test_snapshots_are_thinned_to_five_before_cells_are_left_out(tmp_path):
    record = fill(tmp_path / "run", [], seed=("0:20",))  # 40 cells of two snapshots
    assert sample.shown(record, range(40), 80) == sample.Shown(tuple(range(40)), (0, 1), 0)
    part = sample.shown(record, range(40), 40)
    assert part.snapshots == (0, 1)
    assert len(part.cells) == 20
    assert part.left_out == 40
    assert part.counts == (
        sample.Count(("content",), 2, 2),
        sample.Count(("seed",), 10, 20),
        sample.Count(("steps",), 2, 2),
    )
