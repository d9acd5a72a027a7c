"""`python -m jaxstyle.calibrate CONTENT STYLE`: what a ratio of content to style means for two images."""

from __future__ import annotations

if __name__ == "__main__":
    from jaxstyle.console import early

    early.catch()

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from jaxstyle.console import parsing
from jaxstyle.console.command import run_command
from jaxstyle.console.setting_flags import with_settings
from jaxstyle.inputs import weights
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.target_files import check_made_for
from jaxstyle.plan.cells import sweep_cells
from jaxstyle.rundir import manifest
from jaxstyle.spec import errors, values
from jaxstyle.spec.blends import text_of
from jaxstyle.spec.defaults import CHOSEN
from jaxstyle.spec.fields import NETWORKS
from jaxstyle.spec.resolve import resolve
from jaxstyle.spec.settings import BALANCED_SETTINGS, RunOptions, Sweep
from jaxstyle.spec.tables import POOLINGS, network_words

if TYPE_CHECKING:
    from jaxstyle.device.loss_balance import Balance

MOVED_SIZES = (0.5, 2)
"""Other sizes at which the balance is measured, as multiples of `--size`."""
LARGEST_MOVED_PX = 512
"""Largest size that is added to `--size`, so that the answer takes seconds."""


@dataclass(frozen=True)
class Calibrate:
    """Measure what a ratio of content to style means for a content and a style image.

    Prints each layer's share of the style loss of the content image, how hard each loss pulls at a noise
    start and at a content start, the balance, which is the alpha/beta at which pure content and pure style
    would cost the same (1x for --alpha-beta of jaxstyle.sweep), the balance of the default look, and how it
    moves with size, pooling and network. What is not named is as in a sweep that names a ratio.
    """

    content: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONTENT")]
    """The content image."""
    style: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STYLE")]
    """The style image."""
    json: bool = False
    """Print JSON instead of tables."""


def accepts() -> type:
    """The dataclass that the command line is parsed into."""
    return with_settings("calibrate", Calibrate)


class _Pair:
    """Two images and a network, with what is needed to measure their balance."""

    def __init__(self, sweep: Sweep, device: Any):
        from jaxstyle.device.engine import Engine
        from jaxstyle.device.loss_balance import Balances

        self.sweep = resolve(sweep)
        (self.cell,) = sweep_cells(self.sweep)
        self.pictures = Pictures(self.sweep, [self.cell])
        loaded = weights.load(
            self.sweep.weights, taps=self.cell.taps, network=self.sweep.network, pool=self.cell.pool
        )
        for path, targets in self.pictures.targets.items():
            check_made_for(path, targets, self.sweep, loaded.sha256)
        self.engine = Engine(loaded.layers, device=device, winograd=False)
        self.scales = Balances(self.sweep, [self.cell], self.pictures, self.engine)

    def balance(self) -> Balance:
        """The balance of the two images."""
        return self.scales.of(self.cell)


def _moved(sweep: Sweep) -> list[Sweep]:
    """`sweep` at its own size with every pooling and either network, and at other sizes as it is."""
    size, sizes = values.parse_size(sweep.size), []
    if isinstance(size, int) and tuple(sweep.style_size) == Sweep.style_size:
        edges = [int(size * times) for times in MOVED_SIZES]
        allowed = [n for n in edges if values.MIN_SIZE_PX <= n <= max(LARGEST_MOVED_PX, size)]
        sizes = [str(n) for n in allowed]
    (other,) = set(NETWORKS) - {sweep.network}
    at = [(network, sweep.size, pool) for network in (sweep.network, other) for pool in POOLINGS.names]
    at += [(sweep.network, size, *sweep.pool) for size in sizes]
    return [
        dataclasses.replace(sweep, network=network, size=size, pool=(pool,)) for network, size, pool in at
    ]


def measure(sweep: Sweep, device: Any) -> dict[str, Any]:
    """All numbers that the command prints, in a form that JSON can hold."""
    from jaxstyle.device.loss_pull import measure_pull

    pair = _Pair(sweep, device)
    balance = pair.balance()
    pulls = measure_pull(pair.sweep, pair.cell, balance, pair.pictures, pair.engine)
    found = {
        "content": sweep.content[0],
        "style": text_of(pair.cell.style),
        "size": "x".join(map(str, reversed(pair.pictures.shape(pair.cell)))),
        "pool": pair.cell.pool,
        "padding": pair.cell.padding,
        "style_loss": pair.cell.style_loss,
        "network": sweep.network,
        "content_layer": sweep.content_layer[0],
        "device": manifest.devices_text([device]),
        "balance": balance.alpha_beta,
        "style_loss_of_content": balance.style_loss,
        "content_loss_of_style": balance.content_loss,
        "layers": [
            {
                "layer": name,
                "weight": balance.weights[name],
                "layer_loss": balance.layer_loss[name],
                "share": balance.shares[name],
                "gram_trace": balance.gram_trace[name],
                **{f"gradient_from_{start}": pull.layer[name] for start, pull in pulls.items()},
            }
            for name in balance.layer_loss
        ],
        "pull": {
            start: {
                "content": pull.content,
                "style": pull.style,
                "alpha_beta": pull.alpha_beta if pull.content else None,
            }
            for start, pull in pulls.items()
        },
        "default_look": _of_default_look(sweep, balance, device),
        "moves": [],
    }
    for other in _moved(sweep):
        if other == sweep:
            found["moves"].append(_move(other) | {"balance": balance.alpha_beta})
            continue
        try:
            ratio = _Pair(other, device).balance().alpha_beta
        except errors.JaxstyleError as error:  # these weights come without means, or an image is too small
            found["moves"].append(_move(other) | {"balance": None, "why": str(error)})
        else:
            found["moves"].append(_move(other) | {"balance": ratio})
    return found


