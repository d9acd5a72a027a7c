"""The axes and settings of a sweep; the options of how a run is carried out are in `run_options`.

A field of `Sweep` or of `RunOptions` describes one of them: its name, its type, its default, its help (the
text under it) and, in its annotation, an `Axis` or a `Setting` with the rest. Flags, TOML, checks,
fingerprints, comparisons, tables and the other commands all derive from there.

Two kinds are not fields: an axis for the weight of each loss term that is not in every program, and a
setting for each parameter of an optimizer's own. Their values are in `Sweep.extra`, but they are given and
read as if they were fields.
"""

# Annotations are values here, not texts: tyro reads them, and compiling texts takes a command 10 ms more.

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxstyle.spec import blends, tables, values
from jaxstyle.spec.colours import COLOURS
from jaxstyle.spec.fields import (
    CELLS,
    DIRECTORY,
    MAX_CELLS,
    MAX_CROPS,
    MAX_LBFGS_MEMORY,
    MAX_PYRAMID,
    MAX_STEPS,
    MIN_CHECKPOINT_S,
    NETWORKS,
    PRECISE,
    WRITTEN,
    Axis,
    Setting,
    as_path,
    as_share,
    as_steps,
    each,
    integer_in,
    number_from,
    one_of,
    row_of,
    rows_of,
)
from jaxstyle.spec.regions import as_masks, as_names, as_region_list, as_regions
from jaxstyle.spec.retired import without_retired
from jaxstyle.spec.run_options import OPTION_KEYS as OPTION_KEYS
from jaxstyle.spec.run_options import OPTIONS as OPTIONS
from jaxstyle.spec.run_options import RunOptions as RunOptions
from jaxstyle.spec.values import as_flag
from jaxstyle.vgg import layers

_STEPS = "Optimisation steps, one evaluation of the loss and its gradient each (default: "
_STEPS += ", ".join(f"{row.steps} for {row.name}" for row in tables.OPTIMIZERS) + ")."
_EVERYWHERE = ("sweep", "transfer", "calibrate", "features", "targets")
_OF_A_PAIR = ("sweep", "transfer", "calibrate")
_HIDDEN: Any = tyro.conf.Suppress
_as_before = functools.partial(Axis, later=True, was_setting=True)
_of_runs = functools.partial(Setting, alone=DIRECTORY, commands=("sweep",))
_of_masks = functools.partial(Setting, later=True, balance=True, commands=_OF_A_PAIR)


def _of_network(table: tables.Table[Any], **own: Any) -> Axis:
    """The row of an axis of a table's rows, which programs differ in."""
    return _as_before(parse=each(row_of(table)), balance=True, **{"commands": _OF_A_PAIR, **own})


