"""Flickr8k and Flickr30K as Kaggle, Hugging Face and Karpathy publish them, written small by the tests."""

import csv
import dataclasses
import io
import json
import logging

import pytest

from bssan_tf.datasets.caption_files import read_results
from bssan_tf.datasets.flickr import FLICKR8K, FLICKR30K, load_flickr
from bssan_tf.errors import UserError

SIZES = {"official": {"train": 2, "val": 1, "test": 1}, "karpathy": {"train": 2, "val": 1, "test": 1}}
SMALL8K, SMALL30K = (dataclasses.replace(layout, sizes=SIZES) for layout in (FLICKR8K, FLICKR30K))
NAMES = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
SPLITS = dict(zip(NAMES, ("train", "train", "val", "test")))
LISTS = {"train": NAMES[:2], "val": NAMES[2:3], "test": NAMES[3:]}


def write_photos(folder):
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(name.encode())


def write_lists(layout, root):
    for split, names in LISTS.items():
        (root / layout.lists[split]).write_text("".join(f"{name}\n" for name in names))


def kaggle_8k(root):
    write_photos(root / "Images")
    rows = [f'{name},"A dog , number {k} , ""runs"" ."\n' for name in NAMES for k in range(2)]
    (root / "captions.txt").write_text("image,caption\n" + "".join(rows))


def kaggle_30k(root, photos="flickr30k_images/flickr30k_images"):
    write_photos(root / photos)
    rows = [f'{name}| {k}| A "dog , number {k} .\n' for name in NAMES for k in range(2)]
    rows[-1] = "4.jpg| 1   A dog runs across the grass .\n"  # as in the published file
    (root / "results.csv").write_text("image_name| comment_number| comment\n" + "".join(rows))


def hugging_face(root):
    write_photos(root / "flickr30k-images")
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("raw", "sentids", "split", "filename", "img_id"))
    for i, (name, split) in enumerate(SPLITS.items()):
        table.writerow(
            (json.dumps([f'A "dog", {k}.' for k in range(2)]), json.dumps([2 * i, 2 * i + 1]), split, name, i)
        )
    (root / "flickr_annotations_30k.csv").write_text(text.getvalue())


def test_kaggles_flickr8k_with_official_lists(tmp_path, caplog):
    kaggle_8k(tmp_path)
    write_lists(SMALL8K, tmp_path)
    with caplog.at_level(logging.INFO):
        corpus = load_flickr(SMALL8K, tmp_path)
    assert {name: corpus.split(name).image_ids for name in corpus.splits} == {s: tuple(n) for s, n in LISTS.items()}
    assert corpus.split("val").captions == ('A dog , number 0 , "runs" .', 'A dog , number 1 , "runs" .')
    assert corpus.image_paths == tuple(tmp_path / "Images" / name for name in NAMES)
    assert corpus.official
    assert (
        f"captions from Kaggle's captions.txt ({tmp_path}/captions.txt), photos in {tmp_path}/Images/ (4)"
        in caplog.text
    )


@pytest.mark.parametrize("folder", ["", "flickr30k_images"])
def test_kaggles_flickr30k_with_karpathys_lists(tmp_path, folder):
    kaggle_30k(tmp_path)
    (tmp_path / "results.csv").rename(tmp_path / folder / "results.csv")
    for split, names in LISTS.items():
        (tmp_path / f"{split}_karpathy.txt").write_text("\n".join(names))
    corpus = load_flickr(SMALL30K, tmp_path)
    assert corpus.split_lists == "karpathy"
    assert corpus.split("test").captions == ('A "dog , number 0 .', "A dog runs across the grass .")
    assert corpus.image_paths[0] == tmp_path / "flickr30k_images" / "flickr30k_images" / "1.jpg"


def test_hugging_faces_table_carries_karpathys_splits(tmp_path):
    hugging_face(tmp_path)
    corpus = load_flickr(SMALL30K, tmp_path)
    assert (corpus.split_lists, corpus.official) == ("karpathy", True)
    assert {name: corpus.split(name).image_ids for name in corpus.splits} == {s: tuple(n) for s, n in LISTS.items()}
    assert corpus.captions[:2] == ('A "dog", 0.', 'A "dog", 1.')
    assert corpus.image_paths[3] == tmp_path / "flickr30k-images" / "4.jpg"


