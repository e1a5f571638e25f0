"""The run folder: made whole or not at all, by one process, and trained by one."""

import fcntl

import pytest

from bssan_tf.config.schema import Config
from bssan_tf.errors import UserError
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
