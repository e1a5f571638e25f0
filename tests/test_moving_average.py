"""`--ema`: what is measured and saved is the moving average of the weights; training does not notice."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from training_fixtures import killed_in_the_last_epoch, make_config, write_features

from bssan_tf.runs.folder import RunFolder
from bssan_tf.training import run as training

pytestmark = pytest.mark.usefixtures("no_export")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


def trained(corpus, folder, **values):
    run = RunFolder(folder)
    training.train(make_config(corpus, variant="w2r", plateau_patience=9, **values), run, progress=False)
    return run


def weights_of(run):
    return {w.name: w.numpy() for w in run.load_model()[0].scorer.trainable_weights}


def history_of(run):
    with run.history_file.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_average_is_saved_and_training_goes_on_from_the_latest(corpus, tmp_path, monkeypatch):
    averages = []
    finalize = tf.keras.optimizers.Optimizer.finalize_variable_values

    def spy(self, variables):
        finalize(self, variables)
        averages.append({variable.name: variable.numpy() for variable in variables})

    monkeypatch.setattr(tf.keras.optimizers.Optimizer, "finalize_variable_values", spy)
    monkeypatch.setattr("bssan_tf.training.callbacks.retrieval_report", rising_report())
    values = {"mixed_precision": True, "epochs": 2}
    plain = trained(corpus, tmp_path / "plain", **values)
    averages.clear()
    averaged = trained(corpus, tmp_path / "averaged", **values, ema=0.9)
    for column in ("loss", "w2r_ranking"):
        assert [row[column] for row in history_of(plain)] == [row[column] for row in history_of(averaged)]
    saved, latest = weights_of(averaged), weights_of(plain)
    assert saved.keys() == averages[1].keys()
    for name, value in saved.items():  # of the second epoch, which is the best by the report above
        np.testing.assert_array_equal(value, averages[1][name], err_msg=name)
    assert not np.allclose(saved["w2r_attention/W:0"], latest["w2r_attention/W:0"], atol=1e-6)


def rising_report():
    """A retrieval report in which each epoch is better than the one before."""
    from bssan_tf.metrics import retrieval_report

    calls = []

    def report(*arguments):
        calls.append(1)
        return {**retrieval_report(*arguments), "rsum": float(len(calls))}

    return report


def test_resume_goes_on_with_the_average(corpus, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("bssan_tf.training.callbacks.retrieval_report", rising_report())
    run = trained(corpus, tmp_path / "whole", epochs=2, ema=0.9)
    parts = killed_in_the_last_epoch(run, tmp_path / "parts")
    training.resume(parts, progress=False)
    for each in (run, parts):
        assert json.loads(each.metrics_file.read_text())["best_epoch"] == 2
        found.append(weights_of(each))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], err_msg=name)
