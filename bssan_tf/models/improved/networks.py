"""W2R and O2W with what `improved` adds, joined here and nowhere else.

Inputs and outputs are those of the paper's networks, which these keep: between the visual features and the attention
stands a norm, [u ; t] gets the fusion's product beside it and dropout behind it, and beside the MLP's score stands the
bilinear one. Each part is a setting of its own. Objects in their context come as larger objects, from the features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bssan_tf.config.settings import ModelConfig
from bssan_tf.models.blocks import Network
from bssan_tf.models.improved.attention import (
    AttendedWords,
    Gate,
    SharpenedObjectToWordAttention,
    SharpenedWordToRegionAttention,
)
from bssan_tf.models.improved.bilinear import AttendedProjections, BilinearScore, Fusion
from bssan_tf.models.improved.norms import FeatureNorm
from bssan_tf.models.layers import RepeatForCaptions
from bssan_tf.models.o2w import o2w_inputs, score_objects
from bssan_tf.models.pairing import PairCaptions
from bssan_tf.models.w2r import score_words, w2r_inputs
from bssan_tf.tools.dropout import ReplayableDropout


@dataclass(frozen=True, eq=False)
class ImprovedNetwork(Network):
    """A network with the parts that its config adds; None where one is left out."""

    norm: FeatureNorm | None = None
    fusion: Fusion | None = None
    bilinear: BilinearScore | None = None
    pair_scores: tf.keras.Model | None = None  # the same inputs -> the bilinear score alone, without LSTM and MLP

    def scaled(self, features):
        return self.norm(tf.constant(super().scaled(features))).numpy()

    def projected(self, scaled):
        return self.fusion.project(scaled) if self.fusion else scaled

    def start_from(self, maps, look, sample, text, first=0):
        super().start_from(maps, look, sample, text, first)
        if self.fusion:
            self.fusion.start_from(maps, first)

    def start_lengths(self, pooled: np.ndarray, captions: np.ndarray) -> None:
        """Let the weighted lengths begin as deviations of scores, from both sides of the training pairs.

        `pooled` float32 (N_i, M) are pictures' regions or objects as the attention sees them, pooled; `captions`
        float32 (N_c, d) their captions' sums of words.
        """
        pictures = self.fusion.project(pooled)  # (N_i, F)
        captions = np.pad(captions, ((0, 0), (0, pictures.shape[1] - captions.shape[1])))
        self.bilinear.start_from(*((captions, pictures) if self.words_ask else (pictures, captions)))


def adds_anything(config: ModelConfig) -> bool:
    """Whether a config has a part that the paper's networks have not."""
    added = [told for told in dataclasses.fields(config) if told.metadata.get("improved")]
    return any(getattr(config, told.name) != told.default for told in added)


def build_improved_w2r(config: ModelConfig, l2: float = 0.0) -> Network:
    """W2R of `models.w2r.build_w2r` with the parts of `config`."""
    inputs = w2r_inputs(config)
    regions, words, mask, uniform = inputs.values()
    norm = FeatureNorm(config.region_norm, dtype="float32", name="region_norm")
    scaled = norm(regions)
    gate = config.attention_gate
    attention = SharpenedWordToRegionAttention(
        l2, config.attention_scale, config.cosine_attention, bool(gate), even=config.even_attention,
        name="w2r_attention",
    )  # fmt: skip
    u, alpha = attention([words, scaled, mask, uniform])
    weights = alpha
    if gate:
        weights = Gate(gate, name="w2r_gate")([alpha, mask])
        u = AttendedProjections(name="w2r_gated")([weights, scaled])
    parts, fusion = [u, words], None
    if config.fusion:
        fusion = Fusion(config.fusion, l2, "w2r_fusion")
        Av, Bt = fusion(_dropped_alike(config, "w2r_fusion_dropout", 3, scaled), words)
        Au = AttendedProjections(name="w2r_fusion_attended")([weights, Av])
        parts.append(tf.keras.layers.Multiply(name="w2r_fusion_product")([Au, Bt]))
    c = tf.keras.layers.Concatenate(name="w2r_concat")(parts)  # [u ; t ; (A u)∘(B t)], (B, C, L, M + E + F)
    y = score_words(config, l2, c, mask, _dropout(config, "w2r_dropout", 1), silent=config.bilinear)
    bilinear = pair_scores = None
    if config.bilinear:
        y, bilinear, pair_scores = _add_bilinear(config, y, [Bt, Au, mask], inputs, "w2r")
    model = tf.keras.Model(inputs, {"w2r": y, "alpha": alpha}, name="w2r")
    return ImprovedNetwork(model, attention, True, norm, fusion, bilinear, pair_scores)


