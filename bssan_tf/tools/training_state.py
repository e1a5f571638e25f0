"""What a resumed training goes on from: one file an epoch, whole or refused, of which the last two are kept.

`epoch-N.npz` holds weights, optimizer and what the callbacks remember. TensorFlow's own checkpoints would not do: it
takes [, ], * and ? anywhere in their paths for patterns, and reads or removes the files of other folders.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import read_npz
from bssan_tf.reading.documents import parse_json
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import replacing
from bssan_tf.tools.keras_callbacks import read_history
from bssan_tf.tools.stack import training_variables

logger = logging.getLogger(__name__)

_FILE = re.compile(r"epoch-([1-9]\d{0,8})\.npz")
NONE_YET = "none-yet"  # a file beside the states, from the first step to the first state
CALLBACKS = "callbacks"  # the array with JSON in UTF-8; the others are those of `training_variables`
ANEW = "go on with that one, or train anew under another name"


class SavedState(NamedTuple):
    """The state after a number of epochs."""

    epoch: int
    arrays: dict[str, np.ndarray]
    callbacks: dict


def newest_state(folder: Path, history: Path, *results: Path) -> SavedState | None:
    """The newest whole state of a folder, None where there is none yet; that a newer one is damaged is said.

    Args:
        history: the CSV of the epochs, which tells that there was a state.
        results: files that a training writes, which tell it, too, unless `NONE_YET` says that a kill came before it.

    Raises:
        UserError: no state is whole, or all are gone; what a training from nothing would replace is kept.
    """
    files = _files(folder)
    damages = []
    for epoch in sorted(files, reverse=True):
        try:
            saved = _read(files[epoch], epoch)
        except UserError as error:
            damages.append(str(error))
            continue
        for damage in damages:
            logger.warning("%s; going on from %s, the last whole state", damage, files[epoch].name)
        return saved
    if damages:
        raise UserError(f"{damages[0]}; no state in {folder} is whole. {_kept(history)}")
    if folder.is_dir() and any(name.startswith("ckpt-") or name == "checkpoint" for name in os.listdir(folder)):
        raise UserError(f"{folder}: saved by another version of bssan_tf; {ANEW}")
    rows = len(read_history(history))
    if rows > 1 or ((rows or any(map(os.path.lexists, results))) and not (folder / NONE_YET).exists()):
        raise UserError(f"{folder}: has no state, though epochs were trained. {_kept(history)}")
    return None


def _kept(history: Path) -> str:
    return (
        f"Nothing in {history.parent} was touched: its best model can be used; to go on, train anew under another name"
    )


def _files(folder: Path) -> dict[int, Path]:
    names = os.listdir(folder) if folder.is_dir() else ()
    return {int(match[1]): folder / name for name in names if (match := _FILE.fullmatch(name))}


def _read(path: Path, epoch: int) -> SavedState:
    """UserError where a byte of it has changed: each array of the archive has a checksum."""
    remedy = "put it back"
    arrays = read_npz(path, remedy)
    with refusing(str(path), "not a whole state", remedy):
        told = parse_json(arrays.pop(CALLBACKS).tobytes().decode(), str(path), remedy)
        if (found := (told["epoch"], told["arrays"])) != (epoch, len(arrays)):
            raise ValueError(f"epoch and number of arrays are {found}, not {(epoch, len(arrays))}")
    return SavedState(epoch, arrays, told)


class TrainingState(tf.keras.callbacks.Callback):
    """Save after every epoch all that a resumed run needs: weights, optimizer, and what the callbacks remember.

    Keras' BackupAndRestore would forget the last, so also the best score so far.

    Args:
        folder: holds the states.
        remembered: {callback: names of its attributes to keep}.
        saved: the state to go on from.
        writes: else it only reads all variables, in which each of several workers must take part.

    Attributes:
        epoch: number of epochs behind the newest saved state.
        stopped: whether training had been stopped early, or by the time limit, when the state was saved.
    """

    def __init__(
        self,
        folder: Path,
        remembered: dict[tf.keras.callbacks.Callback, tuple[str, ...]],
        saved: SavedState | None = None,
        writes: bool = True,
    ):
        super().__init__()
        self.folder, self.remembered, self.saved, self.writes = folder, remembered, saved, writes
        self.epoch, self.stopped = saved.epoch if saved else 0, bool(saved and saved.callbacks.get("stopped"))

    def on_train_begin(self, logs=None):
        # behind the callbacks that it remembers: they have just forgotten everything, as Keras has it
        if not self.saved:
            if not self.epoch and self.writes:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / NONE_YET).touch()
            return
        self.restore_remembered()
        arrays, variables = self.saved.arrays, training_variables(self.model)
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise UserError(f"{self.folder}: saved by another version of bssan_tf; {ANEW}")
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self.saved = None  # its arrays are as large as the model and its optimizer

    def restore_remembered(self) -> None:
        """Give the callbacks back what they remembered when the state was saved."""
        for callback, names in self.remembered.items():
            own = self.saved.callbacks.get(type(callback).__name__)
            if not isinstance(own, dict) or not own.keys() >= set(names):
                raise UserError(f"{self.folder}: saved by another version of bssan_tf; {ANEW}")
            for name in names:
                setattr(callback, name, own[name])

    def on_epoch_end(self, epoch, logs=None):
        self.epoch, self.stopped = epoch + 1, self.model.stop_training
        arrays = {name: variable.numpy() for name, variable in training_variables(self.model).items()}
        if not self.writes:
            return
        told = {"epoch": self.epoch, "arrays": len(arrays), "stopped": self.stopped}
        for callback, names in self.remembered.items():
            told[type(callback).__name__] = {name: _plain(getattr(callback, name)) for name in names}
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays[CALLBACKS] = np.frombuffer(json.dumps(told).encode(), np.uint8)
        with replacing(self.folder / f"epoch-{self.epoch}.npz") as part, zipfile.ZipFile(part, "w") as archive:
            for name, array in arrays.items():  # np.savez would leave an archive open on a full disk
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        (self.folder / NONE_YET).unlink(missing_ok=True)
        for old, path in _files(self.folder).items():
            if old < epoch:
                path.unlink()


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value
