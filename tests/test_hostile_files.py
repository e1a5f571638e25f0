"""Hostile files: each parser gives the right value, or one line that names the file; never another exception."""

from __future__ import annotations

import json
import os

import h5py
import hostile_files as hostile
import numpy as np
import pytest

from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.photos import _read_voc
from bssan_tf.features.faster_rcnn.settings import DetectorConfig
from bssan_tf.features.imported import import_features
from bssan_tf.features.objects import BoxesFile
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.shards import read_progress
from bssan_tf.features.store import open_array, read_manifest
from bssan_tf.reading.arrays import first_not_finite, open_npy, read_npz, texts
from bssan_tf.reading.documents import lines_of, parse_json, parse_xml, read_json, read_text
from bssan_tf.reading.hdf5 import check_keras, open_hdf5

REMEDY = "give another file"
ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
MEMBERS = {"names.npy": hostile.saved(np.array(["a.jpg", "b.jpg"])), "boxes.npy": hostile.saved(np.ones((2, 3, 6)) * 9)}
VOC = (
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    b"</object></annotation>"
)


def refused(parse, path, content: bytes) -> str | None:
    """What a parser's UserError says of this content, or None; whatever else it raises fails the test."""
    path.write_bytes(content)
    said = None
    try:
        parse(path)
    except UserError as error:
        said = str(error)
    assert said is None or (str(path) in said and "\n" not in said)
    return said


def read_h5(path):
    """All arrays of a small .h5, and its attribute."""
    with open_hdf5(path, REMEDY) as file:
        found, names = {}, list(file.attrs["layer_names"])
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
        return found, names


PARSERS = {
    "npy": (lambda path: open_npy(path, REMEDY), lambda folder: hostile.hostile_npy()),
    "npy read": (lambda path: open_npy(path, REMEDY, mmap=False), lambda folder: hostile.hostile_npy()),
    "npz": (lambda path: read_npz(path, REMEDY), lambda folder: hostile.hostile_npz(MEMBERS)),
    "boxes": (BoxesFile, lambda folder: hostile.hostile_npz(MEMBERS)),
    "json": (lambda path: read_json(path, REMEDY), lambda folder: hostile.hostile_json()),
    "xml": (lambda path: parse_xml(path, REMEDY), lambda folder: hostile.hostile_xml()),
    "voc": (_read_voc, lambda folder: hostile.hostile_xml()),
    "h5": (read_h5, hostile.hostile_h5),
    "keras": (lambda path: check_keras(path, REMEDY), hostile.hostile_keras),
}


STORE = {  # of a feature store, by name
    "manifest.json": (lambda path: read_manifest(path.parent), lambda folder: hostile.hostile_manifests()),
    "regions.npy": (lambda path: open_array(path.parent, "regions", (3, 4), "float32"), PARSERS["npy"][1]),
    "shard-1-of-2.json": (lambda path: read_progress(path.parent), lambda folder: hostile.hostile_progress()),
}


@pytest.mark.parametrize("kind", [*PARSERS, *STORE])
def test_hostile_files_are_refused_with_one_line(tmp_path, kind):
    parse, cases = {**PARSERS, **STORE}[kind]
    path = tmp_path / (kind if kind in STORE else "x")
    (tmp_path / "beside").mkdir()
    assert [name for name, content in cases(tmp_path / "beside") if refused(parse, path, content) is None] == []


