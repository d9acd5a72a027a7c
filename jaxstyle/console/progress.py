"""Progress of a run: a bar on a terminal or in a notebook, plain lines elsewhere, and events in a file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from jaxstyle.console.notebook_bar import NotebookBar, in_notebook
from jaxstyle.console.time_left import Estimate
from jaxstyle.spec.errors import encodable

BAR_COLUMNS, BAR_WIDTH = 110, 20
"""Widths in characters: of a terminal that has room for a bar beside the numbers, and of the bar."""
PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines of progress."""
T = TypeVar("T")
Listener = Callable[[dict[str, Any]], object]
"""A function that is called with every event: its name as `event`, its `time`, and its values."""
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """The time in which displays that are made tell `listener` every event, before anybody else."""
    token = _LISTENERS.set((*_LISTENERS.get(), *([listener] if listener else [])))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


_WHOLE: ContextVar[tuple[Display, int] | None] = ContextVar("whole", default=None)


@contextlib.contextmanager
def parts_of(display: Display, count: int) -> Iterator[None]:
    """The time in which `count` runs of equal work, one after another, show their progress in `display`."""
    display._total = 0.0  # which the first of them tells
    token = _WHOLE.set((display, count))
    try:
        yield
    finally:
        _WHOLE.reset(token)
        display.finish()


def duration(seconds: float) -> str:
    """A duration in words: `1 min 35 s` for 95."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 cell`, `2 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class _Escaped:
    """A stream that takes any text: characters that its encoding lacks are escaped, as in `\\u03b1`.

    The stream itself is left as it is, because it belongs to whoever runs a sweep from Python.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, escaped where necessary."""
        return self._stream.write(encodable(text, getattr(self._stream, "encoding", None)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _can_animate(console: Console) -> bool:
    """Whether a bar can be drawn: on a terminal, and not what is only said to be one (FORCE_COLOR)."""
    isatty = getattr(console.file, "isatty", None)
    return isatty is not None and isatty() and console.is_terminal and not console.is_dumb_terminal


class _Numbers(ProgressColumn):
    """The numbers of a bar without the bar, for narrow terminals: folded, since rich would cut them off."""

    def __init__(self) -> None:
        super().__init__(Column(overflow="fold"))

    def render(self, task: Task) -> Text:
        """The line of a task."""
        left = task.fields["left"]
        return Text(f"{task.percentage:3.0f}%  {task.fields['rate']}" + (f"  ETA {left}" if left else ""))


class _Console(Console):
    """A console whose reader may go away; rich's own would then end the process."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


@runtime_checkable
class Teller(Protocol):
    """An object to which a computation reports its progress: a `Display`, or one that passes it on."""

    def event(self, name: str, line: str | None = None, **values: Any) -> None:
        """Report an event; `line` is its text for people."""
        ...

    def advance(self, image_steps: float, cost: float | None = None, steps: float | None = None) -> None:
        """Report image-steps that have been done; a negative number takes back what was lost.

        `cost` is in FLOPs (`launcher.Advance`); by it the time left is estimated. `steps` are those of the
        pictures that are computed together. None is the run's mean.
        """
        ...

    def skip(self, image_steps: float, cost: float | None = None) -> None:
        """Report image-steps that need not be done, and their cost."""
        ...


