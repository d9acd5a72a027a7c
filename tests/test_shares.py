"""A run in shares: the bytes of one process, whichever share is first and whichever dies."""

import json
import os
import shutil
import signal

import pytest
from conftest import EXAMPLES, FIVE_CHUNKS, Told
from torture import digests

from jaxstyle import report, sweep
from jaxstyle.console import signals
from jaxstyle.plan.chunks import Chunk, Plan
from jaxstyle.run import planning, unfinished
from jaxstyle.run import share as run_share
from jaxstyle.run.checked import CheckedRun
from jaxstyle.run.share import _end_share
from jaxstyle.run.sweep import run_sweep
from jaxstyle.run.work import Begun, blocks
from jaxstyle.rundir import chunks, directory, locks, records
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.locks import DirectoryInUse
from jaxstyle.spec.assemble import assemble
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.settings import RunOptions, Sweep
from jaxstyle.spec.shares import Share, asked_share

SWEEP = FIVE_CHUNKS


def command(*arguments):
    """The exit code of a sweep in this process."""
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(a) for a in (*arguments, "--quiet")])
    return stop.value.code


def manifest_of(path):
    return json.loads((path / "manifest.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert command(*SWEEP, "--out", out) == 0
    assert len(list((out / "chunks").iterdir())) == 5
    return out


# --- which share ----------------------------------------------------------------------------------


def test_a_share_counts_from_0_or_from_1():
    def share(text):
        found = asked_share(RunOptions(shard=text, out="run"), {})
        return found and (found.index, found.count)

    assert [share(f"{i}/4") for i in range(4)] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert share("4/4") == (0, 4)
    assert share("0/1") is None
    assert share("1/1") is None
    assert asked_share(RunOptions(), {}) is None


@pytest.mark.parametrize(
    "text", ["", "1", "5/4", "-1/4", "1/0", "0/0", "1/2/3", "a/b", "1.5/4", "1/1000000"]
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(JaxstyleError, match=r"^shard: .* is not a share"):
        asked_share(RunOptions(shard=text), {})


def slurm(task, count, first=0, stride=1):
    values = {"ID": task, "COUNT": count, "MIN": first, "STEP": stride, "MAX": first + (count - 1) * stride}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def test_a_task_of_a_slurm_array_is_a_share_if_it_asks_to_be_one():
    def share(environment, **options):
        found = asked_share(RunOptions(**options), environment)
        return found and (found.index, found.count)

    asked = {"shard": "slurm"}
    assert [share(slurm(i, 3), **asked) for i in range(3)] == [(0, 3), (1, 3), (2, 3)]
    assert [share(slurm(i, 3, first=5, stride=2), **asked) for i in (5, 7, 9)] == [(0, 3), (1, 3), (2, 3)]
    assert share(slurm(0, 1), **asked) is None
    assert share(slurm(1, 3), shard="0/1") is None
    assert share(slurm(1, 3), shard="3/7") == (3, 7)
    assert share(slurm(1, 3)) is None
    for bad in (slurm(6, 3, first=5, stride=2), slurm(9, 3), {"SLURM_ARRAY_TASK_ID": "1"}):
        with pytest.raises(JaxstyleError, match="give --shard I/N"):
            share(bad, **asked)
    with pytest.raises(JaxstyleError, match="not a task of a job array"):
        share({}, **asked)


def test_a_task_without_a_directory_is_refused_and_not_run_as_a_whole(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in slurm(1, 2).items():
        monkeypatch.setenv(name, value)
    assert command(*SWEEP, "--shard", "slurm") == 2
    assert "shard: no run is named; give its directory with --out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_task_with_a_run_of_its_own_computes_all_of_it(whole, tmp_path, monkeypatch):
    for name, value in slurm(2, 4).items():
        monkeypatch.setenv(name, value)
    assert command(*SWEEP, "--out", tmp_path / "run_2") == 0
    assert digests(tmp_path / "run_2") == digests(whole)
    sweep = assemble({"spec": str(whole / "spec.toml")}).sweep
    assert len(run_sweep(sweep, RunOptions(out=str(tmp_path / "run_3"), quiet=True)).rows) == 5


def test_a_share_with_nothing_to_do_is_an_error_beside_nobody_and_none_beside_others(
    whole, tmp_path, capfd
):
    out = tmp_path / "run"
    idle = next(i for i in range(8) if not planning.chunks_of_share(_plan(whole), Share(i, 8, ""), "cpu"))
    assert command(*SWEEP, "--out", out, "--shard", f"{idle}/8") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"shard: {idle}/8 has nothing to do: the run has 5 chunks" in line
    assert not out.exists()
    at_work = next(i for i in range(8) if planning.chunks_of_share(_plan(whole), Share(i, 8, ""), "cpu"))
    assert command(*SWEEP, "--out", out, "--shard", f"{at_work}/8") == 0
    assert command(*SWEEP, "--out", out, "--shard", f"{idle}/8") == 0


def _plan(path):
    return records.open_record(path).plan


# --- runs -----------------------------------------------------------------------------------------


def test_the_only_share_of_a_run_that_is_started_again_goes_on_as_any_other(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for name, value in slurm(7, 1, first=7).items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        for share in ("0/1", "slurm", "1/1"):
            assert command(*SWEEP, "--out", out, "--shard", share) == 0
            assert digests(out) == digests(whole)
        (out / "chunks" / "000002.h5").unlink()


def test_a_first_share_that_is_refused_by_the_plan_leaves_nothing(tmp_path, capfd):
    out = tmp_path / "run"
    assert command(*SWEEP, "--precision", "tf32", "--out", out, "--shard", "0/2") == 2
    assert command(*SWEEP, "--devices", "99", "--out", out, "--shard", "0/2") == 2
    assert not out.exists()


def test_shares_one_after_another_give_the_bytes_of_one_process(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    for task in (2, 0, 1):
        for name, value in slurm(task, 3).items():
            monkeypatch.setenv(name, value)
        assert not (out / "results.csv").exists()
        assert command(*SWEEP, "--out", out, "--shard", "slurm") == 0
    assert digests(out) == digests(whole)
    manifest, alone = manifest_of(out), manifest_of(whole)
    assert manifest["status"] == "done"
    assert manifest["plan"] == alone["plan"]
    assert manifest["chunks_sha256"] == alone["chunks_sha256"]
    assert [s["share"] for s in manifest["shares"]] == [f"00{i}-of-003" for i in range(3)]
    assert all(share["processes"][0]["timings"]["compute_s"] > 0 for share in manifest["shares"])
    (program,), (same,) = manifest["programs"], alone["programs"]
    assert program["cells"] == same["cells"] == 5
    assert program["taps"] == same["taps"]
    assert command(*SWEEP, "--out", out, "--shard", "slurm") == 0  # once more: nothing is left
    assert digests(out) == digests(whole)


def test_what_there_is_can_be_reported_and_the_rest_computed_without_a_share(whole, tmp_path):
    out = tmp_path / "run"
    done = run_sweep(
        assemble({"spec": str(whole / "spec.toml")}).sweep,
        RunOptions(out=str(out), shard="1/2", quiet=True),
    )
    assert 0 < len(done.rows) < 5
    with pytest.raises(SystemExit) as stop:
        report.main([str(out)])
    assert stop.value.code == 0
    assert len((out / "results.csv").read_text().splitlines()) == 1 + len(done.rows)
    assert manifest_of(out)["status"] == "running"
    assert command("--resume", "--out", out) == 0
    assert digests(out) == digests(whole)


def test_a_report_of_all_chunks_ends_a_run_whose_last_share_could_not(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "manifest.json").write_text(json.dumps({**manifest_of(out), "status": "running"}))
    for name in ("results.csv", "results.h5", "report.html"):
        (out / name).unlink()
    with pytest.raises(SystemExit) as stop:
        report.main([str(out)])
    assert stop.value.code == 0
    assert manifest_of(out)["status"] == "done"
    assert digests(out) == digests(whole)
    assert (out / "report.html").exists()


def test_a_share_of_other_settings_is_refused(whole, tmp_path, capsys):
    out = tmp_path / "run"
    assert command(*SWEEP, "--out", out, "--shard", "0/2") == 0
    before = digests(out)
    assert command(*SWEEP, "--pool", "max", "--out", out, "--shard", "1/2") == 2
    assert "pool is avg there and max here" in capsys.readouterr().err
    assert command(*SWEEP, "--seed", "0:9", "--out", out, "--shard", "1/2") == 2
    assert command(*SWEEP, "--out", EXAMPLES, "--shard", "1/2") == 2
    assert not (EXAMPLES / "run.lock").exists()
    assert digests(out) == before


def test_a_damaged_chunk_of_a_share_is_computed_again_by_that_share(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "chunks" / "000002.h5").write_bytes(b"no chunk")
    (out / "results.csv").unlink()
    manifest = manifest_of(out)
    (out / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    shares = [share for share in range(2) if command(*SWEEP, "--out", out, "--shard", f"{share}/2") == 0]
    assert shares == [0, 1]
    assert (out / "chunks" / "000002.h5.bad").exists()
    assert digests(out) == digests(whole)


def test_a_share_and_a_run_exclude_each_other_and_other_shares_do_not(whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    share = Share(0, 2, "shard")
    with locks.share_held(out, share):
        assert command(*SWEEP, "--out", out, "--shard", "0/2") == 3
        assert f"shard 0/2 of {out}: is in use by process {os.getpid()}" in capsys.readouterr().err
        assert command("--resume", "--out", out) == 3
        assert command(*SWEEP, "--out", out, "--shard", "1/2") == 0
        leftover = out / "images" / ".000000.png.tmp-1-ab"
        leftover.touch()
        with RunDirectory(out, briefly=True):
            pass
        assert leftover.exists()  # it may be that share's
        with pytest.raises(DirectoryInUse, match="shard 000 of 002, process"), RunDirectory(out):
            pass
    with RunDirectory(out, briefly=True):
        assert not leftover.exists()
    monkeypatch.setattr(directory, "HOLDER_CONFIRM_S", 0.0)
    with RunDirectory(out):
        assert command(*SWEEP, "--out", out, "--shard", "1/2") == 3
    assert digests(out) == digests(whole)


def test_shares_of_another_number_wait_until_those_at_work_are_done(whole, tmp_path, capsys):
    """Tasks 3 and 4 of an array of 16 that are submitted again alone are shares 0/2 and 1/2 to SLURM."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with locks.share_held(out, Share(5, 16, "slurm")):
        assert command(*SWEEP, "--out", out, "--shard", "0/2") == 3
        said = capsys.readouterr().err
        assert f"{out}: is being computed in 16 shares, by process {os.getpid()}" in said
        assert "give --shard I/16" in said
    assert command(*SWEEP, "--out", out, "--shard", "0/2") == 0


def test_shares_that_start_together_are_planned_once_and_one_that_is_killed_goes_on(whole, tmp_path):
    out = tmp_path / "run"

    def start(share):
        return Told("-m", "jaxstyle.sweep", *SWEEP, "--out", out, "--shard", share)

    victim, other = start("1/2"), start("2/2")
    assert victim.until(lambda: victim.named("program"))  # it computes its first chunk
    victim.process.kill()
    assert victim.end() == (-signal.SIGKILL, "")
    assert other.end() == (0, "")
    assert start("1/2").end() == (0, "")
    plans = [json.loads(line) for p in out.glob("events-*.jsonl") for line in p.read_text().splitlines()]
    assert {event["share"] for event in plans if event["event"] == "share"} == {"0/2", "1/2"}
    assert digests(out) == digests(whole)
    assert (out / "report.html").exists()
    assert not list(out.glob("checkpoints/*"))


def test_chunks_that_were_computed_at_half_the_width_for_want_of_memory_are_kept(tmp_path, monkeypatch):
    import jax

    from jaxstyle.device import engine, memory

    out, compiled, compile_step = tmp_path / "run", [], engine.Engine.compile
    shares = [[*SWEEP, "--out", out, "--shard", f"{i}/2"] for i in range(2)]

    monkeypatch.setattr(memory, "choose_width", lambda *_, **__: 2)  # a CPU would take 1

    def compile_narrow(self, program):
        compiled.append(program.width)
        if program.width > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return compile_step(self, program)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Engine, "compile", compile_narrow)
        assert command(*shares[0]) == 0
    assert compiled[0] == 2
    assert set(compiled[1:]) == {1}
    assert {p["width"] for p in manifest_of(out)["plan"]["programs"]} == {2}
    done = {path: path.read_bytes() for path in out.glob("chunks/*")}
    assert {chunks.chunk_width(path) for path in done} == {1}
    shutil.copytree(out, tmp_path / "resumed")
    assert [command(*share) for share in shares] == [0, 0]
    assert command("--resume", "--out", tmp_path / "resumed") == 0
    for path in (out, tmp_path / "resumed"):
        assert not list(path.glob("chunks/*.bad"))
        assert all((path / old.relative_to(out)).read_bytes() == data for old, data in done.items())
        manifest = manifest_of(path)
        plan, names = manifest["plan"], sorted(path.glob("chunks/*"))
        widths = [plan["programs"][chunk["program"]]["width"] for chunk in plan["chunks"]]
        assert widths == [chunks.chunk_width(name) for name in names]
        cells = {p["width"]: p["cells"] for p in manifest["programs"]}
        assert set(cells) == {1, 2}
        assert sum(cells.values()) == 5
        assert min(cells.values()) > 0
        assert manifest["shares"][0]["share"] == "000-of-002"


def test_a_state_of_half_the_width_is_gone_on_with(tmp_path, monkeypatch):
    """A share that runs out of memory at the planned width, and is requeued, need not begin anew."""
    import jax

    from jaxstyle.device import engine, memory

    out, saves = tmp_path / "run", []
    compile_step, save = engine.Engine.compile, unfinished.Unfinished.save
    monkeypatch.setattr(memory, "choose_width", lambda *_, **__: 2)  # a CPU would take 1

    def compile_narrow(self, program):
        if program.width > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return compile_step(self, program)

    def save_and_end(self, progress):
        saves.append(save(self, progress))
        raise signals.Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Engine, "compile", compile_narrow)
        patched.setattr(unfinished.Unfinished, "is_due", lambda self: True)
        patched.setattr(unfinished.Unfinished, "save", save_and_end)
        assert command(*SWEEP, "--out", out, "--shard", "0/2") == 128 + signal.SIGTERM
    assert len(saves) == 1
    assert {p["width"] for p in manifest_of(out)["plan"]["programs"]} == {2}
    assert command(*SWEEP, "--out", out, "--shard", "0/2") == 0
    events = [json.loads(line) for line in (out / "events-000-of-002.jsonl").read_text().splitlines()]
    named = [event["event"] for event in events]
    assert named.count("continue") == 1
    assert "set-aside" not in named
    assert {chunks.chunk_width(path) for path in out.glob("chunks/*")} == {1}
    assert command(*SWEEP, "--out", out, "--shard", "1/2") == 0
    assert [chunks.chunk_width(path) for path in sorted(out.glob("chunks/*"))] == [1, 2, 1]


@pytest.mark.parametrize(
    ("index", "count", "places", "rounds"), [(0, 4, 4, 3), (1, 2, 4, 5), (0, 1, 4, 10)]
)
def test_a_share_uses_all_its_devices(index, count, places, rounds):
    """Blocks were cut from all chunks of the plan: a share of four had one chunk for its four devices."""
    plan = Plan((), (), tuple(Chunk(i, 0, (i,)) for i in range(40)), (10,), (), {})
    own = list(range(index, 40, count))  # as `Plan.shares` deals chunks of one cost
    found = blocks(plan, own, places)
    assert len(found) == rounds
    assert [number for block in found for number in block.left] == own
    begun = (own[1], own[3])
    again = blocks(plan, own[1:], places, [Begun(begun, 2)])
    assert [block.numbers for block in again if block.numbers == begun] == [begun]
    assert sorted(number for block in again for number in block.left) == own[1:]


def test_a_share_leaves_the_merge_to_others_that_are_at_work(tmp_path, capsys, monkeypatch):
    manifest = {"plan": {"chunks": []}, "status": "running"}
    record = records.Record(tmp_path, Sweep(content=("a",), style=("b",)), (), manifest, ())
    monkeypatch.setattr(run_share, "open_record", lambda path: record)
    monkeypatch.setattr(directory, "HOLDER_CONFIRM_S", 0.0)
    monkeypatch.setattr(run_share, "finish_run", lambda run: pytest.fail("is merged"))
    checked = object.__new__(CheckedRun)
    object.__setattr__(checked, "path", tmp_path)
    share = Share(0, 2, "shard")
    (tmp_path / "run.lock").touch()
    with locks.share_held(tmp_path, Share(1, 2, "shard")):
        _end_share(checked, RunOptions(), share, ())
    assert "share 0/2 is done; shard 001 of 002, process" in capsys.readouterr().out
    with RunDirectory(tmp_path, create=True):
        _end_share(checked, RunOptions(), share, ())
    assert "whoever is at work there merges" in capsys.readouterr().out
