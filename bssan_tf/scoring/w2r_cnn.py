"""W2R's CNN: a word goes through all slices of the filters once, and a caption only adds shifted rows.

A window's feature is the sum of its words' products with the slices of the filter at their places. These products are
the inputs of w2r.py. Padding takes no part: captions are read in groups of the same length, and of a window that
reaches beyond the caption the words that are there are all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bssan_tf.models.w2r import WIDTHS
from bssan_tf.scoring.folding import Dense, apply_mlp
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.tracing import traced
from bssan_tf.scoring.w2r import FastW2R, places_of

WINDOW_ROWS = 512  # rows (caption, picture) of one step, which holds several arrays as wide as the inputs
HELD = 36  # times H, numbers of a row that a step holds: inputs and their parts, windows before and after, the largest


class CnnW2R(FastW2R):
    """The W2R network with a CNN; G = 9H, by place in the window: widths 2, 3, 4; 2, 3, 4; 3, 4; 4."""

    def __init__(self, network: tf.keras.Model):
        weights = [network.get_layer(f"w2r_cnn{width}").get_weights() for width in WIDTHS]
        slices, biases = [], []
        for place in range(max(WIDTHS)):
            for width, (kernel, bias) in zip(WIDTHS, weights):
                if place < width:
                    slices.append(kernel[place])
                    biases.append(np.zeros_like(bias) if place else bias)  # a window has its bias once
        super().__init__(network, np.concatenate(slices, axis=1), np.concatenate(biases))

    def kept_size(self, tree: PrefixTree) -> int:
        """See `FastW2R`: the allocator keeps the place of an earlier block's inputs (measured), so they count twice."""
        return len(tree.words) * self.size

    def step_size(self) -> int:
        """See `FastW2R`."""
        return WINDOW_ROWS * HELD * self.size // sum(WIDTHS)

    def read(self, tree: PrefixTree, inputs: tf.Tensor, scores: np.ndarray, scored: Callable[[int], None]) -> None:
        """See `FastW2R`."""
        step = max(1, WINDOW_ROWS // inputs.shape[1])
        for length in np.unique(tree.lengths[tree.lengths > 0]):
            same = np.flatnonzero(tree.lengths == length)
            for start in range(0, len(same), step):
                some = same[start : start + step]
                words = places_of(tree, tree.captions[some, :length])
                scores[some] = _score_windows(inputs, words.T, self.mlp).numpy()
                scored(len(some))


@traced
def _score_windows(inputs, words, mlp: list[Dense]):
    """Eq. 5 for n captions of one length: inputs (V, B, 9H), places in them (l, n) to (n, B)."""
    (length, n), B, H = tf.unstack(tf.shape(words)), tf.shape(inputs)[1], tf.shape(inputs)[2] // sum(WIDTHS)
    largest = tf.zeros((n, B, 3 * H))  # of widths 2, 3, 4; relu: none is below 0
    # windows with one word, with two and with three, of the widths that have more; none has begun
    one, two, three = (tf.fill((n, B, widths * H), -np.inf) for widths in (3, 2, 1))

    def add(place, largest, one, two, three):
        first, second, third, fourth = tf.split(tf.gather(inputs, words[place]), [3 * H, 3 * H, 2 * H, H], axis=-1)
        second, third, fourth = one + second, two + third, three + fourth
        whole = tf.concat([second[..., :H], third[..., :H], fourth], axis=-1)
        return place + 1, tf.maximum(largest, whole), first, second[..., H:], third[..., H:]

    start = (tf.constant(0), largest, one, two, three)
    _, largest, one, two, three = tf.while_loop(lambda place, *_: place < length, add, start)
    # windows that reach beyond the caption, where words are 0
    of_3, of_4 = tf.maximum(one[..., H : 2 * H], two[..., :H]), tf.maximum(one[..., 2 * H :], two[..., H:])
    beyond = tf.concat([one[..., :H], of_3, tf.maximum(of_4, three)], axis=-1)
    features = tf.reshape(tf.maximum(largest, beyond), (n * B, 3 * H))
    return tf.reshape(apply_mlp(features, mlp), (n, B))
