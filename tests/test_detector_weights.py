"""Weights of Faster R-CNN: a checkpoint with the public one's names, Keras' VGG-16, our own files, and wrong ones."""

import dataclasses

import h5py
import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import VOC_LABELS, DetectorConfig
from bssan_tf.features.faster_rcnn.weights import load_detector, load_initial, load_settings, save_weights

SLIM = DetectorConfig(width=1 / 16, hidden=32)
FILTERS = {1: 4, 2: 8, 3: 16, 4: 32, 5: 32}  # a sixteenth of VGG's
CONVOLUTIONS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}


def public_shapes(filters=FILTERS, hidden=32):
    """Names and shapes as endernewton/tf-faster-rcnn's vgg16 saves them, its widths divided."""
    shapes, channels = {}, 3
    for block, count in CONVOLUTIONS.items():
        for i in range(1, count + 1):
            shapes[f"vgg_16/conv{block}/conv{block}_{i}"] = (3, 3, channels, filters[block])
            channels = filters[block]
    shapes["vgg_16/rpn_conv/3x3"] = (3, 3, channels, channels)
    shapes["vgg_16/rpn_cls_score"] = (1, 1, channels, 18)
    shapes["vgg_16/rpn_bbox_pred"] = (1, 1, channels, 36)
    shapes["vgg_16/fc6"] = (49 * channels, hidden)
    shapes["vgg_16/fc7"] = (hidden, hidden)
    shapes["vgg_16/cls_score"] = (hidden, 21)
    shapes["vgg_16/bbox_pred"] = (hidden, 84)
    return shapes


def public_arrays(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for layer, shape in public_shapes().items():
        arrays[f"{layer}/weights"] = rng.normal(0, 0.1, shape).astype(np.float32)
        arrays[f"{layer}/biases"] = rng.normal(0, 0.1, shape[-1:]).astype(np.float32)
    return arrays


def write_checkpoint(folder, arrays, slots=True):
    """A checkpoint as TensorFlow 1's Saver writes it, with the optimizer's slots and the learning rate."""
    if slots:
        momentum = {f"{name}/Momentum": np.full_like(array, 9) for name, array in arrays.items()}
        arrays = {**arrays, **momentum, "Variable": np.float32(0.001)}
    prefix = str(folder / "vgg16_faster_rcnn_iter_110000.ckpt")
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=[arrays[n] for n in names]
    )
    (folder / "vgg16_faster_rcnn_iter_110000.ckpt.meta").write_bytes(b"")
    return prefix


def test_the_widths_of_the_public_checkpoint_are_ours():
    full = public_shapes({1: 64, 2: 128, 3: 256, 4: 512, 5: 512}, 4096)
    assert full["vgg_16/fc6"] == (25088, 4096)
    assert sum(int(np.prod(shape)) + shape[-1] for shape in full.values()) == 137_078_239
    assert len(public_arrays()) == len(FasterRcnn(SLIM).weights)


