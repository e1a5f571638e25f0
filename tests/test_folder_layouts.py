"""Folders as people have them: other column names, separators and encodings; Hugging Face, img2dataset, Multi30k."""

import dataclasses
import json
import logging
import os
import re

import pytest

from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import load_corpus
from bssan_tf.errors import UserError
from bssan_tf.runs.data import corpus_of

PHOTOS = {f"{i}.jpg": str(i) for i in range(1, 5)}
CAPTIONS = {f"{i}.jpg": f"A dog é {i}" for i in range(1, 5)}


def write(root, **files):
    for name, content in {**PHOTOS, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def table(header, separator=",", end="\n"):
    rows = [separator.join(header), *(f"{name}{separator}{text}" for name, text in CAPTIONS.items())]
    return "".join(f"{row}{end}" for row in rows)


def captions_of(root, **options):
    corpus = load_corpus(str(root), **options)
    return dict(zip(corpus.image_ids, corpus.captions))


@pytest.mark.parametrize(
    "content",
    [
        table(("filepath", "title"), "\t"),
        table(("file_name", "text"), ";"),
        table(("image", "text"), end="\r"),
        table(("image", "caption"), end="\r\n").encode("utf-16"),
        table(("Image_Name", "Comment")).encode("utf-8-sig"),
    ],
)
def test_columns_separators_and_encodings(tmp_path, content):
    assert captions_of(write(tmp_path, **{"captions.csv": content})) == CAPTIONS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(("image", "text")).encode("cp1252"), ":2: not UTF-8 (byte 0xe9); convert it from its"),
        ("image,text\n1.jpg,一只狗\n".encode("gbk"), ":2: not UTF-8 (byte 0xb9); convert it from its"),
        (table(("image", "text")).encode("utf-16-le"), ":1: has NUL bytes (perhaps UTF-16 without its mark)"),
        ("image,text\n1.jpg,a\n2.jpg,\"b\n3.jpg,c\n", ":3: not valid CSV (a quote that this row opens is not closed"),
        ('image,text\n1.jpg,a\n2.jpg,"b\n3.jpg,"c"\n4.jpg,d\n', ":3: not valid CSV (a quote that this row opens"),
        ('image,text\n1.jpg,"a\n2.jpg,b"\n3.jpg,c\n', ":2: a quote that this row opens takes in the row '2.jpg,b'"),
        ("image,image,text\n", ":1: header 'image,image,text' names a column twice"),
        ("picture,text\n", ":1: header 'picture,text' must name image and caption (there is no image); add it"),
        ('image,text\n"a\nb.jpg",x\n', ":2: the photo's name 'a\\nb.jpg' has a line end; rename the file"),
        ('image,text\n1.jpg,x\n./../1.jpg,x\n', ":3: image './../1.jpg' is not a file inside the folder"),
    ],
)  # fmt: skip
def test_tables_that_can_not_be_read(tmp_path, content, message):
    with pytest.raises(UserError, match=f"captions.csv{re.escape(message)}") as error:
        load_corpus(str(write(tmp_path, **{"captions.csv": content})))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('caption,image\n"a dog,1.jpg\na cat",2.jpg\n', "a dog,1.jpg"),
        ('split,image,caption\ntrain,1.jpg,"a\ntrain,2.jpg,b"\n', "train,2.jpg,b"),
        ('split,caption,image\ntrain,"a dog,1.jpg\ntrain,a cat",2.jpg\n', "a dog,1.jpg"),
    ],
)
def test_a_quote_that_takes_in_a_row_whatever_the_columns_order(tmp_path, content, row):
    message = f"captions.csv:2: a quote that this row opens takes in the row '{row}'; close it before"
    with pytest.raises(UserError, match=re.escape(message)):
        load_corpus(str(write(tmp_path, **{"captions.csv": content})))


def test_a_caption_with_a_line_end_is_kept(tmp_path):
    rows = "".join(f'"a dog, which runs,\nand a cat {name[0]}",{name}\n' for name in PHOTOS)
    found = captions_of(write(tmp_path, **{"captions.csv": f"caption,image\n{rows}"}))
    assert found["2.jpg"] == "a dog, which runs, and a cat 2"


