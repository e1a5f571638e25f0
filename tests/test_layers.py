"""Small layers by themselves: dropout that can be replayed, norms with statistics, the order of scores."""

import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.models.improved.norms import FeatureNorm
from bssan_tf.models.pairing import PairCaptions, PositiveFirst
from bssan_tf.tools.dropout import ReplayableDropout


def test_dropout_replays_from_a_saved_step():
    x = tf.ones((4, 50))
    layer = ReplayableDropout(0.4, seed=3)
    np.testing.assert_array_equal(layer(x), x)
    first, second = layer(x, training=True).numpy(), layer(x, training=True).numpy()
    assert (first != second).any()
    assert 0.2 < (first == 0).mean() < 0.6
    np.testing.assert_allclose(first[first > 0], 1 / 0.6, rtol=1e-6)
    again = ReplayableDropout(0.4, seed=3)
    again(x)
    again.step.assign(1)
    np.testing.assert_array_equal(again(x, training=True), second)


def test_a_shared_mask_drops_a_dimension_of_all_regions_in_training_alone():
    layer = ReplayableDropout(0.5, seed=1, shared=(1,))
    regions = np.ones((20, 6, 9), np.float32)
    np.testing.assert_array_equal(layer(regions), regions)
    seen = layer(regions, training=True).numpy()
    assert (seen == seen[:, :1]).all()
    assert set(np.unique(seen)) == {0, 2}
    assert 0.35 < (seen[:, 0] == 0).mean() < 0.65


def test_centred_norm_keeps_the_weight_of_numbers():
    rows = np.random.default_rng(0).gamma(1.0, [1.0, 9.0, 25.0], (500, 3)).astype(np.float32)
    norm = FeatureNorm("centred")
    norm.build(rows.shape)
    norm.adapt(rows)
    scaled, plain = norm(rows).numpy(), np.sqrt(rows)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.var(axis=0).mean(), 1, rtol=1e-3)
    ratios = scaled.std(axis=0) / plain.std(axis=0)
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)


@pytest.mark.parametrize("mode", ["sqrt_l2", "centred"])
def test_norms_keep_the_sign_of_features(mode):
    rows = np.array([[9.0, -16.0], [-9.0, 16.0]], np.float32)
    norm = FeatureNorm(mode)
    norm.build(rows.shape)
    if norm.fitted:
        norm.adapt(rows)
    scale = 5 if mode == "sqrt_l2" else np.sqrt(12.5)  # length of (3, 4); root of the mean of 9 and 16
    np.testing.assert_allclose(norm(rows), np.array([[3, -4], [-3, 4]]) / scale, rtol=1e-5)


def test_all_pairs_have_the_positive_first_and_then_the_next_captions():
    scores = np.arange(16, dtype=np.float32).reshape(4, 4)  # row i, column j: 4 i + j
    np.testing.assert_array_equal(PositiveFirst()(scores)[2], [10, 11, 8, 9])
    words = np.zeros((4, 7, 3), np.float32)
    assert PairCaptions("all")(words).shape == (1, 4, 7, 3)
