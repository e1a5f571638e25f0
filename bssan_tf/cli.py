"""What the commands share: logging, errors as one line with exit code 2, and flags that several have."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bssan_tf.config.flags import add_flags, moving_fields
from bssan_tf.config.settings import MEMORY_MB, MOST, OF_TRAINING, flag_of
from bssan_tf.errors import NO_WINDOWS, UserError
from bssan_tf.tools.streams import stderr_held

logger = logging.getLogger(__name__)

MOST_FILE_NAME = 200  # bytes; part files and notes beside a file have longer names
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(main: Callable[[list[str] | None], int | None]) -> None:
    """Call a script's main function and exit with its code; 2 for bad usage or data, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else it reports absent CUDA libraries as errors
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")  # seconds; a log file wants a line now and then
    for name in ("tensorflow", "absl", "faiss"):  # notices of tracing, export and loading are not for users
        logging.getLogger(name).setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show, as λ on an ASCII one, is shown by its number
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if os.name == "nt":
            raise UserError(NO_WINDOWS)
        for name, right in (("KERAS_BACKEND", "tensorflow"), ("TF_USE_LEGACY_KERAS", "0")):
            if (given := os.environ.get(name, right)) not in (right, ""):
                raise UserError(f"{name}={given}: the networks are of Keras on TensorFlow; unset it")
        sys.exit(main(None) or 0)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        problem = str(error)
    except OSError as error:  # a full disk, a folder that may not be written
        problem = f"{error.filename or 'file'}: {error.strerror or error}"
        if error.errno in FULL:
            problem += "; what was finished is kept: make room and go on (a training by --resume)"
    except Exception as error:
        if (problem := shortage(error)) is None:
            raise
    print(f"error: {' '.join(problem.splitlines())}", file=sys.stderr)
    sys.exit(2)


def load_tensorflow() -> None:
    """Import TensorFlow, before the modules that need it.

    TensorFlow 2.20 and newer say on standard error what they lack before they ask for a log level; it isn't for users.
    """
    try:
        with stderr_held() as said:
            import tensorflow  # noqa: F401
    except BaseException:
        if said.text:  # the reason
            os.write(2, said.text)
        raise


def shortage(error: Exception) -> str | None:
    """One line for an error that says that memory or the disk is used up, of NumPy's or TensorFlow's; else None."""
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)  # not imported for this
    text = (str(error).splitlines() or [""])[0][:300]
    if errors is not None and isinstance(error, errors.OpError):
        if any(os.strerror(code) in str(error) for code in FULL):
            return f"{text}; make room, and start again"
        if not isinstance(error, errors.ResourceExhaustedError):
            return None
    elif not isinstance(error, MemoryError):
        return None
    return f"not enough memory ({text}); take smaller sizes, such as --batch-size or --memory"


def command(name: str) -> str:
    """How the user calls a command: as a script, or as a command of the package."""
    return f"bssan {name}" if sys.argv[0].startswith("bssan ") else f"python {name}.py"


def to_type(name: str) -> str:
    """What the user types for a command: as `command`, but `bssan` only where it is installed."""
    called = command(name)
    return called if not called.startswith("bssan ") or shutil.which("bssan") else f"python -m bssan_tf {name}"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, as all others are."""

    def parse_known_args(self, args=None, namespace=None):
        for argument in sys.argv[1:] if args is None else args:
            if any("\ud800" <= character <= "\udfff" for character in argument):
                encoding = sys.getfilesystemencoding()
                self.error(f"{argument!a}: is not text in {encoding}; rename the file, or set LC_ALL=C.UTF-8")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def require_given(flag: str, value: object) -> None:
    """UserError where a flag's value is empty, as that of a variable that is not set."""
    if value == "":
        raise UserError(f"{flag}: its value is empty; give one, or leave the flag out")


def writable(path: str, *endings: str, make_folder: bool = False) -> Path:
    """A file to be written, for argparse: no folder is there, its own folder is, or can be made, and it ends right."""
    out = Path(path)
    if not out.name or len(os.fsencode(out.name)) > MOST_FILE_NAME:
        raise argparse.ArgumentTypeError(f"{path[:20]!r}: must have a name of 1 to {MOST_FILE_NAME} bytes")
    folder = next(there for there in out.absolute().parents if there.exists()) if make_folder else out.parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {folder}; make it first")
    if out.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: is a folder; name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{path}: nothing may be written in {folder}; name a file elsewhere")
    if endings and out.suffix.lower() not in endings:
        raise argparse.ArgumentTypeError(f"{path}: must end with {' or '.join(endings)}")
    return out


def scores_file(path: str) -> Path:
    """A file that `--out` makes, perhaps with its folder, for argparse."""
    return writable(path, make_folder=True)


def png(path: str) -> Path:
    """A picture to be written, for argparse."""
    return writable(path, ".png")


def png_or_page(path: str) -> Path:
    """A picture or an HTML page to be written, for argparse."""
    return writable(path, ".png", ".html")


def count(text: str, least: int = 1) -> int:
    """A whole number from `least` on, for argparse."""
    if not text.isdecimal() or len(text) > 10 or not least <= int(text) < MOST:
        raise argparse.ArgumentTypeError(f"{text:.40}: must be a whole number, {least} or more and below 2^32")
    return int(text)


def probability(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text:.40}: must be a number from 0 to 1")
    return value


def add_split_flag(parser: argparse.ArgumentParser) -> None:
    """--split of the commands that use a run."""
    parser.add_argument("--split", choices=("train", "val", "dev", "test"), help="split of the data (default: test)")


def add_use_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that scores with a run: memory, progress, and files that have moved."""
    parser.add_argument(
        "--memory",
        type=count,
        default=MEMORY_MB,
        metavar="MB",
        help=f"memory that scoring may take (default: {MEMORY_MB})",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")
    add_moved_flags(parser, *(name for name in moving_fields() if name not in OF_TRAINING))


def add_moved_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Flags that say where files of a run lie now, None unless given."""
    group = parser.add_argument_group(
        "files that have moved since training or are of other photos, and how they are read"
    )
    add_flags(group, (told for name, told in moving_fields().items() if name in names), defaults=False)


def moved_files(options: argparse.Namespace) -> dict[str, str]:
    """Those of the flags of `add_moved_flags` that were given, by field of DataConfig."""
    given = {name: value for name in moving_fields() if (value := getattr(options, name, None)) is not None}
    for name in given:
        require_given(flag_of(name), given[name])
    return given