@pytest.mark.parametrize("column", ["captions", "caption"])
def test_a_list_of_captions_in_a_cell(tmp_path, column):
    rows = "".join(f'{name},"[""a dog {name[0]}"", ""a cat""]"\n' for name in PHOTOS)
    root = write(tmp_path, **{"captions.csv": f"image,{column}\n{rows}"})
    assert load_corpus(str(root)).captions[:2] == ("a dog 1", "a cat")
    write(root, **{"captions.csv": f"image,{column}\n1.jpg,\"['a', 'b']\"\n"})
    with pytest.raises(UserError, match=r"captions.csv:2: caption: not valid JSON .*; correct the row"):
        load_corpus(str(root))


def test_two_columns_that_could_be_the_caption(tmp_path, caplog):
    lines = [json.dumps({"image": name, "title": "x", "text": "y"}) for name in PHOTOS]
    for name, content, line in (
        (
            "captions.csv",
            "image,title,captions\n1.jpg,x,y\n",
            ":1: header 'image,title,captions' has title and captions",
        ),
        ("captions.jsonl", "\n".join(lines), ":1 has text and title"),
    ):
        write(tmp_path, **{name: content})
        with pytest.raises(UserError, match=re.escape(f"{name}{line}, each of which could be the caption; call the")):
            load_corpus(str(tmp_path))
        (tmp_path / name).unlink()
    rows = "".join(f"{name},x,y\n" for name in PHOTOS)
    assert set(captions_of(write(tmp_path, **{"captions.csv": f"image,title,caption\n{rows}"})).values()) == {"y"}
    with caplog.at_level(logging.INFO):
        captions_of(write(tmp_path, **{"captions.csv": f"path,number,text\n{rows}"}))
    assert "captions.csv:1: header 'path,number,text': path is taken as the image, text as the caption" in caplog.text


def test_a_caption_of_null_counts_as_an_empty_one(tmp_path):
    lines = [json.dumps({"image": name, "caption": None if name == "2.jpg" else "a"}) for name in PHOTOS]
    root = write(tmp_path, **{"captions.jsonl": "\n".join(lines)})
    with pytest.raises(UserError, match=r"1 of 4 captions are empty or only punctuation \(the first: of 2.jpg\)"):
        load_corpus(str(root))
    assert "2.jpg" not in captions_of(root, allow_partial=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"image": "1.jpg", "caption": "\\ud800"}', "half of a character"),
        ('{"image": 1, "caption": "a"}', "not an object with the texts"),
    ],
    ids=("deep", "surrogate", "number"),
)
def test_lines_of_json_that_can_not_be_read(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"captions.jsonl:1: .*{message}"):
        load_corpus(str(write(tmp_path, **{"captions.jsonl": line})))


def test_captions_without_words(tmp_path, caplog):
    root = write(tmp_path, **{"captions.csv": "image,caption\n1.jpg,a\n2.jpg,b\n3.jpg,c\n4.jpg,d\n4.jpg,\n4.jpg,。!\n"})
    with pytest.raises(UserError, match=r"2 of 6 captions are empty or only punctuation \(the first: of 4.jpg\);"):
        load_corpus(str(root))
    assert len(captions_of(root, allow_partial=True)) == 4
    assert "2 of 6 captions are empty or only punctuation" in caplog.text


def test_an_older_run_keeps_captions_without_words(tmp_path):
    root = write(tmp_path, **{"captions.csv": "image,caption\n1.jpg,a\n2.jpg,b\n3.jpg,...\n3.jpg,c\n"})
    data = DataConfig(data=str(root), word_rule="ascii")
    assert corpus_of(data, progress=False).captions == ("a", "...", "c", "b")
    with pytest.raises(UserError, match="1 of 4 captions are empty or only punctuation"):
        corpus_of(dataclasses.replace(data, word_rule="unicode"), progress=False)


