"""The blocks of a page of a study: what was found, in sentences with tables, and which figures show it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxstyle.console.progress import counted
from jaxstyle.study import distances, stats
from jaxstyle.study.alpha_beta_block import families_block
from jaxstyle.study.components import RESIDUAL, SEED
from jaxstyle.study.model import (
    LOW,
    PICTURE,
    Spread,
    Study,
    Summary,
    axis_title,
    measure_title,
    term_title,
)
from jaxstyle.study.recompute import PRODUCTS, RecomputedRow
from jaxstyle.study.spread import MAX_PAIRS
from jaxstyle.study.wording import (
    decimal,
    figures_of,
    interval,
    level_text,
    number,
    page_block,
    percent,
    titled,
    typical,
)

FEW_SEEDS = 8
"""Number of seeds below which the page says that intervals are rough."""
STEADY = 0.05
"""Relative change between two snapshots up to which a spread has settled."""
CLEAR = 3.0
"""Multiple of the floor below which a spread is in good part rounding."""
BEST_OF = (2, 4, 8)
"""Numbers of seeds of which the page tells what keeping the best of them gains."""


def blocks(study: Study, numbers: Sequence[Summary], drawn: Sequence[str]) -> dict[str, Any]:
    """The page of a study: findings in sentences, tables, and which figures belong to them."""
    found = [
        _pictures_block(study, numbers, drawn),
        _losses_block(study, numbers, drawn),
        *([families_block(study, drawn)] if study.families else []),
        *([_components_block(study, drawn)] if study.decompositions is not None else []),
        _convergence_block(study, numbers, drawn),
        _floor_block(study),
        *([_styles_block(study)] if study.styles else []),
        _limits_block(study),
    ]
    return {
        "title": "How much the seed matters",
        "cells": study.cells,
        "intro": summary(study),
        "blocks": found,
    }


def _unfinished(study: Study) -> list[str]:
    """A sentence on cells that a study lacks, if the run is not finished."""
    planned = len(study.record.cells)
    if study.cells == planned:
        return []
    there = "has" if study.cells == 1 else "have"
    return [
        f"The run is not finished: {study.cells} of its {counted(planned, 'cell')} {there} been studied."
    ]


def summary(study: Study) -> list[str]:
    """The findings in a few sentences."""
    counts = sorted({len(s.setting.seeds) for s in study.spreads})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    cvs = [float(stats.cv(s.terms[-1][:, 0])) for s in study.spreads]
    rmse = [float(stats.pair_mean(s.distances["rmse"][-1])) for s in study.spreads]
    ssim = [1 - float(stats.pair_mean(s.distances["dssim"][-1])) for s in study.spreads]
    lines = [
        *_unfinished(study),
        f"{counted(len(study.spreads), 'setting')} with {many} seeds each, after {study.snapshots[-1]}"
        f" steps.",
        f"Another seed changes the final total loss by a coefficient of variation of"
        f" {typical(cvs, percent)}"
        f" and the picture by an RMSE of {typical(rmse)} grey levels (SSIM {typical(ssim, decimal)}).",
    ]
    if study.families:
        ratios = [f.ratio["rmse"].value for f in study.families]
        finite = [ratio for ratio in ratios if math.isfinite(ratio)]
        lines.append(
            f"In RMSE two seeds are {typical(finite)} times as far apart as two values of α/β at one seed."
            if finite
            else "Two values of α/β at one seed give the same pictures."
        )
    if study.floor is not None:
        lines.append(_verdict(study))
    else:
        lines.append("The spreads have no numerical floor beside them, so part of them may be rounding.")
    if study.diverged:
        lines.append(f"{counted(study.diverged, 'cell')} diverged; such cells are left out.")
    return lines


def _pictures_block(study: Study, numbers: Sequence[Summary], drawn: Sequence[str]) -> dict[str, Any]:
    shown = ("rmse", "dssim", LOW + "rmse", LOW + "dssim", *distances.FEATURE_LAYERS)
    columns = ["setting", "seeds", *(measure_title(m).replace("1 − SSIM", "SSIM") for m in shown)]
    rows = []
    for spread, own in zip(study.spreads, numbers, strict=True):
        cells = []
        for m in shown:
            k = study.measures.index(m)
            value, low, high = own.mean[-1, k], own.low[-1, k], own.high[-1, k]
            text = number
            if m.endswith("dssim"):
                value, low, high, text = 1 - value, 1 - high, 1 - low, decimal
            cells.append(text(value) + interval(low, high, text))
        rows.append([spread.setting.label, str(len(spread.setting.seeds)), *cells])
    means = {m: [float(stats.pair_mean(s.distances[m][-1])) for s in study.spreads] for m in study.measures}
    kept = [
        (low / full) ** 2 if full else 0.0
        for low, full in zip(means[LOW + "rmse"], means["rmse"], strict=True)
    ]
    widest = study.spreads[int(np.argmax(means["rmse"]))].setting.label
    sigma = ", ".join(f"{number(s)} px" for s in dict.fromkeys(study.sigma_px.values()))
    share = float(np.median(kept))
    where = "coarser" if share > 0.5 else "finer"
    text = [
        f"Two seeds are an RMSE of {typical(means['rmse'])} grey levels apart; the widest apart are those"
        f" of {widest}.",
        f"After a Gaussian low-pass of σ = {sigma} it is {typical(means[LOW + 'rmse'])}. {percent(share)}"
        f" of the squared difference remains: most of what a seed decides is {where} than that.",
        "Means over pairs of seeds, with 95 % intervals from resampled seeds. SSIM is that of luma (Wang"
        " et al. 2004). Features are compared by |f − g| / √((|f|² + |g|²) / 2) in the very network that"
        " the pictures were optimised with: they show what the losses see, and are no independent judge.",
    ]
    text += _regions_text(study)
    caption = (
        "One seed's picture, the mean over seeds, and the standard deviation over seeds of every pixel"
        " and of its low-pass; one scale for all settings of the run."
    )
    return page_block(
        "How far apart the pictures are", text, (columns, rows), figures_of(drawn, "spread", caption)
    )


def _regions_text(study: Study) -> list[str]:
    """A sentence on the regions between which the spread of pixels differs most, if there are some."""
    found = []
    for spread in study.spreads:
        of_regions = study.regions.get(spread.setting.index, {})
        own = {name: numbers["mean"] for name, numbers in of_regions.items()}
        if len(own) > 1:
            low, high = min(own, key=own.__getitem__), max(own, key=own.__getitem__)
            found.append((own[high] - own[low], spread.setting.label, (low, own[low]), (high, own[high])))
    if not found:
        return []
    _, label, low, high = max(found)
    return [
        f"Between regions, the spread of a pixel differs most in {label}: {number(high[1])} grey levels in"
        f" region {high[0]}, {number(low[1])} in region {low[0]}. variance.csv has it for every region."
    ]


def _losses_block(study: Study, numbers: Sequence[Summary], drawn: Sequence[str]) -> dict[str, Any]:
    columns = ["setting", "total loss: mean ± sd", *(f"CV of {titled(t)}" for t in study.terms)]
    rows = []
    for spread, own in zip(study.spreads, numbers, strict=True):
        mean, sd = (own.terms[name][0][-1, 0] for name in ("mean", "sd"))
        values, ends = own.terms["cv"]
        low, high = (np.asarray(end)[-1] for end in ends)
        cells = [percent(value) + interval(low[i], high[i], percent) for i, value in enumerate(values[-1])]
        rows.append([spread.setting.label, f"{number(mean)} ± {number(sd, 2)}", *cells])
    cvs = {t: [float(own.terms["cv"][0][-1, i]) for own in numbers] for i, t in enumerate(study.terms)}
    medians = {
        t: float(np.median(known))
        for t, all_ in cvs.items()
        if (known := [v for v in all_ if np.isfinite(v)])
    }
    most, least = max(medians, key=medians.__getitem__), min(medians, key=medians.__getitem__)
    text = [
        f"The term that a seed changes most is {titled(most)} (CV {percent(medians[most])}, median over"
        f" settings), and the one that it changes least is {titled(least)} ({percent(medians[least])}).",
        *_best_of(study),
    ]
    caption = (
        "Medians over seeds; darker bands from the 25 % to the 75 % quantile, lighter from 5 % to 95 %."
    )
    return page_block("Every term of the loss", text, (columns, rows), figures_of(drawn, "curves", caption))


def _best_of(study: Study) -> Iterator[str]:
    """A sentence on the gain from computing several seeds and keeping the one with the lowest loss."""
    fewest = min(len(s.setting.seeds) for s in study.spreads)
    totals = [spread.terms[-1][:, 0] for spread in study.spreads]
    totals = [x for x in totals if np.mean(x) > 0]  # without losses there is nothing to lower
    parts = []
    for k in (k for k in BEST_OF if k <= fewest and totals):
        gain = float(np.median([1 - stats.best_of(x, k) / float(np.mean(x)) for x in totals]))
        parts.append(f"{percent(gain)} with {k} seeds")
    if parts:
        yield (
            "Keeping the best of several seeds lowers the total loss below its mean (median over settings):"
            f" {', '.join(parts)}."
        )


def _components_block(study: Study, drawn: Sequence[str]) -> dict[str, Any]:
    found = study.decompositions
    assert found is not None
    names = [c.name for c in found.terms[0].components]
    columns = [
        "term",
        *(
            f"{axis_title(name)} ({c.df} df)"
            for name, c in zip(names, found.terms[0].components, strict=True)
        ),
        "sd between seeds",
    ]
    rows = []
    for d in found.terms:
        by_seed = sum(max(float(c.variance), 0.0) for c in d.components if c.name in (SEED, RESIDUAL))
        unit = (
            f"{number(math.sqrt(by_seed))} grey levels"
            if d.term == PICTURE
            else percent(math.sqrt(by_seed))
        )
        rows.append([term_title(d.term), *(percent(share) for share in d.shares), unit])
    text = []
    for d in found.terms:
        if d.term not in (PICTURE, "loss_style"):
            continue
        parts = {c.name: share for c, share in zip(d.components, d.shares, strict=True)}
        seeds = parts.pop(SEED, 0.0) + parts.pop(RESIDUAL, 0.0)
        line = f"{percent(seeds)} of the variance of {titled(d.term)} comes from the seed"
        if parts:
            first = max(parts, key=parts.__getitem__)
            line += f"; the largest other part is {axis_title(first)} with {percent(parts[first])}"
        text.append(line + ".")
    design = found.design
    levels = ", ".join(
        f"{len(v)} of {axis_title(n)}" for n, v in zip(design.names, design.levels, strict=True)
    )
    text.append(
        "Random-effects components by expected mean squares (Searle, Casella & McCulloch 1992, chapter 4)"
        f" over {counted(found.cells, 'cell')}: {levels}. Losses enter by their logarithm, the picture"
        f" pixel by pixel. “{axis_title(SEED)}” is the effect that a seed has alike in every setting,"
        f" “{axis_title(RESIDUAL)}” the effect that differs between settings; estimates below zero"
        " count as zero. The levels were chosen, not drawn at random, so the shares hold for this grid"
        " only. That α/β moves the total loss is a matter of definition."
    )
    if found.design.dropped:
        gone = ", ".join(level_text(n, v) for n, v in found.design.dropped)
        text.append(f"The grid is not balanced; a balanced part of it was used, without {gone}.")
    if found.left_out:
        text.append(
            f"Not decomposed, being zero or missing in some cell:"
            f" {', '.join(map(term_title, found.left_out))}."
        )
    caption = "Shares of the variance of each term."
    return page_block(
        "Where the variance comes from", text, (columns, rows), figures_of(drawn, "components", caption)
    )


def _convergence_block(study: Study, numbers: Sequence[Summary], drawn: Sequence[str]) -> dict[str, Any]:
    last = study.snapshots[-1]
    caption = "The coefficient of variation of the total loss over the steps"
    if len(study.snapshots) > 1:
        caption += ", and how far apart the pictures of two seeds are at the snapshots, with 95 % intervals"
    shown = figures_of(drawn, "convergence", caption + ".")
    losses = (
        f"The CV of the total loss is {_halfway(study)}{typical(_cvs_at(study, last), percent)} at the end,"
    )
    losses += f" step {last}."
    if len(study.snapshots) == 1:
        text = [
            losses,
            "The run has one snapshot, so only the curves of the losses can show whether the spread still"
            f" moves. With --steps {max(1, last // 2)} {last} {2 * last} the pictures show it too.",
        ]
        return page_block("Whether the spread has settled", text, None, shown)
    columns = [
        "setting",
        *(f"RMSE at {s}" for s in study.snapshots),
        "last ÷ before",
        "own way since",
        "CV of the total loss, " + " → ".join(map(str, study.snapshots)),
    ]
    k, rows, trends = study.measures.index("rmse"), [], []
    for spread, own in zip(study.spreads, numbers, strict=True):
        trend = stats.trend(*spread.distances["rmse"][-2:])
        trends.append(trend)
        each = (float(own.terms["cv"][0][j, 0]) for j in range(len(study.snapshots)))
        cvs = " → ".join("not traced" if math.isnan(cv) else percent(cv) for cv in each)
        rows.append([
            spread.setting.label,
            *(number(v) for v in own.mean[:, k]),
            f"{number(trend.value)}{interval(trend.low, trend.high)}",
            number(float(spread.moved[-1].mean())),
            cvs,
        ])  # fmt: skip
    moving = [t for t in trends if abs(t.value - 1) > STEADY]
    before = max(s for s in study.snapshots if s < last)
    own_way = float(np.median([s.moved[-1].mean() for s in study.spreads]))
    apart = float(np.median([n.mean[-1, k] for n in numbers]))
    many = counted(len(trends), "setting")
    verdict = (
        "the spread has settled" if not moving
        else f"it still moves by more than {percent(STEADY)} in {len(moving)} of {many}"
    )  # fmt: skip
    text = [
        f"From step {before} to {last} the distance between two seeds changes to"
        f" {typical([t.value for t in trends])} times what it was: {verdict}.",
        f"A picture itself moves by RMSE {number(own_way)} in that time, against {number(apart)} between"
        " two seeds (medians over settings).",
        losses,
    ]
    return page_block("Whether the spread has settled", text, (columns, rows), shown)


def _halfway(study: Study) -> str:
    """The CV of the total loss at the last step of the first half that the curves have, if any."""
    last = study.snapshots[-1]
    step = max((int(s) for spread in study.spreads for s in spread.steps if s <= last / 2), default=0)
    if step == 0:
        return ""  # the start, which has no spread of its own
    when = "half the steps" if step == last // 2 else f"step {step}"
    return f"{typical(_cvs_at(study, step), percent)} at {when} and "


def _cvs_at(study: Study, step: int) -> list[float]:
    """The CV of the total loss of every setting at the last step up to `step` that all its seeds have."""

    def cv(spread: Spread) -> float:
        at = int(np.searchsorted(spread.steps, step, "right")) - 1
        known = np.flatnonzero(np.isfinite(spread.curves[..., 0]).all(0))
        return float(stats.cv(spread.curves[:, min(at, int(known[-1])), 0])) if len(known) else math.nan

    return [cv(spread) for spread in study.spreads]


def _rounding(study: Study) -> RecomputedRow:
    """The largest of the changes that only the order of operations makes, which no run can avoid."""
    assert study.floor is not None
    own = [row for row in study.floor.rows if not row.name.startswith(PRODUCTS)]
    return max(own, key=lambda row: (row.rmse if np.isfinite(row.rmse) else 0.0, row.loss))


def _verdict(study: Study) -> str:
    """The spread beside the floor, in a sentence."""
    floor = study.floor
    assert floor is not None
    most, between = _rounding(study), floor.between.rmse
    if most.rmse == 0 and most.loss == 0:
        return "Computed again, the same cells give the same pictures: none of the spread is rounding."
    share = most.rmse / between if between else math.inf
    start = (
        f"Computed again ({most.name}), the same cells move by up to RMSE {number(most.rmse)},"
        f" {percent(share)} of what another seed does"
    )
    if share * CLEAR > 1:
        return f"{start}: a good part of the spread is not the seeds' but amplified rounding."
    return f"{start}: the spread is the seeds', not rounding."


def _floor_block(study: Study) -> dict[str, Any]:
    floor = study.floor
    if floor is None:
        text = [
            "No cell was computed again, so these spreads stand without a floor: part of them may be due to"
            " rounding alone."
        ]
        if not study.notes:  # nothing failed, so nobody asked for it
            text = [f"{text[0]} Leave out --no-floor to measure it."]
        return page_block("The numerical floor", [*study.notes, *text])
    columns = [
        "computed again",
        "RMSE",
        "largest difference",
        "total loss at the end",
        "at step 0",
        "part of the spread between seeds",
    ]
    rows = [
        [
            row.name,
            number(row.rmse),
            f"{number(row.largest)} grey levels" if np.isfinite(row.largest) else "–",
            number(row.loss, 2),
            number(row.first_loss, 2),
            percent(row.rmse / floor.between.rmse) if floor.between.rmse else "–",
        ]
        for row in (*floor.rows, floor.between)
    ]  # fmt: skip
    whole = floor.steps == study.record.sweep.steps[-1]
    coarser = any(program.coarser for program in study.record.plan.programs)
    text = [
        _verdict(study),
        f"Seeds {', '.join(map(str, floor.seeds))}"
        f" of the setting whose seeds differ the most, {floor.label}, with the run's own settings,"
        f" {floor.width} to a launch in {floor.precision}, for"
        f" {'all' if whole else 'only'} {floor.steps} steps. Losses are |L′ − L| / L, the largest over the"
        f" cells.",
        *([] if whole else ["Rounding grows with the steps: the floor of the whole run may be higher."]),
        *(["The loss at step 0 is that after the coarser stages."] if coarser else []),
        *floor.notes,
    ]
    return page_block("The numerical floor", [*text, *study.notes], (columns, rows))


def _styles_block(study: Study) -> dict[str, Any]:
    names = list(study.styles[0].traces)
    columns = [
        "style",
        *(f"tr(A) of {name}" for name in names),
        "CV of the style loss",
        "RMSE between seeds",
    ]
    rows = [
        [s.name, *(number(s.traces[name]) for name in names), percent(s.loss_cv), number(s.rmse)]
        for s in study.styles
    ]
    text = [
        "Gupta et al. (2017) find the trace of a style's Gram matrices, the mean squared length of its"
        " features, inversely related to how stable its transfers are: styles of larger traces should vary"
        " more."
    ]
    if len(study.styles) > 1:
        first, last = (f(study.styles, key=lambda s: s.traces[names[-1]]) for f in (max, min))
        agree = "as they say" if first.rmse > last.rmse else "against what they say"
        text.append(
            f"Here {first.name}, of the largest trace in {names[-1]}, has an RMSE of {number(first.rmse)}"
            f" between seeds, and {last.name}, of the smallest, {number(last.rmse)}: {agree}, as far as"
            f" {counted(len(study.styles), 'style')} can tell."
        )
    return page_block("The styles' Gram matrices", text, (columns, rows))


def _limits_block(study: Study) -> dict[str, Any]:
    text = []
    fewest = min(len(s.setting.seeds) for s in study.spreads)
    if fewest < stats.SMALLEST:
        text.append(f"Settings of fewer than {stats.SMALLEST} seeds have no intervals.")
    if fewest < FEW_SEEDS:
        path = shlex.quote(str(study.record.path))
        mend = f"python -m jaxstyle.sweep --extend --out {path} --seed 0:{FEW_SEEDS}"
        rough = f"With {counted(fewest, 'seed')} the intervals are rough and rather too narrow; "
        text.append(
            f"{rough if fewest >= stats.SMALLEST else ''}{FEW_SEEDS} or more would be better: {mend}."
        )
    if study.fixed:
        names = "; ".join(f"{name} ({counted(count, 'cell')})" for name, count in study.fixed)
        text.append(
            "Settings that do not start from noise come to one picture whatever the seed, and are left out"
            f" of all numbers above: {names}."
        )
    if study.single:
        text.append(f"Too few seeds came to an end to say anything about: {'; '.join(study.single)}.")
    if study.diverged:
        text.append(f"{counted(study.diverged, 'cell')} diverged; such cells are not in the statistics.")
    if study.record.sweep.keep == "best":
        text.append(
            "The pictures are those of the lowest loss so far, the losses those of the step itself."
        )
    if max(len(s.setting.seeds) for s in study.spreads) ** 2 > 2 * MAX_PAIRS + 64:
        text.append(f"In settings with more than {MAX_PAIRS} pairs of seeds, so many were drawn at random.")
    text.append(
        f"Intervals: bootstrap over seeds, {stats.DRAWS} resamples, bias-corrected and accelerated for"
        " losses (Efron 1987), percentiles for distances and ratios."
    )
    return page_block("What these numbers are and are not", text)
