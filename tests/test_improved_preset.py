"""The preset `improved` on photos as it is shipped, against NumPy: scores, attention, loss, fast scoring."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from improved_reference import LAMBDA, Reference, in_context
from model_fixtures import VOCABULARY, randomise
from numpy_reference import Weights
from scoring_fixtures import make_captions

from bssan_tf.config.presets import preset
from bssan_tf.features import context
from bssan_tf.models.bssan import Bssan
from bssan_tf.scoring import matrix, score_matrices
from bssan_tf.training.step import compile_siamese

OWN, CLASSES = 6, 4  # size of an object's own features, number of classes
PICTURES = 9  # that are scored fast
SIZES = {"D": 5, "M": 7, "P": 4, "H": 6, "S": 5, "E_glove": 4, "E_trained": 3}
OFF = {
    "E_trained": 0, "region_norm": "none", "object_norm": "none", "cosine_attention": False, "attention_scale": 0.0,
    "o2w_attention_scale": 0.0, "fusion": 0, "bilinear": False, "weighted_lengths": False, "o2w_weight": 0.6,
    "object_context": False,
}  # fmt: skip


def build(size="small", **values):
    """The preset with small features and layers; every weight at random. Parts may be left out."""
    shipped = preset("improved", size, data="flickr8k")
    config = shipped.replace(**SIZES).replace(**values).settled(values).check()
    config = config.replace(Q=OWN + (CLASSES + config.model.M) * config.data.object_context)
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    randomise(model.scorer)
    return config, model


def features_of(config, pictures=6, seed=0):
    """Regions, and objects in their context as features/context computes it; 1 to P of them are real."""
    rng, model = np.random.default_rng(seed), config.model
    regions = rng.gamma(1.0, 2.0, (pictures, model.D, model.M)).astype(np.float32)
    own = rng.gamma(1.0, 2.0, (pictures, model.P, OWN)).astype(np.float32)
    classes = rng.integers(-1, CLASSES, (pictures, model.P))
    scores = rng.uniform(0.3, 1.0, (pictures, model.P))
    valid = np.arange(model.P) < rng.integers(1, model.P + 1, pictures)[:, None]
    valid[0] = [True, *[False] * (model.P - 1)]
    objects = own * valid[..., None]
    if config.data.object_context:
        means = context.photo_means(regions)
        objects = context.in_context(objects=own, classes=classes, scores=scores, valid=valid, means=means, Q=model.Q)
    raw = SimpleNamespace(own=own, classes=classes, scores=scores)
    return SimpleNamespace(regions=regions, objects=objects, valid=valid, raw=raw)


def captions_of(pictures=6, length=7, seed=1):
    """Captions of 1 to `length` words, padded."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (pictures, length)).astype(np.int32)
    words = rng.integers(1, length + 1, pictures)
    words[:2] = 1, length
    tokens[np.arange(length) >= words[:, None]] = 0
    return tokens


def inputs_of(config, pictures=6):
    found = features_of(config, pictures)
    return {
        "regions": found.regions,
        "objects": found.objects,
        "valid": found.valid,
        "tokens": captions_of(pictures),
    }


def pairs_of(reference, inputs):
    """The reference's outputs, pair by pair, without any padding."""
    rows = zip(*(inputs[name] for name in ("tokens", "regions", "objects", "valid")))
    return [reference.pair(tokens[tokens > 0], regions, objects[real]) for tokens, regions, objects, real in rows]


def assert_same(outputs, expected, valid):
    for i, pair in enumerate(expected):
        real, words = valid[i], len(pair["alpha"])
        for name in ("score", "w2r", "o2w"):
            np.testing.assert_allclose(outputs[name][i], pair[name], atol=1e-5, rtol=1e-5, err_msg=f"{name} {i}")
        np.testing.assert_allclose(outputs["alpha"][i, :words], pair["alpha"], atol=1e-5)
        np.testing.assert_allclose(outputs["beta"][i][real][:, :words], pair["beta"], atol=1e-5)
        assert not outputs["alpha"][i, words:].any()
        assert not outputs["beta"][i][:, words:].any()


def score(model, inputs, **options):
    return {name: value.numpy() for name, value in model.scorer(inputs, **options).items()}


def test_the_parts_are_those_of_the_preset():
    """Each part that the reference knows is on in the preset, and the preset has no other."""
    shipped, paper = preset("improved", "small", data="flickr8k"), preset("paper", "small", data="flickr8k")
    improved = {name for name, value in vars(shipped.model).items() if value != vars(paper.model)[name]}
    assert improved | {"object_context"} == OFF.keys() | {"dropout"}
    assert all(shipped[name] != off for name, off in OFF.items())
    assert shipped.model.o2w_weight == LAMBDA


@pytest.fixture(scope="module")
def shipped():
    """The preset at two sizes. Tests leave the weights as they are."""
    return {size: build(size) for size in ("tiny", "small")}


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_scorer_is_the_description(shipped, size):
    config, model = shipped[size]
    inputs = inputs_of(config)
    assert not inputs["valid"].all()
    assert (inputs["tokens"] == 0).any()
    expected = pairs_of(Reference(Weights(model.scorer)), inputs)
    assert np.std([pair["score"] for pair in expected]) > 0.1
    assert_same(score(model, inputs), expected, inputs["valid"])


