"""The bilinear score beside the MLP's, and attention by cosines."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, tiny_config

from bssan_tf.config.presets import preset
from bssan_tf.errors import UserError
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.improved.attention import (
    COSINE_SCALE,
    SharpenedObjectToWordAttention,
    SharpenedWordToRegionAttention,
)
from bssan_tf.models.improved.bilinear import BilinearScore
from bssan_tf.tools.stack import path_of
from bssan_tf.training.step import compile_siamese


def three(seed=0, queries=4, size=5):
    rng = np.random.default_rng(seed)
    q, a = rng.normal(size=(2, 1, 1, queries, size)).astype(np.float32)
    return q, a, np.array([[[True] * (queries - 1) + [False]]])


def test_the_same_attention_for_all_gives_the_cosine_of_the_sum():
    q, a, mask = three()
    a[:] = a[:, :, :1]
    total = (q * mask[..., None]).sum(axis=2)[0, 0]
    cosine = total @ a[0, 0, 0] / np.linalg.norm(total) / np.linalg.norm(a[0, 0, 0])
    np.testing.assert_allclose(BilinearScore(scale=7.0)([q, a, mask]), [[7 * cosine]], rtol=1e-5)


def test_weighted_lengths_start_as_lengths():
    inputs = three()
    np.testing.assert_array_equal(BilinearScore(weighted=True)(inputs), BilinearScore()(inputs))


def test_weights_of_one_sides_deviations_make_scores_spread_alike():
    """Queries that look along numbers which vary much, or little, have scores of the same deviation."""
    rng = np.random.default_rng(0)
    deviations = np.array([3.0, 1.0, 0.1, 0.3], np.float32)
    attended = (rng.normal(size=(5000, 4)) * deviations).astype(np.float32)
    queries = rng.normal(size=(6, 4)).astype(np.float32)
    layer = BilinearScore(weighted=True)
    layer.build([(1, 6, 1, 4), (1, 6, 1, 4), (1, 6, 1)])
    layer.query_gain.assign(deviations)
    layer.attended_gain.assign(np.zeros(4))  # every length alike, so that the products alone are left
    pairs = [np.repeat(x[:, :, None], 1, axis=2) for x in np.broadcast_arrays(queries[None], attended[:, None])]
    spread = layer([*pairs, np.ones((5000, 6, 1), bool)]).numpy().std(axis=0)
    np.testing.assert_allclose(spread, spread.mean(), rtol=0.05)
    layer.query_gain.assign(np.ones(4))
    spread = layer([*pairs, np.ones((5000, 6, 1), bool)]).numpy().std(axis=0)
    assert spread.max() > 2 * spread.min()


@pytest.mark.parametrize("weighted", [False, True])
def test_padding_counts_nowhere(weighted):
    q, a, mask = three()
    other_q, other_a = q.copy(), a.copy()
    other_q[:, :, -1], other_a[:, :, -1] = 100, -50
    layer = BilinearScore(weighted=weighted)
    np.testing.assert_array_equal(layer([q, a, mask]), layer([other_q, other_a, mask]))


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_to_score_is_zero_and_its_gradient_finite(weighted):
    q, a, mask = (tf.constant(x) for x in three())
    layer = BilinearScore(weighted=weighted)
    with tf.GradientTape() as tape:
        tape.watch([q, a])
        zero = layer([q, 0 * a, mask & False])
    assert zero.numpy() == 0
    assert all(np.isfinite(g).all() for g in tape.gradient(zero, [q, a]))


@pytest.fixture(scope="module")
def improved():
    """Config and model; its MLPs are silent, so that the bilinear score is the whole."""
    config = tiny_config("improved", dropout=0.0, negatives=7, all_pairs=1.0)
    return config, Bssan(config.model, VOCABULARY)


def test_at_the_start_the_mlps_are_silent_and_then_learn(improved):
    config, model = improved
    siamese, inputs = model.siamese(config.training), random_pairs(config, 8)
    mlps = {name: network.model.get_layer(f"{name}_mlp") for name, network in model.networks.items()}
    kernels = [mlp.get_layer(f"{name}_mlp_out").kernel for name, mlp in mlps.items()]
    with tf.GradientTape(persistent=True) as tape:
        outputs = siamese(inputs, training=True)
        loss = tf.add_n([tf.reduce_sum(outputs[part][:, 0] - outputs[part][:, 1]) for part in mlps])
        of_all = tf.add_n([tf.reduce_sum(outputs[f"{part}_all"][:, 0]) for part in mlps])
    assert not any(kernel.numpy().any() for kernel in kernels)
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, kernels))
    # scores of all pairs are the bilinear ones, and so the whole
    for part in mlps:
        assert outputs[part].shape == outputs[f"{part}_all"].shape == (8, 8)
        np.testing.assert_allclose(outputs[part], outputs[f"{part}_all"], atol=1e-5)
    # they teach attention and fusion, but no MLP
    weights = siamese.trainable_variables
    taught = {path_of(w) for w, g in zip(weights, tape.gradient(of_all, weights)) if g is not None}
    assert {"w2r_attention/W", "o2w_attention/W", "w2r_fusion_A/kernel", "o2w_fusion_B/kernel"} <= taught
    assert {"w2r_bilinear/query_gain", "o2w_bilinear/attended_gain"} <= taught
    assert not any("mlp" in name or "w2r_lstm" in name for name in taught)


def test_scores_of_all_pairs_are_the_same_with_fewer_negatives(improved):
    config, model = improved
    inputs = random_pairs(config, 8)
    whole, fewer = (model.siamese(config.replace(negatives=K).training)(inputs, training=False) for K in (7, 2))
    assert fewer["w2r"].shape == (8, 3)
    np.testing.assert_allclose(fewer["w2r"], whole["w2r"][:, :3], atol=1e-5)
    np.testing.assert_allclose(fewer["w2r_all"], whole["w2r_all"], atol=1e-5)


@pytest.mark.parametrize("layer", [SharpenedWordToRegionAttention, SharpenedObjectToWordAttention])
def test_cosines_do_not_depend_on_lengths_and_never_saturate(layer):
    rng = np.random.default_rng(0)
    words = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    seen = rng.normal(size=(2, 6, 7)).astype(np.float32)
    mask, uniform = np.ones((2, 3, 4), bool), np.zeros((2, 3), bool)
    attention = layer(scale=5.0, cosine=True)

    def weights(factor):
        pair = [factor * words, factor * seen]
        if layer is SharpenedObjectToWordAttention:
            pair.reverse()
        return attention([*pair, mask, uniform])[1].numpy()

    np.testing.assert_allclose(weights(1.0), weights(1000.0), rtol=1e-3)
    attention.W.assign(1e4 * attention.W)
    huge = weights(1.0)
    assert len(np.unique(huge)) == huge.size  # no two weights are the same: the largest is one place
    assert np.tanh(np.float32(COSINE_SCALE)) < 1


def test_they_are_off_in_paper_and_on_for_photos():
    paper, photos = preset("paper"), preset("improved", data="flickr8k")
    for config, on in ((paper, False), (photos, True)):
        model = config.model
        assert (model.bilinear, model.weighted_lengths, model.cosine_attention) == (on, on, on)
        assert (config.training.all_pairs > 0) == on


@pytest.mark.parametrize(
    "values", [{"bilinear": False, "weighted_lengths": False}, {"negative_source": "random"}, {"all_pairs": -1.0}]
)
def test_all_pairs_need_a_bilinear_score_and_a_batch(values):
    with pytest.raises(UserError, match="--all-pairs"):
        tiny_config("improved", **{"all_pairs": 1.0, **values}).check()


@pytest.mark.parametrize(("source", "both"), [("batch", True), ("random", False)])
def test_only_the_next_captions_rank_pictures_for_a_caption(source, both):
    config = tiny_config("improved", variant="w2r", negative_source=source, all_pairs=float(both))
    siamese = Bssan(config.model, VOCABULARY).siamese(config.training)
    compile_siamese(siamese, config)
    assert {loss.symmetric for loss in siamese.loss.values()} == {both}
    assert set(siamese.loss) == {"w2r", *(["w2r_all"] if both else [])}
