"""The two stacks of packages, Keras 2 (TensorFlow 2.15, Python 3.9 to 3.11) and Keras 3 (Python 3.12 and newer).

What differs between them, and every private name of Keras, stands here; no other module asks which of them it runs on.
"""

from __future__ import annotations

import importlib

import keras
import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3
_LSTM = importlib.import_module("keras.src.layers.rnn.lstm")
_BOTH_KERNELS = None if KERAS_3 else _LSTM.lstm_with_backend_selection

if int(keras.__version__.split(".")[0]) not in (2, 3):
    raise UserError(f"Keras {keras.__version__}: is too new for this version of bssan_tf; `pip install 'keras<4'`")
if not tf.keras.layers.Layer.__module__.startswith("keras."):  # TF_USE_LEGACY_KERAS has TensorFlow take another
    raise UserError(f"TF_USE_LEGACY_KERAS: TensorFlow's Keras is not Keras {keras.__version__}; unset it")
if keras.backend.backend() != "tensorflow":  # another program has loaded it before this package could choose
    raise UserError(f"Keras: its backend is {keras.backend.backend()}; set KERAS_BACKEND=tensorflow, or unset it")

SLOTS = (("momentum", "_momentums"), ("momentum", "momentums"), ("velocity", "_velocities"))  # of Adam and SGD

_registered = keras.saving.register_keras_serializable(package="bssan_tf")  # Keras 3.15 leaves it out of tf.keras


def register(kind: type) -> type:
    """Make a class known by its name in saved files, its `call` traced as it is written, as Keras 3 does.

    Keras 2 would have AutoGraph rewrite each call: seconds of every start, for `if` and `for` that no call here needs.
    """
    if "call" in vars(kind):
        kind.call.autograph_info__ = None  # what marks it for tf.autograph
    return _registered(kind)


def keras_hub(source: str):
    """The package KerasHub; UserError, which begins with `source`, on Keras 2 or where it is not installed."""
    if not KERAS_3:
        here = f"this is Keras {keras.__version__}"
        raise UserError(f"{source}: KerasHub needs Keras 3, {here}; take Python 3.12 or 3.13")
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{source}: KerasHub can't be imported ({problem}); pip install '.[hub]'") from None


def path_of(variable) -> str:
    """Names of layers and weight, such as `w2r_lstm/lstm_cell/kernel`: the same on both stacks."""
    return getattr(variable, "path", None) or variable.name.rsplit(":", 1)[0]


def build(layer: tf.keras.layers.Layer, shape: tuple) -> None:
    """Make a layer's weights for inputs of this shape, with its name in their paths, which Keras 2 would leave out."""
    with tf.name_scope(layer.name):
        layer.build(shape)


def layers_of(model: tf.keras.Model) -> list:
    """Whatever a functional model computes with, inputs first; a sum of two tensors is no layer for Keras 3."""
    return getattr(model, "operations", None) or model.layers


def weights_of(model: tf.keras.Model) -> dict[str, np.ndarray]:
    """All weights of a model by path. RuntimeError where two have the same."""
    return {path: variable.numpy() for path, variable in _by_path(model).items()}


def assign_weights(model: tf.keras.Model, values: dict[str, np.ndarray]) -> None:
    """Give all weights of a model their values by path; ValueError where names or shapes differ, nothing is changed."""
    found = _by_path(model)
    if different := sorted(found.keys() ^ values.keys()):
        raise ValueError(f"{different[0]} is in one of them only ({len(different)} such weights)")
    for name, variable in found.items():
        if tuple(variable.shape) != values[name].shape:
            raise ValueError(f"{name} is {values[name].shape}, not {tuple(variable.shape)}")
    for name, variable in found.items():
        variable.assign(values[name].astype(variable.numpy().dtype))


def _by_path(model: tf.keras.Model) -> dict[str, tf.Variable]:
    means = {id(variable) for metric in model.metrics for variable in metric.variables}  # weights for Keras 2
    weights = [variable for variable in model.weights if id(variable) not in means]
    found = {path_of(variable): variable for variable in weights}
    if len(found) < len(weights):
        raise RuntimeError(f"Keras {keras.__version__}: weights of the same name")
    return found


def counted_once() -> dict:
    """Arguments of `add_weight` for a counter of which each replica has its own: Keras 3 has words for TF's enum."""
    aggregation = "only_first_replica" if KERAS_3 else tf.VariableAggregation.ONLY_FIRST_REPLICA
    return {"dtype": "int32", "initializer": "zeros", "trainable": False, "aggregation": aggregation}


