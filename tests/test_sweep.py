"""The main command on the real network: results against float64, files, plans, and refusals."""

import csv
import functools
import json
import os
import tomllib
from pathlib import Path

import h5py
import numpy as np
import oracle
import pytest
from conftest import FEW_LAYERS, ROOT, SHALLOW, random_image, run_forked, run_python
from PIL import Image, ImageOps

import jaxstyle
from jaxstyle import sweep
from jaxstyle.inputs.resize import resize
from jaxstyle.run import dry_run as dry_run_module
from jaxstyle.run import planning
from jaxstyle.run.dry_run import dry_run


def command(*arguments):
    """Run `jaxstyle.sweep` in this process and give its exit code."""
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(a) for a in arguments])
    return stop.value.code


def rows(run):
    with open(run / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_pictures(folder, **sizes):
    for name, (h, w) in sizes.items():
        Image.fromarray(random_image(h, w, seed=sum(name.encode()))).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two contents of 64x48 px, styles of other sizes, and a start image."""
    sizes = {"c0": (48, 64), "c1": (48, 64), "s0": (64, 50), "s1": (33, 64), "start": (90, 100)}
    return write_pictures(tmp_path_factory.mktemp("inputs"), **sizes)


@pytest.fixture(scope="module")
def grid_run(inputs, tmp_path_factory):
    """A grid over most axes, five steps, on the real network: 64 cells of one program."""
    out = tmp_path_factory.mktemp("runs") / "grid"
    code = command(
        "--content", inputs / "c0.png", inputs / "c1.png",
        "--style", inputs / "s0.png", inputs / "s1.png",
        "--content-layer", "conv2_2", "conv3_2",
        "--style-layers", "conv2_1", "conv1_1:20+conv3_1:0.05",
        "--init", "content", "noise",
        "--alpha-beta", "1e-3", "0",
        "--size", "32", "--steps", "5", "--learning-rate", "5", "--out", out, "--quiet",
    )  # fmt: skip
    assert code == 0
    return out


def resized(path):
    """An image as the grid takes it."""
    return resize(np.asarray(Image.open(path)), 32)


def test_step_0_of_every_cell_matches_float64(grid_run, inputs, vgg19_weights):
    sets = {
        "conv2_1": {"conv2_1": 1.0},
        "conv1_1:20+conv3_1:0.05": {"conv1_1": 20.0, "conv3_1": 0.05},
    }

    @functools.cache  # cells that differ only in their ratio have the same losses at step 0
    def losses(content, style, content_layer, style_layers):
        content, style = (resized(path) for path in (content, style))
        layers = {"content_layer": content_layer, "style_weights": sets[style_layers]}
        return oracle.loss_and_gradient(vgg19_weights, content, content, style, **layers)[0]

    found = rows(grid_run)
    assert len(found) == 64
    with h5py.File(grid_run / "results.h5") as file:
        group = file["24x32"]
        curves = {name: group[name][()] for name in ("loss_total", "loss_content", "loss_style")}
        per_layer, layers = group["style_layer_loss"][()], [s.decode() for s in group["layer"]]
        first_images = {}
        for i, row in enumerate(found):
            if row["init"] != "content":
                continue
            expected = losses(
                *(row[name] for name in ("content", "style", "content_layer", "style_layers"))
            )
            alpha, weights = float(row["alpha_beta"]), sets[row["style_layers"]]
            floor = 1e-6 * expected["reference"]
            assert curves["loss_content"][i, 0] == pytest.approx(expected["content"], rel=1e-4, abs=floor)
            assert curves["loss_style"][i, 0] == pytest.approx(expected["style"], rel=1e-4)
            assert curves["loss_total"][i, 0] == pytest.approx(
                alpha * expected["content"] + expected["style"], rel=1e-4, abs=alpha * floor
            )
            for k, layer in enumerate(layers):
                if layer in weights:
                    assert per_layer[i, 0, k] == pytest.approx(expected["layers"][layer], rel=1e-4)
                else:
                    assert np.isnan(per_layer[i, :, k]).all()
            first_images[row["content"]] = True
    assert len(first_images) == 2


def test_the_saved_picture_matches_five_steps_of_float64_adam(grid_run, inputs, vgg19_weights):
    (row,) = [
        r for r in rows(grid_run)
        if (r["content"], r["style"], r["init"], r["alpha_beta"], r["content_layer"], r["style_layers"])
        == (str(inputs / "c1.png"), str(inputs / "s0.png"), "content", "0.001", "conv3_2", "conv2_1")
    ]  # fmt: skip
    content, style = (resized(inputs / name) for name in ("c1.png", "s0.png"))
    expected = oracle.adam(
        lambda x: oracle.loss_and_gradient(
            vgg19_weights,
            x,
            content,
            style,
            alpha=1e-3,
            content_layer="conv3_2",
            style_weights={"conv2_1": 1.0},
        )[1],
        content,
        5,
        5.0,
    )
    saved = np.asarray(Image.open(grid_run / row["image"]), float)
    assert (np.abs(saved - np.clip(expected, 0, 255)) <= 1).mean() >= 0.99


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three contents of three shapes and two styles of two."""
    sizes = {"a": (48, 64), "b": (64, 45), "c": (57, 64), "s": (50, 70), "t": (40, 68)}
    return write_pictures(tmp_path_factory.mktemp("photos"), **sizes)


def folder_run(photos, out, *flags):
    contents, styles = ([photos / f"{n}.png" for n in names] for names in ("ab", "st"))
    code = command(
        "--content", *contents, "--style", *styles, "--alpha-beta", "1e-2", "--init", "noise",
        "--size", "64", "--style-size", "70", "--optimizer", "adam", "--steps", "2", *FEW_LAYERS,
        "--out", out, "--quiet", *flags,
    )  # fmt: skip
    assert code == 0
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture(scope="module")
def canvas_run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "canvas"
    return out, folder_run(photos, out)


def assert_same_losses(run, other):
    """The first cell, of 48x64 px, has the same losses in both runs."""
    with h5py.File(run / "results.h5") as one, h5py.File(other / "results.h5") as two:
        np.testing.assert_array_equal(two["48x64/loss_total"][0], one["48x64/loss_total"][0])


def test_a_cell_has_the_same_bytes_whatever_other_sizes_of_styles_its_run_has(tmp_path):
    """Also where coarser stages have canvases for their targets."""
    folder = write_pictures(tmp_path, content=(48, 64), style=(60, 64))
    common = ("--content", folder / "content.png", "--style", folder / "style.png", *SHALLOW)
    common += ("--size", "64", "--optimizer", "adam", "--pyramid", "1", "--init", "content", "--steps", "8")
    common += ("--quiet", "--style-size", "64")
    one, two = tmp_path / "one", tmp_path / "two"
    assert command(*common, "--out", one) == 0
    assert command(*common, "128", "--out", two) == 0
    picture = "images/000000.png"
    assert (two / picture).read_bytes() == (one / picture).read_bytes()
    assert_same_losses(one, two)


def test_a_cell_has_the_same_bytes_whatever_other_shapes_its_run_has(tmp_path):
    """A content of the style's own shape beside it, or added later, changes neither picture nor losses;
    a single transfer gives the same, by Winograd's algorithm too.
    """
    wide, tall, style = (
        write_pictures(tmp_path, wide=(48, 64), tall=(64, 48), style=(64, 48)) / f"{name}.png"
        for name in ("wide", "tall", "style")
    )
    common = ("--style", style, "--content-layer", "conv1_1", "--style-layers", "conv1_2")
    common += ("--padding", "replicate", "--size", "64")
    common += ("--optimizer", "adam", "--init", "content", "--steps", "8", "--quiet")
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert command("--content", wide, *common, "--out", alone) == 0
    assert command("--content", wide, tall, *common, "--out", both) == 0
    picture = (alone / "images/000000.png").read_bytes()
    assert (both / "images/000000.png").read_bytes() == picture
    assert_same_losses(alone, both)
    programs = json.loads((both / "manifest.json").read_text())["programs"]
    assert sum(program["target_traces"] for program in programs) <= 2  # 48x64 and 64x48

    chunk = (alone / "chunks/000000.h5").read_bytes()
    assert command("--out", alone, "--extend", "--content", wide, tall) == 0
    (alone / "chunks/000000.h5").unlink()
    assert command("--out", alone, "--resume") == 0
    assert (alone / "chunks/000000.h5").read_bytes() == chunk

    layers = {"content_layer": "conv1_1", "style_layers": "conv1_2", "padding": "replicate"}
    about = {"size": 64, "optimizer": "adam", "init": "content", "steps": 8}
    found = jaxstyle.stylize(wide, style, **layers, **about)
    np.testing.assert_array_equal(found, np.asarray(Image.open(alone / "images/000000.png")))


def test_shapes_on_a_canvas_come_out_as_each_by_itself(photos, canvas_run, tmp_path):
    out, manifest = canvas_run
    (program,) = manifest["programs"]
    assert (program["shape"], program["canvas"], program["cells"]) == ("64x64", True, 4)
    assert (program["step_traces"], program["target_traces"]) == (1, 2)  # 64x64, and 64x128 for the styles
    alone = tmp_path / "alone"
    apart = folder_run(photos, alone, "--canvas", "off", "--conv", "plain")
    assert (manifest["convolution"], apart["convolution"]) == ("winograd", "xla")
    assert [(p["shape"], p["canvas"]) for p in apart["programs"]] == [("48x64", False), ("64x45", False)]
    for one, other in zip(rows(out), rows(alone), strict=True):
        for key in ("cell", "content", "style", "height", "width", "image"):
            assert one[key] == other[key]
        a, b = (np.asarray(Image.open(run / one["image"]), int) for run in (out, alone))
        assert a.shape == (int(one["height"]), int(one["width"]), 3)
        # A noise start, Winograd beside XLA's convolution: Adam's first steps turn on the gradient's sign.
        assert (np.abs(a - b) <= 1).mean() > 0.99
    with h5py.File(out / "results.h5") as one, h5py.File(alone / "results.h5") as other:
        assert set(one) == set(other) == {"48x64", "64x45"}
        for shape in one:
            assert list(one[shape]["cell"]) == list(other[shape]["cell"])
            a, b = one[shape]["loss_total"][()], other[shape]["loss_total"][()]
            np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=1e-5)
            np.testing.assert_allclose(a, b, rtol=1e-3)


