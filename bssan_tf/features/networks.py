"""A backbone with its weights, whichever it is, and which layer of a Keras model makes the regions.

In: a functional model of Keras. Out: a `Network` that ends in a map (B, rows, columns, M).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.pictures import SIDE
from bssan_tf.reading.files import refusing
from bssan_tf.tools.stack import layers_of, register

CELLS = (14, 7)  # rows and columns where no layer is named, the first that a model has
EARLIER_SHARE = 4.0  # of all layers that are named before the last, in its own: measured, docs/decisions.md
TWICE = "@2"  # behind a layer's name: the layer's map of the picture at twice the size
_OF_PICTURE = (1, 2, 3)


@dataclass(frozen=True, eq=False)
class Network:
    """What maps pictures to their regions.

    Attributes:
        layer: the name of the layer that is read.
        grid, channels: rows and columns of its map, and M.
        weights_sha256: of its weights.
        preprocess: RGB 0-255 (B, side, side, 3) of any dtype -> what the model takes.
        load: the model, pre-processed pixels -> float32 (B, rows, columns, M); takes time at each call.
        weights_file: which was named by --backbone-weights, or is the default; None for another source.
        side: of the pictures that it takes.
    """

    layer: str
    grid: tuple[int, int]
    channels: int
    weights_sha256: str
    preprocess: Callable[[tf.Tensor], tf.Tensor]
    load: Callable[[], tf.keras.Model]
    weights_file: Path | None = None
    side: int = SIDE

    @classmethod
    def of(cls, model: tf.keras.Model, layer: str, preprocess: Callable, **more) -> Network:
        """The network of a model that has its weights and ends in `layer`."""
        *grid, channels = model.output.shape[1:]
        return cls(layer, tuple(grid), channels, weights_sha256(model), preprocess, lambda: model, **more)


def on_stderr() -> contextlib.AbstractContextManager:
    """Keras prints a download's progress on stdout, where results are printed; here it, and all of the process, goes to
    stderr.
    """
    return contextlib.redirect_stdout(sys.stderr)


def weights_sha256(model: tf.keras.Model) -> str:
    """Hash of the values of a model's weights: whatever file or stack of packages they come from, it is the same."""
    arrays = (np.ascontiguousarray(weight.numpy(), np.float32) for weight in model.weights)
    sums = sorted(hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest() for array in arrays)
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def named_layers(model: tf.keras.Model) -> dict[str, tf.keras.layers.Layer]:
    """The layers of a model by name, inputs first.

    Keras numbers layers without a name through the whole process (`add_7`); here the numbers begin anew in the model.
    """
    layers, numbered, found = layers_of(model), defaultdict(list), {}
    for layer in layers:
        if kind := _kind(layer):
            numbered[kind].append(_place(layer))
    for layer in layers:
        kind, name = _kind(layer), layer.name
        if kind:
            place = sorted(numbered[kind]).index(_place(layer))
            name = f"{kind}_{place}" if place else kind
        found[name] = layer
    return found


def _kind(layer) -> str | None:
    """The name that Keras gives to all such layers, before their numbers; None where the model has named it."""
    kind = re.sub(r"_\d+$", "", layer.name)
    if kind.startswith("tf."):  # an operation, such as tf.__operators__.add, as Keras 2 calls it
        return kind.rpartition(".")[2]
    return kind if kind.replace("_", "") == type(layer).__name__.lower() else None


def _place(layer) -> tuple[bool, int]:
    """What orders layers of a kind; operations have numbers of their own."""
    number = re.search(r"_(\d+)$", layer.name)
    return layer.name.startswith("tf."), int(number[1]) if number else 0


def outputs_of(model: tf.keras.Model) -> dict:
    """What each layer of a model gives, by its name in `named_layers`; without those that give several tensors."""
    found = {}
    for name, layer in named_layers(model).items():
        try:
            if hasattr(layer.output, "shape"):
                found[name] = layer.output
        except (AttributeError, ValueError, RuntimeError):  # not connected, or more than once
            continue
    return found


@register
class JoinedMaps(tf.keras.layers.Layer):
    """Maps of one grid (B, rows, columns, M_k) beside each other (hypercolumns, Hariharan et al., CVPR 2015).

    Layers differ a hundredfold: in every picture the absolute values of the last sum to what they are, those of all
    named before it to EARLIER_SHARE times as much, each to an equal part of it.
    """

    def call(self, maps):
        *earlier, last = maps
        total = tf.reduce_sum(tf.abs(last), axis=_OF_PICTURE, keepdims=True) * (EARLIER_SHARE / len(earlier))
        sums = (tf.reduce_sum(tf.abs(one), axis=_OF_PICTURE, keepdims=True) for one in earlier)
        scaled = [one * (total / tf.maximum(own, 1e-12)) for one, own in zip(earlier, sums)]
        return tf.concat([*scaled, last], axis=-1)