def in_own_dtype(layer: tf.keras.layers.Layer, *tensors) -> list[tf.Tensor]:
    """Inputs and weights in the layer's compute dtype.

    Keras casts them itself, but Keras 3 not while it puts a network together from another that holds the layer.
    """
    return [tf.cast(tf.convert_to_tensor(tensor), layer.compute_dtype) for tensor in tensors]


def trace_needed_kernels() -> None:
    """From now on, graphs of this process hold the LSTM's plain kernel only, unless there is a GPU.

    Keras 2 traces the plain kernel and cuDNN's, with the gradients of both, for every LSTM of every graph. Without a
    GPU that only makes the start of a run, and its export, several times as long. Keras 3 picks one when it traces.
    """
    if not KERAS_3:
        gpus = tf.config.get_visible_devices("GPU")
        _LSTM.lstm_with_backend_selection = _BOTH_KERNELS if gpus else _LSTM.standard_lstm


def take_plain_kernels(model: tf.keras.Model) -> None:
    """Keep cuDNN out of the LSTMs that Keras 3 traces from now on.

    Its graphs hold one kernel: cuDNN's, where there is a GPU, which runs on no CPU and stops at a sequence without a
    word. Those of Keras 2 hold both, and choose when they run.
    """
    if KERAS_3:
        for layer in model._flatten_layers():
            if isinstance(layer, tf.keras.layers.LSTM):
                layer.use_cudnn = False


def build_losses(model: tf.keras.Model, batch_size: int) -> None:
    """Make the means of what a compiled model logs; made in the first step, they would have it traced a second time.

    `batch_size` is that of all replicas; outputs are of shape (B, ...), targets float32 (B,).
    """
    if not KERAS_3:
        model.compiled_loss.build(model.output)
        model.compiled_metrics.build(model.output, model.output)
        return
    B = batch_size // tf.distribute.get_strategy().num_replicas_in_sync
    given = {name: keras.KerasTensor((B, *x.shape[1:]), x.dtype) for name, x in model.input.items()}
    model._symbolic_build(data_batch=(given, {name: keras.KerasTensor((B,), "float32") for name in model.output}))
    # on several devices fit would build them once more, from the mean of their batches, which flags have not
    model._maybe_symbolic_build = lambda *_, **__: None


class SharedSteps:
    """Mixed into an optimizer of Keras: each variable takes a share of its step, and what is clipped is the sum over
    replicas, as Keras 2 has it (Keras 3 would clip each one's part)."""

    def share_of(self, path: str) -> float:
        """Share, above 0, of the steps of the variable with this path."""
        return 1.0

    def build(self, variables):
        # by key: the step is given TensorFlow's own variables, of one replica, which don't know their paths
        self._shares = {self._var_key(variable): self.share_of(path_of(variable)) for variable in variables}
        super().build(variables)

    def update_step(self, gradient, variable, *rate):  # `rate` of Keras 3 alone
        share = self._shares[self._var_key(variable)]
        if share == 1:
            super().update_step(gradient, variable, *rate)
            return
        before = tf.identity(variable)
        super().update_step(gradient, variable, *rate)
        variable.assign(before + share * (variable - before))

    def _clip_gradients(self, gradients):
        if KERAS_3:  # whose norms and squares would take the rows of a word that a batch has twice one by one
            gradients = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
        replicas = tf.distribute.get_replica_context()
        count = replicas.num_replicas_in_sync if replicas else 1
        if not (KERAS_3 and self.global_clipnorm and count > 1):
            return super()._clip_gradients(gradients)
        means = replicas.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        return tf.clip_by_global_norm(means, self.global_clipnorm / count)[0]  # their sum is clipped to the norm


def training_variables(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """All that a training changes, by names that are the same on both stacks: weights, and what the optimizer keeps.

    RuntimeError where names are not unique, or the optimizer has other variables than those known here.
    """
    optimizer = model.optimizer
    slots = {
        f"{name}/{path_of(variable)}": slot
        for name, attribute in SLOTS
        for variable, slot in zip(model.trainable_variables, getattr(optimizer, attribute, ()))
    }
    kept = {"iterations": optimizer.iterations, **slots}
    if hasattr(rate := optimizer._learning_rate, "assign"):  # no schedule
        kept["learning_rate"] = rate
    known, own = ({id(variable) for variable in some} for some in (kept.values(), optimizer.variables))
    if getattr(optimizer, "momentum", None) == 0:  # Keras 2 alone makes them all the same
        kept = {name: variable for name, variable in kept.items() if name not in slots}
    if not own <= known:
        raise RuntimeError(f"Keras {keras.__version__}: {type(optimizer).__name__} keeps more than is known here")
    return {**{f"weight/{path}": variable for path, variable in _by_path(model).items()}, **kept}
