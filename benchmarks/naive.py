"""The straightforward scorer: Keras called on padded pairs. What the fast one is held against."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class NaiveScorer:
    """Calls `Bssan.scorer` on batches of pairs, every caption padded to the full length.

    Args:
        scorer: `Bssan.scorer`.
        regions, objects, valid: arrays (N, ...), those that the scorer looks at; the others are ignored.
    """

    def __init__(self, scorer: tf.keras.Model, regions=None, objects=None, valid=None):
        arrays = {"regions": regions, "objects": objects, "valid": valid}
        self.arrays = {name: arrays[name] for name in scorer.input if name != "tokens"}
        self.outputs = [name for name in ("w2r", "o2w", "score") if name in scorer.output]
        self._call = tf.function(lambda inputs: scorer(inputs, training=False), reduce_retracing=True)

    def pairs(self, rows: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Scores float32 (n,) of pictures `rows` (n,) with captions (n, L), pair by pair."""
        types = {"valid": bool}
        inputs = {k: tf.constant(np.asarray(v[rows], types.get(k, np.float32))) for k, v in self.arrays.items()}
        outputs = self._call({**inputs, "tokens": tf.constant(tokens)})
        return {name: outputs[name].numpy() for name in self.outputs}

    def matrix(self, tokens: np.ndarray, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Scores float32 (N, N_c) of all pictures with all captions."""
        images = len(next(iter(self.arrays.values())))
        rows, captions = (grid.ravel() for grid in np.indices((images, len(tokens))))
        parts = [
            self.pairs(rows[i : i + batch_size], tokens[captions[i : i + batch_size]])
            for i in range(0, len(rows), batch_size)
        ]
        return {
            name: np.concatenate([part[name] for part in parts]).reshape(images, len(tokens)) for name in self.outputs
        }
