"""The progress bar tells the truth and keeps stdout clean; the filter keeps what it smooths."""

import re

import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.tools import tfa as progress
from bssan_tf.tools.keras_callbacks import Throughput

pytestmark = pytest.mark.smoke


class Losses(tf.keras.layers.Layer):
    """Adds its input's mean as a loss."""

    def call(self, inputs):
        self.add_loss(tf.reduce_mean(inputs))
        return inputs


STORED = [
    (
        3,
        0.7,
        [
            [0.5564387, 0.4521141, 0.3270667, 0.4564545, 0.6686042, 0.6500138],
            [0.5909196, 0.52262, 0.5016984, 0.6119559, 0.665904, 0.523613],
            [0.509102, 0.4095935, 0.4384836, 0.4724214, 0.6346601, 0.602483],
            [0.419963, 0.373811, 0.3553576, 0.4114979, 0.6118711, 0.6627401],
            [0.4483242, 0.4575023, 0.55769, 0.6275886, 0.6609706, 0.661742],
        ],
    ),
    (
        5,
        2.0,
        [
            [0.4964129, 0.4926761, 0.5449216, 0.529594, 0.5999569, 0.6116966],
            [0.4659679, 0.4647641, 0.5086624, 0.5056818, 0.5758827, 0.5966712],
            [0.4569728, 0.4513515, 0.5049745, 0.5188682, 0.595257, 0.6058471],
            [0.447547, 0.445507, 0.497783, 0.5200823, 0.5875618, 0.5970802],
            [0.416705, 0.4025682, 0.4616897, 0.4984417, 0.5855352, 0.5883869],
        ],
    ),
]


@pytest.fixture(params=["tensorflow-addons", "without"])
def library(request, monkeypatch):
    """TensorFlow Addons, or what stands for it where there is none."""
    if request.param == "without":
        monkeypatch.setattr(progress, "tfa", None)
    elif progress.tfa is None:
        pytest.skip("TensorFlow Addons ends at Python 3.11")


def fit(**settings):
    values = tf.keras.Input((1,))
    model = tf.keras.Model(values, Losses()(values))
    model.compile("sgd", jit_compile=False)
    data = np.array([[1.0], [2.0], [6.0], [7.0]], np.float32)
    bar = progress.ProgressBar()
    bar.every = 0  # show every step
    model.fit(data, batch_size=1, shuffle=False, verbose=0, callbacks=[Throughput(1), bar], **settings)


def test_shows_running_means(library, capfd):
    fit(epochs=1)
    out, err = capfd.readouterr()
    losses = [float(text) for text in re.findall(r" loss: ([\d.]+)", err)]
    assert list(dict.fromkeys(losses)) == [1.0, 1.5, 3.0, 4.0]  # TensorFlow Addons would say 1, 1.25, 1.8333, 2.375
    assert out == ""
    assert "epoch 1/1" in err
    assert "4/4" in err
    assert "\x1b[A" not in err  # no cursor movements for a second bar


def test_goes_on_after_a_resume(library, capfd):
    fit(epochs=5, initial_epoch=3)
    out, err = capfd.readouterr()
    assert list(dict.fromkeys(re.findall(r"epoch \d/\d", err))) == ["epoch 4/5", "epoch 5/5"]
    assert re.search(r"epoch 5/5 .* 4/4 .*, \d+ pairs/s  loss: 4\.0000", err)
    assert out == ""


def test_filter_keeps_the_sum_and_mirrors_the_edge(library):
    maps = np.zeros((2, 32, 48), np.float32)
    maps[0, 16, 20] = 1
    maps[1] = 3
    smooth = progress.gaussian_filter(maps, 13, 2.0)
    assert smooth.shape == maps.shape
    np.testing.assert_allclose(smooth[0].sum(), 1, atol=1e-5)
    kernel = np.exp(-(np.arange(-6, 7) ** 2) / 8)
    kernel /= kernel.sum()
    np.testing.assert_allclose(smooth[0, 10:23, 14:27], np.outer(kernel, kernel), atol=1e-6)
    np.testing.assert_allclose(smooth[1], 3, atol=1e-5)


def test_filter_is_that_of_tensorflow_addons(library):
    """Values of tensorflow-addons 0.23.0 at two sizes, also at edges."""
    maps = np.random.default_rng(0).random((1, 5, 6)).astype(np.float32)
    for size, sigma, values in STORED:
        np.testing.assert_allclose(progress.gaussian_filter(maps, size, sigma)[0], values, atol=1e-6)
