"""Some captions with one block of pictures after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.scorer import FastScorer


class PageScorer:
    """A page of captions, its text side prepared once, for the networks `names` of a scorer.

    `tree` is of its distinct captions; `count` is how many captions it stands for.
    """

    def __init__(self, fast: FastScorer, names: Sequence[str], tree: PrefixTree, count: int):
        self.fast, self.tree, self.count = fast, tree, count
        self.networks = {name: getattr(fast, name) for name in names}
        self.text = {name: network.prepare(tree, fast.embed) for name, network in self.networks.items()}

    def score(
        self, pictures: Mapping[str, tf.Tensor], scored: Callable[[int], object] = lambda pairs: None
    ) -> dict[str, np.ndarray]:
        """Scores with the page's distinct captions by part, float32 (N_u, B).

        `pictures` are the arrays of B pictures, as stored; `scored` is told the number of pairs whenever some are done.
        """
        size = len(next(iter(pictures.values())))
        share = self.count / len(self.tree.captions) / len(self.networks)

        def told(captions: int) -> None:
            scored(round(captions * size * share))

        scores = {
            name: network.score(self.tree, self.text[name], network.prepare_pictures(pictures), told)
            for name, network in self.networks.items()
        }
        if len(scores) == len(self.fast.parts) - 1:
            scores["score"] = self.fast.total(scores)
        return scores