@dataclass(frozen=True)
class Sweep:
    """A grid of style transfers: its axes (each takes several values) and its settings."""

    content: Annotated[
        tuple[str, ...],
        Axis(parse=each(values.as_file), short="", path=True, thumbnail=True, balance=True),
    ] = ()
    """Content images, folders of them, or none for textures: --style and --size alone mean that. Without
    --content, --style and --spec, the preset is demo unless one is given."""
    style: Annotated[
        tuple[str, ...],
        Axis(
            parse=each(blends.as_style),
            short="",
            same=blends.same,
            path=True,
            thumbnail=True,
            balance=True,
        ),
    ] = ()
    """Style images, folders of them, blends such as a.jpg+b.jpg or a.jpg:0.7+b.jpg:0.3, targets of
    jaxstyle.targets (.npz), or none for reconstructions of a content from its layer."""
    content_layer: Annotated[
        tuple[str, ...],
        Axis(
            parse=each(values.layer_name),
            title="content layer",
            short="",
            balance=True,
            commands=_OF_A_PAIR,
        ),
    ] = (layers.CONTENT_LAYER,)
    """Layer of the content loss: conv1_1 to conv5_4, after its ReLU, or pool1 to pool5."""
    style_layers: Annotated[
        tuple[str, ...],
        Axis(
            parse=each(values.as_style_set),
            title="style layers",
            short="",
            plural="sets of style layers",
            same=values.same_set,
            balance=True,
            commands=_OF_A_PAIR,
        ),
    ] = ("+".join(layers.STYLE_LAYERS),)
    """Layers of the style loss: conv1_1+conv2_1 (equal weights, sum 1), conv1_1:20+conv4_1:0.05, or
    upto:pool4, which is conv1_1 and all poolings down to that one (upto:conv4_1: conv1_1+conv2_1 ...)."""
    init: Annotated[
        tuple[str, ...],
        Axis(
            parse=each(values.as_start),
            title="start",
            short="from",
            path=True,
            commands=("sweep", "transfer"),
        ),
    ] = ("noise",)
    """Starting image: noise, content, style, recoloured (the content with the mean and covariance of the
    style's colours), or a path to any image."""
    alpha_beta: Annotated[
        tuple[float | str, ...],
        Axis(
            parse=each(values.as_ratio),
            title="α/β",
            plural="values of α/β",
            commands=("sweep", "transfer"),
        ),
    ] = ()
    """Ratio of content to style weight; 0 is texture synthesis. 0.1x is that multiple of the ratio at
    which pure content and pure style would cost the same, measured first (see jaxstyle.calibrate)
    (default: 0.1x, or 1e-3 if a setting of the look is given: this one, --style-weights, --padding,
    --clamp, or another --network, --pool or --style-loss than raw, avg and gram)."""
    learning_rate: Annotated[
        tuple[float, ...],
        Axis(
            parse=each(number_from(0.0, above=True)),
            title="learning rate",
            short="rate",
            single=float,
            commands=("sweep", "transfer"),
        ),
    ] = ()
    """Adam's learning rate, in grey levels; for lbfgs, the largest change of any pixel in its first step
    (default: 10)."""
    seed: Annotated[
        tuple[int | str, ...],
        Axis(
            parse=values.as_seeds,
            single_help="Seed of the noise, 0 to 4294967295.",
            commands=("sweep", "transfer"),
        ),
    ] = (0,)
    """Seed of the noise, 0 to 4294967295; 0:32 is a range."""

    steps: Annotated[tuple[int, ...], Setting(check=as_steps, single_help=_STEPS)] = ()
    """Optimisation steps, one evaluation of the loss and its gradient each. Several values give snapshots
    of one trajectory (default: 500 for adam, 250 for lbfgs)."""
    size: Annotated[str, Setting(check=values.as_size, balance=True, commands=_EVERYWHERE)] = "256"
    """Longest edge of the content in px, of a texture's style, or WxH to fill and crop."""
    style_size: Annotated[
        tuple[int | str, ...],
        _as_before(parse=each(values.as_style_size), title="style size", balance=True, commands=_OF_A_PAIR),
    ] = (values.AUTO,)
    """Longest edge of the style images in px; auto is the longest edge of the content's target size."""
    pool: Annotated[
        tuple[str, ...], _of_network(tables.POOLINGS, title="pooling", commands=_EVERYWHERE)
    ] = ("avg",)
    """Pooling of the network: avg, max, blur (a binomial filter of 4x4) or l2 (root of blurred squares)."""
    padding: Annotated[
        tuple[str, ...], _of_network(tables.PADDINGS, unsaid="zeros", commands=_EVERYWHERE)
    ] = (values.AUTO,)
    """Padding around an image in the network: zeros, reflect, replicate (the edge), or circular (the
    opposite edge, so that the picture can be tiled; its sides must be multiples of 16, with pool5 of 32,
    doubled for each coarser stage) (default: replicate, or zeros if a setting of the look is given)."""
    network: Annotated[
        str, Setting(check=one_of(*NETWORKS), balance=True, commands=(*_OF_A_PAIR, "targets"))
    ] = "raw"
    """Scaling of the network's weights: raw, as published, or normalised, so that every filter's mean
    activation is 1 (Gatys et al. 2016). Ratios mean something else there; use multiples such as 0.1x."""
    style_weights: Annotated[
        tuple[str, ...],
        _as_before(
            parse=each(one_of("equal", "balanced")),
            title="weights of style layers",
            short="weights",
            plural="schemes of weights",
            balance=True,
            unsaid="equal",
            commands=_OF_A_PAIR,
        ),
    ] = (values.AUTO,)
    """Weights of style layers that are given without one: equal, or balanced, so that each layer has the
    same share of the style loss of the content image (default: balanced, or equal if a setting of the look
    is given)."""
    style_loss: Annotated[
        tuple[str, ...],
        _of_network(tables.STYLE_LOSSES, title="style loss", plural="style losses", unsaid="gram"),
    ] = ("gram",)
    """Statistics of a style layer that are compared: gram (Gatys et al. 2016), moments (Gram matrix and
    mean) or wasserstein (mean and covariance), where ratios mean something else; use multiples."""
    colour: Annotated[
        str, Setting(check=one_of(*COLOURS), balance=True, later=True, commands=_OF_A_PAIR)
    ] = "free"
    """Colours of the picture: free; luminance (lumas of all images, and the content's chroma put back at
    the end); match (the style's are first moved to the mean and covariance of the content's); or grey,
    where all images become their luma (ITU-R BT.601), and r = g = b from start to end."""
    optimizer: Annotated[str, Setting()] = "auto"
    """Optimizer of the pixels: adam or lbfgs; auto is adam if a learning rate or a decay is given, else
    lbfgs."""
    lbfgs_memory: Annotated[int | None, Setting(check=integer_in(1, MAX_LBFGS_MEMORY))] = None
    """Pairs of steps and gradient changes that L-BFGS remembers (default: 30)."""
    pyramid: Annotated[int | None, Setting(check=integer_in(0, MAX_PYRAMID))] = None
    """Number of coarser stages to solve first, each half the size of the next; stages under 32 px are
    skipped (default: 2 for lbfgs, 0 for adam)."""
    fast: Annotated[bool, Setting(check=as_flag)] = False
    """Replace adam by its coarse-to-fine twin: lbfgs with a pyramid and a quarter of the steps."""
    schedule: Annotated[str, Setting()] = "constant"
    """Adam's learning rate: constant, or decay, flat to 70 % of the steps and then linear to 0."""
    keep: Annotated[str, Setting(check=one_of("last", "best"))] = "last"
    """Image to save: the last, or the best, which has the lowest loss so far."""
    clamp: Annotated[
        tuple[bool, ...],
        _as_before(
            parse=each(as_flag),
            plural="ways to clamp",
            single=bool,
            commands=("sweep", "transfer"),
        ),
    ] = ()
    """Keep pixels in 0 to 255 during the optimisation, so that the loss is that of the saved picture
    (default: on, or off if a setting of the look is given)."""
    noise_std: Annotated[
        tuple[float, ...],
        _as_before(
            parse=each(number_from(0.0)),
            title="noise",
            plural="strengths of noise",
            single=float,
            commands=_OF_A_PAIR,
        ),
    ] = (1.0,)
    """Standard deviation of the noise start around the mean colour, in grey levels."""
    precision: Annotated[str, Setting(check=one_of("f32", "tf32", "bf16"))] = "f32"
    """Number format of the products in convolutions and Gram matrices: f32, tf32 (NVIDIA GPUs only) or
    bf16, summed in float32 (bf16 also stores activations so). Losses and the image are always float32."""
    conv: Annotated[str, Setting(check=one_of("auto", "plain"))] = "auto"
    """Implementation of convolutions: auto, the fastest on the device, or plain, XLA's own everywhere."""
    canvas: Annotated[str, Setting(check=one_of("auto", "off"), commands=("sweep",))] = "auto"
    """Sharing of programs between images of different shapes: auto, if that is predicted to be faster, or
    off, never."""
    beta: Annotated[float, Setting(check=number_from(0.0, above=True))] = 1.0
    """Weight of the style loss; that of the content loss is beta times alpha-beta."""
    tv_weight: Annotated[
        tuple[float, ...],
        _as_before(
            parse=each(number_from(0.0)),
            title="weight of the total variation",
            short="TV",
            plural="weights of the total variation",
            single=float,
            commands=("sweep", "transfer"),
        ),
    ] = (0.0,)
    """Weight of the total variation."""
    regions: Annotated[
        tuple[str, ...],
        Axis(
            parse=each(as_regions),
            plural="kinds of regions",
            balance=True,
            later=True,
            commands=_OF_A_PAIR,
        ),
    ] = (values.NONE,)
    """Regions whose styles are compared one by one: none (the whole picture), a grid of ROWSxCOLUMNS tiles
    such as 2x2, or masks, the colours of --content-mask and --style-mask; at most 16."""
    content_mask: Annotated[tuple[str, ...], _of_masks(check=as_masks, numbers=False)] = ()
    """For --regions masks, a PNG for every content, in their order; each of its colours is a region."""
    style_mask: Annotated[tuple[str, ...], _of_masks(check=as_masks, numbers=False)] = ()
    """The same for every image of a style; the target of a region is the one of the same colour. In place
    of a PNG, a colour such as 255 or '#ff8000' is a mask that has it everywhere."""
    leave: Annotated[tuple[str, ...], _of_masks(check=as_region_list)] = ()
    """Regions of masks that are left alone: they have no style loss, and styles need not have them."""
    hold: Annotated[tuple[str, ...], _of_masks(check=as_region_list)] = ()
    """Regions of masks that keep the pixels of the content; they are left alone too."""
    weights: Annotated[
        str | None,
        Setting(
            check=as_path,
            numbers=False,  # fingerprints contain their digest instead
            balance=True,
            commands=_EVERYWHERE,
        ),
    ] = None
    """File of VGG19 weights: a converted one or Keras' notop file (default: the packaged one)."""
    finish: Annotated[str, Setting(check=one_of("none", "histogram", "contrast"), later=True)] = "none"
    """Last change of a picture before it is saved: none, histogram (every channel gets the style's values,
    by rank), or contrast (linear light is scaled and shifted to --rms-contrast and --mean-luminance)."""
    rms_contrast: Annotated[float | None, Setting(check=number_from(0.0, above=True), later=True)] = None
    """Standard deviation of a finished picture's luminance, in linear light, divided by its mean; needs
    --finish contrast (default: the picture's own)."""
    mean_luminance: Annotated[float | None, Setting(check=as_share, later=True)] = None
    """Mean luminance of a finished picture, in linear light, between 0 and 1 (white); needs --finish
    contrast (default: the picture's own)."""
    image_format: Annotated[str, _of_runs(check=one_of("png", *PRECISE), later=True)] = "png"
    """Format of extra files of every picture, before rounding to 8 bits: png (none), png16 (16 bits),
    npy or tiff (32-bit floats)."""
    crops: Annotated[int | None, _of_runs(check=integer_in(1, MAX_CROPS), numbers=False)] = None
    """Number of crops of every style, as large as its pictures, to write for comparison; their places
    follow from seeds 0, 1 and so on. Needs a larger --style-size (default: none)."""
    finish_crops: Annotated[bool, _of_runs(check=as_flag, numbers=False)] = False
    """Finish the crops as the pictures are (--finish), so that light does not tell them apart."""
    trace_every: Annotated[int, _of_runs(check=integer_in(1, MAX_STEPS))] = 1
    """Keep every N-th entry of the loss curves (the first and the last always)."""
    checkpoint_every: Annotated[float, _of_runs(check=number_from(MIN_CHECKPOINT_S), numbers=False)] = 60.0
    """Seconds of work that a killed run may lose at most; sets the size of chunks and how often states are
    saved."""
    max_cells: Annotated[
        int,
        Setting(
            check=integer_in(1, MAX_CELLS), numbers=False, same=False, alone=CELLS, commands=("sweep",)
        ),
    ] = 100_000
    """Refuse a grid of more cells than this."""
    split_depth: Annotated[bool, Setting(check=as_flag, alone=CELLS, commands=("sweep",))] = False
    """Compile separate programs for cells that need fewer layers, instead of one for all depths."""
    deterministic: Annotated[bool, Setting(check=as_flag, numbers=False)] = False
    """Make a GPU give the same bytes in every process (a CPU does so anyway)."""

    grid: Annotated[tuple[Mapping[str, Any], ...], _HIDDEN, dataclasses.replace(WRITTEN, alone=CELLS)] = ()
    """Tables of axis values, whose union is the run; an axis missing in one takes its values from above."""
    digests: Annotated[Mapping[str, str], _HIDDEN, WRITTEN] = field(default_factory=dict)
    """SHA-256 of files by path; a file with a different one is an error."""
    balance: Annotated[tuple[Mapping[str, Any], ...], _HIDDEN, WRITTEN] = ()
    """Measurements for relative alpha-beta and balanced style weights: a table for each combination of
    `BALANCED_AXES`, with `alpha_beta`, the ratio that 1x stands for, and `weights`, w_l by layer."""
    given: Annotated[Mapping[tuple[str, str], str], _HIDDEN, WRITTEN] = field(default_factory=dict)
    """The path as the user wrote it, by axis and absolute path."""
    folders: Annotated[Mapping[str, tuple[str, ...]], _HIDDEN, WRITTEN] = field(default_factory=dict)
    """Absolute paths, by axis, of the folders that the user gave and whose images are now its values."""
    extra: Annotated[Mapping[str, Any], _HIDDEN, WRITTEN] = field(default_factory=dict)
    """Values by name of the axes and settings that are not fields: weights of optional terms that are not
    at their default, and the optimizer's own settings."""
    balance_optional: Annotated[bool, _HIDDEN, dataclasses.replace(WRITTEN, check=as_flag)] = False
    """Whether a pair without a balance takes the paper's ratio and weights: nobody asked for a balance."""
    plugins: Annotated[
        tuple[str, ...], _HIDDEN, dataclasses.replace(WRITTEN, numbers=True, same=True, later=True)
    ] = ()
    """SHA-256 of the plugins whose rows the sweep uses, ascending."""
    region_names: Annotated[
        tuple[tuple[str, str], ...],
        _HIDDEN,
        dataclasses.replace(WRITTEN, check=as_names, numbers=True, same=True, later=True, balance=True),
    ] = ()
    """Names of regions of masks, as `(grey level or colour, name)`; in a spec, the table `[regions]`."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of its grid, in the order of their product, the last one fastest."""
        given = {*self.extra, *(key for table in self.grid for key in table)}
        others = (name for name, default in LATER.items() if getattr(self, name) != default)
        return axes_with({*given, *others})

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            extra = self.__dict__.get("extra", {})
            return extra[name] if name in extra else default_of(name)


