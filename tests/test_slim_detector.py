"""The shipped slim detector: its file, and how well it finds the objects of scenes that nobody has seen."""

import numpy as np
import pytest

from bssan_tf.datasets.scene_pictures import COLOURS, SHAPES, plan_scene
from bssan_tf.features.faster_rcnn.average_precision import evaluate
from bssan_tf.features.faster_rcnn.detector import PACKAGED, Detector
from bssan_tf.features.faster_rcnn.photos import SCENE_PARTS, draw_scenes
from bssan_tf.features.faster_rcnn.settings import SCENES
from bssan_tf.features.pictures import read_picture
from bssan_tf.tools.boxes import iou

PHOTOS = 60


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Scenes, and the shipped detector's detections of each."""
    photos = draw_scenes(tmp_path_factory.mktemp("scenes"), "test", PHOTOS)
    detector = Detector()
    return photos, [detector.detect(read_picture(path, side=None)[0]) for path in photos.paths]


def test_the_shipped_file(project):
    assert PACKAGED.stat().st_size < 4_000_000
    assert Detector().config == SCENES
    with np.load(PACKAGED, allow_pickle=False) as archive:
        arrays = [archive[name] for name in archive.files if name != "settings"]
    assert {array.dtype for array in arrays} == {np.dtype(np.float16)}
    assert all(np.isfinite(array).all() and np.ptp(array) > 0 for array in arrays)
    packaged = (project / "pyproject.toml").read_text()
    assert '"bssan_tf.features.faster_rcnn" = ["*.npz"]' in packaged


@pytest.mark.parametrize("metric", ["area", "11point"])
def test_it_finds_the_objects_of_unseen_scenes(found, metric):
    photos, detections = found
    mean, _ = evaluate(detections, photos.boxes, photos.classes, photos.difficult, len(photos.labels), metric)
    assert mean >= 0.9


def test_boxes_fit_closely(found):
    photos, detections = found
    shared = [iou(true, one["boxes"]).max(1) for true, one in zip(photos.boxes, detections)]
    assert np.concatenate(shared).mean() > 0.8


@pytest.mark.parametrize(("word", "names"), [("colour", tuple(COLOURS)), ("shape", SHAPES)])
def test_fc7_tells_colour_and_shape_by_a_linear_map(found, word, names):
    photos, detections = found
    rows, truth = [], []
    for number, (boxes, one) in enumerate(zip(photos.boxes, detections)):
        for thing, nearest in zip(
            plan_scene((0, SCENE_PARTS["test"], number)).things, iou(boxes, one["boxes"]).argmax(1)
        ):
            rows.append(np.append(np.sqrt(one["fc7"][nearest]), 1))
            truth.append(names.index(getattr(thing, word)))
    rows, truth = np.array(rows), np.array(truth)
    train = np.arange(len(rows)) < 2 * len(rows) // 3
    seen = rows[train]
    weights = np.linalg.solve(seen.T @ seen + np.eye(rows.shape[1]), seen.T @ np.eye(8)[truth[train]])
    assert ((rows[~train] @ weights).argmax(1) == truth[~train]).mean() > 0.8
