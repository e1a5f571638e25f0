"""Models of keras.applications as backbones: names, the layer that is read, weight files, and a run on another grid."""

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tiny_corpus
from feature_fixtures import extract, write_pictures
from training_fixtures import untrained_run

from bssan_tf.drawing import attention
from bssan_tf.errors import UserError
from bssan_tf.features.networks import Network, named_layers, region_model
from bssan_tf.features.regions import Extractor, find_backbone
from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs.data import open_data
from bssan_tf.runs.photo import folder_features
from bssan_tf.runs.sources import store_name
from bssan_tf.tools.stack import path_of

L = tf.keras.layers
BOXES = np.array([[[0, 0, 1, 1], [0.5, 0.5, 0.75, 0.75]]], np.float32)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ResNet50", "resnet50"),
        ("convnext_tiny", "convnexttiny"),
        ("MobileNetV3Small:Conv", "mobilenetv3small:Conv"),
        ("vgg19:block4_conv4", "vgg19:block4_conv4"),
        ("VGG19", "vgg19"),
        ("slim", "slim"),
    ],
)
def test_names(text, name):
    assert find_backbone(text).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet5O", "unknown; one of vgg19, vgg16, slim, a model of keras.applications such as resnet50,"),
        ("slim:block4_conv4", "slim has one layer for regions; leave out :block4_conv4"),
        ("keras_hub:", "names no preset"),
    ],
)
def test_names_that_mean_nothing_are_told_before_the_data_are_read(text, words, tmp_path):
    from bssan_tf.config.settings import DataConfig

    with pytest.raises(UserError, match=f"--backbone {text}: {words}"):
        open_data(DataConfig(data=str(tmp_path / "absent"), backbone=text, objects="grid"))


