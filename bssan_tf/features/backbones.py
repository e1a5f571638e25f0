"""The convolutions that describe a picture: VGG-19 (the paper's), VGG-16, and a slim VGG-19 of ours.

Out: a Keras model that maps pre-processed pixels (B, 224, 224, 3) to the last convolution's map (B, 14, 14, M). Weights
come from a local .h5 (Keras' own) or .npz, or from Keras' download.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.networks import Network, named_layers, on_stderr
from bssan_tf.features.pictures import SIDE
from bssan_tf.reading.arrays import read_npz
from bssan_tf.reading.hdf5 import open_hdf5
from bssan_tf.tools.files import file_sha256
from bssan_tf.tools.stack import path_of

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # per block
FILTERS = (64, 128, 256, 512, 512)
BGR_MEANS = (103.939, 116.779, 123.68)
CLASSIFIER_LAYERS = frozenset({"fc1", "fc2", "predictions"})  # in Keras' full weight files; not used here
REMEDY = "give a .h5 or .npz of weights, downloaded or written anew"
KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"


@dataclass(frozen=True)
class Backbone:
    """One entry of BACKBONES: which VGG, how wide, and where its weights come from by default."""

    name: str
    layers: str  # "vgg16" or "vgg19"
    width: float = 1.0  # share of VGG's filters per layer
    md5: str | None = None  # of Keras' published file
    packaged: str | None = None  # weights file beside this module, in place of Keras'

    @property
    def url(self) -> str:
        """Keras' published weights."""
        return f"{KERAS_URL}/{self.layers}/{self.layers}_weights_tf_dim_ordering_tf_kernels_notop.h5"

    def open(self, weights: str | Path | None = None) -> Network:
        """With the weights of a file, of the package or of Keras' download; UserError where there are none."""
        file = find_weights(self, weights)

        def load() -> tf.keras.Model:
            model = build_vgg(self.layers, self.width)
            load_weights(model, file)
            model.trainable = False
            return model

        grid = (SIDE // 16, SIDE // 16)  # four poolings
        return Network(self.output_layer, grid, self.channels, file_sha256(file), preprocess, load, file)

    @property
    def output_layer(self) -> str:
        """The name of the last convolution."""
        return f"block5_conv{CONVOLUTIONS[self.layers][-1]}"

    @property
    def channels(self) -> int:
        """M, the size of a region's feature."""
        return _filters(self.width)[-1]


BACKBONES = {
    "vgg19": Backbone("vgg19", "vgg19", md5="253f8cb515780f3b799900260a226db6"),
    "vgg16": Backbone("vgg16", "vgg16", md5="6d6bbae143d832006294945121d1f1fc"),
    "slim": Backbone("slim", "vgg19", width=1 / 8, packaged="slim_vgg19.npz"),
}


def preprocess(pictures: tf.Tensor) -> tf.Tensor:
    """VGG's pre-processing: RGB 0-255 (..., 3) of any dtype -> float32 BGR minus ImageNet's means."""
    return tf.reverse(tf.cast(pictures, tf.float32), axis=[-1]) - tf.constant(BGR_MEANS)


def build_vgg(layers: str = "vgg19", width: float = 1.0, side: int | None = SIDE) -> tf.keras.Model:
    """The convolutions of VGG (Simonyan and Zisserman) up to the last, before its pooling; random weights.

    Args:
        layers: "vgg19" (16 convolutions, ends in block5_conv4) or "vgg16" (13, block5_conv3).
        width: share of the published number of filters; 1.0 gives M = 512.
        side: of the pictures; None for any height and width.

    Returns:
        model: float32 (B, 224, 224, 3) of `preprocess` -> float32 (B, 14, 14, M), after the ReLU; a cell is 16 pixels.
    """
    if layers not in CONVOLUTIONS:
        raise ValueError(f"layers must be one of {sorted(CONVOLUTIONS)}, not {layers!r}")
    inputs = x = tf.keras.Input((side, side, 3), name="pixels")
    for block, (count, filters) in enumerate(zip(CONVOLUTIONS[layers], _filters(width)), start=1):
        if block > 1:
            x = tf.keras.layers.MaxPooling2D(padding="same", name=f"block{block - 1}_pool")(x)
        for i in range(1, count + 1):
            name = f"block{block}_conv{i}"
            x = tf.keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
    return tf.keras.Model(inputs, x, name=f"{layers}_convolutions")  # (B, 14, 14, M)


def _filters(width: float) -> list[int]:
    return [max(1, round(filters * width)) for filters in FILTERS]


def load_weights(model: tf.keras.Model, path: str | Path) -> None:
    """Copy the weights of a file into a model of `build_vgg`: .h5 as Keras writes it, its classifier left out, or .npz
    with "blockX_convY/kernel" (HWIO) and "blockX_convY/bias" of any float type; or such an .npz of any other model.

    UserError: not such a file, or layers, shapes or values that don't fit; the model is then unchanged.
    """
    found = read_arrays(path, "--backbone-weights", skip=CLASSIFIER_LAYERS)
    wanted = {
        f"{name}/{path_of(weight).rpartition('/')[2]}": weight
        for name, layer in named_layers(model).items()
        for weight in getattr(layer, "weights", ())
    }
    problem = None
    if missing := sorted(set(wanted) - set(found)):
        problem = f"has no {missing[0]} ({len(missing)} of {len(wanted)} arrays missing)"
    elif extra := sorted(set(found) - set(wanted)):
        problem = f"has {extra[0]}, which the network lacks ({len(extra)} such arrays)"
    for key in () if problem else wanted:
        if misfit := misfit_of(found[key], wanted[key]):
            problem = f"{key} {misfit}"
    if problem:
        raise UserError(f"--backbone-weights {path}: {problem}; give a file made for {model.name}")
    for key, weight in wanted.items():
        weight.assign(found[key].astype(np.float32))


def misfit_of(array: np.ndarray, weight: tf.Variable) -> str | None:
    """What is wrong with an array for this weight, or None."""
    if array.shape != tuple(weight.shape):
        return f"is {array.shape}, the network's is {tuple(weight.shape)}"
    if array.dtype.kind != "f" or not (np.abs(array) <= np.finfo(np.float32).max).all():  # also of a NaN
        return "holds values that are not finite floats"
    return None


def read_arrays(path: str | Path, flag: str, skip: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a .npz or .h5 by name, "layer/kernel" and "layer/bias"; of a .h5 without the layers in `skip`.

    UserError, which names `flag`, where the file is absent, unreadable or of another kind.
    """
    path, source = Path(path), f"{flag} {path}"
    if path.suffix == ".npz":
        return read_npz(path, REMEDY, source=source)
    if path.suffix in (".h5", ".hdf5"):
        with open_hdf5(path, REMEDY, source) as file:
            return _read_h5(file, skip)
    raise UserError(f"{source}: is neither .h5 nor .npz; convert it to one of them")


def _read_h5(file: Mapping, skip: Collection[str]) -> dict[str, np.ndarray]:
    """Keras 2's layout: a group per layer, its attribute `weight_names` in the order kernel, bias."""
    found, group = {}, file.get("model_weights", file)
    if "layer_names" not in group.attrs:
        raise ValueError("no attribute layer_names; Keras 3 writes it by model.save('FILE.h5')")
    for name in np.asarray(group.attrs["layer_names"]).astype(str):
        weight_names = [] if name in skip else np.asarray(group[name].attrs["weight_names"]).astype(str)
        kinds = ("kernel", "bias") if len(weight_names) == 2 else weight_names
        for kind, weight_name in zip(kinds, weight_names):
            found[f"{name}/{kind}"] = np.asarray(group[name][weight_name])
    return found


def find_weights(backbone: Backbone, path: str | Path | None = None) -> Path:
    """The weights file: `path`, else the packaged one, else Keras', downloaded once; UserError where there is none."""
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"--backbone-weights {path}: no such file; name a .h5 or .npz of {backbone.layers}")
        return Path(path)
    if backbone.packaged is not None:
        packaged = Path(__file__).with_name(backbone.packaged)
        if not packaged.is_file():
            raise UserError(f"{packaged}: the shipped weights are missing; install the package anew")
        return packaged
    url = backbone.url
    try:
        with on_stderr():
            return Path(tf.keras.utils.get_file(Path(url).name, url, cache_subdir="models", file_hash=backbone.md5))
    except Exception as error:  # Keras raises a bare Exception here
        reason = " ".join(str(error).split())
        problem = f"the weights of {backbone.name} could not be downloaded ({reason})"
        raise UserError(f"{problem}; fetch {url} elsewhere and give it by --backbone-weights FILE") from error
