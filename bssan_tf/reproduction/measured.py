"""What the runs of a plan are worth: each measured once, as evaluate.py does, and kept beside the tables.

A report is kept with what it depends on: weights, data, and what was asked for. If one of them changes, it is measured
anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from pathlib import Path

import numpy as np

from bssan_tf.evaluation.retrieval import evaluate_open, protocol_reports
from bssan_tf.evaluation.scores import Request
from bssan_tf.metrics.recall import chance_rsum, protocol_folds
from bssan_tf.reading.documents import read_json
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.plan import Plan, Training, sees_eq8
from bssan_tf.reproduction.search import chosen_runs
from bssan_tf.reproduction.trainings import Step
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.files import file_sha256, write_json
from bssan_tf.training.early_signs import collapsed, read_rows

FORMAT = 2  # of kept reports: raise it when the same run is measured otherwise
# a run whose rsum is above so many times chance, or this share of the way from chance to 600 where that is less,
CLEARLY, SHARE = 2, 0.1  # interval and all, is shown whatever sign it gave
CCA = "cca"  # the kept report of the baselines


def measure_all(materials: Materials, step: Step) -> dict[str, dict]:
    """The reports of `evaluate` of all runs by name, and under CCA those of the baselines where a table has them.

    UserError as `evaluate`.
    """
    plan, found = materials.plan, {}
    (plan.folder / "measured").mkdir(parents=True, exist_ok=True)
    for name, training in to_measure(materials).items():
        kept = kept_report(materials, name, training)
        if kept is None:
            with step(f"measuring {name}", 1):
                kept = _measure(materials, name, training)
        found[name] = kept
    return found


def to_measure(materials: Materials) -> dict[str, Training]:
    """What is measured, by the names of its reports: runs, and CCA on the data of one."""
    plan, first = materials.plan, materials.plan.baseline()
    cca = {CCA: first} if first and not materials.why_no_cca else {}
    return {**{training.name: training for training in [*plan.measured(), *chosen_runs(plan)]}, **cca}


def kept_report(materials: Materials, name: str, training: Training) -> dict | None:
    """The report that is kept, if it is of these weights and data, and of what is asked for now."""
    path = _file(materials.plan, name)
    if not path.exists() or not training.run.best.exists():
        return None
    kept = read_json(path, "delete it", source=str(path))
    return kept.get("value") if kept.get("key") == _key(materials, training) else None


def _measure(materials: Materials, name: str, training: Training) -> dict:
    path, key = _file(materials.plan, name), _key(materials, training)
    if name == CCA:
        value = _baselines(materials, training)
    else:
        scores = path.with_name(f"{name}-{_digest(key)}.npy")  # a killed call goes on with its own scores only
        for other in path.parent.glob(f"{_plain(name)}-*.npy*"):
            if not other.name.startswith(scores.name):
                other.unlink()
        out = None if materials.request.protocol == "5fold" else scores
        value, _ = evaluate_open(materials.open(training, out=out))
        for file in path.parent.glob(f"{_plain(scores.name)}*"):
            file.unlink()
    write_json(path, {"key": key, "value": value})
    return value


def _baselines(materials: Materials, training: Training) -> dict:
    """The reports of each CCA by the keys of `report.ROW_NAMES`."""
    opened = materials.open(training, baseline="cca")
    found = (protocol_reports(scores, opened.part, opened.request.protocol) for scores in opened.cca())
    return {key: report for reports in found for key, report in reports.items()}


def _file(plan: Plan, name: str) -> Path:
    return plan.folder / "measured" / f"{name}.json"


def _plain(name: str) -> str:
    """A name for glob, which reads brackets."""
    return "".join(f"[{sign}]" if sign in "[]*?" else sign for sign in name)


def _key(materials: Materials, training: Training) -> dict:
    asked = dataclasses.asdict(materials.request)
    del asked["out"], asked["memory_mb"]
    data = materials.data_of(training).fingerprint
    return {"format": FORMAT, "weights": file_sha256(training.run.best), "data": _digest(data), "request": asked}


def _digest(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def command_of(run: RunFolder, request: Request) -> str:
    """The command line that measures the same."""
    flags = {
        "--split": None if request.split == "test" else request.split,
        "--captions-per-image": request.captions_per_image,
        "--sample": request.images,
        "--protocol": None if request.protocol == "full" else request.protocol,
    }
    given = [str(part) for flag, value in flags.items() if value is not None for part in (flag, value)]
    return shlex.join(["python", "evaluate.py", str(run.path), *given])


def collapse_of(training: Training, report: dict) -> int | None:
    """The step at which a run showed the sign of collapse, where it is not `clearly_above_chance`, either; else None.

    Two looks of early_signs.csv, one after the other, must show it (`early_signs.collapsed`).
    """
    if clearly_above_chance(report) or not sees_eq8(training.config):
        return None
    rows = read_rows(training.run.early_signs_file)
    parts = [name[: -len("_right_training")] for name in (rows or [{}])[0] if name.endswith("_right_training")]
    seen = (rows[:count] for count in range(2, len(rows) + 1))
    return next((some[-1]["step"] for some in seen if collapsed(some, parts)), None)


def clearly_above_chance(value: dict) -> bool:
    """Whether rsum is above what CLEARLY and SHARE say, with its 95 % interval where the report has one."""
    low, _ = value.get("intervals", {}).get("rsum", (value["rsum"], None))
    chance = chance_of(value)
    return low > min(CLEARLY * chance, chance + SHARE * (600 - chance))


def chance_of(value: dict) -> float:
    """rsum that random scores reach under the report's protocol; that of a training's own report is the whole split."""
    folds = len(protocol_folds(value.get("protocol", "full"), value["n_images"]))
    return chance_rsum(value["n_images"] / folds, value["n_captions"] / folds)


def spread(numbers: np.ndarray) -> float:
    """Half of the distance between the lowest and the highest seed."""
    return float(np.ptp(numbers) / 2)
