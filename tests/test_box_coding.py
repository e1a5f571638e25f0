"""Anchors, coding of boxes, suppression and targets of Faster R-CNN against NumPy references."""

import faster_rcnn_reference as reference
import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.features.faster_rcnn import box_coding as bx
from bssan_tf.features.faster_rcnn.layers import Anchors, RoiCrop
from bssan_tf.features.faster_rcnn.targets import AnchorTargets, RoiTargets


def random_boxes(n, seed=0, height=200, width=300, smallest=1):
    rng = np.random.default_rng(seed)
    sides = rng.uniform(smallest, 120, (n, 2))
    corner = rng.uniform(0, 1, (n, 2)) * np.maximum([width, height] - sides, 0)
    return np.concatenate([corner, np.minimum(corner + sides, [width, height]) - 1], 1).astype(np.float32)


def test_the_nine_anchors_of_the_public_weights():
    expected = [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
        [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
        [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
    ]  # fmt: skip
    np.testing.assert_array_equal(bx.base_anchors((8, 16, 32), (0.5, 1, 2)), expected)


@pytest.mark.parametrize(("rows", "columns", "scales"), [(1, 1, (8, 16, 32)), (3, 5, (8, 16, 32)), (4, 2, (3, 4, 5.5))])
def test_anchors_of_a_map(rows, columns, scales):
    found = Anchors(scales, (0.5, 1, 2))(np.zeros((2, rows, columns, 8), np.float32))
    np.testing.assert_allclose(found, reference.anchors(rows, columns, scales), atol=1e-4)


def test_coding_and_its_reference():
    boxes, references = random_boxes(50), random_boxes(50, 1)
    expected = [reference.encode(*pair) for pair in zip(boxes, references)]
    np.testing.assert_allclose(bx.encode(boxes, references), expected, rtol=1e-4, atol=1e-5)
    deltas = np.random.default_rng(2).normal(0, 0.5, (50, 4)).astype(np.float32)
    expected = [reference.decode(*pair) for pair in zip(deltas, references)]
    np.testing.assert_allclose(bx.decode(deltas, references), expected, rtol=1e-4, atol=1e-3)


def test_decoding_takes_back_encoding_but_for_the_last_pixel():
    boxes, references = random_boxes(20), random_boxes(20, 1)
    there = bx.decode(bx.encode(boxes, references), references)
    np.testing.assert_allclose(there, boxes + np.array([0, 0, 1, 1]), atol=1e-3)


def test_a_wild_delta_stays_finite():
    assert np.isfinite(bx.decode(np.full((1, 4), 1000, np.float32), random_boxes(1))).all()


def test_clipping_to_the_last_pixel():
    boxes = np.array([[-5, -7, 400, 500], [10, 20, 30, 40]], np.float32)
    np.testing.assert_array_equal(bx.clip(boxes, tf.constant([30.0, 1000.0])), [[0, 0, 400, 29], [10, 20, 30, 29]])
    expected = [reference.clip(box, 30, 25) for box in boxes]
    np.testing.assert_array_equal(bx.clip(boxes, tf.constant([30.0, 25.0])), expected)


def test_overlap_with_the_last_pixel_counted():
    a = np.array([[0, 0, 9, 9]], np.float32)
    others = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [9, 9, 9, 9], [10, 0, 19, 9], [4, 4, 4, 4]], np.float32)
    np.testing.assert_allclose(bx.iou(a, others)[0], [1, 50 / 150, 1 / 100, 0, 1 / 100], atol=1e-6)
    boxes, others = random_boxes(30), random_boxes(20, 1)
    np.testing.assert_allclose(bx.iou(boxes, others), reference.ious(boxes, others), atol=1e-5)


