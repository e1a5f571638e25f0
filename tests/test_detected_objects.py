"""Detections as the objects of a corpus and of a new photo: the store, what flags mean, and a run from end to end."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tiny_corpus
from feature_fixtures import tiny_extractor
from PIL import Image
from training_fixtures import share_models, untrained_run

from bssan_tf.commands import train as command
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features import pictures
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.faster_rcnn.detector import PACKAGED, Detector
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.photos import draw_scenes
from bssan_tf.features.faster_rcnn.settings import SCENE_LABELS, SCENES
from bssan_tf.features.faster_rcnn.weights import save_weights
from bssan_tf.features.pictures import read_picture
from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs import photo as photo_module
from bssan_tf.runs.data import open_data
from bssan_tf.runs.photo import Photo, PhotoReader, extractors_of, folder_features
from bssan_tf.runs.sources import store_name, tell_fixed_boxes


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


def test_each_detector_has_a_store_of_its_own(tmp_path, detector):
    assert store_name("vgg19", detector) == store_name("vgg19", Detector(PACKAGED)) == "vgg19-faster_rcnn-slim_scenes"
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save_weights(FasterRcnn(SCENES), tmp_path / folder / "weights.npz")
        own = Detector(tmp_path / folder / "weights.npz")
        names.append(store_name("vgg19", own))
        assert names[-1] == f"vgg19-faster_rcnn-weights-{own.name.split()[1][:8]}"
    assert names[0] != names[1]


def test_the_files_of_a_checkpoint_share_a_store(tmp_path):
    prefix = str(tmp_path / "vgg16_faster_rcnn_iter_110000.ckpt")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["a"], shape_and_slices=[""], tensors=[np.float32(1)])
    names = {
        store_name("vgg19", Detector(prefix + ending)) for ending in ("", ".index", ".meta", ".data-00000-of-00001")
    }
    assert len(names) == 1
    assert names.pop().startswith("vgg19-faster_rcnn-vgg16_faster_rcnn_iter_110000-")


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


def test_a_jpeg_that_is_too_large_only_as_a_whole_is_a_bad_picture(tmp_path, detector, scenes, monkeypatch):
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 300_000)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 400_000)
    large = tmp_path / "large.jpg"
    with Image.open(scenes.image_paths[0]) as image:
        image.resize((1000, 1000)).save(large)
    read_picture(large)  # decoded to a half
    paths = (scenes.image_paths[0], large, scenes.image_paths[1])
    corpus = SimpleNamespace(name="scenes", image_ids=("a", "large", "b"), image_paths=paths)
    options = {"boxes": detector, "batch_size": 2, "progress": False}
    extractor = tiny_extractor(tmp_path)
    with pytest.raises(UserError, match=r"1 of 3 pictures .*large\.jpg: has 1000 x 1000 pixels.*The others are"):
        extract_features(corpus, tmp_path / "store", extractor, **options)
    written = (tmp_path / "store" / "sizes.npy").stat().st_mtime_ns
    features = extract_features(corpus, tmp_path / "store", extractor, skip_bad_images=True, **options)
    assert (tmp_path / "store" / "sizes.npy").stat().st_mtime_ns == written  # it is still bad: nothing to do
    assert features.bad_rows.tolist() == [1]
    assert features.valid.any(1).tolist() == [True, False, True]
    assert not features.regions[1].any()


def resolve(data):
    return Config(data=data).resolved().data


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


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch):
    share_models(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of tiny pictures whose features two shards have extracted."""
    folder = tmp_path_factory.mktemp("run")
    tiny_corpus.write_corpus(folder / "photos", pictures=20)
    flags = ["--data", str(folder / "photos"), "--cache", str(folder / "cache"), "--backbone", "slim"]
    flags += ["--detector-weights", str(PACKAGED)]
    for number in (2, 1):
        command.main(["--shard", f"{number}/2", *flags, "--quiet"])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return untrained_run(folder, detector_weights=str(PACKAGED))


@pytest.fixture(scope="module")
def grid_run(folder):
    return untrained_run(folder)


def test_shards_have_extracted_what_the_run_was_made_for(run):
    config = run.load_config()
    assert (config.model.P, config.model.Q) == (10, 256)
    (store,) = (run.path.parent / "cache").glob("*/slim-faster_rcnn-slim_scenes")
    assert np.load(store / "objects.npy", mmap_mode="r").shape == (20, 10, 256)
    assert not list(store.glob("shard-*"))


