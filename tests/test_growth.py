"""Runs that an earlier version of the package began can be resumed with this one.

`data/half` holds a run of commit 1f9e732 that was killed in its third chunk of four, the pictures that it
was made from, and that commit's undisturbed result. `python -m tests.same_bytes 1f9e732 --make-fixture
tests/data/half` makes it.
"""

import csv
import hashlib
import json
import shutil

import h5py
import numpy as np
import pytest
import same_bytes
from conftest import ROOT, run_forked

HALF = ROOT / "tests" / "data" / "half"
EXPECTED = HALF / "expected"


def digests(run):
    """SHA-256 of the chunks and pictures of a run, by their paths in it."""
    files = [*run.glob("chunks/*.h5"), *run.glob("images/*.png")]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory):
    """The run, resumed in another folder by a separate process."""
    project = tmp_path_factory.mktemp("growth") / "project"
    shutil.copytree(HALF, project)
    done = run_forked("-m", "jaxstyle.sweep", "--resume", "--out", project / "run", cwd=project.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return project / "run"


def test_a_run_of_an_earlier_version_goes_on(gone_on):
    before, after = digests(HALF / "run"), digests(gone_on)
    assert len([name for name in before if name.startswith("chunks")]) == 2
    assert before.items() <= after.items()
    assert not list(gone_on.rglob("*.bad*"))
    assert set(after) == set(json.loads((EXPECTED / "about.json").read_text())["sha256"])
    rows = list(csv.DictReader((gone_on / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done"] * 8


def test_it_comes_to_what_the_earlier_version_came_to(gone_on):
    about = json.loads((EXPECTED / "about.json").read_text())
    if about["machine"] == same_bytes.machine():  # others may differ in new chunks
        assert digests(gone_on) == about["sha256"]
        found = same_bytes.Found([], [])
        for name in ("results.h5", "results.csv"):
            same_bytes.compare_file(found, name, EXPECTED / name, gone_on / name)
        assert found.differences == []
    with h5py.File(EXPECTED / "results.h5") as was, h5py.File(gone_on / "results.h5") as now:
        for shape in was:
            for name in ("loss_total", "loss_content", "loss_style"):
                first = (file[shape][name][:, 0] for file in (now, was))
                np.testing.assert_allclose(*first, rtol=1e-5)
