"""The ten fixed boxes in place of a store's own, computed from its regions, and batches that show both."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from feature_fixtures import extract, tiny_extractor, write_boxes, write_pictures
from test_pipeline import make_features, make_split, make_tokens
from training_fixtures import make_config

from bssan_tf.errors import UserError
from bssan_tf.features.context import RunContext, with_context
from bssan_tf.features.fixed_boxes import objects_of_read, with_fixed_boxes
from bssan_tf.runs.folder import RunFolder
from bssan_tf.training import run as training
from bssan_tf.training.batches import PairStream

COUNT = 5


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Features of photos with boxes of a file, and with those of `--objects grid`."""
    folder = tmp_path_factory.mktemp("fixed")
    corpus, extractor = write_pictures(folder / "photos", COUNT), tiny_extractor(folder)
    write_boxes(folder / "boxes.npz", corpus)
    return [
        extract(corpus, folder / name, extractor, boxes=b) for name, b in (("a", folder / "boxes.npz"), ("b", "grid"))
    ]


def test_they_are_what_extraction_with_the_grid_stores(stores, monkeypatch):
    monkeypatch.setattr("bssan_tf.features.fixed_boxes._BLOCK", 2)
    found, expected = with_fixed_boxes(stores[0]), stores[1]
    assert not np.allclose(stores[0].objects, expected.objects, rtol=0.1)
    assert (found.objects.shape, found.objects.dtype) == (expected.objects.shape, expected.objects.dtype)
    for rows in (slice(None), np.array([4, 0, 4]), 2, np.arange(COUNT) % 2 == 0, np.zeros(0, np.int64)):
        for name in ("boxes", "classes", "scores", "valid"):
            np.testing.assert_array_equal(getattr(found, name)[rows], getattr(expected, name)[rows])
        # regions are rounded to float16 before the mean, not only after it
        np.testing.assert_allclose(found.objects[rows], expected.objects[rows], rtol=2e-3, atol=1e-3)
    assert (found.manifest["boxes"], found.manifest["labels"]) == ("grid", None)
    assert found.regions is stores[0].regions


def test_in_context_they_have_no_class_but_the_room_for_it(stores):
    own = with_context(stores[0])
    found, expected = with_fixed_boxes(own), with_context(stores[1], RunContext(own.objects.shape[2]))
    assert found.objects.shape[2] == 2 * 32 + 2
    np.testing.assert_allclose(found.objects[:], expected.objects[:], rtol=5e-3, atol=1e-5)
    assert found.objects.means is own.objects.means  # so that regions are read once
    read = objects_of_read(found, np.array([3, 0]), np.asarray(own.regions[[3, 0]], np.float32))
    np.testing.assert_array_equal(read, found.objects[[3, 0]])
    assert with_fixed_boxes(with_context(stores[1]), Q=70).objects.shape == (COUNT, 10, 70)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grid": None}, "of an older version, .*; give another --cache to extract them anew"),
        *(
            (changes, "need regions, and objects that are means of these; leave out --fixed-boxes, or --objects grid")
            for changes in ({"regions": None}, {"objects": None}, {"objects": np.zeros((5, 10, 9))})
        ),
    ],
)
def test_objects_of_another_kind_have_no_fixed_ones(stores, changes, told):
    with pytest.raises(UserError, match=f"fixed boxes: .*{told}"):
        with_fixed_boxes(dataclasses.replace(stores[0], **changes))


def make_stream(share, **values):
    """Batches of the pictures of `make_split`; objects of a detector are negative."""
    split, config = make_split(), make_config(Path(), batch_size=5, fixed_boxes=share, **values)
    features = make_features(config.replace(D=6, M=5, P=10, Q=5))
    own = -1 - np.abs(features.objects)
    return PairStream(
        split, dataclasses.replace(features, objects=own, grid=(2, 3)), make_tokens(split), config.training
    )


def shown(stream, steps=40):
    """Which photos of some batches show the fixed boxes, bool (steps, B)."""
    return np.array([(stream.batch(step)["objects"] >= 0).all(axis=(1, 2)) for step in range(steps)])


def test_a_share_of_the_photos_of_a_batch_shows_them():
    stream, plain = make_stream(0.3), make_stream(0.0)
    found = shown(stream)
    assert 0.2 < found.mean() < 0.4
    assert len(np.unique(found.sum(axis=1))) > 2  # drawn for each photo, not so many of each batch
    np.testing.assert_array_equal(found[[33, 7]], np.array([shown_at(make_stream(0.3), step) for step in (33, 7)]))
    assert (found != shown(make_stream(0.3, seed=6))).any()
    assert (shown(stream, 4) != found[4:8]).any()  # the next round of the four batches
    assert not shown(plain).any()
    assert shown(make_stream(1.0)).all()
    for step in (0, 9):
        batch, own = stream.batch(step), plain.batch(step)
        fixed, row = found[step], own["regions"][:, 0, 0]
        for name, values in batch.items():
            np.testing.assert_array_equal(values[~fixed], own[name][~fixed])
        assert batch["valid"][fixed].all()
        np.testing.assert_allclose(batch["objects"][fixed], np.tile(row[fixed, None, None], (1, 10, 5)), rtol=1e-3)
        np.testing.assert_array_equal(batch["regions"], own["regions"])
        np.testing.assert_array_equal(batch["tokens"], own["tokens"])


def shown_at(stream, step):
    return (stream.batch(step)["objects"] >= 0).all(axis=(1, 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"objects": "grid"},
            "--fixed-boxes 0.5: the objects of --objects grid are the fixed boxes already; leave it out",
        ),
        ({"objects": "faster_rcnn", "detector_weights": "w.npz"}, "of --objects faster_rcnn are described otherwise"),
        ({"variant": "w2r", "boxes": "b.npz"}, "--fixed-boxes 0.5: has no effect with --variant w2r"),
        ({"import_objects": "o.npy"}, "--fixed-boxes 0.5: has no effect with --import-objects"),
        ({"fixed_boxes": 1.5}, "--fixed-boxes 1.5: must be between 0 and 1"),
    ],
)
def test_where_there_is_no_detector_they_are_refused_before_photos_are_read(tmp_path, monkeypatch, values, message):
    monkeypatch.setattr(training, "open_data", lambda *_, **__: pytest.fail("read"))
    none = {"import_regions": None, "import_objects": None, "cache": str(tmp_path)}
    config = make_config(tmp_path / "photos", **{**none, "fixed_boxes": 0.5, **values})
    with pytest.raises(UserError, match=message):
        training.train(config, RunFolder(tmp_path / "run"), progress=False)
