"""What a reader must know below a table or figure: what was measured, on which runs, and how a picture is read.

In: a plan whose runs are trained and measured. Out: lines of Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bssan_tf.evaluation.report import heading_of
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.measured import CLEARLY, chance_of, collapse_of
from bssan_tf.reproduction.plan import DELTAS, LAMBDAS, MEASURED, NEEDED, SEARCH, SHOWN, TABLES, VARIANTS, Plan
from bssan_tf.reproduction.search import best_of, chosen_runs, grid_of, name_of, validation_report
from bssan_tf.reproduction.tables import Row, cells_of, fate_of

LEGENDS = {
    "figure5": "The best sentence stands first. ✓, green: of this picture. ✗, red: of another picture.",
    "figure6": "A row for each variant, the best picture on the left. A green frame: the picture of this sentence.",
    "figure7": "A tile for each word, with the word's attention α to places as heat. Full heat (`most`) is the word's "
    "strongest place, but at least four times the even share: a word that looks everywhere stays cool.",
    "figure8": "A line for each of the three surest objects, in the colour of its box: its attention β to each word. "
    "The dotted line is the even share.",
    "figure9": "Recalls over λ (left) and δ (right). Wide lines are means of the seeds; of several seeds, each has a "
    "thin line.",
}
_RULE = (
    "Collapse: the run's `early_signs.csv` shows the sign of collapse, and the 95 % interval of its rsum is not all "
    f"above {CLEARLY} times chance, or a tenth of the way from chance to 600 where that is less. "
    "Its step stands in place of its numbers, which are in the CSV."
)


def notes_of(materials: Materials, what: str, rows: Sequence[Row], values: dict[str, dict]) -> str:
    """The lines below a table or figure; "" for none."""
    plan, notes = materials.plan, []
    if what in LEGENDS:
        notes.append(LEGENDS[what])
    if what in MEASURED:
        notes += _measured(plan, what, rows, values)
    if what in TABLES:
        notes += _beside_paper(materials, what, values)
    if what in SHOWN:
        notes += _shown_runs(plan, what, values)
    if what == "figure9":
        told = "Points of δ have λ = {:g}, points of λ have δ = {:g}".format(*_own_point(plan))
        notes.append(f"{told}; δ = 0 is BSSAN_no_reg.")
    if what == SEARCH:
        notes += _searched(plan, values)
    if what in (*MEASURED, SEARCH) and len(plan.seeds) > 1:
        seeds = ", ".join(map(str, plan.seeds))
        notes.append(f"Means of seeds {seeds} ± half the distance of the lowest to the highest.")
    if what in NEEDED:
        notes.append(_trained(plan, what))
    return "\n".join(f"- {note}" for note in notes)


def _measured(plan: Plan, what: str, rows: Sequence[Row], values: dict[str, dict]) -> Iterator[str]:
    """What the numbers of a table are of, and which rows have collapsed."""
    value = values[plan.runs(NEEDED[what][0])[0].name]
    yield f"Ours: {heading_of(value)}. Chance is an rsum of {chance_of(value):.1f}."
    if lost := [row for row in rows if fate_of(row)]:
        yield _RULE
        if what == "figure9":
            told = "; ".join(f"{row.name}, {fate_of(row)}" for row in lost)
            yield f"The curves leave out runs that collapsed, and × marks a point that has no other: {told}."


def _beside_paper(materials: Materials, what: str, values: dict[str, dict]) -> Iterator[str]:
    """How ours differs from the printed rows, and which preset of ours does."""
    plan = materials.plan
    by_preset = {preset: values[plan.runs("bssan", preset)[0].name] for preset in plan.presets}
    corpus = by_preset[plan.leading]["corpus"]
    if corpus != TABLES[what]:
        yield f"The printed rows are of {TABLES[what]}: other pictures, not comparable with ours."
    having: dict[str, list[str]] = {}
    for preset, value in by_preset.items():
        for phrase in value.get("differs", ()):
            having.setdefault(phrase, []).append(preset)
    for phrase, presets in having.items():
        of = "" if len(presets) == len(by_preset) else " (`{}`)".format("`, `".join(presets))
        yield f"Our setting{of}: {phrase}."
    if materials.why_no_cca:
        yield f"No rows of CCA: {materials.why_no_cca}."
    yield "2WayNet: its released code counts ranks from 0, so that its R@1 may be R@2."


def _shown_runs(plan: Plan, what: str, values: dict[str, dict]) -> Iterator[str]:
    """What the runs of a figure can do, so that nobody reads a picture of chance as one of the method."""
    for row in NEEDED[what]:
        training = plan.runs(row)[0]
        report = values.get(training.name) or validation_report(training)
        fate = fate_of(Row("", [report], collapse=[collapse_of(training, report)]))
        told = fate or f"rsum {report['rsum']:.1f}, chance {chance_of(report):.1f}"
        yield f"{VARIANTS[row][0]}: {told} ({heading_of(report)})."


def _searched(plan: Plan, values: dict[str, dict]) -> Iterator[str]:
    """What the cells of the grid are, and what the chosen point is worth on the measured split."""
    runs = chosen_runs(plan)
    shown, reports = validation_report(runs[0]), [values[one.name] for one in runs]
    best = f"Each cell is the rsum of a run at its best epoch on its validation pictures ({heading_of(shown)})"
    yield f"{best}; chance is {chance_of(shown):.1f}."
    split, chosen = heading_of(reports[0]), name_of(best_of(grid_of(plan)))
    interval = " (95 % interval {:.1f} to {:.1f})".format(*reports[0]["intervals"]["rsum"]) if len(runs) == 1 else ""
    rsum, chance = cells_of(Row("", reports))[-1], chance_of(reports[0])
    yield f"Chosen, as the highest: {chosen}. Its rsum on {split} is {rsum}{interval}; chance is {chance:.1f}."
    if reports[0]["split"] == "val":
        yield "The validation pictures are among those: the chosen point is measured partly on what chose it."
    yield f"Figure 9 is measured on {split}, too: the same λ and δ have other numbers there than in this grid."
    for symbol, value, grid in zip("λδ", _own_point(plan), (LAMBDAS, DELTAS)):
        if value not in grid:
            yield f"The {symbol} of BSSAN in the other tables, {value:g}, is no point of this grid."


def _own_point(plan: Plan) -> tuple[float, float]:
    """λ and δ where Figure 9 does not change them."""
    return plan.runs("delta0.1")[0].config.model.o2w_weight, plan.runs("lambda0.4")[0].config.training.l2


def _trained(plan: Plan, what: str) -> str:
    """Preset, size and epochs of the runs."""
    configs = {
        preset: plan.runs(NEEDED[what][-1], preset)[0].config
        for preset in (plan.presets if what in TABLES else [plan.leading])
    }
    told = [
        f"preset `{preset}`, size `{config.size}`, at most {config.training.epochs} epochs"
        for preset, config in configs.items()
    ]
    return f"Trained: {'; '.join(told)}."