@pytest.mark.parametrize("last_included", [True, False])
@pytest.mark.parametrize(("count", "threshold"), [(100, 0.3), (100, 0.7), (7, 0.5)])
def test_suppression(last_included, count, threshold):
    boxes = np.stack([random_boxes(80, seed) for seed in (0, 1)])
    scores = np.random.default_rng(3).permutation(160).reshape(2, 80).astype(np.float32) / 160
    chosen, valid = bx.non_max_suppression(boxes, scores, count, threshold, last_included)
    assert chosen.shape == valid.shape == (2, count)
    for row in range(2):
        kept = reference.nms(boxes[row], scores[row], count, threshold, last_included)
        assert chosen[row][valid[row]].numpy().tolist() == kept
        assert not chosen[row][~valid[row]].numpy().any()


def test_suppression_tells_the_two_conventions_apart():
    boxes = np.array([[[0, 0, 1, 1], [1, 1, 2, 2]]], np.float32)  # share a pixel, or no area
    scores = np.array([[0.9, 0.8]], np.float32)
    for last_included, left in ((True, 1), (False, 2)):
        assert bx.non_max_suppression(boxes, scores, 2, 0.1, last_included)[1].numpy().sum() == left


def test_boxes_without_score_are_never_chosen():
    boxes, scores = random_boxes(3)[None], np.array([[-np.inf, 0.0, -np.inf]], np.float32)
    chosen, valid = bx.non_max_suppression(boxes, scores, 3, 0.5, True)
    assert valid.numpy().tolist() == [[True, False, False]]
    assert chosen[0, 0] == 1


# ---- targets ----


