"""What Python users give that commands cannot: other types, copies of runs, exceptions in listeners."""

import copy
import json
import pickle

import numpy as np
import pytest

import jaxstyle
from jaxstyle import EXAMPLES
from jaxstyle.inputs.decode import from_memory
from jaxstyle.run.sweep import run_sweep
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import RunOptions, Sweep

CAT, CAFE = EXAMPLES / "cat.jpg", EXAMPLES / "cafe.jpg"
SMALL = {"size": "48x48", "steps": 3, "pyramid": 0, "optimizer": "adam"}
SMALL |= {"content_layer": "conv1_1", "style_layers": "conv2_1"}


def test_axes_that_every_grid_overrides_are_checked_like_others():
    found = resolve(Sweep(content=CAT, style=CAFE, grid=[{"content": str(CAFE)}]))
    assert found.content == (str(CAT),)
    assert resolve(Sweep(content=None, style=CAFE, grid=[{"content": CAT}])).content == ()
    with pytest.raises(JaxstyleError, match="seed: 'x'"):
        resolve(Sweep(content=CAT, style=CAFE, seed="x", grid=[{"seed": 1}]))


def test_none_is_no_mask_and_what_is_read_but_once_is_no_axis(tmp_path):
    assert resolve(Sweep(content=CAT, style=CAFE, content_mask=None)).content_mask == ()
    for several in ((seed for seed in range(3)), {1, 2}, {1: 2}.keys(), tmp_path.glob("*")):
        with pytest.raises(JaxstyleError, match="give a list"):
            resolve(Sweep(content=CAT, style=CAFE, seed=several))


def test_floats_from_0_to_1_are_not_taken_for_levels():
    image = np.random.default_rng(0).uniform(0, 255, (8, 8, 4))
    image[0, 0, 3] = 255
    assert from_memory("content", image, float_0_255=True).max() > 100
    with pytest.raises(JaxstyleError, match="values from 0 to 1, and float_0_255 takes 0 to 255"):
        from_memory("content", image / 255, float_0_255=True)
    image[..., 3] = 1
    with pytest.raises(JaxstyleError, match="an alpha from 0 to 1"):
        from_memory("content", image, float_0_255=True)
    assert not from_memory("content", np.zeros((4, 4, 3)), float_0_255=True).any()


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [Stop, KeyboardInterrupt])
def test_a_run_is_copied_pickled_and_told_what_it_lacks(tmp_path, stop):
    def listen(event):
        if event["event"] == "chunk":
            raise stop

    sweep, out = Sweep(content=CAT, style=CAFE, pool=("avg", "max"), **SMALL), tmp_path / "run"
    with pytest.raises(stop):
        run_sweep(sweep, RunOptions(out=str(out), quiet=True), width=np.int64(1), on_event=listen)
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    partial = jaxstyle.open_run(out)
    (lacking,) = {0, 1} - {row["cell"] for row in partial.rows}
    with pytest.raises(JaxstyleError, match=rf"has not computed cell {lacking} yet, but 1 cell of 2"):
        partial.image(lacking)
    with pytest.raises(JaxstyleError, match="has no cell 2"):
        partial.image(2)
    run = run_sweep(sweep, RunOptions(out=str(out), quiet=True, resume=True))
    for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        np.testing.assert_array_equal(other.image(1), run.image(1))
        np.testing.assert_array_equal(other.losses(1)["loss_total"], run.losses(1)["loss_total"])
