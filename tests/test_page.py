"""The page of a run: its contents, and that it is safe, the same every time, and light enough."""

import base64
import html.parser
import json
import os
import re

import h5py
import numpy as np
import pytest
from conftest import ROOT, run_python
from made_runs import chunk, make_run, sixty, two_thousand, with_variance
from PIL import Image

from jaxstyle import report
from jaxstyle.derived import dimensions, page, sections, thumbnails
from jaxstyle.derived import tiles as derived_tiles
from jaxstyle.derived.animations import write_animations
from jaxstyle.derived.build import write_page
from jaxstyle.derived.curves import Curves, _thinned, curve_codes, overview
from jaxstyle.derived.sheets import write_sheets
from jaxstyle.rundir import chunks
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_csv import read_rows
from jaxstyle.rundir.results_h5 import merge, open_results
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.presets import EXAMPLES

IMAGES = {"content": ("cat.jpg",), "style": ("glass.jpg",)}


class Reader(html.parser.HTMLParser):
    """The elements of a page, the text of its scripts, and everything it refers to."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self._in_script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def run(self):
        """The data that the script of the page reads."""
        return json.loads(self.scripts[-2])


def read(record):
    return Reader(page.html(record, read_rows(record)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve cells with two snapshots, one diverged, and a variance study of them."""
    path = tmp_path_factory.mktemp("page") / "run"
    record = make_run(
        path,
        content=("cat.jpg", "astronaut.jpg"),
        style=("glass.jpg",),
        alpha_beta=(1e-1, 1e-3),
        seed=("0:3",),
        steps=(20, 60),
        diverged=(4,),
    )
    with_variance(path)
    return record


def test_every_picture_stands_in_the_page_with_its_place(small):
    found = read(small)
    pictures = [a for a in found.all("img") if a["alt"].startswith("cell ")]
    assert len(pictures) == 24
    assert pictures[0]["alt"] == "cell 0: cat, α/β 0.1, seed 0, steps 20"
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in pictures)
    assert {(a["width"], a["height"]) for a in pictures} == {("64", "48")}
    heads = [a["alt"] for a in found.all("img") if a["alt"].endswith(".jpg")]
    assert heads == ["cat.jpg", "astronaut.jpg", "glass.jpg"]


def test_axes_of_the_page_are_those_of_the_sheets(small):
    run = read(small).run
    assert [d["id"] for d in run["dimensions"]] == ["content", "alpha_beta", "seed", "steps"]
    assert sorted(run["down"] + run["across"]) == sorted(d["id"] for d in run["dimensions"])
    assert run["snapshots"] == [20, 60]
    places = set(zip(*run["tiles"]["at"], strict=True))
    assert len(places) == 24
    assert [v["numbers"] for v in run["dimensions"][1]["values"]] == [[0.1], [0.001]]
    assert run["dimensions"][0]["values"][1]["pictures"] == [1]