def anchor_targets(objects, height, width, batch=10_000, scales=(2, 4), seed=0):
    """Targets of one photo whose `objects` (G, 4) are padded by one row, and its anchors."""
    pixels = np.zeros((1, height, width, 3), np.float32)
    found = Anchors(scales, (0.5, 1, 2))(np.zeros((1, -(-height // 16), -(-width // 16), 4), np.float32)).numpy()
    boxes = np.concatenate([objects, np.zeros((1, 4))])[None].astype(np.float32)
    classes = np.array([[*range(1, len(objects) + 1), 0]], np.int32)
    layer = AnchorTargets(batch, 0.5, 0.7, 0.3)
    labels, deltas, used = layer((found, boxes, classes, pixels, np.array([[0, seed]], np.int32)))
    return found, labels[0].numpy(), deltas[0].numpy(), used[0].numpy()


CORNER_OBJECTS = np.array([[0, 0, 40, 30], [259, 169, 299, 199], [0, 0, 299, 199]], np.float32)


@pytest.mark.parametrize(
    ("objects", "height", "width"),
    [
        (random_boxes(4, smallest=20), 200, 300),
        (CORNER_OBJECTS, 200, 300),
        (np.array([[100, 100, 101, 101]], np.float32), 200, 300),
        (np.array([[0, 0, 1, 1]], np.float32), 200, 300),
        (np.zeros((0, 4), np.float32), 200, 300),
        (np.array([[3, 3, 25, 900]], np.float32), 30, 1000),
        (np.array([[20, 5, 60, 28]], np.float32), 40, 1000),
    ],
    ids=["random", "at the border", "tiny", "beyond all anchors", "no object", "30x1000", "40x1000"],
)
def test_targets_of_anchors(objects, height, width):
    found, labels, deltas, used = anchor_targets(objects, height, width)
    expected, expected_deltas = reference.anchor_labels(found.astype(np.float64), objects, height, width)
    np.testing.assert_array_equal(np.where(used > 0, labels, -1), expected)
    objects = labels > 0
    np.testing.assert_allclose(deltas[objects], expected_deltas[objects], rtol=1e-3, atol=1e-4)
    assert np.isfinite(deltas).all()


def test_at_most_half_of_the_drawn_anchors_are_objects_and_the_seed_decides_which():
    objects = random_boxes(6, smallest=30)
    _, all_labels, _, all_used = anchor_targets(objects, 200, 300)
    draws = [anchor_targets(objects, 200, 300, batch=12, seed=seed) for seed in (1, 1, 2)]
    for _, labels, _, used in draws:
        assert used.sum() == 12
        assert labels.sum() == min(6, all_labels.sum())
        assert (all_used >= used).all()
        assert (all_labels >= labels).all()
    np.testing.assert_array_equal(draws[0][3], draws[1][3])
    assert (draws[0][3] != draws[2][3]).any()


def roi_targets(rois, objects, batch=16, background=(0.1, 0.5), valid=None, seed=0):
    classes = np.array([[*range(1, len(objects) + 1), 0]], np.int32)
    boxes = np.concatenate([objects, np.zeros((1, 4))])[None].astype(np.float32)
    valid = np.ones(len(rois), bool) if valid is None else valid
    layer = RoiTargets(batch, 0.25, 0.5, background)
    found = layer((rois[None], valid[None], boxes, classes, np.array([[0, seed]], np.int32)))
    return [array[0].numpy() for array in found]


def test_targets_of_rois():
    objects = random_boxes(3, smallest=40)
    rng = np.random.default_rng(5)
    near = np.repeat(objects, 10, 0) + rng.normal(0, 12, (30, 4))
    rois = np.concatenate([near, random_boxes(60, 7)]).astype(np.float32)
    for seed in range(4):
        drawn, classes, deltas, used = roi_targets(rois, objects, batch=24, seed=seed)
        candidates = np.concatenate([rois, objects])
        assert (used == 1).all()  # there are enough of both
        assert (classes > 0).sum() == 6
        for box, kind, delta in zip(drawn, classes, deltas):
            assert (np.abs(candidates - box).max(1) < 1e-4).any()
            shared = reference.ious([box], objects)[0]
            if kind:
                assert kind == shared.argmax() + 1
                assert shared.max() >= 0.5
                expected = reference.encode(objects[kind - 1], box) / [0.1, 0.1, 0.2, 0.2]
                np.testing.assert_allclose(delta, expected, rtol=1e-3, atol=1e-3)
            else:
                assert 0.1 <= shared.max() < 0.5
                assert not delta.any()


def test_the_true_boxes_are_rois_and_missing_ones_fill_up():
    objects = np.array([[10, 10, 60, 60]], np.float32)
    drawn, classes, deltas, used = roi_targets(np.zeros((0, 4), np.float32), objects, batch=8)
    assert used.tolist() == [1] + [0] * 7
    assert classes.tolist() == [1] + [0] * 7
    np.testing.assert_array_equal(drawn[0], objects[0])
    assert not deltas.any()


def test_a_photo_without_objects_is_all_background():
    rois = random_boxes(20)
    drawn, classes, deltas, used = roi_targets(rois, np.zeros((0, 4), np.float32))
    assert (used == 1).all()
    assert not classes.any()
    assert not deltas.any()
    assert len(np.unique(drawn, axis=0)) == 16


def test_proposals_that_fill_up_are_never_drawn():
    rois, objects = random_boxes(20), random_boxes(1, 3, smallest=60)
    valid = np.arange(20) < 5
    drawn, _, _, used = roi_targets(rois, objects, background=(0.0, 0.5), valid=valid)
    for box in drawn[used > 0]:
        assert (np.abs(np.concatenate([rois[:5], objects]) - box).max(1) < 1e-4).any()


@pytest.mark.parametrize("shape", [(13, 19), (2, 63)])
def test_crop_of_a_roi(shape):
    maps = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    height, width = (shape[0] - 1) * 16, (shape[1] - 1) * 16
    rois = np.stack([random_boxes(5, seed, height, width) for seed in (1, 2)])
    found = RoiCrop()((maps, rois)).numpy()
    assert found.shape == (2, 5, 7 * 7 * 3)
    for photo in range(2):
        for roi, flat in zip(rois[photo], found[photo]):
            np.testing.assert_allclose(flat.reshape(7, 7, 3), reference.crop(maps[photo], roi), atol=1e-3)
