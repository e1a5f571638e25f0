"""Vectors that tell which photos are alike, of networks with and without a space that words share."""

import numpy as np
import pytest
from model_fixtures import tiny_config

from bssan_tf.features.store import Features
from bssan_tf.matching.likeness import photo_vectors
from bssan_tf.models.bssan import Bssan


@pytest.mark.parametrize(
    ("name", "variant", "parts"),
    [("improved", "full", 2), ("paper", "w2r", 1), ("paper", "o2w", 1)],
)
def test_products_are_the_mean_of_the_networks_cosines(name, variant, parts):
    norms = dict.fromkeys(("region_norm", "object_norm"), "centred") if name == "improved" else {}
    config = tiny_config(name, variant=variant, **norms).model
    model, rng = Bssan(config, 12), np.random.default_rng(0)
    regions = np.abs(rng.normal(size=(5, 4, config.M))).astype(np.float16)
    objects = np.abs(rng.normal(size=(5, 3, config.Q))).astype(np.float16)
    valid = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    for part, network in model.networks.items() if norms else ():
        network.norm.adapt((regions if part == "w2r" else objects).reshape(-1, config.M if part == "w2r" else config.Q))
    features = Features(tuple("abcde"), regions, objects, valid=valid)
    rows = np.array([4, 2, 1])
    found = photo_vectors(model.networks, features, rows)
    assert found.dtype == np.float32
    lacks_objects = {"full": 0.5, "w2r": 1, "o2w": 0}[variant]
    np.testing.assert_allclose((found**2).sum(axis=1), [1, lacks_objects, 1], rtol=1e-5)
    cosines = []
    for part, network in model.networks.items():
        means = []
        for row in (4, 1):
            real = np.asarray(regions[row] if part == "w2r" else objects[row][valid[row]], np.float32)
            if norms:
                mean, variance = network.norm.get_weights()
                real = (np.sqrt(real) - mean) / np.sqrt(variance)
                real = real @ network.fusion.A.get_weights()[0]
            means.append(real.mean(axis=0))
        cosines.append(means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1]))
    assert len(cosines) == parts
    assert found[0] @ found[2] == pytest.approx(np.mean(cosines), abs=1e-4)
