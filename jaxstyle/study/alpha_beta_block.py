"""The block of a study's page that weighs the seed against alpha / beta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxstyle.study import distances, stats
from jaxstyle.study.model import LOW, Family, Study, measure_title
from jaxstyle.study.wording import figures_of, interval, number, page_block


def families_block(study: Study, drawn: Sequence[str]) -> dict[str, Any]:
    """The distances between seeds beside those between values of α/β, as a block of the page."""
    shown = ("rmse", LOW + "rmse", "dssim", *distances.FEATURE_LAYERS)
    columns = ["settings", "between", *(measure_title(m) for m in shown)]
    rows = []
    for f in study.families:
        rows.append([f.label, "two seeds, one α/β", *(number(f.between_seeds[m]) for m in shown)])
        for a, b, apart in f.pairs:
            rows.append(
                [f.label, f"{a} and {b.removeprefix('α/β ')}, one seed", *(number(apart[m]) for m in shown)]
            )
        ratio = (f"{number(f.ratio[m].value)}{interval(f.ratio[m].low, f.ratio[m].high)}" for m in shown)
        rows.append([f.label, "seeds ÷ all pairs of α/β", *ratio])
    text = [_family_sentences(f) for f in study.families]
    intervals = (
        "; intervals are from resampled seeds"
        if any(not math.isnan(f.ratio["rmse"].low) for f in study.families)
        else ""
    )
    text.append(f"These are over the seeds that all values of α/β have{intervals}.")
    caption = "Distance between seeds over distance between values of α/β, with 95 % intervals."
    return page_block(
        "The seed against α/β", text, (columns, rows), figures_of(drawn, "alpha-beta", caption)
    )


def _family_sentences(f: Family) -> str:
    full, low = f.ratio["rmse"], f.ratio[LOW + "rmse"]
    seeds, others = f.between_seeds["rmse"], f.between_ratios["rmse"]
    text = (
        f"{f.label}: two seeds are RMSE {number(seeds)} apart, two values of α/β at one seed"
        f" {number(others)}: {_weigh(full) if others else 'α/β changes nothing'}."
    )
    if math.isfinite(low.value):
        text += (
            f" In the low-pass the seed weighs {number(low.value)} times as much as"
            f" α/β{interval(low.low, low.high)}."
        )
    return text + (f" Without {', '.join(f.left_out)}, which share too few seeds." if f.left_out else "")


def _weigh(ratio: stats.Ratio) -> str:
    times = f"{number(ratio.value)} times as much{interval(ratio.low, ratio.high)}"
    if math.isnan(ratio.low):
        return f"the seed changes the picture {times}, without an interval: that takes more seeds"
    if ratio.low > 1:
        return f"the seed changes the picture more than α/β does, {times}"
    if ratio.high < 1:
        return f"α/β changes the picture more than the seed does, which changes it {times}"
    return f"neither clearly outweighs the other: the seed changes the picture {times}"
