"""A study of recipes: train sets of flags on the same time budget, and measure each on the same held-back pictures.

    python -m benchmarks.recipe SETS.txt --minutes 10 --seeds 0 1 2 --csv recipe.csv --common "--data flickr8k ..."
    python -m benchmarks.recipe --table recipe.csv --against cca

SETS.txt has a set a line, `name: flags of train.py`; sets with `--schedule cosine` end at their `--epochs`, the
others when the minutes are over. The pictures are held back from the train split, so that the validation and test
splits stay unseen. Scores are averaged over caption positions: every image is paired with its 1st caption, then its
2nd, and so on. A row is appended for each set and seed; sets that the CSV has are left out, so that a killed study
goes on where it was; a run or a row of other flags is refused. `--baseline` adds the rows of a regularised CCA of the
same pictures, plain and with all that the start of the preset has (weighted lengths, GloVe where a set has it), so
that only the rest counts as learned; and of one of their objects where a set has these in context.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import os
import re
import shlex
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.recipe_table import FIGURES, SPREAD, markdown, read_rows
from bssan_tf import cli
from bssan_tf.commands import train as command
from bssan_tf.config.schema import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.metrics.recall import single_caption_report
from bssan_tf.runs.data import Data, open_data
from bssan_tf.runs.folder import RunFolder

COLUMNS = ("name", "flags", "seed", "minutes", "epochs", "pairs", "images", *FIGURES)
BASELINES = {  # {CCA: {name of a row of it: what stands for its flags}}; weighted: all that the start has
    "cca": {"cca": "regularised CCA", "cca_weighted": "regularised CCA with weighted lengths, and GloVe if given"},
    "cca_context": {
        "cca_context": "regularised CCA of objects in context",
        "cca_context_weighted": "regularised CCA of objects in context with weighted lengths, and GloVe if given",
    },
}


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print each row when it is there, or print the table of one."""
    parser = cli.Parser(prog="python -m benchmarks.recipe", description=__doc__.split("\n")[0])
    parser.add_argument("sets", type=Path, nargs="?", help="a set a line, `name: flags of train.py`")
    parser.add_argument("--common", default="", help="flags of every set, in one string")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each; a cosine has --epochs (10)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each set is trained with each (0)")
    parser.add_argument("--held", type=cli.count, default=500, metavar="N", help="pictures held back (500)")
    parser.add_argument(
        "--pictures", type=cli.count, nargs="+", metavar="N", help="train each set on N of the others: a growth curve"
    )
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="rows for each data config: "
        + "; ".join(f"`{name}`, {what}" for rows in BASELINES.values() for name, what in rows.items())
        + "; the weighted rows have all that the start of the preset has, so that only the rest counts as learned",
    )
    parser.add_argument("--csv", type=cli.writable, default=Path("recipe.csv"), metavar="FILE", help="(recipe.csv)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), metavar="FOLDER", help="(runs/recipe)")
    parser.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help=f"train nothing, print a study's CSV as Markdown: means over the seeds, rsum ± {SPREAD} of them",
    )
    parser.add_argument(
        "--against", metavar="NAME", help="with --table, a column more: mean rsum less that of this set"
    )
    options = parser.parse_args(arguments)
    if (options.sets is None) == (options.table is None):
        parser.error("give SETS.txt or --table FILE.csv, one of them")
    if options.against is not None and options.table is None:
        parser.error("--against: only with --table")
    if options.table is None:
        study(options)
    else:
        print(markdown(read_rows(options.table), options.table, options.against))


def study(options: argparse.Namespace) -> None:
    """Train and measure what the CSV does not have yet, the CCA first.

    Raises:
        UserError: as the parts of the study, a CSV of something else, a set with the name of the baseline's rows.
    """
    sets = read_sets(options.sets)
    configs = {name: config_of(f"{options.common} {flags}", options.minutes) for name, flags in sets.items()}
    rows = read_rows(options.csv) if options.csv.exists() else ()
    for row in rows:
        name = row["name"] if row["name"] in sets else re.sub(r" of \d+$", "", row["name"])
        if row.get("flags", "") != sets.get(name, row.get("flags", "")):
            raise UserError(f"{options.csv}: {row['name']} is of other flags, {row['flags']!r}; give another --csv")
    done = {(row["name"], row["seed"]) for row in rows}
    opened: dict = {}

    def data_of(config: Config, pictures: int | None = None) -> Data:
        if config.data not in opened:
            opened[config.data] = open_data(config.data)
        return hold_back(opened[config.data], options.held, pictures=pictures)

    def add(name: str, flags: str, row: dict) -> None:
        append(options.csv, {"name": name, "flags": flags, **row})
        print(name, "  ".join(f"{column} {value}" for column, value in row.items()), flush=True)

    known = {name for name, _ in done}  # a baseline's row is there once, whatever the seeds
    for (kind, end), config in baselines_of(configs).items() if options.baseline else ():
        if lacking := [name for name in BASELINES[kind] if name + end not in known]:
            rows = baseline(kind, config.replace(seed=options.seeds[0]), data_of(config))
            for name in lacking:
                add(name + end, BASELINES[kind][name], rows[name])
    for seed, pictures, (name, config) in itertools.product(options.seeds, options.pictures or [None], configs.items()):
        row_name = f"{name} of {pictures}" if pictures else name
        if (row_name, str(seed)) not in done:
            folder = options.runs / f"{row_name.replace(' of ', '-')}-{seed}"
            add(row_name, sets[name], measure(config.replace(seed=seed), data_of(config, pictures), folder))


