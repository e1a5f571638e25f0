"""The run folder: config, vocabulary, weights, and how each came to be; all that later commands need.

runs/NAME/config.json  data.json  vocabulary.txt  command.txt  versions.json  best.keras  best.keras.sha256
          metrics.json  history.csv  early_signs.csv  state/ (for --resume)  logs/ (TensorBoard)
          export/1/ (SavedModel)  reproduction.txt (of trainings by reproduce.py)  lock
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zipfile import BadZipFile

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DATASETS, DataConfig, fields_of, flag_of
from bssan_tf.errors import UserError
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.reading.documents import read_json
from bssan_tf.reading.files import refusing
from bssan_tf.runs.weights import PART, require_listed, require_weights
from bssan_tf.tools.files import PATTERNS, clear_leftovers, file_sha256, locked, write_json, write_text

logger = logging.getLogger(__name__)

RUNS = Path("runs")
REPRODUCTION = "BSSAN_TF_REPRODUCTION"  # environment of a training by reproduce.py: what it trains for
_PACKAGES = ("tensorflow", "keras", "tensorflow-addons", "numpy", "pillow", "matplotlib", "h5py")  # for versions.json

PRETRAINED = "pretrained"  # names the packed run that comes with the package
PACKAGED = Path(__file__).parents[1] / PRETRAINED
PACKED_WEIGHTS = "weights.npz"  # of a packed run, see packed.py
ANY = "any"  # in data.json: what has this value is not compared
NOTED_LATER = ("labels",)  # in data.json; runs of an older version lack them
VOCABULARY = "vocabulary_sha256"  # in data.json, beside what `Data.fingerprint` says
DECIDED_BY_DATA = ("D", "M", "P", "Q", "E_glove")  # settings that a run's data fill in
WORDS_WITHOUT_GLOVE = 300  # learned dimensions of a word where a preset that has none gets no GloVe file
MOST_NAME = 200  # bytes of a name; files beside it have some more
MOST_NAMED = 8  # runs, where one is not found


class RunFolder:
    """Paths of a run; its folder need not be there yet."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        self.config_file, self.data_file = path / "config.json", path / "data.json"
        self.vocabulary_file, self.command_file = path / "vocabulary.txt", path / "command.txt"
        self.history_file, self.early_signs_file = path / "history.csv", path / "early_signs.csv"
        self.packed_weights = path / PACKED_WEIGHTS
        self.best, self.metrics_file = path / "best.keras", path / "metrics.json"
        self.reproduction_file = path / "reproduction.txt"
        self.state, self.logs, self.export = path / "state", path / "logs", path / "export" / "1"

    def require_new(self) -> None:
        """UserError if the folder holds a run already, or other files, or can't be made."""
        if self.config_file.exists():
            raise UserError(f"{self.path}: holds a run already; choose another --name, or --resume {self.path}")
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise UserError(f"{self.path}: is no run, but not empty either; choose another --name, or remove it")
        there = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{self.path}: no folder can be made in {there}; mend that, or start elsewhere")

    def create(
        self,
        config: Config,
        arguments: list[str],
        data: dict,
        save_vocabulary: Callable[[Path], None],
        imported_rows: str = "",
    ) -> None:
        """Make the folder with config, vocabulary, data, command line and versions, all at once or not at all.

        `data` is a `Data.fingerprint`; `save_vocabulary` writes the file that it is given; `imported_rows` are those of
        `Data`. UserError as `require_new`.
        """
        self.require_new()
        clear_leftovers(self.path.parent, self.name)
        part = RunFolder(self.path.with_name(f".{self.name}.{os.getpid()}.part"))
        part.path.mkdir(parents=True, exist_ok=True)
        try:
            save_vocabulary(part.vocabulary_file)
            write_json(part.data_file, {**data, VOCABULARY: file_sha256(part.vocabulary_file)})
            if imported_rows:
                write_text(part.path / "imported_rows.csv", imported_rows)
            write_text(part.command_file, shlex.join(arguments) + "\n")
            write_json(part.path / "versions.json", versions())
            if trained_for := os.environ.get(REPRODUCTION):
                write_text(part.reproduction_file, f"{trained_for}\n")
            write_text(part.config_file, config.to_json() + "\n")
            part.path.rename(self.path)  # replaces an empty folder only
        except OSError:
            self.require_new()  # tells it if another process was faster
            raise
        finally:
            shutil.rmtree(part.path, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the run; UserError if one does. What killed ones have left is removed."""
        with locked(self.path / "lock", f"{self.path}: is being trained by another process; wait for it or stop it"):
            for folder in (self.path, self.state):
                clear_leftovers(folder)
            (self.path / f"{PART}{self.best.name}").unlink(missing_ok=True)
            yield

    def trained_data(self) -> dict:
        """What `Data.fingerprint` said of the data when the run was begun; UserError if it cannot be read."""
        return read_json(self.data_file, "put it back, or train the run anew")

    def require_same_data(self, data: dict) -> None:
        """UserError if `data`, all or a part of what `Data.fingerprint` says now, differ from the run's."""
        trained = self.trained_data()
        for key, now in data.items():
            if key not in trained and key not in NOTED_LATER:
                raise UserError(f"{self.data_file}: has no {key}; put it back, or train the run anew")
            if (then := trained.get(key, now)) not in (ANY, now):
                changed = f"the data have changed since training: {key} is {now}, was {then}"
                raise UserError(f"{self.path}: {changed}; give those that it was trained with")

    def note_resume(self, config: Config, arguments: list[str]) -> None:
        """Add the command to command.txt, and save the config with its new limits."""
        commands = self.command_file.read_text(encoding="utf-8") + shlex.join(arguments) + "\n"
        write_text(self.command_file, commands)
        write_text(self.config_file, config.to_json() + "\n")

    def load_config(self) -> Config:
        """The run's config; UserError if this is no run folder."""
        if not self.path.is_dir():
            there = sorted(path.parent.name for path in RUNS.glob("[!.]*/config.json"))
            has = f"; {RUNS}/ has {', '.join(there[:MOST_NAMED])}" + (", ..." if len(there) > MOST_NAMED else "")
            remedy = "`python train.py` makes one, or name another"
            raise UserError(f"{self.path}: no such run; {remedy}{has if there else ''}")
        return Config.load(self.config_file)

    def require_settings(self, config: Config, remedy: str) -> None:
        """UserError that names the first setting in which the run differs from `config`, from which it may be begun.

        Where files lie does not count, but whether there is one, and GloVe's name. Sizes that data decide do not count;
        whether the data are the same is told by `require_same_data`.
        """
        kept = self.load_config()
        for name in fields_of():
            wanted, found = _compared(config, name), _compared(kept, name)
            if (name, wanted) != ("split", "auto") and wanted != found:
                changed = f"was {kept[name]}, is {config[name]}"
                flag = "help" in fields_of()[name].metadata  # else it is told by the version alone
                differs = f"of other flags, {flag_of(name)}" if flag else f"of an older version, {name}"
                raise UserError(f"{self.path}: is a run {differs} {changed}; {remedy}")

    def load_tokenizer(self, config: Config):
        """The run's Tokenizer; UserError if its file has changed since training, or cannot be read."""
        from bssan_tf.datasets.text import Tokenizer

        data, noted = config.data, self.trained_data()
        tokenizer = Tokenizer.load(self.vocabulary_file, data.caption_length, data.word_rule)
        if VOCABULARY not in noted:
            logger.info("%s: of an older version, which noted no checksum of its vocabulary", self.path)
        elif noted[VOCABULARY] != file_sha256(self.vocabulary_file):
            changed = "has changed since training"
            raise UserError(f"{self.vocabulary_file}: {changed}; put back the file of then, or train the run anew")
        return tokenizer

    def require_best(self) -> None:
        """UserError if the best weights are not those of the training; that older runs cannot tell is said."""
        if not self.best.exists():
            raise UserError(f"{self.best}: is gone; put it back, or train the run anew")
        if not require_weights(self.best):
            logger.info("%s: of an older version, which noted no checksum of it", self.best)

    def calibration(self) -> Calibration | None:
        """What makes probabilities of the run's scores; None in a run without, as one that is not finished."""
        if not self.metrics_file.exists():
            return None
        remedy = "put it back, or go on with the training by --resume"
        found = read_json(self.metrics_file, remedy).get("calibration")
        with refusing(f"{self.metrics_file}: calibration", "is damaged", remedy):
            return found and Calibration(**{name: float(value) for name, value in found.items()})

    def load_model(self):
        """The best (Bssan, Tokenizer) of the run; UserError if it has no finished epoch, or a damaged file."""
        from bssan_tf.models.bssan import Bssan
        from bssan_tf.tools.stack import trace_needed_kernels

        config, packed = self.load_config(), self.packed_weights.exists()
        if not (packed or self.best.exists()):
            raise UserError(f"{self.path}: has no best.keras yet; train at least one epoch (--resume {self.path})")
        if not packed:
            self.require_best()
        tokenizer = self.load_tokenizer(config)
        trace_needed_kernels()
        model = Bssan(config.model, len(tokenizer.words))
        if packed:
            from bssan_tf.runs.packed import unpack

            unpack(self.packed_weights, model.scorer)
        else:
            self.load_best(model.scorer)
        return model, tokenizer

    def load_best(self, scorer) -> None:
        """Read the best weights into a scorer; UserError if the file is damaged or of another network."""
        from bssan_tf.reading.hdf5 import check_keras
        from bssan_tf.tools.stack import weights_of

        check_keras(self.best, "train the run anew")
        try:
            scorer.load_weights(self.best)
        except (ValueError, OSError, KeyError, BadZipFile) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.best}: does not fit the run's config.json ({reason}); train the run anew") from None
        require_listed(self.best, weights_of(scorer))


