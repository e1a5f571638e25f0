"""Image backbones of KerasHub: feature maps, and the patch tokens of a ViT as regions (CLIP's and SigLIP's, too).

In: the name or the folder of a preset. Out: a `Network` for pictures of the size that the model takes. KerasHub is
optional, and for Keras 3 only; it downloads what has a name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from bssan_tf.config.fields import HUB, is_preset_folder
from bssan_tf.errors import UserError
from bssan_tf.features.backbones import REMEDY
from bssan_tf.features.networks import Network, outputs_of, region_model
from bssan_tf.features.pictures import SIDE
from bssan_tf.reading.files import refusing
from bssan_tf.reading.hdf5 import open_hdf5
from bssan_tf.tools.stack import keras_hub

MOST_LEADING = 8  # tokens before those of the patches: of the class, of distillation, registers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preset:
    """A preset of KerasHub: a name that it knows, an address such as hf://..., or a folder."""

    name: str  # `keras_hub:` and the preset, of a folder its last part: it may be moved
    preset: str

    def open(self, weights: str | Path | None = None) -> Network:
        """Its image backbone with its weights; of `weights`, the preset's folder, where it lies elsewhere now.

        UserError where there is no such preset, or it has no map and no tokens of patches.
        """
        source, place = f"--backbone {self.name}", str(weights or self.preset)
        if weights is not None:
            source = f"--backbone-weights {weights}"
            if not Path(weights).is_dir():
                raise UserError(f"{source}: is no folder; name the preset's folder, or leave it out")
        hub = keras_hub(source)
        if Path(place).is_dir():
            for file in sorted(Path(place).glob("*.h5")):
                with open_hdf5(file, REMEDY):
                    pass  # that is the check
        elif "://" not in place and place not in (known := hub.models.Backbone.presets):
            near = difflib.get_close_matches(place, known, n=1, cutoff=0.0)[0]
            problem = f"{place} is neither a folder nor a preset that KerasHub knows, such as {near}"
            raise UserError(f"{source}: {problem}; a folder that was moved is named by --backbone-weights FOLDER")
        with refusing(source, "KerasHub can't load this preset", "name one that it lists, or a whole folder of one"):
            backbone = hub.models.Backbone.from_preset(place, dtype="float32")
        encoder = _with_size(getattr(backbone, "vision_encoder", backbone), source)
        side = encoder.image_shape[0]
        layer, model = _token_model(encoder, side) or region_model(encoder, source, remedy="name another preset")
        with refusing(source, "has no image converter", "save the one that it was trained with in the same folder"):
            converter = hub.layers.ImageConverter.from_preset(place)
        converter.image_size = None  # pictures have the size; it would crop others
        if side != SIDE:
            logger.info("%s: takes pictures of %d x %d pixels", source, side, side)

        def preprocess(pictures: tf.Tensor) -> tf.Tensor:
            return converter(tf.cast(pictures, tf.float32))

        model.trainable = False
        network = Network.of(model, layer, preprocess, weights_file=weights and Path(weights), side=side)
        scaling = {name: value for name, value in converter.get_config().items() if name not in ("name", "dtype")}
        told = network.weights_sha256 + json.dumps(scaling, sort_keys=True, default=str)  # with other scaling, others
        return dataclasses.replace(network, weights_sha256=hashlib.sha256(told.encode()).hexdigest())


def find_preset(text: str) -> Preset:
    """The preset that keras_hub:PRESET means; UserError where none is named, or KerasHub is not there."""
    preset = text[len(HUB) :]
    if not preset:
        raise UserError(f"--backbone {text}: names no preset; give {HUB}PRESET, such as clip_vit_base_patch16")
    keras_hub(f"--backbone {text}")
    return Preset(HUB + (Path(preset).resolve().name if is_preset_folder(preset) else preset), preset)


def _with_size(encoder: tf.keras.Model, source: str) -> tf.keras.Model:
    """An encoder for pictures of one size: its own, or 224 x 224 where it takes any."""
    shape = getattr(encoder, "image_shape", None)
    if not shape or shape[2] != 3 or shape[0] != shape[1] or len(encoder.inputs) != 1:
        takes = f"takes {tuple(shape)}" if shape else "is no image backbone"
        raise UserError(f"{source}: {takes}; name a preset that takes square pictures in RGB alone")
    if shape[0] is not None:
        return encoder
    fixed = type(encoder).from_config({**encoder.get_config(), "image_shape": (SIDE, SIDE, 3)})
    fixed.set_weights(encoder.get_weights())
    return fixed


def _token_model(encoder: tf.keras.Model, side: int) -> tuple[str, tf.keras.Model] | None:
    """The last layer of a ViT that has a token for each patch, and the model up to it, its tokens as a map."""
    patch = getattr(encoder, "patch_size", None)
    patch = patch[0] if isinstance(patch, (tuple, list)) else patch
    found = [(name, tensor) for name, tensor in outputs_of(encoder).items() if len(tensor.shape) > 2]
    name, tokens = found[-1]  # what follows has one vector for a picture
    if not patch or len(tokens.shape) != 3 or tokens.shape[1] is None:
        return None
    rows = side // patch
    leading = tokens.shape[1] - rows**2
    if not 0 <= leading <= MOST_LEADING:
        return None
    # from behind: SigLIP's embedding tells Keras of a token that it doesn't have
    cells = tf.keras.layers.Reshape((rows, rows, tokens.shape[2]))(tokens[:, -(rows**2) :])
    return name, tf.keras.Model(encoder.inputs[0], cells)
