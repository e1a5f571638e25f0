"""A user's own arrays: any sizes, any order of rows, and the errors about them."""

import dataclasses
import hashlib
import logging

import numpy as np
import pytest

from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features import imported
from bssan_tf.features.imported import Reordered, content_sha256, import_features
from bssan_tf.runs.data import open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.photo import extractors_of

IDS = ("a.jpg", "b.jpg", "c.jpg")


def save(path, array):
    np.save(path, array)
    return path


def regions(n=3, D=7, M=5, dtype=np.float32):
    return np.arange(n * D * M, dtype=np.float64).reshape(n, D, M).astype(dtype) + 1


def test_rows_in_corpus_order(tmp_path):
    R, O = regions(), regions(3, 2, 200, np.float16)  # noqa: E741
    features = import_features(IDS, save(tmp_path / "r.npy", R), save(tmp_path / "o.npy", O))
    assert isinstance(features.regions, np.memmap)
    np.testing.assert_array_equal(features.regions, R)
    np.testing.assert_array_equal(features.objects, O)
    assert features.regions.dtype == np.float32
    assert features.objects.dtype == np.float16
    assert features.valid.shape == (3, 2)
    assert features.valid.all()
    assert features.grid is None  # 7 regions lie in no square
    assert features.image_ids == IDS
    assert len(features.bad_rows) == 0
    assert features.boxes is None
    assert features.manifest["extractor"] == "imported"


def test_only_one_of_them_and_a_square_grid(tmp_path):
    features = import_features(IDS, regions=save(tmp_path / "r.npy", regions(D=9)))
    assert features.grid == (3, 3)
    assert features.objects is None
    assert features.valid is None
    features = import_features(IDS, objects=save(tmp_path / "o.npy", regions()))
    assert features.regions is None
    assert features.grid is None


def test_rows_by_ids_in_another_order_with_more_images(tmp_path):
    (tmp_path / "ids.txt").write_text("x.jpg\nc.jpg\n\na.jpg\ny.jpg\nb.jpg\n")
    R = regions(5)
    features = import_features(IDS, save(tmp_path / "r.npy", R), ids=tmp_path / "ids.txt")
    expected = R[[2, 4, 1]]
    assert features.regions.shape == (3, 7, 5)
    assert len(features.regions) == 3
    assert features.regions.ndim == 3
    np.testing.assert_array_equal(features.regions[np.array([2, 0, 2])], expected[[2, 0, 2]])
    np.testing.assert_array_equal(features.regions[1], expected[1])
    np.testing.assert_array_equal(features.regions[:2], expected[:2])
    np.testing.assert_array_equal(features.regions[np.array([True, False, True])], expected[[0, 2]])


def test_ids_that_begin_like_the_corpus_stay_a_memory_map(tmp_path):
    (tmp_path / "ids.txt").write_text("a.jpg\nb.jpg\nc.jpg\nx.jpg\n")
    features = import_features(IDS, save(tmp_path / "r.npy", regions(4)), ids=tmp_path / "ids.txt")
    assert isinstance(features.regions, np.memmap)
    np.testing.assert_array_equal(features.regions, regions(4)[:3])


def test_reordered_is_indexed_like_an_array():
    array, order = regions(5), np.array([4, 0, 3])
    view, expected = Reordered(array, order), regions(5)[[4, 0, 3]]
    for key in (0, -1, slice(1, None), [0, 2]):
        np.testing.assert_array_equal(view[key], expected[key])
    np.testing.assert_array_equal(np.stack(list(view)), expected)
    with pytest.raises(IndexError):
        view[3]


def test_all_zero_objects_are_padding(tmp_path):
    objects = np.zeros((3, 4, 100), np.float16)
    objects[0, :2] = 1
    objects[1, 0, 99] = -0.5  # only its last number is not 0
    objects[2] = 1
    features = import_features(IDS, objects=save(tmp_path / "o.npy", objects))
    expected = [[True, True, False, False], [True, False, False, False], [True] * 4]
    np.testing.assert_array_equal(features.valid, expected)
    (tmp_path / "ids.txt").write_text("c.jpg\nb.jpg\na.jpg\n")
    features = import_features(IDS, objects=tmp_path / "o.npy", ids=tmp_path / "ids.txt")
    np.testing.assert_array_equal(features.valid, expected[::-1])