def residual(cells=14, named=True):
    """Maps of 28 cells, then a block with `cells`, then a block whose branch still has these cells, and 1x1 at last."""
    inputs = x = tf.keras.Input((28, 28, 3))
    x = L.Conv2D(4, 3, strides=28 // cells, padding="same", name="stem")(x)
    x = L.ReLU()(L.Add(name="out" if named else None)([x, L.Conv2D(4, 1, name="branch")(x)]))
    inside = L.Conv2D(5, 1, name="inside")(x)  # as many cells, but a part of what goes on
    inside = L.Conv2D(4, 3, strides=2, padding="same", name="smaller")(inside)
    x = L.Add(name="last")([inside, L.MaxPooling2D(2, padding="same")(x)])
    return tf.keras.Model(inputs, L.Conv2D(2, x.shape[1])(x))


@pytest.mark.parametrize("cells", [14, 7])
def test_regions_are_of_the_last_layer_through_which_all_goes(cells):
    model = residual(cells)
    layer, part = region_model(model, "--backbone x")
    assert layer == "re_lu"
    assert part.output_shape == (None, cells, cells, 4)
    pixels = np.random.default_rng(0).normal(size=(1, 28, 28, 3)).astype(np.float32)
    expected = tf.keras.Model(model.input, model.get_layer("out").output)(pixels)
    np.testing.assert_allclose(part(pixels), np.maximum(expected, 0), atol=1e-6)


def test_layers_beside_each_other():
    model = residual()
    name, part = region_model(model, "--backbone x", "inside+stem+out")
    assert (name, part.output_shape) == ("inside+stem+out", (None, 14, 14, 5 + 4 + 4))
    pixels = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
    outputs = [model.get_layer(one).output for one in ("inside", "stem", "out")]
    maps = [one.numpy() for one in tf.keras.Model(model.input, outputs)(pixels)]
    sums = [np.abs(one).sum(axis=(1, 2, 3), keepdims=True) for one in maps]
    shares = (2, 2, 1)  # the earlier layers together have four times the last's
    expected = np.concatenate([one * share * sums[2] / own for one, own, share in zip(maps, sums, shares)], axis=-1)
    np.testing.assert_allclose(part(pixels), expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(part(0 * pixels)).all()
    with pytest.raises(UserError, match="--backbone x: the layers have 14x14, 7x7 cells; name layers with as many"):
        region_model(model, "--backbone x", "stem+last")
    with pytest.raises(UserError, match="--backbone x: there is no such layer; near it are"):
        region_model(model, "--backbone x", "stem+lst")


def test_a_layer_at_twice_the_size():
    """The layer's own weights, on the picture enlarged between its pixels' centres, in means of 2x2 cells."""
    model = residual()
    name, part = region_model(model, "--backbone x", "inside+stem@2+stem")
    assert (name, part.output_shape) == ("inside+stem@2+stem", (None, 14, 14, 5 + 4 + 4))
    assert {id(weight) for weight in part.weights} <= {id(weight) for weight in model.weights}
    pixels = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
    places = np.clip((np.arange(56) + 0.5) / 2 - 0.5, 0, 27)  # of the large picture's pixels in the small one
    low, share = np.floor(places).astype(int), places - np.floor(places)
    high = np.minimum(low + 1, 27)
    rows = pixels[:, low] * (1 - share)[:, None, None] + pixels[:, high] * share[:, None, None]
    large = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, high] * share[:, None]
    stem = L.Conv2D(4, 3, strides=2, padding="same")
    stem.build((None, 56, 56, 3))
    stem.set_weights(model.get_layer("stem").get_weights())
    expected = stem(large).numpy().reshape(2, 14, 2, 14, 2, 4).mean(axis=(2, 4))
    alone = region_model(model, "--backbone x", "stem@2")[1](pixels)
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    joined = part(pixels).numpy()[..., 5:9]
    ratio = joined[expected != 0] / expected[expected != 0]  # scaled as a whole in each picture
    assert np.ptp(ratio.reshape(2, -1), axis=1).max() < 1e-3
    with pytest.raises(UserError, match="--backbone x: there is no such layer; near it are"):
        region_model(model, "--backbone x", "stm@2")


def test_a_layer_can_be_named():
    model = residual()
    assert region_model(model, "--backbone x:inside", "inside")[1].output_shape == (None, 14, 14, 5)
    whole = tf.keras.Model(model.input, L.Dense(8, name="flat")(L.Flatten()(model.output)))
    for wanted, words in (("insade", "there is no such layer; near it are inside"), ("flat", r"gives \(8,\), not")):
        with pytest.raises(UserError, match=f"--backbone x:{wanted}: .*{words}"):
            region_model(whole, f"--backbone x:{wanted}", wanted)
    with pytest.raises(UserError, match=r"no layer has 14x14 or 7x7 cells .*\[1, 2, 4, 28\]\); name a layer by"):
        region_model(residual(4), "--backbone x")


def test_names_of_layers_do_not_hang_on_what_was_built_before():
    assert list(named_layers(residual(named=False)))[1:] == list(named_layers(residual(named=False)))[1:]
    assert {"add", "re_lu", "conv2d", "inside"} <= set(named_layers(residual(named=False)))


def test_a_known_model():
    model = tf.keras.applications.ResNet50V2(weights=None, include_top=False, input_shape=(224, 224, 3))
    name, part = region_model(model, "--backbone resnet50v2")  # its last 14x14 map is within a block, of 256 channels
    assert (name, part.output_shape) == ("conv4_block5_out", (None, 14, 14, 1024))


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """MobileNet whose features have some size, and its weights as Keras writes them."""
    model = tf.keras.applications.MobileNet(weights=None, include_top=False, input_shape=(224, 224, 3))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "kernel" in path_of(weight):
            fan_in = 9 if weight.shape[-1] == 1 else np.prod(weight.shape[:-1])  # of a depthwise convolution
            weight.assign(rng.normal(0, (2 / fan_in) ** 0.5, weight.shape))
    folder = tmp_path_factory.mktemp("mobilenet")
    model.save(folder / "m.h5")
    return model, folder


@pytest.fixture(scope="module")
def extractor(mobilenet):
    return Extractor("MobileNet", mobilenet[1] / "m.h5")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), np.uint8)


