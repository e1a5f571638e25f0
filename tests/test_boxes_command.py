"""`python -m bssan_tf.features.boxes`: a file of boxes for any run, that is never lost, and grows with its folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from feature_fixtures import spoil, write_pictures

from bssan_tf.errors import UserError
from bssan_tf.features import boxes as command
from bssan_tf.features import detectors
from bssan_tf.features.faster_rcnn.detector import PACKAGED, Detector
from bssan_tf.features.faster_rcnn.photos import draw_scenes
from bssan_tf.features.objects import BoxesFile, top_objects
from bssan_tf.features.pictures import read_picture


class Fake:
    """A detector that finds one box a photo, as large as the photo's first pixel says; `seen` counts its photos."""

    name, labels, count, Q = "fake 1", None, 2, None

    def __init__(self, stop_after=None):
        self.seen, self.stop_after = 0, stop_after

    def inputs(self, photo):
        return {"edge": float(photo[0, 0, 0]) + 1.5}

    def run(self, inputs):
        if self.seen == self.stop_after:
            raise KeyboardInterrupt
        self.seen += 1
        return inputs

    def rows(self, found):
        edge = found["edge"]
        return np.array([[0, 0, 9, 9, 0, 1], [0, 0, edge, edge, 0.3, 1], [5, 5, 5, 9, 0.9, 0]], np.float32)


def expected(path):
    edge = float(read_picture(path, side=None)[0][0, 0, 0]) + 1.5
    return np.array([[0, 0, edge, edge, 0.3, 1]], np.float32)


@pytest.fixture
def photos(tmp_path):
    """Four photos, two of one name, in folders within."""
    folder = tmp_path / "photos"
    write_pictures(folder, 2)
    write_pictures(folder / "more" / "deep", 1, seed=1)
    write_pictures(folder / "z", 1, seed=2)
    write_pictures(folder / ".thumbnails", 1)
    (folder / "notes.txt").write_text("no picture")
    return folder


NAMES = ["photo000.jpg", "photo001.jpg", "more/deep/photo000.jpg", "z/photo000.jpg"]


def run(monkeypatch, photos, detector, *flags):
    monkeypatch.setattr(detectors, "open_detector", lambda what, flag: detector)
    out = photos.parent / "boxes.npz"
    command.main([str(photos), "--out", str(out), "--detector", "fake.npz", "--quiet", *flags])
    return BoxesFile(out)


def check(file, photos, names=NAMES):
    """The file has the best real boxes of these photos, and only these photos."""
    assert sorted(file.row_of_name) == sorted(names)
    assert file.boxes.dtype == np.float32
    for name in names:
        rows = file.boxes[file.row_of_name[name]]
        np.testing.assert_array_equal(rows[rows[:, 4] > 0], expected(photos / name), err_msg=name)


def test_photos_of_all_folders_are_named_by_their_path(photos, monkeypatch, capsys):
    file = run(monkeypatch, photos, detector := Fake())
    assert capsys.readouterr().out == f"{photos.parent / 'boxes.npz'}\n"
    check(file, photos)
    assert file.labels is None
    assert file.boxes.shape == (4, 10, 6)
    assert detector.seen == 4
    paths = [photos / name for name in NAMES]
    assert len(set(file.rows(NAMES, paths).tolist())) == 4  # each image of a corpus finds its own
    assert sorted(path.name for path in photos.parent.iterdir()) == ["boxes.npz", "photos"]


def test_a_stopped_call_goes_on(photos, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, photos, Fake(stop_after=3))
    assert not (photos.parent / "boxes.npz").exists()
    progress = photos.parent / "boxes.npz.progress"
    progress.write_bytes(progress.read_bytes()[:-7])  # as a power cut may leave it
    file = run(monkeypatch, photos, detector := Fake())
    check(file, photos)
    assert detector.seen == 2
    assert not progress.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from bssan_tf.features.boxes import Found, Progress
