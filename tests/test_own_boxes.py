"""Which photos a boxes file is for, a run's own or a given one: by their place, never another of the same name."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.runs import own_boxes as own_module
from bssan_tf.runs import photo as photo_module
from bssan_tf.runs.own_boxes import OwnFile
from bssan_tf.runs.photo import Photo, PhotoReader
from bssan_tf.tools.files import file_sha256

IDS = ("cats/1.jpg", "dogs/1.jpg", "2.jpg")


@pytest.fixture
def data(tmp_path):
    """A folder of three photos, and a boxes file that lists them in another order."""
    root, boxes = tmp_path / "pets", tmp_path / "boxes.npz"
    for name in IDS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "captions.csv").write_text("image,caption\n" + "".join(f"{name},a pet\n" for name in IDS))
    np.savez(boxes, names=np.array(IDS[::-1]), boxes=np.full((3, 1, 6), 5, np.float32))
    return DataConfig(data=str(root), cache=str(tmp_path), objects="boxes", boxes=str(boxes))


def run_of(data):
    """A run that was trained with the boxes file of now."""
    sha256 = data.boxes and file_sha256(data.boxes)
    return SimpleNamespace(trained_data=lambda: {"boxes": sha256})


@pytest.mark.parametrize("name", IDS)
def test_a_photo_of_the_corpus_has_its_row(data, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    own = OwnFile(run_of(data), data).of([tmp_path.relative_to(tmp_path) / "pets" / name])
    assert list(own.images.values()) == [(name, IDS[::-1].index(name))]


def test_photos_of_a_folder_have_their_rows(data, tmp_path):
    own = OwnFile(run_of(data), data).of([tmp_path / "pets" / name for name in IDS])
    assert [own.row(tmp_path / "pets" / name) for name in IDS] == [2, 1, 0]


@pytest.mark.parametrize("name", ["2.jpg", "1.jpg", "dogs/1.jpg", "new.jpg"])
def test_another_photo_of_the_same_name_has_none(data, tmp_path, name):
    other = tmp_path / "holiday" / name
    other.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "pets" / "2.jpg", other)
    assert OwnFile(run_of(data), data).of([other]) is None
    both = OwnFile(run_of(data), data).of([tmp_path / "pets" / "2.jpg", other])
    assert (len(both.images), both.row(tmp_path / "pets" / "2.jpg"), both.row(other)) == (1, 0, None)


def test_a_run_whose_data_are_gone(data, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "pets" / "captions.csv").unlink()
    assert OwnFile(run_of(data), data).of([tmp_path / "pets" / "2.jpg"]) is None
    assert "the boxes of the run's own photos can't be told: " in caplog.text


def test_another_file_of_the_same_name_is_not_the_run_s(data, tmp_path, caplog):
    caplog.set_level("INFO")
    run = run_of(data)
    save_boxes(tmp_path / "boxes.npz", IDS)
    assert OwnFile(run, data).of([tmp_path / "pets" / "2.jpg"]) is None
    assert "boxes.npz is another file than in the training" in caplog.text


@pytest.fixture
def reader_of(monkeypatch):
    """Makes the reader of a run with some data, which sees nothing in a photo, and maybe given boxes."""
    extractor = SimpleNamespace(describe=lambda pixels, *_: {"regions": pixels, "objects": pixels})
    monkeypatch.setattr(photo_module, "extractors_of", lambda *_: (extractor, None))
    return lambda data, boxes=None: PhotoReader(run_of(data), Config(data=data), boxes)


def corner(reader, path):
    """The left edge of the first box of a photo, in pixels."""
    _, (objects,) = reader.read([Photo(path, np.zeros((4, 4, 3), np.uint8), (100, 100))])
    return round(100 * float(objects["boxes"][0, 0]))


def save_boxes(path, names):
    """Boxes whose left edge is 1 in the first row, 2 in the next."""
    np.savez(
        path, names=names, boxes=np.array([[[i, 0, 50, 50, 0.9, 0]] for i in range(1, len(names) + 1)], np.float32)
    )
    return path


def test_given_boxes_are_found_by_the_place_of_a_photo(reader_of, tmp_path):
    """The command that writes boxes names them by path below its folder."""
    (tmp_path / "all" / "sub").mkdir(parents=True)
    for name in ("dog.jpg", "sub/dog.jpg"):
        (tmp_path / "all" / name).write_text(name)
    reader = reader_of(DataConfig(objects="grid"), save_boxes(tmp_path / "a.npz", ["dog.jpg", "sub/dog.jpg"]))
    assert [corner(reader, tmp_path / "all" / name) for name in ("dog.jpg", "sub/dog.jpg")] == [1, 2]
    reader = reader_of(DataConfig(objects="grid"), save_boxes(tmp_path / "b.npz", ["cat.jpg", "sub/dog.jpg"]))
    assert corner(reader, tmp_path / "all" / "sub" / "dog.jpg") == 2
    with pytest.raises(UserError, match=r"b\.npz: does not list dog\.jpg; add it, or leave --boxes out"):
        corner(reader, tmp_path / "all" / "dog.jpg")


@pytest.mark.parametrize("given", [True, False])
def test_boxes_and_corpus_are_read_and_told_once(reader_of, data, tmp_path, monkeypatch, caplog, given):
    caplog.set_level("INFO")
    read = []
    for module, name in ((photo_module, "BoxesFile"), (own_module, "BoxesFile"), (own_module, "corpus_of")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, _name=name, _original=original, **how: read.append(_name) or _original(*args, **how),
        )
    save_boxes(tmp_path / "boxes.npz", IDS[::-1])  # the run's own
    reader = reader_of(data, save_boxes(tmp_path / "given.npz", IDS) if given else None)
    left = [corner(reader, tmp_path / "pets" / name) for name in IDS]
    assert (left, read) == (([1, 2, 3], ["BoxesFile"]) if given else ([3, 2, 1], ["BoxesFile", "corpus_of"]))
    assert caplog.text.count("boxes of ") == 1
