"""The bilinear score beside the MLP's, and attention by cosines."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, tiny_config

from bssan_tf.config.presets import preset
from bssan_tf.errors import UserError
from bssan_tf.models.attention import COSINE_SCALE, ObjectToWordAttention, WordToRegionAttention
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.layers import BilinearScore
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


def test_at_the_start_the_mlps_are_silent_and_then_learn():
    config = tiny_config("improved", dropout=0.0)
    model = Bssan(config.model, 12)
    siamese, inputs = model.siamese(config.training), random_pairs(config, 8)
    names = ("w2r_mlp_out", "o2w_mlp_out")
    networks = dict(zip(names, (model.w2r, model.o2w)))
    with tf.GradientTape() as tape:
        outputs = siamese(inputs, training=True)
        loss = tf.add_n([tf.reduce_sum(scores[:, 0] - scores[:, 1]) for scores in outputs.values()])
    kernels = [networks[name].get_layer(name).kernel for name in names]
    assert not any(kernel.numpy().any() for kernel in kernels)
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, kernels))


@pytest.mark.parametrize("layer", [WordToRegionAttention, ObjectToWordAttention])
def test_cosines_do_not_depend_on_lengths_and_never_saturate(layer):
    rng = np.random.default_rng(0)
    words = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    seen = rng.normal(size=(2, 6, 7)).astype(np.float32)
    mask, uniform = np.ones((2, 3, 4), bool), np.zeros((2, 3), bool)
    attention = layer(scale=5.0, cosine=True)

    def weights(factor):
        pair = [factor * words, factor * seen]
        if layer is ObjectToWordAttention:
            pair.reverse()
        return attention([*pair, mask, uniform])[1].numpy()

    np.testing.assert_allclose(weights(1.0), weights(1000.0), rtol=1e-3)
    attention.W.assign(1e4 * attention.W)
    huge = weights(1.0)
    assert len(np.unique(huge)) == huge.size  # no two weights are the same: the largest is one place
    assert np.tanh(np.float32(COSINE_SCALE)) < 1


def test_a_bilinear_score_needs_a_fusion():
    with pytest.raises(UserError, match="--fusion 0: must be above 0 with --bilinear"):
        preset("paper").replace(bilinear=True).check()


def test_weighted_lengths_need_a_bilinear_score():
    with pytest.raises(UserError, match="--weighted-lengths True: must be off without --bilinear"):
        preset("paper").replace(weighted_lengths=True).check()


def test_they_are_off_in_paper_and_on_for_photos():
    paper, photos = preset("paper"), preset("improved", data="flickr8k")
    for config, on in ((paper, False), (photos, True)):
        model = config.model
        assert (model.bilinear, model.weighted_lengths, model.cosine_attention) == (on, on, on)
        assert (config.training.all_pairs > 0) == on


def test_scores_of_all_pairs_are_the_bilinear_ones():
    config = tiny_config("improved", dropout=0.0, negatives=7, all_pairs=0.5)
    model = Bssan(config.model, 12)  # its MLPs are silent, so that the whole score is the bilinear one
    outputs = model.siamese(config.training)(random_pairs(config, 8), training=True)
    for part in ("w2r", "o2w"):
        assert outputs[part].shape == outputs[f"{part}_all"].shape == (8, 8)
        np.testing.assert_allclose(outputs[part], outputs[f"{part}_all"], atol=1e-5)
    fewer = model.siamese(config.replace(negatives=2).training)(random_pairs(config, 8), training=True)
    assert fewer["w2r"].shape == (8, 3)
    np.testing.assert_allclose(fewer["w2r_all"], outputs["w2r_all"], atol=1e-5)


def test_all_pairs_teach_attention_and_fusion_but_no_mlp():
    config = tiny_config("improved", dropout=0.0, all_pairs=1.0)
    model = Bssan(config.model, 12)
    siamese = model.siamese(config.training)
    with tf.GradientTape() as tape:
        outputs = siamese(random_pairs(config, 8), training=True)
        loss = tf.add_n([tf.reduce_sum(outputs[f"{part}_all"][:, 0]) for part in ("w2r", "o2w")])
    kernels = siamese.trainable_variables
    taught = {w.name for w, g in zip(kernels, tape.gradient(loss, kernels)) if g is not None}
    assert {"w2r_attention/W:0", "o2w_attention/W:0", "w2r_fusion_A/kernel:0", "o2w_fusion_B/kernel:0"} <= taught
    assert {"w2r_bilinear/query_gain:0", "o2w_bilinear/attended_gain:0"} <= taught
    assert not any("mlp" in name or "w2r_lstm" in name for name in taught)


@pytest.mark.parametrize("values", [{"bilinear": False}, {"negative_source": "random"}, {"all_pairs": -1.0}])
def test_all_pairs_need_a_bilinear_score_and_a_batch(values):
    with pytest.raises(UserError, match="--all-pairs"):
        tiny_config("improved", **{"all_pairs": 1.0, **values}).check()


def test_scores_of_pooled_pairs_are_cosines_of_pooled_words_and_pictures():
    config = tiny_config("improved", dropout=0.0, all_pairs=0.5, pooled_pairs=0.5, weighted_lengths=False).check()
    model = Bssan(config.model, VOCABULARY)
    siamese, inputs = model.siamese(config.training), random_pairs(config, 8)
    outputs = siamese(inputs, training=False)
    assert set(outputs) == {f"{part}{kind}" for part in ("w2r", "o2w") for kind in ("", "_all", "_pooled")}
    A, B = (model.w2r.get_layer(f"w2r_fusion_{side}").get_weights()[0] for side in "AB")
    words = model.scorer.get_layer("embedding").get_weights()[0][inputs["tokens"]] * (inputs["tokens"] > 0)[..., None]
    pictures, captions = (
        model.w2r.get_layer("region_norm")(inputs["regions"]).numpy().mean(axis=1) @ A,
        words.sum(1) @ B,
    )
    cosines = pictures @ captions.T / np.outer(*(np.linalg.norm(side, axis=1) for side in (pictures, captions)))
    column = (np.arange(8)[:, None] + np.arange(8)) % 8  # the positive first
    expected = 14 * np.take_along_axis(cosines, column, axis=1)
    np.testing.assert_allclose(outputs["w2r_pooled"], expected, atol=1e-3)
    assert not np.allclose(outputs["w2r_all"], expected, atol=1e-2)


def test_pooled_pairs_teach_no_attention():
    config = tiny_config("improved", dropout=0.0, all_pairs=0.0, pooled_pairs=1.0)
    siamese = Bssan(config.model, VOCABULARY).siamese(config.training)
    with tf.GradientTape() as tape:
        outputs = siamese(random_pairs(config, 8), training=True)
        loss = tf.add_n([tf.reduce_sum(outputs[f"{part}_pooled"][:, 0]) for part in ("w2r", "o2w")])
    gradients = tape.gradient(loss, siamese.trainable_variables, unconnected_gradients="zero")
    taught = {v.name for v, g in zip(siamese.trainable_variables, gradients) if tf.convert_to_tensor(g).numpy().any()}
    assert {
        "w2r_fusion_A/kernel:0",
        "w2r_fusion_B/kernel:0",
        "o2w_fusion_A/kernel:0",
        "embedding/embeddings:0",
    } <= taught
    assert not {"w2r_attention/W:0", "o2w_attention/W:0", "w2r_mlp_dense1/kernel:0"} & taught


def test_the_hardest_negatives_are_those_of_the_highest_o2w_score():
    config = tiny_config("improved", dropout=0.0, negatives=3, all_pairs=1.0, negative_source="hardest").check()
    model = Bssan(config.model, VOCABULARY)
    inputs = random_pairs(config, 8)
    outputs = model.siamese(config.replace(negative_attention="learned").training)(inputs, training=False)
    pairs = {name: np.repeat(inputs[name], 8, axis=0) for name in ("regions", "objects", "valid")}
    scores = model.scorer(pairs | {"tokens": np.tile(inputs["tokens"], (8, 1))})
    whole = {part: scores[part].numpy().reshape(8, 8) for part in ("w2r", "o2w")}  # (V_i, T_j)
    for i in range(8):
        steps = 1 + np.sort(np.argsort(-outputs["o2w_all"].numpy()[i, 1:])[:3])  # in the batch's order
        for part in whole:
            np.testing.assert_allclose(outputs[part][i], whole[part][i, [i, *(i + steps) % 8]], atol=1e-5)


def test_the_choice_of_the_hardest_gets_no_gradient():
    config = tiny_config(
        "improved", dropout=0.0, all_pairs=0.0, negative_source="hardest", negative_attention="uniform"
    )
    siamese = Bssan(config.model, VOCABULARY).siamese(config.training)
    assert set(siamese.output) == {"w2r", "o2w"}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(siamese(random_pairs(config, 8), training=True)["w2r"])
    weights = [v for v in siamese.trainable_variables if v.name.startswith("o2w")]
    assert weights
    assert tape.gradient(loss, weights) == [None] * len(weights)


@pytest.mark.parametrize(
    "values", [{"variant": "w2r"}, {"bilinear": False, "weighted_lengths": False, "all_pairs": 0.0}]
)
def test_the_hardest_need_a_score_that_chooses_them(values):
    with pytest.raises(
        UserError, match="--negative-source hardest: must be batch or random without --bilinear and O2W"
    ):
        tiny_config("improved", **{"negative_source": "hardest", **values}).check()


def test_only_the_next_captions_rank_pictures_for_a_caption(monkeypatch):
    seen, compile_model = {}, tf.keras.Model.compile

    def spy(self, **options):
        seen.update(options["loss"])
        compile_model(self, **options)

    monkeypatch.setattr(tf.keras.Model, "compile", spy)
    for source, both in (("batch", True), ("hardest", False)):
        config = tiny_config("improved", negative_source=source, all_pairs=1.0, pooled_pairs=1.0)
        compile_siamese(Bssan(config.model, VOCABULARY).siamese(config.training), config)
        assert {name: loss.symmetric for name, loss in seen.items()} == {
            name: both or "_" in name for name in ("w2r", "o2w", "w2r_all", "o2w_all", "w2r_pooled", "o2w_pooled")
        }
