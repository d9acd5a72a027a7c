"""Behaviour that all command lines share."""

import ast
import platform
import signal

import pytest
from conftest import ROOT, run_python
from test_house import COMMANDS

FAULTS = """
import resource, sys
import numpy as np
from jaxstyle.console import allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**28, np.float32)  # 1 GiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

took = allocator.keep_freed_memory() if "keep" in sys.argv else None
faults()
print(took, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    taken, again = run_python("-c", FAULTS, "keep", check=True).stdout.split()
    assert taken == "True"
    assert int(again) < 50
    _, by_default = run_python("-c", FAULTS, check=True).stdout.split()
    assert int(by_default) > int(again)
    # Users who tune the allocator keep their settings.
    tuned = run_python("-c", FAULTS, "keep", check=True, GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert tuned.stdout.split()[0] == "False"


IN_A_CALLBACK = """
import signal
from jaxstyle.console import signals
from jaxstyle.console.command import run_command

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def command():
    Finalised()
    print("kept to itself", flush=True)
    with signals.signals_held():
        pass
    print("unreachable")
    return 0

run_command(command)
"""


def test_a_signal_that_comes_in_a_finaliser_ends_the_command_in_one_line():
    # Python ignores exceptions in a finaliser, and says so on stderr.
    ended = run_python("-c", IN_A_CALLBACK)
    assert (ended.returncode, ended.stdout) == (128 + 15, "kept to itself\n")
    assert ended.stderr == "jaxstyle: error: terminated\n"


GIVEN_UP = """
import atexit, signal, sys
from jaxstyle.console import early
early.catch()
from jaxstyle.console.command import run_command
from jaxstyle.spec.errors import JaxstyleError

def command():
    print("half a line", end="")
    if sys.argv[1] == "signal":
        signal.raise_signal(signal.SIGTERM)
    if sys.argv[1] == "error":
        raise JaxstyleError("size", "too large")
    return 0

atexit.register(print, "the interpreter ended")
run_command(command)
"""


@pytest.mark.parametrize(
    ("how", "code", "more"), [("signal", 143, ""), ("error", 2, ""), ("well", 0, "the in")]
)
def test_a_command_that_fails_does_not_take_down_the_interpreter_under_xlas_threads(how, code, more):
    """Doing so crashed one interrupted command in five; what was printed is there all the same."""
    ended = run_python("-c", GIVEN_UP, how)
    assert ended.returncode == code
    assert ended.stdout.startswith("half a line" + more)
    assert len(ended.stdout) == len("half a line" + ("the interpreter ended\n" if more else ""))
    assert len(ended.stderr.splitlines()) == (code != 0)


# --- whatever ends says why -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_comes_while_modules_are_imported_is_one_line(number):
    code = "import signal\nfrom jaxstyle.console import early\nearly.catch()\n"
    ended = run_python("-c", f"{code}signal.raise_signal({int(number)})\nprint('unreachable')")
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("jaxstyle: error: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_catches_signals_before_it_imports_anything(name):
    tree = ast.parse((ROOT / "jaxstyle" / f"{name}.py").read_text())
    _, future, guard, *_ = tree.body
    assert isinstance(future, ast.ImportFrom)
    assert future.module == "__future__"
    assert ast.unparse(guard) == (
        "if __name__ == '__main__':\n    from jaxstyle.console import early\n    early.catch()"
    )


def test_a_library_that_crashes_says_where():
    crash = "import faulthandler\nfrom jaxstyle.console.command import run_command\n"
    crash += "run_command(faulthandler._sigsegv)\n"
    ended = run_python("-c", crash)
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr
