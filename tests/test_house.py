"""The house: who may import whom, what importing costs, and what ships."""

import ast
import collections
import inspect
import re
import statistics
import tomllib

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, module_paths, run_python
from PIL import Image

from jaxstyle.cell import solvers
from jaxstyle.console.setting_flags import helps
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir import manifest
from jaxstyle.spec import settings, tables
from jaxstyle.spec.defaults import PAPER

WINGS = ("vgg", "spec", "console", "plan", "inputs", "cell", "rundir", "device", "derived", "run")
WINGS += ("study", "metrics")
"""The folders of the package, in the order in which they may import each other."""
COMMANDS = ("calibrate", "features", "report", "score", "sweep", "targets", "transfer", "variance")
"""The modules outside of them, which nothing imports."""
IMPORTS_JAX = (
    "cell",
    "device",
    *(
        f"vgg.{m}"
        for m in ["bordered", "convolution", "network", "planes", "pooling", "precision", "winograd"]
    ),
)
"""Wings and modules that import JAX when they are imported; others import it in functions."""
IMPORTS_RAY = ("run.cluster", "run.ray_nodes")
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_FLOORS = 500, 60, 10


PATHS = module_paths()
MODULES = sorted({*PATHS} - {"__init__", "__main__"})


def wing(module):
    """The wing of a module, or its name if it is in none."""
    return module.split(".")[0]


def imports(name):
    """The modules of the package that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(PATHS[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxstyle":
            every = [f"{node.module}.{alias.name}".removeprefix("jaxstyle.") for alias in node.names]
            found |= {m if m in MODULES else m.rpartition(".")[0] for m in every}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("jaxstyle.") for a in node.names if "jaxstyle." in a.name}
    return found & {*MODULES}


def floors(needs):
    """The floor of each node of a graph, one above the highest that it needs; nothing for circles."""
    found, left = {}, {node: {*own} for node, own in needs.items()}
    while free := {node for node, own in left.items() if own <= found.keys()}:
        found |= {node: 1 + max((found[n] for n in left[node]), default=0) for node in free}
        left = {node: own for node, own in left.items() if node not in free}
    return found


def test_every_module_is_in_a_wing_or_is_a_command():
    assert {wing(module) for module in MODULES} == {*WINGS, *COMMANDS}
    assert {module for module in MODULES if "." not in module} == {*WINGS, *COMMANDS}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_own_wing_and_those_above(name):
    own = wing(name)
    above = WINGS[: WINGS.index(own) + 1] if own in WINGS else WINGS
    assert {wing(module) for module in imports(name)} <= {*above}


def test_no_modules_import_each_other_in_a_circle():
    assert floors({module: imports(module) for module in MODULES}).keys() == {*MODULES}


def test_the_wings_stand_on_few_floors():
    needs = {place: set() for place in map(wing, MODULES)}
    for module in MODULES:
        needs[wing(module)] |= {wing(needed) for needed in imports(module)} - {wing(module)}
    assert max(floors(needs).values()) <= MOST_FLOORS


@pytest.mark.parametrize("name", PATHS)
def test_no_module_and_no_function_is_long(name):
    text = PATHS[name].read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, node.name


def test_most_modules_are_short():
    assert statistics.median(len(PATHS[name].read_text().splitlines()) for name in MODULES) <= 150
    assert sum(len(PATHS[name].read_text().splitlines()) > 300 for name in MODULES) <= len(MODULES) / 6


def test_modules_that_promise_to_need_no_jax_import_none():
    free = [m for m in MODULES if not {m, wing(m)} & {*IMPORTS_JAX} and m not in IMPORTS_RAY]
    code = "import sys\n" + "".join(f"import jaxstyle.{name}\n" for name in free)
    code += "assert not {'jax', 'jaxlib', 'flax', 'optax'} & set(sys.modules), 'JAX was imported'\n"
    run_python("-c", code, check=True)


def test_importing_the_package_imports_no_jax_and_names_its_api():
    code = (
        "import sys, jaxstyle\n"
        "assert 'jax' not in sys.modules\n"
        "assert all(hasattr(jaxstyle, name) for name in jaxstyle.__all__)\n"
        "assert 'jax' not in sys.modules\n"
        "modules = {m.split('.')[1] for m in sys.modules if m.startswith('jaxstyle.')}\n"
        "assert not modules & {n for n in jaxstyle.__all__ if callable(getattr(jaxstyle, n))}\n"
    )
    run_python("-c", code, check=True)


def test_the_digest_of_the_code_is_of_every_module_and_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGE", tmp_path)
    digests = set()
    for name, text in (("a.py", "1"), ("sub/a.py", "1"), ("sub/a.py", "2"), ("sub/deep/a.py", "2")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(manifest.code_digest.__wrapped__())
        (tmp_path / name).unlink()
    assert len(digests) == 4


BATCHING = ("vmap", "pmap", "vectorize", "jit", "fori_loop", "while_loop", "scan", "shard_map")
"""JAX's functions that batch, compile, loop and shard."""


def batching(paths):
    """Number of times that each place names each of `BATCHING`."""
    found = collections.Counter()
    for module, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
                named = [alias.name for alias in node.names]
            else:
                named = [node.attr] if isinstance(node, ast.Attribute) else []
            found.update((module, name) for name in named if name in BATCHING)
    return found