def test_a_coarser_stage_on_a_canvas_has_room_for_its_targets(tmp_path):
    """129 px: the canvas of its coarser stage, 80 px, is larger than half of it rounded up to 64."""
    photos = write_pictures(tmp_path, a=(37, 129), b=(40, 129), s=(64, 60))
    starts = {}
    for canvas, names in (("auto", "ab"), ("off", "a")):
        code = command(
            "--content", *(photos / f"{name}.png" for name in names), "--style", photos / "s.png",
            "--size", "129", "--style-size", "64", "--optimizer", "adam", "--pyramid", "1", "--steps", "1",
            "--init", "content", "--alpha-beta", "1e-2",
            "--content-layer", "conv1_2", "--style-layers", "conv1_1", "--conv", "plain",
            "--canvas", canvas, "--out", tmp_path / canvas, "--quiet",
        )  # fmt: skip
        assert code == 0
        with h5py.File(tmp_path / canvas / "results.h5") as file:
            starts[canvas] = file["37x129/loss_total"][0, 0]
    assert starts["auto"] == pytest.approx(starts["off"], rel=1e-3)  # where the coarser stage ended


def test_a_chunk_of_several_shapes_is_rebuilt_from_the_disk(canvas_run):
    out, _ = canvas_run
    before = {name: (out / name).read_bytes() for name in ("results.csv", "results.h5", "report.html")}
    with h5py.File(out / "chunks" / "000000.h5") as chunk:
        assert set(chunk) == {"48x64", "64x45"}
        assert chunk.attrs["width"] == 1
    for name in before:
        (out / name).unlink()
    run_forked("-m", "jaxstyle.report", out, check=True)
    assert {name: (out / name).read_bytes() for name in before} == before