@pytest.mark.parametrize("ending", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_each_array_of_a_checkpoint_reaches_its_layer(tmp_path, ending):
    arrays = public_arrays()
    model = load_detector(write_checkpoint(tmp_path, arrays) + ending, SLIM)
    pairs = [(f"block{b}_conv{i}", f"conv{b}/conv{b}_{i}") for b, n in CONVOLUTIONS.items() for i in range(1, n + 1)]
    pairs += [("rpn_conv", "rpn_conv/3x3")]
    pairs += [(name, name) for name in ("rpn_cls_score", "rpn_bbox_pred", "fc6", "fc7", "cls_score", "bbox_pred")]
    assert len(pairs) == 20
    for ours, theirs in pairs:
        np.testing.assert_array_equal(model.weights[f"{ours}/kernel"], arrays[f"vgg_16/{theirs}/weights"])
        np.testing.assert_array_equal(model.weights[f"{ours}/bias"], arrays[f"vgg_16/{theirs}/biases"])


def resnet():
    return {"resnet_v1_101/conv1/weights": np.zeros((7, 7, 3, 64), np.float32)}


def without(name):
    return {key: value for key, value in public_arrays().items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (resnet, "is of resnet_v1_101; the archives of VGG-16 and of res101 have one name"),
        (lambda: without("vgg_16/fc7/biases"), r"has no vgg_16/fc7/biases \(1 of 40 arrays missing\)"),
        (lambda: {**public_arrays(), "vgg_16/fc8/weights": np.zeros(2, np.float32)}, "has vgg_16/fc8/weights, which"),
        (
            lambda: {**public_arrays(), "vgg_16/fc7/biases": np.zeros(33, np.float32)},
            r"fc7/bias is \(33,\), .* \(32,\)",
        ),
        (lambda: {**public_arrays(), "vgg_16/fc7/biases": np.full(32, np.nan, np.float32)}, "not finite"),
        (lambda: {**public_arrays(), "vgg_16/fc7/biases": np.zeros(32, np.int32)}, "not finite floats"),
    ],
    ids=["res101", "missing", "extra", "shape", "nan", "integers"],
)
def test_checkpoints_that_are_wrong_change_nothing(tmp_path, arrays, words, monkeypatch):
    prefix = write_checkpoint(tmp_path, arrays())
    made = []
    init = FasterRcnn.__init__

    def remember(self, config):
        init(self, config)
        made.append((self, {name: weight.numpy() for name, weight in self.weights.items()}))

    monkeypatch.setattr(FasterRcnn, "__init__", remember)
    with pytest.raises(UserError, match=words) as error:
        load_detector(prefix, SLIM)
    assert "\n" not in str(error.value)
    ((model, before),) = made
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight, before[name])


def test_a_damaged_checkpoint(tmp_path):
    prefix = write_checkpoint(tmp_path, public_arrays())
    (tmp_path / "vgg16_faster_rcnn_iter_110000.ckpt.data-00000-of-00001").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"iter_110000\.ckpt: .*download it anew") as error:
        load_detector(prefix, SLIM)
    assert "\n" not in str(error.value)
    (tmp_path / "vgg16_faster_rcnn_iter_110000.ckpt.index").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"not a readable checkpoint .*download it anew"):
        load_detector(prefix, SLIM)


# ---- our own files ----


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
@pytest.mark.parametrize("half", [False, True])
def test_own_files_bring_settings_and_weights_back(tmp_path, name, half):
    model = FasterRcnn(dataclasses.replace(SLIM, labels=("cat", "dog"), anchor_scales=(2, 5.5)))
    save_weights(model, tmp_path / name, half)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert load_settings(tmp_path / name) == model.config
    again = load_detector(tmp_path / name)
    assert again.config == model.config
    for key, weight in model.weights.items():
        expected = weight.numpy().astype(np.float16 if half else np.float32)
        np.testing.assert_array_equal(again.weights[key], expected)


def test_own_files_that_are_wrong(tmp_path):
    model = FasterRcnn(SLIM)
    save_weights(model, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    for change, words in [
        ({"settings": None}, "holds no detector's settings"),
        ({"settings": np.array("{")}, "its settings: not valid JSON"),
        ({"settings": np.array('{"depth": 3}')}, "its settings are not a detector's"),
        ({"fc6/bias": None}, "has no fc6/bias"),
        ({"fc8/bias": np.zeros(1)}, "has fc8/bias, which"),
        ({"fc6/bias": np.zeros(3, np.float32)}, r"fc6/bias is \(3,\)"),
    ]:
        changed = {key: value for key, value in {**arrays, **change}.items() if value is not None}
        np.savez(tmp_path / "b.npz", **changed)
        with pytest.raises(UserError, match=words) as error:
            load_detector(tmp_path / "b.npz")
        assert "b.npz" in str(error.value)
    (tmp_path / "c.npz").write_text("hello")
    (tmp_path / "c.h5").write_text("hello")
    (tmp_path / "c.txt").write_text("hello")
    for name, words in (
        ("c.npz", "not a readable"),
        ("c.h5", "not a readable"),
        ("c.txt", "is neither"),
        ("d", "no such"),
    ):
        with pytest.raises(UserError, match=rf"--detector-weights .*{name}: .*{words}"):
            load_detector(tmp_path / name)
    with pytest.raises(UserError, match=r"\.npz or \.h5"):
        save_weights(model, tmp_path / "a.pkl")


# ---- initial weights ----


def keras_h5(path, with_top):
    """VGG-16 at a sixteenth of the width in the layout of Keras' files; fc1 and fc2 of the detector's size."""
    arrays = {}
    rng = np.random.default_rng(1)
    layers = {f"block{b}_conv{i}": None for b, n in CONVOLUTIONS.items() for i in range(1, n + 1)}
    channels = 3
    with h5py.File(path, "w") as file:
        if with_top:
            layers |= dict.fromkeys(("fc1", "fc2", "predictions"))
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name in layers:
            if name.startswith("block"):
                shape = (3, 3, channels, FILTERS[int(name[5])])
                channels = shape[-1]
            else:
                shape = {"fc1": (49 * 32, 32), "fc2": (32, 32), "predictions": (32, 1000)}[name]
            values = {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1:])}
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in values]
            for kind, value in values.items():
                group[f"{name}/{kind}:0"] = value.astype(np.float32)
                arrays[f"{name}/{kind}"] = value.astype(np.float32)
    return arrays