def test_padding_over_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("bssan_tf.features.imported.BLOCK_BYTES", 1)
    objects = np.ones((3, 2, 4), np.float32)
    objects[1, 1] = 0
    features = import_features(IDS, objects=save(tmp_path / "o.npy", objects))
    np.testing.assert_array_equal(features.valid, [[True, True], [True, False], [True, True]])


NAN = regions()
NAN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (regions()[0], r"--import-regions .*r\.npy: shape \(7, 5\), wanted is \(N, D, M\)"),
        (regions(dtype=np.float64), "dtype float64, wanted is float16 or float32"),
        (regions(dtype=np.int32), "dtype int32"),
        (regions(2), "2 rows for 3 images in the captions' file; say by --import-ids"),
        (np.zeros((3, 0, 5), np.float32), r"shape \(3, 0, 5\)"),
        (NAN, r"the features of b\.jpg are not finite"),
    ],
)
def test_arrays_that_are_wrong(tmp_path, array, words):
    with pytest.raises(UserError, match=words) as error:
        import_features(IDS, save(tmp_path / "r.npy", array))
    assert "\n" not in str(error.value)


def test_objects_are_named_as_such(tmp_path):
    with pytest.raises(UserError, match=r"--import-objects .*: shape \(7, 5\), wanted is \(N, P, Q\)"):
        import_features(IDS, objects=save(tmp_path / "o.npy", regions()[0]))


