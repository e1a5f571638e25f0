"""BSSAN: Bi-Directional Spatial-Semantic Attention Networks for image-text matching, in Keras/TensorFlow."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever the user's keras.json names for other programs

__version__ = "0.1.0"