def region_model(
    model: tf.keras.Model, source: str, wanted: str | None = None, remedy: str = ""
) -> tuple[str, tf.keras.Model]:
    """The name of the layer that makes the regions, and the model up to it.

    Several layers can be wanted, LAYER+LAYER; `JoinedMaps` then makes one of their maps. LAYER@2 is the layer's map of
    the picture at twice the size, in means of 2x2 cells, so that smaller things are seen. Without a wanted layer, it is
    the last with 14x14 cells, or else 7x7, through which all goes that comes after it: no layer inside of a block,
    beside which the block's input goes on.

    UserError, which names `source`, where there is no such layer.
    """
    outputs = outputs_of(model)
    if wanted is None:
        wanted = _last_of_cells(model, outputs)
        if wanted is None:
            have = sorted({tensor.shape[1] for tensor in outputs.values() if _is_map(tensor)})
            problem = f"no layer has 14x14 or 7x7 cells that all after it is made from (rows are {have})"
            raise UserError(f"{source}: {problem}; {remedy or f'name a layer by {source}:LAYER'}")
        return wanted, tf.keras.Model(model.inputs[0], outputs[wanted])
    names = wanted.split("+")
    maps = [_wanted_map(outputs, name[: -len(TWICE)] if name.endswith(TWICE) else name, source) for name in names]
    if len({tuple(one.shape[1:3]) for one in maps}) > 1:
        grids = ", ".join(f"{one.shape[1]}x{one.shape[2]}" for one in maps)
        raise UserError(f"{source}: the layers have {grids} cells; name layers with as many")
    if large := [place for place, name in enumerate(names) if name.endswith(TWICE)]:
        for place, one in zip(large, _of_twice_the_size(model, [maps[place] for place in large], source)):
            maps[place] = one
    return wanted, tf.keras.Model(model.inputs[0], maps[0] if len(maps) == 1 else JoinedMaps()(maps))


def _of_twice_the_size(model: tf.keras.Model, maps: list, source: str) -> list:
    """The same maps of pictures enlarged to twice the sides, by the same layers, in means of 2x2 cells."""
    (pixels,) = model.inputs
    _, rows, columns, channels = pixels.shape
    large = tf.keras.Input((2 * rows, 2 * columns, channels), name="twice")
    part = tf.keras.Model(pixels, maps)
    with refusing(source, "its layers take pictures of one size only", f"name layers without {TWICE}"):
        # the same layers, called once more: weights are shared
        again = tf.keras.models.clone_model(part, input_tensors=large, clone_function=lambda layer: layer)
    enlarged = tf.keras.layers.UpSampling2D(2, interpolation="bilinear", name="enlarged")(pixels)
    found = again(enlarged)
    found = found if isinstance(found, (list, tuple)) else [found]
    means = [tf.keras.layers.AveragePooling2D(2, name=f"means{i}")(one) for i, one in enumerate(found)]
    if any(one.shape[1:3] != small.shape[1:3] for one, small in zip(means, maps)):  # of "valid" padding
        raise UserError(f"{source}: at twice the size it has not twice the cells; name layers without {TWICE}")
    return means


def shares_of(layer: str) -> str:
    """How the maps of LAYER+LAYER are scaled, for the name of what is extracted: other regions, another name."""
    return f", {EARLIER_SHARE:g} to 1" if "+" in layer else ""


def _wanted_map(outputs: dict, name: str, source: str):
    if name not in outputs:
        near = difflib.get_close_matches(name, outputs, cutoff=0.0)
        raise UserError(f"{source}: there is no such layer; near it are {', '.join(near)}")
    if not _is_map(outputs[name]):
        shape = tuple(outputs[name].shape[1:])
        raise UserError(f"{source}: the layer gives {shape}, not (rows, columns, channels); name another layer")
    return outputs[name]


def _is_map(tensor) -> bool:
    return len(tensor.shape) == 4 and None not in tensor.shape[1:]


def _last_of_cells(model: tf.keras.Model, outputs: dict) -> str | None:
    for cells in CELLS:
        for name, tensor in reversed(outputs.items()):
            if tuple(tensor.shape[1:3]) == (cells, cells) and _is_map(tensor) and _all_follows(model, tensor):
                return name
    return None


def _all_follows(model: tf.keras.Model, tensor) -> bool:
    """Whether the model's output can be computed from this tensor alone."""
    try:
        tf.keras.Model(tensor, model.output)
    except ValueError:  # Keras misses an input
        return False
    return True
