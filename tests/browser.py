"""Chromium without a window, driven over a pipe by the DevTools protocol; the standard library suffices."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 60


def find() -> str | None:
    """The path of a browser, from $CHROMIUM or by its usual names."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab: it opens, runs JavaScript, clicks, types, and remembers what it asked the network for."""

    def __init__(self, process: subprocess.Popen, reader: int, writer: int):
        self._process, self._reader, self._writer = process, reader, writer
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        """The addresses of everything that was asked for."""
        self.complaints: list[str] = []
        """Messages of the console: errors, exceptions, refusals of the content security policy."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reader], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._reader, 2**20) if ready else b""
            assert data, f"the browser gave no answer; its exit code is {self._process.poll()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {told['message']}")

    def open(self, path: Path, state: str = "", *, scripts: bool = True) -> None:
        """Open a file with a hash and wait until it is painted."""
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url="about:blank")
        self.requests, self.complaints = [], []
        self.call("Page.navigate", url=path.absolute().as_uri() + (f"#{state}" if state else ""))
        ready = "document.readyState === 'complete'"
        self.until(ready + (" && document.documentElement.dataset.paintedMs" if scripts else ""))

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + ANSWER_S
        while not self.value(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def window(self, width: int, height: int) -> None:
        """Set the size of the window, in px."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefers(self, scheme: str) -> None:
        """Emulate a system setting of light or dark."""
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        where = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest', inline: 'nearest'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": {"Enter": "\r"}.get(key, key)} if key in ("Enter", " ") else {}
        code = {
            "Enter": 13,
            " ": 32,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code[key],
                **(text if kind == "keyDown" else {}),
            )

    def screenshot(self, path: Path) -> Path:
        """Save a PNG of the window's contents."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path


_MOVE_PIPES = """
import os, sys
for given, wanted in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(given), wanted)
    os.close(int(given))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Replace this process by the browser, which reads from descriptor 3 and writes to 4."""


@contextlib.contextmanager
def started(program: str) -> Iterator[Page]:
    """A tab in a new browser."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_in, theirs_out)]
    with tempfile.TemporaryDirectory(prefix="jaxstyle-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _MOVE_PIPES,
                *map(str, high),
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
                "--force-color-profile=srgb",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=high,
        )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        try:
            yield Page(process, ours_in, ours_out)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(ours_in)
            os.close(ours_out)
