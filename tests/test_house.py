"""The house: who may import whom, what importing costs, and what ships."""

import ast
import collections
import inspect
import tomllib

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, module_paths, run_python
from PIL import Image

from jaxstyle.cell import solvers
from jaxstyle.console.arguments import helps
from jaxstyle.plan.cells import Cell
from jaxstyle.rundir import manifest
from jaxstyle.spec import presets, settings, tables

ORDER = """
vgg spec console plan inputs cell device rundir derived run study
""".split()  # noqa: SIM905
COMMANDS = ("calibrate", "features", "report", "sweep", "transfer", "variance")
WITHOUT_JAX = (
    "console.early",
    "spec.errors",
    "device.course",
    "vgg.layers",
    "spec.synonyms",
    "spec.paths",
    "spec.jax_state",
    "console.limits",
    "spec.tables",
    "spec.values",
    "spec.presets",
    "spec.fields",
    "console.arguments",
    "spec.settings",
    "spec.keys",
    "spec.options",
    "spec.toml",
    "spec.moved",
    "spec.assemble",
    "spec.resolve",
    "spec.plugins",
    "device.jax_settings",
    "console.flags",
    "console.allocator",
    "console.signals",
    "console.command",
    "plan.costs",
    "plan.cells",
    "plan.programs",
    "plan.canvases",
    "plan.chunks",
    "plan.planner",
    "inputs.containers",
    "inputs.png",
    "inputs.jpeg",
    "inputs.tiff",
    "inputs.formats",
    "inputs.colour",
    "inputs.preprocess",
    "inputs.resize",
    "inputs.encode",
    "inputs.pictures",
    "inputs.decode",
    "inputs.weights",
    "rundir.fingerprints",
    "rundir.files",
    "rundir.locks",
    "rundir.directory",
    "rundir.chunks",
    "rundir.checkpoints",
    "rundir.records",
    "rundir.image_files",
    "rundir.results_csv",
    "rundir.results_h5",
    "rundir.manifest",
    "study.stats",
    "derived.sample",
    "derived.drawing",
    "derived.tiles",
    "derived.thumbnails",
    "derived.curves",
    "derived.dimensions",
    "derived.sections",
    "derived.page",
    "derived.sheets",
    "derived.animations",
    "derived.build",
    "report",
    "console.progress",
    "run.unfinished",
    "rundir.resume",
    "run.inputs",
    "run.results",
    "run.launcher",
    "run.worker",
    "run.start",
    "run.described",
    "run.planning",
    "run.opened",
    "run.site",
    "run.checked",
    "run.job",
    "run.resumed",
    "run.share",
    "run.sweep",
    "sweep",
    "calibrate",
    "transfer",
    "derived.feature_maps",
    "features",
    "variance",
)


MODULES = sorted({*module_paths()} - {"__init__", "__main__"})


def wing(module):
    """What a module is called in `ORDER`: itself, or the folder that it is in."""
    return module.split(".")[0]


def imports(name):
    """The modules of the package that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(module_paths()[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxstyle":
            every = [f"{node.module}.{alias.name}".removeprefix("jaxstyle.") for alias in node.names]
            found |= {m if m in MODULES else m.rpartition(".")[0] for m in every}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("jaxstyle.") for a in node.names if "jaxstyle." in a.name}
    return found & {*MODULES}


def test_every_module_has_its_place():
    assert {wing(module) for module in MODULES} == {*ORDER, *COMMANDS}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_above_and_from_its_own_folder(name):
    own = wing(name)
    above = ORDER[: ORDER.index(own)] if own in ORDER else ORDER
    assert {wing(module) for module in imports(name)} - {own if "." in name else ""} <= {*above}


def test_no_modules_of_a_folder_import_each_other_in_a_circle():
    left = {m: {i for i in imports(m) if wing(i) == wing(m)} for m in MODULES}
    while free := {module for module, needs in left.items() if not needs}:
        left = {module: needs - free for module, needs in left.items() if module not in free}
    assert left == {}


def test_modules_that_promise_to_need_no_jax_import_none():
    code = "import sys\n" + "".join(f"import jaxstyle.{name}\n" for name in WITHOUT_JAX)
    code += "import jaxstyle.run, jaxstyle.single\n"  # import the engine inside its functions
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
    monkeypatch.setattr(presets, "PACKAGE", tmp_path)
    digests = set()
    for name, text in (("a.py", "1"), ("sub/a.py", "1"), ("sub/a.py", "2"), ("sub/deep/a.py", "2")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(manifest.code_digest.__wrapped__())
        (tmp_path / name).unlink()
    assert len(digests) == 4


BATCHING = ("vmap", "pmap", "vectorize", "jit", "fori_loop", "while_loop", "scan")
"""JAX's functions that batch, compile and loop."""


def test_batching_compiling_and_looping_are_the_engines():
    found = collections.Counter()
    for module, path in module_paths().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
                named = [alias.name for alias in node.names]
            else:
                named = [node.attr] if isinstance(node, ast.Attribute) else []
            found.update((module, name) for name in named if name in BATCHING)
    # Cells are started, refined and stepped; programs of those, of targets and of gradients; one loop.
    assert found == {("engine", "vmap"): 3, ("engine", "jit"): 5, ("engine", "fori_loop"): 1}


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


def test_examples_are_small_readable_and_licensed():
    folder = ROOT / "jaxstyle" / "examples"
    licences = (folder / "LICENSES.md").read_text()
    files = [p for p in folder.iterdir() if p.suffix != ".md"]
    assert 3 <= len(files) <= 12
    for path in files:
        assert path.stat().st_size <= 120_000
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
    assert {name: (fields[name].default,) for name in settings.LATER} == settings.LATER


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
