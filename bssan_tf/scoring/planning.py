"""How a score matrix is cut into pages of captions and blocks of pictures that fit a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.scoring.folding import FoldedNetwork
from bssan_tf.scoring.prefix_tree import PrefixTree

MIN_PICTURES = 4  # with fewer at once, deep levels of the tree have too few rows for fast products
BLOCK_BYTES = 2**25  # of features; larger arrays are mapped afresh at every step, longer than one caption's scoring
PLANNED_SHARE = 0.75  # of the budget; the rest is what the allocator keeps of freed arrays (measured: a quarter)

Sized = tuple[FoldedNetwork, tuple[int, int]]  # a network, and (D, M) or (P, Q) of a picture


@dataclass(frozen=True, eq=False)
class Page:
    """Captions that are scored together."""

    captions: np.ndarray  # int (n,), which of the given captions
    tree: PrefixTree  # of them
    pictures: int  # how many are scored at once


@dataclass(frozen=True, eq=False)
class Block:
    """Some pictures with the captions of a page."""

    page: Page
    start: int  # of the pictures start ... start + count - 1
    count: int

    @property
    def place(self) -> tuple[slice, np.ndarray]:
        """Where its scores are in the matrix."""
        return slice(self.start, self.start + self.count), self.page.captions

    @property
    def pairs(self) -> int:
        """How many scores it has."""
        return self.count * len(self.page.captions)


def plan(networks: Sequence[Sized], tokens: np.ndarray, pictures: int, memory_mb: float) -> list[Page]:
    """The fewest pages of `tokens` int32 (N_c, L), each with the largest blocks of N_i `pictures`, within the budget.

    Captions that share a beginning lie on the same page. The budget, in MiB, is for all but the matrix and the model;
    UserError if it does not even hold one picture with a few captions.
    """
    budget = int(PLANNED_SHARE * memory_mb * 2**20)
    order = np.lexsort(tokens.T[::-1])
    least, count = min(MIN_PICTURES, pictures), 1
    while True:
        parts = [(part, PrefixTree(tokens[part])) for part in np.array_split(order, count) if len(part)]
        needs = [_bytes(networks, tree) for _, tree in parts]
        need = max(fixed + least * each for fixed, each in needs)
        if need <= budget:
            break
        if count >= len(order):
            enough = -(-need // int(PLANNED_SHARE * 2**20))
            raise UserError(f"--memory {memory_mb}: too little for this model; give at least {enough}")
        count = min(2 * count, len(order))
    most = BLOCK_BYTES // (4 * max(size * numbers for _, (size, numbers) in networks))
    return [
        Page(part, tree, _even(max(MIN_PICTURES, min(most, (budget - fixed) // each)), pictures))
        for (part, tree), (fixed, each) in zip(parts, needs)
    ]


def _bytes(networks: Sequence[Sized], tree: PrefixTree) -> tuple[int, int]:
    """Bytes of a page whatever the pictures, and of each picture more."""
    fixed = sum(network.fixed_bytes(tree, size) for network, (size, _) in networks)
    each = sum(network.bytes_per_picture(tree, size) for network, (size, _) in networks)
    return fixed, 4 * len(tree.captions) + each


def _even(most: int, pictures: int) -> int:
    """Pictures of a block, at most `most`, so that the last block is about as large as the others."""
    blocks = -(-pictures // max(1, most))
    return max(1, -(-pictures // max(1, blocks)))
