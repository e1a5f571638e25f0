"""Floating-point operations of the network's matrix products, counted from shapes; a multiply-add is two."""

from __future__ import annotations

from bssan_tf.config.settings import ModelConfig
from bssan_tf.scoring.prefix_tree import PrefixTree


def mlp(inputs: int, units: tuple[int, ...]) -> int:
    """One row through Dense layers, the last one to a single number."""
    sizes = (inputs, *units, 1)
    return sum(2 * a * b for a, b in zip(sizes, sizes[1:]))


def w2r_word(config: ModelConfig) -> int:
    """A word beside a picture: e, u, fusion and the LSTM's input product from u."""
    attention = 2 * 2 * config.D * config.M
    fusion = 2 * config.M * config.fusion
    return attention + fusion + 2 * (config.M + config.fusion) * 4 * config.H


def w2r_pair(config: ModelConfig, words: int) -> int:
    """One pair through the W2R graph, every product for itself."""
    own = 2 * config.E * (config.M + config.fusion + 4 * config.H)  # t' W, B t, and the LSTM's input product from t
    return words * (w2r_word(config) + own + 2 * config.H * 4 * config.H) + mlp(config.H, config.w2r_mlp)


def o2w_object(config: ModelConfig, words: int) -> int:
    """An object beside a caption: e, u, fusion and MLP."""
    attention = 2 * 2 * words * config.S
    fusion = 2 * config.fusion * (config.Q + config.S)
    return attention + fusion + mlp(config.Q + config.S + config.fusion, config.o2w_mlp)


def o2w_pair(config: ModelConfig, words: int, text: bool = True) -> int:
    """One pair through the O2W graph; `text`: with the Bi-LSTM."""
    states = words * 2 * 2 * 4 * config.S * (config.E + config.S) if text else 0
    return states + config.P * (2 * config.Q * config.S + o2w_object(config, words))


def w2r_tree(config: ModelConfig, tree: PrefixTree) -> int:
    """A picture with the captions of a tree: what no order of the products can avoid."""
    inner = tree.nodes - (len(tree.levels[0].parents) if tree.levels else 0)  # first words have no state before them
    recurrent = inner * 2 * config.H * 4 * config.H
    return len(tree.words) * w2r_word(config) + recurrent + len(tree.captions) * mlp(config.H, config.w2r_mlp)
