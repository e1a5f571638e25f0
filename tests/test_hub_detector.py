"""KerasHub's detectors: which classes a preset finds, and where its boxes lie in the photo.

The detectors are tiny and have random weights; the tests of them need KerasHub, which is optional, and so Keras 3.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from feature_fixtures import tiny_extractor, write_pictures
from PIL import Image

from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features import boxes as command
from bssan_tf.features.detectors import open_detector
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.hub_detector import COCO_NAMES, HubDetector, coco_ids
from bssan_tf.features.objects import BoxesFile
from bssan_tf.features.pictures import read_picture
from bssan_tf.runs.sources import build_detector

HUB = importlib.util.find_spec("keras_hub") is not None
needs_hub = pytest.mark.skipif(not HUB, reason="KerasHub is not installed: pip install '.[hub]' on Python 3.12 or 3.13")
KNOWN = ("dfine_nano_coco", "dfine_small_obj365", "dfine_large_obj2coco_e25", "retinanet_resnet50_fpn_coco")
SIDE = 96


@pytest.mark.skipif(HUB, reason="KerasHub is installed")
def test_without_kerashub_one_line_says_what_is_missing():
    with pytest.raises(UserError, match=r"--objects keras_hub:dfine_nano_coco: KerasHub ") as error:
        build_detector(DataConfig(objects="keras_hub:dfine_nano_coco"))
    assert "\n" not in str(error.value)
    assert "needs Keras 3, this is Keras 2." in str(error.value) or "bssan_tf[hub]" in str(error.value)


@pytest.mark.parametrize(
    ("preset", "count", "numbers"),
    [
        ("dfine_nano_coco", 80, {"person": 0, "stop sign": 11, "toothbrush": 79}),
        ("dfine_large_obj2coco_e25", 80, {"person": 0}),
        ("retinanet_resnet50_fpn_coco", 91, {"person": 1, "fire hydrant": 11, "stop sign": 13, "toothbrush": 90}),
        ("kaggle://keras/retinanet/keras/retinanet_resnet50_fpn_coco/4", 91, {"person": 1, "backpack": 27}),
        ("hf://keras/dfine_nano_coco", 80, {"person": 0}),
        ("retinanet_resnet50_fpn_coco", 80, None),  # another network than the one that is known
        ("dfine_nano_coco", 91, None),
        ("dfine_small_obj365", 366, None),  # no list of its names is at hand
        ("kaggle://someone/retinanet/keras/retinanet_resnet50_fpn_coco/4", 91, None),
        ("./dfine_nano_coco", 80, None),  # a folder of that name may be of any classes
    ],
)
def test_how_a_preset_numbers_the_classes_of_coco(preset, count, numbers):
    ids, names = coco_ids(preset, KNOWN, count), COCO_NAMES.split(",")
    assert len(set(names)) == 80
    if numbers is None:
        assert ids is None
    else:
        assert len(ids) == 80
        assert {name: ids[names.index(name)] for name in numbers} == numbers


@needs_hub
def test_the_names_of_coco_are_kerashubs():
    from keras_hub.utils import coco_id_to_name

    ids = coco_ids("retinanet_resnet50_fpn_coco", KNOWN, 91)
    assert [coco_id_to_name(number).replace("_", " ") for number in ids] == COCO_NAMES.split(",")


def retinanet(hub, bounding_box_format="yxyx", classes=3, **scaling):
    """A network of which all anchors are about half sure of some class."""
    sizes = {"stackwise_num_filters": [64, 16, 16, 16], "stackwise_num_blocks": [1] * 4}
    encoder = hub.models.ResNetBackbone(
        [64], [7], **sizes, stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block", image_shape=(None, None, 3)
    )
    converter = hub.layers.RetinaNetImageConverter(image_size=(SIDE, SIDE), scale=1 / 255, **scaling)
    detector = hub.models.RetinaNetObjectDetector(
        hub.models.RetinaNetBackbone(encoder, min_level=3, max_level=5, use_p5=False), classes, bounding_box_format,
        preprocessor=hub.models.RetinaNetObjectDetectorPreprocessor(converter), pre_logits_num_conv_layers=1,
    )  # fmt: skip
    detector.classification_head.prediction_layer.bias.assign(np.linspace(-0.5, 0.5, 9 * classes))
    detector.box_head.prediction_layer.bias.assign(np.zeros(36))  # else all boxes lie far outside
    return detector


def dfine(hub, bounding_box_format="yxyx"):
    """Four classes; its pictures are cropped, as those of KerasHub's presets."""
    features = ["stage3", "stage4"]
    encoder = hub.models.HGNetV2Backbone(
        [1] * 4, 8, [16, 32, 64, 64], [3, 8, 8], "relu", True,
        [[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3], [32, 16, 64, 1, 1, 3], [64, 16, 64, 1, 1, 3]],
        [False, True, True, True], [False, False, True, True], image_shape=(None, None, 3), out_features=features,
    )  # fmt: skip
    backbone = hub.models.DFineBackbone(
        encoder, [16, 16], 16, 4, 0, False, 20, (SIDE, SIDE), [16, 32], 2, 16, [64, 64], [1], 2, 16, 1, 0.34, 0.5, -1,
        1, 2, 16, [2, 2], 8, 1, out_features=features, image_shape=(None, None, 3),
    )  # fmt: skip
    converter = hub.layers.DFineImageConverter(image_size=(SIDE, SIDE), scale=1 / 255)
    assert converter.crop_to_aspect_ratio
    preprocessor = hub.models.DFineObjectDetectorPreprocessor(converter)
    return hub.models.DFineObjectDetector(backbone, 4, bounding_box_format, preprocessor)


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """The folder of the presets `retinanet`, whose pictures are padded, and `dfine`."""
    import keras_hub

    folder = tmp_path_factory.mktemp("presets")
    retinanet(keras_hub, crop_to_aspect_ratio=False, pad_to_aspect_ratio=True).save_to_preset(str(folder / "retinanet"))
    dfine(keras_hub).save_to_preset(str(folder / "dfine"))
    return folder


