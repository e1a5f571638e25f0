"""Training runs on a tiny corpus: what is learned, resume, replicas, collapse, NaN, the run folder."""

import csv
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny_corpus

from bssan_tf import callbacks as cb
from bssan_tf import training
from bssan_tf.config import Config, preset
from bssan_tf.datasets import load_corpus
from bssan_tf.errors import UserError
from bssan_tf.runs import RunFolder

SIZES = {"H": 8, "S": 8, "w2r_mlp": (8, 6), "o2w_mlp": (8, 6), "E_trained": 10, "fusion": 6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "corpus"
    tiny_corpus.write_corpus(folder)
    return folder


def make_config(corpus, name="improved", **values):
    settings = {
        "data": str(corpus), "import_regions": str(corpus / "regions.npy"),
        "import_objects": str(corpus / "objects.npy"), "batch_size": 8, "negatives": 3, "epochs": 3,
        "validation_images": 0, "seed": 5, "warmup_steps": 2, **SIZES, **values,
    }  # fmt: skip
    return preset(name, "small").replace(**settings)


def weights_of(run):
    return [w.numpy() for w in run.load_model()[0].scorer.weights]


def test_run_folder_holds_all_that_is_promised(corpus, tmp_path):
    run = RunFolder(tmp_path / "run")
    metrics = training.train(make_config(corpus), run, progress=False)
    config = run.load_config()
    assert (config.model.D, config.model.M, config.model.P, config.model.Q) == (6, 12, 3, 12)
    assert (config.model.E_glove, config.model.E_trained) == (0, 300)  # no GloVe file: learned
    assert json.loads(run.metrics_file.read_text()) == metrics
    assert metrics["epochs"] == 3
    assert 1 <= metrics["best_epoch"] <= 3
    assert metrics["n_images"] == 8
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["tensorflow"] == tf.__version__
    words = run.vocabulary_file.read_text().split("\n")
    assert "dog" in words
    with run.history_file.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("loss", "w2r_active", "val_rsum", "val_i2t_R@1", "val_w2r_negative", "val_o2w_positive", "lr"):
        assert np.isfinite(float(rows[-1][name])), name
    assert max(float(row["val_rsum"]) for row in rows) == pytest.approx(metrics["rsum"])
    loaded = tf.saved_model.load(str(run.export))
    assert set(loaded.signatures) >= {"serving_default", "captions"}
    with pytest.raises(UserError, match="holds a run already"):
        training.train(make_config(corpus), run, progress=False)


def test_vocabulary_is_of_training_captions_only(corpus, tmp_path):
    other = tmp_path / "corpus"
    tiny_corpus.write_corpus(other)
    text = (other / "captions.csv").read_text().replace("A red", "Xylophone red")
    lines = [line.replace("Xylophone", "A") if line.endswith("train") else line for line in text.split("\n")]
    (other / "captions.csv").write_text("\n".join(lines))
    assert any("Xylophone" in c for c in load_corpus(str(other)).captions)
    run = RunFolder(tmp_path / "run")
    training.train(make_config(other, epochs=1), run, progress=False)
    assert "xylophone" not in run.vocabulary_file.read_text()


def test_training_learns(corpus, tmp_path):
    run = RunFolder(tmp_path / "run")
    metrics = training.train(
        make_config(corpus, epochs=40, learning_rate=0.01, plateau_patience=20, stop_patience=40, dropout=0.0),
        run,
        progress=False,
    )
    assert metrics["rsum"] > 1.5 * training.chance_rsum(8, 16)


@pytest.mark.parametrize("name", ["improved", "paper"])
def test_resume_gives_the_numbers_of_an_uninterrupted_run(corpus, tmp_path, name):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    values = {"epochs": 4, "negatives": 2, "plateau_patience": 1}
    expected = training.train(make_config(corpus, name, **values), whole, progress=False)
    training.train(make_config(corpus, name, **{**values, "epochs": 2}), parts, progress=False)
    got = training.resume(parts, epochs=4, progress=False)
    assert {**got, "run": ""} == {**expected, "run": ""}
    for a, b in zip(weights_of(whole), weights_of(parts)):
        np.testing.assert_array_equal(a, b)
    histories = []
    for run in (whole, parts):
        with run.history_file.open() as file:
            histories.append([{**row, "pairs_per_s": 0, "minutes": 0} for row in csv.DictReader(file)])
    assert histories[0] == histories[1]


def test_resume_does_not_forget_the_best_score(corpus, tmp_path, monkeypatch):
    """A best score that later epochs cannot reach must survive the restart, with its model."""
    run = RunFolder(tmp_path / "run")
    real = cb.retrieval_report

    def unbeatable(scores, owner):
        return {**real(scores, owner), "rsum": 599.0}

    monkeypatch.setattr(cb, "retrieval_report", unbeatable)
    training.train(make_config(corpus, epochs=1), run, progress=False)
    before = run.best.read_bytes()
    monkeypatch.setattr(cb, "retrieval_report", real)
    metrics = training.resume(run, epochs=2, progress=False)
    assert (metrics["best_epoch"], metrics["rsum"]) == (1, 599.0)
    assert run.best.read_bytes() == before


def test_collapse_is_announced(caplog):
    warning = cb.CollapseWarning(["w2r"], chance_rsum=16.0, threshold=0.004)
    with caplog.at_level(logging.WARNING):
        warning.on_epoch_end(0, {"w2r_loss": 0.1, "val_rsum": 17.0})  # near chance, but still learning
        warning.on_epoch_end(1, {"w2r_loss": 0.001, "val_rsum": 300.0})  # loss gone, but it works
        assert not caplog.records
        warning.on_epoch_end(2, {"w2r_loss": 0.001, "val_rsum": 20.0})
        warning.on_epoch_end(3, {"w2r_loss": 0.001, "val_rsum": 20.0})
    assert len(caplog.records) == 1
    assert "COLLAPSE after epoch 3" in caplog.text
    assert "--negative-attention mixed" in caplog.text


def test_chance_rsum_is_what_random_scores_reach():
    rng = np.random.default_rng(0)
    from bssan_tf.metrics import retrieval_report

    owner = np.repeat(np.arange(40), 5)
    found = np.mean([retrieval_report(rng.random((40, 200)), owner)["rsum"] for _ in range(60)])
    assert training.chance_rsum(40, 200) == pytest.approx(found, rel=0.06)


def test_nan_stops_with_a_word(corpus, tmp_path):
    with pytest.raises(UserError, match=r"not a number; training has diverged.*--learning-rate"):
        training.train(
            make_config(corpus, "paper", learning_rate=1e30, l2=1.0), RunFolder(tmp_path / "run"), progress=False
        )


def test_warm_up_and_time_limit(corpus, tmp_path):
    run = RunFolder(tmp_path / "run")
    metrics = training.train(
        make_config(corpus, epochs=50, minutes=1e-6, warmup_steps=1000, learning_rate=0.5), run, progress=False
    )
    assert metrics["epochs"] == 1
    with run.history_file.open() as file:
        rate = float(next(csv.DictReader(file))["lr"])
    assert rate == pytest.approx(0.5 * 4 / 1000)  # 32 pictures, 4 steps


REPLICAS = """
import sys
import numpy as np, tensorflow as tf
sys.path[:0] = sys.argv[1:3]
from bssan_tf.devices import make_strategy
from bssan_tf.models.bssan import Bssan
from bssan_tf.training import compile_siamese
from model_fixtures import VOCABULARY, random_pairs, tiny_config
strategy = make_strategy(sys.argv[3])
config = tiny_config(negatives=2, l2=0.01, learning_rate=0.1, train_embeddings=True)
tf.keras.utils.set_random_seed(1)
tf.config.experimental.enable_op_determinism()
with strategy.scope():
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    siamese = model.siamese(config.training)
    compile_siamese(siamese, config)
def batches():
    for seed in range(3):
        inputs = random_pairs(config, 8, seed=seed)
        inputs["negative_tokens"] = np.random.default_rng(seed).integers(1, VOCABULARY, (8, 2, 7)).astype(np.int32)
        yield inputs, {"w2r": np.zeros(8, np.float32), "o2w": np.zeros(8, np.float32)}
signature = ({n: tf.TensorSpec((8, *t.shape[1:]), t.dtype) for n, t in siamese.input.items()},
             {n: tf.TensorSpec((8,), tf.float32) for n in ("w2r", "o2w")})
data = tf.data.Dataset.from_generator(batches, output_signature=signature)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
losses = []
class Keep(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        losses.append(logs["loss"])
siamese.fit(data.with_options(options), epochs=1, steps_per_epoch=3, verbose=0, callbacks=[Keep()])
np.savez(sys.argv[4], losses=losses, replicas=strategy.num_replicas_in_sync, *[w.numpy() for w in siamese.weights])
"""


def test_two_replicas_train_as_one(project, tmp_path):
    """Same global batch: loss and weights after 3 steps; regulariser and BatchNorm counted once."""
    found = []
    for devices in ("cpu", "cpu:2"):
        out = tmp_path / f"{devices.replace(':', '')}.npz"
        arguments = [sys.executable, "-c", REPLICAS, str(project), str(project / "tests"), devices, str(out)]
        subprocess.run(arguments, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, timeout=180)
        with np.load(out) as archive:
            found.append({name: archive[name] for name in archive.files})
    one, two = found
    assert (int(one.pop("replicas")), int(two.pop("replicas"))) == (1, 2)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)


def test_devices(monkeypatch):
    from bssan_tf.devices import make_strategy

    assert make_strategy("auto").num_replicas_in_sync == 1
    for wrong, message in (("tpu", "must be auto"), ("cpu:0", "must be auto"), ("gpu:2", "has 0 GPUs")):
        with pytest.raises(UserError, match=message):
            make_strategy(wrong)


def test_replicas_must_fit_the_batch():
    class Four:
        num_replicas_in_sync = 4

    random = preset("paper").training
    training._check_replicas(random, Four())
    with pytest.raises(UserError, match=r"--batch-size 63: must be a multiple of the 4 devices"):
        training._check_replicas(Config().replace(batch_size=63).training, Four())
    with pytest.raises(UserError, match="leave no 8 others"):
        training._check_replicas(preset("improved").training, Four())
