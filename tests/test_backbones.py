"""VGG's structure against Keras' own, its weight files in every form, and the errors about them."""

import h5py
import numpy as np
import pytest
import tensorflow as tf
from feature_fixtures import tiny_extractor, vgg_arrays, write_pictures

from bssan_tf.errors import UserError
from bssan_tf.features import backbones
from bssan_tf.features.backbones import (
    BACKBONES,
    Backbone,
    build_vgg,
    find_weights,
    load_weights,
    preprocess,
)
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.tools.stack import KERAS_3, path_of

WIDTH = 1 / 16


def weights_of(model):
    return {path_of(weight): weight.numpy() for weight in model.weights}


def assert_holds(model, arrays):
    found = weights_of(model)
    assert set(found) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(found[key], value.astype(np.float32))


@pytest.fixture
def model():
    return build_vgg("vgg19", WIDTH)


@pytest.mark.parametrize(("layers", "count", "last"), [("vgg19", 16, "block5_conv4"), ("vgg16", 13, "block5_conv3")])
def test_structure(layers, count, last):
    model = build_vgg(layers, WIDTH)
    assert sum(isinstance(layer, tf.keras.layers.Conv2D) for layer in model.layers) == count
    assert model.layers[-1].name == last == Backbone("x", layers).output_layer
    assert model.output_shape == (None, 14, 14, 32)
    assert {key: value.shape for key, value in weights_of(model).items()} == {
        key: value.shape for key, value in vgg_arrays(layers).items()
    }


def test_table():
    assert {name: (b.output_layer, b.channels) for name, b in BACKBONES.items()} == {
        "vgg19": ("block5_conv4", 512),
        "vgg16": ("block5_conv3", 512),
        "slim": ("block5_conv4", 64),
    }
    with pytest.raises(ValueError, match="vgg11"):
        build_vgg("vgg11")


def test_preprocess_is_keras():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    expected = tf.keras.applications.vgg19.preprocess_input(pictures.astype(np.float32))
    np.testing.assert_allclose(preprocess(pictures), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_of_any_float(tmp_path, model, dtype):
    arrays = vgg_arrays(dtype=dtype)
    np.savez(tmp_path / "w.npz", **arrays)
    load_weights(model, tmp_path / "w.npz")
    assert_holds(model, arrays)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("whole_model", [False, True])
def test_h5_as_keras_writes_it(tmp_path, model, whole_model):
    if whole_model:
        model.save(tmp_path / "w.h5")
    elif KERAS_3:
        model.save_weights(tmp_path / "keras3.weights.h5")
        with pytest.raises(UserError, match=r"no attribute layer_names; Keras 3 writes it by model\.save"):
            load_weights(model, tmp_path / "keras3.weights.h5")
        return
    else:
        model.save_weights(tmp_path / "w.h5")
    other = build_vgg("vgg19", WIDTH)
    load_weights(other, tmp_path / "w.h5")
    assert_holds(other, weights_of(model))


def write_h5(path, arrays, extra=()):
    """The layout of the published files: names like block1_conv1_W_1:0, empty groups, classifier layers."""
    layers = list(dict.fromkeys(key.split("/")[0] for key in arrays))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ["input_1", *layers, "block1_pool", *extra]]
        for name in ("input_1", "block1_pool"):
            file.create_group(name).attrs["weight_names"] = []
        for name in [*layers, *extra]:
            names = [f"{name}_W_1:0", f"{name}_b_1:0"]
            file.create_group(name).attrs["weight_names"] = [n.encode() for n in names]
            values = [arrays.get(f"{name}/{kind}", np.zeros(3, np.float32)) for kind in ("kernel", "bias")]
            for n, value in zip(names, values):
                file[name][n] = value


def test_h5_as_published(tmp_path, model):
    arrays = vgg_arrays()
    write_h5(tmp_path / "w.h5", arrays, extra=("fc1", "fc2", "predictions"))
    load_weights(model, tmp_path / "w.h5")
    assert_holds(model, arrays)


