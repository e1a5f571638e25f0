"""W2R's LSTM over captions that share beginnings: each prefix (see prefix_tree.py) is passed once, level by level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bssan_tf.scoring import w2r
from bssan_tf.scoring.folding import apply_mlp
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.tracing import traced

State = tuple[tf.Tensor, tf.Tensor]  # h and c, each float (n, B, H)


class LstmW2R(w2r.FastW2R):
    """The W2R network with an LSTM; G = 4H."""

    def __init__(self, network: tf.keras.Model):
        kernel, recurrent, bias = network.get_layer("w2r_lstm").get_weights()
        super().__init__(network, kernel, bias)
        self.recurrent = tf.constant(recurrent)

    def kept_size(self, tree: PrefixTree) -> int:
        """See `FastW2R`: h and c of a level, and of the part of it that is still read."""
        return 3 * tree.width * self.size // 4

    def step_size(self) -> int:
        """See `FastW2R`."""
        return 3 * w2r.SLAB_ROWS * self.size

    def read(self, tree: PrefixTree, inputs: tf.Tensor, scores: np.ndarray, scored: Callable[[int], None]) -> None:
        """See `FastW2R`."""
        step = max(1, w2r.SLAB_ROWS // inputs.shape[1])
        above: list[State] = []
        for level in tree.levels:
            states = []
            for start in range(0, len(level.parents), step):
                nodes = slice(start, start + step)
                if not above:
                    states.append(_first_states(inputs, level.words[nodes]))
                else:
                    h, c, parents = _slabs_of(above, level.parents[nodes], step)
                    states.append(_next_states(h, c, parents, inputs, level.words[nodes], self.recurrent))
                first, last = np.searchsorted(level.end_nodes, [start, start + step])
                if last > first:
                    found = _score_states(states[-1][0], level.end_nodes[first:last] - start, self.mlp)
                    scores[level.end_captions[first:last]] = found.numpy()
                    scored(int(last - first))
            above = states


def _slabs_of(above: list[State], parents: np.ndarray, step: int) -> tuple[tf.Tensor, tf.Tensor, np.ndarray]:
    """h and c of the slabs with the parents, and their places there. Parents ascend, so earlier slabs are let go."""
    first, last = parents[0] // step, parents[-1] // step
    above[:first] = [None] * first  # their children are done
    h, c = zip(*above[first : last + 1])
    if len(h) > 1:
        h, c = [tf.concat(h, axis=0)], [tf.concat(c, axis=0)]
    return h[0], c[0], parents - first * step


@traced
def _first_states(inputs, words):
    """States after the first word: no state before it, so no recurrent product."""
    i, _, g, o = tf.split(tf.gather(inputs, words), 4, axis=-1)
    c = tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


@traced
def _next_states(h, c, parents, inputs, words, recurrent):
    """One step of the LSTM for nodes (n,) of the tree, in Keras' order of gates: h and c, each (n, B, H)."""
    B, H = tf.shape(h)[1], tf.shape(h)[2]
    before = tf.reshape(tf.gather(h, parents), (-1, H))
    z = tf.matmul(before, recurrent) + tf.reshape(tf.gather(inputs, words), (-1, 4 * H))
    i, f, g, o = tf.split(z, 4, axis=1)
    c = tf.sigmoid(f) * tf.reshape(tf.gather(c, parents), (-1, H)) + tf.sigmoid(i) * tf.tanh(g)
    h = tf.sigmoid(o) * tf.tanh(c)
    return tf.reshape(h, (-1, B, H)), tf.reshape(c, (-1, B, H))


@traced
def _score_states(h, nodes, mlp):
    """Eq. 5 for the states of some nodes: (m, B)."""
    last = tf.gather(h, nodes)  # (m, B, H)
    return tf.reshape(apply_mlp(tf.reshape(last, (-1, tf.shape(h)[2])), mlp), tf.shape(last)[:2])
