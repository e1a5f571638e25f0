"""A photo -> the pixels that Faster R-CNN sees.

Pixels are float32 BGR minus the means of the public weights (not those of Keras' VGG), scaled bilinearly without
smoothing, as OpenCV does: until the short side is 600 pixels, or less where the long side would exceed 1000.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

BGR_MEANS = np.array([102.9801, 115.9465, 122.7717], np.float32)


def scale_for(height: int, width: int, short_side: int = 600, long_side: int = 1000) -> float:
    """The factor by which a photo is scaled, in pixels of the result for one of the photo."""
    low, high = min(height, width), max(height, width)
    scale = short_side / low
    return long_side / high if round(scale * high) > long_side else scale


def prepare(photo: np.ndarray, short_side: int = 600, long_side: int = 1000) -> tuple[np.ndarray, float]:
    """Scale a photo uint8 (height, width, 3) RGB and subtract the means: float32 (H, W, 3) BGR, and `scale_for` it."""
    height, width = photo.shape[:2]
    scale = scale_for(height, width, short_side, long_side)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != (height, width):
        with tf.device("CPU"):
            photo = tf.image.resize(photo, size, method="bilinear", antialias=False).numpy()
    # The reference subtracts before it scales, which is linear; a large photo would then be float32 as a whole.
    return np.ascontiguousarray(photo[..., ::-1] - BGR_MEANS), scale