def open_preset(path) -> HubDetector:
    return open_detector(f"keras_hub:{path}", "--objects")


@pytest.fixture(scope="module")
def detectors(presets):
    return {name: open_preset(presets / name) for name in ("retinanet", "dfine")}


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@needs_hub
@pytest.mark.parametrize("name", ["retinanet", "dfine"])
def test_detections_are_kerashubs_but_also_those_that_are_less_sure(presets, detectors, name):
    import keras_hub

    model = keras_hub.models.ObjectDetector.from_preset(str(presets / name))
    photo = noise(SIDE, SIDE)  # neither padded nor cropped
    theirs = {key: value[0] for key, value in model.predict(photo[None], verbose=0).items()}
    ours, count = detectors[name].detect(photo), int(theirs["num_detections"])
    assert count > 0
    places = np.clip(theirs["boxes"][:count][:, [1, 0, 3, 2]], 0, SIDE)
    real = (places[:, 2:] > places[:, :2]).all(axis=1)
    sure = ours["scores"] > 0.5
    np.testing.assert_allclose(ours["scores"][sure], theirs["confidence"][:count][real], rtol=1e-4)
    np.testing.assert_allclose(ours["boxes"][sure], places[real], atol=0.05)
    np.testing.assert_array_equal(ours["classes"][sure], theirs["labels"][:count][real])
    assert real.any()
    assert ours["scores"].min() > 0.05
    assert ours["classes"].min() >= 0


