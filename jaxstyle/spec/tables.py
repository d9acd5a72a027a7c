"""Tables of loss terms, optimizers, poolings, paddings and style losses: a new one is a row here.

A row holds what messages and plans need to know. Its functions need JAX and are elsewhere: a row of
jaxstyle names them as `module:function`, a plugin's row holds the functions themselves. The rows of plugins
come last in a table. A row that was read from a run's manifest has no functions: it is enough to show the
run, but not to compute it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.plugin_blame import error_words
from jaxstyle.spec.rows import NAMES, Function, NamedRow, Table, is_name
from jaxstyle.spec.rows import Origin as Origin
from jaxstyle.spec.rows import function as function
from jaxstyle.vgg import layers, padding


@dataclass(frozen=True)
class LossTerm(NamedRow):
    """One term of the total loss: weight times loss, added to those of content, style and total variation.

        def keep(view):  # of the style image
            return view.image.mean((0, 1))

        def loss(view, kept):  # of the picture
            return ((view.image.mean((0, 1)) - kept) ** 2).sum()

        jaxstyle.register(jaxstyle.LossTerm("mean", loss=loss, keep=keep))

    Its weight, here `mean_weight`, is an axis of a sweep, 0 by default. Its curve, `loss_mean`, does not
    include the weight. A term whose weight is 0 in every cell of a run is neither computed nor compiled.
    """

    loss: Function = field(default=None, kw_only=True)
    """Function of a `View` of the picture, and of what `keep` returned, that returns the loss."""
    keep: Function = field(default=None, kw_only=True)
    """Function of a `View` of the target image that returns what the loss needs to know of it."""
    of: str = field(default="style", kw_only=True)
    """The target image: `style` or `content`. For a style, the shape of what `keep` returns must not depend
    on the size of the image."""
    taps: tuple[str, ...] = field(default=(), kw_only=True)
    """Layers whose features it uses; the view holds them beside the image."""
    canvas: bool = field(default=False, kw_only=True)
    """Whether it ignores pixels outside the picture (`View.inside`), so that pictures of several shapes can
    share a program."""
    curve: bool = field(default=True, kw_only=True)
    """Whether its values are kept as a loss curve."""
    always: bool = field(default=False, kw_only=True)
    """Whether it is part of every program, whatever its weight: jaxstyle's first three terms."""
    equal_sizes: bool = field(default=False, kw_only=True)
    """Whether it compares pixels, so that a style must be exactly as large as the picture."""
    sums_pixels: bool = field(default=False, kw_only=True)
    """Whether it is a sum over pixels, whose weight grows in coarser stages as that of the content does."""
    pixel_bytes: int = field(default=0, kw_only=True)
    """Bytes that it takes for each pixel while a cell is optimised, where a plan should know of them."""
    axis: str = field(default="", kw_only=True)
    """Name of the axis of its weight, if that is not its own name and `_weight`."""
    help: str = field(default="", kw_only=True)
    """Help text of that axis, if it needs more than the title."""

    what = "loss term"
    internal = ("always", "equal_sizes", "sums_pixels", "pixel_bytes", "help")
    optional = ("axis",)
    functions = ("loss", "keep")

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"{self.what} {self.name}"
        if self.of not in ("style", "content"):
            raise JaxstyleError(where, f"of is {self.of!r}; give style or content")
        taps = (self.taps,) if isinstance(self.taps, str) else tuple(self.taps)
        object.__setattr__(self, "taps", taps)
        for tap in taps:
            if tap not in layers.TAPS:
                why = (
                    f"VGG19 has no layer {tap!r}; they run from conv1_1 to conv5_4 and from pool1 to pool5"
                )
                raise JaxstyleError(where, why)
        for name in ("canvas", "curve"):
            if not isinstance(getattr(self, name), bool):
                raise JaxstyleError(where, f"{name} is {getattr(self, name)!r}; give True or False")
        if self.axis != "" and not is_name(self.axis):
            raise JaxstyleError(where, f"axis: {self.axis!r} is not a name; {NAMES}")
        self._function("loss", needed=False)
        self._function("keep", needed=False)

    @property
    def weight(self) -> str:
        """Name of the axis of its weight."""
        return self.axis or f"{self.name}_weight"

    @property
    def loss_name(self) -> str:
        """Name of its curve in tables."""
        return f"loss_{self.name}"

    @property
    def words(self) -> str:
        """Its title, or its name and "loss"."""
        return self.title or f"{self.name.replace('_', ' ')} loss"


