"""All derived files of a run, built from its chunks in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxstyle.derived import page
from jaxstyle.derived.crops import write_crops
from jaxstyle.derived.picks import redraw_best
from jaxstyle.derived.sheets import write_sheets
from jaxstyle.derived.stimuli import write_stimuli
from jaxstyle.inputs.pictures import Pictures
from jaxstyle.inputs.region_maps import RegionMaps
from jaxstyle.rundir import manifest, regions_h5
from jaxstyle.rundir.checkpoints import clear_others
from jaxstyle.rundir.directory import RunDirectory
from jaxstyle.rundir.image_files import name_pictures, names_of, write_images
from jaxstyle.rundir.records import Record, open_record
from jaxstyle.rundir.results_csv import Rows, read_rows, write_csv
from jaxstyle.rundir.results_h5 import merge
from jaxstyle.spec.errors import JaxstyleError
from jaxstyle.spec.values import NONE


@dataclass(frozen=True)
class Built:
    """The results of building a report."""

    record: Record
    rows: Rows
    """The rows of `results.csv`."""
    sheets: list[Path]
    """The paths of the contact sheets."""
    best: Path | None = None
    """The path of the sheet of the best cells, if the run has scores."""


def build_derived(run: RunDirectory, *, pictures: bool = True, with_page: bool = True) -> Built:
    """Rebuild the derived files of a run from its chunks.

    Args:
        run: the directory, held.
        pictures: also write the PNG of every cell.
        with_page: also write `report.html`; not to be done while the manifest is yet to be written.

    Raises:
        JaxstyleError: if the directory holds no run, or a chunk is damaged.
    """
    record = open_record(run.path)
    if not record.chunk_paths:
        raise JaxstyleError(str(run.path), "no chunk has been computed yet; there is nothing to report")
    merge(record)
    names = names_of(record)
    if pictures:
        for chunk in record.chunks():
            write_images(run, chunk, names)
    rows = read_rows(record)
    name_pictures(run, record, rows.cell.tolist())
    write_stimuli(run, record)
    write_crops(run, record)
    _write_regions(run, record)
    write_csv(run, rows, rows.columns)
    built = Built(record, rows, write_sheets(run, record), redraw_best(run, record))
    if with_page:
        write_page(run, rows)
    return built


def _write_regions(run: RunDirectory, record: Record) -> None:
    """Write `regions.h5` if a run needs it and has none that can be read, unless an image has gone."""
    if all(cell.regions == NONE for cell in record.cells) or regions_h5.is_there(run.path):
        return
    try:
        maps = RegionMaps(Pictures(record.sweep, record.cells))
    except JaxstyleError:
        return  # the run is whole without it
    run.write(regions_h5.FILE, regions_h5.regions_bytes(record.cells, maps, record.given))


def finish_run(run: RunDirectory, *, pictures: bool = False) -> Built:
    """Rebuild the derived files and, if all chunks are there, record in the manifest that the run is done.

    Args:
        run: the directory, held.
        pictures: also write the PNG of every cell.
    """
    built = build_derived(run, pictures=pictures, with_page=False)
    if manifest.is_complete(built.record):
        clear_others(run)
        ended = manifest.finished_manifest(built.record)
        if ended != built.record.manifest:
            run.write("manifest.json", manifest.text(ended))
    write_page(run, built.rows)  # which shows the manifest
    return built


def write_page(run: RunDirectory, rows: Rows) -> Path:
    """Write the `report.html` of a merged run, with the manifest as it is now.

    Args:
        rows: the rows of `results.csv`.

    Raises:
        JaxstyleError: if the run's `variance.json` cannot be shown.
    """
    return run.write("report.html", page.html(open_record(run.path), rows), durable=False)