def test_files_that_are_no_arrays(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    whole = save(tmp_path / "torn.npy", regions()).read_bytes()
    (tmp_path / "torn.npy").write_bytes(whole[:-4])
    for name, words in (("none", "no such file"), ("pickle", "not a"), ("text", "not a"), ("torn", "not a complete")):
        with pytest.raises(UserError, match=rf"{name}\.npy: {words}"):
            import_features(IDS, tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    ("text", "rows", "words"),
    [
        ("a.jpg\nb.jpg\n", 2, r"1 of the 3 images of the data set are not in it, the first c\.jpg"),
        ("a.jpg\nb.jpg\nc.jpg\nb.jpg\n", 4, r"b\.jpg occurs twice"),
        ("a.jpg\nb.jpg\nc.jpg\n", 4, r"r\.npy: 4 rows, --import-ids .*ids\.txt has 3 ids"),
    ],
)
def test_ids_files_that_are_wrong(tmp_path, text, rows, words):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        import_features(IDS, save(tmp_path / "r.npy", regions(rows)), ids=tmp_path / "ids.txt")


def test_no_ids_file(tmp_path):
    with pytest.raises(UserError, match=r"--import-ids .*none\.txt: no such file"):
        import_features(IDS, save(tmp_path / "r.npy", regions()), ids=tmp_path / "none.txt")


def test_no_extractor_for_new_photos(tmp_path):
    with pytest.raises(UserError, match="imported arrays"):
        extractors_of(RunFolder(tmp_path), DataConfig(import_regions="regions.npy"))


def test_content_sha256(tmp_path, monkeypatch):
    path, content = tmp_path / "r.npy", bytearray(range(256)) * 8
    path.write_bytes(content)
    assert content_sha256(path) == hashlib.sha256(content).hexdigest()
    for name, value in (("WHOLE_BYTES", 2047), ("HASHED_BLOCKS", 3), ("HASHED_BYTES", 16)):
        monkeypatch.setattr(imported, name, value)
    in_part = content_sha256(path)
    for place, seen in ((0, True), (1020, True), (2047, True), (500, False)):  # 16 bytes at 0, 1016, 2032
        changed = content[:]
        changed[place] ^= 1
        path.write_bytes(changed)
        assert (content_sha256(path) != in_part) == seen
    path.write_bytes(content + b"x")
    assert content_sha256(path) != in_part


def test_rows_without_ids_are_in_the_order_of_the_captions_file(tmp_path, caplog):
    listed = ("c.jpg", "left_out.jpg", "a.jpg", "b.jpg")  # the splits have another order, and leave one out
    R = regions(4)
    with caplog.at_level(logging.INFO):
        features = import_features(IDS, save(tmp_path / "r.npy", R), file_ids=listed)
    np.testing.assert_array_equal(features.regions[:], R[[2, 3, 0]])
    assert features.manifest["rows"] == {"regions": [2, 3, 0]}
    assert "rows in the order of the captions' file, the first c.jpg, left_out.jpg, a.jpg" in caplog.text
    same = import_features(IDS, tmp_path / "r.npy", file_ids=(*IDS, "left_out.jpg"))
    np.testing.assert_array_equal(same.regions, R[:3])
    assert ("order" in features.manifest, "order" in same.manifest) == (True, False)  # what earlier runs had


def test_a_row_for_each_caption_is_told_and_taken(tmp_path, caplog):
    R, O = np.repeat(regions(), 5, axis=0), regions()[:, :2]  # noqa: E741
    with caplog.at_level(logging.INFO):
        features = import_features(
            IDS, save(tmp_path / "r.npy", R), save(tmp_path / "o.npy", O), file_ids=("b.jpg", "a.jpg", "c.jpg")
        )
    np.testing.assert_array_equal(features.regions[:], regions()[[1, 0, 2]])
    np.testing.assert_array_equal(features.objects[:], O[[1, 0, 2]])
    assert features.manifest["rows"] == {"regions": [5, 0, 10], "objects": [1, 0, 2]}
    assert "captions' file, each 5 times, the first b.jpg" in caplog.text


@pytest.mark.parametrize(
    ("count", "listed"),
    [
        (3, ("c.jpg", "x.jpg", "a.jpg", "b.jpg")),  # one for each image of the splits, which have another order
        (15, IDS),  # five an image, but not five equal ones
        (2, IDS),
        (7, IDS),
    ],
)
def test_rows_that_could_be_of_others_are_refused(tmp_path, count, listed):
    with pytest.raises(UserError, match=rf"{count} rows for {len(listed)} images in the captions' file; say by --impo"):
        import_features(IDS, save(tmp_path / "r.npy", regions(count)), file_ids=listed)


def test_one_row_for_each_image_that_is_left_in_the_files_order(tmp_path):
    features = import_features(IDS, save(tmp_path / "r.npy", regions()), file_ids=("a.jpg", "x.jpg", "b.jpg", "c.jpg"))
    np.testing.assert_array_equal(features.regions, regions())


def test_a_folder_with_mixed_splits_takes_the_files_order(tmp_path):
    rows = [(f"{i}.jpg", "A dog.", ("test", "train", "val")[i % 3]) for i in range(6)]
    text = "\n".join(map(",".join, [("image", "caption", "split"), *rows]))
    (tmp_path / "captions.csv").write_text(text)
    R = regions(6)
    data = open_data(DataConfig(data=str(tmp_path), import_regions=str(save(tmp_path / "r.npy", R))), progress=False)
    for row, image_id in enumerate(data.corpus.image_ids):
        np.testing.assert_array_equal(data.features.regions[row], R[int(image_id[0])])
    assert data.corpus.image_ids[:2] == ("1.jpg", "4.jpg")
    assert data.imported_rows.splitlines()[:2] == ["image,regions", "1.jpg,1"]
    assert set(data.fingerprint["imported_sha256"]) == {"regions", "order"}


def test_an_earlier_run_keeps_the_order_of_the_splits(tmp_path):
    rows = [("0.jpg", "A dog.", "test"), ("1.jpg", "A dog.", "train"), ("2.jpg", "A dog.", "val")]
    (tmp_path / "captions.csv").write_text("\n".join(map(",".join, [("image", "caption", "split"), *rows])))
    settings = DataConfig(data=str(tmp_path), import_regions=str(save(tmp_path / "r.npy", regions())))
    data = open_data(dataclasses.replace(settings, imported_order="splits"), progress=False)
    np.testing.assert_array_equal(data.features.regions, regions())
    assert data.corpus.image_ids == ("1.jpg", "2.jpg", "0.jpg")
    assert set(data.fingerprint["imported_sha256"]) == {"regions"}  # as its data.json has it
