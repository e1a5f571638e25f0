"""BSSAN as a whole: one set of layers, two functional graphs over them.

`scorer`: a picture and a caption -> MS, Y, Y', α, β (Eq. 19); what is saved, exported and looked at.
`siamese`: a picture with its caption and K others -> scores, positives first (Eq. 7, 8, 17); what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from bssan_tf.config.schema import ModelConfig, TrainingConfig
from bssan_tf.models.layers import MatchingScore, ReplayableDropout, WordMask
from bssan_tf.models.o2w import build_o2w, build_o2w_text
from bssan_tf.models.pairing import (
    FirstCaption,
    HardestCaptions,
    JoinNegatives,
    PairCaptions,
    PositiveFirst,
    TakeCaptions,
    UniformPairs,
)
from bssan_tf.models.w2r import build_w2r


@dataclass
class Bssan:
    """The layers of BSSAN, and its graphs.

    Args:
        config: sizes and parts.
        vocabulary_size: number of token ids, padding and unknown included.
        l2: δ of Eq. 18, on the kernels of attention, LSTM and Dense layers.
        glove: float32 (V, E_glove) pre-trained word vectors, or None to leave the rows as initialised.

    Raises:
        ValueError: if `glove` has another shape.

    Example:
        >>> model = Bssan(preset("paper", "small").model, vocabulary_size=1000)
        >>> scores = model.scorer({"regions": r, "objects": o, "valid": v, "tokens": t})["score"]

    Reference: Huang et al., TIP 2019.
    """

    config: ModelConfig
    vocabulary_size: int
    l2: float = 0.0
    glove: np.ndarray | None = None
    scorer: tf.keras.Model = field(init=False, repr=False)

    def __post_init__(self):
        self.has_w2r = self.config.variant != "o2w"
        self.has_o2w = self.config.variant != "w2r"
        self._add_embeddings()
        if self.has_w2r:
            self.w2r = build_w2r(self.config, self.l2)
        if self.has_o2w:
            self.o2w_text = build_o2w_text(self.config, self.l2)
            self.o2w = build_o2w(self.config, self.l2)
        self.scorer = self._build_scorer()

    def _add_embeddings(self) -> None:
        config, self.embeddings = self.config, []
        if config.E_glove:
            layer = tf.keras.layers.Embedding(
                self.vocabulary_size, config.E_glove, trainable=config.train_embeddings, name="glove"
            )
            layer.build((None, None))
            if self.glove is not None:
                if self.glove.shape != (self.vocabulary_size, config.E_glove):
                    raise ValueError(f"glove {self.glove.shape}: expected ({self.vocabulary_size}, {config.E_glove})")
                layer.set_weights([self.glove])
            self.embeddings.append(layer)
        if config.E_trained:
            self.embeddings.append(tf.keras.layers.Embedding(self.vocabulary_size, config.E_trained, name="embedding"))
        if config.word_dropout:
            self.word_dropout = ReplayableDropout(config.word_dropout, seed=5, shared=(-1,), name="word_dropout")

    def _embed(self, tokens):
        vectors = [embedding(tokens) for embedding in self.embeddings]
        words = vectors[0] if len(vectors) == 1 else tf.keras.layers.Concatenate()(vectors)
        return self.word_dropout(words) if self.config.word_dropout else words

    def _picture_inputs(self) -> dict[str, tf.Tensor]:
        inputs, config = {}, self.config
        if self.has_w2r:
            inputs["regions"] = tf.keras.Input((None, config.M), name="regions")
        if self.has_o2w:
            inputs["objects"] = tf.keras.Input((None, config.Q), name="objects")
            inputs["valid"] = tf.keras.Input((None,), dtype="bool", name="valid")
        return inputs

    def _read(self, captions) -> dict[str, tf.Tensor]:
        """What the networks take of captions (N, L), whatever pictures they are compared with."""
        words = self._embed(captions)  # (N, L, E)
        mask = WordMask(name="word_mask")(captions)
        text = {"words": words, "mask": mask}
        if self.has_o2w:
            text["states"] = self.o2w_text({"words": words, "mask": mask})
        return text

    def _paired(self, inputs: dict, text: dict, pair: Callable, attention: UniformPairs) -> dict[str, dict]:
        """Inputs of both networks, by name, for pictures and the captions of `_read` that `pair` lays beside them."""
        mask = pair(text["mask"])  # (B, C, L)
        shared = {"mask": mask, "uniform": attention(mask)}
        given = {}
        if self.has_w2r:
            given["w2r"] = {"regions": inputs["regions"], "words": pair(text["words"]), **shared}
        if self.has_o2w:
            objects = {name: inputs[name] for name in ("objects", "valid")}
            given["o2w"] = {**objects, "states": pair(text["states"]), **shared}
        return given

    def _scores(self, given: dict[str, dict]) -> dict[str, tf.Tensor]:
        """Outputs of both networks for what `_paired` gave."""
        outputs = {}
        for name, network in self._networks().items():
            outputs |= network(given[name])
        return outputs

    def _networks(self) -> dict[str, tf.keras.Model]:
        networks = {"w2r": self.w2r} if self.has_w2r else {}
        return networks | ({"o2w": self.o2w} if self.has_o2w else {})

    def _scores_of_all(self, inputs: dict, text: dict, kind: str, uniform: UniformPairs) -> dict[str, tf.Tensor]:
        """The bilinear scores alone, without LSTM and MLP, which are the costly part, of all pairs of a batch."""
        outputs, given = {}, self._paired(inputs, text, PairCaptions("all", name=f"pair_{kind}"), uniform)
        for name, network in self._networks().items():
            layer = network.get_layer(f"{name}_bilinear")
            fits = tf.keras.Model(network.input, layer.output, name=f"{name}_fits_{kind}")(given[name])
            outputs[f"{name}_{kind}"] = PositiveFirst(name=f"{name}_{kind}")(fits)
        return outputs

    def _add_total(self, outputs: dict) -> dict[str, tf.Tensor]:
        if self.has_w2r and self.has_o2w:
            score = MatchingScore(self.config.o2w_weight, name="score")([outputs["w2r"], outputs["o2w"]])
        else:
            score = outputs["w2r" if self.has_w2r else "o2w"]
        return {"score": score, **outputs}

    def _build_scorer(self) -> tf.keras.Model:
        inputs = self._picture_inputs()
        inputs["tokens"] = tf.keras.Input((None,), dtype="int32", name="tokens")
        pair, attention = PairCaptions("own", name="pair"), UniformPairs("learned", name="attention")
        outputs = self._scores(self._paired(inputs, self._read(inputs["tokens"]), pair, attention))
        outputs = {name: FirstCaption(name=f"{name}_of_pair")(value) for name, value in outputs.items()}
        return tf.keras.Model(inputs, self._add_total(outputs), name="bssan")

    def siamese(self, training: TrainingConfig) -> tf.keras.Model:
        """The graph that is trained: positives and negatives in one batch.

        Inputs as the scorer's, and `negative_tokens` (B, K, L) where negatives are random captions.
        Outputs `w2r` and `o2w`, float32 (B, 1 + K), the positive pair in column 0; with `all_pairs` also `w2r_all` and
        `o2w_all`, float32 (B, B), bilinear scores with every caption of the replica's batch, the positive in column 0;
        with `pooled_pairs` the same under even attention, `w2r_pooled` and `o2w_pooled`.
        """
        inputs = self._picture_inputs()
        inputs["tokens"] = captions = tf.keras.Input((None,), dtype="int32", name="tokens")
        if training.negative_source == "random":
            inputs["negative_tokens"] = tf.keras.Input(
                (training.negatives, None), dtype="int32", name="negative_tokens"
            )
            captions = JoinNegatives(name="captions")([captions, inputs["negative_tokens"]])
        attention = UniformPairs(
            training.negative_attention, training.mixed_share, training.uniform_positives, name="attention"
        )
        text, of_all = self._read(captions), {}
        learned = UniformPairs("learned", name="attend_all")
        if training.negative_source == "hardest":
            of_all = self._scores_of_all(inputs, text, "all", learned)
            pair = self._hardest(of_all["o2w_all"], training.negatives)  # O2W's alone: W2R's cost many times as much
        else:
            pair = PairCaptions(training.negative_source, training.negatives, name="pair")
        outputs = self._scores(self._paired(inputs, text, pair, attention))
        outputs = {name: outputs[name] for name in ("w2r", "o2w") if name in outputs}
        if training.all_pairs:
            outputs |= of_all or self._scores_of_all(inputs, text, "all", learned)
        if training.pooled_pairs:
            even = UniformPairs("uniform", positives=1.0, name="attend_evenly")
            outputs |= self._scores_of_all(inputs, text, "pooled", even)
        return tf.keras.Model(inputs, outputs, name="siamese")

    @staticmethod
    def _hardest(scores: tf.Tensor, negatives: int) -> Callable[[tf.Tensor], tf.Tensor]:
        """What lays beside each picture its own caption and those of others with the highest scores (B, B)."""
        chosen, take = HardestCaptions(negatives, name="hardest")(scores), TakeCaptions(name="pair_hardest")
        return lambda captions: take([captions, chosen])
