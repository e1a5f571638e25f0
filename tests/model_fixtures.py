"""Small models and random pairs that several test files use."""

import numpy as np
import tensorflow as tf

from bssan_tf.config.presets import preset

TINY = {
    "D": 6, "M": 5, "P": 4, "Q": 7, "H": 8, "S": 6, "w2r_mlp": (8, 6, 4), "o2w_mlp": (8, 6, 4),
    "E_glove": 0, "E_trained": 9,
}  # fmt: skip
VOCABULARY = 12


def tiny_config(name="paper", **values):
    """A preset at a size that a test can afford."""
    settings = {**TINY, "batch_size": 8, "negatives": 2, "epochs": 2, **values}
    if name == "improved":
        settings = {"fusion": 4, "bilinear": True, "weighted_lengths": True, "cosine_attention": True, **settings}
    return preset(name).replace(**settings)


def random_pairs(config, pairs=5, length=7, seed=0):
    """Inputs of the scorer: captions of 1 to `length` words, padded; 1 to P real objects, the rest zero rows."""
    rng = np.random.default_rng(seed)
    model = config.model
    tokens = rng.integers(1, VOCABULARY, (pairs, length)).astype(np.int32)
    words = rng.integers(1, length + 1, pairs)
    words[0] = 1
    tokens[np.arange(length) >= words[:, None]] = 0
    valid = np.arange(model.P) < rng.integers(1, model.P + 1, pairs)[:, None]
    objects = rng.normal(size=(pairs, model.P, model.Q)).astype(np.float32) * valid[..., None]
    regions = rng.gamma(1.0, 2.0, size=(pairs, model.D, model.M)).astype(np.float32)
    return {"regions": regions, "objects": objects, "valid": valid, "tokens": tokens}


def randomise(model, seed=0):
    """Give every weight, also biases and BatchNorm statistics, a value that shows if it is left out."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if tf.as_dtype(weight.dtype).is_floating:
            value = rng.normal(scale=0.5, size=weight.shape)
            weight.assign(np.abs(value) + 0.1 if "variance" in weight.name else value)
