"""From a plan to its page: everything trained, measured, drawn, and written into one folder.

reproduction/NAME/index.md  table2.md  table2.tex  table2.csv  ...  figure5.png  figure5.pdf  ...  numbers.csv
                  measured/ (reports of the runs)  logs/ (of the trainings)  lock

Each table or figure has a part of its own; index.md and numbers.csv are made of all parts that the folder has, also of
earlier calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import Request
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.measured import command_of, kept_report, measure_all, to_measure
from bssan_tf.reproduction.notes import notes_of
from bssan_tf.reproduction.pictures import draw
from bssan_tf.reproduction.plan import MEASURED, NEEDED, SEARCH, TABLES, WHAT, Plan
from bssan_tf.reproduction.progress import steps, told_once
from bssan_tf.reproduction.rows import rows_of
from bssan_tf.reproduction.search import chosen_runs, grid_csv, grid_of, grid_table, name_of, runs_of
from bssan_tf.reproduction.tables import CSV_COLUMNS, Row, csv_of, latex, latex_of, layers_csv, layers_table, markdown
from bssan_tf.reproduction.trainings import TRAINING, finished, train_all
from bssan_tf.tools.files import locked, write_text

HEADINGS = {
    "table1": "Table I: network structure",
    "table2": "Table II: retrieval, beside Flickr30K's printed rows",
    "table3": "Table III: retrieval, beside COCO's printed rows",
    "figure5": "Figure 5: the five best sentences of four pictures",
    "figure6": "Figure 6: the five best pictures of two sentences, under each variant",
    "figure7": "Figure 7: where words look (W2R)",
    "figure8": "Figure 8: at which words objects look (O2W)",
    "figure9": "Figure 9: sensitivity to λ and δ",
    SEARCH: "Grid search of λ and δ (section IV-C)",
    "text": "Claims of the text: CNN for LSTM (section IV-A), a fully connected layer for the sum (section IV-C)",
}


def reproduce(
    plan: Plan,
    request: Request,
    photos: Sequence[str] = (),
    caption: int = 1,
    devices: str = "auto",
    command: str = "",
    progress: bool = True,
) -> Path:
    """Make everything of a plan; what is finished is used again. Returns the page.

    Args:
        request: how the runs are measured; its `out` and `baseline` are set here.
        photos, caption: images for Figures 5 to 8, or none for seeded ones, and which of their captions.
        devices: of the trainings, see `make_strategy`.
        command: the call, for the page.

    Raises:
        UserError: as `Materials`, before anything is trained; a training that fails; another call makes the same.
    """
    with told_once():
        materials = Materials(plan, request, photos, progress)
        return _make(materials, caption, devices, command, progress)


def _make(materials: Materials, caption: int, devices: str, command: str, progress: bool) -> Path:
    plan = materials.plan
    plan.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{plan.folder}: is being made by another call, or by the last training of a killed one; wait for it"
    with locked(plan.folder / "lock", busy) as lock, steps(_work(materials), progress) as step:
        train_all(plan, devices, lock, step)
        values = measure_all(materials, step)
        for what in plan.what:
            with step(f"writing {what}", 1):
                _write_part(materials, what, values, caption, command)
        return _write_page(plan.folder, plan.name)


def _work(materials: Materials) -> int:
    """How much is left to do, in steps of a measurement."""
    trainings = [one for one in materials.plan.distinct() if not finished(one.run)]
    unmeasured = [
        name
        for name, training in to_measure(materials).items()
        if training in trainings or kept_report(materials, name, training) is None
    ]
    plan = materials.plan
    later = len(plan.seeds) if SEARCH in plan.what and not chosen_runs(plan) else 0  # the point that will be chosen
    return TRAINING * len(trainings) + len(unmeasured) + later + len(plan.what)


def _write_part(materials: Materials, what: str, values: dict, caption: int, command: str) -> None:
    """One table or figure: its Markdown with all that belongs to it, LaTeX and CSV for tables."""
    plan, rows = materials.plan, rows_of(materials.plan, what, values)
    parts = [f"## {HEADINGS[what]}"]
    if what.startswith("figure"):
        parts += _pictures(materials, what, values, caption)
    if rows:
        parts.append(markdown(rows))
        write_text(plan.folder / f"{what}.tex", latex(rows, HEADINGS[what]))
        write_text(plan.folder / f"{what}.csv", csv_of(what, rows))
    if what == "table1":
        parts.append(layers_table(networks := _networks(plan)))
        write_text(plan.folder / f"{what}.tex", latex_of(parts[-1], HEADINGS[what]))
        write_text(plan.folder / f"{what}.csv", layers_csv(networks))
    if what == SEARCH:
        found = grid_of(plan)
        parts.append(grid_table(found))
        write_text(plan.folder / f"{what}.tex", latex_of(parts[-1], HEADINGS[what]))
        write_text(plan.folder / f"{what}.csv", grid_csv(plan, found, CSV_COLUMNS))
    notes = notes_of(materials, what, rows, values)
    parts += [notes, _runs(materials, what, rows), f"Made by `{command}`." if command else ""]
    write_text(plan.folder / f"{what}.md", "\n\n".join(part for part in parts if part) + "\n")


def _pictures(materials: Materials, what: str, values: dict, caption: int) -> list[str]:
    """The pictures of a figure, or why there are none."""
    try:
        drawn = draw(materials, what, values, caption)
    except UserError as error:
        return [f"Not drawn: {error}"]
    return [f"![{HEADINGS[what]}]({name}.png)" for name in drawn] or [
        "Not drawn: the run's features have no such data."
    ]


def _networks(plan: Plan) -> dict[str, Config]:
    """Configs of the networks of Table I, by a title each: the paper's, and ours as each preset is trained."""
    configs = {"`paper` at the printed size, as built": preset("paper", "paper", data="flickr30k")}
    for preset_name in plan.presets:
        trained = {row: one for (name, row, _), one in plan.trainings.items() if name == preset_name}
        if training := trained.get("bssan", next(iter(trained.values()), None)):
            configs[f"`{preset_name}`, `{training.config.size}`, as trained here"] = training.run.load_config()
    return configs