@pytest.mark.parametrize("part", OFF)
def test_without_a_part_the_scores_are_others(shipped, part):
    config, model = shipped["tiny"]
    inputs = inputs_of(config)
    whole = score(model, inputs)["score"]
    if part == "object_context":
        inputs["objects"] = inputs["objects"] * (np.arange(config.model.Q) < OWN)
    lacking = pairs_of(Reference(Weights(model.scorer), without=[part], room=True), inputs)
    assert np.abs(whole - [pair["score"] for pair in lacking]).max() > 1e-3


@pytest.mark.parametrize(
    "parts",
    [
        ("E_trained", "cosine_attention", "weighted_lengths", "object_context"),
        ("region_norm", "attention_scale", "bilinear", "o2w_weight"),
        ("object_norm", "o2w_attention_scale", "fusion"),
    ],
)
def test_a_preset_without_some_parts_is_the_description_without_them(parts):
    config, model = build("tiny", **{part: OFF[part] for part in parts})
    inputs = inputs_of(config)
    assert_same(score(model, inputs), pairs_of(Reference(Weights(model.scorer), parts), inputs), inputs["valid"])


def test_objects_in_context_are_the_description(shipped):
    found = features_of(shipped["tiny"][0])
    for i, real in enumerate(found.valid):
        own, classes, scores = (getattr(found.raw, name)[i][real] for name in ("own", "classes", "scores"))
        expected = in_context(own, classes, scores, found.regions[i], CLASSES)
        np.testing.assert_allclose(found.objects[i][real], expected, atol=1e-6)
        assert not found.objects[i][~real].any()
    assert (found.raw.classes < 0).any()


def test_dropout_counts_in_training_alone(shipped):
    config, model = shipped["tiny"]
    other = Bssan(config.replace(dropout=0.0).model, VOCABULARY)
    randomise(other.scorer)
    weights, before, inputs = Weights(model.scorer), model.scorer.get_weights(), inputs_of(config)
    assert all((values == weights[name]).all() for name, values in Weights(other.scorer).values.items())
    np.testing.assert_array_equal(score(model, inputs)["score"], score(other, inputs)["score"])
    dropped, whole = (score(one, inputs, training=True) for one in (model, other))
    model.scorer.set_weights(before)  # BatchNorm's statistics
    for name in ("w2r", "o2w"):
        assert np.abs(dropped[name] - whole[name]).max() > 1e-3


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_the_training_graph_and_its_loss_are_the_description(shipped, training):
    """A batch as it is trained on. In training BatchNorm takes the batch's own statistics; there without dropout."""
    config, model = build("tiny", dropout=0.0) if training else shipped["tiny"]
    siamese = model.siamese(config.training)
    compile_siamese(siamese, config)
    inputs = inputs_of(config)
    reference = Reference(Weights(model.scorer))
    captions = [tokens[tokens > 0] for tokens in inputs["tokens"]]
    objects = [rows[real] for rows, real in zip(inputs["objects"], inputs["valid"])]
    expected = reference.batch(captions, inputs["regions"], objects, training)

    scores = siamese(inputs, training=training)
    loss = siamese.compute_loss(y={name: tf.zeros(len(captions)) for name in scores}, y_pred=scores)
    assert scores.keys() == expected.keys() == {"w2r", "o2w", "w2r_all", "o2w_all"}
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, atol=1e-5, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, reference.loss(expected), rtol=1e-6)
    decay = float(tf.add_n(siamese.losses))
    assert 1e-4 * float(loss) < decay < 0.5 * float(loss)  # else one of both would not be seen


@pytest.fixture(scope="module")
def scored(shipped):
    """Pictures in float16, one without objects; captions, of which some share beginnings, two are the same, one is
    empty; and Keras' scores of all pairs."""
    config, model = shipped["tiny"]
    features = features_of(config, PICTURES)
    features.valid[-1], features.objects[-1] = False, 0
    features.regions, features.objects = (x.astype(np.float16) for x in (features.regions, features.objects))
    captions = make_captions(30, length=9)
    pictures, words = (places.ravel() for places in np.indices((PICTURES, 30)))
    arrays = {name: getattr(features, name)[pictures] for name in ("regions", "objects", "valid")}
    arrays = {name: value if value.dtype == bool else value.astype(np.float32) for name, value in arrays.items()}
    keras = model.scorer({**arrays, "tokens": captions[words]})
    return (
        model.scorer,
        features,
        captions,
        {part: np.reshape(keras[part], (PICTURES, 30)) for part in ("score", "w2r", "o2w")},
    )


def assert_fast_scores_are_those_of_keras(scored, **options):
    scorer, features, captions, keras = scored
    fast = score_matrices(scorer, features, captions, **options)
    assert fast.keys() == keras.keys()
    for part, scores in fast.items():
        assert np.abs(scores - keras[part]).max() < 1e-4, part


def test_fast_scores_are_those_of_keras(scored):
    _, features, captions, keras = scored
    assert features.regions.dtype == features.objects.dtype == np.float16
    assert not captions.any(axis=1).all()
    assert np.std(keras["score"]) > 0.1
    assert_fast_scores_are_those_of_keras(scored)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("memory_mb", "least"), [(0.2, 9), (0.3, 2), (2048, 1)])
def test_fast_scores_are_those_of_keras_in_blocks_of_any_size(scored, monkeypatch, memory_mb, least):
    pages, cut = [], matrix.plan

    def plan(*arguments):
        pages.extend(cut(*arguments))
        return pages

    monkeypatch.setattr(matrix, "plan", plan)
    assert_fast_scores_are_those_of_keras(scored, memory_mb=memory_mb)
    blocks = sum(-(-PICTURES // page.pictures) for page in pages)
    assert blocks >= least if least > 1 else blocks == 1
