"""The scorer and the siamese graph against the NumPy reference, their gradients, padding, saving."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, randomise, tiny_config
from numpy_reference import Weights, o2w, w2r

from bssan_tf.config.presets import preset
from bssan_tf.models.attention import ObjectToWordAttention, WordToRegionAttention
from bssan_tf.models.blocks import Network
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.pairing import UniformPairs
from bssan_tf.tools.stack import path_of
from bssan_tf.training.step import compile_siamese

IMPROVED = {"region_norm": "sqrt_l2", "object_norm": "centred", "attention_scale": 3.0, "fusion": 4, "E_glove": 3}


def build(**values):
    config = tiny_config(**values)
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    randomise(model.scorer)
    return config, model


@pytest.fixture(scope="module")
def built():
    return build()


@pytest.fixture
def paper(built):
    """The paper's config and a model of it, as random after the test as before."""
    config, model = built
    before = model.scorer.get_weights()
    yield config, model
    model.scorer.set_weights(before)


def siamese_inputs(config, pairs=8, seed=1):
    inputs = random_pairs(config, pairs, seed=seed)
    if config.training.negative_source == "random":
        rng = np.random.default_rng(seed)
        shape = (pairs, config.training.negatives, inputs["tokens"].shape[1])
        inputs["negative_tokens"] = rng.integers(1, VOCABULARY, shape).astype(np.int32)
    return inputs


