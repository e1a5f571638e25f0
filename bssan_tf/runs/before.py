"""Weights of the version before, in whose `best.keras` the MLPs were no models of their own.

In: a scorer of this version and a `.keras` file of that one. Out: the scorer with its weights, found by the layers'
names, which are the same. A file of this version is read by Keras alone.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import h5py
import numpy as np
import tensorflow as tf


def load_weights_of_before(scorer: tf.keras.Model, path: Path) -> None:
    """Give a scorer the weights of a file of the version before.

    Raises:
        KeyError, ValueError, BadZipFile: it lacks a layer of the scorer, or has one of another shape, or is damaged.
    """
    with ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        found = dict(_by_name(json.loads(archive.read("config.json"))["config"]["layers"], file["layers"]))
    for layer in _leaves(scorer):
        if layer.weights:
            layer.set_weights(found[layer.name])


def _leaves(model: tf.keras.Model) -> Iterator[tf.keras.layers.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, tf.keras.Model) else [layer]


def _by_name(layers: Sequence[dict], group: h5py.Group) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, weights) of each layer of a model; Keras' file names them by class, numbered in the order of `layers`."""
    count = Counter()
    for layer in layers:
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", layer["class_name"]).lower()
        key = f"{kind}_{count[kind]}" if count[kind] else kind
        count[kind] += 1
        if "layers" in layer["config"]:
            yield from _by_name(layer["config"]["layers"], group[key]["layers"])
        elif key in group:
            yield layer["config"]["name"], _arrays(group[key])


def _arrays(group: h5py.Group) -> list[np.ndarray]:
    """The weights of a layer in Keras' order, of an LSTM in its cell, of a Bi-LSTM forward first."""
    own = [group["vars"][key][()] for key in sorted(group["vars"], key=int)]
    parts = sorted(group.keys() - {"vars"}, reverse=True)
    return own + [array for part in parts for array in _arrays(group[part])]