def test_a_photo_whose_list_of_captions_is_empty(tmp_path):
    lines = [json.dumps({"image": f"{n}.jpg", "captions": [] if n == 2 else ["a", "b"]}) for n in (1, 2, 3, 4)]
    root = write(tmp_path, **{"captions.jsonl": "\n".join(lines)})
    with pytest.raises(UserError, match=r"1 of 7 captions are empty or only punctuation \(the first: of 2.jpg\)"):
        load_corpus(str(root), need_images=False)
    assert load_corpus(str(root), need_images=False, allow_partial=True).file_ids == (
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "4.jpg",
    )


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("captions.csv", "{}.jpg,a, "),
        ("captions.jsonl", '{{"image": "{}.jpg", "caption": "a", "split": null}}'),
        ("captions.jsonl", '{{"image": "{}.jpg", "caption": "a", "split": ""}}'),
    ],
)
def test_a_split_that_no_row_says(tmp_path, file, row):
    header = "image,caption,split\n" if file.endswith("csv") else ""
    write(tmp_path, **{file: header + "\n".join(row.format(n) for n in (1, 2, 3, 4))})
    assert set(load_corpus(str(tmp_path), need_images=False).splits) == {"train", "val", "test"}


def test_metadata_in_the_folder_of_one_split_is_divided(tmp_path, caplog):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\n" + "".join(f"{n}.jpg,a\n" for n in range(10)))
    with caplog.at_level(logging.INFO):
        corpus = load_corpus(str(tmp_path), need_images=False)
    assert {split: len(rows) for split, rows in corpus.splits.items()} == {"train": 8, "val": 1, "test": 1}
    assert "has no split field: 8 train, 1 val, 1 test images" in caplog.text


def test_metadata_of_hugging_face_in_folders_of_splits(tmp_path, caplog):
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").write_text(split)
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\n1.jpg,of {split}\n")
    with caplog.at_level(logging.INFO):
        corpus = load_corpus(str(tmp_path))
    assert corpus.split("val").image_ids == ("validation/1.jpg",)
    assert corpus.split("test").captions == ("of test",)
    assert corpus.split("train").image_paths == (tmp_path / "train" / "1.jpg",)
    assert "the folders' names are the splits" in caplog.text


@pytest.mark.parametrize("place", ["extra", "data/extra"])
def test_a_folder_beside_those_of_splits_is_refused(tmp_path, place):
    for folder in ("train", "test", place):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metadata.csv").write_text("file_name,text\n1.jpg,a\n2.jpg,b\n")
    message = f"folders of splits, but {place}/1.jpg in none of them .*; move {place}, or give all rows the field split"
    with pytest.raises(UserError, match=message):
        load_corpus(str(tmp_path), need_images=False)


def test_metadata_of_hugging_face_beside_the_photos(tmp_path):
    lines = [json.dumps({"file_name": name, "text": [text, "b"]}) for name, text in CAPTIONS.items()]
    corpus = load_corpus(str(write(tmp_path, **{"metadata.jsonl": "\n".join(lines)})))
    assert dict(zip(corpus.image_ids, corpus.captions[::2])) == CAPTIONS


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_a_text_beside_each_photo(tmp_path, ending, caplog):
    """img2dataset: shards in folders, and their statistics."""
    texts = {
        name: json.dumps({"caption": text}) if ending == "json" else f"{text}\n" for name, text in CAPTIONS.items()
    }
    files = {f"00000/{name[:-4]}.{ending}": text for name, text in texts.items()}
    photos = {f"00000/{name}": "x" for name in ("1.JPG", "2.jfif", "3.jpe", "4.png", "5.jpg")}
    write(tmp_path, **files, **photos, **{"00000_stats.json": "{}"})
    found = captions_of(tmp_path)
    assert sorted(found) == ["00000/1.JPG", "00000/2.jfif", "00000/3.jpe", "00000/4.png"]
    assert found["00000/3.jpe"] == CAPTIONS["3.jpg"]
    assert "5 photos have no text beside them (the first: " in caplog.text  # 00000/5.jpg, and PHOTOS


def test_a_text_beside_a_photo_has_a_caption_on_each_line(tmp_path):
    texts = {f"{name[:-4]}.txt": f"A dog {name}.\n\nA cat.\r\n" for name in PHOTOS}
    corpus = load_corpus(str(write(tmp_path, **texts)))
    assert len(corpus.captions) == 8
    assert corpus.split("train").captions[-2:] == ("A dog 4.jpg.", "A cat.")


def test_labels_of_yolo_are_no_captions(tmp_path):
    root = write(tmp_path, **{f"{name[:-4]}.txt": "0 0.5 0.5 1.0 .25\n17 0.1 0.2 3e-05 0.4\n" for name in PHOTOS})
    with pytest.raises(UserError, match=r"1.txt: holds only numbers, as YOLO's labels; captions are expected beside"):
        load_corpus(str(root))