def test_contents_that_are_styles_too_need_no_target_program_of_their_own(photos, tmp_path):
    names = [photos / f"{n}.png" for n in "abc"]
    out = tmp_path / "run"
    assert command(
        "--content", *names, "--style", *names, "--style-layers", "conv1_1", "--content-layer", "conv1_2",
        "--alpha-beta", "1e-3", "--size", "64", "--steps", "1", "--optimizer", "adam", "--init", "content",
        "--out", out, "--quiet",
    ) == 0  # fmt: skip
    (program,) = json.loads((out / "manifest.json").read_text())["programs"]
    assert (program["canvas"], program["cells"], program["target_traces"]) == (True, 9, 1)


def test_a_plan_for_a_device_of_its_own_measures_memory_and_widens(inputs, tmp_path, capsys, monkeypatch):
    # Only the device's name for itself is not real here.
    for module in (dry_run_module, planning):
        monkeypatch.setattr(module, "nominal_platform", lambda platform: "gpu")
    assert command(
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--seed", "0:12", "--size", "64",
        "--content-layer", "conv4_1", "--style-layers", "conv1_1", "--optimizer", "adam",
        "--out", tmp_path / "none", "--dry-run", "--json",
    ) == 0  # fmt: skip
    plan = json.loads(capsys.readouterr().out)
    (program,) = plan["programs"]
    assert program["width"] == plan["batch_width"] == 16
    expected = program["memory_bytes"] - 16 * program["memory_bytes_per_cell"]
    weights = 4 * 2 * 3_503_808  # plain kernels down to conv4_1, both directions
    assert expected == pytest.approx(weights, rel=0.1)


