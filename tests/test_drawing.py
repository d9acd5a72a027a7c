"""Letters and figures: the same on any machine, readable in any script, and never a warning."""

import io
import os
import warnings

import made_runs
import numpy as np
import pytest
from conftest import run_python
from PIL import Image, ImageDraw

from jaxstyle.derived import drawing
from jaxstyle.derived.curves import Curves, overview
from jaxstyle.derived.tiles import place_text, place_tiles

IMAGES = {"content": ("cat.jpg",), "style": ("glass.jpg",)}
TEXTS = ("plain", "α/β 0.1", "two\nlines é", "café α", "a$b^c$", "猫 cat", "日本語", "한국어", "صورة", "🎨")

FIGURE = """
import hashlib, sys
import numpy as np
from jaxstyle.derived import drawing
from jaxstyle.derived.curves import Curves, overview
curves = [Curves((0, 1), (0, 1, 2), np.ones((2, 3, 3), np.float32))]
print(hashlib.sha256(overview(curves, {0: "a$b", 1: "_c"}, "what", False).encode()).hexdigest())
with drawing.figures({"font.size": 9}):
    from matplotlib.figure import Figure
    figure = Figure((2, 2))
    figure.subplots().plot([1, 2])
    print(hashlib.sha256(drawing.figure_bytes(figure, "png", dpi=72)).hexdigest())
"""
ODD = b"text.usetex: True\nfont.size: 40\nnonsense: 3\nlines.linewidth: abc\naxes.facecolor: red\n"
NO_TEXT = b"font.family: \xff\xfe\n"


def test_figures_are_the_same_whatever_the_users_settings_of_matplotlib_are(tmp_path):
    home = tmp_path / "home" / ".config" / "matplotlib"
    (home / "stylelib").mkdir(parents=True)
    for name in ("matplotlibrc", "stylelib/mine.mplstyle"):
        (home / name).write_bytes(NO_TEXT)
    (tmp_path / "settings").write_bytes(ODD)

    def drawn(rc=None, **environment):
        cwd = tmp_path / f"cwd{len(list(tmp_path.iterdir()))}"
        cwd.mkdir()
        if rc is not None:
            (cwd / "matplotlibrc").write_bytes(rc)
        done = run_python("-c", FIGURE, cwd=cwd, check=True, **environment)
        assert done.stderr == ""
        return done.stdout

    plain = drawn()
    assert drawn(MPLBACKEND="module://matplotlib_inline.backend_inline_that_is_not_there") == plain
    assert drawn(ODD) == plain
    assert drawn(NO_TEXT, MPLBACKEND="bogus", MPLCONFIGDIR="/dev/null/no") == plain
    assert drawn(HOME=str(tmp_path / "home"), XDG_CONFIG_HOME="") == plain
    assert drawn(HOME="", MATPLOTLIBRC=str(tmp_path / "settings")) == plain


def test_a_study_of_pictures_with_any_names_is_told_on_a_terminal_of_latin_1(tmp_path):
    """One command with everything: a missing backend, a `matplotlibrc`, and names in several scripts."""
    named = []
    for index, name in enumerate(("猫.jpg", "a$b^.jpg", "_x.jpg")):
        named.append(str(tmp_path / name))
        source = sorted(made_runs.EXAMPLES.glob("*.jpg"))[index]
        (tmp_path / name).write_bytes(source.read_bytes())
    made_runs.make_run(
        tmp_path / "r中", content=named, style=("glass.jpg",), alpha_beta=(1e-2,), seed=("0:3",)
    )
    (tmp_path / "matplotlibrc").write_bytes(ODD)
    environment = {
        "PYTHONIOENCODING": "latin-1",
        "MPLBACKEND": "module://not.there",
        "PYTHONWARNINGS": "error",
    }
    command = ("-m", "jaxstyle.variance", "r中", "--no-floor")
    done = run_python(*command, cwd=tmp_path, check=True, **environment)
    assert done.stderr == ""
    assert "tables: r\\u4e2d/variance.csv" in done.stdout
    there = {path.name for path in (tmp_path / "r中" / "maps").iterdir()}
    assert {"spread.png", "curves.svg"} <= there
    assert (tmp_path / "r中" / "report.html").exists()


