"""The models of `keras.applications` as backbones, by name: resnet50, efficientnetv2b0, convnexttiny.

In: a name, NAME or NAME:LAYER, and weights: a file, or Keras' own download of ImageNet's. Out: a `Network` for pictures
of 224x224 pixels. Pre-processing is the model's own.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.features.backbones import REMEDY, load_weights
from bssan_tf.features.networks import Network, on_stderr, region_model
from bssan_tf.features.pictures import SIDE
from bssan_tf.reading.files import refusing
from bssan_tf.reading.hdf5 import check_keras, open_hdf5

KINDS = ".h5, .weights.h5, .keras or .npz"


@dataclass(frozen=True)
class Application:
    """A model of `keras.applications`, and the layer that was named, if any."""

    name: str  # NAME or NAME:LAYER, NAME in lower case
    build: Callable[..., tf.keras.Model]
    layer: str | None = None

    def open(self, weights: str | Path | None = None) -> Network:
        """With the weights of a file, or those that Keras downloads; UserError where they don't fit or don't come."""
        model = self._downloaded() if weights is None else self._loaded(Path(weights))
        layer, model = region_model(model, f"--backbone {self.name}", self.layer)
        own = sys.modules[self.build.__module__].preprocess_input

        def preprocess(pictures: tf.Tensor) -> tf.Tensor:
            return own(tf.cast(pictures, tf.float32))

        model.trainable = False
        return Network.of(model, layer, preprocess, weights_file=None if weights is None else Path(weights))

    def _built(self, weights: str | None) -> tf.keras.Model:
        return self.build(weights=weights, include_top=False, input_shape=(SIDE, SIDE, 3))

    def _downloaded(self) -> tf.keras.Model:
        what, remedy = "Keras' weights could not be downloaded", "give them by --backbone-weights FILE"
        with refusing(f"--backbone {self.name}", what, remedy), on_stderr():
            return self._built("imagenet")

    def _loaded(self, path: Path) -> tf.keras.Model:
        source = f"--backbone-weights {path}"
        if not path.is_file():
            raise UserError(f"{source}: no such file; name a {KINDS} of {self.build.__name__}")
        if self.build.__name__.startswith("EfficientNetB"):
            problem = f"for its own weights Keras builds {self.build.__name__} with another scaling of pixels"
            raise UserError(f"{source}: {problem}; leave it out (a download in ~/.keras/models is found)")
        if path.suffix == ".keras":
            check_keras(path, REMEDY, source)
        elif path.suffix in (".h5", ".hdf5"):
            with open_hdf5(path, REMEDY, source):
                pass  # that is the check
        elif path.suffix != ".npz":
            raise UserError(f"{source}: is none of {KINDS}; convert it to one of them")
        model = self._built(None)
        if path.suffix == ".npz":
            load_weights(model, path)
            return model
        what = f"its weights are not those of {self.build.__name__}"
        with refusing(source, what, "give a file that Keras wrote of this model with include_top=False"):
            model.load_weights(str(path))
        if wrong := [weight.name for weight in model.weights if not np.isfinite(weight.numpy()).all()]:
            raise UserError(f"{source}: {wrong[0]} holds values that are not finite; {REMEDY}")
        return model


def find_application(text: str) -> Application:
    """The model that NAME or NAME:LAYER means, whatever its capitals; UserError for an unknown one."""
    name, colon, layer = text.partition(":")
    models = {known.lower(): known for known in dir(tf.keras.applications) if known[:1].isupper()}
    key = name.lower().replace("_", "").replace("-", "")
    if key not in models:
        near = difflib.get_close_matches(key, models, n=1, cutoff=0.0)[0]
        others = f"a model of keras.applications such as {near}, or keras_hub:PRESET"
        raise UserError(f"--backbone {text}: unknown; one of vgg19, vgg16, slim, {others}")
    return Application(key + colon + layer, getattr(tf.keras.applications, models[key]), layer if colon else None)
