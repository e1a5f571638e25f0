"""From a plan to its page: everything trained, measured, drawn, and written into one folder.

reproduction/NAME/index.md  table2.md  table2.tex  ...  figure5.png  figure5.pdf  ...  numbers.csv
                  measured/ (reports of the runs)  logs/ (of the trainings)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.config.schema import Config
from bssan_tf.evaluation.paper import CITED_BY_PAPER, PAPER_TABLES, TITLES, VGG_ERA
from bssan_tf.evaluation.report import ROW_NAMES
from bssan_tf.evaluation.scores import Request
from bssan_tf.reading.documents import read_json
from bssan_tf.reproduction.measured import (
    collapse_of,
    command_of,
    kept_report,
    measure_all,
    report_file,
    request_of,
)  # fmt: skip
from bssan_tf.reproduction.pictures import curves_of, draw
from bssan_tf.reproduction.plan import DELTAS, LAMBDAS, TABLES, TEXT, VARIANTS, Plan, Training, require_settings
from bssan_tf.reproduction.tables import Row, csv_of, latex, layers_table, markdown
from bssan_tf.reproduction.trainings import TRAINING, finished, train_all
from bssan_tf.tools.files import write_text

HEADINGS = {
    "table1": "Table I: network structure",
    "table2": "Table II: retrieval, beside Flickr30K's printed rows",
    "table3": "Table III: retrieval, beside COCO's printed rows",
    "figure5": "Figure 5: the five best sentences of four pictures",
    "figure6": "Figure 6: the five best pictures of two sentences, under each variant",
    "figure7": "Figure 7: where words look (W2R)",
    "figure8": "Figure 8: at which words objects look (O2W)",
    "figure9": "Figure 9: sensitivity to λ and δ",
    "text": "Claims of the text",
}


def reproduce(
    plan: Plan, request: Request, printed: Config, photos: Sequence[str] = (), command: str = "", progress: bool = True
) -> Path:
    """Make everything of a plan; what is finished is used again. Returns the page.

    Args:
        request: how the runs are measured; its `out` and `baseline` are set here.
        printed: the config of the paper's own networks, for Table I.
        photos: images for Figures 5 to 8, or none for seeded ones.
        command: the call, for the page.

    Raises:
        UserError: a run of that name with other flags, a training that fails, as `evaluate` and `pictures.draw`.
    """
    require_settings(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    figures = [what for what in plan.what if what.startswith("figure") and not (plan.search and what == "figure9")]
    with _steps(_work(plan, request) + len(figures), progress) as step:
        train_all(plan, step)
        values = measure_all(plan, request, step)
        drawn = {}
        for what in figures:
            with step(f"drawing {what}", 1):
                drawn[what] = draw(plan, what, request, values, photos)
    rows = {what: found for what in plan.what if (found := rows_of(plan, what, values))}
    texts = {what: _section(plan, what, rows.get(what, ()), values, drawn.get(what, ()), printed) for what in plan.what}
    for what, found in rows.items():
        write_text(plan.folder / f"{what}.md", markdown(found) + "\n")
        write_text(plan.folder / f"{what}.tex", latex(found, HEADINGS[what]))
    write_text(plan.folder / "numbers.csv", csv_of(rows))
    parts = [_head(plan, command), *(f"## {HEADINGS[what]}\n\n{text}" for what, text in texts.items())]
    page = plan.folder / "index.md"
    write_text(page, "\n\n".join([*parts, _runs(plan, request)]) + "\n")
    return page


def _work(plan: Plan, request: Request) -> int:
    """How much is left to train and to measure, in steps of a measurement."""
    trainings = sum(TRAINING for training in plan.distinct() if not finished(training.run))
    measured = 0
    for training in plan.measured():
        done = finished(training.run) and kept_report(
            report_file(plan, training), training.run, request_of(plan, training, request)
        )
        measured += not done
    return trainings + measured


@contextmanager
def _steps(total: int, progress: bool) -> Iterator:
    """A bar over the whole plan, which gives the time left."""
    with tqdm(total=total, desc="reproduction", unit="step", disable=not progress) as bar:

        @contextmanager
        def step(what: str, share: int) -> Iterator[None]:
            bar.set_description(what)
            yield
            bar.update(share)

        yield step


def rows_of(plan: Plan, what: str, values: dict[str, dict]) -> list[Row]:
    """The rows of a table of retrieval, ours and printed ones; none for what is no such table."""
    if what in TABLES:
        several, rows = len(plan.presets) > 1, []
        for preset in plan.presets:
            for row, (name, _) in VARIANTS.items():
                rows.append(_row(plan, f"{name} (`{preset}`)" if several else name, row, values, preset))
        corpus = TABLES[what]
        rows += _baselines(values[plan.baseline().name])
        rows += _printed(f"printed in the paper, {TITLES[corpus]}", PAPER_TABLES[corpus])
        rows += _printed(f"others, as the paper's {TITLES[corpus]} prints them", CITED_BY_PAPER[corpus])
        own = values[plan.baseline().name]["corpus"]
        for era in dict.fromkeys([corpus, own]):
            rows += _printed(f"others with VGG features on {era}, as they print it", VGG_ERA.get(era, {}))
        return rows
    if what == "text":
        return [_row(plan, {**VARIANTS, **TEXT}[row][0], row, values) for row in ("w2r", "w2r_cnn", "bssan", "fc")]
    if what == "figure9" and not plan.search:
        reports = curves_of(plan, values)
        return [
            Row(f"{name} = {value:g}", found, runs=[training.name for training in plan.runs(_point(name, value))])
            for name, points in reports.items()
            for value, found in points.items()
        ]
    return []


def _point(name: str, value: float) -> str:
    return f"{'lambda' if name == 'λ' else 'delta'}{value:g}"


def _row(plan: Plan, name: str, row: str, values: dict[str, dict], preset: str | None = None) -> Row:
    trainings = plan.runs(row, preset)
    reports, names = [values[one.name] for one in trainings], [one.name for one in trainings]
    return Row(name, reports, collapse=[collapse_of(one) for one in trainings], runs=names)


def _baselines(value: dict) -> list[Row]:
    found = value.get("baselines", {})
    shared = {"n_images": value["n_images"], "n_captions": value["n_captions"], "protocol": value["protocol"]}
    return [
        Row(ROW_NAMES[key], [{**shared, **report}], runs=[f"{value['run']} {key}"]) for key, report in found.items()
    ]


def _printed(group: str, rows: dict) -> list[Row]:
    return [Row(name, printed=numbers, group=group) for name, numbers in rows.items()]


def _section(plan: Plan, what: str, rows: Sequence[Row], values: dict, drawn: Sequence[str], printed: Config) -> str:
    """What the page says of one table or figure."""
    if what == "table1":
        configs = {"as printed (`paper`)": printed}
        trained = next(iter(plan.trainings.values()), None)
        if trained:
            configs[f"as trained here (`{plan.leading}`, `{trained.config.size}`)"] = plan_config(plan)
        return layers_table(configs)
    if what == "figure9" and plan.search:
        return _grid(plan)
    pictures = "\n\n".join(f"![{HEADINGS[what]}]({name}.png)" for name in drawn)
    return "\n\n".join(part for part in (pictures, markdown(rows) if rows else "", _notes(plan, what, values)) if part)


def plan_config(plan: Plan) -> Config:
    """The config of BSSAN, or of another row, as it was trained: with the sizes that the data decided."""
    runs = [training.run for (_, row, _), training in plan.trainings.items() if row == "bssan"]
    return (runs or [next(iter(plan.trainings.values())).run])[0].load_config()


def _notes(plan: Plan, what: str, values: dict[str, dict]) -> str:
    """What a reader must know beside a table."""
    notes = []
    if what in TABLES:
        value = values[plan.baseline().name]
        counts = f"{value['n_images']:,} images, {value['n_captions']:,} captions"
        notes.append(f"Ours: {value['corpus']}, split {value['split']}, {counts}.")
        if value["corpus"] != TABLES[what]:
            notes.append(f"The printed rows are of {TABLES[what]}: other pictures, not comparable with ours.")
        notes += [f"Our setting: {phrase}." for phrase in value.get("differs", ())]
    if what == "figure9":
        notes.append("The points of δ have the preset's λ, those of λ the preset's δ. δ = 0 is BSSAN_no_reg.")
    if what in (*TABLES, "text", "figure9") and len(plan.seeds) > 1:
        notes.append(
            f"Means of seeds {', '.join(map(str, plan.seeds))} ± half the distance of the lowest to the highest."
        )
    if what in ("text", "figure9") or what.startswith("figure"):
        notes.append(f"Preset `{plan.leading}`.")
    return "\n".join(f"- {note}" for note in notes)


def _grid(plan: Plan) -> str:
    """The grid search of section IV-C, on the validation split: best rsum of each λ and δ, mean of the seeds."""
    found = {
        (lam, delta): np.mean([validation_rsum(one) for one in plan.runs(f"lambda{lam:g}-delta{delta:g}")])
        for lam in LAMBDAS
        for delta in DELTAS
    }
    best = max(found, key=found.get)
    lines = ["| λ \\ δ | " + " | ".join(f"{delta:g}" for delta in DELTAS) + " |", "|" + "---|" * (1 + len(DELTAS))]
    for lam in LAMBDAS:
        shown = (
            f"**{found[lam, delta]:.1f}**" if (lam, delta) == best else f"{found[lam, delta]:.1f}" for delta in DELTAS
        )
        lines.append(f"| {lam:g} | " + " | ".join(shown) + " |")
    chosen = f"Best rsum on the validation split: λ = {best[0]:g}, δ = {best[1]:g}. Preset `{plan.leading}`."
    return "\n".join([*lines, "", chosen])


def validation_rsum(training: Training) -> float:
    """The best rsum that a run had on its validation pictures."""
    return read_json(training.run.metrics_file, "train the run anew")["rsum"]


def _head(plan: Plan, command: str) -> str:
    made = f"Made by\n\n```\n{command}\n```\n\n" if command else ""
    told = (
        "All numbers, with 95 % intervals: [numbers.csv](numbers.csv). Tables for LaTeX: `*.tex`. Figures: PNG and PDF."
    )
    return f"# The paper's tables and figures: {plan.name}\n\n{made}{told}"


def _runs(plan: Plan, request: Request) -> str:
    """For each run, the commands that make and measure it."""
    lines = ["## Runs", "", "Each run by its own command, in its own folder, and how it was measured.", "", "```"]
    measured = plan.measured()
    for training in plan.distinct():
        lines.append(training.run.command_file.read_text(encoding="utf-8").rstrip())
        if training in measured:
            lines.append(command_of(training.run, request_of(plan, training, request)))
    return "\n".join([*lines, "```"])
