"""The matching score MS of every picture with every caption (Eq. 19), exactly, block by block.

Captions are sorted by length so that a block holds little padding, and cut to the longest of their block;
pictures are read from the memory map one block at a time.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.features.store import Features
from bssan_tf.pipeline import gather, longest


def score_matrix(
    ranker: tf.keras.Model,
    features: Features,
    image_rows: np.ndarray,
    tokens: np.ndarray,
    *,
    outputs: tuple[str, ...] | None = None,
    block_images: int = 16,  # 16 x 64: 3 % faster than 8 x 64; 32 x 64 gains nothing more and needs twice the memory
    block_captions: int = 64,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Score all captions against all pictures, attention learned for every pair (decision 4).

    Args:
        ranker: `Bssan.ranker()`.
        features: the feature store.
        image_rows: int (N_i,), the pictures' rows in the store.
        tokens: int32 (N_c, L), token ids of the captions, zero-padded on the right.
        outputs: the matrices to fill, of `score`, `w2r` and `o2w`; None for all that the variant has.
        block_images: pictures scored at once.
        block_captions: captions scored at once.
        progress: show a bar with pairs per second and the time left.

    Returns:
        Each of `outputs`: float32 (N_i, N_c).
    """
    order = np.argsort((tokens != 0).sum(axis=1), kind="stable")
    blocks = [order[i : i + block_captions] for i in range(0, len(order), block_captions)]
    texts = [tf.constant(tokens[block, : longest(tokens[block])]) for block in blocks]
    names = list(ranker.input)
    score_block = _traced(ranker)

    scores = {name: np.empty((len(image_rows), len(tokens)), np.float32) for name in outputs or ranker.output}
    bar = tqdm(total=len(image_rows) * len(tokens), unit="pair", unit_scale=True, desc="scoring", disable=not progress)
    with bar:
        for start in range(0, len(image_rows), block_images):
            rows = image_rows[start : start + block_images]
            pictures = {k: tf.constant(v) for k, v in gather(features, rows).items() if k in names}
            for block, text in zip(blocks, texts):
                scored = score_block({**pictures, "tokens": text})
                for name, matrix in scores.items():
                    matrix[start : start + len(rows), block] = scored[name].numpy()
                bar.update(len(rows) * len(block))
    return scores


def _traced(ranker: tf.keras.Model):
    """The ranker as a function that is traced once for all block sizes and kept with the model."""
    if not hasattr(ranker, "score_block"):
        signature = {k: tf.TensorSpec(v.shape, v.dtype) for k, v in ranker.input.items()}
        ranker.score_block = tf.function(lambda inputs: ranker(inputs, training=False), input_signature=[signature])
    return ranker.score_block
