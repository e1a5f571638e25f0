"""Which pictures are in a folder: subfolders, hidden names, links and circles of them, HEIC."""

import os

import pytest

from bssan_tf.datasets import picture_folder
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def found(folder):
    return [path.relative_to(folder).as_posix() for path in pictures_in(folder).paths]


def test_subfolders_are_in_it_and_hidden_names_are_not(tmp_path):
    seen = ["b.PNG", "a/2.jpeg", "a/deep/1.tiff", "a.jpg/x.webp", "z.gif", "a/10.bmp", "é/ü.jpe"]
    write(tmp_path, *seen, ".b.jpg", ".thumbnails/c.jpg", "a/.d/e.jpg", "notes.txt", "a/jpg", "no.jpg.txt")
    assert found(tmp_path) == sorted(seen, key=lambda name: name.split("/"))


def test_links_are_followed_but_no_circle_and_each_picture_is_found_once(tmp_path):
    folder = tmp_path / "mine"
    write(tmp_path, "mine/x/1.jpg", "mine/2.jpg", "away/3.jpg", "away/deep/4.jpg")
    links = {"a.jpg": "x/1.jpg", "b": "x", "x/up": "..", "x/self": ".", "x/w.jpg": "../../away/3.jpg", "c.jpg": "c.jpg"}
    for link, target in {**links, "w": "../away", "w2": "../away/deep"}.items():
        (folder / link).symlink_to(target)
    assert found(folder) == ["2.jpg", "c.jpg", "w/3.jpg", "w/deep/4.jpg", "x/1.jpg"]
    (tmp_path / "link").symlink_to("mine")
    assert found(tmp_path / "link") == found(folder)


def test_heic_needs_its_package(tmp_path, monkeypatch, caplog):
    write(tmp_path, "a.heic", "b/c.HEIF", "d.jpg")
    monkeypatch.setattr(picture_folder, "heic_is_read", lambda: True)
    assert found(tmp_path) == ["a.heic", "b/c.HEIF", "d.jpg"]
    assert not caplog.text
    monkeypatch.setattr(picture_folder, "heic_is_read", lambda: False)
    assert found(tmp_path) == ["d.jpg"]
    pictures = pictures_in(tmp_path, tell=False)
    assert pictures.heic == ("a.heic", "b/c.HEIF")
    assert pictures.hidden(["a.heic", "gone.heic", "d.jpg"]) == ["a.heic"]
    assert pictures.told() == "a.heic is HEIC; to read it: pip install pillow-heif"
    told = f"{tmp_path}: 2 HEIC pictures are left out; to read them: pip install pillow-heif"
    assert [record.getMessage() for record in caplog.records] == [told]
    pictures_in(tmp_path, tell=False)
    assert len(caplog.records) == 1
    (tmp_path / "d.jpg").unlink()
    with pytest.raises(UserError, match=rf"^{told}$"):
        pictures_in(tmp_path)


def test_folders_that_can_not_be_read_are_named(tmp_path, monkeypatch, caplog):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    forbidden = "b"
    assert found(tmp_path) == ["a/1.jpg"]
    assert f"1 folders can't be read, and are left out: {tmp_path / 'b'}" in caplog.text
    assert pictures_in(tmp_path).unread == ("b",)
    forbidden = tmp_path.name
    with pytest.raises(UserError, match=r"can't be read \(Permission denied\); check the rights"):
        pictures_in(tmp_path)


def test_links_that_lead_nowhere_are_named(tmp_path, caplog):
    write(tmp_path, "a/1.jpg", "a/notes")
    for link, target in {
        "a/disk": "/nowhere/disk",
        "gone.jpg": "/nowhere/1.jpg",
        "circle": "circle",
        "n": "a/notes",
    }.items():
        (tmp_path / link).symlink_to(target)
    pictures = pictures_in(tmp_path)
    assert [path.name for path in pictures.paths] == ["1.jpg", "gone.jpg"]
    assert pictures.unread == ("a/disk",)
    assert pictures.hidden(["a/disk/1.jpg", "a/disk/b/2.jpg", "a/disk2/1.jpg", "a/1.jpg"]) == [
        "a/disk/1.jpg",
        "a/disk/b/2.jpg",
    ]
    assert f"1 folders can't be read, and are left out: {tmp_path / 'a' / 'disk'}" in caplog.text


def test_a_folder_that_fails_in_the_middle(tmp_path, monkeypatch):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    class Failing:
        def __init__(self, path):
            self.entries = scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            yield from self.entries
            raise OSError(5, "Input/output error")  # as of a disk: without a file's name

    monkeypatch.setattr(os, "scandir", lambda path: (Failing if str(path).endswith("b") else scandir)(path))
    pictures = pictures_in(tmp_path)
    assert pictures.unread == ("b",)
    assert [path.name for path in pictures.paths] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "gone: no such folder; name one with pictures"),
        ("notes.txt", r"gone: no pictures in it \(\.jpg, .*\.heic, \.heif\)"),
        (".hidden.jpg", "gone: no pictures in it"),
        ("a\nb/1.jpg", r"gone: the photo's name 'a\\nb/1\.jpg' has a line end; rename the file"),
    ],
)
def test_folders_without_usable_pictures(tmp_path, name, told):
    if name:
        write(tmp_path / "gone", name)
    with pytest.raises(UserError, match=told) as error:
        pictures_in(tmp_path / "gone")
    assert "\n" not in str(error.value)
