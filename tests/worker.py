"""One worker of a training: a process of test_workers.py.

python tests/worker.py CORPUS RUN DEVICES FLAGS OUT.npz [KILL_AT SIGNAL]

FLAGS is JSON of settings; OUT.npz gets the trained weights. With KILL_AT, the process gets SIGNAL after so many steps.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from training_fixtures import make_config

from bssan_tf import cli
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.stack import weights_of
from bssan_tf.training import run as training
from bssan_tf.training.callbacks import LearningRate
from bssan_tf.training.steering import Steering


def main(_) -> None:
    corpus, run, devices, flags, out, *kill_at = sys.argv[1:]
    training.export_saved_model = lambda *_: None  # is not what is tested
    begin = LearningRate.on_train_batch_begin

    def begin_or_die(callback, batch, logs=None):
        if kill_at and int(callback.model.optimizer.iterations.numpy()) >= int(kill_at[0]):
            os.kill(os.getpid(), int(kill_at[1]))
            time.sleep(60)  # which only an ignored signal lets it reach the end of
        begin(callback, batch, logs)

    LearningRate.on_train_batch_begin = begin_or_die
    callbacks = Steering.callbacks

    def keep(steering):
        trained = weights_of(steering.trained.scorer)  # in the same order on all workers
        chief = steering.team.chief
        np.savez(out, chief=chief, **{name.replace("/", "."): value for name, value in trained.items()})

    def with_keep(steering, progress):
        return [
            *callbacks(steering, progress),
            tf.keras.callbacks.LambdaCallback(on_train_end=lambda _: keep(steering)),
        ]

    Steering.callbacks = with_keep
    settings = {"cca_start": False, "dropout": 0.0, "negative_source": "random", "all_pairs": 0.0, **json.loads(flags)}
    metrics = training.train(make_config(Path(corpus), **settings), RunFolder(Path(run)), devices, progress=False)
    print("metrics:", metrics is not None, flush=True)


if __name__ == "__main__":
    cli.run(main)
