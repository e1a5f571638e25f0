"""Detections as the objects of a corpus and of a new photo: the store, what flags mean, and a run from end to end."""

import dataclasses
import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_corpus
from feature_fixtures import tiny_extractor
from PIL import Image

from bssan_tf.config import DataConfig, preset
from bssan_tf.errors import UserError
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.faster_rcnn.detector import PACKAGED, Detector
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.photos import draw_scenes
from bssan_tf.features.faster_rcnn.settings import SCENE_LABELS, SCENES
from bssan_tf.features.faster_rcnn.weights import save_weights
from bssan_tf.features.pictures import read_picture
from bssan_tf.preparation import open_data, resolve
from bssan_tf.runs import RunFolder
from bssan_tf.search import search
from bssan_tf.visualization import explain, photo_objects, same_extractors


@pytest.fixture(scope="module")
def detector():
    return Detector()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Seven scenes, the fourth enlarged and cut, as a corpus."""
    photos = draw_scenes(tmp_path_factory.mktemp("scenes"), "test", 7)
    with Image.open(photos.paths[3]) as image:
        image.resize((300, 300)).crop((0, 0, 300, 250)).save(photos.paths[3])
    names = tuple(path.name for path in photos.paths)
    return SimpleNamespace(name="scenes", image_ids=names, image_paths=photos.paths)


def test_objects_are_the_best_detections_with_their_fc7(detector, scenes):
    photo, (height, width) = read_picture(scenes.image_paths[3], side=None)
    assert (height, width) == (250, 300)
    found, objects = detector.detect(photo), detector.objects(photo, 10)
    assert (np.diff(found["scores"]) <= 0).all()
    assert objects["valid"].all()
    edges = (found["boxes"][:10] + np.array([0, 0, 1, 1])) / [width, height, width, height]
    np.testing.assert_allclose(objects["boxes"], edges, atol=1e-6)
    assert objects["boxes"].max() <= 1
    for name in ("classes", "scores"):
        np.testing.assert_array_equal(objects[name], found[name][:10])
    np.testing.assert_array_equal(objects["objects"], found["fc7"][:10].astype(np.float16))
    assert objects["objects"].shape == (10, 256)


def test_fewer_detections_leave_rows_that_are_not_valid(monkeypatch):
    detector = Detector()
    fc7 = np.full((2, 256), 1e6, np.float32)
    two = {"boxes": np.ones((2, 4), np.float32), "classes": np.zeros(2, np.int32), "scores": np.ones(2), "fc7": fc7}
    monkeypatch.setattr(detector, "detect", lambda _: two)
    objects = detector.objects(np.zeros((10, 20, 3), np.uint8), 4)
    assert objects["valid"].tolist() == [True, True, False, False]
    assert objects["classes"].tolist() == [0, 0, -1, -1]
    np.testing.assert_allclose(objects["boxes"][0], [1 / 20, 1 / 10, 2 / 20, 2 / 10])
    assert not objects["objects"][2:].any()
    assert np.isfinite(objects["objects"]).all()  # float16 ends at 65504


def test_the_store_keeps_each_photos_own_detections(tmp_path, detector, scenes):
    extractor = tiny_extractor(tmp_path)
    options = {"boxes": detector, "batch_size": 4, "progress": False}
    features = extract_features(scenes, tmp_path / "store", extractor, **options)
    assert features.objects.shape == (7, 10, 256)
    assert features.objects.dtype == np.float16
    assert features.manifest["boxes"] == detector.name
    assert features.manifest["labels"] == list(SCENE_LABELS)
    for row, path in enumerate(scenes.image_paths):
        wanted = detector.objects(read_picture(path, side=None)[0], 10)
        for name, value in wanted.items():
            np.testing.assert_array_equal(getattr(features, name)[row], value, err_msg=name)
    grid = extract_features(scenes, tmp_path / "grid", extractor, boxes="grid", batch_size=4, progress=False)
    np.testing.assert_array_equal(features.regions, grid.regions)

    other = tmp_path / "other.npz"
    save_weights(FasterRcnn(SCENES), other)
    with pytest.raises(UserError, match=r'boxes is "faster_rcnn [0-9a-f]{64}" there'):
        extract_features(scenes, tmp_path / "store", extractor, **{**options, "boxes": Detector(other)})


@pytest.mark.parametrize(
    ("data", "objects"),
    [
        (DataConfig(), "faster_rcnn"),
        (DataConfig(objects="boxes"), "boxes"),
        (DataConfig(boxes="a.npz"), "boxes"),
        (DataConfig(data="coco"), "grid"),
        (DataConfig(data="coco", boxes="a.npz"), "boxes"),
        (DataConfig(data="coco", detector_weights="a.npz"), "faster_rcnn"),
    ],
)
def test_where_objects_come_from(data, objects):
    assert resolve(data).objects == objects
    assert resolve(resolve(data)) == resolve(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataConfig(data="coco", objects="faster_rcnn"), "import .* train .*--detector-weights FILE.*--boxes FILE"),
        (
            DataConfig(objects="grid", detector_weights="a.npz"),
            "--detector-weights a.npz: is not used with --objects grid",
        ),
        (DataConfig(boxes="b.npz", detector_weights="a.npz"), "is not used with --objects boxes"),
        (DataConfig(objects="faster_rcnn", boxes="b.npz"), "--boxes b.npz: is not used with --objects faster_rcnn"),
    ],
)
def test_flags_that_do_not_fit(data, words):
    with pytest.raises(UserError, match=words) as error:
        resolve(data)
    assert "\n" not in str(error.value)


# ---- a run on detected objects ----


@pytest.fixture(scope="module")
def run(tmp_path_factory, project):
    """One epoch on a folder of tiny pictures whose features two shards have extracted."""
    folder = tmp_path_factory.mktemp("run")
    tiny_corpus.write_corpus(folder / "photos")
    data = ["--data", str(folder / "photos"), "--cache", str(folder / "cache"), "--backbone", "slim"]
    data += ["--detector-weights", str(PACKAGED)]
    main = runpy.run_path(str(project / "train.py"))["main"]
    for number in (2, 1):
        main(["--shard", f"{number}/2", *data, "--quiet"])
    sizes = {"H": 8, "S": 8, "w2r_mlp": (8, 6), "o2w_mlp": (8, 6), "E_trained": 10, "fusion": 6, "batch_size": 8}
    config = preset("improved", "small", "o2w").replace(
        data=str(folder / "photos"), cache=str(folder / "cache"), backbone="slim", detector_weights=str(PACKAGED),
        negatives=3, epochs=1, validation_images=0, **sizes,
    )  # fmt: skip
    from bssan_tf import training

    found = RunFolder(folder / "one")
    training.train(config, found, progress=False)
    return found


def test_shards_have_extracted_what_the_run_was_trained_on(run):
    config = run.load_config()
    features = open_data(config.data, progress=False).features
    assert features.objects.shape == (48, 10, 256)
    assert (config.model.P, config.model.Q) == (10, 256)
    (store,) = (run.path.parent / "cache").glob("*/slim-faster_rcnn-slim_scenes")
    assert not list(store.glob("shard-*"))


def test_a_new_photo_is_detected_on(run, scenes, detector, tmp_path):
    config, photo = run.load_config(), scenes.image_paths[0]
    objects = photo_objects(config.data, photo, (224, 224), None, 10, detector)
    assert objects["labels"] == SCENE_LABELS
    np.testing.assert_array_equal(objects["objects"], detector.objects(read_picture(photo, side=None)[0])["objects"])
    scores = explain(run, photo, "a red dog", tmp_path / "a.png")
    assert np.isfinite(scores["score"])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300
    with pytest.raises(UserError, match=r"--boxes a\.npz: the run's objects are Faster R-CNN's fc7"):
        explain(run, photo, "a red dog", tmp_path / "b.png", {"boxes": "a.npz"})


def test_search_describes_photos_as_training_did(run, scenes):
    (score, caption), *_ = search(run, str(scenes.image_paths[0]), progress=False)
    assert np.isfinite(score)
    assert isinstance(caption, str)
    found = search(run, "a red dog", scenes.image_paths[0].parent, top=3, progress=False)
    assert len(found) == 3
    assert len({score for score, _ in found}) == 3


def test_another_detector_than_in_training_is_refused(run, tmp_path):
    save_weights(FasterRcnn(SCENES), tmp_path / "other.npz")
    data = dataclasses.replace(run.load_config().data, detector_weights=str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="the data have changed since training: boxes is faster_rcnn"):
        same_extractors(run, data)
