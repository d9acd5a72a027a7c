"""The progress bar of a notebook: one output of a cell, which is replaced while a run goes on."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

REFRESH_S = 0.5
"""Seconds between two changes of the output; every one is a message to the browser."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which IPython has told by having been imported."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """A bar with the interface of `rich.progress.Progress`, as far as `Display` needs it.

    rich's own needs ipywidgets in a notebook. The text stands beside the HTML, for what shows no HTML.

    Args:
        total: the work, in image-steps.
    """

    def __init__(self, total: float):
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        self._total, self._done, self._rate, self._left = total, 0.0, "", ""
        self._shown = time.monotonic()
        self._handle: Any = display(self._bundle(), raw=True, display_id=True)

    def update(
        self,
        task: Any,
        *,
        advance: float = 0.0,
        total: float | None = None,
        rate: str | None = None,
        left: str | None = None,
    ) -> None:
        """Count work; `total` replaces the work, `rate` and `left` the text."""
        self._done += advance
        self._total = self._total if total is None else total
        if rate is not None:
            self._rate, self._left = rate, left or ""
        if time.monotonic() - self._shown >= REFRESH_S:
            self._show()

    def stop(self) -> None:
        """Show the last state, which stays."""
        self._left = ""
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        share = min(1.0, self._done / self._total) if self._total > 0 else 1.0
        eta = f"  ETA {self._left}" if self._left else ""
        text = f"{100 * share:.0f} %  {self._rate}{eta}".rstrip()
        bar = f'<progress value="{share:.3f}" max="1" style="width: 20em"></progress>'
        return {"text/plain": text, "text/html": f"{bar} <code>{html.escape(text)}</code>"}
