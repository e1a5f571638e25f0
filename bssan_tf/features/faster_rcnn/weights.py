"""Files of weights: the public TensorFlow 1 checkpoint, Keras' VGG-16 to start from, and our own .npz and .h5.

Nothing is copied into a model before the names and shapes of all arrays were found right. In all of these, kernels are
HWIO and the rows of fc6 in the order row, column, channel.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.backbones import KERAS_URL, REMEDY, misfit_of, read_arrays
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import DetectorConfig
from bssan_tf.features.networks import on_stderr
from bssan_tf.reading.arrays import read_npz
from bssan_tf.reading.files import reason, refusing
from bssan_tf.reading.hdf5 import open_hdf5
from bssan_tf.tools.files import PATTERNS, replacing

logger = logging.getLogger(__name__)

FLAG = "--detector-weights"
SETTINGS = "settings"  # beside the arrays: the DetectorConfig as JSON
VGG16_URL = f"{KERAS_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5"
VGG16_MD5 = "64373286793e3c8b2b4e3219cbf3544b"
KERAS_NAMES = {"fc1": "fc6", "fc2": "fc7"}
SLOTS = ("/Momentum", "/Adam", "/Adam_1", "/ExponentialMovingAverage")
COUNTERS = ("Variable", "global_step", "beta1_power", "beta2_power")


def load_detector(path: str | Path, checkpoint_config: DetectorConfig | None = None, flag: str = FLAG) -> FasterRcnn:
    """A detector with the weights of a file that `flag` named; UserError if there is none, or it is not a detector's.

    The file is our own .npz or .h5, or a TensorFlow 1 checkpoint, given by its prefix or any of its three files.
    `checkpoint_config` is the network of a checkpoint, which does not say it; None for VOC at full width.
    """
    prefix = checkpoint_prefix(Path(path))
    if prefix is not None:
        model = FasterRcnn(checkpoint_config or DetectorConfig())
        copy_checkpoint(model, prefix, flag)
        return model
    source = f"{flag} {path}"
    settings, arrays = _read(Path(path), source)
    if settings is None:
        remedy = "give a file that --train or --convert of bssan_tf.features.faster_rcnn has written"
        raise UserError(f"{source}: holds no detector's settings; {remedy}")
    config = DetectorConfig.from_json(settings, source)
    if (bias := arrays.get("fc7/bias")) is not None and bias.shape != (config.hidden,):  # before memory is taken for it
        raise UserError(f"{source}: fc7/bias is {bias.shape}, its settings say {config.hidden}; {REMEDY}")
    model = FasterRcnn(config)
    _copy(model, arrays, source)
    return model


def load_settings(path: str | Path, flag: str = FLAG) -> DetectorConfig:
    """The settings of a detector's file, without its weights; a checkpoint's are those of VOC."""
    if checkpoint_prefix(Path(path)) is not None:
        return DetectorConfig()
    source = f"{flag} {path}"
    settings, _ = _read(Path(path), source, arrays=False)
    if settings is None:
        raise UserError(f"{source}: holds no detector's settings; give a detector's weights")
    return DetectorConfig.from_json(settings, source)


def save_weights(model: FasterRcnn, path: str | Path, half: bool = False) -> None:
    """Write our own file, .npz or .h5, whole or not at all; with `half` as float16, half as large."""
    path, dtype = Path(path), np.float16 if half else np.float32
    if path.suffix not in (".npz", ".h5"):
        raise UserError(f"{path}: weights are written to .npz or .h5; change the name")
    arrays = {name: weight.numpy().astype(dtype) for name, weight in model.weights.items()}
    with replacing(path) as part:
        if path.suffix == ".npz":
            with part.open("wb") as file:
                np.savez(file, **{SETTINGS: np.array(model.config.to_json())}, **arrays)
            return
        with h5py.File(part, "w") as file:
            file.attrs[SETTINGS] = model.config.to_json()
            for name, array in arrays.items():
                file[name] = array


def _read(path: Path, source: str, arrays: bool = True) -> tuple[str | None, dict[str, np.ndarray]]:
    """Settings and arrays of an own file; settings are None where it has none."""
    if path.suffix == ".npz":
        found = read_npz(path, REMEDY, None if arrays else (), (SETTINGS,), source)
        with refusing(source, "its settings are not text", REMEDY):
            settings = str(found.pop(SETTINGS)) if SETTINGS in found else None
        return settings, found
    if path.suffix == ".h5":
        with open_hdf5(path, REMEDY, source) as file:
            settings = file.attrs.get(SETTINGS)
            if not isinstance(settings, (str, type(None))):
                raise TypeError("its settings are not text")
            layers = file if settings is not None and arrays else ()  # a group of two arrays each
            return settings, {f"{layer}/{kind}": file[layer][kind][()] for layer in layers for kind in file[layer]}
    if not path.is_file():
        raise UserError(f"{source}: no such file, nor a checkpoint of that name; correct it")
    raise UserError(f"{source}: is neither .npz nor .h5, nor a checkpoint; convert it to one of them")


def _copy(model: FasterRcnn, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Copy arrays, whose names and shapes must be those of the model, all of them and no other."""
    _check_names(set(model.weights), set(arrays), source)
    for name, weight in model.weights.items():
        if problem := misfit_of(arrays[name], weight):
            raise UserError(f"{source}: {name} {problem}")
    for name, weight in model.weights.items():
        weight.assign(arrays[name].astype(np.float32))


