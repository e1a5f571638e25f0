"""BSSAN as a whole: one set of layers, two functional graphs over them.

`scorer`: a picture and a caption -> MS, Y, Y', α, β (Eq. 19); what is saved, exported and looked at.
`siamese`: a picture with its caption and K others -> scores, positives first (Eq. 7, 8, 17); what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from bssan_tf.config.settings import ModelConfig, TrainingConfig
from bssan_tf.models.blocks import Network
from bssan_tf.models.improved.networks import adds_anything, build_improved_o2w, build_improved_w2r
from bssan_tf.models.layers import MatchingScore, WordMask
from bssan_tf.models.o2w import build_o2w, build_o2w_text
from bssan_tf.models.pairing import FirstCaption, JoinNegatives, PairCaptions, PositiveFirst, UniformPairs
from bssan_tf.models.w2r import build_w2r
from bssan_tf.tools.stack import build


@dataclass
class Bssan:
    """The layers of BSSAN, and its graphs.

    Args:
        config: sizes and parts.
        vocabulary_size: number of token ids, padding and unknown included.
        l2: δ of Eq. 18, on the kernels of attention, LSTM and Dense layers.
        glove: float32 (V, E_glove), pre-trained word vectors, or None to leave the rows as initialised; ValueError if
            of another shape.

    Attributes:
        embeddings: one layer for GloVe's vectors, one for the learned dimensions, as far as there are any.
        networks: `w2r` and `o2w`, as the variant has them.
        o2w_text: O2W's text side, or None.

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
        config, extended = self.config, adds_anything(self.config)
        self.embeddings = self._build_embeddings()
        self.networks: dict[str, Network] = {}
        self.o2w_text = None
        if "regions" in config.needed_features:
            self.networks["w2r"] = (build_improved_w2r if extended else build_w2r)(config, self.l2)
        if "objects" in config.needed_features:
            self.o2w_text = build_o2w_text(config, self.l2)
            self.networks["o2w"] = (build_improved_o2w if extended else build_o2w)(config, self.l2)
        self.scorer = self._build_scorer()

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The scores with a ranking loss of their own: each network's, or with `fuse` fc only their sum's, `score`."""
        return ("score",) if self.config.fuse == "fc" else tuple(self.networks)

    def _build_embeddings(self) -> list[tf.keras.layers.Layer]:
        config, V, layers = self.config, self.vocabulary_size, []
        if config.E_glove:
            layer = tf.keras.layers.Embedding(V, config.E_glove, trainable=config.train_embeddings, name="glove")
            build(layer, (None, None))
            if self.glove is not None:
                if self.glove.shape != (V, config.E_glove):
                    raise ValueError(f"glove {self.glove.shape}: expected ({V}, {config.E_glove})")
                layer.set_weights([self.glove])
            layers.append(layer)
        if config.E_trained:
            layers.append(tf.keras.layers.Embedding(V, config.E_trained, name="embedding"))
        return layers

    def _inputs(self) -> dict[str, tf.Tensor]:
        inputs, config = {}, self.config
        if "w2r" in self.networks:
            inputs["regions"] = tf.keras.Input((None, config.M), name="regions")
        if "o2w" in self.networks:
            inputs["objects"] = tf.keras.Input((None, config.Q), name="objects")
            inputs["valid"] = tf.keras.Input((None,), dtype="bool", name="valid")
        return {**inputs, "tokens": tf.keras.Input((None,), dtype="int32", name="tokens")}

    def _read(self, captions) -> dict[str, tf.Tensor]:
        """Words, mask and O2W's states of captions (N, L), whatever pictures they are compared with."""
        vectors = [embedding(captions) for embedding in self.embeddings]
        words = vectors[0] if len(vectors) == 1 else tf.keras.layers.Concatenate()(vectors)  # (N, L, E)
        text = {"words": words, "mask": WordMask(name="word_mask")(captions)}
        return {**text, "states": self.o2w_text(text)} if self.o2w_text else text

    def _paired(self, inputs: dict, text: dict, pair: Callable, attention: UniformPairs) -> dict[str, dict]:
        """Inputs of the networks, by name, for pictures and the captions of `_read` that `pair` lays beside them."""
        mask = pair(text["mask"])  # (B, C, L)
        shared = {"mask": mask, "uniform": attention(mask)}
        given = {}
        if "w2r" in self.networks:
            given["w2r"] = {"regions": inputs["regions"], "words": pair(text["words"]), **shared}
        if "o2w" in self.networks:
            objects = {name: inputs[name] for name in ("objects", "valid")}
            given["o2w"] = {**objects, "states": pair(text["states"]), **shared}
        return given

    def _scores(self, given: dict[str, dict]) -> dict[str, tf.Tensor]:
        """Outputs of the networks for what `_paired` gave."""
        each = (network.model(given[name]) for name, network in self.networks.items())
        return {name: output for outputs in each for name, output in outputs.items()}

    def _sum(self, scores: dict) -> tf.Tensor:
        """MS of Eq. 19. With λ = 1 it is a dense layer over both MLPs' last hidden layers: the sum of their own."""
        return MatchingScore(self.config.o2w_weight, name="score")([scores["w2r"], scores["o2w"]])

    def _build_scorer(self) -> tf.keras.Model:
        inputs = self._inputs()
        pair, attention = PairCaptions("own", name="pair"), UniformPairs("learned", name="attention")
        outputs = self._scores(self._paired(inputs, self._read(inputs["tokens"]), pair, attention))
        outputs = {name: FirstCaption(name=f"{name}_of_pair")(value) for name, value in outputs.items()}
        if len(self.networks) == 2:
            score = self._sum(outputs)
        else:
            (score,) = (outputs[name] for name in self.networks)
        return tf.keras.Model(inputs, {"score": score, **outputs}, name="bssan")

    def siamese(self, training: TrainingConfig) -> tf.keras.Model:
        """The graph that is trained: positives and negatives in one batch.

        Inputs as the scorer's, and `negative_tokens` (B, K, L) where negatives are random captions.
        Outputs `w2r` and `o2w`, or with `fuse` fc `score`, float32 (B, 1 + K), the positive pair in column 0; with
        `all_pairs` also `w2r_all` and `o2w_all`, float32 (B, B), bilinear scores with every caption of the replica's
        batch, the positive in column 0.
        """
        inputs = self._inputs()
        captions = inputs["tokens"]
        if training.negative_source == "random":
            negatives = tf.keras.Input((training.negatives, None), dtype="int32", name="negative_tokens")
            inputs["negative_tokens"] = negatives
            captions = JoinNegatives(name="captions")([captions, negatives])
        text = self._read(captions)
        pair = PairCaptions(training.negative_source, training.negatives, name="pair")
        attention = UniformPairs(training.negative_attention, training.uniform_positives, name="attention")
        scores = self._scores(self._paired(inputs, text, pair, attention))
        if self.config.fuse == "fc":
            scores["score"] = self._sum(scores)
        outputs = {name: scores[name] for name in self.trained_parts}
        if training.all_pairs:
            outputs |= self._scores_of_all(inputs, text)
        return tf.keras.Model(inputs, outputs, name="siamese")

    def _scores_of_all(self, inputs: dict, text: dict) -> dict[str, tf.Tensor]:
        """The bilinear scores of all pairs of a batch, without the costly LSTM and MLP."""
        pair, attention = PairCaptions("all", name="pair_all"), UniformPairs("learned", name="attend_all")
        given = self._paired(inputs, text, pair, attention)
        return {
            f"{name}_all": PositiveFirst(name=f"{name}_all")(network.pair_scores(given[name]))
            for name, network in self.networks.items()
        }