def default_of(name: str) -> Any:
    """The default of an axis or a setting that is not a field. Raises AttributeError for any other name."""
    if not name.startswith("_") and name in (defaults := added()):
        return defaults[name]
    raise AttributeError(name)


_init = Sweep.__init__


@functools.wraps(_init)
def _init_with_extra(self: Sweep, *given: Any, **settings: Any) -> None:
    settings = without_retired(settings)
    own = {name: settings.pop(name) for name in added() if name in settings}
    if own:
        settings["extra"] = {**(settings.get("extra") or {}), **own}
    _init(self, *given, **settings)


Sweep.__init__ = _init_with_extra  # so that axes and settings of plugins are keywords, like fields


ROWS = rows_of(Sweep)
"""The axes and settings of a sweep by name, in the order of its fields."""
AXIS_ROWS: dict[str, Axis] = {name: row for name, row in ROWS.items() if isinstance(row, Axis)}
"""The axes of a sweep by name."""
SETTINGS: dict[str, Setting] = {name: row for name, row in ROWS.items() if isinstance(row, Setting)}
"""The settings of a sweep by name."""
LATER: dict[str, Any] = {
    f.name: f.default for f in dataclasses.fields(Sweep) if f.name in AXIS_ROWS and AXIS_ROWS[f.name].later
}
"""Defaults of the axes that are newer than some runs that may be resumed; see `Axis.later`."""
AXES = tuple(name for name in AXIS_ROWS if name not in LATER)
"""Names of the axes that every run has, in the order of their product, the last one fastest."""
SEVERAL = (*AXIS_ROWS, "steps")
"""Names of the fields that take several values in a sweep."""
PATH_AXES = tuple(name for name, row in AXIS_ROWS.items() if row.path)
"""Names of the axes whose values are paths."""
BALANCED_AXES = tuple(name for name, row in AXIS_ROWS.items() if row.balance)
"""Names of the axes that a balance depends on."""
WERE_SETTINGS = tuple(name for name, row in AXIS_ROWS.items() if row.was_setting)
"""Names of the axes that were settings before."""
BALANCED_SETTINGS = tuple(name for name, row in ROWS.items() if row.balance and name not in AXES)
"""Names of the settings that a balance depends on, and of the axes among them that were settings before."""
SWEEP_KEYS = tuple(f.name for f in dataclasses.fields(Sweep) if f.name not in ("given", "folders", "extra"))
"""Names of the fields of a sweep that a spec may contain; see `added` for those that are not fields."""
_AFTER_ADDED = "learning_rate"
"""The axis that follows the optional ones in the order of the product."""
_LAST_ADDED = "regions"
"""The optional axis that follows the weights of optional terms."""
MASK_KEYS = ("content_mask", "style_mask")
"""Names of the settings that are paths of masks."""


