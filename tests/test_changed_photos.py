"""Photos that were replaced, touched or copied after their extraction: content decides, not the names."""

import json
import os

import numpy as np
import pytest
from feature_fixtures import tiny_extractor, write_pictures
from PIL import Image

from bssan_tf.features import describer
from bssan_tf.features.extraction import extract_features


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(tmp_path_factory.mktemp("weights"))


def extract(corpus, folder, extractor, **options):
    return extract_features(corpus, folder, extractor, boxes="grid", batch_size=4, progress=False, **options)


def arrays(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def turn(path):
    """Correct the EXIF orientation from 1 to 6; the file keeps its size."""
    content = path.read_bytes()
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    assert content.count(tag + b"\x01") == 1
    path.write_bytes(content.replace(tag + b"\x01", tag + b"\x06"))


@pytest.fixture
def same_sized(tmp_path):
    """Eleven photos, of which 2 and 5 are BMPs of one size, and 7 has an EXIF orientation."""
    found = write_pictures(tmp_path / "photos", 11)
    for row, colour in ((2, "red"), (5, "blue")):
        Image.new("RGB", (40, 30), colour).save(found.image_paths[row], "BMP")
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(25, 40, 3)).save(found.image_paths[7], "JPEG", exif=exif)
    return found


def swap(paths, row, other):
    a, b = paths[row].read_bytes(), paths[other].read_bytes()
    assert len(a) == len(b)
    paths[row].write_bytes(b)
    paths[other].write_bytes(a)


def test_photos_replaced_by_others_of_the_same_size_are_extracted_anew(same_sized, tmp_path, extractor):
    before = np.array(extract(same_sized, tmp_path / "store", extractor).regions)
    swap(same_sized.image_paths, 2, 5)
    turn(same_sized.image_paths[7])
    after = extract(same_sized, tmp_path / "store", extractor).regions
    np.testing.assert_array_equal(after[[2, 5]], before[[5, 2]])
    assert (after[7] != before[7]).any()
    np.testing.assert_array_equal(after, extract(same_sized, tmp_path / "new", extractor).regions)


def test_a_copy_of_the_photos_is_the_same_data_set(same_sized, tmp_path, extractor, monkeypatch):
    extract(same_sized, tmp_path / "store", extractor)
    before = arrays(tmp_path / "store")
    for path in same_sized.image_paths:
        os.utime(path, ns=(1, 1))
    monkeypatch.setattr(extractor, "describe", None)  # nothing is left to extract
    extract(same_sized, tmp_path / "store", extractor)
    after = arrays(tmp_path / "store")
    assert [name for name in before if after[name] != before[name]] == ["stamps.npy"]
    monkeypatch.setattr("bssan_tf.features.extraction.file_digest", lambda _: pytest.fail("hashed again"))
    extract(same_sized, tmp_path / "store", extractor)


def test_check_photos_reads_all(same_sized, tmp_path, extractor):
    store = tmp_path / "store"
    before = np.array(extract(same_sized, store, extractor).regions)
    swap(same_sized.image_paths, 2, 5)
    stamps = np.lib.format.open_memmap(store / "stamps.npy", "r+")
    stamps[:] = [describer.file_state(path).stamps for path in same_sized.image_paths]  # as if nothing had been touched
    stamps.flush()
    np.testing.assert_array_equal(extract(same_sized, store, extractor).regions, before)
    after = extract(same_sized, store, extractor, check_photos=True).regions
    np.testing.assert_array_equal(after[[2, 5]], before[[5, 2]])


def test_an_older_store_goes_by_sizes_and_says_what_it_cannot(same_sized, tmp_path, extractor, monkeypatch, caplog):
    store = tmp_path / "store"
    extract(same_sized, store, extractor)
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "format": 1, "kept": []}))
    for name in ("sums", "digests", "stamps"):
        (store / f"{name}.npy").unlink()
    same_sized.image_paths[3].touch()
    monkeypatch.setattr(extractor, "describe", None)  # nothing is left to extract
    with caplog.at_level("INFO"):
        extract(same_sized, store, extractor, check_photos=True)
    assert "of an older version; --check-photos can compare sizes only" in caplog.text
    assert "without checksums; not verified" in caplog.text
