"""The tables that make the method open: what comes in kinds is a row here, and all else follows from it.

A row says what people and plans must know of a loss term, an optimizer or a pooling. The functions that it
names stand beside the step and need JAX: a row has them as `module:function`, or, where a plugin adds it,
as they are. Tables end with the rows of plugins. A row that was read from a run's manifest has no
functions: with it a run can be shown, and not computed.

Nothing here needs JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from jaxstyle import layers
from jaxstyle.errors import JaxstyleError

Function = Callable[..., Any] | str | None
"""A function, `module:function`, or None in a row that was read from a manifest."""


def function(of: Function) -> Any:
    """The function that a row names; None where it has none."""
    if not isinstance(of, str):
        return of
    module, _, name = of.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Origin:
    """Where a row of a plugin comes from."""

    file: str
    """The path of its source."""
    sha256: str
    """Of that file."""


@contextlib.contextmanager
def blamed(row: _Row) -> Iterator[None]:
    """A while in which an exception is the fault of a row's plugin: one line that names its own.

    Raises:
        JaxstyleError: for any exception, where the row is a plugin's.
    """
    try:
        yield
    except JaxstyleError:
        raise
    except Exception as error:  # whatever a user's own code raises; jaxstyle's own is not touched
        if row.origin is None:
            raise
        raise JaxstyleError(at_fault(row.origin.file, error), said(error)) from error


def at_fault(file: str, error: BaseException) -> str:
    """`FILE, line N`, of the last line of a file that an exception went through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}, line {error.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def said(error: BaseException) -> str:
    """What an exception is and says, on one line."""
    lines = str(error).strip().splitlines()
    text = error.msg if isinstance(error, SyntaxError) else lines[0] if lines else ""
    if isinstance(error, KeyError) and error.args and error.args[0] in layers.NAMES:
        text += "; a view has the layers that the term names in taps"
    if type(error).__name__ == "TracerBoolConversionError":
        text += " use jnp.where"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(frozen=True)
class _Row:
    """What every row has."""

    name: str
    """What settings and flags call it: small letters, digits and `_`."""
    title: str = field(default="", kw_only=True)
    """What people are told it is; its name where it has none."""
    origin: Origin | None = field(default=None, kw_only=True, compare=False)
    """The plugin that it is of; filled in when it is registered."""

    what: ClassVar[str]
    """What a row is of, for people."""
    functions: ClassVar[tuple[str, ...]]
    """The fields that are functions it cannot do without, or may; the first it needs."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            why = f"{self.name!r} is no name; give up to 40 small letters, digits and _"
            raise JaxstyleError(self.what, why)
        if not isinstance(self.title, str) or not self.title.isprintable():
            raise JaxstyleError(f"{self.what} {self.name}", f"{self.title!r} is no title; give a text")

    @property
    def words(self) -> str:
        """Its title, or its name."""
        return self.title or self.name.replace("_", " ")

    @property
    def where(self) -> str:
        """Itself and its file, at the head of an error."""
        of = f" of {self.origin.file}" if self.origin else ""
        return f"{self.what} {self.name}{of}"

    def _function(self, name: str, *, needed: bool = True) -> None:
        value = getattr(self, name)
        if not (isinstance(value, str) or callable(value) or (value is None and not needed)):
            raise JaxstyleError(f"{self.what} {self.name}", f"{name} is {value!r} and no function")

    @classmethod
    def told(cls) -> tuple[str, ...]:
        """Names of the fields that the manifest of a run has: not its functions, nor what is jaxstyle's."""
        fields = (f.name for f in dataclasses.fields(cls))
        return tuple(name for name in fields if name not in (*cls.functions, "origin", "always"))

    def record(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {name: getattr(self, name) for name in self.told()}


@dataclass(frozen=True)
class LossTerm(_Row):
    """One term of the total loss: weight times loss, added to content, style and total variation.

        def keep(view):  # of the style image
            return view.image.mean((0, 1))

        def loss(view, kept):  # of the picture
            return ((view.image.mean((0, 1)) - kept) ** 2).sum()

        jaxstyle.register(jaxstyle.LossTerm("mean", loss=loss, keep=keep))

    Its weight, here `mean_weight`, is an axis of a sweep, 0 unless it is given; its curve, `loss_mean`, is
    without the weight. Where every cell of a run has the weight 0 it is neither computed nor compiled.
    """

    loss: Function = field(default=None, kw_only=True)
    """From a `View` of the picture, and from what is kept, to the loss."""
    keep: Function = field(default=None, kw_only=True)
    """From a `View` of the image that the picture is held against, to what is kept of it."""
    of: str = field(default="style", kw_only=True)
    """That image: `style` or `content`. What is kept of a style must have a shape that is the same for
    images of all sizes."""
    taps: tuple[str, ...] = field(default=(), kw_only=True)
    """The layers whose features it looks at: they are in the view beside the image."""
    canvas: bool = field(default=False, kw_only=True)
    """Whether it leaves out what is not inside the picture (`View.inside`), so that pictures of several
    shapes can share a program."""
    curve: bool = field(default=True, kw_only=True)
    """Whether its values are kept."""
    always: bool = field(default=False, kw_only=True)
    """Whether it stands in every program, whatever its weight: jaxstyle's first three."""

    what = "loss term"
    functions = ("loss", "keep")

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"{self.what} {self.name}"
        if self.of not in ("style", "content"):
            raise JaxstyleError(where, f"of is {self.of!r}; give style or content")
        taps = (self.taps,) if isinstance(self.taps, str) else tuple(self.taps)
        object.__setattr__(self, "taps", taps)
        for tap in taps:
            if tap not in layers.NAMES:
                raise JaxstyleError(where, f"VGG19 has no layer {tap!r}; they run from conv1_1 to conv5_4")
        for name in ("canvas", "curve"):
            if not isinstance(getattr(self, name), bool):
                raise JaxstyleError(where, f"{name} is {getattr(self, name)!r}; give True or False")
        self._function("loss", needed=False)
        self._function("keep", needed=False)

    @property
    def weight(self) -> str:
        """The name of the axis that its weight is."""
        return f"{self.name}_weight"

    @property
    def loss_name(self) -> str:
        """The name of its curve in tables."""
        return f"loss_{self.name}"

    @property
    def words(self) -> str:
        """Its title, or its name and "loss"."""
        return self.title or f"{self.name.replace('_', ' ')} loss"


@dataclass(frozen=True)
class Optimizer(_Row):
    """A way to follow the gradient of the pixels.

        jaxstyle.register(jaxstyle.Optimizer("lion", make=optax.scale_by_lion))

    `make` gives a gradient transformation of optax that finds a direction, which the cell's learning rate
    is multiplied by, or an `solvers.Solver`. It is called with the optimizer's own settings by name.
    """

    make: Function = field(default=None, kw_only=True)
    steps: int = field(default=500, kw_only=True)
    """How many a sweep gets that names none."""
    pyramid: int = field(default=0, kw_only=True)
    """How many coarser stages it gets."""
    own: Mapping[str, int | float] = field(default_factory=dict, kw_only=True)
    """Its own settings and their defaults, numbers of the type of the default: a flag each."""
    state_images: Callable[..., int] | int = field(default=2, kw_only=True)
    """How many arrays of the image's size its state holds; may be a function of its own settings."""
    decays: bool = field(default=True, kw_only=True)
    """Whether learning rates are its own: several, or one that falls at the end (`--schedule decay`)."""
    help: str = field(default="", kw_only=True)
    """What its own settings are, for `--help`."""

    what = "optimizer"
    functions = ("make",)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"{self.what} {self.name}"
        self._function("make", needed=False)
        for name, least in (("steps", 1), ("pyramid", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise JaxstyleError(where, f"{name} is {value!r}; give a whole number from {least}")
        for name, value in dict(self.own).items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or type(value) not in (int, float):
                raise JaxstyleError(where, f"own: {name!r}: {value!r}; give a name and a number")
        if not callable(self.state_images) and not isinstance(self.state_images, int):
            raise JaxstyleError(where, f"state_images is {self.state_images!r}; give a whole number")

    def record(self) -> dict[str, Any]:
        """As of every row, its state for its default settings."""
        return {**super().record(), "own": dict(self.own), "state_images": self.images(**self.own)}

    def images(self, **own: Any) -> int:
        """How many arrays of the image's size its state holds, with its own settings."""
        return self.state_images(**own) if callable(self.state_images) else self.state_images


@dataclass(frozen=True)
class Pooling(_Row):
    """A pooling of the network, 2x2 with stride 2: from features (h, w, c) to (h // 2, w // 2, c).

    jaxstyle.register(jaxstyle.Pooling("median", pool=median_pool, title="median pooling"))
    """

    pool: Function = field(default=None, kw_only=True)
    canvas: bool = field(default=False, kw_only=True)
    """Whether zeros around an image leave it as it is but for the edges that pooling drops."""

    what = "pooling"
    functions = ("pool",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function("pool", needed=False)


Row = TypeVar("Row", bound=_Row)


class Table(Generic[Row]):
    """Rows by name: those of jaxstyle, and after them those of plugins."""

    def __init__(self, kind: type[Row], rows: Iterable[Row]):
        self.kind = kind
        self._rows: dict[str, Row] = {row.name: row for row in rows}
        self._built_in = frozenset(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(tuple(self._rows.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def get(self, name: str) -> Row | None:
        """The row of a name, None if there is none."""
        return self._rows.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """In order."""
        return tuple(self._rows)

    @property
    def added(self) -> tuple[Row, ...]:
        """The rows of plugins."""
        return tuple(row for row in self if row.name not in self._built_in)

    def check(self, row: Row) -> None:
        """Raise JaxstyleError if jaxstyle itself has a row of its name."""
        if row.name in self._built_in:
            raise JaxstyleError(f"{row.what} {row.name}", "is jaxstyle's own; give another name")

    def add(self, row: Row) -> None:
        """Put a row at the end, or in the place of a plugin's of its name; see `check`."""
        self.check(row)
        self._rows[row.name] = row

    def reset(self, rows: Mapping[str, Row]) -> None:
        """Have these rows, which it had before."""
        self._rows = dict(rows)

    def copy(self) -> dict[str, Row]:
        """Its rows by name."""
        return dict(self._rows)


TERMS = Table(
    LossTerm,
    (
        LossTerm("content", of="content", canvas=True, always=True),
        LossTerm("style", of="style", canvas=True, always=True),
        LossTerm("tv", title="total variation", canvas=True, curve=False, always=True),
    ),
)
"""The terms of the total loss. Of those that stand in every program `step.loss` has what they are."""

OPTIMIZERS = Table(
    Optimizer,
    (
        Optimizer("adam", make="jaxstyle.cell.adam:adam", title="Adam"),
        Optimizer(
            "lbfgs",
            make="jaxstyle.cell.lbfgs:lbfgs",
            title="L-BFGS",
            steps=250,
            pyramid=2,
            own={"lbfgs_memory": 30},
            state_images=lambda lbfgs_memory: 2 * lbfgs_memory + 1,
            decays=False,
        ),
    ),
)
"""Their defaults are those measured best; see docs/optimizers.md."""

POOLINGS = Table(
    Pooling,
    (
        Pooling("avg", pool="jaxstyle.conv:avg_pool", title="average pooling", canvas=True),
        Pooling("max", pool="jaxstyle.conv:max_pool", title="max pooling", canvas=True),
    ),
)

EVERY: tuple[Table[Any], ...] = (TERMS, OPTIMIZERS, POOLINGS)

TOTAL = "loss_total"


def optional_terms() -> tuple[LossTerm, ...]:
    """The loss terms that are there only where some cell has a weight for them, jaxstyle's and plugins'.

    By their names: what they stand in has one order, whoever registered which first.
    """
    return tuple(sorted((row for row in TERMS if not row.always), key=lambda row: row.name))


def curves(optional: Iterable[LossTerm] = ()) -> dict[str, str]:
    """The curves that every cell of a run has, with what they are called.

    Args:
        optional: the optional terms of the run.
    """
    own = [*(row for row in TERMS if row.always), *optional]
    return {TOTAL: "total loss", **{row.loss_name: row.words for row in own if row.curve}}


LOSSES = tuple(curves())
"""The curves of every run."""
LAYER_CURVE = "style_layer_loss"
"""The curve that has an entry for each style layer, E_l."""
