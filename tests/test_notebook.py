"""The notebook of the pages, and the bar that a notebook shows.

Its cells are executed one after another in a plain process, each with its last line shown as a notebook
does, which needs no Jupyter. `make test-notebook` executes it in a real kernel, and looks at the bar there.
"""

import json
import sys
import types

import pytest
from conftest import ROOT, run_python

from jaxstyle.console import notebook_bar
from jaxstyle.console.progress import Display

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
GIVEN = 'settings = {"size": 192, "steps": 60}'
SMALL = """settings = {"size": 64, "steps": 2, "optimizer": "adam", "content_layer": "conv1_2"}
settings |= {"style_layers": "conv1_1"}
"""
EXECUTE = """
import ast, json, sys

SHOWN = {}
own = {}
for number, source in enumerate(json.loads(sys.argv[1])):
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), own)
    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), own) if last else None
    SHOWN[number] = [name for name in ("_repr_html_", "_repr_png_") if getattr(value, name, lambda: None)()]
print("SHOWN", json.dumps([SHOWN, own["chunks"], sorted(set(own["table"]["seed"]))]))
"""


def cells(small=SMALL):
    """The sources of its code cells, with settings that take seconds."""
    found = json.loads(NOTEBOOK.read_text())
    sources = ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code"]
    assert GIVEN in sources[0]
    return [source.replace(GIVEN, small) for source in sources]


def test_a_notebook_in_the_repository_has_no_outputs():
    found = json.loads(NOTEBOOK.read_text())
    assert found["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in found["cells"])
    assert NOTEBOOK.stat().st_size < 10_000


def test_the_notebook_runs_from_top_to_bottom_without_jupyter(tmp_path):
    done = run_python("-c", EXECUTE, json.dumps(cells()), cwd=tmp_path, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("SHOWN "))
    shown, chunks, seeds = json.loads(line.removeprefix("SHOWN "))
    assert [shown[str(n)] for n in range(6)] == [
        [],
        ["_repr_png_"],
        ["_repr_html_"],
        ["_repr_html_"],
        [],
        ["_repr_png_"],
    ]
    assert sorted(cell for chunk in chunks for cell in chunk) == [0, 1, 2, 3]
    assert seeds == [0, 1]


class Handle:
    """A display handle as IPython's, which remembers what it was given."""

    def __init__(self):
        self.shown = []

    def update(self, bundle, *, raw):
        assert raw
        self.shown.append(bundle)


@pytest.fixture
def kernel(monkeypatch):
    """The part of IPython that a bar speaks to; IPython itself is not installed for the tests."""
    handles = []

    def display(bundle, *, raw, display_id):
        assert raw
        assert display_id
        handles.append(Handle())
        handles[-1].update(bundle, raw=True)
        return handles[-1]

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return handles


def test_a_bar_in_a_notebook_is_one_output_that_changes_now_and_then(kernel, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(notebook_bar.time, "monotonic", lambda: now[0])
    with Display() as display:
        display.start(image_steps=1000, cells=4)
        for _ in range(1000):
            now[0] += 0.01
            display.advance(1)
        display.finish()
    (bar,) = kernel
    assert 10 <= len(bar.shown) <= 23  # in ten seconds: two a second, the first and the last
    assert bar.shown[0]["text/plain"] == "0 %"
    assert "ETA" in bar.shown[9]["text/plain"]
    assert bar.shown[-1]["text/plain"] == "100 %  0/4 cells  100.00 steps/s  100.00 image-steps/s"
    assert '<progress value="1.000" max="1"' in bar.shown[-1]["text/html"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("own", [{"quiet": True}, {"log_format": "json"}], ids=str)
def test_no_bar_where_nothing_or_json_is_printed(kernel, own):
    with Display(**own) as display:
        display.start(image_steps=10, cells=1)
        display.advance(10)
    assert kernel == []


def test_a_shell_that_is_no_notebook_has_no_such_bar(monkeypatch):
    assert not notebook_bar.in_notebook()
    shell = types.SimpleNamespace()
    for told in (lambda: None, lambda: shell):
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=told))
        assert not notebook_bar.in_notebook()


@pytest.mark.notebook
def test_a_real_kernel_shows_one_bar_for_each_computation(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    found = nbformat.read(NOTEBOOK, as_version=4)
    found.cells[1].source = cells()[0]
    client.NotebookClient(found, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    of = [cell.outputs for cell in found.cells if cell.cell_type == "code"]
    for outputs in of[1:3]:  # stylize, run_sweep
        bars = [o for o in outputs if "<progress" in o.get("data", {}).get("text/html", "")]
        assert len(bars) == 1
        assert bars[0].data["text/plain"].startswith("100 %")
        said = "".join(o.text for o in outputs if o.output_type == "stream")
        assert "compiling the 43x64 step" in said
        assert len(said.splitlines()) <= 12
        assert outputs[-1].output_type == "execute_result"