@needs_hub
@pytest.mark.parametrize("name", ["retinanet", "dfine"])
@pytest.mark.parametrize("size", [(80, 201), (150, 61)])
def test_a_box_lies_where_the_object_is_in_the_photo(presets, name, size):
    height, width = size
    photo = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = 0, 20, 30, 60
    photo[y1:y2, x1:x2] = 255  # at the side, where a preset that crops would not see it
    detector = open_preset(presets / name)
    inputs = detector.inputs(photo)
    assert inputs["pixels"].shape == (1, SIDE, SIDE, 3)
    seen = inputs["pixels"][0, ..., 0] > 0.5
    assert np.isclose(seen.sum(), (x2 - x1) * (y2 - y1) * inputs["scale"].prod(), rtol=0.1)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    place = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32)
    found = {
        "boxes": np.array([[place, -np.ones(4)]], np.float32), "confidence": np.array([[0.9, -1]], np.float32),
        "labels": np.array([[2, -1]]), "num_detections": np.array([1]),
    }  # fmt: skip
    detect = lambda _: {key: tf.constant(value) for key, value in found.items()}  # noqa: E731
    detector._network = detector.network._replace(detect=detect)
    ours = detector.run(inputs)
    pixel = max(size) / SIDE
    np.testing.assert_allclose(ours["boxes"], [[x1, y1, x2, y2]], atol=pixel)
    assert ours["classes"].tolist() == [2]
    np.testing.assert_allclose(detector.rows(ours)[0, 4:], [0.9, 2])


@needs_hub
def test_pixels_are_those_of_a_preset_that_pads(presets, detectors):
    import keras_hub

    model = keras_hub.models.ObjectDetector.from_preset(str(presets / "retinanet"))
    photo = np.asarray(Image.fromarray(noise(4, 5)).resize((230, 120), Image.Resampling.BICUBIC))
    ours = detectors["retinanet"].inputs(photo)["pixels"]
    theirs = np.asarray(model.preprocessor(photo[None].astype(np.float32)))
    assert ours.shape == theirs.shape
    worst = np.abs(ours - theirs).max(axis=(0, 2, 3))  # of each row
    assert np.sort(worst)[:-4].max() < 0.03  # all but those where photo and padding meet
    assert not ours[0, 0].any()  # black, as theirs
    assert ours[0, SIDE // 2].any()


@needs_hub
@pytest.mark.parametrize("build", [retinanet, dfine])
def test_the_format_of_a_presets_boxes_changes_nothing(presets, detectors, tmp_path, build):
    import keras_hub

    name = build.__name__
    scaling = {} if build is dfine else {"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True}
    other = build(keras_hub, "xyxy", **scaling)
    other.set_weights(keras_hub.models.ObjectDetector.from_preset(str(presets / name)).get_weights())
    other.save_to_preset(str(tmp_path))
    photo = noise(70, SIDE)
    one, two = detectors[name].detect(photo), open_preset(tmp_path).detect(photo)
    assert len(one["boxes"])
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=1e-4, atol=0.05, err_msg=key)


@needs_hub
def test_names_of_a_folders_classes(presets, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(presets / "retinanet", folder)
    nameless = open_preset(folder)
    assert nameless.labels is None
    with pytest.raises(UserError, match=r"does not name its classes, which objects in context need; put class_names"):
        build_detector(DataConfig(objects=f"keras_hub:{folder}", object_context=True))
    (folder / "class_names.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match=r"class_names\.txt: has 2 names, the detector 3 classes"):
        open_preset(folder)
    (folder / "class_names.txt").write_text("dog\ncat\ntraffic light\n")
    named = build_detector(DataConfig(objects=f"keras_hub:{folder}", object_context=True))
    assert named.labels == ("dog", "cat", "traffic light")
    assert named.name == nameless.name
    stores = [detector.store_name for detector in (nameless, named)]
    assert all(name.startswith("keras_hub-mine-") for name in stores)
    assert stores[0] != stores[1]  # a store keeps the names


@needs_hub
def test_a_folder_may_say_that_its_classes_are_cocos(tmp_path):
    import keras_hub

    (tmp_path / "class_names.txt").write_text("coco\n")
    for count in (80, 91, 3):
        model = retinanet(keras_hub, classes=count, crop_to_aspect_ratio=False)
        model.save_to_preset(str(tmp_path))
        if count == 3:
            with pytest.raises(UserError, match=r"class_names\.txt: has 1 names, the detector 3 classes"):
                open_preset(tmp_path)
            continue
        detector = open_preset(tmp_path)
        assert detector.labels == tuple(COCO_NAMES.split(","))
        assert len(detector._numbers) == count
        assert detector._numbers[{80: 79, 91: 90}[count]] == 79
        assert detector._numbers[{80: 11, 91: 13}[count]] == 11  # stop sign
        assert detector._numbers[12] == {80: 12, 91: -1}[count]  # COCO has no 12


def without(file):
    return lambda folder: (folder / file).unlink()


def damaged(folder):
    (folder / "model.weights.h5").write_bytes(b"nothing")


def of_another_kind(folder):
    settings = json.loads((folder / "task.json").read_text())
    del settings["config"]["num_classes"]
    (folder / "task.json").write_text(json.dumps(settings))


@needs_hub
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("task.weights.h5"), "has no task.weights.h5, so its head is not trained"),
        (without("task.json"), "config.json has no num_labels, so it is no detector's preset"),  # RetinaNet alone
        (without("config.json"), "has no config.json"),
        (without("model.weights.h5"), "has no model.weights.h5"),
        (damaged, "can't be loaded"),
        (of_another_kind, "task.json has no num_classes, so it is no detector's preset"),
    ],
)
def test_a_preset_that_is_no_trained_detector_is_refused(presets, tmp_path, spoil, words):
    folder = tmp_path / "mine"
    shutil.copytree(presets / "retinanet", folder)
    spoil(folder)
    with pytest.raises(UserError, match=words) as error:
        _ = open_preset(folder).network
    assert "\n" not in str(error.value)


