"""Several runs on the same pairs: two compared, with paired intervals of their differences; or an ensemble of any.

In: run folders and a request of `scores.py`. Out: one JSON value and the table for people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.evaluation import report as reports
from bssan_tf.evaluation.retrieval import finite_scores
from bssan_tf.evaluation.scores import OpenRun, Request, folds_of, open_run
from bssan_tf.metrics.details import both_ranks, bounds_of, detailed_report, mean_of, resampled
from bssan_tf.metrics.output import detail_lines
from bssan_tf.metrics.recall import mean_report
from bssan_tf.runs.folder import RunFolder

NOT_TOLD_APART = "not told apart"


def compare(
    runs: Sequence[RunFolder], request: Request, data_flags: dict | None = None, progress: bool = True
) -> tuple[dict, str]:
    """Compare the second of two runs with the first: the JSON value, and the text for people.

    The value has the reports of both under "runs", and under "difference" every number of the second less that of the
    first, with "intervals": 95 % of 1,000 draws of the images, the same for both. "verdict" is the name of the run
    whose rsum is higher in all of its interval, or NOT_TOLD_APART. UserError as `open_all`, or as `evaluate`.
    """
    opened = open_all(runs, request, data_flags, progress)
    found, differences = [[], []], []
    for place, folds in enumerate(_folds(opened, request.protocol)):
        draws = []
        for own, one, fold in zip(found, opened, folds):
            with finite_scores(one):
                matrix, owner = one.scores(fold)["score"], fold.image_of_caption
                own.append(detailed_report(matrix, owner))
            draws.append(resampled(*both_ranks(matrix, owner), owner, seed=place))
        differences.append(_less(draws[1], draws[0]))
    first, second = (mean_report(folds, request.protocol) for folds in found)
    names = _names(opened)
    difference = _less(*({key: report[key] for key in ("i2t", "t2i", "rsum")} for report in (second, first)))
    difference["intervals"] = bounds_of(mean_of(differences))
    low, high = difference["intervals"]["rsum"]
    verdict = names[1] if low > 0 else names[0] if high < 0 else NOT_TOLD_APART
    counts = {name: first[name] for name in ("n_images", "n_captions", "protocol")}
    told = _about(opened, names)
    value = {**counts, **told, "runs": dict(zip(names, (first, second))), "difference": difference, "verdict": verdict}
    return value, f"{reports.table_of_runs(value)}\n\n{reports.difference_lines(value)}"


def ensemble(
    runs: Sequence[RunFolder], request: Request, data_flags: dict | None = None, progress: bool = True
) -> tuple[dict, str]:
    """Measure the mean of the scores of several runs: the JSON value, and the text for people.

    The value is a report of the mean, with those of the runs alone under "runs". UserError as `compare`.
    """
    opened = open_all(runs, request, data_flags, progress)
    alone, whole = [[] for _ in opened], []
    for folds in _folds(opened, request.protocol):
        total = 0.0
        for own, one, fold in zip(alone, opened, folds):
            with finite_scores(one):
                matrix = one.scores(fold)["score"]
                own.append(detailed_report(matrix, fold.image_of_caption))
            total = total + matrix
        whole.append(detailed_report(total / np.float32(len(opened)), fold.image_of_caption))
    report = mean_report(whole, request.protocol)
    names = _names(opened)
    members = {name: mean_report(folds, request.protocol) for name, folds in zip(names, alone)}
    value = {**report, **_about(opened, names), "runs": members}
    return value, f"{reports.table_of_runs(value)}\n\n{detail_lines(value)}"


def open_all(
    runs: Sequence[RunFolder], request: Request, data_flags: dict | None = None, progress: bool = True
) -> list[OpenRun]:
    """The runs, opened on the same pictures and captions; UserError as `open_run`, or where these differ.

    With `out`, the scores of the i-th run lie in FILE.i.npy.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise UserError("the same run is named twice; name different ones")
    opened = []
    for i, run in enumerate(runs, 1):
        out = request.out and request.out.with_name(f"{request.out.stem}.{i}{request.out.suffix}")
        opened.append(open_run(run, dataclasses.replace(request, out=out), data_flags, progress))
        one, other = opened[0].part, opened[-1].part
        if one.image_ids != other.image_ids or one.captions != other.captions:
            differ = f"is of other pictures or captions than {runs[0].path}"
            raise UserError(f"{run.path}: {differ}; name runs of the same data, with the same unreadable pictures")
    return opened


def _folds(opened: Sequence[OpenRun], protocol: str) -> Iterator[tuple[Split, ...]]:
    """The folds of a protocol, each as every run has it in its own features."""
    return zip(*(folds_of(one.part, protocol) for one in opened))


def _names(opened: Sequence[OpenRun]) -> list[str]:
    """The runs' names, or their paths where two have one name."""
    names = [one.run.name for one in opened]
    return names if len(set(names)) == len(names) else [str(one.run.path) for one in opened]


def _about(opened: Sequence[OpenRun], names: Sequence[str]) -> dict:
    """What a value says of itself: the runs in one phrase, corpus and split."""
    return {"run": ", ".join(names), "corpus": opened[0].data.corpus.name, "split": opened[0].part.name}


def _less(second: dict, first: dict) -> dict:
    """Every number of `second` less that of `first`, in dicts of dicts."""
    if isinstance(second, dict):
        return {name: _less(value, first[name]) for name, value in second.items()}
    return second - first