def test_bf16_is_a_setting_that_lands_near_float32(inputs, tmp_path):
    final = {}
    for precision in ("f32", "bf16"):
        out = tmp_path / precision
        assert command(
            "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--init", "content",
            "--size", "64", "--steps", "6", "--optimizer", "adam", "--precision", precision,
            "--content-layer", "conv1_2", "--style-layers", "conv1_1", "--out", out, "--quiet",
        ) == 0  # fmt: skip
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["precision"] == manifest["programs"][0]["precision"] == precision
        final[precision] = float(rows(out)[0]["loss_total"])
    assert final["bf16"] != final["f32"]
    assert final["bf16"] == pytest.approx(final["f32"], rel=0.02)


BACK_OFF = """
import resource, sys
from dataclasses import replace
from jaxstyle import sweep
from jaxstyle.device import engine, memory

# A CPU plans launches of one cell. Here it plans 16, and then has not the memory for their temporaries.
memory.choose_width = lambda *_, **__: 16
make, seen = engine.Engine.compile, []

def compile(self, program):
    found = make(self, program)
    seen.append(program.width)
    if seen == [16]:
        make(self, replace(program, width=8))
    if seen == [16, 16]:  # its launch is about to begin
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        temporary = found[0].segment.memory_analysis().temp_size_in_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size + temporary * 7 // 8,) * 2)
    return found

engine.Engine.compile = compile
sweep.main(sys.argv[1:])
"""


def test_a_plan_counts_the_memory_of_the_cells_that_run_side_by_side(inputs, capsys):
    arguments = ["--content", inputs / "c0.png", "--style", inputs / "s0.png", "--size", "64", "--dry-run"]

    def planned(cells, asked):
        capsys.readouterr()
        seeds = f"0:{cells}"
        assert command(*arguments, "--json", "--side-by-side", asked, "--seed", seeds) == 0
        return json.loads(capsys.readouterr().out)

    one, two, more = planned(3, 1), planned(3, 2), planned(3, 5)
    assert [plan["side_by_side"] for plan in (one, two, more)] == [1, 2, 3]
    assert planned(1, 2)["side_by_side"] == 1
    per_cell = one["programs"][0]["memory_bytes_per_cell"]
    assert two["memory_bytes"] - one["memory_bytes"] == per_cell
    assert more["memory_bytes"] - one["memory_bytes"] == 2 * per_cell


