"""Flickr8k and Flickr30K: official layout and Karpathy's, written small by the tests, and the real files."""

import dataclasses
import json
import logging
from collections import Counter

import numpy as np
import pytest

from bssan_tf.datasets import load_corpus
from bssan_tf.datasets.caption_files import read_list, read_token_file
from bssan_tf.datasets.flickr import FLICKR8K, FLICKR30K, load_flickr
from bssan_tf.errors import UserError

SIZES = {"train": 3, "val": 1, "test": 1}
SMALL8K = dataclasses.replace(FLICKR8K, sizes={"official": SIZES, "karpathy": SIZES})
SMALL30K = dataclasses.replace(FLICKR30K, sizes={"official": SIZES, "karpathy": {**SIZES, "train": 2}})
NAMES = {"train": ["t1.jpg", "t0.jpg", "t2.jpg"], "val": ["v.jpg"], "test": ["x.jpg"]}
ALL = [name for names in NAMES.values() for name in names]


def write_official(root, layout=SMALL8K, bare=False, photos="images"):
    """Token file, lists and empty photo files; one more photo than the lists name, as in Flickr8k."""
    root.mkdir(exist_ok=True)
    lines = [f"{name}#{k}\tCaption {k} of {name} .\n" for name in ["u.jpg.1", *sorted(ALL)] for k in (0, 1)]
    (root / next(iter(layout.readers))).write_text("".join(lines), encoding="utf-8")
    for split, names in NAMES.items():
        text = "".join(f"{name[:-4] if bare else name}\n" for name in names)
        (root / layout.lists[split]).write_text(text)
    write_photos(root / photos)
    return root


def write_photos(folder):
    folder.mkdir(parents=True)
    for name in ALL:
        (folder / name).touch()


def write_karpathy(path, splits=NAMES):
    images = [
        {
            "filename": name,
            "split": split,
            "sentences": [{"raw": f"{name} says\n{k}. ", "tokens": []} for k in (0, 1)],
        }
        for split, names in splits.items()
        for name in names
    ]
    path.write_text(json.dumps({"images": images, "dataset": "flickr"}))


@pytest.mark.parametrize("photos", ["images", "Flicker8k_Dataset", "Flickr8k_Dataset"])
def test_flickr8k_official(tmp_path, photos):
    root = write_official(tmp_path / "f", photos=photos)
    corpus = load_flickr(SMALL8K, root)
    assert (corpus.name, corpus.official, corpus.cache_key) == ("flickr8k", True, "flickr8k")
    assert corpus.image_ids == tuple(ALL)
    assert corpus.image_paths[0] == root / photos / "t1.jpg"
    assert corpus.captions[:3] == ("Caption 0 of t1.jpg .", "Caption 1 of t1.jpg .", "Caption 0 of t0.jpg .")
    np.testing.assert_array_equal(corpus.image_of_caption, np.repeat(np.arange(5), 2))
    assert corpus.split("dev").image_ids == ("v.jpg",)


@pytest.mark.parametrize("photos", ["images", "flickr30k-images", "flickr30k_images"])
def test_flickr30k_official_lists_are_bare_ids(tmp_path, photos):
    root = write_official(tmp_path / "f", SMALL30K, bare=True, photos=photos)
    corpus = load_flickr(SMALL30K, root)
    assert corpus.split("train").image_ids == ("t1.jpg", "t0.jpg", "t2.jpg")
    assert corpus.name == "flickr30k"


def test_text_files_in_their_own_folder(tmp_path):
    write_official(tmp_path / "f")
    (tmp_path / "g").mkdir()
    (tmp_path / "f").rename(tmp_path / "g" / "Flickr8k_text")
    write_photos(tmp_path / "g" / "images")
    assert load_flickr(SMALL8K, tmp_path / "g").official


def test_karpathy_json(tmp_path):
    write_photos(tmp_path / "images")
    write_karpathy(tmp_path / "dataset_flickr8k.json")
    corpus = load_flickr(SMALL8K, tmp_path, "karpathy")
    assert (corpus.official, corpus.cache_key) == (True, "flickr8k-karpathy")
    assert corpus.split("train").captions[:2] == ("t1.jpg says 0.", "t1.jpg says 1.")
    assert load_flickr(SMALL8K, tmp_path).image_ids == corpus.image_ids  # the only lists that are there
    with pytest.raises(UserError, match=r"devImages.txt or .* not found in .*dataset_flickr8k.json is there: --split"):
        load_flickr(SMALL8K, tmp_path, "official")