def test_karpathys_json_with_photos_one_folder_deeper(tmp_path):
    write_photos(tmp_path / "images" / "flickr30k-images")
    images = [{"filename": n, "split": s, "sentences": [{"raw": f"About {n}."}]} for n, s in SPLITS.items()]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    corpus = load_flickr(SMALL30K, tmp_path)
    assert corpus.split("val").captions == ("About 3.jpg.",)
    assert corpus.split("val").image_paths == (tmp_path / "images" / "flickr30k-images" / "3.jpg",)


@pytest.mark.parametrize(("write", "layout"), [(kaggle_8k, SMALL8K), (kaggle_30k, SMALL30K)])
def test_without_lists_the_user_is_told_which_to_fetch_or_divides(tmp_path, write, layout):
    write(tmp_path)
    wanted = rf"says no splits, and {layout.lists['train']}, .* not found in .*; fetch .* or divide by --split random"
    with pytest.raises(UserError, match=wanted):
        load_flickr(layout, tmp_path)
    corpus = load_flickr(layout, tmp_path, "random")
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert (corpus.official, corpus.cache_key) == (False, f"{layout.name}-random")
    assert load_flickr(layout, tmp_path, "random").split("test").image_ids == corpus.split("test").image_ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\n", ":1: header 'image,caption' is not"),
        ("image_name| comment_number| comment\n1.jpg| a dog\n", ":2: '1.jpg| a dog' is not 'name.jpg| k| caption'"),
        (
            "image_name| comment_number| comment\n1.jpg| 0| a\n1.jpg| 0| b\n",
            ":3: 1.jpg#0 has another caption in line 2",
        ),
        ("", ":1: header '' is not"),
    ],
)
def test_malformed_results(tmp_path, text, message):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=rf"results.csv{message}".replace("|", r"\|")):
        read_results(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('"[""a""",train,x.jpg', ":2: raw: not valid JSON"),
        ('"{}",train,x.jpg', ":2: raw: is an object, not a list of JSON"),
        ("[1],train,x.jpg", ":2: raw is not a list of texts"),
        ("[],extra,x.jpg", ":2: split 'extra' is not one of"),
    ],
)
def test_malformed_table_of_hugging_face(tmp_path, row, message):
    (tmp_path / "flickr_annotations_30k.csv").write_text(f"raw,split,filename\n{row}\n")
    with pytest.raises(UserError, match=rf"30k.csv{message}"):
        load_flickr(FLICKR30K, tmp_path)


def test_captions_without_words_are_counted_and_refused(tmp_path, caplog):
    kaggle_8k(tmp_path)
    write_lists(SMALL8K, tmp_path)
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("1.jpg,\n1.jpg, . ! \n")
    with pytest.raises(UserError, match=r"2 of 10 captions are empty or only punctuation \(the first: of 1.jpg\)"):
        load_flickr(SMALL8K, tmp_path)
    assert len(load_flickr(SMALL8K, tmp_path, allow_partial=True).captions) == 8
    assert "2 of 10 captions are empty or only punctuation" in caplog.text


def test_a_name_without_photo_is_left_out_of_a_random_division(tmp_path, caplog):
    kaggle_8k(tmp_path)
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("5.jpg.1,A dog\n")  # as in the published file
    corpus = load_flickr(SMALL8K, tmp_path, "random")
    assert sorted(corpus.image_ids) == NAMES
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert corpus.file_ids == (*NAMES, "5.jpg.1")
    assert "1 of 5 images have no photo file in images/, Images/" in caplog.text
    assert "are left out (the first: 5.jpg.1)" in caplog.text
    for photo in (tmp_path / "Images").iterdir():
        photo.unlink()
    with pytest.raises(UserError, match="5 of 5 images have no photo file"):
        load_flickr(SMALL8K, tmp_path, "random")
