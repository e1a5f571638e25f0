"""From a trained model and a photo to the attention pictures of Figures 7 and 8.

`explain` takes any photo file and caption through the extractor of a run. `pair_drawer` draws pairs of a corpus, whose
features are in the store, for TensorBoard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bssan_tf.datasets.corpus import Split
from bssan_tf.drawing.figures import attention_figure, figure_to_array
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.store import Features, gather, longest
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.photo import Photo, photo_inputs
from bssan_tf.scoring import score_matrices

logger = logging.getLogger(__name__)


def explain(run: RunFolder, photo: Path, caption: str, out: Path, data_flags: dict | None = None) -> dict[str, float]:
    """Draw what the run's best model looks at, and write the picture to `out`, a PNG file.

    Args:
        photo: any picture file that Pillow reads.
        caption: any text; words that the run has not seen count as unknown.
        data_flags: fields of DataConfig to replace; `boxes` is a file that lists this photo, `objects` a detector.
            Without these, the run's own boxes where the photo is of its corpus, else ten fixed boxes.

    Returns:
        `score`, and `w2r` and `o2w` where the variant has them.

    Raises:
        UserError: unreadable photo, caption without a word, a run on imported features, which has no extractor.
    """
    flags = dict(data_flags or {})
    boxes = flags.pop("boxes", None)
    config = run.load_config().moved(flags)
    picture = Photo.read(photo, config.data)
    model, tokenizer = run.load_model()
    tokens, words = tokenizer.read_sentence(caption, "caption"), tokenizer.words_of(caption)
    features, objects = photo_inputs(run, config, picture, boxes and Path(boxes))
    inputs = {**vars(features), "tokens": tokens}
    outputs = {name: value[0] for name, value in _score(model.scorer, inputs).items()}  # for α and β
    matrices = score_matrices(model.scorer, features, tokens)  # the scores of evaluate.py
    scores = {name: float(matrix[0, 0]) for name, matrix in matrices.items()}
    known = [word if word in tokenizer.words else f"{word} (unknown)" for word in words]
    _draw(picture.pixels, known, {**outputs, **scores}, objects, out)
    return {name: scores[name] for name in ("score", "w2r", "o2w") if name in scores}


def pair_drawer(scorer, features: Features, split: Split, tokenizer) -> Callable[[], dict[str, np.ndarray]]:
    """What draws the attention of a split's pairs as it is at each call, {title: uint8 (H, W, 3)}; decodes once."""
    pictures: dict[int, np.ndarray | None] = {}

    def draw() -> dict[str, np.ndarray]:
        drawn = pair_figures(scorer, features, split, tokenizer, pictures=pictures)
        return {f"attention/{split.image_ids[image]}": figure_to_array(figure) for image, figure in drawn}

    return draw


def pair_figures(
    scorer,
    features: Features,
    split: Split,
    tokenizer,
    shown: Sequence[str] = ("alpha", "beta"),
    pictures: dict[int, np.ndarray | None] | None = None,
) -> Iterator[tuple[int, Figure]]:
    """The attention of each caption of a split on its own image, as (image, figure), where it can be drawn.

    `shown` are the attentions to draw; `pictures` keeps the decoded images of earlier calls by caption.
    """
    tokens = tokenizer(split.captions)
    rows = split.image_rows[split.image_of_caption]
    inputs = {**gather(features, rows), "tokens": tokens[:, : longest(tokens)]}
    outputs, pictures = _score(scorer, inputs), {} if pictures is None else pictures
    outputs = {name: value for name, value in outputs.items() if name in shown or name not in ("alpha", "beta")}
    drawable = ("alpha" in outputs and features.grid) or ("beta" in outputs and features.boxes is not None)
    for i, caption in enumerate(split.captions):
        words, image = tokenizer.words_of(caption), int(split.image_of_caption[i])
        if not words or not drawable:
            continue
        if i not in pictures:
            pictures[i] = _read_if_there(split.image_paths[image])
        if pictures[i] is not None:
            own = {name: value[i] for name, value in outputs.items()}
            yield image, _draw(pictures[i], words, own, _stored_objects(features, rows[i]), None, features.grid)


def _read_if_there(path: Path) -> np.ndarray | None:
    """A picture as the backbone sees it; None, with a word, where features are at hand without it."""
    try:
        return read_picture(path)[0]
    except UserError as error:
        logger.warning("no attention picture: %s", error)
        return None


def _stored_objects(features: Features, row: int) -> dict:
    stored = {name: getattr(features, name) for name in ("boxes", "classes", "scores", "valid")}
    objects = {name: array[row] for name, array in stored.items() if array is not None}
    return {**objects, "labels": features.manifest.get("labels")}


def _score(scorer, inputs: dict) -> dict[str, np.ndarray]:
    named = {name: inputs[name] for name in scorer.input}
    return {name: value.numpy() for name, value in scorer(named, training=False).items()}


def _draw(picture, words, outputs: dict, objects: dict, out: Path | None, grid=(14, 14)):
    shown = {"alpha": outputs.get("alpha") if grid else None}
    if "beta" in outputs and "boxes" in objects:
        shown |= {"beta": outputs["beta"], "boxes": objects["boxes"]}
        shown |= {"object_scores": objects.get("scores"), "valid": objects.get("valid")}
        if labels := objects.get("labels"):
            shown["object_names"] = [labels[c] if 0 <= c < len(labels) else "" for c in objects["classes"]]
    parts = {label: float(outputs[name]) for name, label in (("w2r", "W2R"), ("o2w", "O2W")) if name in outputs}
    parts = parts if len(parts) > 1 else None  # the only part is the score itself
    score, grid = float(outputs["score"]), grid or (14, 14)
    return attention_figure(picture, words, score, parts=parts, grid=grid, out=out, **shown)
