"""Where Keras 2 and Keras 3 differ: names that both give, and private names that a new version may have changed."""

import importlib
import inspect
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import tiny_config

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import SCENES
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.layers import WordMask
from bssan_tf.runs.weights import list_weights, require_listed
from bssan_tf.tools import stack
from bssan_tf.training.optimizers import TwoRateAdam, TwoRateSGD
from bssan_tf.training.step import compile_siamese

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def built():
    config = tiny_config("improved")
    return Bssan(config.model, 12).siamese(config.training)


@pytest.fixture
def compiled(built):
    """The siamese network, compiled for `improved` with other values."""

    def compile_it(**values):
        compile_siamese(built, tiny_config("improved", **values).check())
        return built

    return compile_it


@pytest.mark.parametrize(
    ("values", "slots"),
    [
        ({"optimizer": "adam"}, {"momentum", "velocity"}),
        ({"optimizer": "sgd"}, {"momentum"}),
        ({"optimizer": "sgd", "momentum": 0.0}, set()),
    ],
)
def test_all_that_a_training_changes_has_a_name(compiled, values, slots):
    siamese = compiled(**values)
    found = stack.training_variables(siamese)
    weights = {name[len("weight/") :] for name in found if name.startswith("weight/")}
    assert {"w2r_attention/W", "w2r_lstm/lstm_cell/kernel", "o2w_bilstm/forward_o2w_lstm/lstm_cell/bias"} <= weights
    assert len(weights) == len(siamese.weights)
    trained = {stack.path_of(variable) for variable in siamese.trainable_variables}
    assert set(found) == {"iterations", "learning_rate"} | {f"weight/{path}" for path in weights} | {
        f"{slot}/{path}" for slot in slots for path in trained
    }
    for path in trained:
        for slot in slots:
            assert found[f"{slot}/{path}"].shape == found[f"weight/{path}"].shape


def test_layers_built_by_hand_have_names_too():
    """The detector's heads, and GloVe's vectors."""
    config = tiny_config("improved", E_glove=3)
    assert "glove/embeddings" in stack.weights_of(Bssan(config.model, 12).scorer)
    detector = FasterRcnn(SCENES)
    assert [stack.path_of(weight) for weight in detector.weights.values()] == list(detector.weights)


def test_an_optimizer_that_keeps_more_is_not_saved_in_part(compiled):
    siamese = compiled()
    siamese.compile(tf.keras.optimizers.Adagrad(), "mse")
    siamese.optimizer.build(siamese.trainable_variables)
    with pytest.raises(RuntimeError, match="Adagrad keeps more than is known here"):
        stack.training_variables(siamese)


@pytest.mark.parametrize("clip", [None, *([0.5] if stack.KERAS_3 else [])])  # Keras 2 sums them after it has clipped
@pytest.mark.parametrize("kind", [TwoRateAdam, TwoRateSGD])
def test_a_word_that_a_batch_has_twice_has_one_gradient(kind, clip):
    """The sum of both, as if the gradient were dense."""
    tables = [tf.Variable(np.ones((4, 2), np.float32), name=name) for name in "ab"]
    rows, values = tf.constant([1, 1, 3]), tf.constant([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    sparse = tf.IndexedSlices(values, rows, tf.constant([4, 2]))
    for table, gradient in zip(tables, (sparse, tf.convert_to_tensor(sparse))):
        optimizer = kind(o2w_rate=1.0, learning_rate=0.1, global_clipnorm=clip)
        for _ in range(2):
            optimizer.apply_gradients([(gradient, table)])
    assert np.ptp(tables[0].numpy()) > 0
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)


def test_weights_in_another_order_are_told(tmp_path):
    """As a Keras would have it that finds the layers of a file in another order."""
    path, weights = tmp_path / "best.keras", {"a/kernel": np.ones(3, np.float32), "b/kernel": np.zeros(3, np.float32)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    require_listed(path, weights)  # an older run, without the list
    list_weights(path, weights)
    require_listed(path, weights)
    other = {"a/kernel": weights["b/kernel"], "b/kernel": weights["a/kernel"]}
    with pytest.raises(UserError, match=r"other numbers for a/kernel than were saved \(2 of 2 weights\)"):
        require_listed(path, other)
    with pytest.raises(UserError, match=r"for b/kernel than were saved"):
        require_listed(path, {"a/kernel": weights["a/kernel"]})  # one is not read


def test_numbers_are_in_the_layer_s_dtype():
    layer = tf.keras.layers.Dense(2, dtype="mixed_bfloat16")
    half, whole = stack.in_own_dtype(layer, tf.constant([1.0]), tf.Variable([2.0]))
    assert half.dtype == whole.dtype == tf.bfloat16


@pytest.mark.parametrize(("name", "value"), [("KERAS_BACKEND", "jax"), ("TF_USE_LEGACY_KERAS", "1")])
def test_another_keras_is_told_in_one_line(monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: 0)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {name}={value}: the networks are of Keras on TensorFlow; unset it\n"


def test_no_private_name_is_gone():
    """Each is Keras' own, and is called or kept by it."""
    model, optimizers = tf.keras.Model, (tf.keras.optimizers.Adam, tf.keras.optimizers.SGD)
    wanted = [(kind, name) for kind in optimizers for name in ("_var_key", "update_step", "_clip_gradients")]
    wanted += [(model, "_flatten_layers")]
    wanted += [(model, name) for name in ("_symbolic_build", "_maybe_symbolic_build") if stack.KERAS_3]
    for kind, name in wanted:
        assert hasattr(kind, name), f"{kind.__name__} of Keras {keras.__version__} has no {name}: mend tools/stack.py"
    if stack.KERAS_3:  # fit must ask for what build_losses replaces
        source = inspect.getsource(importlib.import_module("keras.src.backend.tensorflow.trainer"))
        assert "self._maybe_symbolic_build(" in source


def test_keras_clips_by_the_method_that_is_replaced(monkeypatch):
    asked = []
    monkeypatch.setattr(stack.SharedSteps, "_clip_gradients", lambda _, gradients: asked.append(1) or gradients)
    TwoRateAdam(o2w_rate=1.0, global_clipnorm=1.0).apply_gradients([(tf.constant([1.0]), tf.Variable([1.0]))])
    assert asked == [1]


def test_autograph_leaves_calls_of_our_layers_as_they_are():
    marked = tf.autograph.experimental.do_not_convert(lambda: 0)
    (mark,) = [name for name in vars(marked) if name.startswith("autograph")]  # TensorFlow's own
    assert hasattr(WordMask.call, mark)
    assert hasattr(WordMask().call, mark)
