"""The files of a seed study: tables, figures, `variance.json`, and the report that shows them.

None of them contains a time.
"""

from __future__ import annotations

import json

from jaxstyle.console.progress import Display
from jaxstyle.derived.build import build_derived
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.records import open_record
from jaxstyle.rundir.results_h5 import is_current, merge
from jaxstyle.study import figures, tables
from jaxstyle.study.model import Options, Study, summarise
from jaxstyle.study.page_blocks import blocks
from jaxstyle.study.study import run_study


def build_study(run: RunDirectory, options: Options | None = None, display: Display | None = None) -> Study:
    """Study the run in a directory, and write the files of the study into it.

    Args:
        run: the directory, its lock held.
        options: the parts that may be left out.
        display: the display that shows its progress, if any.

    Raises:
        JaxstyleError: if it is not a run, or no setting has two seeds.
    """
    record = open_record(run.path)
    if not record.chunk_paths:
        build_derived(run, pictures=False)  # it says what is missing
    if not is_current(record):
        merge(record)
    found = run_study(run.path, options, display)
    numbers = [summarise(spread) for spread in found.spreads]
    run.write("variance.csv", tables.csv_text(found, numbers))
    run.write("variance.h5", tables.h5_bytes(found, numbers))
    drawn = figures.draw_figures(found, numbers)
    for old in (run.path / "maps").glob("*"):  # left by a study of more settings
        if figures.OURS.fullmatch(old.name) and f"maps/{old.name}" not in drawn:
            old.unlink()
    for name, data in drawn.items():
        run.write(name, data, durable=False)
    page = json.dumps(blocks(found, numbers, list(drawn)), indent=1, ensure_ascii=False) + "\n"
    run.write("variance.json", page)
    build_derived(run, pictures=False)
    return found