def test_the_types_of_the_script_name_what_there_is(small):
    text = (ROOT / "scripts" / "page" / "data.d.ts").read_text()
    named = {
        name: {*re.findall(r"^  (\w+): ", body, re.MULTILINE)}
        for name, body in re.findall(r"^interface (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    }
    run = read(small).run
    assert named["PageData"] == {*run}
    assert named["Axis"] == {*run["dimensions"][0]}
    assert named["AxisValue"] == {*run["dimensions"][0]["values"][0]}
    assert named["TileColumns"] == {*run["tiles"]} - {*run["losses"]}
    inner = re.search(r"  cells: \{\n(.*?)^  \};", text, re.MULTILINE | re.DOTALL)[1]  # pyright: ignore
    assert {*re.findall(r"^    (\w+): ", inner, re.MULTILINE)} == {*run["cells"]}


def test_zipped_axes_are_one_dimension(tmp_path):
    names = [str(EXAMPLES / n) for n in ("cat.jpg", "astronaut.jpg", "glass.jpg", "brushwork.jpg")]
    zipped = {"content": names[:2], "style": names[2:], "zip": ["content", "style"]}
    record = make_run(tmp_path / "run", content=names[:2], style=names[2:], grid=(zipped,), seed=(0, 1))
    first, second = read(record).run["dimensions"]
    assert first["axes"] == ["content", "style"]
    assert [value["text"] for value in first["values"]] == [["cat", "glass"], ["astronaut", "brushwork"]]
    assert second["id"] == "seed"


def test_groups_of_curves_whose_names_begin_alike_stay_apart(tmp_path):
    taps = "conv1_1:0.2+conv2_1:0.2+conv3_1:0.2+conv4_1:"
    pair = {"content": ("cat.jpg",), "style": ("glass.jpg",)}
    record = make_run(tmp_path / "run", **pair, style_layers=(f"{taps}0.2", f"{taps}0.4"), seed=(0, 1))
    tiles = derived_tiles.place_tiles(record, range(len(record.cells)))
    own = [dimensions.dimension(record, tiles, ("style_layers",), thumbnails.Heads(record))]
    losses = {tile.cell: {"loss_total": 1.0 + tile.cell} for tile in tiles}
    labels, _, _ = dimensions.curve_colours(tiles, own, losses)
    assert len({*labels.values()}) == 2


def test_losses_are_those_of_the_picture_shown(small):
    run, rows = read(small).run, {row["cell"]: row for row in read_rows(small)}
    with h5py.File(small.path / "results.h5") as file:
        group = file["48x64"]
        at = list(group["step"]).index(20) if 20 in group["step"] else None
        for cell, snapshot, total in zip(
            run["tiles"]["cell"], run["tiles"]["snapshot"], run["tiles"]["loss_total"], strict=True
        ):
            if snapshot == 1:
                assert total == pytest.approx(rows[cell]["loss_total"], rel=1e-4)
            elif at is None:
                assert total is None
            elif np.isfinite(group["loss_total"][cell, at]):
                assert total == pytest.approx(group["loss_total"][cell, at], rel=1e-4)
            else:
                assert total is None


def test_losses_of_the_best_pictures_are_the_lowest_up_to_their_step(tmp_path):
    """Curves that rise again: the picture of the last step is that of an earlier one."""
    about = {"content": ("cat.jpg",), "style": ("glass.jpg",), "steps": (20, 40, 60), "keep": "best"}
    for traced, known in ((61, True), (31, False)):
        run = make_run(tmp_path / f"{traced}", **about, traced=traced)
        with h5py.File(run.path / "results.h5", "r+") as file:
            total = file["48x64"]["loss_total"]
            steps = file["48x64"]["step"][:]
            total[0] = np.abs(steps - 14.0) + 1
            assert steps[-1] == 60
        shown = read(open_record(run.path)).run["tiles"]["loss_total"]
        assert shown[:2] == ([1.0, 1.0] if known else [None, None])


def test_curves_read_back_from_their_codes():
    values = np.array([1e-6, 1.0, 3.7e9, 0.0, np.nan, np.inf, -1.0], np.float32)
    codes = curve_codes(values).astype(float)
    np.testing.assert_allclose(10 ** ((codes[:3] - 1) / 1000 - 12), values[:3], rtol=1.2e-3)
    assert (codes[3:] == 0).all()


def test_thinning_keeps_both_ends_and_looks_closest_at_the_start():
    kept = _thinned(3001, 100)
    assert kept[0] == 0
    assert kept[-1] == 3000
    assert 60 <= len(kept) <= 100
    assert (np.diff(kept) > 0).all()
    assert (kept < 300).sum() > 25
    assert _thinned(50, 100).tolist() == list(range(50))


def test_the_same_run_gives_the_same_page_wherever_it_stands(small, tmp_path):
    first = page.html(small, read_rows(small))
    os.symlink(small.path, tmp_path / "elsewhere")
    again = open_record(tmp_path / "elsewhere")
    assert page.html(again, read_rows(again)) == first


def test_times_and_hosts_stand_with_the_manifest_only(tmp_path):
    secrets = {"host": {"system": "box-17"}, "began": "2020-02-02", "timings": {"wall_s": 123.25}}
    record = make_run(tmp_path / "run", **IMAGES, seed=(0, 1), manifest=secrets)
    text = page.html(record, read_rows(record))
    before, _, manifest = text.partition('<section id="manifest"')
    for secret in ("box-17", "2020-02-02", "123.25"):
        assert secret not in before
        assert secret in manifest.partition("</section>")[0]
        assert secret not in manifest.partition("</section>")[2]


EVIL = '</script><img src=x onerror="alert(1)">&\u2028.png'


def test_names_of_a_run_are_never_markup(tmp_path):
    path = tmp_path / EVIL  # the slash in it makes its first part a folder
    path.parent.mkdir()
    Image.new("RGB", (64, 64), "red").save(path)
    record = make_run(
        tmp_path / "run", content=("cat.jpg", str(path)), style=("glass.jpg",), manifest={"x": EVIL}
    )
    # As the user gave it.
    (record.path / "manifest.json").write_text(
        json.dumps({**record.manifest, "given": {"content": {str(path): EVIL}}})
    )
    record = open_record(record.path)
    (record.path / "variance.json").write_text(
        json.dumps(
            {
                "title": EVIL,
                "intro": [EVIL],
                "blocks": [
                    {
                        "heading": EVIL,
                        "text": [EVIL],
                        "table": {"columns": [EVIL], "rows": [[EVIL]]},
                        "figures": [],
                    }
                ],
            }
        )
    )
    text = page.html(record, read_rows(record))
    found = Reader(text)
    assert text.count("<script") == text.count("</script>") == 3
    assert [a.get("type") for a in found.all("script")] == [None, "application/json", None]
    assert not [a for _, a in found.found if any(name.startswith("on") for name in a)]
    assert all(a["src"].startswith("data:") for a in found.all("img"))
    assert EVIL.split("/")[-1].split(".png")[0] in json.dumps(found.run, ensure_ascii=False).replace(
        "\\", ""
    )


def test_data_cannot_end_its_element():
    text = page._json({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


def test_the_page_asks_for_nothing_and_runs_no_other_script(small):
    text = page.html(small, read_rows(small))
    found = Reader(text)
    assert all(a["src"].startswith("data:") for a in found.all("img"))
    assert all(a["href"].startswith(("data:", "#")) for a in found.all("link") + found.all("a"))
    assert not [a for a in found.all("script") if "src" in a]
    assert "url(" not in (page.TEMPLATES / "report.css").read_text()
    (policy,) = (a["content"] for a in found.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "http" not in policy.lower()
    for script in (found.scripts[0], found.scripts[-1]):
        assert page._policy(script).split("script-src ")[1].split(";")[0] in policy
    # Nor does its own script turn text into markup.
    script = (page.TEMPLATES / "report.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_variance_is_shown_with_its_tables_and_figures(small):
    text = page.html(small, read_rows(small))
    section = text.split('<section id="variance"')[1].split("</section>")[0]
    assert "&lt;b&gt;bold&lt;/b&gt;" in section
    assert "<td>4.125</td>" in section
    sources = [a["src"][:26] for a in Reader(section).all("img")]
    assert sources == ["data:image/png;base64,iVBO", "data:image/svg+xml;base64,"]


def test_a_run_without_a_study_has_no_section_of_it(tmp_path):
    record = make_run(tmp_path / "run", **IMAGES, seed=(0, 1))
    assert 'id="variance"' not in page.html(record, read_rows(record))


def test_half_a_character_in_a_manifest_does_no_harm(tmp_path):
    record = make_run(tmp_path / "run", **IMAGES, manifest={"versions": {"x": "\ud800"}})
    with RunDirectory(record.path) as run:
        path = write_page(run, read_rows(record))
    assert "x \\ud800" in path.read_text()


BLOCK = {"heading": "h", "text": [], "table": None, "figures": []}


@pytest.mark.parametrize(
    ("study", "why"),
    [
        ("{", "cannot be shown"),
        ("[]", "cannot be shown"),
        ({"title": 3, "intro": [], "blocks": []}, "3 is not a text"),
        ({"title": "t", "blocks": []}, "has no 'intro'"),
        ({"title": "t", "intro": "x", "blocks": []}, "is not a list"),
        ({"title": "t", "intro": [], "blocks": [1]}, "cannot be shown"),
        (
            {
                "title": "t",
                "intro": [],
                "blocks": [{**BLOCK, "table": {"columns": ["a"], "rows": [[1, 2]]}}],
            },
            "does not have 1 values",
        ),
        ({"path": "../../etc/passwd.png"}, "outside the run"),
        ({"path": "/etc/hostname"}, "outside the run"),
        ({"path": "spec.toml"}, "neither .png nor .svg"),
        ({"path": "maps/gone.png"}, "No such file"),
    ],
)
def test_a_malformed_study_is_one_line(tmp_path, study, why):
    if isinstance(study, dict) and "path" in study:
        figure = {"path": study["path"], "caption": "c"}
        study = {"title": "t", "intro": [], "blocks": [{**BLOCK, "figures": [figure]}]}
    (tmp_path / "variance.json").write_text(study if isinstance(study, str) else json.dumps(study))
    with pytest.raises(JaxstyleError, match=r"variance\.json: cannot be shown") as caught:
        sections.variance_section(tmp_path, 1)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_cell_alone_and_pictures_of_several_shapes_make_pages(tmp_path):
    alone = make_run(tmp_path / "one", **IMAGES)
    run = read(alone).run
    assert run["dimensions"] == []
    assert run["tiles"]["cell"] == [0]
    record = make_run(tmp_path / "two", **IMAGES, seed=(0, 1))
    with RunDirectory(record.path) as directory:
        parts = [
            chunk(record.sweep, [record.cells[0]], (48, 64)),
            chunk(record.sweep, [record.cells[1]], (64, 32)),
        ]
        directory.write(chunks.chunk_name(0), chunks.chunk_bytes(parts, width=1))
    merge(record)
    assert read(record).run["cells"]["size"] == ["64 × 48", "32 × 64"]


def test_cells_that_have_not_been_computed_are_counted(tmp_path):
    record = make_run(tmp_path / "run", **IMAGES, seed=("0:4",), per_chunk=2)
    record.chunk_paths[1].unlink()
    record = open_record(record.path)
    merge(record)
    text = page.html(record, read_rows(record))
    assert "2 not computed yet" in text
    assert Reader(text).run["tiles"]["cell"] == [0, 1]


def test_pages_beyond_their_limit_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(derived_tiles, "MAX_TILES", 3)
    record = make_run(tmp_path / "run", **IMAGES, seed=("0:5",))
    text = page.html(record, read_rows(record))
    assert "5 seeds · 3 of 5 pictures shown" in text
    assert "shows 3 of 5 pictures, evenly spread: 3 of 5 seeds. The others are in images/" in text
    assert Reader(text).run["tiles"]["cell"] == [0, 2, 4]


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """3,200 cells of 16 x 16 px, more than a page shows, one of them diverged."""
    return make_run(
        tmp_path_factory.mktemp("huge") / "run",
        shape=(16, 16),
        traced=61,
        content=("cat.jpg", "astronaut.jpg"),
        style=("brushwork.jpg", "glass.jpg"),
        alpha_beta=tuple(10.0**-i for i in range(10)),
        seed=("0:80",),
        diverged=(77,),
    )


@pytest.fixture(scope="module")
def huge_page(huge):
    """The text of its page."""
    return page.html(huge, read_rows(huge))


def test_a_page_of_thousands_shows_an_even_part_and_tells_of_all(huge, huge_page):
    text = huge_page
    found = Reader(text)
    pictures = [a for a in found.all("img") if a["alt"].startswith("cell ")]
    assert len(pictures) == len(found.run["tiles"]["cell"]) == 3000
    assert [len(d["values"]) for d in found.run["dimensions"]] == [2, 2, 10, 75]
    seeds = [value["numbers"][0] for value in found.run["dimensions"][-1]["values"]]
    assert (seeds[0], seeds[-1]) == (0, 79)
    assert "<h1>3,200 transfers</h1>" in text
    assert "80 seeds · 3,000 of 3,200 pictures shown" in text
    assert "evenly spread: 75 of 80 seeds, all 2 contents, all 2 styles, all 10 values of α/β" in text
    table = text.split('aria-label="All cells by α/β"')[1].split("</table>")[0]
    counts = re.findall(r"<td>320</td><td>(\d+)</td>", table)
    assert counts == ["1"] + 9 * ["0"]
    seeds = text.split('aria-label="All cells by seed"')[1].split("</table>")[0]
    assert seeds.count("<td>40</td><td>") == dimensions.MAX_VALUES
    assert "20 more values of seed lie evenly between these" in text
    assert page.html(huge, read_rows(huge)) == text


def test_curves_and_losses_of_a_part_are_those_of_its_cells(huge, huge_page):
    run = Reader(huge_page).run
    rows = read_rows(huge)
    codes = np.frombuffer(base64.b64decode(run["curves"]["codes"]), "<u2")
    codes = codes.reshape(len(run["cells"]["cell"]), 3, -1)
    with h5py.File(huge.path / "results.h5") as file:
        totals = file["16x16/loss_total"][()]
    at = [list(range(61)).index(step) for step in run["curves"]["steps"][0]]
    for place in (0, 1234, 2999):
        cell = run["cells"]["cell"][place]
        np.testing.assert_array_equal(codes[place, 0], curve_codes(totals[cell, at]))
        assert run["tiles"]["loss_total"][place] == pytest.approx(rows[cell]["loss_total"], rel=1e-4)


def test_sheets_of_thousands_are_few_and_old_ones_go(huge):
    with RunDirectory(huge.path) as run:
        for name in ("contact.png", "contact-099.png", "contact-mine.png"):
            run.write(f"sheets/{name}", "old")
        sheets = write_sheets(run, huge)
    assert len(sheets) <= 12
    there = sorted(p.name for p in (huge.path / "sheets").iterdir())
    assert there == [*(path.name for path in sheets), "contact-mine.png"]


def test_every_cell_is_found_in_the_results(tmp_path):
    record = make_run(tmp_path / "run", **IMAGES, seed=("0:4",), per_chunk=2)
    with open_results(record) as where:
        assert list(where) == [0, 1, 2, 3]
        assert [where[cell][1] for cell in where] == [0, 1, 2, 3]
        assert 4 not in where
        assert where[3][0].name == "/48x64"


def test_thumbnails_of_noise_stay_within_the_limit():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    for size in thumbnails.THUMBNAILS:
        image = Image.fromarray(noise[: size.longest_px, : size.longest_px])
        length = len(thumbnails.jpeg_uri(image, quality=size.quality, subsampling=size.subsampling))
        assert size.tiles * length < 40e6, size


def test_the_overview_is_the_same_on_any_machine_and_readable_on_both_grounds(small, monkeypatch, tmp_path):
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nsvg.fonttype: none\n")
    curves = [Curves((0, 1), (0, 1, 2), np.ones((2, 3, 3), np.float32))]
    first = overview(curves, {0: "a$b", 1: "_c"}, "what", False)
    assert overview(curves, {0: "a$b", 1: "_c"}, "what", False) == first
    assert "<dc:date>" not in first
    assert "#868686" in first
    assert "fill: #ffffff" not in first


def test_nothing_of_a_page_reaches_the_user(tmp_path):
    """No warning if Matplotlib has nowhere to keep its fonts, nor for curves without a finite value."""
    record = make_run(tmp_path / "run", **IMAGES, seed=(0, 1), diverged=(0, 1))
    record.path.chmod(0o755)
    code = (
        "import sys\nfrom pathlib import Path\nfrom jaxstyle.derived import page\n"
        "from jaxstyle.rundir import records, results_csv\n"
        "record = records.open_record(Path(sys.argv[1]))\n"
        "page.html(record, results_csv.read_rows(record))\n"
    )
    done = run_python("-W", "error", "-c", code, record.path, check=True, MPLCONFIGDIR="/dev/null/no")
    assert done.stdout == done.stderr == ""


def test_importing_costs_neither_jinja_nor_matplotlib():
    code = "import sys, jaxstyle.report\nassert not {'jinja2', 'matplotlib'} & set(sys.modules)"
    run_python("-c", code, check=True)


def test_sixty_cells_are_shown_large_and_two_thousand_stay_light(tmp_path):
    record = sixty(tmp_path / "sixty")
    text = page.html(record, read_rows(record))
    widths = {a["width"] for a in Reader(text).all("img") if a["alt"].startswith("cell ")}
    assert widths == {"192"}
    assert len(text.encode()) < 6e6
    record = two_thousand(tmp_path / "many")
    text = page.html(record, read_rows(record))
    assert text.count("<figure><img") > 2000
    assert len(text.encode()) < 25e6
    steps = json.loads(text.split('id="run">')[1].split("</script>")[0])["curves"]["steps"]
    assert len(steps[0]) <= 100


# --- animations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_snapshots_become_an_animation(small, capsys, kind):
    with pytest.raises(SystemExit) as stop:
        report.main([str(small.path), "--animate", kind, "--cell", "2", "7", "--frame-ms", "100"])
    assert stop.value.code == 1  # a cell diverged
    assert "2 animations" in capsys.readouterr().out
    assert sorted(p.name for p in (small.path / "animations").glob(f"*.{kind}")) == [
        f"000002.{kind}",
        f"000007.{kind}",
    ]
    with (
        Image.open(small.path / "animations" / f"000007.{kind}") as image,
        h5py.File(small.path / "results.h5") as file,
    ):
        assert image.n_frames == 2
        assert image.info["loop"] == 0
        durations = []
        for frame in range(2):
            image.seek(frame)
            shown = np.asarray(image.convert("RGB"), float)
            durations.append(image.info["duration"])
            expected = file["48x64/image"][7, frame].astype(float)
            assert np.abs(shown - expected).mean() < 16
        assert durations == [100, 1000]


def test_without_cells_all_are_animated(small):
    with RunDirectory(small.path) as run:
        made = write_animations(run, small, "gif")
    assert [path.name for path in made] == [f"{cell:06d}.gif" for cell in range(12)]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--animate", "mp4"], "'mp4' is not known"),
        (["--animate", "gif", "--cell", "12"], "12 is not in the run"),
        (["--animate", "gif", "--cell", "-1"], "-1 is not in the run"),
        (["--animate", "gif", "--frame-ms", "0"], "0 is out of range"),
        (["--cell", "1"], "together with --animate"),
    ],
)
def test_wrong_flags_are_one_line(small, capsys, flags, why):
    with pytest.raises(SystemExit) as stop:
        report.main([str(small.path), *flags])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_one_snapshot_cannot_be_animated(tmp_path, capsys):
    make_run(tmp_path / "run", **IMAGES, seed=(0, 1))
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path / "run"), "--animate", "gif"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has only one snapshot" in line
    assert not (tmp_path / "run" / "report.html").exists()


def test_report_writes_the_page_the_same_each_time(small):
    written = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            report.main([str(small.path)])
        written.append((small.path / "report.html").read_bytes())
    assert written[0] == written[1]