def test_who_draws_in_the_same_process_keeps_the_own_settings():
    mpl = drawing.load_matplotlib()
    exists, environment = os.path.exists, dict(os.environ)
    curves = [Curves((0,), (0, 1), np.ones((1, 3, 2), np.float32))]
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 20}):
        before = {k: v for k, v in mpl.rcParams.items() if k != "backend"}
        overview(curves, {0: "a"}, "what", False)
        assert {k: v for k, v in mpl.rcParams.items() if k != "backend"} == before
    with drawing._without_settings():
        assert not os.path.exists("matplotlibrc")
        assert os.environ["MATPLOTLIBRC"] == os.devnull
        assert os.path.exists(os.devnull)
    assert os.path.exists is exists
    assert dict(os.environ) == environment


def forget():
    for function in (drawing._fonts_for, drawing.readable, drawing._runs):
        function.cache_clear()


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without any font."""
    forget()
    monkeypatch.setattr(drawing, "system_fonts", tuple)
    yield
    forget()


@pytest.fixture(params=["fonts of the machine", "no fonts"])
def fonts(request):
    """Run once with the fonts of this machine, and once as on a machine without any."""
    if request.param == "no fonts":
        request.getfixturevalue("no_fonts")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_a_sheet_stays_within_its_extent_and_has_no_boxes(fonts, text):
    width, height = drawing.extent(text)
    sheet = Image.new("L", (width + 60, height + 60))
    drawing.write(ImageDraw.Draw(sheet), (20, 20), text, fill=255)
    left, top, right, bottom = sheet.getbbox()
    assert left >= 18
    assert top >= 18
    assert right <= 20 + width + 2
    assert bottom <= 20 + height + 2
    has = frozenset().union(
        *(f.characters for f in (*drawing._own_fonts(), *drawing._fonts_for(drawing._missing(text))))
    )
    assert all(c in has or c.isspace() for c in drawing.readable(text))


def test_a_character_that_no_font_has_is_written_as_python_writes_it(no_fonts):
    assert drawing.readable("猫 α/β é.jpg") == "\\u732b α/β é.jpg"
    assert drawing.readable("🎨\u202egpj") == "\\U0001f3a8\\u202egpj"
    assert drawing.readable("a\udcffb\x1bc\n") == "a\\udcffb\\x1bc\n"
    assert drawing.readable("e\u0301") == "é"


def test_chinese_is_drawn_where_the_machine_has_a_font_for_it():
    if not drawing._fonts_for(frozenset("猫")):
        pytest.skip("no font of this machine has Chinese")
    assert drawing.readable("猫") == "猫"
    assert drawing.extent("猫")[0] < 2 * drawing.FONT_PX


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_has_any_text_without_a_warning(fonts, kind):
    with drawing.figures({}):
        from matplotlib.figure import Figure

        figure = Figure((9, 4), layout="constrained")
        axes = figure.subplots()
        axes.set(yscale="log", title="$_^ " + TEXTS[5], xlabel="猫" * 300)
        for text in (*TEXTS, "_x"):
            axes.plot([1, 2], [1, 1000], label=drawing.legend_text(text))
        axes.legend()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = drawing.figure_bytes(figure, kind)
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == len(TEXTS) + 1
    assert "a$b^c$" in labels
    assert (Image.open(io.BytesIO(data)).size[0] if kind == "png" else len(data)) > 100


def test_the_words_of_a_sheet_are_those_of_the_page(tmp_path):
    record = made_runs.make_run(tmp_path / "run", **IMAGES, alpha_beta=(1e-2, 1e-3), seed=(0, 1))
    tiles = place_tiles(record, range(4))
    assert place_text(tiles[0].place, ["alpha_beta"]) == "α/β 0.01"