def _check_names(wanted: set[str], found: set[str], source: str) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing:
        raise UserError(f"{source}: has no {missing[0]} ({len(missing)} of {len(wanted)} arrays missing)")
    if extra:
        raise UserError(f"{source}: has {extra[0]}, which the network lacks ({len(extra)} such arrays)")


def checkpoint_prefix(path: Path) -> str | None:
    """The prefix of a TensorFlow checkpoint that `path` names, by itself or by one of its files; else None."""
    prefix = re.sub(r"\.(index|meta|data-00000-of-00001)$", "", str(path))
    return prefix if Path(f"{prefix}.index").is_file() else None


def checkpoint_names(model: FasterRcnn) -> dict[str, str]:
    """Our name of each weight -> its name in checkpoints of endernewton/tf-faster-rcnn, VGG-16."""
    names = {}
    for name in model.weights:
        layer, kind = name.split("/")
        layer = re.sub(r"block(\d)_conv(\d)", r"conv\1/conv\1_\2", layer).replace("rpn_conv", "rpn_conv/3x3")
        names[name] = f"vgg_16/{layer}/{'weights' if kind == 'kernel' else 'biases'}"
    return names


def copy_checkpoint(model: FasterRcnn, prefix: str, flag: str = FLAG) -> None:
    """Copy the weights of a checkpoint of endernewton/tf-faster-rcnn, without the slots of its optimizer.

    Its conv1_1 takes BGR, and its box head is for targets divided by (0.1, 0.1, 0.2, 0.2), as ours. UserError if it is
    another network's, or unreadable; the model is then unchanged.
    """
    source = f"{flag} {prefix}"
    if PATTERNS.search(str(prefix)):
        raise UserError(f"{source}: TensorFlow reads no checkpoint from a path with [, ], *, ? or \\; move it")
    with refusing(source, "not a readable checkpoint", "download it anew"):
        reader = tf.train.load_checkpoint(prefix)
        found = reader.get_variable_to_shape_map()
    network = next((name.split("/")[0] for name in found if name.startswith("resnet_v1")), None)
    if network:
        raise UserError(
            f"{source}: is of {network}; the archives of VGG-16 and of res101 have one name,"
            " voc_0712_80k-110k.tgz; take the one in the folder of VGG-16"
        )
    names = checkpoint_names(model)
    theirs = {name for name in found if not name.endswith(SLOTS) and name not in COUNTERS}
    _check_names(set(names.values()), theirs, source)
    for ours, name in names.items():  # before memory is taken for them
        if (shape := tuple(found[name])) != (wanted := tuple(model.weights[ours].shape)):
            raise UserError(f"{source}: {ours} is {shape}, the network's is {wanted}")
    with refusing(source, "is damaged", "download it anew"):
        arrays = {ours: reader.get_tensor(name) for ours, name in names.items()}
    _copy(model, arrays, source)


def initial_file(initial: str | Path) -> Path:
    """The file that --initial names, "keras" being Keras' VGG-16 with fc6 and fc7, downloaded once.

    UserError if there is no such file, or the download fails.
    """
    if str(initial) == "keras":
        name, remedy = Path(VGG16_URL).name, f"fetch {VGG16_URL} elsewhere and give it by --initial FILE"
        try:
            with on_stderr():
                initial = tf.keras.utils.get_file(name, VGG16_URL, cache_subdir="models", file_hash=VGG16_MD5)
        except Exception as error:  # Keras raises a bare Exception here
            problem = f"VGG-16 could not be downloaded ({reason(error)})"
            raise UserError(f"--initial keras: {problem}; {remedy}") from error
    path = Path(initial)
    if not path.is_file():
        raise UserError(f"--initial {path}: no such file; name a .h5 or .npz of weights")
    return path


def load_initial(model: FasterRcnn, path: Path) -> None:
    """Start from what fits of VGG-16 (.h5 or .npz, Keras' names) or a detector; UserError unless convolutions do."""
    source = f"--initial {path}"
    settings, arrays = _read(path, source) if path.is_file() and path.suffix in (".npz", ".h5") else (None, {})
    if settings is None:
        found = read_arrays(path, "--initial", skip=("predictions",))
        split = {name.partition("/"): array for name, array in found.items()}
        arrays = {f"{KERAS_NAMES.get(layer, layer)}/{kind}": array for (layer, _, kind), array in split.items()}
    copied = []
    for name, weight in model.weights.items():
        problem = misfit_of(arrays[name], weight) if name in arrays else "is missing"
        if not problem:
            copied.append((weight, arrays[name]))
        elif name.startswith("block"):
            raise UserError(f"{source}: {name} {problem}; give weights of VGG-16, {model.config.width:g} of its width")
        elif name.endswith("kernel"):
            logger.info("%s: %s %s, so it starts at random", source, name, problem)
    for weight, array in copied:
        weight.assign(array.astype(np.float32))
