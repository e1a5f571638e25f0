"""Train a small model for three steps on given devices and save losses and weights: a process of test_training.py.

python tests/three_steps.py DEVICES OUT.npz RUN

and then a run of the whole command on these devices, one epoch, resumed for a second.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, tiny_config
from training_fixtures import make_config, write_features

from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.devices import make_strategy
from bssan_tf.training import run as training
from bssan_tf.training.step import compile_siamese


def batches(config):
    """The same three batches of eight pairs, whatever the devices."""
    for seed in range(3):
        inputs = random_pairs(config, 8, seed=seed)
        others = np.random.default_rng(seed).integers(1, VOCABULARY, (8, 2, 7))
        inputs["negative_tokens"] = others.astype(np.int32)
        yield inputs, {"w2r": np.zeros(8, np.float32), "o2w": np.zeros(8, np.float32)}


class KeepLosses(tf.keras.callbacks.Callback):
    """The loss after each step."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])


def main(devices: str, out: str) -> None:
    strategy = make_strategy(devices)
    config = tiny_config(negatives=2, l2=0.01, learning_rate=0.1, o2w_rate=0.3, clip_norm=0.1)
    tf.keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        model = Bssan(config.model, VOCABULARY, config.training.l2)
        siamese = model.siamese(config.training)
        compile_siamese(siamese, config)
    signature = (
        {name: tf.TensorSpec((8, *tensor.shape[1:]), tensor.dtype) for name, tensor in siamese.input.items()},
        {name: tf.TensorSpec((8,), tf.float32) for name in ("w2r", "o2w")},
    )
    data = tf.data.Dataset.from_generator(lambda: batches(config), output_signature=signature)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    keep = KeepLosses()
    siamese.fit(data.with_options(options), epochs=1, steps_per_epoch=3, verbose=0, callbacks=[keep])
    weights = [weight.numpy() for weight in siamese.weights]
    np.savez(out, *weights, losses=keep.losses, replicas=strategy.num_replicas_in_sync)


def train_and_resume(devices: str, folder: Path) -> None:
    training.export_saved_model = lambda *_: None  # is not what is tested
    corpus = write_features(folder.with_name("corpus"), pictures=32)
    config = make_config(corpus, variant="w2r", fusion=0, dropout=0.0, cca_start=False, epochs=1)
    training.train(config, RunFolder(folder), devices, progress=False)
    training.resume(RunFolder(folder), devices=devices, progress=False, epochs=2)


if __name__ == "__main__":
    main(*sys.argv[1:3])
    train_and_resume(sys.argv[1], Path(sys.argv[3]))
