"""The rows of each table of a reproduction: ours from the measured runs, and those that others have printed."""

from __future__ import annotations

from collections.abc import Sequence

from bssan_tf.evaluation.paper import CITED_BY_PAPER, PAPER_TABLES, TITLES, VGG_ERA
from bssan_tf.evaluation.report import ROW_NAMES
from bssan_tf.reproduction.measured import CCA, collapse_of
from bssan_tf.reproduction.plan import NEEDED, POINTS, SYMBOLS, TABLES, TEXT, VARIANTS, Plan, Training
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
    return _row(plan, f"{SYMBOLS[key]} = {value:g}", row, values)


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