@pytest.fixture
def opened(monkeypatch):
    """The picture files that are opened to be decoded, one after the other."""
    found, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **how: found.append(Path(path).name) or original(path, **how))
    return found


def test_a_photo_is_described_as_in_training(run, tmp_path, opened):
    config = run.load_config()
    data = open_data(config.data, progress=False)
    path = data.corpus.image_paths[5]
    photo = Photo.read(path, config.data)
    reader = PhotoReader(run, config)
    inputs, (objects,) = reader.read([photo])
    assert opened == [path.name]
    assert objects["labels"] == SCENE_LABELS
    np.testing.assert_array_equal(inputs.objects[0], data.features.objects[5])
    np.testing.assert_allclose(inputs.regions[0], data.features.regions[5], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(inputs.valid[0], data.features.valid[5])
    with pytest.raises(UserError, match=r"--boxes a\.npz: the run's objects are Faster R-CNN's fc7"):
        PhotoReader(run, config, Path("a.npz"))

    for name in ("one.png", "two.png"):
        shutil.copy(path, tmp_path / name)
    paths = [tmp_path / name for name in ("one.png", "two.png")]
    features = folder_features(run, config, tmp_path, paths, None, False)
    for row in features.objects:
        np.testing.assert_array_equal(row, data.features.objects[5])


@pytest.mark.parametrize("objects", ["faster_rcnn", "grid"])
def test_a_photo_is_decoded_once(run, grid_run, tmp_path, monkeypatch, opened, objects):
    used = {"faster_rcnn": run, "grid": grid_run}[objects]
    networks = extractors_of(used, used.load_config().data)
    monkeypatch.setattr(photo_module, "extractors_of", lambda *_: networks)  # once is enough here, too
    photo = tmp_path / "photo.jpg"
    shutil.copy(run.path.parent / "photos" / "005.png", photo)
    matcher = Matcher(used)
    matcher.explain(photo, "a dog").draw(tmp_path / "out.png")
    assert opened.count("photo.jpg") == 1
    assert matcher.sentences_of_split().search(photo)
    assert opened.count("photo.jpg") == 2


def test_that_objects_are_ten_fixed_boxes_is_said_once(grid_run, tmp_path, caplog):
    caplog.set_level("INFO")
    tell_fixed_boxes.cache_clear()  # as in a new process
    shutil.copy(grid_run.path.parent / "photos" / "005.png", tmp_path / "photo.png")
    assert Matcher(grid_run).sentences_of_split().search(tmp_path / "photo.png")  # of the run's photos, and of this one
    assert caplog.text.count("fixed") == 1
    assert (
        "objects: ten fixed boxes, a stand-in for a detector's; --objects keras_hub:PRESET, --detector" in caplog.text
    )


def test_a_photo_has_the_boxes_that_are_given(grid_run, tmp_path):
    path, config = grid_run.path.parent / "photos" / "000.png", grid_run.load_config()
    boxes = np.array([[[2, 2, 4, 6, 0.9, 3], [0, 0, 0, 0, 0, 0]]], np.float32)
    np.savez(tmp_path / "boxes.npz", names=np.array(["000.png"]), boxes=boxes)
    photo = Photo.read(path, config.data)
    inputs, (objects,) = PhotoReader(grid_run, config, tmp_path / "boxes.npz").read([photo])
    assert inputs.valid[0].tolist() == [True] + [False] * 9
    np.testing.assert_allclose(objects["boxes"][0], [0.25, 0.25, 0.5, 0.75])
    assert PhotoReader(grid_run, config).read([photo])[0].valid.all()  # ten fixed ones


def test_a_folder_is_searched_with_one_detector(run, tmp_path, monkeypatch):
    shutil.copy(run.path.parent / "photos" / "000.png", tmp_path)
    made, init = [], Detector.__init__
    monkeypatch.setattr(Detector, "__init__", lambda self, *given: made.append(1) or init(self, *given))
    assert Matcher(run).index(tmp_path).search("a dog")
    assert len(made) == 1


def test_another_detector_than_in_training_is_refused(run, tmp_path):
    save_weights(FasterRcnn(SCENES), tmp_path / "other.npz")
    data = dataclasses.replace(run.load_config().data, detector_weights=str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="the data have changed since training: boxes is faster_rcnn"):
        extractors_of(run, data)