def build_improved_o2w(config: ModelConfig, l2: float = 0.0) -> Network:
    """O2W of `models.o2w.build_o2w` with the parts of `config`."""
    inputs = o2w_inputs(config)
    objects, valid, states, mask, uniform = inputs.values()
    norm = FeatureNorm(config.object_norm, dtype="float32", name="object_norm")
    scaled = norm(objects)
    scale = config.attention_scale if config.o2w_attention_scale is None else config.o2w_attention_scale
    gate = config.attention_gate
    attention = SharpenedObjectToWordAttention(
        l2, scale, config.cosine_attention, bool(gate), even=config.even_attention, name="o2w_attention"
    )
    u, beta = attention([scaled, states, mask, uniform])
    if gate:
        u = AttendedWords(name="o2w_gated")([Gate(gate, True, name="o2w_gate")([beta, mask]), states])
    parts, fusion = [RepeatForCaptions(name="o2w_objects")([scaled, states]), u], None
    if config.fusion:
        fusion = Fusion(config.fusion, l2, "o2w_fusion")
        Ao, Bu = fusion(_dropped_alike(config, "o2w_fusion_dropout", 4, scaled), u)
        Ao = PairCaptions("own", name="o2w_projected")(Ao)  # (B, 1, P, F), the same for every caption
        parts.append(tf.keras.layers.Multiply(name="o2w_fusion_product")([Ao, Bu]))
    c = tf.keras.layers.Concatenate(name="o2w_concat")(parts)  # [o ; u ; (A o)∘(B u)], (B, C, P, Q + S + F)
    y = score_objects(config, l2, c, valid, _dropout(config, "o2w_dropout", 2), silent=config.bilinear)
    bilinear = pair_scores = None
    if config.bilinear:
        real = PairCaptions("own", name="o2w_real")(valid)
        y, bilinear, pair_scores = _add_bilinear(config, y, [Ao, Bu, real], inputs, "o2w")
    model = tf.keras.Model(inputs, {"o2w": y, "beta": beta}, name="o2w")
    return ImprovedNetwork(model, attention, False, norm, fusion, bilinear, pair_scores)


def _add_bilinear(config: ModelConfig, y: tf.Tensor, parts: list, inputs: dict, name: str):
    """Y plus the bilinear score, its layer, and a model of that score alone."""
    layer = BilinearScore(weighted=config.weighted_lengths, dtype="float32", name=f"{name}_bilinear")
    score = layer(parts)
    total = tf.keras.layers.Add(dtype="float32", name=f"{name}_sum")([y, score])
    return total, layer, tf.keras.Model(inputs, score, name=f"{name}_pair_scores")


def _dropout(config: ModelConfig, name: str, seed: int) -> ReplayableDropout | None:
    return ReplayableDropout(config.dropout, seed=seed, name=name) if config.dropout else None


def _dropped_alike(config: ModelConfig, name: str, seed: int, visual: tf.Tensor) -> tf.Tensor:
    """Dropout of what the bilinear score sees of a picture (B, ..., Q): the dropout before LSTM and MLP misses it.

    A dimension is dropped for all regions or objects of the picture: their sum would bring back what only some lack.
    """
    if not (config.bilinear and config.dropout):
        return visual
    between = tuple(range(1, len(visual.shape) - 1))
    return ReplayableDropout(config.dropout, seed=seed, shared=between, name=name)(visual)