def test_null_in_the_file_beside_a_photo_counts_as_an_empty_caption(tmp_path):
    texts = {f"{name[:-4]}.json": json.dumps({"caption": None if name == "2.jpg" else "a"}) for name in PHOTOS}
    root = write(tmp_path, **texts)
    with pytest.raises(UserError, match=r"1 of 4 captions are empty or only punctuation \(the first: of 2.jpg\)"):
        load_corpus(str(root))
    assert sorted(captions_of(root, allow_partial=True)) == ["1.jpg", "3.jpg", "4.jpg"]
    write(root, **{"2.json": '{"text": "a"}'})
    with pytest.raises(UserError, match=r"2.json: has no text 'caption'"):
        load_corpus(str(root), allow_partial=True)


def test_a_photo_whose_name_is_not_utf8(tmp_path):
    for ending in (b"jpg", b"txt"):
        with open(os.path.join(os.fsencode(tmp_path), b"\xff." + ending), "wb") as file:
            file.write(b"x")
    with pytest.raises(UserError, match=r"the photo's name '\\udcff.jpg' is no Unicode text; rename the file"):
        load_corpus(str(tmp_path))


def test_lines_beside_lists_of_names(tmp_path):
    lists = {"train.en": "A\nB\n", "train.txt": "1.jpg\n2\n", "val.en": "C\n", "image_splits/val.txt": "3.jpg#0\n"}
    root = write(tmp_path, **lists, **{"test_2016_flickr.en": "D", "test_2016_flickr.txt": "4.jpg\n"})
    corpus = load_corpus(str(root))
    assert dict(zip(corpus.image_ids, corpus.captions)) == {"1.jpg": "A", "2.jpg": "B", "3.jpg": "C", "4.jpg": "D"}
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 2, "val": 1, "test": 1}
    (root / "train.de").write_text("A\nB\n")
    with pytest.raises(UserError, match=r"captions of several languages \(de, en\); leave those of one there"):
        load_corpus(str(root))


def test_lines_without_a_list_of_names_and_the_reverse(tmp_path, caplog):
    lists = {"train.en": "A\nB\n", "train.txt": "1.jpg\n2\n", "val.en": "C\n", "val.txt": "3.jpg\n"}
    root = write(tmp_path, **lists, **{"test_2016_flickr.en": "D\n", "test_2016.txt": "4.jpg\n"})
    message = r"test_2016_flickr.en: no list of the photos' names goes with it \(test_2016.txt has no captions\); name"
    with pytest.raises(UserError, match=message):
        load_corpus(str(root))
    (root / "test_2016_flickr.en").unlink()
    assert len(load_corpus(str(root)).image_ids) == 3
    assert "no captions go with test_2016.txt, which is not used" in caplog.text


def test_lines_without_splits_and_lists_of_other_lengths(tmp_path):
    write(tmp_path / "images", **{"images.txt": "1.jpg\n2.jpg\n3.jpg\n", "captions.txt": "A\nB\nC\n"})
    for name in ("images.txt", "captions.txt"):
        (tmp_path / "images" / name).rename(tmp_path / name)
    assert captions_of(tmp_path) == {"1.jpg": "A", "2.jpg": "B", "3.jpg": "C"}
    (tmp_path / "captions.txt").write_text("A\nB\n")
    with pytest.raises(UserError, match=r"captions.txt: has 2 lines, but .*images.txt has 3; one caption and one name"):
        load_corpus(str(tmp_path))


def test_an_absolute_path_into_the_folder(tmp_path):
    rows = "".join(f"{tmp_path / name}\t{text}\n" for name, text in CAPTIONS.items())
    assert captions_of(write(tmp_path, **{"captions.tsv": f"filepath\ttitle\n{rows}"})) == CAPTIONS


def test_other_capitals_in_folder_and_suffix(tmp_path):
    rows = "".join(f"cafe\u0301/{name[:-4]}.JPG,{text}\n" for name, text in CAPTIONS.items())
    write(tmp_path / "Caf\u00e9")
    corpus = load_corpus(str(write(tmp_path, **{"captions.csv": f"image,caption\n{rows}"})))
    assert {path.parent.name for path in corpus.image_paths} == {"Caf\u00e9"}
