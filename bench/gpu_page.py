"""The page of `python -m bench gpu`: what the figures of its stages say together, and where they are from.

A page is of one device, that of the stage that ran last. Figures of another device are left out, with a
line for each; those of another commit, and those of a stage that was ended before its end, are marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import compiled, work
from bench.throughput import is_measured

LEDGER = "stages.json"
"""The file that says how each stage ended; the stage that ran last is its last entry."""
THROUGHPUT = ("512 px", "256 px", "sizes", "precisions")
"""The stages that measure throughput."""


class Figures(NamedTuple):
    """The figures in the folder of a page."""

    device: str
    """The device that they are of."""
    of: dict[str, dict[str, Any]]
    """The figures by stage; of a stage that was ended, those that it had by then."""
    left_out: list[str]
    """A line for each file that is not used."""
    ledger: dict[str, Any]
    """How each stage ended."""


def path_of(folder: Path, stage: str, ending: str = "json") -> Path:
    """The file of a stage in the folder of a page."""
    return folder / f"{stage.replace(' ', '-')}.{ending}"


def figures(folder: Path, stages: Sequence[str]) -> Figures:
    """The figures of the stages in a folder, of the device of the stage that ran last."""
    found, left_out = [], []
    for stage in stages:
        whole = path_of(folder, stage)
        for path in filter(Path.exists, (whole, work.part_of(whole))):
            record = work.read(path)
            if "kind" in record.get("device", {}):
                found.append((stage, path.name, record))
            else:
                left_out.append(f"`{path.name}` cannot be read")
    ledger = work.read(folder / LEDGER)
    ran = [stage["device"] for stage in ledger.values()]
    device = (ran or [record["device"]["kind"] for _, _, record in found[:1]] or [""])[-1]
    own: dict[str, dict[str, Any]] = {}
    for stage, name, record in found:
        kind = record["device"]["kind"]
        if kind != device:
            left_out.append(f"`{name}` is of another device, {kind}")
        elif stage in own:
            left_out.append(f"`{name}` is of a repetition that did not end")
        else:
            own[stage] = record
    return Figures(device, own, left_out, ledger)


def page(folder: Path, stages: Mapping[str, str]) -> str:
    """The page that combines the figures in a folder; empty if there are none.

    Args:
        folder: the folder.
        stages: the arguments of every stage by its name, in their order.
    """
    found = figures(folder, list(stages))
    if not found.of and not found.ledger:
        return ""
    lines = [f"# {found.device}", "", *_head(found)]
    lines += _table(("bar, for an H200", "found", ""), list(_bars(found, stages)))
    looks = {
        "Throughput": _throughput(found),
        "Throughput with the default look": found.of.get("default look", {}).get("rows", []),
    }
    for title, rows in looks.items():
        if rows:
            lines += [f"## {title}", ""]
            head = ("px", "precision", "cells", "width", "ms per image-step", "TFLOP/s", "of the ceiling")
            lines += _table((*head, "peak GB", "compiled in s"), [_throughput_row(row) for row in rows])
    for name in ("profile", "small profile"):
        for account in found.of.get(name, {}).get("accounts", []):
            lines += _account(account)
    for name in ("borders", "experiments", "small", "wide"):
        if rows := found.of.get(name, {}).get("rows"):
            look = ", the default look" if rows[0].get("default_look") else ""
            lines += [f"## What was tried: {rows[0]['size']} px, {rows[0]['cells']} cells{look}", ""]
            lines += _table(
                ("variant", f"time over ours expected on an {compiled.CARD}", "found"),
                [(row["variant"], row["expected"], _experiment(row)) for row in rows],
            )
    for name in ("peers", "all peers"):
        for result in found.of.get(name, {}).get("results", []):
            lines += _peers(result)
    return "\n".join([*lines, *_second_start(found), *_stages(found, stages)])


def _head(found: Figures) -> Iterator[str]:
    """The versions, the date and the commit of the first figures, and what is not of them."""
    marks = [f"* **Left out**: {why}." for why in found.left_out]
    if found.of:
        first = next(iter(found.of.values()))
        named = [
            name
            for name in first["versions"]
            if name in ("python", "jax", "jaxlib", "torch", "driver") or name.startswith("nvidia")
        ]
        used = ", ".join(f"{name} {first['versions'][name]}" for name in named)
        yield from (f"{used}; {first['date']}, commit {first['commit']}; `python -m bench gpu`.", "")
        for name, record in found.of.items():
            if record["commit"] != first["commit"]:
                marks.append(f"* **Another commit**: `{name}` is of {record['commit']}, {record['date']}.")
            elif record["versions"] != first["versions"]:
                marks.append(f"* **Other versions**: `{name}` ran with other libraries than those above.")
            if not record.get("complete", True):
                marks.append(f"* **Not complete**: `{name}` has the figures from before it was ended.")
    yield from (*marks, "") if marks else ()


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(str(value) for value in row)} |"
    yield ""


def _throughput(found: Figures) -> list[dict[str, Any]]:
    return [row for name in THROUGHPUT for row in found.of.get(name, {}).get("rows", [])]


def _bars(found: Figures, stages: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Targets for the engine on an H200, with what was measured and, on that card, whether it is enough."""

    def verdict(holds: bool) -> str:
        if "H200" not in found.device:
            return "no verdict on this card"
        return "reached" if holds else "**missed**"

    rows = [row for row in _throughput(found) if is_measured(row) and row["precision"] == "bf16"]
    for size, most in ((512, 1.0), (256, 0.28)):
        if own := [row for row in rows if row["size"] == size]:
            best = min(own, key=lambda row: row["ms_per_image_step"]["median"])
            ms = best["ms_per_image_step"]["median"]
            bar = f"{size} px, bf16, best batch: at most {most} ms per image-step"
            yield bar, f"{ms:.3f} ms, {best['cells']} cells", verdict(ms <= most)
            if size == 512:
                bar = "at least 50 % of the measured matmul ceiling"
                yield bar, f"{best['share_of_ceiling']:.0%}", verdict(best["share_of_ceiling"] >= 0.5)
    flat = {row["cells"]: row["ms_per_image_step"]["median"] for row in rows if row["size"] == 512}
    if {16, 256} <= set(flat):
        wide = [ms for cells, ms in flat.items() if 16 <= cells <= 256]
        spread = max(wide) / min(wide) - 1
        bar = "cost per image-step constant within 10 % from 16 to 256 cells"
        yield bar, f"{spread:.0%} between the dearest and the cheapest", verdict(spread <= 0.1)
    for result in (found.of.get("all peers") or found.of.get("peers", {})).get("results", []):
        sides = {name: side["ms_per_image_step"]["median"] for name, side in result["sides"].items()}
        torch = {name: ms for name, ms in sides.items() if name.startswith("torch") and "NCHW" not in name}
        if torch and "jaxstyle bf16" in sides:
            best = min(torch, key=torch.__getitem__)
            times = torch[best] / sides["jaxstyle bf16"]
            bar = f"at least as fast as PyTorch at its best ({best})"
            yield bar, f"{times:.2f} times", verdict(times >= 1)
            peers = sides["torch NCHW"] / sides["jaxstyle bf16"]
            yield "10 times as fast as PyTorch as usually run", f"{peers:.1f} times", verdict(peers >= 10)
    yield from _correct(found, stages)


