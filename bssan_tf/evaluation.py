"""What evaluate.py reports of a run: retrieval in both directions, pointing, and the CCA baseline.

In: a run folder and a split. Out: one JSON value and the table for people.
"""

from __future__ import annotations

import logging

from bssan_tf import report as reports
from bssan_tf.config import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.metrics import protocol_reports
from bssan_tf.pointing import pointing
from bssan_tf.preparation import Data, open_data, resolve
from bssan_tf.runs import RunFolder
from bssan_tf.scoring import score_matrix

logger = logging.getLogger(__name__)

BASELINES = ("cca",)


def evaluate(
    run: RunFolder,
    split: str = "test",
    captions_per_image: int | None = None,
    images: int | None = None,
    protocol: str = "full",
    baseline: str | None = None,
    data_flags: dict | None = None,
    progress: bool = True,
) -> tuple[dict, str]:
    """Measure a run on a split.

    Args:
        split: `train`, `val` (or `dev`), `test`.
        captions_per_image: score only the first so many captions of each picture.
        images: score only a seeded subset of so many pictures.
        protocol: see `metrics.protocol_reports`.
        baseline: `cca`, or None.
        data_flags: fields of DataConfig to replace, where the data have moved since training.

    Returns:
        The JSON value of `report_json`, and the text for people.

    Raises:
        UserError: no such run or split, data that are gone or differ, too few pictures for the protocol.
    """
    config = run.load_config().replace(**(data_flags or {}))
    model, tokenizer = run.load_model()
    data = open_data(config.data, progress)
    check_fit(config, data)
    part = data.split(split)
    if images:
        part = part.first_images(images, config.training.seed)
    if captions_per_image:
        part = part.captions_per_image(captions_per_image)
    tokens = tokenizer(part.captions)
    scores = score_matrix(model.ranker(), data.features, part.image_rows, tokens, progress=progress)["score"]
    report = protocol_reports(scores, part.image_of_caption, protocol)

    truth = data.corpus.grounding
    pointed = pointing(model.scorer, data.features, part, truth, tokenizer) if truth else None
    baselines = {}
    if baseline == "cca":
        baselines["cca"] = protocol_reports(_cca_scores(data, part, tokenizer, config), part.image_of_caption, protocol)
    value = reports.report_json(
        report, run=run.name, corpus=data.corpus.name, split=part.name, pointing=pointed, baselines=baselines
    )
    text = reports.text_table(
        report,
        run.name,
        data.corpus.name,
        part.name,
        baselines,
        _differences(config, data, part, captions_per_image),
    )
    if pointed:
        text += "\n\n" + reports.pointing_lines(pointed)
    return value, text


def check_fit(config: Config, data: Data) -> None:
    """UserError unless the features have the sizes that the run was trained on."""
    for name, letters in (("regions", "DM"), ("objects", "PQ")):
        array = getattr(data.features, name)
        trained = tuple(getattr(config.model, letter) for letter in letters)
        if array is not None and array.shape[2] != trained[1]:
            raise UserError(
                f"{name} of the data are {array.shape[1:]}, the run was trained on {trained}; "
                "give the features that it was trained with"
            )


def _cca_scores(data: Data, part: Split, tokenizer, config: Config):
    from bssan_tf.baselines import fit_cca

    if data.features.regions is None:
        raise UserError("--baseline cca: needs regions, and this run has objects only")
    train = data.split("train")
    cca = fit_cca(
        data.features.regions,
        train.image_rows,
        tokenizer(train.captions),
        train.image_of_caption,
        len(tokenizer.words),
        config.training.seed,
    )
    return cca.score_matrix(data.features.regions, part.image_rows, tokenizer(part.captions))


def _differences(config: Config, data: Data, part: Split, captions_per_image: int | None) -> tuple[str, ...]:
    chosen = resolve(config.data)
    return reports.differences(
        corpus=data.corpus.name,
        split=part.name,
        split_lists=data.corpus.split_lists,
        official=data.corpus.official,
        backbone="your own file" if chosen.import_regions else chosen.backbone,
        objects="your own file" if chosen.import_objects else chosen.objects,
        captions_per_image=captions_per_image,
    )
