"""What the three scripts share: logging, and turning a UserError into one line and exit code 2."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def run(main: Callable[[list[str] | None], int | None]) -> None:
    """Call a script's main function and exit with its code; 2 for bad usage or data, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else it reports absent CUDA libraries as errors
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # seconds; a log file wants a line now and then
    for name in ("tensorflow", "absl"):  # their export and tracing notices are not for users
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from bssan_tf.errors import UserError

    try:
        sys.exit(main(None) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, as all others are."""

    def error(self, message: str) -> None:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def run_folder(path: str | None):
    """The run that a user names by its folder or by its name in runs/; without a name, the latest,
    which is then named.

    Raises:
        UserError: no such run.
    """
    from bssan_tf.runs.folder import RUNS, RunFolder, latest_run

    if path is None:
        run = latest_run()
        logger.info("the latest run: %s", run.path)
        return run
    given, named = Path(path), RUNS / path
    run = RunFolder(named if not given.exists() and named.is_dir() else given)
    run.load_config()  # before TensorFlow loads: a wrong name is told at once
    return run


def writable(path: str, suffix: str = "") -> Path:
    """A file to be written, for argparse: its folder exists, and it ends as it must."""
    out = Path(path)
    if not out.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {out.parent}; make it first")
    if suffix and out.suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{path}: must end with {suffix}")
    return out


def png(path: str) -> Path:
    """A picture to be written, for argparse."""
    return writable(path, ".png")


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number above 0")
    return int(text)


def count_or_none(text: str) -> int:
    """A whole number from 0 on, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 0 or more")
    return int(text)


def add_data_flags(parser: argparse.ArgumentParser, moved_only: bool = False) -> None:
    """Flags of DataConfig, None unless given: which pictures and captions, and how they become arrays.

    Args:
        moved_only: only those that say where things lie, for a run whose data have moved.
    """
    group = parser.add_argument_group("data" + (" (only where they have moved since training)" if moved_only else ""))
    group.add_argument("--root", help="where the data set lies ($BSSAN_DATA/NAME, then data/NAME)")
    group.add_argument("--cache", help="where features are kept (cache)")
    group.add_argument("--backbone-weights", metavar="FILE", help="local .h5 or .npz instead of Keras' download")
    group.add_argument("--boxes", metavar="FILE", help=".npz with the boxes of any detector; see the README")
    group.add_argument("--detector-weights", metavar="FILE", help="Faster R-CNN's: .npz, .h5, TensorFlow 1 checkpoint")
    group.add_argument("--import-regions", metavar="FILE", help="your own regions, .npy (N, D, M)")
    group.add_argument("--import-objects", metavar="FILE", help="your own objects, .npy (N, P, Q)")
    group.add_argument("--import-ids", metavar="FILE", help="picture of each imported row, one id a line")
    if moved_only:
        return
    group.add_argument("--data", help="scenes, flickr8k, flickr30k, coco, or the path of a folder of pictures (scenes)")
    group.add_argument("--split", choices=("official", "karpathy"), help="whose split lists (official)")
    group.add_argument("--allow-partial", action="store_true", default=None, help="accept a subset of a data set")
    group.add_argument("--backbone", choices=("vgg19", "vgg16", "slim"), help="regions (slim for scenes, else vgg19)")
    group.add_argument(
        "--objects",
        choices=("faster_rcnn", "boxes", "grid"),
        help="fc7 of Faster R-CNN's detections, boxes of --boxes, or ten fixed ones",
    )
    group.add_argument(
        "--object-context",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="class and whole photo beside each object, for O2W",
    )
    group.add_argument("--skip-bad-images", action="store_true", default=None, help="leave out unreadable pictures")
    group.add_argument("--glove", metavar="FILE", help="pre-trained word vectors, GloVe's text format")


DATA_FLAGS = (
    "root",
    "cache",
    "backbone_weights",
    "boxes",
    "detector_weights",
    "import_regions",
    "import_objects",
    "import_ids",
    "glove",  # before the first epoch only, so that no script but train.py has it
)


def given_data_flags(options: argparse.Namespace) -> dict[str, str]:
    """Those of `DATA_FLAGS` that were given, by DataConfig field."""
    return {name: value for name in DATA_FLAGS if (value := getattr(options, name, None)) is not None}