KERAS = hostile.packed({"config.json": b"{}", "model.weights.h5": hostile.valid_h5()})
VALID = {
    "npy": (hostile.saved(ARRAY), PARSERS["npy"][0]),
    "npz": (hostile.packed(MEMBERS), PARSERS["npz"][0]),
    "boxes": (hostile.packed(MEMBERS), BoxesFile),
    "json": (
        b'{"name": "Caf\xc3\xa9", "pair": "\\ud83d\\ude00 \\\\ud800", "list": [1, 2.5, null]}',
        PARSERS["json"][0],
    ),
    "voc": (VOC, _read_voc),
    "h5": (hostile.valid_h5(), read_h5),
    "keras": (KERAS, PARSERS["keras"][0]),
    "manifest.json": (json.dumps(hostile.MANIFEST).encode(), STORE["manifest.json"][0]),
    "regions.npy": (hostile.saved(ARRAY), STORE["regions.npy"][0]),
    **{kind: (hostile.valid_picture(kind), read_picture) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")},
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize("kind", VALID)
def test_mutations_are_read_or_refused_with_one_line(tmp_path, kind):
    content, parse = VALID[kind]
    path = tmp_path / (kind if kind in STORE else "x")
    assert refused(parse, path, content) is None
    said = [refused(parse, path, spoiled) for _, spoiled in hostile.mutations(content, seed=len(kind))]
    assert len([text for text in said if text]) >= 5  # at least what was cut


def test_valid_files_give_their_values(tmp_path):
    for kind, (content, _) in VALID.items():
        (tmp_path / kind).write_bytes(content)
    np.testing.assert_array_equal(open_npy(tmp_path / "npy", REMEDY), ARRAY)
    np.testing.assert_array_equal(open_npy(tmp_path / "npy", REMEDY, mmap=False), ARRAY)
    (tmp_path / "F").write_bytes(hostile.saved(np.asfortranarray(ARRAY)))
    (tmp_path / "none").write_bytes(hostile.saved(ARRAY[:0]))
    np.testing.assert_array_equal(open_npy(tmp_path / "F", REMEDY), ARRAY)
    assert open_npy(tmp_path / "none", REMEDY).shape == (0, 4)
    assert read_npz(tmp_path / "npz", REMEDY, ("names",), ("labels",))["names"].tolist() == ["a.jpg", "b.jpg"]
    assert read_json(tmp_path / "json", REMEDY)["pair"] == "😀 \\ud800"
    assert [one.tag for one in parse_xml(tmp_path / "voc", REMEDY)] == ["object"]
    found, names = read_h5(tmp_path / "h5")
    assert (sorted(found), names, found["one/kernel"].sum()) == (["one/bias", "one/kernel"], ["one"], 12)


def test_what_is_no_file_is_told_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "no such file"), ("pipe", "is not a regular file"), (".", "is a folder")):
        for parse in (read_picture, BoxesFile, *(parse for parse, _ in PARSERS.values())):
            with pytest.raises(UserError, match=words):
                parse(tmp_path / name)


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\u2028x\r\ny\rz".encode())
    assert lines_of(read_text(path, REMEDY)) == ["é\u2028x", "y", "z"]
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"a\.txt: line 3 is not UTF-8 \(byte 0xe9\); give another file"):
        read_text(path, REMEDY)


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [("utf-16", "is UTF-16"), ("utf-16-be", r"has NUL bytes \(perhaps UTF-16 without its mark\)")],
)
@pytest.mark.parametrize("read", [read_text, read_json])
def test_utf16_is_named(tmp_path, read, encoding, problem):
    (tmp_path / "a").write_text('{"a": "b"}', encoding=encoding)
    with pytest.raises(UserError, match=rf"a: {problem}, and UTF-8 is expected; convert it, or give another file"):
        read(tmp_path / "a", REMEDY)
    assert parse_json("[1]", "x", REMEDY, (dict, list)) == [1]


def test_names_that_are_no_text_are_refused():
    for codes in ([0xD800], [0x110000]):
        with pytest.raises(ValueError, match="names are not all Unicode text"):
            texts(np.array(codes, np.uint32).view("<U1"), "names")
    assert texts(np.array(["a", "é😀"]), "names") == ("a", "é😀")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite(dtype, value, monkeypatch):
    monkeypatch.setattr("bssan_tf.reading.arrays.BLOCK_BYTES", 64)
    rows = np.full((100, 2, 3), np.finfo(dtype).max, dtype)
    assert first_not_finite(rows) is None
    rows[[57, 83], 1, 2] = value
    assert first_not_finite(rows) == 57


def test_one_spoiled_row_of_many_is_named(tmp_path):
    regions = np.zeros((3000, 1, 2), np.float16)  # more rows than a sample would show
    regions[1234, 0, 1] = np.nan
    np.save(tmp_path / "r.npy", regions)
    with pytest.raises(UserError, match=r"--import-regions .*r\.npy: the features of 1234 are not finite"):
        import_features([str(row) for row in range(3000)], tmp_path / "r.npy")


@pytest.mark.parametrize(("name", "text"), list(hostile.detector_settings()))
def test_settings_that_are_no_detectors(name, text):
    with pytest.raises(UserError, match=r"^w\.npz: its settings (are not a detector's|.*JSON)"):
        DetectorConfig.from_json(text, "w.npz")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n/x 1 def showpage\n"
FITS = b"".join(
    line.ljust(80) for line in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 4", b"NAXIS2  = 4", b"END")
).ljust(2880) + bytes(2880)


@pytest.mark.parametrize("content", [POSTSCRIPT, FITS, b"P6 2 2 255\n" + bytes(12)], ids=["eps", "fits", "ppm"])
def test_formats_that_are_no_photos_are_not_tried(tmp_path, content):
    said = refused(read_picture, tmp_path / "x.jpg", content)
    assert said is not None
    assert "cannot identify image file" in said
