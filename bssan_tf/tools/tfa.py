"""All that is used of TensorFlow Addons: the maps' Gaussian filter, the progress bar. Import it late: it is slow."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections import defaultdict

import numpy as np

with warnings.catch_warnings():
    # TFA has ended: 0.23.0 is its last release, and works with TF 2.15. Its banner says only that.
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa


def gaussian_filter(maps: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Maps float32 (N, H, W) smoothed by a size x size Gaussian of `sigma` pixels; edges are mirrored."""
    stacked = np.asarray(maps, np.float32)[..., None]
    for shape in ((size, 1), (1, size)):  # the filter is separable: two passes give the same, far faster
        stacked = tfa.image.gaussian_filter2d(stacked, shape, sigma, padding="REFLECT")
    return stacked.numpy()[..., 0]


class ProgressBar(tfa.callbacks.TQDMProgressBar):
    """One bar an epoch on stderr: epoch, steps, time left, pairs (or another unit) per second and the losses.

    Needs a known number of steps, `verbose=0`, and before it `Throughput` of the same unit, which logs the rate.

    Args:
        shown: what to show of the logs; a name shows every entry that equals or ends in it.
        unit: what is counted per second.
    """

    def __init__(self, shown: tuple[str, ...] = ("loss", "rsum"), unit: str = "pairs"):
        super().__init__(
            show_overall_progress=False,  # its second bar needs a terminal and starts at 0 after a resume
            epoch_bar_format="{desc} |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )
        self.shown, self.unit = shown, unit
        if not sys.stderr.isatty():
            self.update_interval = 30.0  # seconds; a log file wants a line now and then

    def _initialize_progbar(self, hook, epoch, logs=None):
        with contextlib.redirect_stdout(io.StringIO()):  # the base class prints "Epoch 1/3" there
            super()._initialize_progbar(hook, epoch, logs)
        self.title = f"epoch {epoch + 1}/{self.num_epochs}" if hook == "train_epoch" else "evaluating"
        if hook == "train_epoch":
            self.epoch_progress_tqdm.set_description_str(self.title)

    def _update_progbar(self, logs):
        # Keras' logs are means over the epoch already; the base class would average these means again.
        self.logs = defaultdict(float)
        n = self.num_samples_seen + 1
        super()._update_progbar({name: value * n for name, value in logs.items()})

    def format_metrics(self, logs=None, factor=1):
        """Title, losses and rates, as the text in front of the bar."""
        logs, ends = logs or {}, tuple(f"_{end}" for end in self.shown)
        shown = {name: value for name, value in logs.items() if f"_{name}".endswith(ends)}
        name = f"{self.unit}_per_s"
        rate = f"{logs[name] / factor:.0f} {self.unit}/s" if name in logs else ""
        return f"{self.title} {rate}  {super().format_metrics(shown, factor)}"
