"""The state that training goes on from: whole or refused, and never a file of another folder's."""

import contextlib
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf
from disk_fixtures import limited_files

from bssan_tf.errors import UserError
from bssan_tf.tools.keras_callbacks import HistoryFile, TensorBoard
from bssan_tf.tools.training_state import TrainingState, newest_state
from bssan_tf.training.callbacks import BestScorer


class Remembers(tf.keras.callbacks.Callback):
    best = 0.0


def make():
    values = tf.keras.Input((3,))
    model = tf.keras.Model(values, tf.keras.layers.Dense(2, kernel_initializer="ones", name="only")(values))
    model.compile(tf.keras.optimizers.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def train(folder, epochs, saved=None):
    """Train into `folder`/state from a saved state on; the model and its callback that remembers."""
    model, judge = make(), Remembers()
    state = TrainingState(folder / "state", {judge: ("best",)}, saved)
    judge.on_epoch_end = lambda epoch, logs: setattr(judge, "best", epoch + 0.5)
    folder.mkdir(exist_ok=True)
    callbacks = [judge, HistoryFile(folder / "history.csv"), state]
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    start = saved.epoch if saved else 0
    model.fit(x, x[:, :2], epochs=epochs, initial_epoch=start, shuffle=False, callbacks=callbacks, verbose=0)
    return model, judge


def newest(folder):
    return newest_state(folder / "state", folder / "history.csv", folder / "result", folder / "best")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three epochs, and the model after them."""
    folder = tmp_path_factory.mktemp("state") / "run"
    return folder, train(folder, 3)[0]


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "run")


def same(model, other):
    for a, b in zip([*model.weights, *model.optimizer.variables], [*other.weights, *other.optimizer.variables]):
        np.testing.assert_array_equal(a, b)


def test_two_are_kept_and_training_goes_on_to_the_same_numbers(whole, run):
    assert sorted(path.name for path in (run / "state").iterdir()) == ["epoch-2.npz", "epoch-3.npz"]
    (run / "state" / "epoch-3.npz").unlink()
    saved = newest(run)
    assert saved.epoch == 2
    model, judge = train(run, 3, saved)
    same(model, whole[1])
    assert judge.best == 2.5
    assert int(model.optimizer.iterations) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 140] ^= 16  # in the first array's numbers
    path.write_bytes(content)


DAMAGES = [cut, flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_last_whole_state_is_used_and_that_is_said(whole, run, damage, caplog):
    damage(run / "state" / "epoch-3.npz")
    with caplog.at_level(logging.WARNING):
        saved = newest(run)
    assert saved.epoch == 2
    assert "epoch-3.npz" in caplog.text
    assert "going on from epoch-2.npz, the last whole state" in caplog.text
    same(train(run, 3, saved)[0], whole[1])
    assert newest(run).epoch == 3


def test_no_byte_of_a_state_changes_unseen(run):
    path = run / "state" / "epoch-3.npz"
    before, content = newest(run), path.read_bytes()
    (run / "state" / "epoch-2.npz").unlink()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with contextlib.suppress(UserError):
            found = newest(run)  # a byte that tells nothing, as the time in a header
            assert found.callbacks == before.callbacks
            assert all(np.array_equal(found.arrays[name], array) for name, array in before.arrays.items())


@pytest.mark.parametrize("damage", DAMAGES)
def test_training_never_begins_anew_over_damaged_states(run, damage):
    for path in (run / "state").iterdir():
        damage(path)
    with pytest.raises(UserError, match=r"epoch-3\.npz: .*no state in .* is whole\. .*; to go on, train anew under"):
        newest(run)


def test_training_never_begins_anew_where_epochs_were_trained(run):
    shutil.rmtree(run / "state")
    with pytest.raises(UserError, match="state: has no state, though epochs were trained"):
        newest(run)
    lines = (run / "history.csv").read_text().splitlines()
    (run / "history.csv").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(UserError, match="state: has no state, though epochs were trained"):
        newest(run)
    (run / "history.csv").unlink()
    assert newest(run) is None
    for name in ("result", "best"):
        (run / name).write_text("")
        with pytest.raises(UserError, match="state: has no state, though epochs were trained"):
            newest(run)
        (run / name).unlink()


def test_a_kill_before_the_first_state_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    def killed(*_):
        (tmp_path / "best").write_text("")  # written before the state, as is the history
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "on_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, 1)
    assert (tmp_path / "history.csv").exists()
    assert newest(tmp_path) is None
    train(tmp_path, 1)
    (tmp_path / "state" / "epoch-1.npz").unlink()  # from the first state on, it is missed
    with pytest.raises(UserError, match="state: has no state, though epochs were trained"):
        newest(tmp_path)


def test_a_state_of_the_version_before_is_told_as_such(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ckpt-2.index").write_text("")
    with pytest.raises(UserError, match="state: saved by another version of bssan_tf"):
        newest(tmp_path)


@pytest.mark.parametrize("foreign", ["names", "shapes"])
def test_a_state_of_another_network_is_told_as_such(run, foreign):
    saved = newest(run)
    kernel = saved.arrays.pop("weight/only/kernel")
    if foreign == "names":  # of the same shapes, it would be mixed up silently
        saved.arrays["weight/other/kernel"] = kernel
    else:
        saved.arrays["weight/only/kernel"] = kernel[:2]
    with pytest.raises(UserError, match="state: saved by another version of bssan_tf; go on with that one, or train"):
        train(run, 5, saved)


@pytest.mark.parametrize("text", ["epoch,loss\nx,1\n", "epoch,loss\n1\n", "loss\n1\n", "epoch\n1,2\n"])
def test_a_damaged_history(run, text):
    shutil.rmtree(run / "state")
    (run / "history.csv").write_text(text)
    with pytest.raises(UserError, match=r"history\.csv: line 2 is not a row of an epoch; it is only a record"):
        newest(run)


def test_names_that_tensorflow_takes_for_patterns(whole, tmp_path):
    plain, pattern = tmp_path / "a[1]" / "g1", tmp_path / "a[1]" / "g[1]"
    plain.parent.mkdir()
    train(plain, 2)
    before = sorted((plain / "state").iterdir())
    train(pattern, 3)
    assert sorted((plain / "state").iterdir()) == before
    (pattern / "state" / "epoch-3.npz").unlink()
    same(train(pattern, 3, newest(pattern))[0], whole[1])


def test_a_disk_that_fills_is_told_by_the_files_name_and_spoils_nothing(whole, run):
    """After room is made, training goes on to the same numbers."""

    def train_on(size):
        with limited_files(size):
            train(run, 4, newest(run))

    before = sorted((run / "state").iterdir())
    with pytest.raises(OSError, match="File too large") as raised:
        train_on(1000)
    assert raised.value.filename == str(run / "state" / "epoch-4.npz")
    assert sorted((run / "state").iterdir()) == before
    same(train(run, 4, newest(run))[0], train(run.with_name("other"), 4)[0])


def test_best_weights_on_a_full_disk(tmp_path):
    best = BestScorer(make(), tmp_path / "best.keras", dict)
    best.on_epoch_end(0, {"val_rsum": 1.0})
    before = best.path.read_bytes()

    def save():
        with limited_files(1000):
            best.on_epoch_end(1, {"val_rsum": 2.0})

    with pytest.raises(OSError, match="File too large") as raised:
        save()
    assert raised.value.filename == str(best.path)
    assert best.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "best.keras.sha256"]


def test_tensorboards_logs_on_a_full_disk(tmp_path):
    def write():
        board = TensorBoard(tmp_path / "logs", write_graph=False)
        board.set_model(make())
        with limited_files(2000):
            for epoch in range(100):
                board.on_epoch_end(epoch, {"loss": 1.0})

    with pytest.raises(UserError, match=r"logs: TensorBoard's logs can't be written \(.*\); make room and go on"):
        write()
