"""The house: who may import whom, what importing costs, and what ships."""

import ast
import tomllib

import pytest
from conftest import ROOT, run_python
from PIL import Image

ORDER = """
early errors layers peers paths config limits ambient cli grid containers colour images weights conv vgg19
losses optimizers step engine fingerprints store manifest stats sample drawing page report progress resume
calibration launches worker planning cluster run single floor seedstudy seedtables seedplots seedpage
""".split()  # noqa: SIM905
COMMANDS = ("sweep", "transfer", "calibrate", "features", "variance")
WITHOUT_JAX = (
    "early",
    "errors",
    "layers",
    "peers",
    "paths",
    "config",
    "limits",
    "ambient",
    "cli",
    "grid",
    "containers",
    "colour",
    "images",
    "weights",
    "fingerprints",
    "store",
    "manifest",
    "stats",
    "sample",
    "drawing",
    "page",
    "report",
    "progress",
    "resume",
    "launches",
    "worker",
    "planning",
    "run",
    "sweep",
    "calibrate",
    "transfer",
    "features",
    "variance",
)


def imports(name):
    """The modules of the package that a module imports, inside functions too."""
    tree = ast.parse((ROOT / "jaxstyle" / f"{name}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxstyle":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxstyle."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("jaxstyle.")}
    return found & {*ORDER, *COMMANDS}


def test_every_module_has_its_place():
    files = {p.stem for p in (ROOT / "jaxstyle").glob("*.py")} - {"__init__", "__main__"}
    assert files == {*ORDER, *COMMANDS}


@pytest.mark.parametrize("name", [*ORDER, *COMMANDS])
def test_a_module_imports_only_from_above(name):
    above = ORDER[: ORDER.index(name)] if name in ORDER else ORDER
    assert imports(name) <= set(above)


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


def test_one_vmap_one_loop():
    for name in ORDER:
        text = (ROOT / "jaxstyle" / f"{name}.py").read_text()
        if name != "engine":
            assert "jax.vmap(" not in text, name
            assert "jax.jit(" not in text, name


def test_public_names_have_docstrings():
    for path in (ROOT / "jaxstyle").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path.name
        for node in ast.walk(tree):
            kinds = ast.FunctionDef | ast.ClassDef
            if not isinstance(node, ast.ClassDef | ast.Module):
                continue
            for child in node.body:
                if isinstance(child, kinds) and not child.name.startswith("_"):
                    assert ast.get_docstring(child), f"{path.name}: {child.name}"


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
