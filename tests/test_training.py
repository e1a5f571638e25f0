"""Training runs on a tiny corpus: what is learned, resume, replicas, the run folder."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import three_steps
from training_fixtures import (
    PHOTOS,
    change_state,
    killed_in_the_last_epoch,
    make_config,
    same_weights,
    without_steps,
    write_features,
)

from bssan_tf.commands import evaluate as evaluate_command
from bssan_tf.commands import train
from bssan_tf.config.presets import preset
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.matching.matcher import Matcher
from bssan_tf.metrics.recall import chance_rsum
from bssan_tf.runs.data import open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.keras_callbacks import StopAtNaN
from bssan_tf.training import run as training
from bssan_tf.training.batches import PairStream


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """An uninterrupted run as `improved` is on photos, two epochs, and what train() returned.

    Its export, which test_export.py looks at, is only asked for.
    """
    run, traced, lengths, exported = RunFolder(tmp_path_factory.mktemp("runs") / "whole"), [], set(), []
    step, batch = tf.keras.Model.train_step, PairStream.batch

    def watched(model, data):
        traced.append(model)
        return step(model, data)

    def seen(stream, *part):
        found = batch(stream, *part)
        lengths.add(found["tokens"].shape[1])
        return found

    def export(scorer, layer, folder):
        exported.append((layer(["a dog"]).shape[0], folder))
        assert "score" in scorer.output
        folder.mkdir(parents=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "export_saved_model", export)
        patch.setattr(tf.keras.Model, "train_step", watched)
        patch.setattr(PairStream, "batch", seen)
        metrics = training.train(make_config(corpus, epochs=2, **PHOTOS), run, progress=False)
    assert len(lengths) > 1
    assert len(traced) == 1  # once for all lengths, with losses and metrics that were built before
    assert exported == [(1, run.export)]
    return run, metrics


def history_of(run):
    with run.history_file.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.smoke
def test_run_folder_holds_all_that_is_promised(whole, corpus):
    run, metrics = whole
    config = run.load_config()
    assert (config.model.D, config.model.M, config.model.P, config.model.Q) == (4, 12, 3, 12)
    assert (config.model.E_glove, config.model.E_trained) == (0, 10)  # no GloVe file: learned
    assert json.loads(run.metrics_file.read_text()) == metrics
    assert metrics["epochs"] == 2
    assert 1 <= metrics["best_epoch"] <= 2
    assert (metrics["n_images"], metrics["n_captions"]) == (8, 8)
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["tensorflow"] == tf.__version__
    words = run.vocabulary_file.read_text().split("\n")
    assert "dog" in words
    assert "unseen" not in words  # captions of val and test have it, those of train have not
    rows = history_of(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("loss", "w2r_active", "val_rsum", "val_i2t_R@1", "val_w2r_negative", "val_o2w_positive", "lr"):
        assert np.isfinite(float(rows[-1][name])), name
    assert max(float(row["val_rsum"]) for row in rows) == pytest.approx(metrics["rsum"])
    assert run.export.is_dir()
    with pytest.raises(UserError, match="holds a run already"):
        training.train(make_config(corpus), run, progress=False)


def test_tensorboard_has_curves_and_settings(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = whole
    scalars = set()
    for part in (".", "train", "validation"):
        events = EventAccumulator(str(run.logs / part)).Reload()
        scalars |= set(events.Tags()["tensors"])
    assert scalars >= {
        "epoch_loss", "epoch_w2r_loss", "epoch_w2r_active", "epoch_lr", "epoch_rsum", "epoch_i2t_R@1",
        "epoch_w2r_positive", "epoch_o2w_negative", "_hparams_/session_start_info",
    }  # fmt: skip


@pytest.mark.smoke
@pytest.mark.usefixtures("no_export")
def test_resume_gives_the_numbers_of_an_uninterrupted_run(corpus, tmp_path):
    """Of the preset `paper` in bfloat16; that of `improved` is killed as a process in test_cli.py."""
    run = RunFolder(tmp_path / "whole")
    values = {"epochs": 3, "plateau_patience": 1, "variant": "w2r", "mixed_precision": True}
    expected = training.train(make_config(corpus, "paper", **values), run, progress=False)
    # the loss without the L2 term, by which a collapse is seen, has the same name with one output and with two
    assert 0 < float(history_of(run)[-1]["w2r_ranking"]) < float(history_of(run)[-1]["loss"])
    parts = killed_in_the_last_epoch(run, tmp_path / "parts")
    got = training.resume(parts, progress=False)
    assert {**got, "run": ""} == {**expected, "run": ""}
    same_weights(run, parts)
    # all but the clock
    one, other = ([{**row, "pairs_per_s": 0, "minutes": 0} for row in history_of(r)] for r in (run, parts))
    assert one == other
    saved_as_float32_with_the_trained_weights(run)


@pytest.mark.usefixtures("no_export")
@pytest.mark.large
def test_resume_of_the_convolutions_and_the_dense_layer_over_both(corpus, tmp_path):
    run = RunFolder(tmp_path / "whole")
    values = {"epochs": 2, "w2r_text": "cnn", "fuse": "fc", "o2w_weight": 1.0, "all_pairs": 0.0}
    expected = training.train(make_config(corpus, **values), run, progress=False)
    parts = killed_in_the_last_epoch(run, tmp_path / "parts")
    assert {**training.resume(parts, progress=False), "run": ""} == {**expected, "run": ""}
    same_weights(run, parts)
    assert any("w2r_cnn" in weight.name for weight in run.load_model()[0].networks["w2r"].model.weights)


def saved_as_float32_with_the_trained_weights(run):
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    model = run.load_model()[0].networks["w2r"].model
    layers = [layer for layer in model._flatten_layers() if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    lstm = model.get_layer("w2r_lstm")
    start = np.repeat([0, 1, 0, 0], lstm.units)  # the bias of Keras' gates
    assert (lstm.get_weights()[2] != start).any()


@pytest.mark.usefixtures("no_export")
def test_resume_does_not_forget_the_best_score(whole, tmp_path, monkeypatch):
    """A best score that later epochs cannot reach must survive the restart, with its model."""
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(whole[0].path, run.path)
    change_state(run, 2, lambda state: state["BestScorer"].update(best=599.0, best_epoch=1))
    before = run.best.read_bytes()
    monkeypatch.setattr(tf.keras.Model, "fit", without_steps)
    metrics = training.resume(run, epochs=3, progress=False)
    assert (metrics["best_epoch"], metrics["epochs"]) == (1, 3)
    assert run.best.read_bytes() == before


def test_a_run_that_stopped_by_itself_is_finished_not_trained_on(whole, tmp_path, monkeypatch):
    exported = []
    monkeypatch.setattr(training, "export_saved_model", lambda *given: exported.append(given[-1]))
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(whole[0].path, run.path)
    run.config_file.write_text(run.load_config().replace(epochs=9).to_json())
    change_state(run, 2, lambda state: state.update(stopped=True))
    run.metrics_file.unlink()
    shutil.rmtree(run.export)  # as if killed before these were written
    monkeypatch.setattr(tf.keras.Model, "fit", None)
    assert {**training.resume(run, progress=False), "run": ""} == {**whole[1], "run": ""}
    assert exported == [run.export]


@pytest.mark.usefixtures("no_export")
def test_a_finished_run_that_goes_on_has_no_old_metrics(whole, tmp_path, monkeypatch):
    """Its probabilities would be of other weights."""
    run, seen = RunFolder(tmp_path / "copy"), []
    shutil.copytree(whole[0].path, run.path)
    monkeypatch.setattr(training.Trainer, "_fit", lambda *_: seen.append(run.metrics_file.exists()))
    training.resume(run, progress=False, epochs=3)
    assert seen == [False]
    assert run.metrics_file.exists()


@pytest.mark.parametrize("use", [evaluate_command.main, train.main], ids=["evaluate", "resume"])
def test_a_run_of_the_version_before_is_refused_with_one_line(whole, tmp_path, use):
    run = RunFolder(tmp_path / "old")
    shutil.copytree(whole[0].path, run.path)
    config = json.loads(run.config_file.read_text())
    del config["format"]
    run.config_file.write_text(json.dumps(config))
    before = sorted(run.path.rglob("*"))
    with pytest.raises(UserError, match=r"old/config\.json: not a config .*its format is 1, .*train the run anew$"):
        use(["--resume", str(run.path), "--quiet"] if use is train.main else [str(run.path), "--quiet"])
    assert sorted(run.path.rglob("*")) == before


def test_resume_refuses_fewer_epochs_than_there_are(whole):
    before = whole[0].config_file.read_text()
    with pytest.raises(UserError, match=r"--epochs 1: .*whole has 2 epochs already; give more, or none"):
        training.resume(whole[0], progress=False, epochs=1)
    assert whole[0].config_file.read_text() == before


def test_resume_refuses_other_data(whole, corpus, tmp_path):
    run, moved = RunFolder(tmp_path / "copy"), tmp_path / "moved"
    shutil.copytree(whole[0].path, run.path)
    shutil.copytree(corpus, moved)
    text = (moved / "captions.csv").read_text().replace("There is", "There was", 1)
    (moved / "captions.csv").write_text(text)
    with pytest.raises(UserError, match="data have changed since training: captions_sha256"):
        training.resume(run, progress=False, data_flags={"root": str(moved)})


@pytest.fixture(scope="module")
def loaded(whole):
    """The model of the whole run, and its tokenizer."""
    return whole[0].load_model()


def swap_train_and_test(corpus):
    lines = (corpus / "captions.csv").read_text().splitlines()
    other = {"train": "test", "test": "train", "val": "val", "split": "split"}
    lines = [f"{line.rpartition(',')[0]},{other[line.rpartition(',')[2]]}" for line in lines]
    (corpus / "captions.csv").write_text("\n".join(lines) + "\n")


def reverse_regions(corpus):
    np.save(corpus / "regions.npy", np.load(corpus / "regions.npy")[::-1])


def list_the_other_way_round(corpus):
    (corpus / "ids.txt").write_text("\n".join(f"{i:03}.png" for i in reversed(range(48))))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (swap_train_and_test, "captions_sha256"),
        (reverse_regions, "imported_sha256"),
        (list_the_other_way_round, "imported_sha256"),
        (lambda corpus: None, ""),
    ],
)
def test_evaluation_and_search_refuse_changed_data_and_take_moved_ones(
    whole, loaded, corpus, tmp_path, monkeypatch, change, what
):
    monkeypatch.setattr(RunFolder, "load_model", lambda _: loaded)
    run, moved = whole[0], tmp_path / "moved"
    shutil.copytree(corpus, moved)
    change(moved)
    flags = {"root": str(moved)} | {f"import_{name}": str(moved / f"{name}.npy") for name in ("regions", "objects")}
    if (moved / "ids.txt").exists():
        flags["import_ids"] = str(moved / "ids.txt")

    def both():
        with expected(run):
            evaluate(run, Request(), flags, progress=False)
        with expected(run):
            return Matcher(run, flags).index_of_split().search("a dog")

    def expected(run):
        if not what:
            return contextlib.nullcontext()
        return pytest.raises(UserError, match=f"data have changed since training: {what}")

    assert both() or what


@pytest.mark.parametrize("error", [UserError("regions.npy: is gone"), OSError(5, "disk is gone", "regions.npy")])
def test_a_batch_that_cannot_be_read_is_told_as_such(corpus, tmp_path, monkeypatch, error):
    def batch(*_):
        raise error

    monkeypatch.setattr(PairStream, "batch", batch)
    monkeypatch.setattr(tf.keras.Model, "fit", lambda _, steps, **__: list(steps))  # reads, and trains nothing
    with pytest.raises(type(error), match="is gone") as raised:
        training.train(make_config(corpus, variant="w2r"), RunFolder(tmp_path / "run"), progress=False)
    assert raised.value is error


@pytest.mark.large
def test_bad_data_are_named_not_the_learning_rate(whole, corpus, tmp_path, monkeypatch):
    def diverge(*_, **__):
        StopAtNaN().on_train_batch_end(0, {"loss": np.nan})

    monkeypatch.setattr(tf.keras.Model, "fit", diverge)
    run, bad = RunFolder(tmp_path / "copy"), np.load(corpus / "objects.npy")
    shutil.copytree(whole[0].path, run.path)
    with pytest.raises(UserError, match=r"loss at step 1 of the epoch: not a number; .*--learning-rate"):
        training.resume(run, progress=False, epochs=9)
    data = open_data(run.load_config().data, progress=False)
    bad[5, 0, 0] = np.nan
    bad = dataclasses.replace(data, features=dataclasses.replace(data.features, objects=bad))
    with pytest.raises(
        UserError, match=r"objects\.npy: the row of 005\.png \(picture 5 of the corpus\) has values that"
    ):
        training.resume(run, progress=False, epochs=9, data=bad)


@pytest.mark.usefixtures("no_export")
def test_glove_moves_before_the_first_epoch(corpus, tmp_path, monkeypatch):
    for name, size in (("old", 4), ("new", 4), ("other", 5)):
        (tmp_path / f"{name}.txt").write_text("dog" + size * " 0.5" + "\ncat" + size * " 1.5" + "\n")
    run, run_on = RunFolder(tmp_path / "run"), training.Trainer.run_on
    monkeypatch.setattr(training.Trainer, "run_on", lambda *_, **__: None)  # as if killed
    training.train(make_config(corpus, variant="w2r", glove=str(tmp_path / "old.txt"), epochs=1), run, progress=False)
    (tmp_path / "old.txt").unlink()

    def resume(name):
        flags = ["--resume", str(run.path), "--glove", str(tmp_path / name), "--quiet"]
        return train.resume(train.build_parser().parse_args(flags), run)

    with pytest.raises(UserError, match=r"other\.txt: words have 5 dimensions, the run was begun with 4"):
        resume("other.txt")
    monkeypatch.setattr(training.Trainer, "run_on", run_on)
    monkeypatch.setattr(tf.keras.Model, "fit", without_steps)
    assert resume("new.txt")["epochs"] == 1
    glove = run.load_model()[0].scorer.get_layer("glove").get_weights()[0]
    assert glove[2:].max() == 1.5


def test_glove_is_refused_for_a_run_without(whole):
    with pytest.raises(UserError, match=r"--glove g\.txt: the run was begun without"):
        training.resume(whole[0], progress=False, data_flags={"glove": "g.txt"})


def test_a_run_that_is_being_trained_is_not_resumed(whole):
    before = (whole[0].path / "command.txt").read_text()
    with whole[0].locked(), pytest.raises(UserError, match="whole: is being trained by another process"):
        training.resume(whole[0], progress=False)
    assert (whole[0].path / "command.txt").read_text() == before


def test_training_keeps_the_run_locked(whole, monkeypatch):
    locked = []

    def run_on(job, *_, **__):
        with pytest.raises(UserError, match="is being trained"), job.run.locked():
            pass
        locked.append(job.run)

    monkeypatch.setattr(training.Trainer, "run_on", run_on)
    training.resume(whole[0], progress=False)
    new = RunFolder(whole[0].path.with_name("new"))
    training.train(whole[0].load_config(), new, progress=False)
    assert locked == [whole[0], new]
    assert "dog" in new.vocabulary_file.read_text().split()


def test_a_corpus_without_validation_split_leaves_no_run(corpus, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(corpus, bare)
    (bare / "captions.csv").write_text((bare / "captions.csv").read_text().replace(",val", ",test"))
    with pytest.raises(UserError, match="has no split 'val'"):
        training.train(make_config(bare), RunFolder(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_export")
def test_training_learns(corpus, tmp_path):
    values = {"variant": "w2r", "learning_rate": 0.01, "dropout": 0.0, "epochs": 2, "steps_per_epoch": 60}
    metrics = training.train(make_config(corpus, **values), RunFolder(tmp_path / "run"), progress=False)
    assert metrics["rsum"] > 1.25 * chance_rsum(8, 8)  # 350; Keras 3, from other random weights, reaches 462


JUDGES = ("RetrievalValidation", "BestScorer", "CollapseWarning")  # which read what validation says
SAVED = ("TimeLimit", "HistoryFile", "TrainingState")


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"schedule": "plateau"}, ("ReduceLROnPlateau", "EarlyStopping")),
        ({"schedule": "cosine", "mixed_precision": True, "early_signs": 20}, ("EarlyStopping",)),
    ],
)
def test_a_run_is_measured_judged_saved_and_shown_in_this_order(corpus, tmp_path, monkeypatch, values, more):
    seen = []
    monkeypatch.setattr(tf.keras.Model, "fit", lambda _, data, callbacks, **__: seen.extend(callbacks))
    monkeypatch.setattr(training.Trainer, "_finish", lambda *_: {})
    config = make_config(corpus, variant="w2r", minutes=7, **values)
    training.train(config, RunFolder(tmp_path / "run"), progress=True)
    asked = ("EarlySigns", "LambdaCallback") if "early_signs" in values else ()
    first = ("Throughput", "LearningRate", "StopAtNaN", *asked)
    shown = ("AttentionImages", "RunHparams", "TensorBoard", "ProgressBar")
    assert [type(callback).__name__ for callback in seen] == [*first, *JUDGES, *more, *SAVED, *shown]
    by_name = {type(callback).__name__: callback for callback in seen}
    limit, rate = by_name["TimeLimit"], by_name["LearningRate"]
    assert (limit.minutes, limit.schedule) == (7, values["schedule"])
    assert rate.total_steps == (3 * 4 if values["schedule"] == "cosine" else 0)  # epochs of 32 / 8 steps


@pytest.mark.parametrize(("wordless", "asked"), [(False, 0), (True, 2)])
def test_a_caption_without_words_keeps_cudnn_out(corpus, tmp_path, monkeypatch, wordless, asked):
    """Of the model that is measured, and of its bfloat16 twin, which is trained."""
    plain, tokens_of = [], Tokenizer.__call__

    def emptied(tokenizer, captions):
        tokens = tokens_of(tokenizer, captions)
        tokens[0] *= not wordless
        return tokens

    monkeypatch.setattr(Tokenizer, "__call__", emptied)
    monkeypatch.setattr(tf.keras.Model, "fit", lambda *_, **__: None)
    monkeypatch.setattr(training.Trainer, "_finish", lambda *_: {})
    monkeypatch.setattr(training, "take_plain_kernels", plain.append)
    config = make_config(corpus, variant="w2r", cca_start=False, mixed_precision=True)
    training.train(config, RunFolder(tmp_path / "run"), progress=False)
    assert len({id(model) for model in plain}) == asked


@pytest.mark.smoke
@pytest.mark.large
def test_two_replicas_train_as_one(project, tmp_path):
    """Same global batch: loss and weights after 3 steps; regulariser and BatchNorm counted once."""
    script = str(project / "tests" / "three_steps.py")
    arguments = [sys.executable, script, "cpu:2", str(tmp_path / "two.npz"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    three_steps.main("cpu", tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert (int(one["replicas"]), int(two["replicas"])) == (1, 2)
        for name in set(one.files) - {"replicas"}:
            np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)
    rows = history_of(RunFolder(tmp_path / "run"))  # of the whole command, resumed after its first epoch
    assert [row["epoch"] for row in rows] == ["1", "2"]
    # before much is learned, a softmax over one positive and three negatives: not twice that, nor half of it
    assert float(rows[0]["w2r_ranking"]) == pytest.approx(np.log(4), rel=0.3)


def test_devices(monkeypatch):
    from bssan_tf.tools.devices import make_strategy

    assert make_strategy("auto").num_replicas_in_sync == 1
    for wrong, message in (("tpu", "must be auto"), ("cpu:0", "must be auto"), ("gpu:2", "has 0 GPUs")):
        with pytest.raises(UserError, match=message):
            make_strategy(wrong)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (preset("paper"), None),
        (preset("paper").replace(batch_size=63), r"--batch-size 63: must be a multiple of the 4 devices"),
        (preset("improved"), "leave no 8 others"),
    ],
)
def test_replicas_must_fit_the_batch(monkeypatch, config, message):
    four = SimpleNamespace(num_replicas_in_sync=4)
    monkeypatch.setattr(training, "make_strategy", lambda _: four)
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        assert training._strategy("gpu:4", config.training) is four
