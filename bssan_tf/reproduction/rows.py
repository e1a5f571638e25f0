"""The rows of each table of a reproduction: ours from the measured runs, and those that others have printed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bssan_tf.evaluation.paper import CITED_BY_PAPER, PAPER_TABLES, TITLES, VGG_ERA
from bssan_tf.evaluation.report import ROW_NAMES
from bssan_tf.reading.documents import read_json
from bssan_tf.reproduction.measured import CCA, collapse_of
from bssan_tf.reproduction.plan import (
    DELTAS,
    GRID,
    LAMBDAS,
    NEEDED,
    POINTS,
    SYMBOLS,
    TABLES,
    TEXT,
    VARIANTS,
    Plan,
    Training,
)
from bssan_tf.reproduction.tables import Row


def rows_of(plan: Plan, what: str, values: dict[str, dict]) -> list[Row]:
    """The rows of a table of retrieval; none for what is no such table."""
    if what in TABLES:
        return _table(plan, what, values)
    if what == "text":
        return [_row(plan, {**VARIANTS, **TEXT}[row][0], row, values) for row in NEEDED["text"]]
    if what == "figure9":
        return [_point(plan, row, values) for row in POINTS]
    return []


def _point(plan: Plan, row: str, values: dict[str, dict]) -> Row:
    ((key, value),) = POINTS[row].items()
    reports = [values[training.name] for training in plan.runs(row)]
    return Row(f"{SYMBOLS[key]} = {value:g}", reports, runs=_folders(plan.runs(row)))


def _table(plan: Plan, what: str, values: dict[str, dict]) -> list[Row]:
    corpus, own = TABLES[what], values[plan.baseline().name]["corpus"]
    rows = []
    for preset in plan.presets:
        for row, (name, _) in VARIANTS.items():
            rows.append(_row(plan, f"{name} (`{preset}`)" if len(plan.presets) > 1 else name, row, values, preset))
    runs = [f"{folder} (its data)" for folder in _folders([plan.baseline()])]
    rows += [Row(ROW_NAMES[key], [report], runs=runs) for key, report in values.get(CCA, {}).items()]
    rows += _printed(f"printed in the paper, {TITLES[corpus]}", PAPER_TABLES[corpus])
    rows += _printed(f"others, as the paper's {TITLES[corpus]} prints them", CITED_BY_PAPER[corpus])
    for era in dict.fromkeys([corpus, own]):
        rows += _printed(f"others with VGG features on {era}, 1,000 images, as they print it", VGG_ERA.get(era, {}))
    return rows


def _row(plan: Plan, name: str, row: str, values: dict[str, dict], preset: str | None = None) -> Row:
    trainings = plan.runs(row, preset)
    reports = [values[one.name] for one in trainings]
    steps = [collapse_of(one, report) for one, report in zip(trainings, reports)]
    return Row(name, reports, collapse=steps, runs=_folders(trainings))


def _folders(trainings: Sequence[Training]) -> list[str]:
    return [str(training.run.path) for training in trainings]


def _printed(group: str, rows: dict) -> list[Row]:
    return [Row(name, printed=numbers, group=group) for name, numbers in rows.items()]


def grid_of(plan: Plan) -> dict[tuple[float, float], list[float]]:
    """The best rsum on the validation pictures at each (λ, δ) of a grid search, one a seed."""
    found = {}
    for row, settings in GRID.items():
        found[settings["o2w_weight"], settings["l2"]] = [validation_rsum(training) for training in plan.runs(row)]
    return found


def grid_table(found: dict[tuple[float, float], list[float]]) -> str:
    """The same in Markdown, means over the seeds, the best in bold."""
    means = {point: float(np.mean(rsums)) for point, rsums in found.items()}
    best = max(means, key=means.get)
    lines = ["| λ \\ δ | " + " | ".join(f"{delta:g}" for delta in DELTAS) + " |", "|" + "---|" * (1 + len(DELTAS))]
    for lam in LAMBDAS:
        marks = ["**" if (lam, delta) == best else "" for delta in DELTAS]
        shown = [f"{mark}{means[lam, delta]:.1f}{mark}" for mark, delta in zip(marks, DELTAS)]
        lines.append(f"| {lam:g} | " + " | ".join(shown) + " |")
    chosen = f"Highest rsum on the validation pictures, each run at its best epoch: λ = {best[0]:g}, δ = {best[1]:g}."
    return "\n".join([*lines, "", chosen])


def validation_rsum(training: Training) -> float:
    """The rsum that a run had on its validation pictures at its best epoch."""
    return read_json(training.run.metrics_file, "train the run anew")["rsum"]
