"""Which devices train: all GPUs by default, one CPU without any, or what `--devices` says."""

from __future__ import annotations

import functools
import re

import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.tools.stack import trace_needed_kernels
from bssan_tf.tools.workers import WORKERS, workers_strategy

MOST_CPUS = 64


def make_strategy(devices: str = "auto") -> tf.distribute.Strategy:
    """The strategy for `--devices`: MirroredStrategy over several devices, for one the default strategy.

    Args:
        devices: `auto` (all GPUs, else the CPU), `cpu`, `gpu`, or with a number of devices: `gpu:2`, `cpu:2`
            (two logical devices on one CPU, for tests); `workers` (`workers_strategy`). UserError for another word, or
            more devices than there are.
    """
    if devices == WORKERS:
        trace_needed_kernels()
        return workers_strategy()
    match = re.fullmatch(r"(auto|cpu|gpu)(?::([1-9]\d{0,8}))?", devices)
    if not match or (match[1] == "auto" and match[2]):
        raise UserError(f"--devices {devices}: must be auto, cpu, gpu, cpu:N, gpu:N or workers")
    gpus = tf.config.list_physical_devices("GPU")
    kind = match[1] if match[1] != "auto" else ("gpu" if gpus else "cpu")
    count = int(match[2] or (len(gpus) if kind == "gpu" else 1))
    if kind == "gpu":
        if not 0 < count <= len(gpus):
            raise UserError(f"--devices {devices}: this machine has {len(gpus)} GPUs; use --devices cpu or auto")
    elif count > MOST_CPUS:
        raise UserError(f"--devices {devices}: at most {MOST_CPUS} logical devices are made of one CPU; give fewer")
    else:
        tf.config.set_visible_devices([], "GPU")
        if count > 1:
            _split_cpu(count)
    trace_needed_kernels()
    if count == 1:
        return tf.distribute.get_strategy()
    return _mirrored(kind.upper(), count)


@functools.cache
def _mirrored(kind: str, count: int) -> tf.distribute.Strategy:
    """One for all runs of a process: a second one would use the first one's keys, and its sums would meet."""
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)])


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    try:
        tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError as error:  # TensorFlow runs already; fine if with the same devices
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise UserError(f"--devices cpu:{count}: TensorFlow runs already with other devices; start anew") from error
