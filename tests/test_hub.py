"""Backbones of KerasHub, of presets that are built here: patch tokens and feature maps as regions, and refusals."""

import importlib.util
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from feature_fixtures import extract, write_pictures

from bssan_tf.errors import UserError
from bssan_tf.features.objects import grid_boxes
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor, find_backbone
from bssan_tf.runs import photo as photo_module
from bssan_tf.runs.photo import Photo, PhotoReader
from bssan_tf.runs.sources import store_name
from bssan_tf.tools import stack

HERE = importlib.util.find_spec("keras_hub") is not None and importlib.util.find_spec("tensorflow_text") is not None
needs_hub = pytest.mark.skipif(not HERE, reason="KerasHub is not installed (Python 3.12+: pip install keras-hub)")
TEXT = {"vocabulary_size": 9, "embedding_dim": 8, "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
VISION = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
SCALE, OFFSET = [0.01, 0.02, 0.03], [-1.0, -0.5, 0.5]


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Folders of presets and the models in them: CLIP with 7x7 patches, SigLIP for 48x48 pixels, ResNet, BERT."""
    import keras_hub

    models, layers, folder = keras_hub.models, keras_hub.layers, tmp_path_factory.mktemp("presets")
    text = {**TEXT, "intermediate_dim": 16, "max_sequence_length": 6}
    made = {
        "clip": models.CLIPBackbone(
            models.CLIPVisionEncoder(patch_size=32, image_shape=(224, 224, 3), **VISION),
            models.CLIPTextEncoder(**text),
            projection_dim=4,
        ),
        "siglip": models.SigLIPBackbone(
            models.SigLIPVisionEncoder(patch_size=16, image_shape=(48, 48, 3), **VISION),
            models.SigLIPTextEncoder(**text),
        ),
        "resnet": models.ResNetBackbone(
            [64], [7], [64] * 4, [1] * 4, [1, 2, 2, 2], block_type="basic_block", image_shape=(None, None, 3)
        ),
        "bert": models.BertBackbone(9, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16),
    }
    converters = {
        "clip": layers.CLIPImageConverter, "siglip": layers.SigLIPImageConverter, "resnet": layers.ResNetImageConverter
    }  # fmt: skip
    for name, model in made.items():
        model.save_to_preset(str(folder / name))
        if name in converters:
            converter = converters[name](image_size=(99, 99), scale=SCALE, offset=OFFSET)
            converter.save_to_preset(str(folder / name))
    return SimpleNamespace(folder=folder, **made)


def pictures_of(side):
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)


def scaled(pictures):
    return pictures * np.float32(SCALE) + np.float32(OFFSET)


def close(found, expected):
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=3e-3)


@pytest.mark.smoke
@needs_hub
def test_clips_patches_without_the_class_token(presets):
    extractor = Extractor(f"keras_hub:{presets.folder / 'clip'}")
    assert (extractor.name, extractor.grid, extractor.region_shape) == ("keras_hub:clip", (7, 7), (49, 8))
    assert store_name(extractor.name, "grid") == "keras_hub_clip-grid"
    pictures, boxes = pictures_of(224), np.array([[[0, 0, 1, 1]]] * 2, np.float32)
    found = extractor.describe(pictures, boxes)
    tokens = np.asarray(presets.clip.vision_encoder({"images": scaled(pictures)}))  # (2, 50, 8)
    close(found["regions"], tokens[:, 1:])
    assert found["regions"].min() < -0.5
    close(found["objects"][:, 0], tokens[:, 1:].mean(axis=1))


@pytest.mark.smoke
@needs_hub
def test_siglips_patches_of_pictures_of_its_size(presets, caplog):
    with caplog.at_level(logging.INFO):
        extractor = Extractor(f"keras_hub:{presets.folder / 'siglip'}")
    assert "keras_hub:siglip: takes pictures of 48 x 48 pixels" in caplog.text
    assert (extractor.side, extractor.grid, extractor.region_shape) == (48, (3, 3), (9, 8))
    pictures, encoder = pictures_of(48), presets.siglip.vision_encoder
    tokens = encoder.embedding(scaled(pictures))
    for block in encoder.encoder_layers:
        tokens = block(tokens)
    close(extractor.describe(pictures)["regions"], np.asarray(encoder.post_layer_norm(tokens)))


@needs_hub
def test_a_corpus_and_a_photo_have_that_size(presets, tmp_path, monkeypatch):
    extractor = Extractor(f"keras_hub:{presets.folder / 'siglip'}")
    corpus = write_pictures(tmp_path / "photos", 3)
    features = extract(corpus, tmp_path / "store", extractor)
    assert (features.grid, features.regions.shape) == ((3, 3), (3, 9, 8))
    pixels = read_picture(corpus.image_paths[1], 48)[0]
    close(features.regions[1], extractor.describe(pixels[None])["regions"][0].astype(np.float32))

    data = SimpleNamespace(objects="grid", object_context=False)
    config = SimpleNamespace(data=data, model=SimpleNamespace(P=10))
    monkeypatch.setattr(photo_module, "extractors_of", lambda *_: (extractor, None))
    monkeypatch.setattr(photo_module, "_boxed_objects", lambda *_: [{**grid_boxes(10), "labels": None}])
    inputs, _ = PhotoReader(None, config).read([Photo.read(corpus.image_paths[1], data, extractor.side)])
    close(inputs.regions[0].astype(np.float32), features.regions[1].astype(np.float32))


@needs_hub
def test_feature_maps_of_a_network_that_takes_any_size(presets):
    extractor = Extractor(f"keras_hub:{presets.folder / 'resnet'}")
    assert (extractor.layer, extractor.grid, extractor.region_shape) == ("stack2_block0_out", (14, 14), (196, 64))
    pictures, model = pictures_of(224), presets.resnet
    expected = tf.keras.Model(model.inputs, model.pyramid_outputs["P4"])(scaled(pictures))
    close(extractor.describe(pictures)["regions"], np.reshape(expected, (2, 196, 64)))


@needs_hub
def test_a_preset_that_was_moved(presets, tmp_path):
    shutil.copytree(presets.folder / "clip", tmp_path / "elsewhere")
    there = Extractor(f"keras_hub:{presets.folder / 'clip'}")
    moved = Extractor("keras_hub:gone/clip", tmp_path / "elsewhere")
    assert (moved.name, moved.weights_sha256) == (there.name, there.weights_sha256)
    with pytest.raises(UserError, match=r"--backbone-weights w\.h5: is no folder"):
        Extractor("keras_hub:gone/clip", "w.h5")


@needs_hub
def test_presets_that_are_no_backbone_for_pictures(presets, tmp_path):
    folder = presets.folder
    shutil.copytree(folder / "clip", tmp_path / "plain")
    (tmp_path / "plain" / "image_converter.json").unlink()
    shutil.copytree(folder / "clip", tmp_path / "broken")
    (tmp_path / "broken" / "model.weights.h5").write_bytes(b"hello")
    (tmp_path / "empty").mkdir()
    for place, words in (
        (folder / "bert", "is no image backbone"),
        (tmp_path / "plain", "has no image converter"),
        (tmp_path / "empty", "KerasHub can't load this preset"),
        ("clip_vit_base_patch61", "is neither a folder nor a preset that KerasHub knows, such as clip_vit_base_patch"),
    ):
        with pytest.raises(UserError, match=rf"--backbone keras_hub:[\w]+: .*{words}") as error:
            Extractor(f"keras_hub:{place}")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"model\.weights\.h5: not a readable \.h5"):
        Extractor(f"keras_hub:{tmp_path / 'broken'}")


def test_without_kerashub_it_is_one_line(monkeypatch):
    monkeypatch.setattr(stack, "KERAS_3", False)
    with pytest.raises(
        UserError, match=r"--backbone keras_hub:x: KerasHub needs Keras 3, .* take Python 3\.12 or 3\.13"
    ):
        find_backbone("keras_hub:x")

    def absent(name):
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(stack, "KERAS_3", True)
    monkeypatch.setattr(stack.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"--backbone keras_hub:x: KerasHub can.t be imported .*pip install"):
        find_backbone("keras_hub:x")