def test_one_vmap_one_loop():
    """The step's are in one place; cells are also started and refined, targets and gradients compiled."""
    found = batching(PATHS)
    assert found.pop(("vgg.convolution", "jit")) == 2  # so that layers that are alike are traced once
    assert {wing(module) for module, _ in found} == {"device"}
    assert {place: n for place, n in found.items() if place[0] == "device.batch"} == {
        ("device.batch", "vmap"): 3,  # of the step, of its start, and of its refinement of a coarser stage
        ("device.batch", "fori_loop"): 1,
        ("device.batch", "jit"): 4,  # of these, and of targets
        ("device.batch", "shard_map"): 1,
    }
    assert {place: n for place, n in found.items() if place[0] != "device.batch"} == {
        ("device.engine", "jit"): 1,  # of how hard losses pull
        ("device.kept_programs", "jit"): 2,  # of the step and of targets, where they are kept
        ("device.held_out", "vmap"): 1,  # of AlexNet over finished pictures
        ("device.held_out", "jit"): 1,
    }


def test_public_names_have_docstrings():
    for name, path in module_paths().items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        for node in ast.walk(tree):
            kinds = ast.FunctionDef | ast.ClassDef
            if not isinstance(node, ast.ClassDef | ast.Module):
                continue
            for child in node.body:
                if isinstance(child, kinds) and not child.name.startswith("_"):
                    assert ast.get_docstring(child), f"{name}: {child.name}"


NO_NOUN = {
    "What",
    "Of",
    "By",
    "Where",
    "How",
    "Everything",
    "Which",
    "Those",
    "That",
    "Who",
    "There",
    "When",
}
"""Words that no docstring begins with: the noun comes first."""


@pytest.mark.parametrize("name", PATHS)
def test_docstrings_name_the_noun_first(name):
    for node in ast.walk(ast.parse(PATHS[name].read_text())):
        for line in getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ():
            if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                first, *_ = str(line.value.value).split()
                assert first.strip(",.:") not in NO_NOUN, f"line {line.lineno}"


def test_examples_are_small_readable_and_licensed():
    folder = ROOT / "jaxstyle" / "examples"
    licences = (folder / "LICENSES.md").read_text()
    files = [p for p in folder.iterdir() if p.suffix != ".md"]
    assert 3 <= len(files) <= 16
    for path in files:
        assert path.stat().st_size <= 150_000
        assert path.name in licences
        with Image.open(path) as image:
            assert min(image.size) >= 192


def test_the_demo_is_small_enough_for_a_laptop():
    preset = tomllib.loads((ROOT / "jaxstyle" / "presets" / "demo.toml").read_text())
    cells = 1
    for axis in ("content", "style", "alpha_beta", "init"):
        cells *= len(preset[axis])
    assert cells * max(preset["steps"]) <= 800


# --- the rows of the tables ---------------------------------------------------------------------------

FIRST = """
content style content_layer style_layers init alpha_beta learning_rate seed steps size style_size
pool network optimizer lbfgs_memory pyramid fast schedule keep clamp noise_std precision conv canvas
beta tv_weight weights trace_every checkpoint_every max_cells split_depth deterministic grid digests
balance given extra
""".split()  # noqa: SIM905
"""Axes and settings of commit 1f9e732, whose runs go on, and what fingerprints have in another form."""


def test_a_younger_axis_or_setting_is_marked_later_or_decides_no_number():
    """Otherwise it stands in the fingerprint of every run, and no earlier run goes on."""
    younger = {name: row for name, row in settings.ROWS.items() if name not in FIRST}
    assert [
        name for name, row in younger.items() if not (row.later or not getattr(row, "numbers", True))
    ] == []


def test_an_axis_is_a_field_of_a_cell_with_the_same_default():
    fields = Cell.__dataclass_fields__
    assert set(settings.SEVERAL) - {"steps"} <= set(fields)
    of_the_look = {name: value for name, value in PAPER.items() if name in settings.LATER}
    resolved = settings.LATER | of_the_look  # whose defaults are in two sets
    assert {name: (fields[name].default,) for name in settings.LATER} == resolved


def test_every_function_of_a_row_is_there_and_takes_what_the_row_says():
    for row in (*tables.OPTIMIZERS, *tables.POOLINGS, *tables.optional_terms()):
        functions = {name: tables.function(getattr(row, name)) for name in row.functions}
        assert callable(functions[row.functions[0]]), row.name
    for row in tables.OPTIMIZERS:
        assert inspect.signature(tables.function(row.make)).parameters.keys() == row.own.keys()
        image = jax.ShapeDtypeStruct((8, 9, 3), jnp.float32)
        state = jax.eval_shape(solvers.make(row.name, row.own).init, image)
        held = sum(leaf.size for leaf in jax.tree.leaves(state)) / (8 * 9 * 3)
        assert row.images(**row.own) == pytest.approx(held, rel=0.3), row.name


def test_every_axis_setting_and_option_has_its_help():
    assert {*settings.ROWS, *settings.OPTIONS} <= helps().keys()


def test_the_picture_of_the_wings_is_of_these_imports():
    import runpy

    assert runpy.run_path(str(ROOT / "scripts" / "draw_wings.py"))["main"](["--check"]) == 0


def test_the_map_of_the_code_names_every_module():
    rows = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    for place in WINGS:
        (row,) = (line for line in rows if line.startswith(f"| `{place}/` |"))
        named = re.findall(r"(?:<br>| · )\**`(\w+)`", row)
        assert sorted(named) == sorted(m.partition(".")[2] for m in MODULES if m.startswith(f"{place}."))