def test_a_launch_that_runs_out_of_memory_goes_on_at_half_the_width(inputs, tmp_path):
    arguments = [
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--init", "content",
        "--alpha-beta", *(f"{number}e-4" for number in range(1, 19)),
        "--size", "64", "--steps", "1", "--optimizer", "adam", *SHALLOW, "--side-by-side", "2", "--out",
    ]  # fmt: skip
    # An allocator that hoards no memory under the limit, and no address space for threads to come.
    tunables = "glibc.malloc.arena_max=1"
    done = run_python("-c", BACK_OFF, *arguments, tmp_path / "out", GLIBC_TUNABLES=tunables)
    assert done.returncode == 0, done.stderr
    assert "out of memory with launches side by side: going on with one at a time" in done.stdout
    assert "out of memory at batch width 16: going on with 8" in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [(p["width"], p["cells"]) for p in manifest["programs"]] == [(16, 0), (8, 18)]
    plan = manifest["plan"]  # as a resumed run will have it
    assert [plan["programs"][chunk["program"]]["width"] for chunk in plan["chunks"]] == [8]
    with h5py.File(tmp_path / "out" / "chunks" / "000000.h5") as chunk:
        assert chunk.attrs["width"] == 8
    assert len(rows(tmp_path / "out")) == 18
    assert command(*arguments, tmp_path / "one by one", "--quiet") == 0
    for wide, single in zip(rows(tmp_path / "out"), rows(tmp_path / "one by one"), strict=True):
        assert float(wide["loss_total"]) == pytest.approx(float(single["loss_total"]), rel=1e-4)


def test_one_program_was_compiled_for_the_whole_grid(grid_run):
    manifest = json.loads((grid_run / "manifest.json").read_text())
    (program,) = manifest["programs"]
    assert program["step_traces"] == 1
    assert program["target_traces"] == 2  # 24x32, and one canvas for 32x25 and 16x32
    assert program["cells"] == 64
    assert (program["shape"], program["width"], program["pool"]) == ("24x32", 1, "avg")
    assert manifest["status"] == "done"
    assert manifest["weights"]["origin"] == "packaged"
    assert set(manifest["versions"]) >= {"jax", "jaxlib", "flax", "numpy", "python", "jaxstyle"}


def test_noise_of_a_seed_is_the_same_for_every_other_setting(grid_run):
    # Content and style loss of a noise start depend on the image alone: equal for both alpha/beta.
    found = rows(grid_run)
    with h5py.File(grid_run / "results.h5") as file:
        style = file["24x32/loss_style"][:, 0]
        content = file["24x32/loss_content"][:, 0]
    by_setting = {}
    for i, row in enumerate(found):
        if row["init"] == "noise":
            key = tuple(row[k] for k in ("content", "style", "content_layer", "style_layers"))
            by_setting.setdefault(key, []).append((style[i], content[i]))
    assert len(by_setting) == 16
    assert all(len(set(values)) == 1 for values in by_setting.values())


def test_the_csv_gives_the_loss_of_the_image_it_names(grid_run):
    with h5py.File(grid_run / "results.h5") as file:
        last = file["24x32/loss_total"][:, -1]
        images = file["24x32/image"][:, 0]
    for i, row in enumerate(rows(grid_run)):
        assert np.float32(row["loss_total"]) == last[i]
        np.testing.assert_array_equal(np.asarray(Image.open(grid_run / row["image"])), images[i])


def test_running_the_spec_again_gives_the_same_chunks(canvas_run, tmp_path):
    run, _ = canvas_run
    assert command("--spec", run / "spec.toml", "--out", tmp_path / "again", "--quiet") == 0
    names = sorted(p.name for p in (run / "chunks").iterdir())
    assert len(names) >= 1
    for name in names:
        assert (tmp_path / "again" / "chunks" / name).read_bytes() == (run / "chunks" / name).read_bytes()
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["programs"][0]["step_traces"] == 0  # this process had the program


def test_a_run_that_names_no_optimizer_goes_from_coarse_to_fine(inputs, tmp_path):
    out = tmp_path / "run"
    assert command(
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--seed", "0:2", "--size", "64",
        "--steps", "2", "4", *SHALLOW, "--out", out, "--quiet",
    ) == 0  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    (program,) = manifest["programs"]
    assert (program["optimizer"], program["lbfgs_memory"], program["cells"]) == ("lbfgs", 30, 2)
    (coarse,) = program["coarser"]  # 12x16 px would be too small
    assert (coarse["shape"], program["shape"]) == ("24x32", "48x64")
    assert max(coarse["step_traces"], program["step_traces"]) <= 1
    with h5py.File(out / "results.h5") as file:
        group = file["48x64"]
        total = group["loss_total"][()]
        assert group["image"].shape == (2, 2, 48, 64, 3)
        assert list(group["snapshot"]) == [2, 4]
        np.testing.assert_array_equal(group["evaluations"], 5 + 60 / 4)
    # The reported loss is that of the accepted image: it never rises.
    assert total.shape == (2, 5)
    assert np.all(np.diff(total, axis=1) <= 0)
    for row, curve in zip(rows(out), total, strict=True):
        assert float(row["evaluations"]) == 20
        assert np.float32(row["loss_total"]) == np.float32(row["loss_best"]) == curve[-1]
    assert command("--spec", out / "spec.toml", "--out", tmp_path / "again", "--quiet") == 0
    chunk = "chunks/000000.h5"
    assert (tmp_path / "again" / chunk).read_bytes() == (out / chunk).read_bytes()


