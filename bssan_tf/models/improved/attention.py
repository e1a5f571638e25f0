"""What `improved` adds to the two attentions: cosines, and a learned factor on e.

The products of Eq. 2 and 10 grow in training until tanh is exactly 1 in float32; cosines, times a constant, don't.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.models.attention import ObjectToWordAttention, WordToRegionAttention
from bssan_tf.models.improved.bilinear import unit
from bssan_tf.tools.stack import in_own_dtype, register

COSINE_SCALE = 4.0  # the products' largest size with cosine attention; tanh(4) is still below 1 in float32


class _Sharpened:
    """Mixed into an attention of the paper.

    `scale`: start value of a learned factor on e; 0 leaves e as Eq. 1 and 9 have it.
    `cosine`: products of unit vectors, times COSINE_SCALE, in place of those of Eq. 2 and 10.
    """

    def __init__(self, l2: float = 0.0, scale: float = 0.0, cosine: bool = False, **kwargs):
        super().__init__(l2, **kwargs)
        self.scale = scale
        self.cosine = cosine

    def build(self, input_shape):
        super().build(input_shape)
        if self.scale:
            start = tf.keras.initializers.Constant(float(self.scale))
            self.sharpness = self.add_weight(name="scale", shape=(), initializer=start)

    def compare(self, projected, keys):
        if self.cosine:
            projected, keys = COSINE_SCALE * unit(projected), unit(keys)
        return super().compare(projected, keys)

    def energies(self, products):
        e = super().energies(products)
        return e * in_own_dtype(self, self.sharpness)[0] if self.scale else e

    def start_from(self, look, products, first=0):
        super().start_from(look, products, first)
        if self.cosine:  # whose mean is no sum of products
            self.b.assign(0.0)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "cosine": self.cosine}


@register
class SharpenedWordToRegionAttention(_Sharpened, WordToRegionAttention):
    """W2R's attention with cosines or a factor on e; calls as of WordToRegionAttention."""


@register
class SharpenedObjectToWordAttention(_Sharpened, ObjectToWordAttention):
    """O2W's attention with cosines or a factor on e; calls as of ObjectToWordAttention."""
