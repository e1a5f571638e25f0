"""Captions as a prefix tree, so that an LSTM passes every shared beginning once.

The captions "a dog runs" and "a dog sits" share the nodes "a" and "a dog": the state after "a dog" is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one depth, in lexicographic order of the prefixes that they stand for; all int32."""

    parents: np.ndarray  # (n,), place of each node's parent among the nodes of the level above, ascending
    words: np.ndarray  # (n,), place of each node's last word in `PrefixTree.words`
    end_nodes: np.ndarray  # (m,), nodes of this level at which a caption ends
    end_captions: np.ndarray  # (m,), the captions that end there, places in `PrefixTree.captions`


class PrefixTree:
    """The distinct captions of a list of token ids int32 (N_c, L), zero-padded, and the tree of their prefixes."""

    def __init__(self, tokens: np.ndarray):
        # int32 (N_u, L), in lexicographic order
        self.captions, caption_of = np.unique(np.asarray(tokens, np.int32), axis=0, return_inverse=True)
        self.caption_of = caption_of.reshape(-1)  # int64 (N_c,), which of them each given caption is
        self.lengths = (self.captions != 0).sum(axis=1)  # int64 (N_u,), their number of words
        self.words = np.unique(self.captions[self.captions != 0])  # int32 (V,), the distinct ones
        self.levels = self._build()  # one for each number of words from 1 on; a caption without a word ends at none

    def _build(self) -> list[Level]:
        if not len(self.captions):
            return []
        differs = self.captions[1:] != self.captions[:-1]
        # words that each caption shares with the one before it; distinct captions differ somewhere
        shared = np.concatenate([[0], differs.argmax(axis=1)])
        levels, node_above = [], np.zeros(len(self.captions), np.int64)
        for depth in range(1, int(self.lengths.max(initial=0)) + 1):
            opens = (shared < depth) & (self.lengths >= depth)  # captions that are the first to reach a new node
            node = np.cumsum(opens) - 1
            ends = np.flatnonzero(self.lengths == depth)
            words = np.searchsorted(self.words, self.captions[opens, depth - 1])
            places = (node_above[opens], words, node[ends], ends)
            levels.append(Level(*(place.astype(np.int32) for place in places)))
            node_above = node
        return levels

    @property
    def nodes(self) -> int:
        """Number of prefixes: steps of an LSTM that shares all it can."""
        return sum(len(level.parents) for level in self.levels)

    @property
    def width(self) -> int:
        """Number of nodes of the widest level."""
        return max((len(level.parents) for level in self.levels), default=0)