def test_the_best_image_is_kept_where_it_is_asked_for(inputs, tmp_path):
    kept = {}
    for keep in ("last", "best"):
        out = tmp_path / keep
        assert command(
            "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--init", "content",
            "--keep", keep, "--size", "64", "--steps", "12", "--learning-rate", "80", *SHALLOW,
            "--out", out, "--quiet",
        ) == 0  # fmt: skip
        (kept[keep],) = rows(out)
    last, best = kept["last"], kept["best"]
    assert (last["loss_best"], last["step_best"]) == (best["loss_best"], best["step_best"])
    assert int(best["step_best"]) < 12
    assert best["loss_total"] == best["loss_best"]
    assert float(last["loss_total"]) > float(last["loss_best"])
    picture = np.asarray(Image.open(tmp_path / "best" / best["image"]), float)
    assert np.abs(picture - np.asarray(Image.open(tmp_path / "last" / last["image"]), float)).mean() > 1


def test_a_changed_image_is_refused_by_its_digest(grid_run, tmp_path, capsys):
    spec = tomllib.loads((grid_run / "spec.toml").read_text())
    path = tmp_path / "other.png"
    Image.fromarray(random_image(48, 64, 99)).save(path)
    text = (grid_run / "spec.toml").read_text().replace(spec["content"][0], str(path))
    (tmp_path / "spec.toml").write_text(text)
    assert command("--spec", tmp_path / "spec.toml", "--out", tmp_path / "out") == 2
    assert "has sha256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_run_opens_from_python(grid_run):
    run = jaxstyle.open_run(grid_run)
    assert len(run.rows) == 64
    assert run.exit_code == 0
    assert run.image(5).shape == (24, 32, 3)
    assert [p.name for p in run.sheets] == ["contact.png"]


def test_starts_and_snapshots_from_python(inputs, tmp_path):
    settings = jaxstyle.Sweep(
        content=(str(inputs / "c0.png"),),
        style=(str(inputs / "s0.png"),),
        init=("style", str(inputs / "start.png")),
        content_layer=("conv2_2",),
        style_layers=("conv1_1+conv2_1",),
        steps=(1, 3),
        size="64",
        learning_rate=(1e-3,),  # so small that the saved image is the start
        pool="max",
        conv="plain",
        optimizer="adam",
        trace_every=2,
        tv_weight=0.1,
    )
    run = jaxstyle.run_sweep(settings, jaxstyle.RunOptions(out=str(tmp_path / "run"), quiet=True))
    for cell, name in enumerate(("s0.png", "start.png")):
        fitted = ImageOps.fit(Image.open(inputs / name), (64, 48), Image.Resampling.LANCZOS)
        assert np.abs(run.image(cell).astype(int) - np.asarray(fitted)).max() <= 1
    with h5py.File(run.path / "results.h5") as file:
        assert list(file["48x64/step"]) == [0, 2, 3]
        assert list(file["48x64/snapshot"]) == [1, 3]
        assert file["48x64/image"].shape == (2, 2, 48, 64, 3)


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"steps": "many"}, {}, "steps: 'many' is not a whole number"),
        ({}, {"devices": "two"}, "devices: 'two' is not a whole number"),
        ({}, {"quiet": "yes"}, "quiet: 'yes' is neither true nor false"),
        ({}, {"log_format": 5}, "log_format: 5 is not known; use text or json"),
    ],
)
def test_texts_from_python_are_taken_for_numbers_and_otherwise_refused(
    inputs, tmp_path, capsys, settings, options, says
):
    images = {"content": str(inputs / "c0.png"), "style": str(inputs / "s0.png"), "size": "64"}
    wanted: dict = {"out": str(tmp_path / "run"), **options}
    for call in (jaxstyle.run_sweep, dry_run):
        with pytest.raises(jaxstyle.JaxstyleError, match=f"^{says}$"):
            call(jaxstyle.Sweep(**{**images, **settings}), jaxstyle.RunOptions(**wanted))
    taken: dict = {"devices": "1", "dry_run": True, "json": True}
    dry_run(jaxstyle.Sweep(**images, steps="20"), jaxstyle.RunOptions(**taken))
    assert json.loads(capsys.readouterr().out)["image_steps"] == 20
    assert not (tmp_path / "run").exists()