def _of_default_look(sweep: Sweep, balance: Balance, device: Any) -> dict[str, Any]:
    """The balance in the look of a sweep that names no ratio, and the settings that make it."""
    names = [name for name in CHOSEN if name in BALANCED_SETTINGS and name != "alpha_beta"]
    look = resolve(dataclasses.replace(sweep, **{name: CHOSEN[name] for name in names}))
    found = {name: values.as_values(CHOSEN[name])[0] for name in names}
    try:
        ratio = balance.alpha_beta if look == sweep else _Pair(look, device).balance().alpha_beta
    except errors.JaxstyleError as error:  # a file of targets is of another network
        return {**found, "balance": None, "why": str(error)}
    return {**found, "balance": ratio}


def _move(sweep: Sweep) -> dict[str, Any]:
    return {"size": sweep.size, "pool": sweep.pool[0], "network": sweep.network}


def _print_table(
    console: Console, title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, names: int
) -> None:
    """Print a table, or one line for each number if the terminal is too narrow: rich would cut them.

    Args:
        console: the terminal.
        title: text above the table.
        heads: headings of the columns.
        lines: rows, each with a text for every column.
        names: number of leading columns that name a row.
    """
    columns = list(zip(*lines, strict=True))
    least = [max(map(len, (*head.split(), *own))) for head, own in zip(heads, columns, strict=True)]
    if sum(least) + 3 * len(heads) + 1 <= console.width:
        table = Table(title=title, title_justify="left")
        for index, (head, width) in enumerate(zip(heads, least, strict=True)):
            table.add_column(head, justify="left" if index < names else "right", min_width=width)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        return
    console.print(title, markup=False)
    for line in lines:
        console.print("  " + " ".join(line[:names]), markup=False)
        for head, text in zip(heads[names:], line[names:], strict=True):
            console.print(f"    {head} {text}", markup=False)


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(
        f"{found['content']} in {found['style']}: {found['size']},"
        f" {network_words(found['pool'], found['padding'], found['style_loss'])},"
        f" {found['network']} network, content at {found['content_layer']}, on {found['device']}",
        markup=False,
    )
    lines = [
        (
            line["layer"],
            f"{line['weight']:.3g}",
            f"{line['layer_loss']:.3g}",
            f"{100 * line['share']:.1f} %",
            f"{line['gram_trace']:.3g}",
            *(f"{line[f'gradient_from_{start}']:.3g}" for start in found["pull"]),
        )
        for line in found["layers"]
    ]
    heads = ("layer", "w_l", "E_l", "share", "tr(A_l)", "pull from noise", "pull from content")
    _print_table(console, "the style loss of the content image", heads, lines, names=1)
    console.print("pull: root mean square of the gradient of w_l E_l, per pixel value\n")
    console.print(
        f"balance: alpha/beta {found['balance']:.3g} (1x)"
        f" = L_style(content) {found['style_loss_of_content']:.3g}"
        f" / L_content(style) {found['content_loss_of_style']:.3g}"
    )
    look = found["default_look"]
    ratio = look["why"] if look["balance"] is None else f"alpha/beta {look['balance']:.3g} (1x)"
    words = f"{look['style_weights']} layers, {look['padding']} padding"
    console.print(f"of the default look, which names no ratio ({words}): {ratio}", markup=False)
    ratio = found["pull"]["noise"]["alpha_beta"]
    if ratio is not None:
        console.print(f"at a noise start both pull equally at alpha/beta {ratio:.3g}")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for move in found["moves"]:
        ratio = "-" if move["balance"] is None else f"{move['balance']:.3g}"
        rows.setdefault((move["network"], move["size"]), {})[move["pool"]] = ratio
    lines = [(*of, *(ratios.get(pool, "") for pool in POOLINGS.names)) for of, ratios in rows.items()]
    heads = ("network", "size", *(f"{pool} pooling" for pool in POOLINGS.names))
    _print_table(console, "\nwhere else the balance lies", heads, lines, names=2)
    for why in dict.fromkeys(move["why"] for move in found["moves"] if "why" in move):
        console.print(f"-: {why}", markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m jaxstyle.calibrate`; always raises SystemExit, with the exit code."""

    def command() -> int:
        asked = parsing.parse(
            accepts(), sys.argv[1:] if arguments is None else arguments, "jaxstyle.calibrate"
        )
        given = dataclasses.asdict(asked.value)
        as_json = given.pop("json")
        for axis in ("content", "style"):
            if given[axis] == values.NONE:
                raise errors.JaxstyleError(axis, "none: a balance is between two images; give one")
        sweep = resolve(Sweep(**given, alpha_beta=("1x",), pyramid=0))
        Pictures(sweep, sweep_cells(sweep))  # reports faults of the images before JAX starts

        from jaxstyle.run.start_jax import start_jax

        found = measure(sweep, start_jax(sweep, RunOptions()))
        print(json.dumps(found, indent=1)) if as_json else _print(found)
        return 0

    run_command(command)


if __name__ == "__main__":
    main()
