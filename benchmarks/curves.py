"""Draw the curves of runs side by side: `python -m benchmarks.curves runs/A runs/B -o curves.png`.

In: each run's history.csv, the numbers that TensorBoard shows, too. Out: one PNG, a line for each run.
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.charts import curves_figure
from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import RunFolder, find_run


def read_curve(run: RunFolder, x: str, y: str) -> tuple[list[float], list[float]]:
    """Columns x and y of a run's history.

    Raises:
        UserError: no history, or no such column in it.
    """
    try:
        with run.history_file.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        both = [(float(row[x]), float(row[y])) for row in rows if row[x] and row[y]]  # earlier epochs may lack one
        return [a for a, _ in both], [b for _, b in both]
    except OSError as error:
        raise UserError(f"{run.history_file}: {error.strerror}; name a run with a finished epoch") from None
    except KeyError as error:
        raise UserError(f"{run.history_file}: has no column {error}; see its first line") from None


def main(arguments: list[str] | None = None) -> None:
    """Parse, read, draw."""
    parser = cli.Parser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("-x", default="minutes", help="column across: epoch or minutes (minutes)")
    parser.add_argument("-y", default="val_rsum", help="column up (val_rsum)")
    parser.add_argument("--title", default="", help="above the chart")
    parser.add_argument("-o", "--out", type=cli.png, default="curves.png", help="PNG to write (curves.png)")
    options = parser.parse_args(arguments)
    runs = [find_run(path) for path in options.runs]
    curves = {run.name: read_curve(run, options.x, options.y) for run in runs}
    curves_figure(curves, options.x, options.y, options.title, Path(options.out))
    print(options.out)


if __name__ == "__main__":
    cli.run(main)