def changed(**changes):
    arrays = vgg_arrays()
    for key, change in changes.items():
        if change is None:
            del arrays[key]
        else:
            arrays[key] = change(arrays[key]) if key in arrays else change(np.zeros(1))
    return arrays


def poisoned(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


WRONG_KEYS = [
    ({"block3_conv2/bias": None}, r"has no block3_conv2/bias \(1 of 32 arrays missing\)"),
    ({"block9_conv1/bias": lambda a: a}, "has block9_conv1/bias, which the network lacks"),
]
WRONG_VALUES = [
    ({"block2_conv1/kernel": lambda a: a.transpose(3, 2, 0, 1)}, r"block2_conv1/kernel is \(8, 4, 3, 3\)"),
    ({"block2_conv1/kernel": poisoned}, "block2_conv1/kernel holds values that are not finite"),
    ({"block2_conv1/bias": lambda a: a.astype(int)}, "block2_conv1/bias holds values that are not finite floats"),
]


@pytest.mark.parametrize(
    ("suffix", "changes", "words"),
    [("npz", *case) for case in WRONG_KEYS + WRONG_VALUES] + [("h5", *case) for case in WRONG_VALUES],
)
def test_weights_that_do_not_fit_leave_the_model_unchanged(tmp_path, model, suffix, changes, words):
    path = tmp_path / f"w.{suffix}"
    if suffix == "npz":
        np.savez(path, **changed(**changes))
    else:
        write_h5(path, changed(**changes))
    before = weights_of(model)
    with pytest.raises(UserError, match=rf"--backbone-weights .*w\.{suffix}: {words}"):
        load_weights(model, path)
    assert_holds(model, before)


def test_weights_of_another_network(tmp_path, model):
    np.savez(tmp_path / "vgg16.npz", **vgg_arrays("vgg16"))
    with pytest.raises(UserError, match=r"has no block3_conv4/bias .6 of 32"):
        load_weights(model, tmp_path / "vgg16.npz")
    write_h5(tmp_path / "vgg19.h5", vgg_arrays("vgg19"))
    with pytest.raises(UserError, match="has block3_conv4/bias, which the network lacks"):
        load_weights(build_vgg("vgg16", WIDTH), tmp_path / "vgg19.h5")


def test_files_that_are_no_weights(tmp_path, model):
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "w.bin").write_text("hello")
    np.savez(tmp_path / "objects.npz", **{"block1_conv1/kernel": np.array([{}], object)})
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    for name in ("text.npz", "text.h5", "objects.npz", "other.h5"):
        with pytest.raises(UserError, match=rf"{name}: not a readable") as error:
            load_weights(model, tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"w\.bin: is neither \.h5 nor \.npz"):
        load_weights(model, tmp_path / "w.bin")
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        load_weights(model, tmp_path / "none.npz")


def test_download_only_without_a_local_file(tmp_path, monkeypatch, capsys):
    calls = []

    def get_file(name, url, **options):
        print("Downloading data from", url)  # as Keras does
        calls.append((name, url, options["file_hash"]))
        if len(calls) > 1:
            raise Exception("URL fetch failure\non " + url)
        (tmp_path / name).write_bytes(b"")
        return str(tmp_path / name)

    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    (tmp_path / "local.npz").write_bytes(b"x")
    assert find_weights(BACKBONES["vgg19"], tmp_path / "local.npz") == tmp_path / "local.npz"
    assert calls == []
    found = find_weights(BACKBONES["vgg19"])
    assert found.name == "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert calls[0][1].endswith(f"/vgg19/{found.name}")
    with pytest.raises(UserError, match=r"weights of vgg16 could not be downloaded.*--backbone-weights") as error:
        find_weights(BACKBONES["vgg16"])
    assert "\n" not in str(error.value)
    out, err = capsys.readouterr()
    assert (out, err.count("Downloading")) == ("", 2)  # results are printed there


