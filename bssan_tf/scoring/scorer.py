"""A scorer's weights, laid out for scoring many pictures with many captions."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from bssan_tf.scoring.folding import FoldedNetwork
from bssan_tf.scoring.o2w import FastO2W
from bssan_tf.scoring.score_file import digest
from bssan_tf.scoring.w2r import FastW2R
from bssan_tf.scoring.w2r_cnn import CnnW2R
from bssan_tf.scoring.w2r_lstm import LstmW2R


class FastScorer:
    """The function of `Bssan.scorer`, or of one of a .keras file, in fewer operations; reads the weights when made."""

    def __init__(self, scorer: tf.keras.Model):
        layers = {layer.name: layer for layer in scorer.layers}
        self.scorer = scorer
        # the two networks, or None where the variant lacks one
        self.w2r = _fast_w2r(layers["w2r"]) if "w2r" in layers else None
        self.o2w = FastO2W(layers["o2w_text"], layers["o2w"]) if "o2w" in layers else None
        self.weight = layers["score"].weight if "score" in layers else None
        # what it can score: `score` is the sum of the others (Eq. 19)
        self.parts = (*(part for part in ("w2r", "o2w") if getattr(self, part)), "score")
        self._embeddings = [layers[name] for name in ("glove", "embedding") if name in layers]

    def embed(self, tokens) -> tf.Tensor:
        """int32 (...) -> the words' vectors (..., E)."""
        return tf.concat([layer(tokens) for layer in self._embeddings], axis=-1)

    def networks(self, parts: Sequence[str]) -> dict[str, FoldedNetwork]:
        """The networks that some parts need, by name; ValueError for a part that the scorer does not have."""
        if not set(parts) <= set(self.parts):
            raise ValueError(f"this scorer has only the parts {', '.join(self.parts)}")
        return {name: getattr(self, name) for name in self.parts[:-1] if name in parts or "score" in parts}

    def total(self, scores: dict):
        """MS of Eq. 19 from the parts' scores."""
        if self.weight is None:
            return scores[self.parts[0]]
        return scores["w2r"] + self.weight * scores["o2w"]

    def digest(self) -> str:
        """SHA-256 of all weights."""
        return digest(weight.numpy() for weight in self.scorer.weights)


def _fast_w2r(network: tf.keras.Model) -> FastW2R:
    reads_windows = any(layer.name == "w2r_cnn" for layer in network.layers)
    return (CnnW2R if reads_windows else LstmW2R)(network)
