"""The ranking losses on numbers worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.config.settings import TrainingConfig
from bssan_tf.training.losses import ActiveHinges, PairwiseHinge, RankingSoftmax, caption_view
from bssan_tf.training.step import spent_loss

# rows: pictures 0, 1, 2; columns: own caption, the caption of picture i + 1
SCORES = np.array([[1.0, 0.9], [0.5, 0.1], [0.2, 0.4]], np.float32)


def test_hinge_is_equation_7_averaged():
    # max[0, 0.2 - 1.0 + 0.9] = 0.1; max[0, 0.2 - 0.5 + 0.1] = 0; max[0, 0.2 - 0.2 + 0.4] = 0.4
    loss = PairwiseHinge(0.2)(np.zeros(3), SCORES)
    np.testing.assert_allclose(loss, (0.1 + 0.0 + 0.4) / 3, rtol=1e-6)


def test_caption_view_gathers_the_scores_of_each_caption():
    # caption 0 was scored with picture 0 and, as its next, with picture 2; and so on
    np.testing.assert_allclose(caption_view(tf.constant(SCORES)), [[1.0, 0.4], [0.5, 0.9], [0.2, 0.1]])


def test_symmetric_hinge_ranks_pictures_too():
    # captions: max[0, .2 - 1 + .4] = 0; max[0, .2 - .5 + .9] = .6; max[0, .2 - .2 + .1] = .1
    loss = PairwiseHinge(0.2, symmetric=True)(np.zeros(3), SCORES)
    np.testing.assert_allclose(loss, 0.5 * (0.5 / 3 + 0.7 / 3), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_softmax_is_the_negative_log_likelihood_of_the_positive(symmetric):
    def nll(rows):
        return np.mean([-np.log(np.exp(row[0]) / np.exp(row).sum()) for row in np.array(rows)])

    expected = nll(SCORES)
    if symmetric:
        expected = 0.5 * (expected + nll([[1.0, 0.4], [0.5, 0.9], [0.2, 0.1]]))
    np.testing.assert_allclose(RankingSoftmax(symmetric)(np.zeros(3), SCORES), expected, rtol=1e-6)


def test_several_negatives_are_averaged():
    scores = np.array([[0.0, 0.5, -1.0]], np.float32)  # hinges 0.7 and 0
    np.testing.assert_allclose(PairwiseHinge(0.2)(np.zeros(1), scores), 0.35, rtol=1e-6)


def test_active_hinges():
    metric = ActiveHinges(0.2)
    metric.update_state(None, SCORES)
    np.testing.assert_allclose(metric.result(), 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("loss", [PairwiseHinge(0.3, True), RankingSoftmax(True), ActiveHinges(0.1)])
def test_config_round_trip(loss):
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("values", "least"),
    [
        ({"loss": "softmax"}, 0.02),
        ({"loss": "hinge", "margin": 0.5}, 0.01),
    ],
)
def test_a_spent_loss_is_a_fiftieth_of_what_a_wrong_pair_costs(values, least):
    assert spent_loss(TrainingConfig(**values)) == pytest.approx(least)
