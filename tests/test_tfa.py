"""The progress bar tells the truth and keeps stdout clean; the filter keeps what it smooths."""

import re

import numpy as np
import tensorflow as tf

from bssan_tf.tools import tfa
from bssan_tf.tools.keras_callbacks import Throughput


class Losses(tf.keras.layers.Layer):
    """Adds its input's mean as a loss."""

    def call(self, inputs):
        self.add_loss(tf.reduce_mean(inputs))
        return inputs


def fit(**settings):
    values = tf.keras.Input((1,))
    model = tf.keras.Model(values, Losses()(values))
    model.compile("sgd")
    data = np.array([[1.0], [2.0], [6.0], [7.0]], np.float32)
    bar = tfa.ProgressBar()
    seen = []
    bar.update_interval = 0  # show every step
    record = bar.format_metrics
    bar.format_metrics = lambda *args, **kwargs: seen.append(record(*args, **kwargs)) or seen[-1]
    model.fit(data, batch_size=1, shuffle=False, verbose=0, callbacks=[Throughput(1), bar], **settings)
    return [float(re.search(r" loss: ([\d.]+)", text).group(1)) for text in seen], seen


def test_shows_running_means(capfd):
    losses, _ = fit(epochs=1)
    assert losses == [1.0, 1.5, 3.0, 4.0, 4.0]  # the base class says 1, 1.25, 1.8333, 2.375 before the end
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
    assert "4/4" in err
    assert "\x1b[A" not in err  # no cursor movements for a second bar


def test_goes_on_after_a_resume(capfd):
    _, seen = fit(epochs=5, initial_epoch=3)
    titles = [re.match(r"epoch \d/\d", text).group() for text in seen]
    assert sorted(set(titles)) == ["epoch 4/5", "epoch 5/5"]
    assert re.search(r"epoch 5/5 \d+ pairs/s", seen[-1])
    assert capfd.readouterr().out == ""


def test_filter_keeps_the_sum_and_mirrors_the_edge():
    maps = np.zeros((2, 32, 48), np.float32)
    maps[0, 16, 20] = 1
    maps[1] = 3
    smooth = tfa.gaussian_filter(maps, 13, 2.0)
    assert smooth.shape == maps.shape
    np.testing.assert_allclose(smooth[0].sum(), 1, atol=1e-5)
    kernel = np.exp(-(np.arange(-6, 7) ** 2) / 8)
    kernel /= kernel.sum()
    np.testing.assert_allclose(smooth[0, 10:23, 14:27], np.outer(kernel, kernel), atol=1e-6)
    np.testing.assert_allclose(smooth[1], 3, atol=1e-5)
