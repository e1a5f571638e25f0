"""Which photo a name means: exact names, other letters, COCO's numbers; never a guess."""

import unicodedata

import pytest

from bssan_tf.datasets.coco import PHOTO_FOLDERS, coco_number, folders_of
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


def test_photos_that_differ_in_one_byte_are_two(tmp_path):
    write(tmp_path, one=["x.jpg"], two=["x.jpg"])
    for folder, last in (("one", b"a"), ("two", b"b")):
        (tmp_path / folder / "x.jpg").write_bytes(b"\0" * 20_000 + last)
    with pytest.raises(UserError, match="They differ"):
        PhotoFolders(tmp_path, ("one", "two")).find(["x.jpg"])


@pytest.mark.parametrize("there", [[], ["1.jpg"]], ids=["no such folder", "in it another photo"])
def test_a_photo_of_another_folder_than_the_named_one_is_none(tmp_path, there):
    write(tmp_path / "images", cats=["2.jpg"], **({"dogs": there} if there else {}))
    assert PhotoFolders(tmp_path, ("images",)).find(["dogs/2.jpg"]) == {}
    if there:
        write(tmp_path, images=["2.jpg"])
        assert PhotoFolders(tmp_path, ("images",)).find(["dogs/2.jpg"]) == {}


def test_a_photo_of_another_part_is_none_but_for_one_with_a_number(tmp_path):
    named = "COCO_val2014_000000000042.jpg"
    write(tmp_path, train2014=["5.jpg", named])
    folders = PhotoFolders(tmp_path, PHOTO_FOLDERS)
    own = dict.fromkeys(["5.jpg", named], folders_of("val2014"))
    assert folders.find(own, own, coco_number) == {named: tmp_path / "train2014" / named}
    write(tmp_path, images=["5.jpg"])  # photos that are not divided by parts
    found = PhotoFolders(tmp_path, PHOTO_FOLDERS).find(own, own, coco_number)
    assert found["5.jpg"] == tmp_path / "images" / "5.jpg"


@pytest.mark.parametrize("place", ["", "images"])
def test_the_named_folder_comes_before_the_parts_own(tmp_path, place):
    write(tmp_path / place, train2014=["1.jpg"], val2014=["1.jpg"])
    own = {"val2014/1.jpg": folders_of("train2014")}
    folders = PhotoFolders(tmp_path, PHOTO_FOLDERS)
    assert folders.find(own, own, coco_number) == {"val2014/1.jpg": tmp_path / place / "val2014" / "1.jpg"}
    (tmp_path / place / "val2014" / "1.jpg").unlink()
    (tmp_path / place / "val2014" / "2.jpg").touch()
    assert PhotoFolders(tmp_path, PHOTO_FOLDERS).find(own, own, coco_number) == {}


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
