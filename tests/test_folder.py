"""A folder of pictures with captions.csv or captions.jsonl, written by the tests."""

import json
import logging
import re

import pytest

from bssan_tf.datasets import load_corpus
from bssan_tf.errors import UserError

ROWS = [
    ("a.jpg", "A dog, running.", "train"),
    ("sub/b.png", 'It says "go".', "validation"),
    ("a.jpg", "Un café.", "TRAIN"),
    ("c d.jpg", "Last one.", "test"),
]


def write(folder, text, images=("a.jpg", "sub/b.png", "c d.jpg"), name="captions.csv"):
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


CSV = (
    "\ufeffCaption, image ,split,note\r\n"
    '"A dog, running.",a.jpg,train,\r\n'
    "\r\n"
    '"It says ""go"".", sub\\b.png,validation,x\r\n'
    "Un café.,./a.jpg,TRAIN,\r\n"
    '"Last\none.", "c d.jpg",test,y\r\n'
)
JSONL = "\n\n".join(json.dumps({"image": i, "caption": c, "split": s, "n": 1}) for i, c, s in ROWS)


@pytest.mark.parametrize(("name", "text"), [("captions.csv", CSV), ("captions.jsonl", JSONL)])
def test_a_captions_file(tmp_path, name, text):
    corpus = load_corpus("folder", root=write(tmp_path, text, name=name))
    assert {name: corpus.split(name).image_ids for name in corpus.splits} == {
        "train": ("a.jpg",),
        "val": ("sub/b.png",),
        "test": ("c d.jpg",),
    }
    assert corpus.split("train").captions == ("A dog, running.", "Un café.")
    assert corpus.split("val").captions == ('It says "go".',)
    assert corpus.image_paths == (tmp_path / "a.jpg", tmp_path / "sub/b.png", tmp_path / "c d.jpg")
    assert not corpus.official


def test_the_path_of_a_folder_is_a_data_set(tmp_path, monkeypatch):
    write(tmp_path / "pets", "image,caption,split\na.jpg,x,test\n")
    corpus = load_corpus(str(tmp_path / "pets"))
    assert corpus.name == "folder-pets"
    monkeypatch.chdir(tmp_path / "pets")
    here = load_corpus(".")
    assert (here.name, here.cache_key) == (corpus.name, corpus.cache_key)


def test_folders_of_one_name_have_their_own_place_in_the_cache(tmp_path):
    text = "image,caption,split\na.jpg,x,test\n"
    one, other = (load_corpus(str(write(tmp_path / year / "pets", text))) for year in ("2019", "2020"))
    assert one.name == other.name == "folder-pets"
    assert re.fullmatch(r"folder-pets-[0-9a-f]{8}", one.cache_key)
    assert one.cache_key != other.cache_key
    (tmp_path / "link").symlink_to(tmp_path / "2019")
    assert load_corpus(str(tmp_path / "link" / "pets")).cache_key == one.cache_key
    roots = [load_corpus("folder", root=tmp_path / year / "pets").cache_key for year in ("2019", "2020")]
    assert roots == [one.cache_key.replace("-pets", ""), other.cache_key.replace("-pets", "")]


def numbered(folder, n, captions=2):
    names = [f"{i:03d}.jpg" for i in range(n)]
    text = "".join(f"{name},caption {k}\n" for k in range(captions) for name in names)
    return write(folder, "image,caption\n" + text, names)