def added() -> dict[str, Any]:
    """Defaults of the axes and settings that are not fields, by name.

    They are the weights of optional loss terms and the optimizers' own settings.
    """
    weights = {row.weight: (0.0,) for row in tables.optional_terms()}
    own = ((name, default) for row in tables.OPTIMIZERS for name, default in row.own.items())
    return weights | {name: default for name, default in own if name not in SETTINGS}


def is_axis(name: str) -> bool:
    """Whether a name is the name of an axis, including weights of optional loss terms."""
    return name in AXIS_ROWS or any(row.weight == name for row in tables.optional_terms())


def axis_row(name: str) -> Axis:
    """The row of an axis. Raises KeyError for a name that is not one."""
    if name in AXIS_ROWS:
        return AXIS_ROWS[name]
    for row in tables.optional_terms():
        if row.weight == name:
            title = f"weight of the {row.words}"
            short = name.replace("_", " ")
            return Axis(parse=each(number_from(0.0)), title=title, short=short, plural=f"values of {short}")
    raise KeyError(name)


def optional_axes() -> dict[str, Any]:
    """Axes that not every run has, with their default values: later ones, weights of optional terms."""
    weights = {row.weight: (0.0,) for row in tables.optional_terms()}
    first = {name: default for name, default in LATER.items() if name != _LAST_ADDED}
    return first | weights | {_LAST_ADDED: LATER[_LAST_ADDED]}


def axes_with(more: Iterable[str]) -> tuple[str, ...]:
    """Names of the axes of every run and of the optional ones in `more`, in the order of the product."""
    more, at = set(more), AXES.index(_AFTER_ADDED)
    own = [name for name in optional_axes() if name in more]
    return (*AXES[:at], *own, *AXES[at:])


def title(name: str) -> str:
    """Name for people of an axis or of `steps`."""
    return (axis_row(name).title if is_axis(name) else "") or name.replace("_", " ")


def short(name: str) -> str:
    """Label before a value of an axis where there is little room."""
    row = axis_row(name).short if is_axis(name) else None
    return title(name) if row is None else row


def plural(name: str) -> str:
    """Name for several values of an axis or of `steps`."""
    if name == "steps":
        return "snapshots"
    return axis_row(name).plural or f"{title(name)}s"
