"""The Markdown table of a study of recipes, from the CSV that `benchmarks.recipe` writes.

In: a row for each set and seed. Out: a line for each set in order of first appearance, with the means over its seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError

FIGURES = (
    "i2t_R@1", "i2t_R@5", "i2t_R@10", "i2t_MedR", "t2i_R@1", "t2i_R@5", "t2i_R@10", "t2i_MedR",
    "rsum", "w2r_rsum", "o2w_rsum",
)  # fmt: skip
NEEDED = ("name", "seed", "minutes", *FIGURES)
OPTIONAL = ("w2r_rsum", "o2w_rsum")  # blank where a model has no such part
SPREAD = "half the distance between the lowest and the highest"
HEAD = ("name", "seeds", "minutes", "i2t R@1/5/10", "Med r", "t2i R@1/5/10", "Med r", "rsum", *OPTIONAL)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a study's CSV.

    Raises:
        UserError: a file that cannot be read or lacks columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            rows, columns = list(reader), reader.fieldnames or ()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); is it the CSV of a study?") from None
    if missing := [column for column in NEEDED if column not in columns]:
        raise UserError(f"{path}: lacks the columns {', '.join(missing)}; is it the CSV of a study?")
    return rows


def markdown(rows: Sequence[dict[str, str]], path: Path, against: str | None = None) -> str:
    """A sentence on what the numbers are, and the table.

    Args:
        rows: of `read_rows`; sets and seeds in any order.
        path: where they are from, for errors.
        against: a set; a further column has the difference of each mean rsum to its.

    Raises:
        UserError: no rows, a figure that is no number, no set of the name `against`.
    """
    seeds: dict[str, list[dict[str, float]]] = {}  # {name: the figures of each seed}
    for number, row in enumerate(rows, 1):
        seeds.setdefault(row["name"], []).append(_numbers(row, f"{path}: row {number}"))
    if not seeds:
        raise UserError(f"{path}: has no rows; is a set of the study finished?")
    if against is not None and against not in seeds:
        raise UserError(f"--against {against}: {path} has no such set; it has {', '.join(seeds)}")
    lines = [[_cell(name), *_figures(runs)] for name, runs in seeds.items()]
    head = list(HEAD)
    if against is not None:
        head.append(f"rsum less {_cell(against)}")
        means = {name: _mean(runs, "rsum") for name, runs in seeds.items()}
        for line, mean in zip(lines, means.values()):
            line.append(f"{round(mean - means[against], 1) + 0.0:+.1f}")  # + 0.0: no -0.0
    marks = "|".join(["---"] * len(head))
    table = "\n".join([f"| {' | '.join(head)} |", f"|{marks}|", *(f"| {' | '.join(line)} |" for line in lines)])
    return f"Means over the seeds; rsum ± {SPREAD} of them.\n\n{table}"


def _numbers(row: dict[str, str], place: str) -> dict[str, float]:
    """The figures of a row; NaN where an optional one is blank."""
    found = {}
    for column in ("minutes", *FIGURES):
        if not row[column] and column in OPTIONAL:
            found[column] = np.nan
            continue
        try:
            found[column] = float(row[column])
        except ValueError:
            found[column] = np.nan
        if not np.isfinite(found[column]):  # "nan" and "inf" are floats, but damaged figures
            raise UserError(f"{place}: {column}: {row[column]!r} is no number")
    return found


def _figures(runs: Sequence[dict[str, float]]) -> list[str]:
    """The cells of a set after its name."""
    cells = [str(len(runs)), f"{_mean(runs, 'minutes'):.1f}"]
    for way in ("i2t", "t2i"):
        cells.append(" / ".join(f"{_mean(runs, f'{way}_R@{k}'):.1f}" for k in (1, 5, 10)))
        cells.append(f"{_mean(runs, f'{way}_MedR'):.1f}")
    rsum = [run["rsum"] for run in runs]
    spread = f" ± {(max(rsum) - min(rsum)) / 2:.1f}" if len(runs) > 1 else ""  # one seed has none
    cells.append(f"{_mean(runs, 'rsum'):.1f}{spread}")
    parts = (_mean(runs, column) for column in OPTIONAL)
    return [*cells, *("" if np.isnan(part) else f"{part:.1f}" for part in parts)]


def _mean(runs: Sequence[dict[str, float]], column: str) -> float:
    return float(np.mean([run[column] for run in runs]))


def _cell(name: str) -> str:
    """A name that does not end its cell."""
    return name.replace("|", r"\|")