@needs_hub
def test_an_unknown_preset_is_told_those_that_there_are():
    with pytest.raises(UserError, match="no such folder, nor one of the presets dfine_large_coco, "):
        open_preset("yolo")


@needs_hub
def test_a_store_has_the_boxes_and_the_backbones_features(detectors, tmp_path):
    corpus, extractor = write_pictures(tmp_path / "photos", 3), tiny_extractor(tmp_path)
    detector = detectors["dfine"]
    features = extract_features(corpus, tmp_path / "store", extractor, boxes=detector, batch_size=2, progress=False)
    assert features.objects.shape == (3, 10, extractor.region_shape[1])
    assert features.manifest["boxes"] == detector.name
    for row, path in enumerate(corpus.image_paths):
        wanted = detector.objects(read_picture(path, side=None)[0])
        assert wanted["valid"].any()
        for name, value in wanted.items():
            np.testing.assert_array_equal(getattr(features, name)[row], value, err_msg=name)
    assert features.objects[:][features.valid[:]].any(axis=1).all()


@needs_hub
def test_the_command_writes_the_boxes_of_a_preset(presets, detectors, tmp_path, capsys):
    corpus, out = write_pictures(tmp_path / "photos", 2), tmp_path / "boxes.npz"
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\nemu\ncar\n")
    arguments = [str(tmp_path / "photos"), "--out", str(out), "--detector", f"keras_hub:{presets / 'dfine'}", "--quiet"]
    command.main([*arguments, "--class-names", str(names)])
    assert capsys.readouterr().out == f"{out}\n"
    file, detector = BoxesFile(out), detectors["dfine"]
    assert file.labels == ("dog", "cat", "emu", "car")
    for name, path in zip(corpus.image_ids, corpus.image_paths):
        rows = detector.rows(detector.detect(read_picture(path, side=None)[0]))
        np.testing.assert_array_equal(file.boxes[file.row_of_name[name]], rows[:10])


@needs_hub
def test_threads_share_one_network(presets, monkeypatch):
    import keras_hub

    original, loads = keras_hub.models.ObjectDetector.from_preset, []
    monkeypatch.setattr(
        keras_hub.models.ObjectDetector, "from_preset", lambda preset: loads.append(preset) or original(preset)
    )
    detector = open_preset(presets / "dfine")
    with ThreadPoolExecutor(4) as pool:
        inputs = list(pool.map(detector.inputs, [noise(60, 80)] * 4))
    assert len(loads) == 1
    assert all(np.array_equal(one["pixels"], inputs[0]["pixels"]) for one in inputs)
