"""Does a run's attention look at the right place in photos? Measured against COCO's instances, or a detector's boxes.

In: a run, trained on whatever data, and a folder in COCO's layout; or the pictures of its own data with the boxes that
a detector found there, a truth that is wrong where the detector is. Out: how often the attention of a word that names
a class peaks inside a box of that class (W2R), beside the picture's centre and chance; for objects whether they look at
a word that names them (O2W); and how even both attentions are. Errors are of photos drawn anew, as words of one photo
go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bssan_tf.datasets.coco_words import ClassWords, load_grounded
from bssan_tf.datasets.corpus import Corpus, Grounding, Split
from bssan_tf.datasets.words import split_words
from bssan_tf.errors import UserError
from bssan_tf.evaluation.pointing import Case, Cases, find_cases
from bssan_tf.evaluation.report import photo_pointing_text
from bssan_tf.evaluation.scores import Request, open_run
from bssan_tf.features.objects import read_class_names
from bssan_tf.features.store import Features
from bssan_tf.runs.data import Data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.photo import folder_features

RESAMPLES = 1000  # of the bootstrap (Efron, 1979)
FREQUENT = "person"  # the class that outweighs all others in captions
SURE = 0.3  # least score of a detected box that counts as true


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
    cases = find_cases(model.scorer, features, split, truth, tokenizer, progress=progress)
    kind = config.data.objects if "objects" in needed else None
    fixed = features.manifest.get("boxes") == "grid"
    told = {"run": run.name, "corpus": corpus.name, "split": part, "objects": "grid" if kind and fixed else kind}
    return _reported(told, split, truth, cases, not fixed, f"--pointing {folder}")


def point_at_boxes(
    run: RunFolder,
    request: Request,
    class_names: Path | None = None,
    data_flags: dict | None = None,
    progress: bool = True,
    data: Data | None = None,
) -> tuple[dict, str]:
    """The same on the pictures of a request, against `detected_truth` of the run's own boxes.

    `class_names` is a file with a line for each class of boxes that have no names. UserError as `open_run`; for a run
    without W2R, boxes that no detector gave, classes without names; nothing to count.
    """
    opened = open_run(run, request, data_flags, progress, data)
    if "regions" not in opened.config.model.needed_features:
        raise UserError("--pointing boxes: the run is of variant o2w, which has no W2R; name another run")
    features, corpus = opened.data.features, opened.data.corpus
    if corpus.grounding:
        raise UserError(f"--pointing boxes: the objects of {corpus.name} are known; leave it out, and all is measured")
    names = class_names_of(features.manifest.get("labels"), class_names)
    truth = detected_truth(features, corpus, names, opened.config.data.word_rule)
    scorer, tokenizer = opened.scorer, opened.tokenizer
    cases = find_cases(scorer, features, opened.part, truth, tokenizer, progress=progress)
    objects = opened.config.data.objects if "objects" in opened.config.model.needed_features else None
    told = {"run": run.name, "corpus": corpus.name, "split": opened.part.name, "objects": objects, "sure": SURE}
    return _reported(told, opened.part, truth, cases, True, "--pointing boxes")


def class_names_of(labels: Sequence[str] | None, given: Path | None) -> Sequence[str] | None:
    """The names of the boxes' classes: those of their file, or a line each of a file that is given in their place.

    UserError for both, or a line without a word: names must stand at their numbers.
    """
    if labels and given:
        raise UserError(f"--class-names {given}: the boxes' own file names its classes; leave it out")
    return read_class_names(given, f"--class-names {given}") if given else labels


def detected_truth(features: Features, corpus: Corpus, names: Sequence[str] | None, word_rule: str) -> Grounding:
    """What a detector is sure of, as a Grounding: its boxes from a score of `SURE` on, and the words that name them.

    `names` are the classes', in the order of their numbers. UserError where boxes, classes or their names are missing.
    """
    if features.classes is None or not (features.classes >= 0).any():
        raise UserError("--pointing boxes: the run's objects are of no detector; train it with --boxes FILE")
    if not names:
        raise UserError("--pointing boxes: the boxes' file does not name its classes; add --class-names FILE")
    if (most := int(features.classes.max())) >= len(names):
        raise UserError(f"--class-names: {len(names)} classes, and the boxes have a class {most}; give one a line")
    sure = (features.scores[:] >= SURE) & features.valid[:] & (features.classes[:] >= 0)
    boxes = [features.boxes[row][kept] for row, kept in enumerate(sure)]
    kinds = [[names[kind] for kind in features.classes[row][kept]] for row, kept in enumerate(sure)]
    words, named = ClassWords(names), []
    for text, image in zip(corpus.captions, corpus.image_of_caption):
        found = words.find(split_words(text, word_rule))
        named.append([(place, i) for place, label in found for i, kind in enumerate(kinds[image]) if kind == label])
    return Grounding(boxes=tuple(boxes), labels=tuple(kinds), named=tuple(named))


def _reported(
    told: dict, split: Split, truth: Grounding, cases: Cases, has_objects: bool, source: str
) -> tuple[dict, str]:
    """The JSON value and the text of what was found; `source` is the flag with its value."""
    words, objects, unknown = cases
    if not words:
        raise UserError(f"{source}: none of the words that name a class is in the run's vocabulary")
    fields = ("right", "chance", "tied", "entropy")
    value = {
        **told,
        "n_images": len(split.image_ids),
        "n_captions": len(split.captions),
        "n_unknown": unknown,
        "w2r": shares(words, truth.labels, (*fields, "centre")),
        "o2w": shares(objects, truth.labels, fields) if objects and has_objects else None,
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
