"""How a score matrix is cut into pages of captions and blocks of pictures that fit a memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.scorer import FastScorer

MEMORY_MB = 2048
# With fewer pictures at once, deep levels of the tree have too few rows for fast products.
MIN_PICTURES = 4
# Features of a block at most: the allocator maps larger arrays afresh at every step, which takes longer than scoring
# one caption.
BLOCK_BYTES = 2**25
# Share of the budget that is planned for; the rest is what the allocator keeps of freed arrays (measured: a quarter).
PLANNED_SHARE = 0.75


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


def plan(
    fast: FastScorer, networks: tuple[str, ...], tokens: np.ndarray, pictures: int, D: int, P: int, memory_mb: float
) -> list[Page]:
    """The fewest pages, each with the largest blocks of pictures, that stay within the budget.

    Captions that share a beginning lie on the same page.

    Args:
        networks: which networks score, of `w2r` and `o2w`.
        tokens: int32 (N_c, L).
        pictures: N_i.
        D: regions of a picture.
        P: objects of a picture.
        memory_mb: budget in MiB, for all but the matrix and the model.

    Raises:
        UserError: the budget does not even hold one picture with a few captions.
    """
    budget = int(PLANNED_SHARE * memory_mb * 2**20)
    order = np.lexsort(tokens.T[::-1])
    count = 1
    while True:
        parts = [(part, PrefixTree(tokens[part])) for part in np.array_split(order, count) if len(part)]
        needs = [_bytes(fast, networks, tree, D, P) for _, tree in parts]
        least = min(MIN_PICTURES, pictures)
        if all(fixed + least * each <= budget for fixed, each in needs):
            break
        if count >= len(order):
            need = max(fixed + least * each for fixed, each in needs)
            enough = -(-need // int(PLANNED_SHARE * 2**20))
            raise UserError(f"--memory {memory_mb}: too little for this model; give at least {enough}")
        count = min(2 * count, len(order))
    most = BLOCK_BYTES // (4 * max(_input_sizes(fast, networks, D, P)))
    return [
        Page(part, tree, _even(max(MIN_PICTURES, min(most, (budget - fixed) // each)), pictures))
        for (part, tree), (fixed, each) in zip(parts, needs)
    ]


def _input_sizes(fast: FastScorer, networks: tuple[str, ...], D: int, P: int) -> list[int]:
    """Numbers in a picture's regions and objects, those that are needed."""
    sizes = {"w2r": lambda: D * fast.w2r.W.shape[1], "o2w": lambda: P * fast.o2w.W.shape[0]}
    return [sizes[network]() for network in networks]


def _bytes(fast: FastScorer, networks: tuple[str, ...], tree: PrefixTree, D: int, P: int) -> tuple[int, int]:
    """Bytes of a page whatever the pictures, and of each picture more."""
    fixed, each = 0, 4 * len(tree.captions)
    if "w2r" in networks:
        fixed += fast.w2r.fixed_bytes(tree, D)
        each += fast.w2r.bytes_per_picture(tree, D)
    if "o2w" in networks:
        fixed += fast.o2w.fixed_bytes(tree) + fast.o2w.text_bytes(tree)
        each += fast.o2w.bytes_per_picture(P)
    return fixed, each


def _even(most: int, pictures: int) -> int:
    """Pictures of a block, at most `most`, so that the last block is about as large as the others."""
    blocks = -(-pictures // max(1, most))
    return max(1, -(-pictures // max(1, blocks)))
