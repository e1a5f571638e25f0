"""Files written whole or not at all."""

import json
import os
import stat

import pytest
from disk_fixtures import dead_process, limited_files

from bssan_tf.errors import UserError
from bssan_tf.tools.files import (
    clear_leftovers,
    file_sha256,
    locked,
    replacing,
    write_bytes,
    write_json,
    write_text,
)


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_what_is_written_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "été\n")
    assert path.read_bytes() == b"\xc3\xa9t\xc3\xa9\n"
    write_bytes(str(path), b"\r\n")
    assert path.read_bytes() == b"\r\n"
    write_json(path, {"é": [1, None]}, durable=True)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"é": [1, None]}
    assert text.startswith('{\n  "é"')
    assert text.endswith("}\n")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def write():
        with replacing(path) as part:
            part.write_bytes(b"half")
            assert part.parent == tmp_path
            assert part.name.startswith(".a.npz.")
            assert part.suffix == ".part"
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.npz"]


def test_the_disk_is_asked_before_and_after_the_replacement(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source, target):
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_text(tmp_path / "a", "x")
    assert events == ["replace"]
    write_text(tmp_path / "a", "y", durable=True)
    assert events == ["replace", "file", "replace", "folder"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "a", "x")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_is_never_a_link(tmp_path):
    target, link = tmp_path / "mine", tmp_path / "lock"
    target.write_text("mine")
    for there in (target, tmp_path / "absent"):
        link.symlink_to(there)
        with pytest.raises(UserError, match="lock: is a symbolic link, and will not be written through"), locked(link):
            pass
        link.unlink()
    assert target.read_text() == "mine"
    assert not (tmp_path / "absent").exists()


def test_leftovers_of_dead_processes_are_removed_and_of_no_other(tmp_path):
    dead, alive = dead_process(), os.getppid()
    for name in (f".a.csv.{dead}.part", f".a.csv.{alive}.part", f".b[1].{dead}.part", "mine.part", f".a.{dead}.old"):
        (tmp_path / name).write_text("")
    (tmp_path / f".folder.{dead}.part").mkdir()
    clear_leftovers(tmp_path, "b[1]")
    assert f".b[1].{dead}.part" not in names(tmp_path)
    assert len(names(tmp_path)) == 5
    clear_leftovers(tmp_path)
    assert sorted(names(tmp_path)) == sorted([f".a.csv.{alive}.part", "mine.part", f".a.{dead}.old"])
    clear_leftovers(tmp_path / "absent")


def test_a_full_disk_names_the_file(tmp_path):
    def write():
        with limited_files(100):
            write_text(tmp_path / "a", "x" * 1000)

    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="File too large") as raised:
        write()
    assert raised.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]