def test_karpathy_lists_with_the_token_file(tmp_path):
    root = write_official(tmp_path / "f", SMALL30K)
    with pytest.raises(UserError, match=r"dataset_flickr30k.json or train_karpathy.txt, val_karpathy.txt or"):
        load_flickr(SMALL30K, root, "karpathy")
    for split, names in {"train": ["t0.jpg", "v.jpg"], "val": ["t1.jpg"], "test": ["x.jpg"]}.items():
        (root / f"{split}_karpathy.txt").write_text("\n".join(names))
    corpus = load_flickr(SMALL30K, root, "karpathy")
    assert corpus.split("train").image_ids == ("t0.jpg", "v.jpg")
    assert corpus.split("val").captions == ("Caption 0 of t1.jpg .", "Caption 1 of t1.jpg .")
    assert corpus.official


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"filename": "a.jpg", "split": "train"}, r"images\[0\] lacks 'filename', 'split' or 'sentences'"),
        ({"filename": "a.jpg", "split": "train", "sentences": [{"tokens": []}]}, r"images\[0\] lacks"),
        ({"filename": "a.jpg", "split": "train", "sentences": [{"raw": None}]}, r"images\[0\] lacks"),
        (
            {"filename": "a.jpg", "split": "extra", "sentences": []},
            r"images\[0\]: split 'extra' is not one of",
        ),
        ("a.jpg", r"images\[0\] lacks"),
    ],
)
def test_karpathy_json_of_another_form(tmp_path, image, message):
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UserError, match=rf"dataset_flickr8k.json: {message}"):
        load_flickr(FLICKR8K, tmp_path, "karpathy", need_images=False)
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match=r"has no list 'images'; Karpathy's file is expected"):
        load_flickr(FLICKR8K, tmp_path, "karpathy")


def test_published_sizes():
    assert FLICKR8K.sizes["official"] == {"train": 6000, "val": 1000, "test": 1000}
    assert FLICKR8K.sizes["karpathy"] == {"train": 6000, "val": 1000, "test": 1000}
    assert FLICKR30K.sizes["official"] == {"train": 29783, "val": 1000, "test": 1000}
    assert FLICKR30K.sizes["karpathy"] == {"train": 29000, "val": 1014, "test": 1000}


def test_everything_that_is_missing_is_told_at_once(tmp_path, caplog):
    root = write_official(tmp_path / "f")
    (root / "Flickr_8k.testImages.txt").unlink()
    (root / "Flickr_8k.trainImages.txt").write_text("t1.jpg\nt0.jpg\nt2.jpg\nnew.jpg\n")
    (root / "images" / "t0.jpg").unlink()
    with pytest.raises(UserError) as error:
        load_flickr(SMALL8K, root)
    problems = [
        "Flickr_8k.testImages.txt is missing",
        "train lists 4 images, published are 3",
        "1 of 5 images have no caption (the first: new.jpg)",
        "1 of 4 images have no photo file in images/, Images/, Flicker8k_Dataset/ or Flickr8k_Dataset/ of "
        f"{root} (the first: t0.jpg)",
    ]
    assert str(error.value) == (
        f"flickr8k: {'; '.join(problems)}; complete {root}, or use what is there by --allow-partial"
    )
    with caplog.at_level(logging.WARNING):
        corpus = load_flickr(SMALL8K, root, allow_partial=True)
    assert [record.getMessage() for record in caplog.records] == [f"flickr8k: {text}" for text in problems]
    assert {name: corpus.split(name).image_ids for name in corpus.splits} == {
        "train": ("t1.jpg", "t2.jpg"),
        "val": ("v.jpg",),
    }
    assert not corpus.official
    with pytest.raises(UserError, match=r"flickr8k: has no split 'test'; choose one of train, val"):
        corpus.split("test")


def test_all_lists_or_the_token_file_missing(tmp_path):
    root = write_official(tmp_path / "f")
    for name in FLICKR8K.lists.values():
        (root / name).unlink()
    with pytest.raises(UserError, match=r"Flickr_8k.devImages.txt or Flickr_8k.testImages.txt not found in"):
        load_flickr(SMALL8K, root, allow_partial=True)
    (root / "Flickr8k.token.txt").unlink()
    with pytest.raises(UserError, match=r"flickr8k: Flickr8k.token.txt not found in"):
        load_flickr(SMALL8K, root, allow_partial=True)


