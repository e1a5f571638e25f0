"""The run folder: made whole or not at all, by one process, and trained by one."""

import dataclasses
import fcntl
import json

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, randomise, tiny_config

from bssan_tf.config.schema import Config
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.pairing import SplitPairs
from bssan_tf.runs.folder import RunFolder

CONFIG = Config(preset="improved", size="tiny")


def create(run, word="dog"):
    run.create(CONFIG, ["python", "train.py"], {"captions_sha256": word}, lambda path: path.write_text(f"{word}\n"))


def test_a_run_is_whole(tmp_path):
    run = RunFolder(tmp_path / "runs" / "one")
    create(run)
    assert run.load_config() == CONFIG
    assert run.vocabulary_file.read_text() == "dog\n"
    run.require_same_data({"captions_sha256": "dog"})
    assert [path.name for path in run.path.parent.iterdir()] == ["one"]


def test_an_interrupted_creation_leaves_nothing(tmp_path):
    run = RunFolder(tmp_path / "one")

    def stop(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.create(CONFIG, [], {}, stop)
    assert not list(tmp_path.iterdir())
    create(run)


def test_a_killed_creation_is_no_run(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "one")

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # a kill tidies nothing
    monkeypatch.setattr("bssan_tf.runs.folder.write_text", killed)
    with pytest.raises(SystemExit):
        create(run)
    assert not run.path.exists()
    with pytest.raises(UserError, match="no such run"):
        run.load_config()


def test_a_second_run_of_the_name_is_refused(tmp_path):
    run = RunFolder(tmp_path / "one")
    run.require_new()
    run.path.mkdir()
    run.require_new()
    create(run)
    for again in (run.require_new, lambda: create(run, "cat")):
        with pytest.raises(UserError, match="one: holds a run already; choose another --name"):
            again()
    assert run.vocabulary_file.read_text() == "dog\n"


def test_of_two_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    run, processes = RunFolder(tmp_path / "one"), iter((1, 2))
    monkeypatch.setattr("os.getpid", lambda: next(processes, 3))
    with pytest.raises(UserError, match="holds a run already"):
        run.create(CONFIG, [], {}, lambda path: create(run, "cat"))  # the other one is faster
    assert run.vocabulary_file.read_text() == "cat\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_files_that_are_no_run_are_left_alone(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "mine.txt").write_text("mine")
    (tmp_path / "two").write_text("mine")
    for name in ("one", "two"):
        with pytest.raises(UserError, match=f"{name}: is no run, but not empty either"):
            create(RunFolder(tmp_path / name))


def test_one_process_at_a_time(tmp_path):
    run = RunFolder(tmp_path / "one")
    create(run)
    with run.locked(), pytest.raises(UserError, match="one: is being trained by another process"), run.locked():
        pass
    with run.locked(), open(run.path / "lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with run.locked():
        pass


def test_other_data_are_refused(tmp_path):
    run, trained = RunFolder(tmp_path / "one"), {"captions_sha256": "dog", "weights_sha256": None}
    run.create(CONFIG, [], trained, lambda path: None)
    run.require_same_data(trained)
    run.require_same_data({"weights_sha256": None}, ("weights_sha256",))
    with pytest.raises(UserError, match="weights_sha256 is abc, was None"):
        run.require_same_data({**trained, "weights_sha256": "abc"})


def flattened(network):
    """W2R as the version before had it: the layers of its MLP are its own."""
    old = network.model
    y = old.get_layer("w2r_lstm").output
    for layer in old.get_layer("w2r_mlp").layers[1:]:
        y = layer(y)
    y = SplitPairs(dtype="float32", name="w2r_score")([y, old.get_layer("w2r_concat").output])
    return dataclasses.replace(network, model=tf.keras.Model(old.input, {**old.output, "w2r": y}, name="w2r"))


def test_weights_of_the_version_before_are_found_by_their_layers_names(tmp_path):
    config = tiny_config("improved", bilinear=False, weighted_lengths=False, fusion=4, dropout=0.3)
    model, run = Bssan(config.model, VOCABULARY), RunFolder(tmp_path / "old")
    randomise(model.scorer)
    run.create(config, [], {}, Tokenizer(tuple("abcdefghij")).save)
    text = json.loads(run.config_file.read_text())
    del text["format"]
    text["training"]["group"] = 4
    run.config_file.write_text(json.dumps(text))
    inputs = random_pairs(config)
    expected = model.scorer(inputs)
    model.networks["w2r"] = flattened(model.networks["w2r"])
    model._build_scorer().save(run.best)
    found = run.load_model()[0].scorer(inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
