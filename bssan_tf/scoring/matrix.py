"""The matching score MS of every picture with every caption (Eq. 19), exactly, within a memory budget.

Pictures are read from memory-mapped arrays one block at a time; a matrix in a file is resumable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.scoring.planning import MEMORY_MB, Page, plan
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.score_file import ScoreFile
from bssan_tf.scoring.scorer import FastScorer

IDENTITY_PICTURES = 64  # whose features tell a score file's features from others


def score_matrix(
    scorer: tf.keras.Model | FastScorer,
    regions: np.ndarray | None,
    objects: np.ndarray | None,
    captions: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    image_rows: np.ndarray | None = None,
    part: str = "score",
    memory_mb: float = MEMORY_MB,
    out: str | Path | None = None,
    data: str = "",
    progress: bool = False,
) -> np.ndarray:
    """Score every picture with every caption, attention learned for every pair (decision 4).

    Args:
        scorer: `Bssan.scorer`.
        regions: float16 or float32 (N, D, M), memory-mapped or not; None if the variant needs none.
        objects: float16 or float32 (N, P, Q), likewise.
        captions: int32 (N_c, L), token ids, zero-padded on the right.
        valid: bool (N, P), False at padded objects; None: all are real.
        image_rows: int (N_i,), rows of the arrays to score; None: all of them.
        part: `score`, or `w2r` or `o2w` alone.
        memory_mb: budget in MiB for all but the matrix and the model; sets the block sizes.
        out: a .npy file to write the matrix to, block by block. An interrupted call goes on where it was.
        data: what the features are of, for `out`: scores of other data are refused.
        progress: show a bar with pairs per second and the time left.

    Returns:
        float32 (N_i, N_c); memory-mapped if `out` is given.

    Raises:
        UserError: a budget that is too small; `out` holds other scores.
        ValueError: a part that the scorer does not have, or features that it needs are None.
    """
    fast = scorer if isinstance(scorer, FastScorer) else FastScorer(scorer)
    pictures = Pictures.of(fast, fast.needed((part,)), regions, objects, valid, image_rows)
    if out is None:
        matrix = np.empty((len(pictures.rows), len(captions)), np.float32)
        _fill({part: matrix}, fast, pictures, captions, memory_mb, progress)
        return matrix
    file = _open_file(out, fast, pictures, captions, part, data)
    if not file.finished:
        _fill({part: file.matrix}, fast, pictures, captions, memory_mb, progress, skip=file.has)
        file.finish()
    return file.matrix


def check_score_file(
    out: str | Path,
    scorer: tf.keras.Model | FastScorer,
    regions: np.ndarray | None,
    objects: np.ndarray | None,
    captions: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    image_rows: np.ndarray | None = None,
    data: str = "",
) -> None:
    """Begin the file of `score_matrix`'s `out`, or raise the UserError that it would raise, before anything slow."""
    fast = scorer if isinstance(scorer, FastScorer) else FastScorer(scorer)
    pictures = Pictures.of(fast, fast.needed(("score",)), regions, objects, valid, image_rows)
    _open_file(out, fast, pictures, captions, "score", data)


def _open_file(out, fast: FastScorer, pictures: Pictures, captions: np.ndarray, part: str, data: str) -> ScoreFile:
    identity = [part, fast.digest(), data, captions, *pictures.identity()]
    return ScoreFile(out, (len(pictures.rows), len(captions)), identity)


