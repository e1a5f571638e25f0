"""The callbacks of a training by themselves."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.metrics.calibration import fit_calibration
from bssan_tf.tools.keras_callbacks import HistoryFile, StopAtNaN, read_history
from bssan_tf.training import callbacks as cb


def test_collapse_is_announced(caplog):
    warning = cb.CollapseWarning(["w2r"], chance_rsum=16.0, threshold=0.004, negative_attention="uniform")
    with caplog.at_level(logging.WARNING):
        warning.on_epoch_end(0, {"w2r_ranking": 0.1, "val_rsum": 17.0})  # near chance, but still learning
        warning.on_epoch_end(1, {"w2r_ranking": 0.001, "val_rsum": 300.0})  # loss gone, but it works
        assert not caplog.records
        warning.on_epoch_end(2, {"w2r_ranking": 0.001, "val_rsum": 20.0})
        warning.on_epoch_end(3, {"w2r_ranking": 0.001, "val_rsum": 20.0})
    assert len(caplog.records) == 1
    assert "COLLAPSE after epoch 3" in caplog.text
    assert "--negative-attention learned" in caplog.text
    other = cb.CollapseWarning(["w2r"], chance_rsum=16.0, threshold=0.004, negative_attention="learned")
    other.on_epoch_end(0, {"w2r_ranking": 0.001, "val_rsum": 20.0})
    assert "lower --learning-rate" in caplog.records[-1].getMessage()
    few = cb.CollapseWarning(["w2r"], chance_rsum=500.0, threshold=0.004, negative_attention="mixed")
    few.on_epoch_end(0, {"w2r_ranking": 0.001, "val_rsum": 500.0})  # two pictures tell nothing
    assert len(caplog.records) == 2


def test_nan_stops_with_a_word():
    callback, words = StopAtNaN(), r"not a number; training has diverged.*--learning-rate"
    callback.on_train_batch_end(4, {"loss": 3.0})
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match=f"loss at step 5 of the epoch: {words}"):
            callback.on_train_batch_end(4, {"loss": wrong})
    scores = {"score": np.eye(2), "w2r": np.eye(2)}
    validation = cb.RetrievalValidation(lambda: scores, np.arange(2))
    validation.on_epoch_end(0, logs := {})
    assert logs["val_rsum"] == 600
    scores["w2r"][0, 1] = np.nan
    with pytest.raises(UserError, match=f"validation after epoch 1: {words}"):
        validation.on_epoch_end(0, {})


def test_the_best_epoch_s_report_has_its_calibration():
    """That of its own scores: each epoch is calibrated anew."""
    rng = np.random.default_rng(0)
    scores = {"score": rng.normal(size=(40, 40)) + 2 * np.eye(40)}
    validation = cb.RetrievalValidation(lambda: scores, np.arange(40))
    validation.on_epoch_end(0, {})
    first = validation.calibrated_report()
    assert first["calibration"] == fit_calibration(scores["score"], np.arange(40)).told()
    assert first["rsum"] == validation.report["rsum"]
    scores["score"] = 10 * scores["score"]
    validation.on_epoch_begin(1)
    validation.on_epoch_end(1, {})
    second = validation.calibrated_report()["calibration"]
    assert second["temperature"] == pytest.approx(10 * first["calibration"]["temperature"], rel=1e-4)


def rates(callback, steps):
    """The learning rate at each of some steps, where nothing else changes it but a plateau at step 11."""

    class Model:
        optimizer = tf.keras.optimizers.SGD(0.5)

    callback.set_model(Model())
    found = []
    for step in range(steps):
        Model.optimizer.iterations.assign(step)
        callback.on_train_batch_begin(0)
        found.append(float(Model.optimizer.learning_rate))
        if step == 11:
            Model.optimizer.learning_rate.assign(0.25)
    return found


def test_warm_up_raises_the_rate_over_the_first_steps():
    found = rates(cb.LearningRate(10, 0.5), 14)
    np.testing.assert_allclose(found[:3], [0.05, 0.1, 0.15], rtol=1e-6)
    np.testing.assert_allclose(found[9:], [0.5, 0.5, 0.5, 0.25, 0.25], rtol=1e-6)


def test_cosine_falls_to_nothing_at_the_last_step_whatever_the_plateau():
    found = rates(cb.LearningRate(2, 0.5, total_steps=20), 21)
    np.testing.assert_allclose([found[0], found[10], found[15], found[20]], [0.25, 0.25, 0.0732233, 0], atol=1e-6)
    assert all(a > b for a, b in zip(found[1:], found[2:]))


def test_a_history_begun_on_the_other_keras_goes_on(tmp_path):
    """Whose plateau has another name for the rate; no row loses a number."""
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,lr,learning_rate\n1,0.5,0.1,0.1\n2,0.4,0.1,0.1\n")
    HistoryFile(path).on_epoch_end(1, {"loss": 0.25, "lr": 0.1, "learning_rate": 0.1, "val_rsum": 300.0})
    first, second = read_history(path)
    assert first == {"epoch": "1", "loss": "0.5", "lr": "0.1", "val_rsum": "", "learning_rate": "0.1"}
    assert second == {"epoch": "2", "loss": "0.25", "lr": "0.1", "val_rsum": "300.0", "learning_rate": ""}