@dataclass(frozen=True)
class Optimizer(NamedRow):
    """An optimizer of the pixels.

        jaxstyle.register(jaxstyle.Optimizer("lion", make=optax.scale_by_lion))

    `make` is called with the optimizer's own settings by name. It returns either a gradient transformation
    of optax, whose direction is multiplied by the cell's learning rate, or a `solvers.Solver`.
    """

    make: Function = field(default=None, kw_only=True)
    steps: int = field(default=500, kw_only=True)
    """Default number of steps."""
    pyramid: int = field(default=0, kw_only=True)
    """Default number of coarser stages."""
    own: Mapping[str, int | float] = field(default_factory=dict, kw_only=True)
    """Its own settings and their defaults; each is a flag, of the type of its default."""
    state_images: Callable[..., int] | int = field(default=2, kw_only=True)
    """Number of arrays of the image's size in its state, or a function of its own settings for it."""
    decays: bool = field(default=True, kw_only=True)
    """Whether its learning rate can fall at the end (`--schedule decay`)."""
    help: str = field(default="", kw_only=True)
    """Help text of its own settings."""

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
        try:
            images = self.images(**self.own)
        except Exception as error:  # a plugin's function may raise anything
            why = f"state_images fails for its settings {dict(self.own)}: {error_words(error)}"
            raise JaxstyleError(where, why) from None
        if isinstance(images, bool) or not isinstance(images, int) or images < 0:
            raise JaxstyleError(where, f"state_images is {images!r}; give a whole number")

    def record(self) -> dict[str, Any]:
        """Its entry in a run's manifest, with the size of its state for its default settings."""
        return {**super().record(), "own": dict(self.own), "state_images": self.images(**self.own)}

    def images(self, **own: Any) -> int:
        """Number of arrays of the image's size in its state, for given values of its own settings."""
        return self.state_images(**own) if callable(self.state_images) else self.state_images


MEASURED_MEANS = ("avg", "max")
"""The poolings whose mean activations come with the weights."""


