"""From a trained model and a photo to the attention pictures of Figures 7 and 8.

`draw_pair` draws what a model says of a pair. `pair_drawer` draws pairs of a corpus, whose features are in the store,
for TensorBoard.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bssan_tf.datasets.corpus import Split
from bssan_tf.drawing.figures import attention_figure, figure_to_array
from bssan_tf.errors import UserError
from bssan_tf.features.objects import class_names, fixed_names
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.store import Features, gather, longest

logger = logging.getLogger(__name__)


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
            yield image, draw_pair(pictures[i], words, own, _stored_objects(features, rows[i]), None, features.grid)


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
    return {**objects, "names": class_names(objects.pop("classes", ()), features.manifest.get("labels"))}


def _score(scorer, inputs: dict) -> dict[str, np.ndarray]:
    named = {name: inputs[name] for name in scorer.input}
    return {name: value.numpy() for name, value in scorer(named, training=False).items()}


def draw_pair(
    picture: np.ndarray,
    words: Sequence[str],
    outputs: Mapping[str, np.ndarray | float],
    objects: Mapping,
    out: Path | None = None,
    grid: tuple[int, int] | None = None,
) -> Figure:
    """Figures 7 and 8 of a pair, as of `attention_figure`.

    Args:
        outputs: the scorer's: `score`, and of `w2r`, `o2w`, `alpha` (L, D) and `beta` (P, L) those that there are.
        objects: of `boxes`, `scores`, `valid` and `names` of P objects those that are known.
        grid: rows and columns of the D regions; None where unknown, so that no map is drawn.
    """
    shown = {"alpha": outputs.get("alpha") if grid else None}
    if "beta" in outputs and "boxes" in objects:
        names = objects.get("names") or fixed_names(objects["boxes"])
        shown |= {"beta": outputs["beta"], "boxes": objects["boxes"], "object_names": names}
        shown |= {"object_scores": objects.get("scores"), "valid": objects.get("valid")}
    parts = {label: float(outputs[name]) for name, label in (("w2r", "W2R"), ("o2w", "O2W")) if name in outputs}
    parts = parts if len(parts) > 1 else None  # the only part is the score itself
    shown |= {"grid": grid} if grid else {}
    return attention_figure(picture, words, float(outputs["score"]), parts=parts, out=out, **shown)
