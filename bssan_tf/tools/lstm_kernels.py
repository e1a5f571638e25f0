"""Which kernels of Keras' LSTM a graph holds: both where there is a GPU, else the CPU's alone.

Keras traces the plain kernel and cuDNN's, with the gradients of both, for every LSTM of every graph. Without a GPU
that only makes the start of a run, and its export, several times as long.
"""

from __future__ import annotations

import tensorflow as tf
from keras.src.layers.rnn import lstm

_BOTH = lstm.lstm_with_backend_selection


def trace_needed_kernels() -> None:
    """From now on, graphs of this process hold the plain kernel only, unless there is a GPU."""
    lstm.lstm_with_backend_selection = _BOTH if tf.config.get_visible_devices("GPU") else lstm.standard_lstm
