"""Processes that start at once: forks of one that has imported everything.

Most commands take longer to import their libraries than to do what a test is about. A fork is a process of
its own in all else: its arguments, environment, folder, streams, exit code and end are those of `python`
with the same arguments. JAX starts in the fork, not before. A test of imports, or of variables that are
read while Python starts or imports, needs a process that is new: `conftest.run_python`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READ_EARLY = ("DYLD_", "GLIBC_", "HOME", "JAX_", "LANG", "LC_", "LD_", "MALLOC_", "MPL", "PYTHON", "XDG_")
"""Prefixes of variables that Python or a library may read before a command begins."""
LARGEST = 2**17
"""Bytes of a request at most."""


class Forks:
    """A process that has imported everything, and the commands that are run as its forks, one at a time."""

    def __init__(self, environment: dict[str, str]):
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._early = _early(environment)
        with theirs:
            self._parent = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def can_run(self, arguments: list[str], environment: dict[str, str]) -> bool:
        """Whether a fork with this environment differs in nothing from a new process."""
        return arguments[0] in ("-c", "-m") and _early(environment) == self._early

    def run(
        self, arguments: list[str], environment: dict[str, str], cwd: str, timeout_s: float
    ) -> subprocess.CompletedProcess:
        """Run `python` with `arguments`, and wait for its end."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            asked = json.dumps([arguments, environment, cwd]).encode()
            self.channel.settimeout(timeout_s)
            socket.send_fds(self.channel, [asked], [out.fileno(), err.fileno()])
            code = int(self.channel.recv(LARGEST))
            said = [stream.seek(0) or stream.read() for stream in (out, err)]
        return subprocess.CompletedProcess([sys.executable, *arguments], code, *said)

    def end(self) -> None:
        """End the process."""
        self.channel.close()
        self._parent.wait()


def _early(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_EARLY)}


def serve(channel: socket.socket) -> list[str] | None:
    """Fork for every request that comes; the arguments in a fork, and None at the end of all requests."""
    while True:
        asked, streams, _, _ = socket.recv_fds(channel, LARGEST, 2)
        if not asked:
            return None
        with warnings.catch_warnings(action="ignore"):  # of the threads of NumPy, which are not at work
            child = os.fork()
        if not child:
            arguments, environment, cwd = json.loads(asked)
            channel.close()
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
                os.close(stream)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(cwd)
            return arguments
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def execute(kind: str, what: str, *arguments: str) -> None:
    """Do what `python -m WHAT` or `python -c WHAT` does with `arguments`."""
    sys.argv = [kind, *arguments]
    if kind == "-m":
        sys.path[0] = os.getcwd()
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401

    sys.path[0] = str(ROOT)
    for wing in sorted(ROOT.glob("jaxstyle/*/")):
        for path in sorted(wing.glob("*.py")):
            if not path.stem.startswith(("__", "cluster", "ray_")):  # Ray is an extra
                importlib.import_module(f"jaxstyle.{wing.name}.{path.stem}")
    gc.freeze()  # what is here already is collected in no fork

    if (received := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        execute(*received)
