"""Corrupted files: the readers return a result or raise one line, whatever the bytes are."""

import os

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt") / "file"


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_good_files_are_valid(path, kind):
    for data in fuzz.KINDS[kind].good():
        path.write_bytes(data)
        assert fuzz.outcome_of(fuzz.KINDS[kind].read, path) == fuzz.VALID


@pytest.mark.parametrize("kind", fuzz.KINDS)
@settings(
    max_examples=34,  # for each of 6 kinds: some 200
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(random=st.randoms(use_true_random=False))
def test_spoilt_files_give_a_result_or_one_line(path, capfd, kind, random):
    path.write_bytes(fuzz.KINDS[kind].spoilt(random))
    assert fuzz.outcome_of(fuzz.KINDS[kind].read, path) in (fuzz.VALID, fuzz.ONE_LINE)
    assert capfd.readouterr() == ("", "")


def test_the_command_counts_what_it_finds(capsys):
    assert fuzz.main(["--files", "24", "--kind", "toml"]) == 0
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "kind"
    kind, files, valid, one_line, tracebacks = row.split()
    assert (kind, files, tracebacks) == ("toml", "24", "0")
    assert int(valid) + int(one_line) == 24
    assert total.split()[1:] == row.split()[1:]


def raises(path):
    raise KeyError(path)


def dies(path):
    os.abort()


def chatters(path):
    os.write(2, b"oh dear")


@pytest.mark.parametrize(
    ("reader", "why"),
    [(raises, "KeyError"), (dies, "brought Python down"), (chatters, "on stderr: b'oh dear'")],
)
def test_a_reader_that_fails_in_any_way_is_found_out(reader, why):
    found = list(fuzz.outcomes("toml", 2, reader))
    assert [outcome for outcome, _ in found] == [fuzz.FINDING] * 2
    assert all(why in text for _, text in found)
