"""Files written whole or not at all."""

import json
import os
import stat

import pytest

from bssan_tf.tools.files import replacing, write_bytes, write_json, write_text


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
