"""BSSAN: Bi-Directional Spatial-Semantic Attention Networks for image-text matching, in Keras/TensorFlow."""

import importlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever the user's keras.json names for other programs

__version__ = "0.1.0"
__all__ = ["Matcher"]


def __getattr__(name: str):
    """`Matcher`, imported at its first use: TensorFlow takes seconds, and commands have a quick `--help`."""
    if name == "Matcher":
        return importlib.import_module("bssan_tf.matching.matcher").Matcher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