def _correct(found: Figures, stages: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """What is right or wrong on any card: final losses in bf16, and the checks."""
    for row in found.of.get("bf16", {}).get("rows", []):
        if row["variant"]["name"] == "bf16, plain":
            away = [abs(ratio - 1) for ratio in row["loss_ratio"]]
            text = f"at most {max(away):.1%}, mean {sum(away) / len(away):.1%}, of {len(away)} cells"
            holds = max(away) <= 0.01
            yield "final loss in bf16 within 1 % of float32's", text, "reached" if holds else "**missed**"
    ran = [name for name in ("right", "promises") if found.of.get(name, {}).get("findings")]
    findings = [row for name in ran for row in found.of[name]["findings"]]
    if findings:
        wrong = [row["what"] for row in findings if not row["right"]]
        checks = ", ".join(f"`{stages[name]}`" for name in ran)
        text = "; ".join(wrong) or "all right"
        yield f"{checks}: {len(findings)} findings", text, "**missed**" if wrong else "reached"


def _throughput_row(row: dict[str, Any]) -> Sequence[Any]:
    if not is_measured(row):
        why = row.get("failed", "over memory")
        return row["size"], row["precision"], row["cells"], "", why, "", "", "", ""
    return (
        row["size"],
        row["precision"],
        row["cells"],
        row["width"],
        f"{row['ms_per_image_step']['median']:.3f}",
        f"{row['tflops']:.0f}",
        f"{row['share_of_ceiling']:.0%}",
        f"{row['peak_bytes'] / 1e9:.1f}",
        f"{row['compile_s']:.0f}{', from the cache' if row.get('from_cache') else ''}",
    )


def _account(account: dict[str, Any]) -> Iterator[str]:
    yield from (f"## The time of a step: {account['size']} px, width {account['width']}", "")
    yield f"{account['step_us']:.0f} us a step; {account['kernels_us']:.0f} us in kernels, one by one."
    yield from (f"Floors are by the rates of an {compiled.CARD}.", "")
    yield from _table(
        ("kernels", "us", "floor, us", "of it"),
        [
            (kind, f"{own['us']:.0f}", f"{own['floor_us']:.0f}", f"{own['floor_us'] / own['us']:.0%}")
            for kind, own in account["by_kind"].items()
            if own["us"]
        ],
    )
    yield from _table(
        ("operation", "fused", "us", "floor, us", "kernel"),
        [
            (
                f"{row['source']} {row['result'][:40]}",
                "+".join(row["fused"]),
                f"{row['us']:.0f}",
                f"{row['floor_us']:.0f}",
                f"`{row['kernels'][-1][:60]}`",
            )
            for row in account["rows"][:25]
        ],
    )


def _experiment(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"]
    ratio = row["ratio"]
    found = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
    return found if row["agrees"] else f"{found}, another loss"


def _peers(result: dict[str, Any]) -> Iterator[str]:
    yield from (f"## Peers: {result['size']} px, {result['cells']} cells, interleaved", "")
    yield from _table(
        ("side", "ms per image-step", "distance of the first gradient from float32's"),
        [
            (side, f"{found['ms_per_image_step']['median']:.3f}", f"{found['gradient_error']:.1e}")
            for side, found in result["sides"].items()
        ]
        + [(side, f"left out: {why}", "") for side, why in result["failed"].items()],
    )


def _second_start(found: Figures) -> Iterator[str]:
    """The time to compile a step and to find it in the cache, if it was compiled once and found once."""
    cold, warm = (  # the first stage compiles this step; every later one finds it in the cache
        [row for row in found.of.get(name, {}).get(rows, []) if (row["size"], row["cells"]) == (512, 16)]
        for name, rows in (("profile", "accounts"), ("second start", "rows"))
    )
    cold = [row for row in cold if row.get("from_cache") is False]
    warm = [row for row in warm if row.get("from_cache")]
    if cold and warm:
        yield from ("## The second start", "")
        yield f"The 512-px step of 16 cells is compiled and tuned in {cold[0]['compile_s']:.0f} s, and in"
        yield from (f"{warm[0]['compile_s']:.0f} s when it is found in the cache.", "")


def _stages(found: Figures, stages: Mapping[str, str]) -> Iterator[str]:
    """The end of every stage, and where its figures are from."""

    def row(name: str) -> Sequence[str]:
        ran, record = found.ledger.get(name), found.of.get(name)
        ended = "did not run" if record is None else "no record of its end"
        if ran:
            ended = f"{ran['ended']}, {ran['seconds']} s, {ran['date']}, commit {ran['commit']}"
        own = "none" if record is None else f"{record['date']}, commit {record['commit']}"
        return name, f"`{stages[name]}`", ended, own

    yield from ("## The stages", "")
    yield from _table(
        ("stage", "`python -m bench`", "ended", "its figures"), [row(name) for name in stages]
    )
