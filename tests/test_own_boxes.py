"""Which photos the boxes file of a run is for: those of its corpus, by their place, never another of the same name."""

import shutil

import numpy as np
import pytest

from bssan_tf.config.settings import DataConfig
from bssan_tf.runs.photo import own_boxes

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


@pytest.mark.parametrize("name", IDS)
def test_a_photo_of_the_corpus_has_its_row(data, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    own = own_boxes(data, [tmp_path.relative_to(tmp_path) / "pets" / name])
    assert list(own.images.values()) == [(name, IDS[::-1].index(name))]


def test_photos_of_a_folder_have_their_rows(data, tmp_path):
    own = own_boxes(data, [tmp_path / "pets" / name for name in IDS])
    assert [own.row(tmp_path / "pets" / name) for name in IDS] == [2, 1, 0]


@pytest.mark.parametrize("name", ["2.jpg", "1.jpg", "dogs/1.jpg", "new.jpg"])
def test_another_photo_of_the_same_name_has_none(data, tmp_path, name):
    other = tmp_path / "holiday" / name
    other.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "pets" / "2.jpg", other)
    assert own_boxes(data, [other]) is None
    both = own_boxes(data, [tmp_path / "pets" / "2.jpg", other])
    assert (len(both.images), both.row(tmp_path / "pets" / "2.jpg"), both.row(other)) == (1, 0, None)


def test_a_run_whose_data_are_gone(data, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "pets" / "captions.csv").unlink()
    assert own_boxes(data, [tmp_path / "pets" / "2.jpg"]) is None
    assert "the boxes of the run's own photos can't be told: " in caplog.text
