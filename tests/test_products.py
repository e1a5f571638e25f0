"""No product of four axes by tf.matmul in any graph that is trained; those that are exported: test_export.py.

TensorFlow 2.20 and 2.21 spoil memory there, on CPUs with oneDNN (tensorflow#117700), and exports run in whatever
TensorFlow their user has.
"""

import numpy as np
import pytest
import tensorflow as tf
from graph_fixtures import products
from model_fixtures import random_pairs, tiny_config

from bssan_tf.models.attention import ObjectToWordAttention
from bssan_tf.models.bssan import Bssan

pytestmark = pytest.mark.smoke


def gradients_of(model, inputs):
    """The graph of a training step's loss and gradients."""

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(value) for value in model(inputs, training=True).values()])
        return tape.gradient(loss, model.trainable_variables)

    return step.get_concrete_function(inputs).graph.as_graph_def(add_shapes=True)


def test_the_search_sees_a_product_of_four_axes():
    @tf.function
    def four(x):
        return tf.matmul(x, x)

    @tf.function
    def three(x):
        return tf.matmul(x[0], x[0])

    spec = tf.TensorSpec((2, 3, 4, 4))
    for both in (lambda x: four(x) + three(x), lambda x: three(x) + four(x)):  # their products have the same name
        assert len(products(tf.function(both).get_concrete_function(spec).graph.as_graph_def(add_shapes=True))) == 1
    unknown = tf.function(lambda x: tf.matmul(x, x)).get_concrete_function(tf.TensorSpec(None)).graph
    assert products(unknown.as_graph_def(add_shapes=True))


@pytest.mark.parametrize(
    ("name", "source", "more"),
    [
        ("paper", "random", {}),
        ("improved", "batch", {"all_pairs": 1.0, "dropout": 0.1}),
        ("paper", "random", {"w2r_text": "cnn", "variant": "w2r"}),
    ],
    ids=["paper", "improved", "cnn"],
)
def test_training(name, source, more):
    config = tiny_config(name, negative_source=source, **more).check()
    inputs = random_pairs(config, 8)
    if source == "random":
        inputs["negative_tokens"] = np.ones((8, 2, 7), np.int32)
    siamese = Bssan(config.model, 12).siamese(config.training)
    assert not products(gradients_of(siamese, {key: tf.constant(inputs[key]) for key in siamese.input}))


@pytest.mark.parametrize("shared", [False, True])
def test_o2w_s_attention_is_the_product(shared):
    """Of each object with each word, whether captions are a picture's own or shared by all."""
    rng = np.random.default_rng(0)
    objects, states = rng.normal(size=(3, 4, 5)), rng.normal(size=(1 if shared else 3, 2, 6, 7))
    layer = ObjectToWordAttention()
    mask, uniform = np.ones((states.shape[0], 2, 6), bool), np.zeros((3, 2), bool)
    arrays = [tf.constant(x, tf.float32) for x in (objects, states)]
    u, beta = layer([*arrays, tf.constant(mask), tf.constant(uniform)])
    e = np.tanh(np.einsum("bpq,qs,bcls->bcpl", objects, layer.W.numpy(), np.broadcast_to(states, (3, 2, 6, 7))))
    wanted = np.exp(e) / np.exp(e).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(beta, wanted, atol=1e-6)
    np.testing.assert_allclose(
        u, np.einsum("bcpl,bcls->bcps", wanted, np.broadcast_to(states, (3, 2, 6, 7))), atol=1e-5
    )
