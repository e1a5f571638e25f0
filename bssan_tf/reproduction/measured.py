"""What the runs of a plan are worth: each measured once, as evaluate.py does, and kept beside the tables.

A report is kept with the checksum of the weights and with what was asked for: others are measured anew.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import numpy as np

from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.metrics.recall import chance_rsum, protocol_folds
from bssan_tf.reading.documents import read_json
from bssan_tf.reproduction.plan import Plan, Training, sees_eq8
from bssan_tf.reproduction.trainings import Step
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.files import file_sha256, write_json
from bssan_tf.training.early_signs import collapsed, read_rows

NEAR_CHANCE = 0.1  # of the way from chance to the most that rsum can be, as train.py's warning has it


def measure_all(plan: Plan, request: Request, step: Step) -> dict[str, dict]:
    """The reports of `evaluate` of all runs by name; that of `plan.baseline` has the rows of CCA, too.

    UserError as `evaluate`.
    """
    (plan.folder / "measured").mkdir(parents=True, exist_ok=True)
    found = {}
    for training in plan.measured():
        path, wanted = report_file(plan, training), request_of(plan, training, request)
        kept = kept_report(path, training.run, wanted)
        if kept is None:
            with step(f"measuring {training.name}", 1):
                kept = _measure(path, training.run, wanted)
        found[training.name] = kept
    return found


def report_file(plan: Plan, training: Training) -> Path:
    """Where the report of a run is kept."""
    return plan.folder / "measured" / f"{training.name}.json"


def request_of(plan: Plan, training: Training, request: Request) -> Request:
    """What is asked of one run."""
    return dataclasses.replace(request, baseline="cca") if training == plan.baseline() else request


def kept_report(path: Path, run: RunFolder, request: Request) -> dict | None:
    """The report that was kept in a file, if it is of these weights and this request."""
    if not path.exists():
        return None
    kept = read_json(path, "delete it", source=str(path))
    return kept.get("value") if kept.get("key") == _key(run, request) else None


def _measure(path: Path, run: RunFolder, request: Request) -> dict:
    scores, key = path.with_suffix(".npy"), _key(run, request)
    files = [scores, *(path.with_name(scores.name + ending) for ending in (".json", ".part"))]
    if path.exists():  # of other weights or another request; its scores were never finished, or are of those
        for file in files:
            file.unlink(missing_ok=True)
    kept = None if request.protocol == "5fold" else scores
    value, _ = evaluate(run, dataclasses.replace(request, out=kept), progress=False)
    write_json(path, {"key": key, "value": value})
    for file in files:  # they were kept for a killed call only
        file.unlink(missing_ok=True)
    return value


def _key(run: RunFolder, request: Request) -> dict:
    asked = dataclasses.asdict(request)
    del asked["out"], asked["memory_mb"]
    return {"weights": file_sha256(run.best), "request": asked}


def command_of(run: RunFolder, request: Request) -> str:
    """The command line that measures the same."""
    flags = {
        "--split": None if request.split == "test" else request.split,
        "--captions-per-image": request.captions_per_image,
        "--sample": request.images,
        "--protocol": None if request.protocol == "full" else request.protocol,
        "--baseline": request.baseline,
    }
    given = [str(part) for flag, value in flags.items() if value is not None for part in (flag, value)]
    return shlex.join(["python", "evaluate.py", str(run.path), *given])


def collapse_of(training: Training) -> int | None:
    """The step at which a run showed the sign of collapse; None if it did not, or could not.

    Two looks of early_signs.csv, one after the other, must show it (`early_signs.collapsed`).
    """
    rows = read_rows(training.run.early_signs_file) if sees_eq8(training.config) else []
    parts = {"w2r": ["w2r"], "o2w": ["o2w"]}.get(training.config.model.variant, ["w2r", "o2w"])
    parts = ["score"] if "score_right_training" in (rows or [{}])[0] else parts
    seen = (rows[:count] for count in range(2, len(rows) + 1))
    return next((some[-1]["step"] for some in seen if collapsed(some, parts)), None)


def near_chance(value: dict) -> bool:
    """Whether a report is hardly better than chance."""
    chance = chance_of(value)
    return value["rsum"] < chance + NEAR_CHANCE * (600 - chance)


def chance_of(value: dict) -> float:
    """rsum that random scores reach under the report's protocol."""
    folds = len(protocol_folds(value["protocol"], value["n_images"]))
    return chance_rsum(value["n_images"] / folds, value["n_captions"] / folds)


def spread(numbers: np.ndarray) -> float:
    """Half of the distance between the lowest and the highest seed."""
    return float(np.ptp(numbers) / 2)
