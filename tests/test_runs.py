"""The run folder: made whole or not at all, by one process, and trained by one."""

import fcntl
import logging
import os
from pathlib import Path

import pytest
from disk_fixtures import dead_process

from bssan_tf.config.schema import Config
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import REPRODUCTION, RunFolder, find_run, free_name
from bssan_tf.runs.weights import fresh_part, note_weights

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


def test_where_a_run_is_not_found_those_that_are_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "hgfedcbaxy":
        create(RunFolder(Path("runs") / name))
    with pytest.raises(UserError) as error:
        find_run("runs/i")
    assert str(error.value).endswith("or name another; runs/ has a, b, c, d, e, f, g, h, ...")


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "data.json: has no captions_sha256; put it back"),
        ("[]", "data.json: is a list, not an object"),
        ("{", "data.json: not valid JSON"),
        (100_000 * "[", "data.json: not valid JSON"),
        (None, "data.json: no such file"),
    ],
)
def test_data_that_tell_nothing_are_refused(tmp_path, text, words):
    run = RunFolder(tmp_path / "one")
    create(run)
    run.data_file.unlink() if text is None else run.data_file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        run.require_same_data({"captions_sha256": "dog"})
    assert "\n" not in str(error.value)


def test_a_changed_vocabulary_is_refused(tmp_path, caplog):
    run = RunFolder(tmp_path / "one")
    run.create(CONFIG, [], {}, Tokenizer(["dog", "cat"]).save)
    assert run.load_tokenizer(CONFIG).words[-2:] == ("dog", "cat")
    Tokenizer(["cat", "dog"]).save(run.vocabulary_file)
    with pytest.raises(UserError, match=r"vocabulary\.txt: has changed since training; put back the file of then"):
        run.load_tokenizer(CONFIG)
    run.data_file.write_text("{}")
    with caplog.at_level(logging.INFO):
        run.load_tokenizer(CONFIG)
    assert "one: of an older version, which noted no checksum of its vocabulary" in caplog.text


def save(run, content):
    """As a training saves its best weights."""
    with fresh_part(run.best) as part:
        part.write_bytes(content)
        note_weights(run.best, part)
        part.replace(run.best)


def test_changed_weights_are_refused(tmp_path, caplog):
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"best\.keras: is gone; put it back"):
        run.require_best()
    for content in (b"one", b"two", b"three"):
        save(run, content)
        run.require_best()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "best.keras.sha256"]
    assert not caplog.records
    run.best.write_bytes(b"one")
    with pytest.raises(UserError, match=r"best\.keras: has changed since training; put back the file"):
        run.require_best()
    for text in ("", "abc", "\xff"):
        (tmp_path / "best.keras.sha256").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"best\.keras\.sha256: .*; put it back, or remove it"):
            run.require_best()
    (tmp_path / "best.keras.sha256").unlink()
    with caplog.at_level(logging.INFO):
        run.require_best()
    assert "best.keras: of an older version, which noted no checksum of it" in caplog.text


def test_a_kill_between_the_note_and_the_weights_spoils_neither(tmp_path):
    run = RunFolder(tmp_path)
    save(run, b"one")
    (tmp_path / "new").write_bytes(b"two")
    note_weights(run.best, tmp_path / "new")
    run.require_best()  # still the one before
    (tmp_path / "new").write_bytes(b"three")
    note_weights(run.best, tmp_path / "new")  # killed there again
    run.require_best()
    save(run, b"two")
    run.require_best()
    run.best.write_bytes(b"three")  # which was announced, but never became the run's
    with pytest.raises(UserError, match=r"best\.keras: has changed since training"):
        run.require_best()


def test_weights_are_never_written_through_a_link(tmp_path):
    run, mine = RunFolder(tmp_path), tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / "part-best.keras").symlink_to(mine)
    save(run, b"one")
    assert mine.read_bytes() == b"mine"


def test_what_killed_processes_have_left_is_removed(tmp_path):
    run = RunFolder(tmp_path / "one")
    left = tmp_path / f".one.{dead_process()}.part"
    left.mkdir()
    create(run)
    assert not left.exists()
    run.state.mkdir()
    parts = [run.path / "part-best.keras", run.state / f".epoch-2.npz.{dead_process()}.part"]
    for part in parts:
        part.write_text("")
    with run.locked():
        assert not any(part.exists() for part in parts)


def test_a_folder_in_which_nothing_can_be_made_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"one: no folder can be made in .*file"):
        RunFolder(tmp_path / "file" / "one").require_new()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="one: no folder can be made in "):
        RunFolder(tmp_path / "runs" / "one").require_new()


def test_an_empty_name_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run: the given name is empty"):
        find_run("")


def test_names_that_are_made_have_no_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert free_name("a[1]-x") == "a_1_-x"


def test_other_data_are_refused(tmp_path):
    run, trained = RunFolder(tmp_path / "one"), {"captions_sha256": "dog", "weights_sha256": None}
    run.create(CONFIG, [], trained, lambda path: path.write_text("dog\n"))
    run.require_same_data(trained)
    run.require_same_data({"weights_sha256": None})
    with pytest.raises(UserError, match="weights_sha256 is abc, was None"):
        run.require_same_data({**trained, "weights_sha256": "abc"})


def test_the_latest_run_is_none_of_reproduce_where_there_is_another(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")

    def trained(name, age):
        run = RunFolder(Path("runs") / name)
        create(run)
        run.best.touch()
        os.utime(run.best, (age, age))

    with monkeypatch.context() as reproducing:
        reproducing.setenv(REPRODUCTION, "reproduction/mine")
        trained("row", 300)
        trained("older", 100)
    assert find_run(None).name == "row"
    assert caplog.messages == ["the latest run: runs/row; all runs there are of reproduce.py"]
    trained("mine", 200)
    assert find_run(None).name == "mine"
    assert caplog.messages[1:] == ["the latest run: runs/mine"]