def test_an_image_in_two_lists_is_a_leak(tmp_path):
    root = write_official(tmp_path / "f")
    (root / "Flickr_8k.testImages.txt").write_text("t0.jpg\n")
    with pytest.raises(UserError, match=r"t0.jpg is listed in train and again in test"):
        load_flickr(SMALL8K, root, allow_partial=True)


def test_token_file(tmp_path, caplog):
    path = tmp_path / "tokens"
    path.write_bytes(
        "\ufeffa.jpg#1\tsecond é\r\n"
        "a.jpg#0\tfirst\twith a tab \r\n"
        "\r\n"
        "b#1.jpg.1#0\tname with # and .1\n"
        "a.jpg#0\tfirst with a tab\n"
        "a.jpg#10\televenth\n"
        "a.jpg#2\tthird\n"
        "e.jpg#0\t".encode()
    )
    with caplog.at_level(logging.WARNING):
        captions = read_token_file(path).captions
    assert captions == {
        "a.jpg": ["first with a tab", "second é", "third", "eleventh"],
        "b#1.jpg.1": ["name with # and .1"],
        "e.jpg": [""],
    }
    assert [record.getMessage() for record in caplog.records] == [f"{path}: 1 repeated lines are left out"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a.jpg#0 no tab", r":2: 'a.jpg#0 no tab' is not 'name.jpg#k<TAB>caption'; correct or remove it"),
        (b"a.jpg\tno number", r":2: .* is not"),
        (b"a.jpg#x\tno number", r":2: .* is not"),
        (b"#0\tno name", r":2: .* is not"),
        (b"z.jpg#0\tother", r":2: z.jpg#0 has another caption in line 1; remove one"),
        (b"a.jpg#0\tcaf\xe9", r":2: not UTF-8 .*; convert it"),
    ],
)
def test_malformed_token_line(tmp_path, line, message):
    path = tmp_path / "tokens"
    path.write_bytes(b"z.jpg#0\tfine\n" + line + b"\n")
    with pytest.raises(UserError, match=rf"^{path}{message}"):
        read_token_file(path)


def test_list_of_names_or_ids(tmp_path):
    (tmp_path / "list").write_text("1234\r\n\n a.jpg \n")
    assert read_list(tmp_path / "list") == ["1234.jpg", "a.jpg"]


def test_unreadable_list(tmp_path):
    (tmp_path / "list").mkdir()
    with pytest.raises(UserError, match=r"list: is a folder"):
        read_list(tmp_path / "list")


def test_real_flickr8k(shared_data):
    root = shared_data / "flickr8k"
    with pytest.raises(UserError, match=r"testImages.txt is missing; train lists 5,997 images, published are 6,000"):
        load_corpus("flickr8k", root=root)
    corpus = load_corpus("flickr8k", root=root, allow_partial=True)
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 5997, "val": 1000}
    assert (len(corpus.captions), corpus.official) == (34_985, False)
    assert set(np.bincount(corpus.image_of_caption)) == {5}
    train = corpus.split("train")
    assert train.image_ids[0] == "2513260012_03d33305cf.jpg"
    assert train.captions[1] == "Black dog chasing brown dog through snow"
    assert train.image_paths[0].is_file()


@pytest.mark.large
def test_real_flickr30k(shared_data):
    root = shared_data / "flickr30k"
    with pytest.raises(UserError, match=r"769 of 31,783 images have no caption"):
        load_corpus("flickr30k", root=root, need_images=False)
    with pytest.raises(UserError, match=r"no image is left .*31,014 of 31,014 images have no photo file"):
        load_corpus("flickr30k", root=root, allow_partial=True)
    official = load_corpus("flickr30k", root=root, allow_partial=True, need_images=False)
    assert len(official.image_ids) == 31_014
    assert not official.official

    karpathy = load_corpus("flickr30k", root=root, split_lists="karpathy", need_images=False)
    assert karpathy.official
    assert {name: len(rows) for name, rows in karpathy.splits.items()} == FLICKR30K.sizes["karpathy"]
    assert len(karpathy.captions) == 155_070
    lines = (root / "results_20130124.token").read_text(encoding="utf-8").splitlines()
    tokens = [" ".join(line.split("\t")[1].split()) for line in lines]
    assert Counter(karpathy.captions) == Counter(tokens)
    test = karpathy.split("test")
    assert test.image_ids[0] == "1007129816.jpg"
    assert len(test.captions) == 5000
    assert set(official.image_ids) == set(karpathy.image_ids)