def baselines_of(configs: dict[str, Config]) -> dict[tuple[str, str], Config]:
    """{(which of BASELINES, end of its rows' names): first config with its data}.

    The end is empty, so that the rows are `cca` and so on, and ` of SET` where later sets have other data. The context
    of objects is nothing to the CCA of the regions; the other is there where a set has it.
    """
    found: dict[tuple[str, str], Config] = {}
    ends: dict = {}  # {data without context: end of the rows' names}
    for name, config in configs.items():
        end = ends.setdefault(dataclasses.replace(config.data, object_context=False), f" of {name}" if ends else "")
        for kind in BASELINES if config.data.object_context else ("cca",):
            found.setdefault((kind, end), config)
    if taken := {name + end for kind, end in found for name in BASELINES[kind]} & configs.keys():
        raise UserError(f"{min(taken)}: is the name of the --baseline's rows; give the set another")
    return found


def read_sets(path: Path) -> dict[str, str]:
    """{name: flags} of a file of sets; UserError for a line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    found = {}
    for line in filter(str.strip, lines):
        name, colon, flags = line.partition(":")
        if not colon or not name.strip() or name.strip() in found:
            raise UserError(f"{path}: {line!r}: must be `name: flags of train.py`, each name once")
        found[name.strip()] = flags.strip()
    return found


def config_of(flags: str, minutes: float) -> Config:
    """The config of train.py's flags, with as many epochs as the minutes allow; a cosine keeps its epochs."""
    options = command.build_parser().parse_args(shlex.split(flags))
    config = command.config_of(options)
    if config.training.schedule == "plateau":
        config = config.replace(minutes=minutes, epochs=10_000)
    return config.replace(stop_patience=10_000)


def hold_back(data: Data, held: int, seed: int = 0, pictures: int | None = None) -> Data:
    """The data with a seeded part of the train split as val, and no other split.

    With `pictures`, only so many of the others train; fewer are among more.
    """
    rows = np.asarray(data.corpus.splits["train"])
    if len(rows) < 2 * held:
        raise UserError(f"--held {held}: the train split has only {len(rows)} pictures")
    if pictures and pictures > len(rows) - held:
        raise UserError(f"--pictures {pictures}: only {len(rows) - held} are left to train on")
    rows = np.random.default_rng(seed).permutation(rows)
    splits = {"train": np.sort(rows[held:][:pictures]), "val": np.sort(rows[:held])}
    return dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, splits=splits))


def measure(config: Config, data: Data, folder: Path) -> dict:
    """The row of one set: train it, or go on with it, and score the held-back pictures with all of their captions."""
    from bssan_tf.scoring import score_matrices
    from bssan_tf.training import run as training

    run = RunFolder(folder)
    if run.config_file.exists():
        run.require_settings(config, "give another --runs")
        training.resume(run, data=data)
    else:
        training.train(config, run, data=data)
    model, tokenizer = run.load_model()
    part, features = data.split("val"), data.features
    tokens = tokenizer(part.captions)
    scores = score_matrices(model.scorer, features, tokens, part.image_rows)
    with run.history_file.open(newline="") as file:
        history = list(csv.DictReader(file))
    training_config = config.training
    round_steps = len(data.split("train").image_ids) // training_config.batch_size
    steps = len(history) * (training_config.steps_per_epoch or round_steps)
    return {
        "seed": training_config.seed,
        "minutes": round(float(history[-1]["minutes"]), 1),
        "epochs": len(history),
        "pairs": steps * training_config.batch_size * (1 + training_config.negatives),
        **figures(scores, part),
    }


def baseline(kind: str, config: Config, data: Data) -> dict[str, dict]:
    """The rows of one of BASELINES by name, fitted on the train part with the GloVe vectors that a training would have
    (`scores.cca_scores`), and measured as the sets are; no epochs, no pairs, the minutes are of all that is fitted.

    Raises:
        UserError: no regions, a train part that is too small for a CCA, a GloVe file that cannot be read.
    """
    from bssan_tf.datasets.text import Tokenizer
    from bssan_tf.evaluation.scores import cca_inputs, cca_scores
    from bssan_tf.training import run as training

    array, seed, start = cca_inputs(data)[kind], config.training.seed, time.monotonic()
    tokenizer = Tokenizer.fit(data.split("train").captions, config.data.caption_length)
    glove = training.word_vectors(config, data, tokenizer)
    scores = cca_scores(kind, array, tokenizer, data, seed, progress=True, glove=glove)
    fitted = {"seed": seed, "minutes": round((time.monotonic() - start) / 60, 1)}
    part = data.split("val")
    return {name: {**fitted, **figures({"score": matrix}, part)} for name, matrix in scores(part).items()}


def figures(scores: dict[str, np.ndarray], part: Split) -> dict:
    """The figures of a row, each the mean over single captions (`recall.single_caption_report`).

    Args:
        scores: `score`, and `w2r` and `o2w` where a model has these parts; float (N_i, N_c) of the split `part`.
    """
    reports = {key: single_caption_report(value, part.image_of_caption) for key, value in scores.items()}
    whole = reports["score"]
    return {
        "images": len(part.image_ids),
        **{f"{way}_{key}": round(value, 1) for way in ("i2t", "t2i") for key, value in whole[way].items()},
        "rsum": round(whole["rsum"], 1),
        **{f"{key}_rsum": round(reports[key]["rsum"], 1) if key in reports else "" for key in ("w2r", "o2w")},
    }


def append(path: Path, row: dict) -> None:
    """Add a row, and the head of the table before the first."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    cli.run(main)
