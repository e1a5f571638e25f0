"""W2R with Kim's CNN in place of the LSTM: padding, short captions, penalties, bfloat16, and the fast scorer."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, randomise, tiny_config
from numpy_reference import Weights, cnn, mlp
from scoring_fixtures import make, make_captions, make_pictures

from benchmarks.naive import NaiveScorer
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.layers import MaxOverTime, RealWords
from bssan_tf.scoring import FastScorer, planning, score_matrices
from bssan_tf.scoring.w2r_cnn import CnnW2R
from bssan_tf.tools.stack import path_of
from bssan_tf.training.step import copy_of


@pytest.fixture(scope="module")
def model():
    """W2R of `paper` with random weights."""
    config = tiny_config(variant="w2r", w2r_text="cnn")
    model = Bssan(config.model, VOCABULARY, 0.01)
    randomise(model.scorer)
    return config, model


def test_only_what_begins_at_a_word_is_looked_at():
    words = np.array([[[1.0], [-3.0], [50.0]], [[50.0], [50.0], [50.0]]], np.float32)
    mask = np.array([[1, 1, 0], [0, 0, 0]], bool)
    assert RealWords()([words, mask]).numpy()[..., 0].tolist() == [[1, -3, 0], [0, 0, 0]]
    assert MaxOverTime()([np.abs(words), mask]).numpy().tolist() == [[3], [0]]


def test_padding_changes_nothing(model):
    _, model = model
    inputs = {name: random_pairs(tiny_config())[name] for name in model.scorer.input}
    longer = {**inputs, "tokens": np.pad(inputs["tokens"], ((0, 0), (0, 9)))}
    for training in (False, True):  # in training, BatchNorm must not see it either
        a, b = (model.scorer(given, training=training)["score"] for given in (inputs, longer))
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_captions_of_few_words(model, count):
    """Shorter than a window, also where the array of captions is."""
    config, model = model
    inputs = {name: random_pairs(config)[name] for name in model.scorer.input}
    inputs["tokens"] = np.where(np.arange(max(count, 1)) < count, [[5], [3], [7], [7], [2]], 0).astype(np.int32)
    found = model.scorer(inputs)
    weights = Weights(model.scorer)
    if not count:
        expected = mlp(np.zeros(3 * config.model.H), weights, "w2r_mlp")
        np.testing.assert_allclose(found["score"], np.full(5, expected), rtol=1e-5)
        return
    for i, tokens in enumerate(inputs["tokens"]):
        u = found["alpha"][i].numpy() @ inputs["regions"][i]
        c = np.concatenate([u, weights["embedding/embeddings"][tokens]], axis=1)
        np.testing.assert_allclose(found["score"][i], mlp(cnn(c, weights), weights, "w2r_mlp"), atol=2e-5)


def test_the_l2_term_counts_the_filters(model):
    _, model = model
    kernels = [w for w in model.scorer.trainable_weights if path_of(w).split("/")[-1] in ("kernel", "W")]
    assert [path_of(w).split("/")[-2] for w in kernels if "cnn" in path_of(w)] == ["w2r_cnn2", "w2r_cnn3", "w2r_cnn4"]
    expected = 0.01 * sum(float(tf.reduce_sum(w**2)) for w in kernels)
    np.testing.assert_allclose(float(tf.add_n(model.scorer.losses)), expected, rtol=1e-5)


def test_bfloat16_has_nearly_the_same_scores(model):
    config, model = model
    inputs = {name: random_pairs(config)[name] for name in model.scorer.input}
    one, other = (m.scorer(inputs)["score"].numpy() for m in (model, copy_of(model, mixed_precision=True)))
    assert 0 < np.abs(one - other).max() < 0.1 * one.std()


def test_fast_scores_are_those_of_keras_in_blocks_of_any_size(small_blocks):
    """Captions of 0, 1, 2, 3 and up to 30 words, of which there are few, so that words repeat."""
    config, scorer = make("w2r", w2r_text="cnn")
    pictures, tokens = make_pictures(config, 11), make_captions(90, length=30)
    assert {0, 1, 2, 3} <= set((tokens != 0).sum(axis=1))
    expected = NaiveScorer(scorer, **vars(pictures)).matrix(tokens, batch_size=990)  # one batch has one graph
    fast = FastScorer(scorer)
    assert isinstance(fast.w2r, CnnW2R)
    sized = [(fast.w2r, pictures.regions.shape[1:])]
    sizes = [planning.plan(sized, tokens, 11, memory_mb)[0].pictures for memory_mb in (100, 0.05)]
    assert sizes[0] == 11 > sizes[1]
    for memory_mb in (100, 0.05):
        got = score_matrices(fast, pictures, tokens, memory_mb=memory_mb)["score"]
        np.testing.assert_allclose(got, expected["score"], atol=1e-5)
    assert got.std() > 1e-3
