"""The list of mutants: that each can be applied, and that the tests which are to kill it are there."""

import mutants
import pytest
from conftest import ROOT
from mutants import MUTANTS, Mutant, application, missing, modules

TEXTS = modules(ROOT)


def test_every_mutant_changes_one_place_of_the_package():
    for mutant in MUTANTS:
        path, text = application(mutant, TEXTS)
        assert text != TEXTS[path], mutant.claim


def test_the_tests_that_mutants_name_are_there():
    assert all(1 <= len(mutant.tests) <= 3 for mutant in MUTANTS)
    assert missing([test for mutant in MUTANTS for test in mutant.tests], ROOT) == []


def test_a_claim_is_one_sentence_and_no_two_mutants_are_alike():
    assert all(mutant.claim.endswith(".") and "\n" not in mutant.claim for mutant in MUTANTS)
    for name in ("claim", "old"):
        assert len({getattr(mutant, name) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(("old", "count"), [("x = 1", 2), ("x = 3", 0)])
def test_a_mutant_of_no_place_or_of_several_is_found_out(old, count):
    with pytest.raises(ValueError, match=f"stands {count} times"):
        application(Mutant("It is.", old, "", ()), {ROOT / "a.py": "x = 1\n", ROOT / "b.py": "x = 1\n"})


def test_a_test_that_is_gone_is_found_out(tmp_path):
    (tmp_path / "test_x.py").write_text("def test_a():\n    pass\n")
    names = ["test_x.py::test_a", "test_x.py::test_a[1::2]", "test_x.py::test_b", "test_y.py::test_a"]
    assert missing(names, tmp_path) == names[2:]


def test_a_tree_is_as_it_was_after_a_mutant(tmp_path, monkeypatch):
    module, seen = tmp_path / "jaxstyle" / "a.py", []
    module.parent.mkdir()
    module.write_text("x = 1\n")
    before = module.stat().st_mtime_ns
    monkeypatch.setattr(mutants, "run_tests", lambda *_: seen.append(module.read_text()))
    mutants.tried(Mutant("It is.", "x = 1", "x = 2", ()), 0, tmp_path, tmp_path)
    assert seen == ["x = 2\n"]
    assert (module.read_text(), module.stat().st_mtime_ns) == ("x = 1\n", before)
