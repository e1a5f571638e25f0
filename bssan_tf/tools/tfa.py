"""All that is used of TensorFlow Addons, and the like where there is none: the maps' Gaussian filter, the progress bar.

TensorFlow Addons ends at Python 3.11. Import this module late: the library is slow.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings

import numpy as np
import tensorflow as tf
from tqdm import tqdm

with warnings.catch_warnings():
    # TFA has ended: 0.23.0 is its last release, and works with TF 2.15. Its banner says only that.
    warnings.simplefilter("ignore")
    try:
        import tensorflow_addons as tfa
    except ModuleNotFoundError:
        tfa = None

BAR = "{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # postfix begins with a comma


def gaussian_filter(maps: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Maps float32 (N, H, W) smoothed by a size x size Gaussian of `sigma` pixels, `size` odd; edges are mirrored."""
    stacked = np.asarray(maps, np.float32)[..., None]
    for shape in ((size, 1), (1, size)):  # the filter is separable: two passes give the same, far faster
        stacked = _filtered(stacked, shape, sigma)
    return stacked[..., 0]


def _filtered(stacked: np.ndarray, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """(N, H, W, 1) after a Gaussian window of 1 in height or width."""
    if tfa:
        return tfa.image.gaussian_filter2d(stacked, shape, sigma, padding="REFLECT").numpy()
    size, axis = max(shape), 1 + int(shape[1] > 1)
    weights = np.exp(-(np.arange(-(size // 2), size // 2 + 1) ** 2) / (2 * sigma**2))
    padded = np.pad(stacked, [(size // 2, size // 2) if i == axis else (0, 0) for i in range(4)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis)  # (N, H, W, 1, size)
    return windows @ (weights / weights.sum()).astype(np.float32)


class ProgressBar(tf.keras.callbacks.Callback):
    """One bar an epoch on stderr: epoch, steps, time left, pairs (or another unit) per second and the losses.

    Needs a known number of steps, `verbose=0`, and before it `Throughput` of the same unit, which logs the rate.

    Args:
        shown: what to show of the logs; a name shows every entry that equals or ends in it.
        unit: what is counted per second.
    """

    def __init__(self, shown: tuple[str, ...] = ("loss", "rsum"), unit: str = "pairs"):
        super().__init__()
        self.ends, self.unit = tuple(f"_{name}" for name in shown), unit
        self.every = 0.1 if sys.stderr.isatty() else 30.0  # seconds; a log file wants a line now and then

    def on_epoch_begin(self, epoch, logs=None):
        title = f"epoch {epoch + 1}/{self.params['epochs']} |"
        self.addons = self._addons_bar(title) if tfa else None
        self.bar = self.addons.epoch_progress_tqdm if tfa else self._own_bar(title)
        self.bar.mininterval = self.every

    def on_train_batch_end(self, batch, logs=None):
        self._tell(logs)
        self.addons.on_batch_end(batch, {}) if self.addons else self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self._tell(logs)
        if self.addons:
            self.addons.on_epoch_end(epoch, {})
        else:
            self.bar.refresh()
            self.bar.close()

    def _own_bar(self, title: str) -> tqdm:
        return tqdm(total=self.params["steps"], bar_format=title + BAR, dynamic_ncols=True)

    def _addons_bar(self, title: str):
        # its second bar, of all epochs, needs a terminal and starts at 0 after a resume
        addons = tfa.callbacks.TQDMProgressBar(show_overall_progress=False, epoch_bar_format=title + BAR)
        addons.update_interval = self.every
        addons.set_params(self.params)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints "Epoch 1/3" there
            addons.on_epoch_begin(0)
        return addons

    def _tell(self, logs: dict) -> None:
        """Rate and losses behind the bar; TensorFlow Addons would average Keras' means again."""
        rate = logs.get(f"{self.unit}_per_s")
        told = [f"{name}: {value:0.4f}" for name, value in logs.items() if f"_{name}".endswith(self.ends)]
        text = " - ".join(told) if rate is None else f"{rate:.0f} {self.unit}/s  {' - '.join(told)}"
        self.bar.set_postfix_str(text, refresh=False)