def score_matrices(
    scorer: tf.keras.Model | FastScorer,
    regions: np.ndarray | None,
    objects: np.ndarray | None,
    captions: np.ndarray,
    *,
    valid: np.ndarray | None = None,
    image_rows: np.ndarray | None = None,
    memory_mb: float = MEMORY_MB,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """All parts of `score_matrix` in one pass: `w2r` and `o2w` as the variant has them, and `score`."""
    fast = scorer if isinstance(scorer, FastScorer) else FastScorer(scorer)
    pictures = Pictures.of(fast, fast.needed(fast.parts), regions, objects, valid, image_rows)
    matrices = {part: np.empty((len(pictures.rows), len(captions)), np.float32) for part in fast.parts}
    _fill(matrices, fast, pictures, captions, memory_mb, progress)
    return matrices


@dataclass(frozen=True, eq=False)
class Pictures:
    """The features that some networks look at, and which rows of them.

    Attributes:
        arrays: `regions`, `objects`, `valid`, those that are needed.
        rows: int (N_i,).
        networks: `w2r`, `o2w`.
    """

    arrays: dict[str, np.ndarray]
    rows: np.ndarray
    networks: tuple[str, ...]

    @classmethod
    def of(cls, fast, networks, regions, objects, valid, image_rows) -> Pictures:
        """Check and keep what `networks` need; ValueError where it is missing."""
        if not networks:
            raise ValueError(f"this scorer has only the parts {', '.join(fast.parts)}")
        arrays = {}
        for network, name, array in (("w2r", "regions", regions), ("o2w", "objects", objects)):
            if network in networks:
                if array is None:
                    raise ValueError(f"{name}: {network} needs them")
                arrays[name] = array
        if "o2w" in networks:
            arrays["valid"] = np.ones(objects.shape[:2], bool) if valid is None else valid
        rows = np.arange(len(next(iter(arrays.values())))) if image_rows is None else np.asarray(image_rows)
        return cls(arrays, rows, networks)

    def block(self, start: int, count: int) -> dict[str, tf.Tensor]:
        """Features of pictures start ... start + count - 1, as stored."""
        rows = self.rows[start : start + count]
        return {name: tf.constant(np.asarray(array[rows])) for name, array in self.arrays.items()}

    def identity(self) -> list:
        """What tells these features from others: shapes, rows, and `IDENTITY_PICTURES` evenly spaced pictures."""
        count = len(self.rows)
        some = self.rows[np.linspace(0, count - 1, min(count, IDENTITY_PICTURES)).astype(int)]
        found = [self.rows]
        for array in self.arrays.values():
            found += [str(array.shape), np.asarray(array[some])]
        return found


def _fill(
    matrices: dict[str, np.ndarray],
    fast: FastScorer,
    pictures: Pictures,
    tokens: np.ndarray,
    memory_mb: float,
    progress: bool,
    skip: Callable[[slice, np.ndarray], bool] = lambda rows, captions: False,
) -> None:
    """Fill (N_i, N_c) matrices, page by page and block by block."""
    total = len(pictures.rows) * len(tokens)
    if not total:
        return
    D, P = (pictures.arrays[k].shape[1] if k in pictures.arrays else 0 for k in ("regions", "objects"))
    pages = plan(fast, pictures.networks, tokens, len(pictures.rows), D, P, memory_mb)
    with tqdm(total=total, unit="pair", unit_scale=True, desc="scoring", disable=not progress) as bar:
        for page in pages:
            for rows, scores in _score_page(fast, pictures, page, skip, bar):
                for part, matrix in matrices.items():
                    matrix[rows, page.captions] = scores[part][page.tree.caption_of].T


def _score_page(
    fast: FastScorer, pictures: Pictures, page: Page, skip: Callable, bar: tqdm
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Rows of the matrix and their scores {part: (N_u, B)}, block by block; blocks to be skipped are left out."""
    text = None
    shares = len(page.captions) / max(1, len(page.tree.captions)) / len(pictures.networks)
    for start in range(0, len(pictures.rows), page.pictures):
        rows = slice(start, min(start + page.pictures, len(pictures.rows)))
        size = rows.stop - rows.start
        if skip(rows, page.captions):
            bar.update(size * len(page.captions))
            continue
        text = text or prepare_text(fast, pictures.networks, page.tree)
        block = pictures.block(start, size)
        shown = bar.n

        def scored(captions: int, size: int = size) -> None:
            bar.update(round(captions * size * shares))

        scores = {}
        if "o2w" in pictures.networks:
            side = fast.o2w.prepare_objects(block["objects"], block["valid"])
            scores["o2w"] = fast.o2w.score(text["o2w"], side, len(page.tree.captions), scored)
        if "w2r" in pictures.networks:
            scores["w2r"] = fast.w2r.score(text["w2r"], block["regions"], scored)
        if len(scores) == len(fast.parts) - 1:
            scores["score"] = fast.total(scores)
        bar.update(shown + size * len(page.captions) - bar.n)  # what rounding lost
        yield rows, scores


def prepare_text(fast: FastScorer, networks: tuple[str, ...], tree: PrefixTree) -> dict:
    """The text side of captions for each network: what is known before any picture."""
    text = {}
    if "o2w" in networks:
        text["o2w"] = fast.o2w.prepare(tree, fast.embed)
    if "w2r" in networks:
        text["w2r"] = fast.w2r.prepare(tree, fast.embed(tf.constant(tree.words)))
    return text
