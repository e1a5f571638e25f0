"""How a score matrix is cut into pages of captions and blocks of pictures that fit a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.scoring.o2w import FastO2W
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.w2r import FastW2R

MEMORY_MB = 2048
# With fewer pictures at once, deep levels of the tree have too few rows for fast products.
MIN_PICTURES = 4
# Features of a block at most: the allocator maps larger arrays afresh at every step, which takes longer than scoring
# one caption.
BLOCK_BYTES = 2**25
# Share of the budget that is planned for; the rest is what the allocator keeps of freed arrays (measured: a quarter).
PLANNED_SHARE = 0.75

Network = tuple["FastW2R | FastO2W", int]  # one that scores, and the number of a picture's regions or objects


@dataclass(frozen=True, eq=False)
class Page:
    """Captions that are scored together.

    Attributes:
        captions: int (n,), which of the given captions.
        tree: their prefix tree.
        pictures: how many pictures are scored at once.
    """

    captions: np.ndarray
    tree: PrefixTree
    pictures: int


def plan(networks: Sequence[Network], tokens: np.ndarray, pictures: int, memory_mb: float) -> list[Page]:
    """The fewest pages, each with the largest blocks of pictures, that stay within the budget.

    Captions that share a beginning lie on the same page.

    Args:
        networks: those that score, each with the number D of regions or P of objects of a picture.
        tokens: int32 (N_c, L).
        pictures: N_i.
        memory_mb: budget in MiB, for all but the matrix and the model.

    Raises:
        UserError: the budget does not even hold one picture with a few captions.
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
    most = BLOCK_BYTES // (4 * max(network.input_numbers(size) for network, size in networks))
    return [
        Page(part, tree, _even(max(MIN_PICTURES, min(most, (budget - fixed) // each)), pictures))
        for (part, tree), (fixed, each) in zip(parts, needs)
    ]


def _bytes(networks: Sequence[Network], tree: PrefixTree) -> tuple[int, int]:
    """Bytes of a page whatever the pictures, and of each picture more."""
    fixed = sum(network.fixed_bytes(tree, size) for network, size in networks)
    return fixed, 4 * len(tree.captions) + sum(network.bytes_per_picture(tree, size) for network, size in networks)


def _even(most: int, pictures: int) -> int:
    """Pictures of a block, at most `most`, so that the last block is about as large as the others."""
    blocks = -(-pictures // max(1, most))
    return max(1, -(-pictures // max(1, blocks)))
