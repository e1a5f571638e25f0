"""Optimizers with a rate of their own for O2W."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import tiny_config

from bssan_tf.errors import UserError
from bssan_tf.models.bssan import Bssan
from bssan_tf.training.optimizers import TwoRateAdam, TwoRateSGD
from bssan_tf.training.step import compile_siamese

KERAS_OWN = {TwoRateAdam: tf.keras.optimizers.Adam, TwoRateSGD: tf.keras.optimizers.SGD}


@pytest.mark.parametrize("kind", KERAS_OWN)
def test_o2w_takes_shorter_steps_and_all_others_keras_own(kind):
    variables = [tf.Variable([1.0, -2.0], name=name) for name in ("w2r_A/kernel", "o2w_A/kernel")]
    plain = tf.Variable([1.0, -2.0])
    ours, theirs = kind(learning_rate=0.1, o2w_rate=0.25), KERAS_OWN[kind](0.1)
    for gradient in ([0.3, -5.0], [0.1, 2.0]):
        before = [v.numpy() for v in (*variables, plain)]
        ours.apply_gradients([(tf.constant(gradient), v) for v in variables])
        theirs.apply_gradients([(tf.constant(gradient), plain)])
        w2r, o2w, full = (v.numpy() - b for v, b in zip((*variables, plain), before))
        np.testing.assert_array_equal(w2r, full)
        np.testing.assert_allclose(o2w, 0.25 * full, rtol=1e-4)


@pytest.fixture(scope="module")
def networks():
    """A model and its siamese network."""
    tf.keras.utils.set_random_seed(0)
    config = tiny_config("improved")
    model = Bssan(config.model, 12)
    return model, model.siamese(config.training)


def one_step(siamese, **values):
    """The trainable weights after a step of random gradients, from the weights that they have, which come back."""
    config = tiny_config("improved", **{"l2": 0.0, "clip_norm": 0.0, "learning_rate": 0.01, **values}).check()
    compile_siamese(siamese, config)
    variables, rng = siamese.trainable_variables, np.random.default_rng(0)
    start = siamese.get_weights()
    siamese.optimizer.apply_gradients([(tf.constant(rng.normal(size=v.shape), v.dtype), v) for v in variables])
    after = [v.numpy() for v in variables]
    siamese.set_weights(start)
    return after


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_networks_o2w_alone_takes_the_share(networks, optimizer):
    model, siamese = networks
    before = [v.numpy() for v in siamese.trainable_variables]
    full, half = (one_step(siamese, optimizer=optimizer, o2w_rate=rate) for rate in (1.0, 0.5))
    own = {id(w) for network in (model.networks["o2w"].model, model.o2w_text) for w in network.trainable_variables}
    assert len(own) > 10
    for variable, start, one, other in zip(siamese.trainable_variables, before, full, half):
        share = 0.5 if id(variable) in own else 1.0
        assert (one != start).all()
        np.testing.assert_allclose(other - start, share * (one - start), atol=1e-6, err_msg=variable.name)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"--o2w-rate 0\.0: must be above 0"):
        tiny_config("improved", o2w_rate=0.0).check()
