"""The training step: in bfloat16, ready for cuDNN."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, tiny_config

from bssan_tf.models.bssan import Bssan
from bssan_tf.tools import stack
from bssan_tf.training.step import compile_siamese, copy_of


def random_batch(config, seed=0):
    inputs = random_pairs(config, config.training.batch_size, 5, seed)
    if config.training.negative_source == "random":
        shape = (config.training.batch_size, config.training.negatives)
        others = random_pairs(config, shape[0] * shape[1], 5, seed + 1)["tokens"]
        inputs["negative_tokens"] = others.reshape(*shape, -1)
    return inputs


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["paper", "improved"])
def test_bfloat16_has_the_same_loss_and_gradient_direction(name):
    sizes = {"H": 32, "S": 32, "M": 64, "Q": 64, "D": 20, "E_trained": 32}
    config = tiny_config(name, **sizes, batch_size=16, dropout=0.0, all_pairs=float(name == "improved"))
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    inputs, losses, gradients = random_batch(config), [], []
    for one in (model, copy_of(model, mixed_precision=True)):
        siamese = one.siamese(config.training)
        compile_siamese(siamese, config)
        with tf.GradientTape() as tape:
            scores = siamese(inputs, training=True)
            loss = siamese.compute_loss(y={k: tf.zeros(16) for k in scores}, y_pred=scores)
        assert all(score.dtype == tf.float32 for score in scores.values())
        losses.append(float(loss))
        found = [tf.convert_to_tensor(g) for g in tape.gradient(loss, siamese.trainable_variables)]
        gradients.append(np.concatenate([g.numpy().ravel() for g in found]))
        assert {tf.as_dtype(w.dtype) for w in siamese.trainable_variables} == {tf.float32}
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1] != losses[0]  # else nothing was computed in bfloat16
    one, other = gradients
    least = 0.97 if name == "improved" else 0.9  # raw regions saturate tanh, where bfloat16 has few values
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > least


@pytest.mark.skipif(stack.KERAS_3, reason="Keras 3 picks one kernel when it traces")
def test_graphs_hold_the_kernels_that_the_machine_needs(monkeypatch):
    from keras.src.layers.rnn import lstm

    def kernels():
        layer = tf.keras.layers.LSTM(3)
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((None, None, 2))).graph
        functions = graph.as_graph_def().library.function
        return {f.attr["api_implements"].s[:5] for f in functions if "api_implements" in f.attr}

    assert not kernels()  # this process has no GPU
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
        stack.trace_needed_kernels()
        assert kernels() == {b"lstm_"}
    stack.trace_needed_kernels()
    assert lstm.lstm_with_backend_selection is lstm.standard_lstm


def lstms(model):
    both = model.o2w_text.get_layer("o2w_bilstm")
    return model.networks["w2r"].model.get_layer("w2r_lstm"), both.forward_layer, both.backward_layer


@pytest.mark.skipif(stack.KERAS_3, reason="the next test is Keras 3's")
def test_lstms_meet_cudnns_conditions():
    """What Keras 2 asks before it takes the cuDNN kernel on a GPU."""
    from keras.src.layers.rnn import gru_lstm_utils

    for name in ("paper", "improved"):
        config = tiny_config(name)
        for layer in lstms(Bssan(config.model, VOCABULARY)):
            assert layer._could_use_gpu_kernel
            assert layer.compute_dtype == "float32"
        mask = tf.constant(random_batch(config)["tokens"] != 0)
        assert gru_lstm_utils.is_cudnn_supported_inputs(mask, time_major=False, sequence_lengths=None)


@pytest.mark.skipif(not stack.KERAS_3, reason="the test before is Keras 2's")
def test_on_a_gpu_keras_3_traces_cudnn_alone_and_the_plain_kernel_if_asked_to(monkeypatch):
    rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")

    def kernels(model):
        specs = {name: tf.TensorSpec((2, *x.shape[1:]), x.dtype) for name, x in model.input.items()}
        graph = (
            tf.function(lambda given: model(given, training=False)).get_concrete_function(specs).graph.as_graph_def()
        )
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        return [node.op for node in nodes].count("CudnnRNNV3")

    monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
    for name in ("paper", "improved"):
        config = tiny_config(name)
        model = Bssan(config.model, VOCABULARY)
        assert kernels(model.scorer) == 3
        rnn._assert_valid_mask(tf.constant(random_batch(config)["tokens"] != 0))
        stack.take_plain_kernels(model.scorer)
        assert kernels(model.scorer) == 0
    with pytest.raises(tf.errors.InvalidArgumentError):
        rnn._assert_valid_mask(tf.constant([[True, False], [False, False]]))  # a caption without words


@pytest.mark.parametrize(("variant", "weight", "loss"), [("full", 0.5, "softmax"), ("o2w", 1.0, "hinge")])
def test_the_losses_add_up_with_the_weights_of_eq_18(variant, weight, loss):
    values = {"o2w_weight": 0.5, "all_pairs": 2.0, "negatives": 7, "l2": 0.01, "dropout": 0.0, "loss": loss}
    config = tiny_config("improved", variant=variant, negative_source="batch", **values)
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    siamese = model.siamese(config.training)
    compile_siamese(siamese, config)
    siamese.run_eagerly = True  # a graph would take longer to make than to run once
    targets = {name: np.zeros(8, np.float32) for name in siamese.output}
    term = sum(float(loss) for loss in siamese.losses)
    inputs = random_pairs(config, 8)
    found = siamese.test_on_batch({name: inputs[name] for name in siamese.input}, targets, return_dict=True)
    kinds = {"_loss": 1.0, "_all_loss": 2.0}
    expected = sum(weight * factor * found[f"o2w{kind}"] for kind, factor in kinds.items())
    if variant == "full":
        expected += sum(factor * found[f"w2r{kind}"] for kind, factor in kinds.items())
    assert term > 0.01
    assert found["loss"] == pytest.approx(expected + term, rel=1e-5)