@pytest.mark.smoke
def test_features_are_the_layers(mobilenet, extractor, pictures):
    assert (extractor.name, extractor.layer) == ("mobilenet", "conv_pw_11_relu")
    assert (extractor.grid, extractor.region_shape, extractor.side) == ((14, 14), (196, 512), 224)
    found = extractor.describe(pictures, BOXES)
    reference = tf.keras.Model(mobilenet[0].input, mobilenet[0].get_layer("conv_pw_11_relu").output)
    scaled = tf.keras.applications.mobilenet.preprocess_input(pictures.astype(np.float32))
    expected = reference(scaled).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found["regions"], expected.reshape(1, 196, 512), rtol=2e-3, atol=2e-3)
    assert found["objects"].shape == (1, 2, 512)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.npz"])
def test_weights_in_every_form_are_the_same(mobilenet, extractor, tmp_path, name):
    model, path = mobilenet[0], tmp_path / name
    if name == "m.keras":
        model.save(path)
    elif name == "m.weights.h5":
        model.save_weights(path)
    else:
        by_layer = [(layer.name, weight) for layer in model.layers for weight in layer.weights]
        np.savez(path, **{f"{layer}/{path_of(w).split('/')[-1]}": w.numpy() for layer, w in by_layer})
    assert Extractor("mobilenet", path).weights_sha256 == extractor.weights_sha256


def test_files_that_do_not_fit(mobilenet, tmp_path):
    residual().save(tmp_path / "other.h5")
    np.savez(tmp_path / "few.npz", **{"conv1/kernel": np.zeros((3, 3, 3, 32), np.float32)})
    for name in ("text.h5", "text.keras", "m.bin"):
        (tmp_path / name).write_text("hello")
    for name, words in (
        ("other.h5", "its weights are not those of MobileNet .*include_top=False"),
        ("few.npz", r"has no conv1_bn/beta \(\d+ of \d+ arrays missing\)"),
        ("text.h5", "not a readable .h5"),
        ("text.keras", "not a readable .keras"),
        ("m.bin", "is none of .h5, .weights.h5, .keras or .npz"),
        ("none.h5", "no such file"),
    ):
        with pytest.raises(UserError, match=rf"--backbone-weights .*{name}: {words}") as error:
            Extractor("mobilenet", tmp_path / name)
        assert "\n" not in str(error.value)
    shutil.copy(tmp_path / "text.h5", tmp_path / "e.h5")
    with pytest.raises(UserError, match="for its own weights Keras builds EfficientNetB0 with another scaling"):
        Extractor("efficientnetb0", tmp_path / "e.h5")


def test_weights_that_are_not_finite(mobilenet, tmp_path):
    shutil.copy(mobilenet[1] / "m.h5", tmp_path / "nan.h5")
    with h5py.File(tmp_path / "nan.h5", "a") as file:
        found = []
        file.visititems(lambda name, item: found.append(item) if "conv_pw_3_bn/gamma" in name else None)
        found[0][...] = np.nan
    with pytest.raises(UserError, match=r"nan\.h5: .*gamma.* holds values that are not finite"):
        Extractor("mobilenet", tmp_path / "nan.h5")


def test_the_download_is_keras_own_and_only_when_asked_for(mobilenet, extractor, capsys):
    asked = []

    def build(weights, **how):
        asked.append(weights)
        if weights == "imagenet":
            print("Downloading data from https://x")  # as Keras does
            raise Exception("URL fetch failure\non https://x")
        return tf.keras.applications.MobileNet(weights=weights, **how)

    build.__name__, build.__module__ = "MobileNet", extractor.backbone.build.__module__
    backbone = dataclasses.replace(extractor.backbone, build=build)
    Extractor(backbone, mobilenet[1] / "m.h5")
    assert asked == [None]
    with pytest.raises(UserError, match=r"--backbone mobilenet: .*downloaded .*--backbone-weights FILE") as error:
        Extractor(backbone)
    assert "\n" not in str(error.value)
    assert asked == [None, "imagenet"]
    assert capsys.readouterr() == ("", "Downloading data from https://x\n")