def test_without_split_field_images_are_divided(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        corpus = load_corpus("folder", root=numbered(tmp_path / "n", 40))
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert "has no split field: 32 train, 4 val, 4 test images by a seeded order (seed 0)" in caplog.text
    assert list(corpus.split("train").image_ids) == sorted(corpus.split("train").image_ids)
    assert corpus.split("test").captions_per_image(1).captions == ("caption 0",) * 4
    again = load_corpus("folder", root=tmp_path / "n")
    assert again.split("test").image_ids == corpus.split("test").image_ids
    other = load_corpus("folder", root=tmp_path / "n", seed=1)
    assert other.split("test").image_ids != corpus.split("test").image_ids

    more = load_corpus("folder", root=numbered(tmp_path / "more", 41))
    moved = set(more.split("train").image_ids) & set(corpus.split("test").image_ids)
    assert len(moved) == 0  # one more picture does not mix training and test pictures


def test_smallest_folder_that_can_be_divided(tmp_path):
    corpus = load_corpus("folder", root=numbered(tmp_path / "three", 3))
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 1, "val": 1, "test": 1}
    with pytest.raises(UserError, match=r"captions.csv: 2 images can't be divided into splits; add the field split"):
        load_corpus("folder", root=numbered(tmp_path / "two", 2))


def test_missing_pictures(tmp_path, caplog):
    text = "image,caption,split\na.jpg,x,train\nsub/b.jpg,y,train\nsub/gone.jpg,z,test\nnowhere/c.jpg,w,test\n"
    write(tmp_path, text, ["a.jpg", "sub/b.jpg"])
    with pytest.raises(UserError, match=r"folder: 2 of 4 images have no photo file in .*first: sub/gone.jpg\)"):
        load_corpus("folder", root=tmp_path)
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("folder", root=tmp_path, allow_partial=True)
    assert corpus.image_ids == ("a.jpg", "sub/b.jpg")
    assert "2 of 4 images have no photo file" in caplog.text
    assert load_corpus("folder", root=tmp_path, need_images=False).image_paths[-1] == tmp_path / "nowhere/c.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,A dog.\n", ":1: header 'a.jpg,A dog.' must name image and caption"),
        (
            "image,caption\na.jpg,A dog, running.\n",
            ":2: 3 fields, the header has 2; quote captions with commas",
        ),
        ("image,caption\na.jpg\n", ":2: 1 fields, the header has 2"),
        ("image,caption\n,x\n", ":2: image '' is not a file inside the folder"),
        ("image,caption\n../a.jpg,x\n", ":2: image '../a.jpg' is not a file inside the folder"),
        ("image,caption\n/a.jpg,x\n", ":2: image '/a.jpg' is not a file inside the folder"),
        ("image,caption,split\na.jpg,x,extra\n", ":2: split 'extra' is not one of train, val, test"),
        ("image,caption,split\na.jpg,x,train\nc.jpg,x, \n", ":3: has no split, but other rows have one; give all rows"),
        (
            "image,caption,split\na.jpg,x,train\na.jpg,y,dev\n",
            ":3: a.jpg is in train above, in val here; choose one",
        ),
        ('image,caption\na.jpg,"x\n', ":2: not valid CSV"),
        ("image,caption\n", ": has no captions"),
        ("", ": has no captions"),
        (b"image,caption\na.jpg,caf\xe9\n", ":2: not UTF-8"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(UserError, match=rf"captions.csv{message}") as error:
        load_corpus("folder", root=tmp_path, allow_partial=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: not valid JSON"),
        ("[]", ":2: is a list, not an object of JSON"),
        ('{"image": "a.jpg"}', ":2: not an object"),
        ('{"image": "a.jpg", "caption": ["x", 1]}', ":2: not an object"),
        (
            '{"image": "a.jpg", "caption": "x"}',
            ":2: has no split, but other rows have one; give all rows one",
        ),
        ('{"image": "a.jpg", "caption": "x", "split": 3}', ":2: split 3 is not one of"),
    ],
)
def test_malformed_jsonl(tmp_path, line, message):
    first = '{"image": "a.jpg", "caption": "fine", "split": "train"}\n'
    write(tmp_path, first + line, name="captions.jsonl")
    with pytest.raises(UserError, match=rf"captions.jsonl{message}"):
        load_corpus("folder", root=tmp_path)


def test_two_captions_files(tmp_path):
    write(write(tmp_path, ""), "", name="captions.jsonl")
    with pytest.raises(UserError, match=r"has both captions.csv and captions.jsonl; remove one"):
        load_corpus("folder", root=tmp_path)