def _runs(materials: Materials, what: str, rows: Sequence[Row]) -> str:
    """The runs of each row, and the commands that make and measure them."""
    plan, names = materials.plan, {}
    named = [(row.name, run) for row in rows for run in row.runs]
    if what == SEARCH:
        named = [(name_of(point), str(one.run.path)) for point, runs in runs_of(plan).items() for one in runs]
    for name, run in named:
        names.setdefault(run, []).append(name)
    lines, needed, presets = [], NEEDED.get(what, ()), plan.presets if what in TABLES else (plan.leading,)
    shown = [one for (preset, row, _), one in plan.trainings.items() if preset in presets and row in needed]
    measured = shown if what in MEASURED else chosen_runs(plan) if what == SEARCH else []
    for training in plan.distinct():
        if training in shown:
            told = names.get(str(training.run.path))
            lines.append(f"# {training.run.path}" + (f": {', '.join(told)}" if told else ""))
            lines.append(training.run.command_file.read_text(encoding="utf-8").rstrip())
            if training in measured:
                lines.append(command_of(training.run, materials.request))
    text = "\n".join(lines)
    return f"<details><summary>Runs and commands</summary>\n\n```\n{text}\n```\n\n</details>" if lines else ""


def _write_page(folder: Path, name: str) -> Path:
    """index.md and numbers.csv of all parts that the folder has."""
    order = [*WHAT[:-1], SEARCH, WHAT[-1]]
    parts, tables = (
        [path.read_text(encoding="utf-8") for what in order if (path := folder / f"{what}{ending}").exists()]
        for ending in (".md", ".csv")
    )
    lines = [line for table in tables for line in table.splitlines()[1:]]
    write_text(folder / "numbers.csv", "\n".join([",".join(CSV_COLUMNS), *lines]) + "\n")
    told = "All numbers: [numbers.csv](numbers.csv). All recalls and ranks but the grid search's have 95 % "
    told += "intervals. Tables are also `.tex`, figures also `.pdf`."
    write_text(folder / "index.md", "\n".join([f"# The paper's tables and figures: {name}\n", f"{told}\n", *parts]))
    return folder / "index.md"
