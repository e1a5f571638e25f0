"""Does a run's attention look at the right place in photos? Measured on any photos of COCO with captions and instances.

In: a run, trained on whatever data, and a folder in COCO's layout. Out: how often the attention of a word that names
a class peaks inside a box of that class (W2R), beside the picture's centre and chance; and for objects whether they
look at a word that names them (O2W). Errors are of photos drawn anew, as words of one photo go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.datasets.coco_words import load_grounded
from bssan_tf.errors import UserError
from bssan_tf.evaluation.pointing import Case, find_cases
from bssan_tf.evaluation.report import photo_pointing_text
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.photo import folder_features

RESAMPLES = 1000  # of the bootstrap (Efron, 1979)
FREQUENT = "person"  # the class that outweighs all others in captions


def point_at_photos(
    run: RunFolder, folder: Path, data_flags: dict | None = None, progress: bool = True
) -> tuple[dict, str]:
    """Measure the attention of a run on the photos of `coco_words.load_grounded`: a JSON value and a text for people.

    "w2r" and "o2w" hold the rows of `shares`, or None; "objects" says what the objects are, "grid" for the ten fixed
    boxes, None for a run without O2W. `data_flags` are fields of DataConfig to replace; `boxes` is a file that lists
    these photos. Without it, the run's own boxes where these are its corpus', else the fixed ones, on which O2W is not
    measured. UserError for a run without W2R, or on imported arrays; files that are missing or malformed; nothing to
    count.
    """
    flags = dict(data_flags or {})
    config = run.load_config().moved(flags)
    needed = config.model.needed_features
    if "regions" not in needed:
        raise UserError(f"--pointing {folder}: the run is of variant o2w, which has no W2R; name another run")
    corpus = load_grounded(folder, config.data.word_rule)
    model, tokenizer = run.load_model()
    features = folder_features(run, config, folder, corpus.image_paths, flags, progress)
    (part,) = corpus.splits
    split = corpus.split(part).without_rows(features.bad_rows)
    truth = corpus.grounding
    words, objects, unknown = find_cases(model.scorer, features, split, truth, tokenizer, progress=progress)
    if not words:
        raise UserError(f"--pointing {folder}: none of the words that name a class is in the run's vocabulary")
    kind = config.data.objects if "objects" in needed else None
    fixed = features.manifest.get("boxes") == "grid"
    value = {
        "run": run.name,
        "corpus": corpus.name,
        "split": part,
        "n_images": len(split.image_ids),
        "n_captions": len(split.captions),
        "n_unknown": unknown,
        "objects": "grid" if kind and fixed else kind,
        "w2r": shares(words, truth.labels, ("right", "chance", "tied", "centre")),
        "o2w": shares(objects, truth.labels, ("right", "chance", "tied")) if objects and not fixed else None,
    }
    return value, photo_pointing_text(value)


def shares(cases: Sequence[tuple[int, Case]], labels: Sequence[Sequence[str]], fields: Sequence[str]) -> dict:
    """Percentages with their standard errors, over all cases of `find_cases` and by class.

    `labels` are the classes of each photo's objects, `fields` those of Case to average. "all", "without_person" and
    "class_mean", the mean of the classes' percentages, are each a dict of "n", the fields in percent, "right_error",
    and, where `centre` is a field, "lead" (right - centre) with "lead_error"; or None without cases. Errors are
    bootstrap standard errors over photos, None where they are not defined. "classes": by class "n" and the fields.
    """
    photos, rows = np.unique([row for row, _ in cases], return_inverse=True)
    classes, kinds = np.unique([labels[row][case.thing] for row, case in cases], return_inverse=True)
    values = np.array([[1, *(getattr(case, name) for name in fields)] for _, case in cases], float)
    totals = np.zeros((len(photos), len(classes), values.shape[1]))  # counts, then sums of the fields
    np.add.at(totals, (rows, kinds), values)
    resamples = RESAMPLES if len(photos) > 1 else 0
    draws = np.random.default_rng(0).multinomial(len(photos), np.full(len(photos), 1 / len(photos)), resamples)
    weights = np.vstack([np.ones(len(photos)), draws])  # as they are, then the resamples
    sums = np.tensordot(weights, totals, 1)  # (1 + resamples, classes, 1 + fields)
    others = sums[:, classes != FREQUENT].sum(axis=1)
    by_class = _percent(sums)
    single = {str(name): _row(int(sums[0, i, 0]), by_class[:1, i], fields) for i, name in enumerate(classes)}
    return {
        "all": _row(int(sums[0, :, 0].sum()), _percent(sums.sum(axis=1)), fields),
        "without_person": _row(int(others[0, 0]), _percent(others), fields),
        "class_mean": _row(len(classes), np.nanmean(by_class, axis=1), fields),  # of those that were drawn
        "classes": {name: {key: row[key] for key in ("n", *fields)} for name, row in single.items()},
    }


def _percent(sums: np.ndarray) -> np.ndarray:
    """Percentages (..., fields) of counts and sums (..., 1 + fields); NaN where the count is 0."""
    with np.errstate(invalid="ignore"):
        return 100 * sums[..., 1:] / sums[..., :1]


def _row(n: int, percent: np.ndarray, fields: Sequence[str]) -> dict | None:
    """A row of `shares` from percentages (1 + resamples, fields)."""
    if not n:
        return None
    columns = dict(zip(fields, percent.T))
    if "centre" in columns:
        columns["lead"] = columns["right"] - columns["centre"]
    row = {"n": n, **{name: float(column[0]) for name, column in columns.items()}}
    for name in ("right", "lead"):
        if name in columns:
            drawn = columns[name][1:][np.isfinite(columns[name][1:])]
            row[f"{name}_error"] = float(drawn.std(ddof=1)) if len(drawn) > 1 else None
    return row