@dataclass(frozen=True)
class Pooling(NamedRow):
    """A pooling of the network, 2x2 with stride 2.

        jaxstyle.register(jaxstyle.Pooling("median", pool=median_pool, title="median pooling"))

    `pool` is a function of the features of one image, (h, w, c), that returns (h // 2, w // 2, c).
    """

    pool: Function = field(default=None, kw_only=True)
    canvas: bool = field(default=False, kw_only=True)
    """Whether zeros around an image do not change the result, except for edges that pooling drops."""
    reads_beyond: bool = field(default=False, kw_only=True)
    """Whether it reads beyond the edges of an image: `pool` then takes the network's `border` as well."""
    means: str = field(default="", kw_only=True)
    """The pooling whose mean activations the network is normalised by; its own if not given."""
    planes: Function = field(default=None, kw_only=True)
    """The same function in a form that suits a TPU, if there is one."""

    what = "pooling"
    internal = ("planes",)
    optional = ("means",)
    functions = ("pool",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function("pool", needed=False)
        if self.means not in ("", *MEASURED_MEANS):
            either = " or ".join(MEASURED_MEANS)
            raise JaxstyleError(f"{self.what} {self.name}", f"means is {self.means!r}; give {either}")

    @classmethod
    def recorded(cls) -> tuple[str, ...]:
        """Names of the fields that are written into a run's manifest: those that are needed to read it."""
        return tuple(name for name in super().recorded() if name != "reads_beyond")


@dataclass(frozen=True)
class Padding(NamedRow):
    """A padding of the network: what stands outside an image, and outside a feature map."""

    border: padding.Border | None = field(default=None, kw_only=True)
    """The border around an image; None for zeros."""

    what = "padding"
    functions = ("border",)

    @property
    def canvas(self) -> bool:
        """Whether pictures of several shapes can share a canvas, around which there are zeros."""
        return self.border is None

    @property
    def wraps(self) -> bool:
        """Whether a picture goes on at its opposite edge."""
        return self.border is not None and self.border.wraps


@dataclass(frozen=True)
class StyleLoss(NamedRow):
    """A form of E_l, the loss of one style layer; what it keeps of a style has the shape of no image."""

    keep: Function = field(default=None, kw_only=True)
    """Function of a layer's features, its positions and the arithmetic: what the loss needs of a style."""
    loss: Function = field(default=None, kw_only=True)
    """Function of a layer's features, what was kept of the style, positions and arithmetic: E_l."""
    distance: Function = field(default=None, kw_only=True)
    """Function of what was kept of two images, in NumPy: E_l of the first for the second, in float64."""
    trace: Function = field(default=None, kw_only=True)
    """Function of what was kept of a style, in NumPy: tr(A)."""
    of_moments: Function = field(default=None, kw_only=True)
    """Function of A and mu of a layer, in NumPy: what would have been kept of a style that has them."""
    blend: Function = field(default=None, kw_only=True)
    """Function of what was kept of several styles, and their weights, in NumPy: the same of their blend."""
    matrix_products: int = field(default=0, kw_only=True)
    """Products of two N x N matrices in one evaluation with its gradient."""
    matrices: int = field(default=0, kw_only=True)
    """N x N matrices of float32 that it holds at the same time."""

    what = "style loss"
    functions = ("keep", "loss", "distance", "trace", "of_moments", "blend")


TERMS = Table(
    LossTerm,
    (
        LossTerm("content", of="content", canvas=True, always=True),
        LossTerm("style", of="style", canvas=True, always=True),
        LossTerm(
            "spectrum",
            title="power spectrum",
            keep="jaxstyle.cell.spectrum:keep",
            loss="jaxstyle.cell.spectrum:loss",
            equal_sizes=True,
            sums_pixels=True,
        ),
        LossTerm(
            "photorealism",
            title="matting Laplacian",
            keep="jaxstyle.cell.matting:keep",
            loss="jaxstyle.cell.matting:loss",
            of="content",
            sums_pixels=True,
            pixel_bytes=280,
            axis="photorealism",
            help="Weight of the matting Laplacian of the content (Luan et al. 2017): edges stay edges, and"
            " colours change smoothly; 30 to 300 with --init recoloured.",
        ),
        LossTerm("tv", title="total variation", canvas=True, curve=False, always=True),
    ),
)
"""The terms of the total loss. `cell.objective` computes those that are part of every program."""

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
"""The optimizers, with the defaults that measured best; see docs/optimizers.md."""

POOLINGS = Table(
    Pooling,
    (
        Pooling(
            "avg",
            pool="jaxstyle.vgg.pooling:avg_pool",
            planes="jaxstyle.vgg.planes:avg_pool",
            title="average pooling",
            canvas=True,
        ),
        Pooling(
            "max",
            pool="jaxstyle.vgg.pooling:max_pool",
            planes="jaxstyle.vgg.planes:max_pool",
            title="max pooling",
            canvas=True,
        ),
        Pooling(
            "blur",
            pool="jaxstyle.vgg.pooling:blur_pool",
            title="blurred pooling",
            reads_beyond=True,
            means="avg",
        ),
        Pooling(
            "l2", pool="jaxstyle.vgg.pooling:l2_pool", title="L2 pooling", reads_beyond=True, means="avg"
        ),
    ),
)
"""The poolings of the network.

The weights come with the mean activations of average and of max pooling. Those of blurred pooling are 0.8
to 1.0 times those of average pooling, of L2 pooling 1.0 to 1.8 times, of max pooling 1.0 to 6.8 times (each
layer, mean of four examples at 192 px).
"""

PADDINGS = Table(
    Padding,
    (
        Padding("zeros", title="zeros"),
        Padding("reflect", title="reflection", border=padding.REFLECT),
        Padding("replicate", title="replication", border=padding.REPLICATE),
        Padding("circular", title="circular padding", border=padding.CIRCULAR),
    ),
)
"""The paddings of the network."""

STYLE_LOSSES = Table(
    StyleLoss,
    (
        StyleLoss(
            "gram",
            title="Gram matrices",
            keep="jaxstyle.cell.gram_matrix:gram",
            loss="jaxstyle.cell.losses:style_layer_loss",
            distance="jaxstyle.cell.style_distances:gram",
            trace="jaxstyle.cell.style_distances:gram_trace",
            of_moments="jaxstyle.cell.blended_styles:gram",
            blend="jaxstyle.cell.blended_styles:blended_grams",
        ),
        StyleLoss(
            "moments",
            title="Gram matrices and means",
            keep="jaxstyle.cell.moments:keep",
            loss="jaxstyle.cell.moments:loss",
            distance="jaxstyle.cell.style_distances:moments",
            trace="jaxstyle.cell.style_distances:moments_trace",
            of_moments="jaxstyle.cell.blended_styles:moments",
            blend="jaxstyle.cell.blended_styles:blended_moments",
        ),
        StyleLoss(
            "wasserstein",
            title="Wasserstein distance",
            keep="jaxstyle.cell.wasserstein:keep",
            loss="jaxstyle.cell.wasserstein:loss",
            distance="jaxstyle.cell.style_distances:wasserstein",
            trace="jaxstyle.cell.style_distances:wasserstein_trace",
            of_moments="jaxstyle.cell.blended_styles:normal",
            blend="jaxstyle.cell.blended_styles:blended_normals",
            matrix_products=38,
            matrices=8,
        ),
    ),
)
"""The forms of the style loss, with the first as in Gatys et al. (2016)."""

EVERY: tuple[Table[Any], ...] = (TERMS, OPTIMIZERS, POOLINGS)
"""The tables that plugins can add rows to."""


NETWORK_AXES = ("pool", "padding", "style_loss")
"""Names of the axes whose values are rows of these tables: cells that differ in one differ in programs."""


def network_words(pool: str | None, padding: str | None, style_loss: str | None) -> str:
    """The pooling in words, and padding and style loss where they are not the first of their kind.

    None stands for several, about which there are no words.
    """
    words = [f"{pool} pooling"] if pool else []
    words += [f"{padding} padding"] if padding not in (None, PADDINGS.names[0]) else []
    words += [f"{style_loss} style loss"] if style_loss not in (None, STYLE_LOSSES.names[0]) else []
    return ", ".join(words)


TOTAL = "loss_total"
"""Name of the curve of the total loss."""


def optional_terms() -> tuple[LossTerm, ...]:
    """The loss terms that are computed only if some cell gives them a weight, jaxstyle's and plugins'.

    They are sorted by name, so that their order does not depend on which was registered first.
    """
    return tuple(sorted((row for row in TERMS if not row.always), key=lambda row: row.name))


def curves(optional: Iterable[LossTerm] = ()) -> dict[str, str]:
    """Titles of the loss curves that every cell of a run has, by name.

    Args:
        optional: the optional terms of the run.
    """
    own = [*(row for row in TERMS if row.always), *optional]
    return {TOTAL: "total loss", **{row.loss_name: row.words for row in own if row.curve}}


LOSSES = tuple(curves())
"""Names of the curves that every run has."""
LAYER_CURVE = "style_layer_loss"
"""Name of the curve with one entry for each style layer, E_l."""
