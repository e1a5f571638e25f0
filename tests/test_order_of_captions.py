"""Photos stay in the order in which the captions' file names them first, by which imported rows are assigned."""

import json

import numpy as np
import pytest

from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import load_corpus
from bssan_tf.datasets.caption_files import (
    read_annotations_csv,
    read_karpathy,
    read_results,
    read_table,
    read_token_file,
)
from bssan_tf.datasets.coco import read_annotations
from bssan_tf.errors import UserError
from bssan_tf.runs.data import open_data

NAMES = ("c.jpg", "a.jpg", "d.jpg", "b.jpg")
ROWS = [("c.jpg", 1), ("a.jpg", 0), ("c.jpg", 2), ("d.jpg", 3), ("b.jpg", 0), ("a.jpg", 1)]  # c and d have no caption 0
TABLE = "".join(f"{name},text {k}\n" for name, k in ROWS)
RESULTS = "".join(f"{name}| {k}| text {k}\n" for name, k in ROWS)
LINES = "".join(json.dumps({"image": name, "caption": f"text {k}"}) + "\n" for name, k in ROWS)
KARPATHY = {"images": [{"filename": name, "split": "train", "sentences": [{"raw": "text"}]} for name in NAMES]}
COCO = {
    "images": [{"id": number, "file_name": name} for number, name in zip((9, 3, 5, 1), NAMES)],
    "annotations": [{"image_id": number, "caption": "text"} for number in (1, 3, 5, 9)],
}


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_token_file, "".join(f"{name}#{k}\ttext {k}\n" for name, k in ROWS)),
        (read_results, f"image_name| comment_number| comment\n{RESULTS}"),
        (read_table, f"image,caption\n{TABLE}"),
        (read_annotations_csv, "filename,raw,split\n" + "".join(f'{name},"[""text""]",train\n' for name in NAMES)),
        (read_karpathy, json.dumps(KARPATHY)),
        (read_annotations, json.dumps(COCO)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_order_of_a_published_file(tmp_path, read, content):
    (tmp_path / "file").write_text(content)
    found = read(tmp_path / "file")
    assert tuple(getattr(found, "captions", found)) == NAMES


@pytest.mark.parametrize(
    "files",
    [
        {"captions.csv": f"image,caption\n{TABLE}"},
        {"captions.jsonl": LINES},
        {"metadata.jsonl": LINES},
        {
            "captions.txt": "".join(f"text {k}\n" for _, k in ROWS),
            "images.txt": "".join(f"{name}\n" for name, _ in ROWS),
        },
    ],
    ids=lambda files: next(iter(files)),
)
def test_order_of_a_folder(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = load_corpus(str(tmp_path), need_images=False)
    assert found.one_file
    assert found.file_ids == NAMES


def test_order_of_several_metadata_files_is_that_of_their_folders(tmp_path):
    folders = ("z", "m", "a", "k", "y", "b")
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metadata.csv").write_text("file_name,text\n1.jpg,text\n")
    found = load_corpus(str(tmp_path), need_images=False)
    assert not found.one_file
    assert found.file_ids == tuple(f"{folder}/1.jpg" for folder in sorted(folders))


def coco_parts():
    for part, shift in (("train", 0), ("val", 10)):
        images = [{"id": n + shift, "file_name": f"{n + shift}.jpg"} for n in range(4)]
        captions = [{"image_id": image["id"], "caption": "text"} for image in images]
        yield f"captions_{part}2014.json", json.dumps({"images": images, "annotations": captions})


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("", {f"{split}/metadata.csv": "file_name,text\n1.jpg,a\n2.jpg,b\n" for split in ("train", "val", "test")}),
        ("", {f"{split}{end}": f"{split}\n" for split in ("train", "val", "test") for end in (".en", ".txt")}),
        ("", {f"{n}{end}": "text" for n in range(4) for end in (".jpg", ".txt")}),
        ("coco", dict(coco_parts())),
    ],
    ids=["metadata", "lines", "texts", "coco"],
)
def test_rows_without_ids_are_refused_where_several_files_hold_the_captions(tmp_path, data, files):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    given = {"data": data, "root": str(tmp_path)} if data else {"data": str(tmp_path)}
    count = {"coco": 8}.get(data, 6)
    np.save(tmp_path / "r.npy", np.zeros((count, 4, 3), np.float32))
    config = DataConfig(**given, import_regions=str(tmp_path / "r.npy"), allow_partial=True, imported_order="file")
    with pytest.raises(UserError, match=r"captions come from several files, .*; say by --import-ids FILE.txt"):
        open_data(config, progress=False)
    ids = load_corpus(**given, allow_partial=True, need_images=False).image_ids
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids" / "ids.list").write_text("".join(f"{name}\n" for name in reversed(ids)))
    np.save(tmp_path / "r.npy", np.arange(len(ids) * 12, dtype=np.float32).reshape(-1, 4, 3))
    rows = dict(given, import_regions=str(tmp_path / "r.npy"), import_ids=str(tmp_path / "ids" / "ids.list"))
    features = open_data(DataConfig(**rows, allow_partial=True, imported_order="file"), progress=False).features
    assert features.manifest["rows"]["regions"] == [*range(len(ids))][::-1]
