"""Which photo a name means: exact names, other letters, COCO's numbers; never a guess."""

import unicodedata

import pytest

from bssan_tf.datasets.coco import coco_number
from bssan_tf.datasets.photos import PhotoFolders, check_name
from bssan_tf.errors import UserError


def write(root, **photos):
    """Photos whose content differs, by folder."""
    for folder, names in photos.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).write_bytes(f"{folder}/{name}".encode())


def test_exact_names_come_before_other_capitals_and_accents(tmp_path):
    nfd = unicodedata.normalize("NFD", "é.jpg")
    write(tmp_path, images=["a.jpg", "A.jpg", "b.JPG", nfd])
    found = PhotoFolders(tmp_path, ("images",)).find(["a.jpg", "b.jpg", "é.jpg", "gone.jpg"])
    assert {name: path.name for name, path in found.items()} == {"a.jpg": "a.jpg", "b.jpg": "b.JPG", "é.jpg": nfd}


def test_a_link_in_a_circle_is_no_photo(tmp_path):
    write(tmp_path, images=["a.jpg"])
    circle = tmp_path / "images" / "b.jpg"
    circle.symlink_to(circle)
    assert PhotoFolders(tmp_path, ("images",)).find(["a.jpg", "b.jpg"]) == {"a.jpg": circle.with_name("a.jpg")}


def test_two_photos_for_one_name_are_refused(tmp_path):
    write(tmp_path, images=["a.JPG", "A.jpg"])
    with pytest.raises(UserError, match=r"^a\.jpg: is it .*(A\.jpg|a\.JPG) or .*; rename or remove one"):
        PhotoFolders(tmp_path, ("images",)).find(["a.jpg"])
    write(tmp_path, one=["x.jpg"], two=["x.jpg"])
    with pytest.raises(UserError, match=r"^x\.jpg: is it .*one/x\.jpg or .*two/x\.jpg\? They differ"):
        PhotoFolders(tmp_path, ("one", "two")).find(["x.jpg"])
    (tmp_path / "two" / "x.jpg").write_bytes(b"one/x.jpg")  # a copy
    assert PhotoFolders(tmp_path, ("one", "two")).find(["x.jpg"]) == {"x.jpg": tmp_path / "one" / "x.jpg"}
    assert PhotoFolders(tmp_path, ("one", "two")).find(["x.jpg"], {"x.jpg": ["two"]})["x.jpg"].parent.name == "two"


def test_one_photo_for_two_names_is_refused(tmp_path):
    write(tmp_path, images=["a.jpg"])
    with pytest.raises(UserError, match=r"a\.jpg: is the one photo for a\.jpg and for A\.jpg; correct"):
        PhotoFolders(tmp_path, ("images",)).find(["a.jpg", "A.jpg"])


def test_photos_one_folder_deeper(tmp_path):
    write(tmp_path / "images", deep=["a.jpg"])
    assert PhotoFolders(tmp_path, ("images",)).find(["a.jpg"]) == {"a.jpg": tmp_path / "images" / "deep" / "a.jpg"}


def test_a_folder_in_a_name_need_not_be_there(tmp_path):
    write(tmp_path, images=["a.jpg", "b.jpg"], train=["b.jpg"])
    folders = PhotoFolders(tmp_path, ("images",))
    found = folders.find(["val/a.jpg", "train/b.jpg"])
    assert found == {"val/a.jpg": tmp_path / "images" / "a.jpg", "train/b.jpg": tmp_path / "train" / "b.jpg"}
    assert folders.find(["val/a.jpg", "test/a.jpg"]) == {}  # whose would it be?
    assert folders.find(["val/a.jpg"], bare=False) == {}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_train2014_000000000042.jpg", "000000000042"),
        ("000000000042.jpg", "000000000042"),
        ("COCO_val2014_000000000042.JPG", "000000000042"),
        ("VizWiz_train_00000042.jpg", None),
        ("VizWiz_train_000000000042.jpg", None),
        ("airport_1.jpg", None),
    ],
)
def test_only_coco_names_have_a_number(name, number):
    assert coco_number(name) == number


def test_two_photos_of_one_number_are_refused(tmp_path):
    write(tmp_path, train2014=["COCO_train2014_000000000042.jpg"], val2014=["COCO_val2014_000000000042.jpg"])
    folders = PhotoFolders(tmp_path, ("train2014", "val2014"))
    with pytest.raises(UserError, match=r"is it .*COCO_train2014_0.* or .*COCO_val2014_0"):
        folders.find(["000000000042.jpg"], number=coco_number)
    both = ["COCO_train2014_000000000042.jpg", "COCO_val2014_000000000042.jpg"]
    assert {name: path.name for name, path in folders.find(both, number=coco_number).items()} == dict(zip(both, both))


@pytest.mark.parametrize(("name", "problem"), [("a\nb.jpg", "a line end"), ("a\udcff.jpg", "no Unicode text")])
def test_names_that_can_not_be_kept(name, problem):
    with pytest.raises(UserError, match=rf"^list:3: the photo's name .* {problem}; rename the file") as error:
        check_name(name, "list:3")
    assert "\n" not in str(error.value)