class Display:
    """The only place from which a run prints.

    Args:
        quiet: print nothing.
        log_format: `text`, or `json` for one JSON object per line.
        events: files to which every event is appended as a line of JSON.
    """

    def __init__(self, *, quiet: bool = False, log_format: str = "text", events: Sequence[Path] = ()):
        self._json = log_format == "json"
        file: Any = _Escaped(sys.stdout)
        # Emoji codes are off, so that a folder named `:art:` is printed by its name.
        # In a notebook, rich would make an output of its own of every line.
        self._console = _Console(
            file=file,
            quiet=quiet or self._json,
            highlight=False,
            soft_wrap=True,
            emoji=False,
            force_jupyter=False,
        )
        self._quiet = quiet
        # These files have no buffer: a write that a full disk refused must not be tried again at the end.
        self._events = [open(path, "ab", buffering=0) for path in events]  # noqa: SIM115
        self._listeners = _LISTENERS.get()
        self._bar: Progress | NotebookBar | None = None
        self._task: Any = None
        self._total = self._done = self._steps = 0.0
        self._noun = ""
        """The noun of things that are counted; empty where the work is in image-steps."""
        self._whole = _WHOLE.get()
        self._estimate, self._step_cost = Estimate(0.0), 1.0
        self._assumed = ""
        self._cells = self._cells_done = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()
        for file in self._events:
            file.close()

    def event(self, name: str, line: str | None = None, **values: Any) -> None:
        """Record an event in the file and print its `line`, or the whole event where JSON is printed."""
        text = {} if line is None else {"text": line}
        record = {"time": time.time(), "event": name, **text, **values}
        for listener in self._listeners:
            listener(dict(record))
        left: list[str] = []
        for file in list(self._events):
            try:
                file.write(json.dumps(record).encode() + b"\n")
            except BrokenPipeError:  # a pipe whose reader has seen enough; the run is for others too
                self._events.remove(file)
                left.append(str(file.name))
                file.close()
            except OSError as error:
                raise OSError(error.errno, error.strerror, file.name) from None
        for gone in left:
            self.event("note", f"nobody reads {gone} any more: no further events go there")
        if self._json and not self._quiet:
            self._guard(lambda: print(json.dumps(record), flush=True))
        elif line is not None:
            self._guard(lambda: self._console.print(line, markup=False))

    def _guard(self, say: Any) -> None:
        """Print by calling `say`; a reader or a terminal that has gone away must not stop the run."""
        try:
            say()
        except OSError:
            bar, self._bar = self._bar, None
            if bar is not None:  # a bar of rich's keeps stderr, too, until it is stopped
                with contextlib.suppress(OSError):
                    bar.stop()
            self._quiet = True
            self._console = Console(file=open(os.devnull, "w"), quiet=True)  # noqa: SIM115

    def read(self, done: int, total: int) -> None:
        """Say every now and then how many images of a run have been read, before it starts."""
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY_S:
            self._said = now
            self.event("reading", f"reading images: {done} of {total}", images=done, of=total)

    def start(
        self, *, image_steps: float, cells: int, estimate: Estimate | None = None, assumed: str = ""
    ) -> None:
        """Begin to show progress.

        Args:
            image_steps: work to be done, in full-size steps of one picture.
            cells: number of cells.
            estimate: of the time; None where all steps cost the same.
            assumed: the time that was printed before, which the one that is measured is held against.
        """
        self._total, self._cells, self._noun = image_steps, cells, ""
        self._done, self._steps, self._cells_done = 0.0, 0.0, 0
        if self._whole is not None and not (whole := self._whole[0])._total:
            whole.start(image_steps=self._whole[1] * image_steps, cells=self._whole[1] * cells)
        self._estimate, self._assumed = estimate or Estimate(image_steps), assumed
        self._step_cost = self._estimate.work / image_steps if image_steps else 1.0
        self._began = self._said = time.monotonic()
        if self._quiet or self._json:
            return
        if in_notebook():
            self._bar = NotebookBar(image_steps)
        elif _can_animate(self._console):
            spinner = SpinnerColumn("line" if self._console.options.ascii_only else "dots")
            wide = (
                BarColumn(BAR_WIDTH),
                TextColumn("{task.percentage:3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TextColumn("ETA {task.fields[left]}"),
            )
            columns = wide if self._console.width >= BAR_COLUMNS else (_Numbers(),)
            self._bar = Progress(spinner, *columns, console=self._console)
            self._task = self._bar.add_task("", total=image_steps, rate="", left="")
            self._guard(self._bar.start)

    @property
    def steps_done(self) -> float:
        """The image-steps counted so far."""
        return self._done

    def advance(self, image_steps: float, cost: float | None = None, steps: float | None = None) -> None:
        """Count image-steps that have been done; a negative number takes back what was lost."""
        if self._whole is not None:
            self._whole[0].advance(image_steps, None, steps)
        mean = self._steps / self._done if self._done else 1.0
        self._steps += image_steps * mean if steps is None else steps
        self._done += image_steps
        now = time.monotonic()
        self._estimate.add(self._cost(image_steps, cost), now - self._began)
        if not self._noun:
            self._say_estimate(now - self._began)
        left = self._estimate.left_s(now - self._began)
        if self._bar is not None:
            text = "" if left is None else duration(left)
            self._bar.update(self._task, advance=image_steps, rate=self._rate(now), left=text)
        if now - self._said >= PLAIN_EVERY_S and left is not None and (self._listeners or not self._bar):
            self._said = now
            share = 100 * self._done / self._total
            line = f"{share:3.0f} %  {self._rate(now)}  ETA {duration(left)}"
            done = {f"{self._noun}s" if self._noun else "image_steps": round(self._done)}
            cells = {} if self._noun else {"cells": self._cells_done}
            about = {**done, "of": round(self._total), **cells, "eta_s": round(left, 1)}
            self.event("progress", None if self._bar else line, **about)

    def count(self, done: int, of: int, noun: str) -> None:
        """Show how many of some things are done; the first call, with none, begins it, the last ends it."""
        if self._noun != noun:
            self.start(image_steps=of, cells=of)
            self._noun = noun
        if done > self._done:
            self.advance(done - self._done)
        if done >= of:
            self.finish()
            self._noun = ""

    def each(self, things: Iterable[T], of: int, noun: str) -> Iterator[T]:
        """Some things, counted while they are used: each is done when the next one is asked for."""
        self.count(0, of, noun)
        for done, thing in enumerate(things, 1):
            yield thing
            self.count(done, of, noun)

    def _cost(self, image_steps: float, cost: float | None) -> float:
        return image_steps * self._step_cost if cost is None else cost

    def _say_estimate(self, elapsed_s: float) -> None:
        """Tell how long it will take by what has been measured, if there is something new to tell."""
        left = self._estimate.news(elapsed_s)
        if left is not None:
            assumed = f" (the plan assumed {self._assumed} in all)" if self._assumed else ""
            line = f"measured so far: about {duration(left)} more{assumed}"
            self.event("estimate", line, left_s=round(left, 1), elapsed_s=round(elapsed_s, 1))

    def skip(self, image_steps: float, cost: float | None = None) -> None:
        """Take image-steps off the total because an earlier process did them."""
        self._total -= image_steps
        self._estimate.work -= self._cost(image_steps, cost)
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def cells_done(self, count: int) -> None:
        """Count cells that have been committed."""
        self._cells_done += count
        if self._whole is not None:
            self._whole[0].cells_done(count)

    def _rate(self, now: float) -> str:
        seconds = max(now - self._began, 1e-9)
        rate, steps = self._done / seconds, self._steps / seconds
        if self._noun:
            return f"{self._done:.0f}/{self._total:.0f} {self._noun}s  {rate:.2f} {self._noun}s/s"
        return f"{self._cells_done}/{self._cells} cells  {steps:.2f} steps/s  {rate:.2f} image-steps/s"

    def finish(self) -> None:
        """Remove the bar."""
        self._stop_bar()

    def _stop_bar(self) -> None:
        """Take the bar away, if there is one."""
        if (bar := self._bar) is not None:
            self._bar = None
            self._guard(bar.stop)
