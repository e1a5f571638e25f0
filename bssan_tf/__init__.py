"""BSSAN: Bi-Directional Spatial-Semantic Attention Networks for image-text matching, in Keras/TensorFlow."""

__version__ = "0.1.0"
