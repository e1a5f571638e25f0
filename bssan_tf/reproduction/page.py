"""From a plan to its page: everything trained, measured, drawn, and written into one folder.

reproduction/NAME/index.md  table2.md  table2.tex  table2.csv  ...  figure5.png  figure5.pdf  ...  numbers.csv
                  measured/ (reports of the runs)  logs/ (of the trainings)  lock

Each table or figure has a part of its own; index.md and numbers.csv are made of all parts that the folder has, also of
earlier calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import Request
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.measured import command_of, kept_report, measure_all, to_measure
from bssan_tf.reproduction.pictures import draw
from bssan_tf.reproduction.plan import MEASURED, NEEDED, SEARCH, TABLES, WHAT, Plan
from bssan_tf.reproduction.rows import grid_of, grid_table, rows_of
from bssan_tf.reproduction.tables import CSV_COLUMNS, Row, csv_of, latex, layers_table, markdown
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
    materials = Materials(plan, request, photos, progress)
    plan.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{plan.folder}: is being made by another call, or by the last training of a killed one; wait for it"
    with locked(plan.folder / "lock", busy) as lock, _steps(_work(materials), progress) as step:
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
    return TRAINING * len(trainings) + len(unmeasured) + len(materials.plan.what)


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
        parts.append(layers_table(_networks(plan)))
    if what == SEARCH:
        found = grid_of(plan)
        parts.append(grid_table(found))
        write_text(plan.folder / f"{what}.csv", _grid_csv(plan, found))
    parts += [_notes(materials, what, values), _runs(materials, what, rows), f"Made by `{command}`." if command else ""]
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
    """Configs of the networks of Table I, by a title each: the paper's, and ours as it is trained."""
    configs = {"`paper` at the printed size, as built": preset("paper", "paper", data="flickr30k")}
    trained = [one for (_, row, _), one in plan.trainings.items() if row == "bssan"] or plan.distinct()
    for training in trained[:1]:
        title = f"`{training.config.preset}`, `{training.config.size}`, as trained here"
        configs[title] = training.run.load_config()
    return configs


def _notes(materials: Materials, what: str, values: dict) -> str:
    """What a reader must know beside a table."""
    plan, notes = materials.plan, []
    if what in TABLES:
        value = values[plan.baseline().name]
        counts = f"{value['n_images']:,} images, {value['n_captions']:,} captions"
        notes.append(f"Ours: {value['corpus']}, split {value['split']}, {counts}.")
        if value["corpus"] != TABLES[what]:
            notes.append(f"The printed rows are of {TABLES[what]}: other pictures, not comparable with ours.")
        notes += [f"Our setting: {phrase}." for phrase in value.get("differs", ())]
        notes += [f"No rows of CCA: {materials.why_no_cca}."] if materials.why_no_cca else []
        notes.append("2WayNet: its released code counts ranks from 0, so that its R@1 may be R@2.")
    if what == "figure9":
        lam, delta = plan.runs("delta0.1")[0].config, plan.runs("lambda0.4")[0].config
        told = f"Points of δ have λ = {lam.model.o2w_weight:g}, points of λ have δ = {delta.training.l2:g}"
        notes.append(f"{told}; δ = 0 is BSSAN_no_reg.")
    if what in (*MEASURED, SEARCH) and len(plan.seeds) > 1:
        seeds = ", ".join(map(str, plan.seeds))
        notes.append(f"Means of seeds {seeds} ± half the distance of the lowest to the highest.")
    if what not in (*TABLES, "table1"):
        notes.append(f"Preset `{plan.leading}`.")
    return "\n".join(f"- {note}" for note in notes)


def _runs(materials: Materials, what: str, rows: Sequence[Row]) -> str:
    """The runs of each row, and the commands that make and measure them."""
    plan, names = materials.plan, {}
    for row in rows:
        for run in row.runs:
            names.setdefault(run, []).append(row.name)
    lines, needed = [], NEEDED.get(what, ())
    for training in plan.distinct():
        if any(one == training and row in needed for (_, row, _), one in plan.trainings.items()):
            told = names.get(str(training.run.path))
            lines.append(f"# {training.run.path}" + (f": {', '.join(told)}" if told else ""))
            lines.append(training.run.command_file.read_text(encoding="utf-8").rstrip())
            if what in MEASURED:
                lines.append(command_of(training.run, materials.request))
    shown = "\n".join(lines)
    return f"<details><summary>Runs and commands</summary>\n\n```\n{shown}\n```\n\n</details>" if lines else ""


def _grid_csv(plan: Plan, found: dict) -> str:
    lines = [",".join(CSV_COLUMNS)]
    for (lam, delta), rsums in found.items():
        runs = plan.runs(f"lambda{lam:g}-delta{delta:g}")
        for training, rsum in zip(runs, rsums):
            lines.append(f"{SEARCH},λ = {lam:g} δ = {delta:g},{training.run.path},validation,rsum,{rsum},,")
    return "\n".join(lines) + "\n"


def _write_page(folder: Path, name: str) -> Path:
    """index.md and numbers.csv of all parts that the folder has."""
    order = [*WHAT[:-1], SEARCH, WHAT[-1]]
    parts, tables = (
        [path.read_text(encoding="utf-8") for what in order if (path := folder / f"{what}{ending}").exists()]
        for ending in (".md", ".csv")
    )
    lines = [line for table in tables for line in table.splitlines()[1:]]
    write_text(folder / "numbers.csv", "\n".join([",".join(CSV_COLUMNS), *lines]) + "\n")
    told = "All numbers, with 95 % intervals: [numbers.csv](numbers.csv). Tables are also `.tex`, figures also `.pdf`."
    write_text(folder / "index.md", "\n".join([f"# The paper's tables and figures: {name}\n", f"{told}\n", *parts]))
    return folder / "index.md"