def _compared(config: Config, name: str):
    """What two configs must have alike in a setting."""
    value, told = config[name], fields_of()[name].metadata
    if name in DECIDED_BY_DATA or name in ("root", "cache") or "once" in told:
        return None
    if name == "E_trained" and not (value or config.data.glove):
        return WORDS_WITHOUT_GLOVE
    if name == "data" and value not in DATASETS:
        return Path(value).resolve()
    if name == "glove":
        return value and Path(value).name
    return bool(value) if "moves" in told else value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # TensorFlow Addons, where Python is newer
            found[package] = version(package)
    return found


def find_run(name: str | None, pretrained: bool = False, photos: bool = False) -> RunFolder:
    """The run of a folder or of a name in runs/; without a name that of the newest best model. UserError if none.

    The latest run is one of reproduce.py, a row of a table that may have learned nothing, only where all are. The run
    of the package can be named, and where `pretrained`, it is taken where there is no other. For the user's own
    `photos`, none of drawn scenes is.
    """
    packaged = RunFolder(PACKAGED)
    if name == PRETRAINED and not (RUNS / name).exists():
        if not packaged.config_file.exists():
            raise UserError(f"{packaged.path}: this version brings no trained run; `python train.py` makes one")
        return packaged
    if name is None:
        found = [RunFolder(path.parent) for path in RUNS.glob("*/best.keras")]
        found = [run for run in found if not (photos and _of_scenes(run))]
        if not found and pretrained and packaged.config_file.exists():
            what = f"run of photos in {RUNS}" if photos else f"run in {RUNS}"
            logger.info("no %s/, so the pretrained one is taken: %s", what, packaged.path / "CARD.md")
            return packaged
        if not found:
            raise UserError(f"{RUNS}/: no trained run there; `python train.py` makes one, or name a run")
        latest = max(found, key=lambda run: (not run.reproduction_file.exists(), run.best.stat().st_mtime))
        told = "; all runs there are of reproduce.py" if latest.reproduction_file.exists() else ""
        if pretrained and _of_scenes(latest):
            told += f"; it knows drawn scenes alone, for photos there is --run {PRETRAINED}"
        logger.info("the latest run: %s%s", latest.path, told)
        return latest
    if not name:
        raise UserError("run: the given name is empty; name a run, or leave it out for the latest")
    given, named = Path(name), RUNS / name
    run = RunFolder(named if not given.exists() and named.is_dir() else given)
    run.load_config()  # before TensorFlow loads: a wrong name is told at once
    return run


def _of_scenes(run: RunFolder) -> bool:
    """Whether a run knows drawn scenes alone, as far as it can be read."""
    with contextlib.suppress(UserError):
        return run.load_config().data.data == DataConfig.data
    return False


def free_name(stem: str) -> str:
    """`stem` as a name, or `stem-2`, `stem-3`, ... if that is taken in runs/."""
    stem = PATTERNS.sub("_", stem)
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    return next(name for name in names if not (RUNS / name).exists())


def command_line() -> list[str]:
    """The command that is running, so that it can be given again."""
    program, *flags = sys.argv
    of_package = program.startswith("bssan ")  # see bssan_tf/__main__.py
    return ["python", *(["-m", "bssan_tf", program[len("bssan ") :]] if of_package else [program]), *flags]