class OneLayer:
    """A backbone that maps each 32x32 block of pixels by one matrix."""

    name = "one:layer/of mine"

    def __init__(self, bias=(0, 0)):
        inputs = tf.keras.Input((224, 224, 3))
        model = tf.keras.Model(inputs, L.Conv2D(2, 32, 32, name="map")(inputs))
        kernel = np.zeros((32, 32, 3, 2), np.float32)
        kernel[..., 0], kernel[..., 1] = 1 / 3072, -1 / 3072
        model.get_layer("map").set_weights([kernel, np.array(bias, np.float32)])
        self.model = model

    def open(self, weights):
        return Network.of(self.model, "map", lambda pictures: tf.cast(pictures, tf.float32))


def test_values_below_zero_and_outside_of_float16():
    pictures = np.full((1, 224, 224, 3), 200, np.uint8)
    found = Extractor(OneLayer()).describe(pictures, BOXES)
    for values in found.values():
        np.testing.assert_array_equal(values[..., 0], 200)
        np.testing.assert_array_equal(values[..., 1], -200)
    found = Extractor(OneLayer((1e6, -1e6))).describe(pictures, BOXES)
    assert found["regions"][0, 0].tolist() == found["objects"][0, 0].tolist() == [65504, -65504]


def test_the_name_of_several_layers_tells_how_they_are_scaled(monkeypatch):
    """Runs and stores are compared by it, so those of another scaling are refused."""
    extractor = Extractor(OneLayer())
    assert extractor.name == "one:layer/of mine"
    monkeypatch.setattr(Network, "of", lambda *_, of=Network.of, **__: dataclasses.replace(of(*_), layer="map+map"))
    assert Extractor(OneLayer()).name == "one:layer/of mine, 4 to 1"


def test_a_store_of_another_grid(tmp_path):
    extractor = Extractor(OneLayer())
    assert store_name(extractor.name, "grid") == "one_layer_of_mine-grid"
    features = extract(write_pictures(tmp_path / "photos", 3), tmp_path / "store", extractor)
    assert features.grid == (7, 7)
    assert (features.regions.shape, features.objects.shape) == ((3, 49, 2), (3, 10, 2))
    told = features.manifest
    assert (told["extractor"], told["layer"], told["grid"]) == ("one:layer/of mine", "map", [7, 7])
    means = features.regions[:].astype(np.float32).mean(axis=1)
    np.testing.assert_allclose(features.objects[:, 0], means, rtol=0.05)  # the whole photo
    assert (features.regions[..., 1] <= 0).all()


def test_a_run_with_seven_cells_and_values_below_zero(tmp_path, monkeypatch):
    backbone = OneLayer()
    monkeypatch.setattr("bssan_tf.features.regions.find_backbone", lambda text: backbone)
    tiny_corpus.write_corpus(tmp_path / "photos", pictures=18)
    run = untrained_run(tmp_path, backbone=backbone.name, variant="w2r")
    config = run.load_config()
    assert (config.model.D, config.model.M, config.model.Q) == (49, 2, 2)
    regions = open_data(config.data, progress=False).features.regions
    assert regions.min() < -0.1
    photo = tmp_path / "photos" / "003.png"
    features = folder_features(run, config, tmp_path / "photos", [photo], None, False)
    np.testing.assert_allclose(features.regions[0], regions[3], rtol=2e-3, atol=2e-3)

    found = Matcher(run).explain(photo, "a red dog")
    assert found.alpha.shape == (3, 7, 7)
    drawn, draw = [], attention.attention_figure
    monkeypatch.setattr(attention, "attention_figure", lambda *given, **how: drawn.append(how) or draw(*given, **how))
    found.draw(tmp_path / "out.png")
    assert (drawn[0]["grid"], drawn[0]["alpha"].shape[1]) == ((7, 7), 49)