def test_a_diverging_cell_is_marked_and_its_neighbour_is_not(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    code = command(
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--size", "64", "--steps", "4",
        "--alpha-beta", "1e-3", "1e35", *SHALLOW, "--out", out,
    )  # fmt: skip
    assert code == 1
    good, bad = rows(out)
    assert (good["status"], bad["status"]) == ("done", "diverged")
    assert bad["diverged_step"] == "0"
    said = capsys.readouterr()
    assert "cell 1 diverged at step 0" in said.out
    assert said.err == f"jaxstyle: 1 of 2 cells diverged; {out / 'results.csv'} names them\n"
    with h5py.File(out / "results.h5") as file:
        assert np.isfinite(file["48x64/loss_total"][0]).all()
        assert np.isnan(file["48x64/loss_total"][1]).all()


def test_a_whole_run_may_diverge(inputs, tmp_path):
    out = tmp_path / "run"
    code = command(
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--size", "64", "--steps", "3",
        "--learning-rate", "1e10", "--init", "content", *SHALLOW, "--out", out, "--quiet",
    )  # fmt: skip
    assert code == 1
    (row,) = rows(out)
    step = int(row["diverged_step"])
    with h5py.File(out / "results.h5") as file:
        total = file["48x64/loss_total"][0]
    assert np.isfinite(total[:step]).all()
    assert np.isnan(total[step:]).all()
    assert np.float32(row["loss_total"]) == total[step - 1]
    if step == 1:  # then the picture is the start
        np.testing.assert_array_equal(
            np.asarray(Image.open(out / row["image"])), np.asarray(Image.open(inputs / "c0.png"))
        )


def test_dry_run_tells_the_plan_and_writes_nothing(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("--content", inputs / "c0.png", "--style", inputs / "s0.png", "--seed", "0:6", "--dry-run")
    assert command(*arguments, "--size", "64", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["cells"], plan["image_steps"], plan["batch_width"]) == (6, 1500, 1)
    assert plan["programs"][0]["shape"] == "48x64"
    assert min(plan[k] for k in ("memory_bytes", "flops", "disk_bytes", "time_s")) > 0
    assert command(*arguments, "--weights", "none.h5") == 2
    assert "none.h5: no such file" in capsys.readouterr().err
    assert command(*arguments) == 0
    text = capsys.readouterr().out
    assert "6 cells, 1500 image-steps" in text
    assert "would write runs/0001-sweep" in text
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_accepted_and_a_full_one_is_not(inputs, tmp_path, capsys):
    arguments = (
        "--content", inputs / "c0.png", "--style", inputs / "s0.png", "--size", "64", "--steps", "1",
        *SHALLOW, "--quiet", "--out", tmp_path / "run",
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    assert command(*arguments) == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    assert command(*arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


def test_help_answers_without_jax():
    code = (
        "import sys; sys.argv = ['sweep', '--help']\n"
        "from jaxstyle import sweep\n"
        "try: sweep.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not any(m.split('.')[0] in ('jax', 'jaxlib', 'flax', 'optax') for m in sys.modules)\n"
    )
    done = run_python("-c", code, check=True)
    for flag in ("--content", "--alpha-beta", "--style-layers", "--dry-run", "--spec", "--shard"):
        assert flag in done.stdout
    assert "--tolerance" not in done.stdout


def test_errors_leave_before_jax_is_imported(tmp_path):
    code = (
        "import sys; sys.argv = ['sweep', '--content', 'nope.png', '--style', 'nope.png']\n"
        "from jaxstyle import sweep\n"
        "try: sweep.main()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    run_python("-c", code, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_in_a_process_of_its_own(inputs, tmp_path):
    """Run as by a user: relative paths, events, plain lines, no warnings."""
    os.symlink(inputs, tmp_path / "in")
    arguments = (
        "--content", "in/c0.png", "--style", "in/s0.png", "--size", "64", "--steps", "2", "--seed", "0:2",
        "--optimizer", "adam", *SHALLOW, "--log-format", "json",
    )  # fmt: skip
    done = run_python("-m", "jaxstyle", "sweep", *arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events][-2:] == ["done", "sheet"]
    run = tmp_path / "runs" / "0001-sweep"
    assert [r["content"] for r in rows(run)] == ["in/c0.png"] * 2
    assert tomllib.loads((run / "spec.toml").read_text())["content"] == [str(tmp_path / "in" / "c0.png")]
    assert len((run / "events.jsonl").read_text().splitlines()) == len(events)
    for kept in ("xla", "traced"):
        assert any((Path(os.environ["XDG_CACHE_HOME"]) / "jaxstyle" / kept).iterdir())
    assert sorted(p.name for p in run.iterdir()) == [
        "chunks", "events.jsonl", "images", "manifest.json", "pictures", "report.html", "results.csv",
        "results.h5", "run.lock", "sheets", "spec.toml",
    ]  # fmt: skip


def test_cells_whose_seed_cannot_matter_are_computed_once(inputs, tmp_path):
    """Every cell has its row and its image, as if each had been computed; launches are counted."""
    same = ("--content", inputs / "c0.png", "--style", inputs / "s0.png", "--size", "64", "--steps", "2")
    same = (*same, "--optimizer", "adam", *SHALLOW, "--init", "noise", "content")
    assert command(*same, "--seed", "0:3", "--out", tmp_path / "three", "--quiet") == 0
    assert command(*same, "--seed", "2", "--out", tmp_path / "one", "--quiet") == 0
    three, one = rows(tmp_path / "three"), rows(tmp_path / "one")
    assert [(r["init"], r["seed"]) for r in three] == [(i, s) for i in ("noise", "content") for s in "012"]
    alone = [r for r in one if r["init"] == "content"]
    for row in three[3:]:
        same_numbers = {k: v for k, v in row.items() if k not in ("cell", "seed", "image")}
        assert same_numbers == {k: alone[0][k] for k in same_numbers}
        picture = (tmp_path / "three" / row["image"]).read_bytes()
        assert picture == (tmp_path / "one" / alone[0]["image"]).read_bytes()
    assert three[2]["loss_total"] == one[0]["loss_total"]
    manifest = json.loads((tmp_path / "three" / "manifest.json").read_text())
    assert manifest["plan"]["twins"] == {"3": [4, 5]}
    assert manifest["plan"]["image_steps"] == 4 * 2
    events = [json.loads(line) for line in (tmp_path / "three" / "events.jsonl").read_text().splitlines()]
    (planned,) = (e for e in events if e["event"] == "plan")
    assert (planned["cells"], planned["computed"]) == (6, 4)
    with h5py.File(tmp_path / "three" / "results.h5") as file:
        group = file["48x64"]
        for name in ("image", "loss_total", "style_layer_loss", "evaluations"):
            np.testing.assert_array_equal(group[name][3], group[name][4])
            np.testing.assert_array_equal(group[name][3], group[name][5])
    # A missing chunk is computed again to the same bytes, and an extension is cut into chunks by itself.
    chunks = {path.name: path.read_bytes() for path in (tmp_path / "three" / "chunks").iterdir()}
    (tmp_path / "three" / "chunks" / "000000.h5").unlink()
    assert command("--resume", "--out", tmp_path / "three", "--quiet") == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "three" / "chunks").iterdir()} == chunks
    assert command(*same, "--seed", "0:5", "--extend", "--out", tmp_path / "three", "--quiet") == 0
    extended = rows(tmp_path / "three")
    assert [r["seed"] for r in extended] == list("0120123434")
    assert len({r["loss_total"] for r in extended if r["init"] == "content"}) == 1


def test_the_jaxstyle_command_lists_what_there_is():
    done = run_forked("-m", "jaxstyle", "--help", check=True, cwd=ROOT)
    assert "sweep" in done.stdout
    assert "report" in done.stdout
    assert "variance" in done.stdout
    assert "score" in done.stdout
    wrong = run_forked("-m", "jaxstyle", "paint", cwd=ROOT)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
