"""Masks stay with their images: presets, specs, flags, extensions, folders and blends."""

import csv

import pytest
from conftest import random_image
from PIL import Image

from jaxstyle.plan.cells import sweep_cells
from jaxstyle.plan.masks import masks_of
from jaxstyle.run.sweep import run_sweep
from jaxstyle.rundir.records import open_record
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.options import check_options
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import Sweep

SMALL = {
    "style_layers": ["conv1_1"],
    "content_layer": ["conv1_2"],
    "conv": "plain",
    "size": "48",
    "optimizer": "adam",
    "steps": ["1"],
    "alpha_beta": ["1e-3"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images a to d, and for each a mask of another edge: a_mask to d_mask."""
    for number, name in enumerate("abcd"):
        Image.fromarray(random_image(48, 64, number)).save(tmp_path / f"{name}.png")
        mask = Image.new("L", (64, 48))
        mask.paste(255, (8 * number + 8, 0, 64, 48))
        mask.save(tmp_path / f"{name}_mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(*names):
    return [f"{name}.png" for name in names]


def masks(*names):
    return [f"{name}_mask.png" for name in names]


MASKED = {"regions": ["masks"], "content_mask": masks("a"), "style_mask": masks("b")}


def own_masks(sweep):
    """The letters of the masks that images have, by axis and letter of the image."""
    found = masks_of(sweep)
    return {f"{axis} {path[-5]}": mask.rsplit("/", 1)[1][0] for (axis, path), mask in found.items()}


def spec_of(folder, text):
    (folder / "spec.toml").write_text(f'content_layer = "conv1_2"\n{text}\n')
    return str(folder / "spec.toml")


TWO = 'regions = "masks"\ncontent = ["a.png", "b.png"]\ncontent_mask = ["a_mask.png", "b_mask.png"]\n'
TWO += 'style = "c.png"\nstyle_mask = "c_mask.png"'


def test_a_flag_that_names_other_contents_takes_each_with_its_mask(folder):
    spec = spec_of(folder, TWO)
    swapped = assemble({"spec": spec, "content": of("b", "a")}).sweep
    assert own_masks(swapped) == {"content b": "b", "content a": "a", "style c": "c"}
    fewer = assemble({"spec": spec, "content": of("b")}).sweep
    assert own_masks(fewer) == {"content b": "b", "style c": "c"}
    own = assemble({"spec": spec, "content": of("d", "a"), "content_mask": masks("d", "a")}).sweep
    assert own_masks(own) == {"content d": "d", "content a": "a", "style c": "c"}
    for axis, name in (("content", "d"), ("style", "d")):
        with pytest.raises(
            JaxstyleError, match=f"{axis}_mask: there is no mask for .*/d.png; give --{axis}"
        ):
            assemble({"spec": spec, axis: of(name)})


def test_masks_of_a_spec_without_images_are_those_of_the_images_that_a_command_names(folder):
    spec = spec_of(folder, 'regions = "masks"\ncontent_mask = "a_mask.png"\nstyle_mask = "b_mask.png"')
    found = assemble({"spec": spec, "content": of("a"), "style": of("b")}).sweep
    assert own_masks(found) == {"content a": "a", "style b": "b"}


@pytest.mark.parametrize("kind", ["none", "2x2"])
def test_other_regions_leave_the_masks_of_a_spec_out(folder, kind):
    spec = spec_of(folder, TWO + '\nhold = "255"')
    sweep = assemble({"spec": spec, "regions": [kind]}).sweep
    assert masks_of(sweep) == {}
    assert (sweep.hold, sweep.regions) == ((), (kind,))
    with pytest.raises(JaxstyleError, match="content_mask: is for --regions masks"):
        masks_of(assemble({"spec": spec, "regions": [kind], "content_mask": masks("a", "b")}).sweep)


def test_images_of_grids_without_masks_need_none(folder):
    text = 'style = "c.png"\nstyle_mask = "c_mask.png"\ncontent_mask = {}\n'
    text += '[[grid]]\nregions = "none"\ncontent = ["a.png", "b.png"]\n'
    text += '[[grid]]\nregions = "masks"\ncontent = ["b.png"]\n'
    fewest = assemble({"spec": spec_of(folder, text.format('["b_mask.png"]'))}).sweep
    every = assemble({"spec": spec_of(folder, text.format('["a_mask.png", "b_mask.png"]'))}).sweep
    assert own_masks(fewest) == {"content b": "b", "style c": "c"}
    assert own_masks(every) == {"content a": "a", "content b": "b", "style c": "c"}
    with pytest.raises(JaxstyleError, match="3 masks for 1 content image"):
        masks_of(assemble({"spec": spec_of(folder, text.format('["a.png", "b.png", "c.png"]'))}).sweep)


@pytest.mark.parametrize("from_python", [False, True])
def test_a_weight_of_0_does_not_move_the_masks_of_a_ladder(folder, from_python):
    ladder = ["a.png:0+b.png:1", "a.png:0.5+b.png:0.5", "a.png:1+b.png:0"]
    given = {"content": of("c"), "style": ladder, "regions": ["masks"], "content_mask": masks("c")}
    given["style_mask"] = masks("a", "b")
    sweep = resolve(Sweep(**given)) if from_python else assemble(given).sweep
    assert own_masks(sweep) == {"content c": "c", "style a": "a", "style b": "b"}
    assert own_masks(resolve(sweep)) == own_masks(sweep)
    alone = given | {"style": ladder[:1]}
    for names in ("ab", "b"):  # one for each file that is written, or for each that counts
        found = assemble(alone | {"style_mask": masks(*names)}).sweep
        assert own_masks(found) == {"content c": "c", "style b": "b"}


def run(folder, **flags):
    """Run a sweep as its command does, and return its directory's record."""
    found = assemble({**flags, "out": "run", "quiet": True})
    done = run_sweep(found.sweep, check_options(found.options))
    return open_record(done.path)


def test_an_extension_by_another_image_needs_its_mask_and_keeps_the_others(folder):
    run(folder, content=of("a"), style=of("b"), **MASKED, **SMALL)
    for axis in ("content", "style"):
        with pytest.raises(JaxstyleError, match=f"{axis}_mask: there is no mask for .*/c.png"):
            run(folder, extend=True, **{axis: of("c")})
    more = run(folder, extend=True, content=of("c"), content_mask=masks("c"))
    assert own_masks(more.sweep) == {"content a": "a", "content c": "c", "style b": "b"}
    with pytest.raises(
        JaxstyleError, match=r"the mask of .*/a.png is .*a_mask\.png there and .*d_mask\.png"
    ):
        run(folder, extend=True, content=of("a"), content_mask=masks("d"), seed=["1"])
    without = run(folder, extend=True, regions=["none", "2x2"])
    assert own_masks(without.sweep) == own_masks(more.sweep)
    with (without.path / "results.csv").open(newline="") as file:
        found = {(row["regions"], row["content"]) for row in csv.DictReader(file)}
    assert found == {(kind, name) for name in of("a", "c") for kind in ("masks", "none", "2x2")}


def test_a_run_without_masks_is_extended_by_one_image_with_a_mask(folder):
    run(folder, content=of("a", "c"), style=of("b"), **SMALL)
    more = run(folder, extend=True, content=of("c"), regions=["masks"], content_mask=masks("c"),
               style_mask=masks("b"))  # fmt: skip
    assert own_masks(more.sweep) == {"content c": "c", "style b": "b"}
    assert [cell.regions for cell in sweep_cells(more.sweep)] == ["none", "none", "masks"]


def test_the_command_of_a_folder_with_an_unreadable_image_goes_on_with_its_masks(folder):
    (folder / "photos").mkdir()
    for name in "abc":
        whole = (folder / f"{name}.png").read_bytes()
        (folder / "photos" / f"{name}.png").write_bytes(whole[: 60 if name == "b" else None])
    command = {"content": ["photos"], "style": of("d"), "regions": ["masks"], "skip_bad": True, **SMALL}
    command |= {"content_mask": masks("a", "b", "c"), "style_mask": masks("d")}
    first = run(folder, **command)
    assert own_masks(first.sweep) == {"content a": "a", "content c": "c", "style d": "d"}
    again = run(folder, **command, resume=True)
    assert own_masks(again.sweep) == own_masks(first.sweep)


def test_files_of_the_same_bytes_are_the_same_image_and_the_same_mask(folder):
    run(folder, content=of("a"), style=of("b"), **MASKED, **SMALL)
    for old, new in (("a", "e"), ("a_mask", "e_mask")):
        (folder / f"{new}.png").write_bytes((folder / f"{old}.png").read_bytes())
    assert own_masks(run(folder, content=of("e"), resume=True).sweep) == {"content a": "a", "style b": "b"}
    more = run(folder, extend=True, content=of("e"), seed=["1"])
    assert [(cell.content[-5], cell.seed) for cell in sweep_cells(more.sweep)] == [("a", 0), ("a", 1)]
    again = run(folder, extend=True, content=of("a"), content_mask=masks("e"), seed=["2"])
    assert own_masks(again.sweep) == {"content a": "a", "style b": "b"}


def test_a_folder_that_grew_goes_on_with_the_masks_of_its_run(folder):
    (folder / "photos").mkdir()
    for name in "bd":
        (folder / "photos" / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    about = {"content": ["photos"], "style": of("c"), **SMALL}
    first = run(folder, **about, regions=["masks"], content_mask=masks("b", "d"), style_mask=masks("c"))
    (folder / "photos" / "a.png").write_bytes((folder / "a.png").read_bytes())
    again = run(folder, **about, resume=True)
    assert own_masks(again.sweep) == own_masks(first.sweep)
    with pytest.raises(JaxstyleError, match=r"there is no mask for .*/photos/a\.png"):
        run(folder, **about, extend=True)
