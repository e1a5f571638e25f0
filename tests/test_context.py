"""Objects with their class and the whole photo beside them."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.experimental.numpy as tnp
from feature_fixtures import tiny_extractor, write_boxes, write_pictures

from bssan_tf.config.presets import preset
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features.context import (
    SHARES,
    RunContext,
    in_context,
    in_context_graph,
    known_classes,
    photo_means,
    with_context,
)
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.store import Features
from bssan_tf.runs import photo
from bssan_tf.runs.data import open_data


def pictures(n=3, P=4, Q=5, D=6, M=7, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "objects": rng.gamma(1, 5, (n, P, Q)).astype(np.float16),
        "classes": rng.integers(-1, classes, (n, P)).astype(np.int32),
        "scores": rng.uniform(size=(n, P)).astype(np.float32),
        "valid": np.arange(P) < rng.integers(1, P, n)[:, None],
        "regions": rng.gamma(1, 2, (n, D, M)).astype(np.float16),
    }


def described(given, Q):
    """`in_context` of such pictures."""
    rest = {name: value for name, value in given.items() if name != "regions"}
    return in_context(**rest, means=photo_means(given["regions"]), Q=Q)


def test_objects_without_class_are_the_same_in_a_graph():
    given = pictures()
    given["objects"][0, 0] = 0
    tensors = [tf.constant(given[name]) for name in ("objects", "valid", "regions")]
    found = tf.function(lambda *given: in_context_graph(*given, RunContext(15), xp=tnp))(*tensors).numpy()
    given["classes"][:] = -1
    assert 0 < given["valid"].mean() < 1
    np.testing.assert_allclose(found, described(given, Q=15), rtol=1e-5, atol=1e-9)
    assert found.dtype == np.float32


def test_each_part_has_its_share_and_says_what_it_should():
    given = pictures()
    found = described(given, Q=5 + 3 + 7)
    assert found.shape == (3, 4, 15)
    assert found.dtype == np.float32
    for i, p in np.ndindex(3, 4):
        own, named, photo = np.split(found[i, p], [5, 8])
        if not given["valid"][i, p]:
            assert not found[i, p].any()
            continue
        vector = given["objects"][i, p].astype(np.float32)
        np.testing.assert_allclose(own, SHARES[0] * vector / vector.sum(), rtol=1e-4)
        expected = np.zeros(3)
        if given["classes"][i, p] >= 0:
            expected[given["classes"][i, p]] = SHARES[1] * given["scores"][i, p]
        np.testing.assert_allclose(named, expected, rtol=1e-5)
        mean = given["regions"][i].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(photo, mean / mean.sum(), rtol=1e-4)


def test_a_class_without_a_place_is_left_out_and_zeros_stay_zeros():
    given = pictures(classes=9)
    assert np.isfinite(described(given, Q=5 + 2 + 7)).all()
    given["objects"][:], given["classes"][:] = 0, -1
    assert not described(given, Q=5 + 2 + 7)[..., :7].any()


def test_rows_are_read_as_numpy_reads_them():
    given = pictures(n=6)
    features = with_context(Features(tuple("abcdef"), **given))
    assert features.in_context
    whole = described(given, Q=features.objects.shape[2])
    assert features.objects.shape == whole.shape
    assert len(features.objects) == 6
    for rows in (2, slice(1, 4), np.array([4, 0, 4]), np.arange(6) % 2 == 0, -1):
        np.testing.assert_array_equal(features.objects[rows], whole[rows])


class Counted:
    """An array that remembers which rows were read of it at once."""

    def __init__(self, array):
        self.array, self.shape, self.reads = array, array.shape, []

    def __getitem__(self, rows):
        self.reads.append(list(rows))
        return self.array[rows]


def test_the_regions_of_a_picture_are_read_once_and_few_at_a_time():
    given = pictures(n=150)
    regions = Counted(given["regions"])
    features = with_context(Features(tuple(map(str, range(150))), **{**given, "regions": regions}))
    whole = described(given, Q=features.objects.shape[2])
    np.testing.assert_array_equal(features.objects[np.array([70, 3, 70])], whole[[70, 3, 70]])
    assert regions.reads == [[3, 70]]
    np.testing.assert_array_equal(features.objects[:], whole)
    np.testing.assert_array_equal(features.objects[3], whole[3])
    assert sorted(row for read in regions.reads for row in read) == list(range(150))
    assert max(map(len, regions.reads)) <= 64


def test_places_are_those_of_the_labels_or_of_the_classes_that_occur():
    given = pictures()
    given["classes"][0, 0] = 2
    assert with_context(Features(tuple("abc"), **given)).objects.shape[2] == 5 + 3 + 7
    named = Features(tuple("abc"), **given, manifest={"labels": list("uvwxyz")})
    assert with_context(named).objects.shape[2] == 5 + 6 + 7
    assert with_context(named, RunContext(20)).objects.shape[2] == 20
    given["classes"][:] = -1  # ten fixed boxes have no classes
    assert with_context(Features(tuple("abc"), **given)).objects.shape[2] == 5 + 7


def test_classes_of_other_boxes_are_found_by_name(caplog):
    classes = np.array([[0, 1, -1], [2, 7, 1]], np.int32)
    found = known_classes(classes, ("cat", "dog", "yak"), ["dog", "emu", "cat"])
    assert found.tolist() == [[2, 0, -1], [-1, -1, 0]]
    assert found.dtype == np.int32
    assert "does not know the class of 2 of 5 objects" in caplog.text


def test_classes_without_a_name_in_file_or_run(caplog):
    classes = np.array([[0, 1, -1]], np.int32)
    for labels in (None, ("cat", "dog")):  # a run from before labels were kept, or whose boxes have none
        assert known_classes(classes, labels, None).tolist() == [[0, 1, -1]]
    assert known_classes(classes, ("a", "a"), ["a", "a"]).tolist() == [[0, 1, -1]]  # its own boxes
    assert known_classes(0 * classes - 1, None, ["cat"]).tolist() == [[-1, -1, -1]]  # ten fixed ones
    assert not caplog.text
    assert known_classes(classes, None, ["cat", "dog"]).tolist() == [[-1, -1, -1]]
    assert "does not know the class of 2 of 2 objects" in caplog.text


def test_a_store_of_other_boxes_fills_the_places_of_the_run():
    given = pictures()
    given["classes"][:] = 1
    features = Features(tuple("abc"), **given, manifest={"labels": ["cat", "dog"]})
    found = with_context(features, RunContext(5 + 3 + 7, ["dog", "emu", "cat"]))
    np.testing.assert_array_equal(found.objects[:], described({**given, "classes": 0 * given["classes"]}, 5 + 3 + 7))
    np.testing.assert_array_equal(found.classes, given["classes"])  # as the labels of the store name them


def test_imported_arrays_have_no_context():
    given = pictures()
    with pytest.raises(UserError, match="--object-context: needs regions, and objects of a detector"):
        with_context(Features(tuple("abc"), regions=given["regions"], objects=given["objects"]))


def test_a_new_photo_is_described_as_the_corpus_was(tmp_path, monkeypatch):
    corpus, boxes = write_pictures(tmp_path / "photos", 3), tmp_path / "boxes.npz"
    write_boxes(boxes, corpus)
    extractor = tiny_extractor(tmp_path)
    stored = extract_features(corpus, tmp_path / "store", extractor, boxes=boxes, progress=False)
    features = with_context(stored)
    Q, run = features.objects.shape[2], SimpleNamespace(trained_data=dict)
    config = preset("improved", data="flickr8k").replace(boxes=str(boxes), objects="boxes", Q=Q)
    monkeypatch.setattr(photo, "extractors_of", lambda *_: (extractor, None))
    one = photo.Photo.read(corpus.image_paths[1], config.data)
    found, _ = photo.PhotoReader(run, config, boxes).read([one])
    np.testing.assert_allclose(found.objects[0], features.objects[1], atol=2e-4)
    np.testing.assert_array_equal(found.regions[0], features.regions[1])


def test_off_in_paper_on_scenes_and_on_for_photos():
    assert not preset("paper", data="flickr8k").data.object_context
    assert not preset("improved").data.object_context
    assert preset("improved", data="flickr8k").data.object_context


def test_the_flag_and_imports_do_not_go_together(tmp_path, monkeypatch):
    monkeypatch.setattr("bssan_tf.runs.data.load_corpus", lambda *a, **k: SimpleNamespace(image_ids=()))
    data = DataConfig(data="flickr8k", import_regions="r.npy", import_objects="o.npy", object_context=True)
    with pytest.raises(UserError, match=r"leave --import-regions .* or train with --no-object-context"):
        open_data(data)