with Progress(Path(sys.argv[1]), "fake 1", 10, Path(sys.argv[2])) as progress:
    for name in ("photo000.jpg", "z/photo000.jpg"):
        found = os.stat(Path(sys.argv[2]) / name)
        rows = np.array([[0, 0, 3.3, 3.3, 0.1, 1]], np.float32)
        progress.note(name, Found((found.st_size, found.st_mtime_ns), rows))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_nothing_that_is_done(photos, monkeypatch, project):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(photos.parent / "boxes.npz"), str(photos)], cwd=project, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    file = run(monkeypatch, photos, detector := Fake())
    assert detector.seen == 2
    noted = file.boxes[file.row_of_name["z/photo000.jpg"], 0]
    np.testing.assert_array_equal(noted, np.array([0, 0, 3.3, 3.3, 0.1, 1], np.float32))  # to the bit
    np.testing.assert_array_equal(file.boxes[file.row_of_name["photo001.jpg"], :1], expected(photos / "photo001.jpg"))


def test_a_folder_that_has_changed(photos, monkeypatch, caplog):
    run(monkeypatch, photos, Fake())
    write_pictures(photos / "new", 1, seed=3)
    write_pictures(photos / "z", 1, seed=4)
    os.utime(photos / "z" / "photo000.jpg", ns=(1, 1))
    shutil.rmtree(photos / "more")
    file = run(monkeypatch, photos, detector := Fake())
    assert detector.seen == 2
    check(file, photos, ["photo000.jpg", "photo001.jpg", "new/photo000.jpg", "z/photo000.jpg"])
    run(monkeypatch, photos, detector := Fake())
    assert detector.seen == 0
    spoil(photos / "photo001.jpg")  # has no boxes any more, not those of what it was
    file = run(monkeypatch, photos, Fake())
    assert not file.boxes[file.row_of_name["photo001.jpg"]].any()
    assert "1 of 4 pictures can't be read, and have no boxes: " in caplog.text
    assert "photo001.jpg: can't be read as a picture" in caplog.text
    write_pictures(photos, 2)
    check(run(monkeypatch, photos, detector := Fake()), photos, [*file.row_of_name])
    assert detector.seen == 2


def test_what_is_there_already_is_not_lost(photos, monkeypatch):
    out = photos.parent / "boxes.npz"
    np.savez(out, names=np.array(["a"]), boxes=np.zeros((1, 10, 6), np.float32))
    kept = out.read_bytes()
    with pytest.raises(UserError, match=r"--out .*boxes\.npz: is there already, and not of this detector; remove it"):
        run(monkeypatch, photos, Fake())
    assert out.read_bytes() == kept
    assert not (photos.parent / "boxes.npz.progress").exists()
    out.unlink()
    run(monkeypatch, photos, Fake())
    with pytest.raises(UserError, match=r"not a file of this command .*its boxes are \(4, 10, 6\), and --count is 3"):
        run(monkeypatch, photos, Fake(), "--count", "3")
    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, photos, Fake(stop_after=1))
    with pytest.raises(
        UserError, match=r"boxes\.npz\.progress: was begun with another folder, detector or --count; give"
    ):
        run(monkeypatch, photos, Fake(), "--count", "3")
    with (
        command.Progress(out, "fake 1", 10, photos),
        pytest.raises(UserError, match=r"boxes\.npz: another process writes it; wait"),
    ):
        run(monkeypatch, photos, Fake())
    check(run(monkeypatch, photos, Fake()), photos)


def test_boxes_of_another_folder_are_not_lost(photos, monkeypatch):
    other, out = photos.parent / "other", photos.parent / "boxes.npz"
    write_pictures(other, 2, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, photos, Fake(stop_after=2))
    progress = photos.parent / "boxes.npz.progress"
    kept = progress.read_bytes()
    with pytest.raises(
        UserError, match=r"boxes\.npz\.progress: was begun with another folder, detector or --count; give"
    ):
        run(monkeypatch, other, Fake())
    assert progress.read_bytes() == kept
    run(monkeypatch, photos, Fake())
    kept = out.read_bytes()
    with pytest.raises(
        UserError, match=r"--out .*: is there already, and of the photos of .*/photos; remove it, or name"
    ):
        run(monkeypatch, other, Fake())
    assert out.read_bytes() == kept
    assert not progress.exists()
    (photos.parent / "link").symlink_to(photos)
    check(run(monkeypatch, photos.parent / "link", detector := Fake()), photos)
    assert detector.seen == 0