@pytest.mark.parametrize("with_top", [True, False])
def test_keras_vgg16_is_where_training_starts(tmp_path, with_top):
    arrays = keras_h5(tmp_path / "vgg16.h5", with_top)
    model = FasterRcnn(SLIM)
    before = {name: weight.numpy() for name, weight in model.weights.items()}
    load_initial(model, tmp_path / "vgg16.h5")
    theirs = {"fc6": "fc1", "fc7": "fc2"} if with_top else {}
    for name, weight in model.weights.items():
        layer, kind = name.split("/")
        if layer.startswith("block") or layer in theirs:
            np.testing.assert_array_equal(weight, arrays[f"{theirs.get(layer, layer)}/{kind}"])
        else:
            np.testing.assert_array_equal(weight, before[name])


def test_the_heads_of_other_classes_stay_random(tmp_path):
    voc = FasterRcnn(SLIM)
    for weight in voc.weights.values():
        weight.assign_add(tf.ones_like(weight))
    save_weights(voc, tmp_path / "voc.npz")
    model = FasterRcnn(dataclasses.replace(SLIM, labels=("cat",)))
    load_initial(model, tmp_path / "voc.npz")
    for name, weight in model.weights.items():
        same = weight.shape == voc.weights[name].shape and np.array_equal(weight, voc.weights[name])
        assert same == (name.split("/")[0] not in ("cls_score", "bbox_pred")), name


def test_initial_weights_of_another_network(tmp_path):
    keras_h5(tmp_path / "vgg16.h5", False)
    model = FasterRcnn(dataclasses.replace(SLIM, width=1 / 32))
    before = model.weights["block1_conv1/kernel"].numpy()
    with pytest.raises(UserError, match=r"vgg16\.h5: block1_conv1/kernel is \(3, 3, 3, 4\).*0\.03125 of its width"):
        load_initial(model, tmp_path / "vgg16.h5")
    np.testing.assert_array_equal(model.weights["block1_conv1/kernel"], before)
    with pytest.raises(UserError, match=r"--initial .*none\.h5: no such file"):
        load_initial(model, tmp_path / "none.h5")


def test_the_packaged_default_of_a_checkpoint_is_voc(tmp_path):
    prefix = write_checkpoint(tmp_path, resnet())
    assert load_settings(prefix).labels == VOC_LABELS


@pytest.mark.large
def test_a_full_width_checkpoint_is_imported(tmp_path):
    """548 MB with the public names and shapes, read back at full width."""
    shapes = public_shapes({1: 64, 2: 128, 3: 256, 4: 512, 5: 512}, 4096)
    arrays = {f"{layer}/weights": np.full(shape, i, np.float32) for i, (layer, shape) in enumerate(shapes.items())}
    arrays |= {f"{layer}/biases": np.full(s[-1], i / 2, np.float32) for i, (layer, s) in enumerate(shapes.items())}
    model = load_detector(write_checkpoint(tmp_path, arrays, slots=False))
    assert sum(int(np.prod(weight.shape)) for weight in model.weights.values()) == 137_078_239
    assert model.config == DetectorConfig()
    assert [weight.numpy().flat[0] for weight in model.weights.values()] == [i / d for i in range(20) for d in (1, 2)]
