"""The grid search of λ and δ (section IV-C): what each point reached on the validation pictures, and the best one.

In: a plan whose runs are trained. Out: numbers, and the table as Markdown and CSV.
"""

from __future__ import annotations

import numpy as np

from bssan_tf.reading.documents import read_json
from bssan_tf.reproduction.plan import DELTAS, GRID, LAMBDAS, SEARCH, Plan, Training

Point = tuple  # (λ, δ)


def validation_report(training: Training) -> dict:
    """What a run reached on its validation pictures at its best epoch."""
    return read_json(training.run.metrics_file, "train the run anew")


def grid_of(plan: Plan) -> dict[Point, list[float]]:
    """The best rsum on the validation pictures at each (λ, δ) of a grid search, one a seed."""
    return {point: [validation_report(one)["rsum"] for one in runs] for point, runs in runs_of(plan).items()}


def runs_of(plan: Plan) -> dict[Point, list[Training]]:
    """The trainings of each (λ, δ), one a seed."""
    return {(point["o2w_weight"], point["l2"]): plan.runs(row) for row, point in GRID.items()}


def name_of(point: Point) -> str:
    """A point of the grid as it is called on the page."""
    return "λ = {:g}, δ = {:g}".format(*point)


def best_of(found: dict[Point, list[float]]) -> Point:
    """The point of the highest mean rsum."""
    return max(found, key=lambda point: np.mean(found[point]))


def chosen_runs(plan: Plan) -> list[Training]:
    """The trainings of the best point, one a seed; none without a search, or before all of its runs have ended."""
    if SEARCH not in plan.what:
        return []
    runs = runs_of(plan)
    ended = all(one.run.metrics_file.exists() for some in runs.values() for one in some)
    return runs[best_of(grid_of(plan))] if ended else []


def grid_table(found: dict[Point, list[float]]) -> str:
    """The grid in Markdown, means over the seeds, the best in bold."""
    best = best_of(found)
    lines = ["| λ \\ δ | " + " | ".join(f"{delta:g}" for delta in DELTAS) + " |", "|" + "---|" * (1 + len(DELTAS))]
    for lam in LAMBDAS:
        marks = ["**" if (lam, delta) == best else "" for delta in DELTAS]
        shown = [f"{mark}{np.mean(found[lam, delta]):.1f}{mark}" for mark, delta in zip(marks, DELTAS)]
        lines.append(f"| {lam:g} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def grid_csv(plan: Plan, found: dict[Point, list[float]], columns: tuple[str, ...]) -> str:
    """The grid as CSV, a line a run, without intervals."""
    lines = [",".join(columns)]
    for point, runs in runs_of(plan).items():
        for training, rsum in zip(runs, found[point]):
            lines.append(f"{SEARCH},{name_of(point).replace(',', '')},{training.run.path},validation,rsum,{rsum},,")
    return "\n".join(lines) + "\n"