def test_a_file_that_does_not_tell_its_folder(photos, monkeypatch):
    run(monkeypatch, photos, Fake())
    out = photos.parent / "boxes.npz"
    with np.load(out) as file:
        np.savez(out, **{name: file[name] for name in file.files if name != "folder"})
    kept, other = out.read_bytes(), photos.parent / "other"
    write_pictures(other, 3)
    told = r"does not tell its folder, and has 2 photos that are not in .*/other \(more/deep/photo000\.jpg\); remove"
    with pytest.raises(UserError, match=told):
        run(monkeypatch, other, Fake())
    assert out.read_bytes() == kept
    check(run(monkeypatch, photos, detector := Fake()), photos)
    assert detector.seen == 0
    with np.load(out) as file:
        assert str(file["folder"]) == os.path.realpath(photos)


def test_boxes_of_a_folder_that_can_not_be_read_now_are_kept(photos, monkeypatch, caplog):
    disk = photos.parent / "disk"
    (photos / "more").rename(disk)
    (photos / "more").symlink_to(disk)  # is followed
    (photos / "copy.jpg").symlink_to("photo000.jpg")  # counts once
    check(run(monkeypatch, photos, Fake()), photos)
    disk.rename(photos.parent / "unmounted")
    write_pictures(photos / "z", 1, seed=4)
    os.utime(photos / "z" / "photo000.jpg", ns=(1, 1))
    file = run(monkeypatch, photos, detector := Fake())
    assert f"1 folders can't be read, and are left out: {photos / 'more'}" in caplog.text
    (photos.parent / "unmounted").rename(disk)
    check(file, photos)
    assert detector.seen == 1


def test_names_of_the_classes(photos, monkeypatch, caplog):
    caplog.set_level("INFO")
    run(monkeypatch, photos, Fake())
    assert "--detector fake.npz: does not name its classes; --class-names FILE does" in caplog.text
    names = photos.parent / "names.txt"
    names.write_text("dog\nhot dog\n")
    assert run(monkeypatch, photos, Fake(), "--class-names", str(names)).labels == ("dog", "hot dog")
    names.write_text("dog\n")
    with pytest.raises(UserError, match=r"--class-names .*: has 1 names, the detector 2 classes"):
        run(monkeypatch, photos, Fake(), "--class-names", str(names))
    named = Fake()
    named.labels = ("dog", "cat")
    with pytest.raises(UserError, match=r"--class-names .*: the detector names its classes; leave it out"):
        run(monkeypatch, photos, named, "--class-names", str(names))
    assert run(monkeypatch, photos, named).labels == ("dog", "cat")


def test_a_folder_without_a_readable_photo(photos, tmp_path, monkeypatch):
    for name in NAMES:
        spoil(photos / name)
    with pytest.raises(UserError, match="none of 4 pictures can be read, the first: "):
        run(monkeypatch, photos, Fake())
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"empty: no pictures in it"):
        run(monkeypatch, empty, Fake())
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        run(monkeypatch, tmp_path / "nowhere", Fake())


@pytest.mark.large
def test_the_packages_own_detector(tmp_path):
    drawn = draw_scenes(tmp_path / "scenes", "test", 3)
    folder, out, detector = drawn.paths[0].parent, tmp_path / "boxes.npz", Detector()
    command.main([str(folder), "--out", str(out), "--detector", str(PACKAGED), "--quiet"])
    file = BoxesFile(out)
    assert file.labels == detector.labels
    assert sorted(file.row_of_name) == sorted(path.name for path in drawn.paths)
    for path in drawn.paths:
        photo, size = read_picture(path, side=None)
        wanted, rows = detector.objects(photo), file.boxes[file.row_of_name[path.name]]
        for name, value in top_objects(rows, size).items():
            np.testing.assert_allclose(value, wanted[name], atol=1e-6, err_msg=name)


def test_an_error_of_the_detector_is_none_of_the_pictures(photos, monkeypatch):
    detector = Fake()

    def inputs(photo):
        raise UserError("the preset can't be loaded")

    detector.inputs = inputs
    with pytest.raises(UserError, match=r"^the preset can't be loaded$"):
        run(monkeypatch, photos, detector)


def test_weights_that_are_not_there(photos):
    with pytest.raises(UserError, match=r"--detector no\.npz: no such file") as error:
        command.main([str(photos), "--out", str(photos.parent / "b.npz"), "--detector", "no.npz"])
    assert "\n" not in str(error.value)
