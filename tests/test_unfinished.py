"""States of unfinished chunks: which of them a process goes on from, and what becomes of the others."""

import dataclasses

import numpy as np
import pytest

from jaxstyle.device.drive import Progress
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.chunks import Chunk
from jaxstyle.plan.planner import make_plan
from jaxstyle.run import unfinished
from jaxstyle.run.launcher import LaunchResult
from jaxstyle.run.unfinished import Unfinished, begun_blocks, checkpoint_of
from jaxstyle.run.work import Begun, blocks
from jaxstyle.rundir.checkpoints import clear_others
from jaxstyle.rundir.chunks import chunk_name
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.fingerprints import Sources
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

CHUNKS = 6


class Told:
    """A teller that remembers what was set aside."""

    def __init__(self):
        self.asides = []

    def event(self, name, line=None, **values):
        assert name == "set-aside"
        self.asides.append(line)

    def advance(self, image_steps, cost=None, steps=None):
        pytest.fail("nothing is computed")

    skip = advance


class Place:
    """A run directory with states of a plan of six chunks, each of a cell, in launches of width 4."""

    def __init__(self, run):
        sweep = resolve(Sweep(content=("/c",), style=("/s",), seed=tuple(range(CHUNKS)), size="64"))
        cells = sweep_cells(sweep)
        plan = make_plan(sweep, cells, {"/c": (64, 64)}, platform="cpu", choose_width=lambda p, n: 4)
        assert len(plan.programs) == 1
        self.plan = dataclasses.replace(plan, chunks=tuple(Chunk(i, 0, (i,)) for i in range(CHUNKS)))
        self.run, self.sources = run, Sources(sweep, {"/c": "c", "/s": "s"}, "w")

    def save(self, *numbers, places=1, plan=None, passes=0):
        """Keep a state of a block, as a process with so many places would."""
        kept = checkpoint_of(self.run, self.sources, plan or self.plan, numbers, places)
        kept.save({}, {"launch": np.array(0), "coarser": np.array(0), "passes": np.array(passes)})

    def done(self, *numbers):
        """Have the files of chunks on the disk."""
        for number in numbers:
            self.run.write(chunk_name(number), b"")

    def begun(self, todo=range(CHUNKS), devices=1, places=1, plan=None):
        """The blocks that a process goes on with, the plan, and what it told."""
        told = Told()
        about = {"devices": devices, "places": places}
        found, plan = begun_blocks(self.run, self.sources, plan or self.plan, todo, told, **about)
        numbers = [number for block in blocks(plan, todo, places, found) for number in block.left]
        assert sorted(numbers) == sorted(todo)  # whatever was found, every chunk is computed once
        return found, plan, told.asides

    @property
    def there(self):
        return sorted(path.name for path in (self.run.path / "checkpoints").iterdir())


@pytest.fixture
def place(tmp_path):
    with RunDirectory(tmp_path / "run", create=True) as run:
        yield Place(run)


@pytest.mark.parametrize(
    ("saved", "devices", "places", "usable"),
    [
        (1, 1, 1, True),
        (2, 1, 2, True),
        (1, 1, 2, True),  # after memory ran out with two at a time
        (2, 1, 1, False),
        (4, 4, 4, True),
        (1, 4, 4, False),  # the state of one device cannot be that of four
        (2, 2, 4, True),
        (4, 2, 2, False),
    ],
)
def test_a_state_is_gone_on_with_at_its_own_number_of_places(place, saved, devices, places, usable):
    place.save(1, 3, places=saved)
    found, plan, asides = place.begun(devices=devices, places=places)
    assert found == ([Begun((1, 3), saved)] if usable else [])
    assert plan == place.plan
    assert len(asides) == (not usable)
    assert all("other cells side by side" in line for line in asides)
    assert place.there == ["000003" if usable else "000003.other"]
    (block,) = [block for block in blocks(plan, range(CHUNKS), places, found) if 3 in block.numbers]
    assert (block.numbers == (1, 3), block.places) == (usable, saved if usable else None)


def test_a_state_that_was_set_aside_is_taken_up_again_by_whom_it_suits(place):
    place.save(0, 1, places=2, passes=5)
    assert place.begun()[0] == []
    place.save(1, passes=9)
    assert place.begun()[0] == [Begun((1,), 1)]
    assert place.there == ["000001", "000001.other"]
    assert place.begun(devices=2, places=2)[0] == [Begun((0, 1), 2)]
    assert place.there == ["000001", "000001.other-2"]
    found, _, (aside,) = place.begun(todo=[1])  # 0 is another share's
    assert (found, place.there) == ([Begun((1,), 1)], ["000001", "000001.other"])
    assert aside.endswith("set aside as 000001.other until the run is done")
    clear_others(place.run)
    assert place.there == ["000001"]


def test_parts_without_a_state_are_in_nobodys_way(place):
    """A process was killed before its first state, and no `--resume` could go on."""
    place.save(0, 1, places=2)
    place.begun()
    place.save(1)
    (place.run.path / "checkpoints" / "000001" / "state.npz").unlink()
    assert place.there == ["000001", "000001.other"]
    assert place.begun(places=2)[0] == [Begun((0, 1), 2)]
    assert place.there == ["000001"]