def test_even_attention_stays_even():
    config = tiny_config(**IMPROVED, attention_gate=0.3, even_attention=True)
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    compile_siamese(siamese := model.siamese(config.training), config)
    siamese.run_eagerly = True  # a graph would take longer to make than to run twice
    given = siamese_inputs(config)
    siamese.fit(given, {part: np.zeros(8) for part in siamese.output}, batch_size=8, epochs=2, verbose=0)
    for network in model.networks.values():
        network.attention.start_from(np.ones((3, 2)), np.arange(4.0))
        left = [weight.name.split("/")[-1].split(":")[0] for weight in network.attention.trainable_weights]
        assert left == ["scale"]  # the factor on e, which changes nothing
    inputs = random_pairs(config)
    words = (inputs["tokens"] > 0).sum(axis=1)
    outputs = model.scorer(inputs)
    for i, count in enumerate(words):
        np.testing.assert_allclose(outputs["alpha"][i, :count], 1 / config.model.D, rtol=1e-6)
        np.testing.assert_allclose(outputs["beta"][i, :, :count], 1 / count, rtol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "values",
    [
        {},
        IMPROVED,
        {**IMPROVED, "bilinear": True, "cosine_attention": True},
        {**IMPROVED, "bilinear": True, "weighted_lengths": True},
        {"region_norm": "centred", "object_norm": "sqrt_l2", "o2w_attention_scale": 2.0},
        {**IMPROVED, "bilinear": True, "w2r_text": "cnn"},
        {**IMPROVED, "bilinear": True, "cosine_attention": True, "attention_gate": 0.3},
        {"attention_gate": 0.3},
    ],
    ids=["paper", "with all extras", "bilinear", "weighted lengths", "centred", "cnn", "gate", "gate alone"],
)
def test_scorer_is_the_papers_equations(values):
    config, model = build(**values)
    inputs = random_pairs(config)
    outputs = {name: value.numpy() for name, value in model.scorer(inputs).items()}
    weights = Weights(model.scorer)
    for i, tokens in enumerate(inputs["tokens"]):
        words, real = tokens[tokens > 0], inputs["valid"][i]
        y, alpha = w2r(words, inputs["regions"][i], weights, config.model)
        y_o2w, beta = o2w(words, inputs["objects"][i][real], weights, config.model)
        np.testing.assert_allclose(outputs["w2r"][i], y, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(outputs["o2w"][i], y_o2w, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(outputs["score"][i], y + 0.6 * y_o2w, rtol=2e-5, atol=4e-5)  # Eq. 19
        np.testing.assert_allclose(outputs["alpha"][i, : len(words)], alpha, atol=1e-6)
        np.testing.assert_allclose(outputs["beta"][i][real][:, : len(words)], beta, atol=1e-6)
        assert not outputs["alpha"][i, len(words) :].any()
        assert not outputs["beta"][i][:, len(words) :].any()


@pytest.mark.smoke
@pytest.mark.parametrize("source", ["random", "batch"])
@pytest.mark.parametrize("attention", ["uniform", "learned"])
def test_siamese_scores_are_those_of_the_pairs(paper, source, attention):
    """Column 0: (V_i, T_i), learned; column k: (V_i, its k-th negative), under Eq. 8 or learned."""
    config, model = paper
    config = config.replace(negative_source=source, negative_attention=attention, negatives=2)
    siamese = model.siamese(config.training)
    inputs = siamese_inputs(config)
    outputs = siamese(inputs, training=False)
    weights, uniform = Weights(model.scorer), attention == "uniform"
    pairs = len(inputs["tokens"])
    for i in range(pairs):
        regions, objects = inputs["regions"][i], inputs["objects"][i][inputs["valid"][i]]
        for k in range(3):
            if k == 0 or source == "batch":
                tokens = inputs["tokens"][(i + k) % pairs]
            else:
                tokens = inputs["negative_tokens"][i, k - 1]
            flat = uniform and k > 0
            tokens = tokens[tokens > 0]
            np.testing.assert_allclose(
                outputs["w2r"][i, k], w2r(tokens, regions, weights, config.model, flat)[0], atol=2e-5
            )
            np.testing.assert_allclose(
                outputs["o2w"][i, k], o2w(tokens, objects, weights, config.model, flat)[0], atol=2e-5
            )


def test_mixed_gives_every_second_negative_equation_8():
    mask = tf.ones((8, 5, 3), tf.bool)  # 8 pictures, 4 negatives each
    flags = UniformPairs("mixed")(mask).numpy()
    assert not flags[:, 0].any()
    assert flags[:, 1:].sum(axis=1).tolist() == [2] * 8
    one = UniformPairs("mixed")(tf.ones((6, 2, 3), tf.bool)).numpy()
    assert one[:, 1].sum() == 3
    assert UniformPairs("uniform")(mask).numpy()[:, 1:].all()
    assert not UniformPairs("learned")(mask).numpy().any()


def test_a_share_of_the_positives_may_have_equation_8_too():
    flags = UniformPairs("uniform", positives=0.25)(tf.ones((8, 3, 2), tf.bool)).numpy()
    assert flags[:, 0].tolist() == [False, False, False, True] * 2
    assert flags[:, 1:].all()
    # with one share for both signs, Eq. 8 says nothing about a pair's sign: over the rows, and in each of them
    mixed = UniformPairs("mixed", positives=0.5)(tf.ones((8, 5, 2), tf.bool)).numpy()
    assert mixed[:, 0].mean() == 0.5
    assert mixed[:, 1:].mean(axis=1).tolist() == [0.5] * 8


@pytest.mark.parametrize("attention", ["uniform", "learned"])
def test_negatives_send_no_gradient_to_the_attention_under_equation_8(paper, attention):
    config, model = paper
    siamese = model.siamese(config.replace(negative_attention=attention, negatives=2).training)
    inputs = siamese_inputs(config)
    with tf.GradientTape(persistent=True) as tape:
        scores = siamese(inputs, training=False)
        sides = {name: (value[:, 0], value[:, 1:]) for name, value in scores.items()}
    assert set(sides) == {"w2r", "o2w"}
    for name, (positive, negative) in sides.items():
        W = model.networks[name].attention.W
        assert np.abs(tape.gradient(positive, W)).max() > 0
        gradient = np.abs(tape.gradient(negative, W)).max()
        assert gradient == 0 if attention == "uniform" else gradient > 0


def test_batch_norm_sees_positives_and_negatives_together(paper):
    config, model = paper
    config = config.replace(negative_source="batch", negatives=2)
    inputs, network = siamese_inputs(config), model.networks["w2r"].model
    mlp, last = network.get_layer("w2r_mlp"), tf.keras.Model(network.input, network.get_layer("w2r_lstm").output)
    words, mask = model.embeddings[0](inputs["tokens"]), inputs["tokens"] > 0
    rows = []
    for k in range(3):  # the inputs of the first BatchNorm, block by block
        feed = {
            "regions": tf.constant(inputs["regions"]),
            "words": tf.roll(words, -k, 0)[:, None],
            "mask": tf.roll(mask, -k, 0)[:, None],
            "uniform": tf.fill((8, 1), k > 0),
        }
        rows.append(mlp.get_layer("w2r_mlp_dense1")(last(feed)).numpy())
    norm = mlp.get_layer("w2r_mlp_norm1")
    before = norm.moving_mean.numpy()
    model.siamese(config.training)(inputs, training=True)
    seen = (norm.moving_mean.numpy() - 0.9 * before) / 0.1
    np.testing.assert_allclose(seen, np.concatenate(rows).mean(axis=0), atol=1e-4)


def test_scores_do_not_depend_on_padding(paper):
    config, model = paper
    inputs = random_pairs(config)
    longer = dict(inputs)
    longer["tokens"] = np.pad(inputs["tokens"], ((0, 0), (0, 9)))
    # more rows of objects, filled with rubbish: the mask alone must keep them out
    rubbish = np.where(inputs["valid"][..., None], inputs["objects"], 99.0)
    longer["objects"] = np.pad(rubbish, ((0, 0), (0, 3), (0, 0)), constant_values=-99.0).astype(np.float32)
    longer["valid"] = np.pad(inputs["valid"], ((0, 0), (0, 3)))
    for training in (False, True):  # in training, BatchNorm must not see them either
        a, b = model.scorer(inputs, training=training), model.scorer(longer, training=training)
        for name in ("score", "w2r", "o2w"):
            np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=f"{name} {training}")


def test_pictures_without_objects_and_captions_without_words_give_finite_scores(paper):
    config, model = paper
    inputs = random_pairs(config)
    inputs["valid"][0] = False
    inputs["tokens"][1] = 0
    outputs = model.scorer(inputs)
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert outputs["o2w"][0] == 0
    assert not outputs["alpha"][1].numpy().any()
    assert not outputs["beta"][1].numpy().any()


def test_a_training_batch_without_any_object_leaves_the_statistics_finite(paper):
    config, model = paper
    inputs = random_pairs(config)
    inputs["valid"][:] = False
    outputs = model.scorer(inputs, training=True)
    assert not outputs["o2w"].numpy().any()
    assert all(np.isfinite(weight).all() for weight in model.scorer.get_weights())


@pytest.mark.parametrize(
    ("variant", "inputs", "outputs"),
    [
        ("full", {"regions", "objects", "valid", "tokens"}, {"score", "w2r", "o2w", "alpha", "beta"}),
        ("no_reg", {"regions", "objects", "valid", "tokens"}, {"score", "w2r", "o2w", "alpha", "beta"}),
        ("w2r", {"regions", "tokens"}, {"score", "w2r", "alpha"}),
        ("o2w", {"objects", "valid", "tokens"}, {"score", "o2w", "beta"}),
    ],
)
def test_variants(variant, inputs, outputs):
    config, model = build(variant=variant)
    assert set(model.scorer.input) == inputs
    pairs = {k: v for k, v in random_pairs(config).items() if k in inputs}
    got = model.scorer(pairs)
    assert set(got) == outputs
    L, (D, P) = 7, (config.model.D, config.model.P)
    shapes = {"score": (5,), "w2r": (5,), "o2w": (5,), "alpha": (5, L, D), "beta": (5, P, L)}
    assert all(got[name].shape == shapes[name] for name in outputs)


@pytest.mark.smoke
@pytest.mark.parametrize("values", [{}, {**IMPROVED, "dropout": 0.3}], ids=["paper", "with all extras"])
def test_saved_scorer_gives_the_same_scores(tmp_path, values):
    config, model = build(**values)
    inputs = random_pairs(config)
    expected = model.scorer(inputs)
    model.scorer.save(tmp_path / "scorer.keras")
    loaded = tf.keras.models.load_model(tmp_path / "scorer.keras")
    for name, value in loaded(inputs).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_l2_counts_kernels_only(paper):
    config, model = paper
    siamese = model.siamese(config.training)
    kernels = [
        w for w in model.scorer.trainable_weights if path_of(w).split("/")[-1] in ("kernel", "recurrent_kernel", "W")
    ]
    # two attentions, three LSTM directions with two kernels each, two MLPs of four Dense layers
    assert len(kernels) == 2 + 6 + 8
    expected = 0.01 * sum(float(tf.reduce_sum(w**2)) for w in kernels)
    np.testing.assert_allclose(float(tf.add_n(siamese.losses)), expected, rtol=1e-5)


def test_frozen_word_vectors_stay():
    glove = np.random.default_rng(0).normal(size=(VOCABULARY, 3)).astype(np.float32)
    config = tiny_config(E_glove=3, E_trained=0, variant="w2r")
    model = Bssan(config.model, VOCABULARY, glove=glove)
    np.testing.assert_array_equal(model.embeddings[0].get_weights()[0], glove)
    assert not model.embeddings[0].trainable_weights
    free = Bssan(tiny_config(E_glove=3, train_embeddings=True, variant="w2r").model, VOCABULARY, glove=glove)
    assert len(free.embeddings[0].trainable_weights) == 1
    with pytest.raises(ValueError, match=r"expected \(12, 3\)"):
        Bssan(config.model, VOCABULARY, glove=glove[:5])


def test_table_1_sizes():
    model = Bssan(preset("paper").model, 100)
    w2r, o2w = model.networks["w2r"], model.networks["o2w"]
    mlps = [network.model.get_layer(f"{name}_mlp") for name, network in model.networks.items()]
    units = [[layer.units for layer in mlp.layers if isinstance(layer, tf.keras.layers.Dense)] for mlp in mlps]
    assert units == [[1024, 512, 128, 1], [512, 256, 64, 1]]
    assert w2r.model.get_layer("w2r_lstm").units == 1024
    assert model.o2w_text.get_layer("o2w_bilstm").forward_layer.units == 512
    assert (w2r.attention.W.shape, o2w.attention.W.shape) == ((300, 512), (4096, 512))
    assert {type(w2r), type(o2w)} == {Network}  # as printed
    assert {type(w2r.attention), type(o2w.attention)} == {WordToRegionAttention, ObjectToWordAttention}
