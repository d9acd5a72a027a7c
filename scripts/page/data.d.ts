// The data of a run's page, as `jaxstyle/derived/page.py` writes it and `templates/report.js` reads it.
// `make types` checks the scripts against it.

/** One value of an axis, or of several that vary together. */
interface AxisValue {
  text: string[];
  given: string[];
  /** Numbers of the pictures that stand for it. */
  pictures: number[];
  /** For every axis, its value if that is a number. */
  numbers: (number | null)[];
}

/** An axis of the page: one that varies, or several that vary together. */
interface Axis {
  id: string;
  label: string;
  axes: string[];
  named: boolean;
  values: AxisValue[];
}

/** Columns of numbers, with an entry for each tile; null for a loss that was not kept. */
interface TileColumns {
  cell: number[];
  snapshot: number[];
  /** For every axis, the index of each tile's value. */
  at: number[][];
  [loss: string]: (number | null)[] | number[][];
}

interface PageData {
  dimensions: Axis[];
  down: string[];
  across: string[];
  snapshots: number[];
  tiles: TileColumns;
  /** Titles of the losses, by name. */
  losses: Record<string, string>;
  cells: {
    cell: number[];
    size: string[];
    /** The step, or -1. */
    diverged: number[];
    best: (number | null)[];
    best_step: (number | "")[];
    evaluations: (number | null)[];
    /** Losses that only finished cells have, by title. */
    further: Record<string, (number | null)[]>;
  };
  curves: { steps: number[][]; of: number[]; codes: string };
}