@pytest.mark.parametrize(("alone", "together"), [(9, 5), (5, 9)])
def test_of_two_states_of_a_chunk_the_one_that_is_further_on_goes_on(place, alone, together):
    place.save(0, passes=alone)
    place.save(0, 2, places=2, passes=together)
    found, _, (aside,) = place.begun(places=2)
    assert "another state is further on, and of some of the same chunks; set aside as" in aside
    if alone > together:
        assert (found, place.there) == ([Begun((0,), 1)], ["000000", "000002.other"])
    else:
        assert (found, place.there) == ([Begun((0, 2), 2)], ["000000.other", "000002"])
    place.begun(places=1)
    place.begun(places=2)
    assert place.begun(places=2)[0] == found


def test_launches_that_nobody_needs_are_passed_over(place):
    rounds = [[[cell] for cell in place.plan.cells[start : start + 2]] for start in (0, 2, 4)]
    kept = Unfinished(checkpoint_of(place.run, place.sources, place.plan, (4, 5), 2), rounds, 1.0)
    kept.pass_over({0, 3, 5})
    assert kept.current == rounds[0]
    kept.pass_over({3, 5})
    assert kept.current == rounds[1]
    kept.pass_over({5})
    assert kept.current == rounds[2]
    kept.pass_over(set())
    assert len(kept.done) == len(kept.launches) == 6


def test_a_state_that_passed_over_a_chunk_which_then_got_lost_is_as_another_process_s(place):
    """Its file was damaged after the state was saved: the run could then not be ended."""
    rounds = [[[cell] for cell in place.plan.cells[start : start + 2]] for start in (0, 2)]
    pixels = np.zeros((1, 1, 8, 8, 3), np.uint8)

    def unfinished():
        return Unfinished(checkpoint_of(place.run, place.sources, place.plan, (0, 1), 2), rounds, 1.0)

    kept = unfinished()
    kept.pass_over({2, 3})
    kept.finish([LaunchResult(cells, pixels, {}, np.full(1, -1)) for cells in rounds[1]])
    kept.save(Progress(0, 3, (), (), ()))
    again = unfinished()
    again.load({2, 3})
    assert (len(again.done), again.checkpoint.of_another) == (4, False)
    np.testing.assert_array_equal(again.done[2].pixels, pixels)
    lost = unfinished()
    lost.load({1, 2, 3})
    assert (lost.done, lost.progress, lost.checkpoint.of_another) == ([], None, True)


def test_a_share_takes_no_chunk_of_another_with_a_state(place):
    place.save(0, 2, places=2)
    found, _, asides = place.begun(todo=[2], places=2)  # share 2/4, after share 0/2
    assert (found, len(asides), place.there) == ([], 1, ["000002.other"])
    place.done(0)  # by share 0/4
    assert place.begun(todo=[2], places=2)[0] == [Begun((0, 2), 2)]
    place.save(5)
    assert place.begun(todo=[2], places=2)[0] == [Begun((0, 2), 2)]
    assert place.there == ["000002", "000005"]  # a state of another share is left alone


def test_a_state_keeps_the_width_that_memory_left_it(place):
    narrow = place.plan.narrowed(range(CHUNKS))
    place.save(2, 3, places=2, plan=narrow)
    found, plan, asides = place.begun(places=2)
    assert (found, asides) == ([Begun((2, 3), 2)], [])
    assert [plan.programs[chunk.program].width for chunk in plan.chunks] == [4, 4, 2, 2, 4, 4]
    # Killed between two commits: one chunk is on the disk with that width, which the plan knows.
    place.done(2)
    half = place.plan.narrowed([2])
    found, plan, asides = place.begun(todo=[0, 1, 3, 4, 5], places=2, plan=half)
    assert (found, asides) == ([Begun((2, 3), 2)], [])
    assert [plan.programs[chunk.program].width for chunk in plan.chunks] == [4, 4, 2, 2, 4, 4]
    # A chunk that is on the disk at another width is never given another one.
    assert place.begun(todo=[0, 1, 3, 4, 5], places=2)[0] == []


def test_a_state_of_other_code_or_settings_or_a_damaged_one_is_not_gone_on_with(place, monkeypatch):
    place.save(4)
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "code_digest", lambda: "0" * 64)
        found, _, (aside,) = place.begun()
        assert (found, "other code of jaxstyle" in aside) == ([], True)
    assert place.there == ["000004.other"]
    assert place.begun()[0] == [Begun((4,), 1)]  # by the code that saved it
    place.sources = dataclasses.replace(place.sources, weights="another file")
    assert place.begun()[0] == []
    place.save(4)
    state = place.run.path / "checkpoints" / "000004" / "state.npz"
    state.write_bytes(state.read_bytes()[:-1])
    found, _, (aside,) = place.begun()
    assert (found, aside.endswith("is damaged; its cells begin anew; set aside as 000004.bad")) == (
        [],
        True,
    )
    assert place.there == ["000004.bad", "000004.other"]
    clear_others(place.run)
    assert place.there == ["000004.bad"]
