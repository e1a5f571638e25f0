"""Command lines and machines at their limits: one line and exit code 2, whatever is typed or missing."""

import argparse
import errno
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from bssan_tf import cli
from bssan_tf.commands import train
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn import __main__ as detector
from bssan_tf.tools.devices import make_strategy
from bssan_tf.tools.files import replacing


def ended(main, capsys) -> tuple[int, str]:
    """The exit code of a command's main function, and what it has printed to stderr."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_on_a_terminal_that_cannot_show_all_of_it(project, encoding):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    command = [sys.executable, str(project / "train.py"), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u03bb, weight of O2W" in done.stdout


def test_arguments_that_are_no_text(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.build_parser().parse_args(["--name", "caf\udce9"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: 'caf\\udce9': is not text in utf-8; rename the file")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "inf", "9" * 30, "4294967296", "9" * 5000, ""])
def test_counts_that_make_no_sense(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number, 1 or more and below 2\^32$"):
        cli.count(text)


@pytest.mark.parametrize("flag", ["--hidden 70000", "--steps " + "9" * 30, "--seed 4294967296", "--width inf"])
def test_settings_of_a_detector_that_make_no_sense(flag):
    with pytest.raises(UserError, match=rf"^{flag}: must be "):
        detector.main(["--train", "--scenes", "--out", "x", *flag.split()])


@pytest.mark.parametrize("devices", ["cpu:65", "cpu:1000000", "cpu:" + "9" * 30, "gpu:" + "9" * 30])
def test_more_devices_than_can_be(devices):
    with pytest.raises(UserError, match=rf"^--devices {devices}: "):
        make_strategy(devices)


FULL = os.strerror(errno.ENOSPC)


def raising(error):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), r"not enough memory \(\); take smaller sizes, such as --batch-size or --memory"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM: [9]\nmore"), r"not enough memory \(OOM: \[9\]\); take .*"),
        (tf.errors.ResourceExhaustedError(None, None, f"a/b.part; {FULL}"), f"a/b.part; {FULL}; make room, .*"),
        (OSError(errno.ENOSPC, FULL, "x.json"), rf"x\.json: {FULL}; what was finished is kept: .*"),
        (UserError("a\nb.jpg: no such file"), r"a b\.jpg: no such file"),
    ],
)
def test_memory_and_disk_that_are_used_up_are_one_line(error, line, capsys):
    code, text = ended(raising(error), capsys)
    assert code == 2
    assert re.fullmatch(f"error: {line}\n", text)


def test_other_errors_are_not_hidden():
    for error in (ValueError("bug"), tf.errors.InvalidArgumentError(None, None, "bug")):
        with pytest.raises(type(error)):
            cli.run(raising(error))


def test_a_full_disk_names_the_file(tmp_path):
    def write():
        with replacing(tmp_path / "a.json"):
            raise OSError(errno.ENOSPC, FULL)

    with pytest.raises(OSError, match=FULL) as error:
        write()
    assert error.value.filename == str(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
