"""What a command line refuses at once, before TensorFlow loads: names, empty values, files that can't be written."""

import argparse
import errno

import pytest

from bssan_tf import cli
from bssan_tf.commands import evaluate, search, train
from bssan_tf.errors import UserError

NOT_NAMES = ["g[1]", "g]", "g*", "g?", "g\\1", "a\nb", "", " ", "a ", 245 * "n", 101 * "é", "..", "a/b"]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_that_a_run_may_not_have(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--name", name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --name: ")


@pytest.mark.parametrize("name", ["g1", "ä b", 200 * "n", "-x".strip("-")])
def test_names_that_a_run_may_have(name):
    assert train.run_name(name) == name


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (train.main, ["--resume", ""], "--resume: its value is empty"),
        (train.main, ["--root", ""], "--root: its value is empty"),
        (train.main, ["--shard", ""], "--shard : must be like 2/4"),
        (evaluate.main, [""], "run: the given name is empty"),
        (search.main, ["a dog", "--run", ""], "run: the given name is empty"),
    ],
)
def test_empty_values_are_refused(main, arguments, words):
    with pytest.raises(UserError, match=words):
        main(arguments)


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    assert cli.writable(str(tmp_path / "a.json")) == tmp_path / "a.json"
    assert cli.scores_file(str(tmp_path / "new" / "deep" / "a.npy")) == tmp_path / "new" / "deep" / "a.npy"
    for wrong, words in (
        (tmp_path / "folder", "is a folder; name a file"),
        ("", "must have a name of 1 to 200 bytes"),
        (tmp_path / (245 * "n"), "must have a name of 1 to 200 bytes"),
    ):
        for check in (cli.writable, cli.scores_file):
            with pytest.raises(argparse.ArgumentTypeError, match=words):
                check(str(wrong))
    monkeypatch.setattr("os.access", lambda *_: False)
    for path in (tmp_path / "a", tmp_path / "new" / "a"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"nothing may be written in .*; name a file elsewhere"):
            cli.scores_file(str(path))


@pytest.mark.parametrize("flag", ["--json", "--out"])
def test_a_folder_is_no_file_to_write(flag, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([flag, str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {flag}: {tmp_path}: is a folder; name a file" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_with_its_remedy(number, capsys):
    def main(_):
        raise OSError(number, "no room", "runs/one/state/epoch-2.npz")

    with pytest.raises(SystemExit, match="2"):
        cli.run(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: runs/one/state/epoch-2.npz: no room; what was finished is kept: make room and go on (a training by"
        " --resume)"
    )