def test_hashes_and_addresses_are_those_in_keras():
    for name in ("vgg16", "vgg19"):
        source = __import__(f"keras.src.applications.{name}", fromlist=["x"])
        assert BACKBONES[name].url == source.WEIGHTS_PATH_NO_TOP
        with open(source.__file__, encoding="utf-8") as file:
            assert BACKBONES[name].md5 in file.read()


def test_missing_files_and_names(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--backbone-weights .*none\.h5: no such file"):
        Extractor("vgg19", tmp_path / "none.h5")
    with pytest.raises(UserError, match="--backbone resnet: unknown; one of vgg19, vgg16, slim"):
        Extractor("resnet")
    monkeypatch.setattr(backbones, "__file__", str(tmp_path / "backbones.py"))
    with pytest.raises(UserError, match=r"slim_vgg19\.npz: the shipped weights are missing"):
        find_weights(BACKBONES["slim"])


def test_extractor_describes_through_the_loaded_weights(tmp_path):
    extractor = tiny_extractor(tmp_path)
    corpus = write_pictures(tmp_path / "photos", 3)
    pictures = np.stack([read_picture(path)[0] for path in corpus.image_paths])
    regions = extractor.describe(pictures)["regions"]
    assert regions.shape == (3, 196, 32)
    assert regions.dtype == np.float16
    plain = build_vgg("vgg19", WIDTH)
    load_weights(plain, extractor.weights_file)
    expected = plain.predict(preprocess(pictures), verbose=0)  # (3, 14, 14, 32)
    np.testing.assert_allclose(regions.reshape(3, 14, 14, 32), expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(regions) > 1  # not all alike


def test_values_above_float16_are_clipped(tmp_path):
    arrays = vgg_arrays()
    arrays["block5_conv4/bias"][:] = 1e6
    np.savez(tmp_path / "w.npz", **arrays)
    extractor = Extractor(Backbone("tiny", "vgg19", WIDTH), tmp_path / "w.npz")
    features = extractor.describe(np.zeros((1, 224, 224, 3), np.uint8), np.array([[[0, 0, 1, 1]]], np.float32))
    assert (features["regions"] == 65504).all()
    assert (features["objects"] == 65504).all()


@pytest.mark.large
def test_real_vgg16_equals_keras_applications(shared_data):
    path = shared_data / "weights" / "vgg16_imagenet_notop_float16.npz"
    keras_model = tf.keras.applications.VGG16(weights=None, include_top=False)
    with np.load(path) as arrays:
        for layer in keras_model.layers:
            if layer.weights:
                kinds = ("kernel", "bias")
                layer.set_weights([arrays[f"{layer.name}/{kind}"].astype(np.float32) for kind in kinds])
    reference = tf.keras.Model(keras_model.input, keras_model.get_layer("block5_conv3").output)
    photo = read_picture(min((shared_data / "flickr8k" / "images").iterdir()))[0][None]
    expected = reference(tf.keras.applications.vgg16.preprocess_input(photo.astype(np.float32))).numpy()
    regions = Extractor("vgg16", path).describe(photo)["regions"]
    assert expected.max() > 100
    np.testing.assert_allclose(regions, expected.reshape(1, 196, 512), rtol=1e-3, atol=1e-2)


def test_vgg19_equals_keras_applications(tmp_path):
    keras_model = tf.keras.applications.VGG19(weights=None, include_top=False)
    keras_model.save(tmp_path / "vgg19.h5")
    reference = tf.keras.Model(keras_model.input, keras_model.get_layer("block5_conv4").output)
    model = build_vgg("vgg19")
    load_weights(model, tmp_path / "vgg19.h5")
    pixels = np.random.default_rng(0).normal(0, 60, (1, 224, 224, 3)).astype(np.float32)
    expected = reference(pixels).numpy()
    np.testing.assert_allclose(model(pixels), expected, rtol=1e-4, atol=1e-4 * expected.max())
