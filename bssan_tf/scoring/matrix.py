"""The matching score MS of every picture with every caption (Eq. 19), exactly, within a memory budget.

In: a scorer, features, captions as token ids. Out: a matrix for each part that is asked for, all from one pass.
Pictures are read from memory-mapped arrays one block at a time; matrices in files are resumable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.scoring.folding import FoldedNetwork
from bssan_tf.scoring.planning import MEMORY_MB, Page, plan
from bssan_tf.scoring.score_file import ScoreFile
from bssan_tf.scoring.scorer import FastScorer

IDENTITY_PICTURES = 64  # whose features tell a score file's features from others


def score_matrices(
    scorer: tf.keras.Model | FastScorer,
    features,
    captions: np.ndarray,
    image_rows: np.ndarray | None = None,
    *,
    parts: Sequence[str] | None = None,
    memory_mb: float = MEMORY_MB,
    out: str | Path | None = None,
    data: str = "",
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Score every picture with every caption, attention learned for every pair (decision 4).

    The matrix of each part is float32 (N_i, N_c), memory-mapped if `out` is given. UserError if the budget is too
    small, `out` holds other scores or can't be written; ValueError for a part that the scorer does not have, or if
    features that it needs are None.

    Args:
        scorer: `Bssan.scorer`, or the `FastScorer` of one.
        features: has what the parts need, memory-mapped or not, as the feature store's `Features`: `regions` float16
            or float32 (N, D, M), `objects` likewise (N, P, Q), `valid` bool (N, P), False at padded objects, or None
            where all are real.
        captions: int32 (N_c, L), token ids, zero-padded on the right.
        image_rows: int (N_i,), rows of the features to score; None: all of them.
        parts: of `w2r`, `o2w` and `score`, their sum; None: all that the scorer has.
        memory_mb: budget in MiB for all but the matrices and the model; sets the block sizes.
        out: a .npy file to write `score` to, block by block; other parts lie beside it, see `file_of`. An interrupted
            call goes on where it was.
        data: what the features are of, for `out`: scores of other data are refused.
        progress: show a bar with pairs per second and the time left.
    """
    fast = scorer if isinstance(scorer, FastScorer) else FastScorer(scorer)
    parts = parts or fast.parts
    pictures = Pictures.of(fast.networks(parts), features, image_rows)
    shape = (len(pictures.rows), len(captions))
    if out is None:
        matrices = {part: np.empty(shape, np.float32) for part in parts}
        _fill(matrices, fast, pictures, captions, memory_mb, progress)
        return matrices
    files, weights = {}, fast.digest()
    for part in parts:
        seen = Pictures.of(fast.networks([part]), features, image_rows).identity()
        files[part] = ScoreFile(file_of(out, part), shape, [part, weights, data, captions, *seen])
    if begun := {part: file for part, file in files.items() if not file.finished}:
        matrices = {part: file.matrix for part, file in begun.items()}
        _fill(matrices, fast, pictures, captions, memory_mb, progress, list(begun.values()))
        for file in begun.values():
            file.finish()
    return {part: file.matrix for part, file in files.items()}


def file_of(out: str | Path, part: str) -> Path:
    """The file of a part: FILE.npy of `score`, FILE.w2r.npy and FILE.o2w.npy beside it."""
    out = Path(out)
    return out if part == "score" else out.with_name(f"{out.stem}.{part}{out.suffix}")


@dataclass(frozen=True, eq=False)
class Pictures:
    """What some networks look at, and which rows of it."""

    networks: Mapping[str, FoldedNetwork]  # `w2r`, `o2w`, those that look
    arrays: Mapping[str, np.ndarray]  # `regions`, `objects`, `valid`, those that are needed
    rows: np.ndarray  # int (N_i,)

    @classmethod
    def of(cls, networks: Mapping[str, FoldedNetwork], features, image_rows: np.ndarray | None) -> Pictures:
        """What `networks` need of the features; ValueError where it is missing. Arguments as `score_matrices`."""
        arrays = {name: getattr(features, name) for network in networks.values() for name in network.arrays}
        for key, network in networks.items():
            if arrays[network.arrays[0]] is None:
                raise ValueError(f"{network.arrays[0]}: {key} needs them")
        if "valid" in arrays and arrays["valid"] is None:
            arrays["valid"] = np.ones(arrays["objects"].shape[:2], bool)
        rows = np.arange(len(next(iter(arrays.values())))) if image_rows is None else np.asarray(image_rows)
        return cls(networks, arrays, rows)

    def block(self, start: int, count: int) -> dict[str, tf.Tensor]:
        """Features of pictures start ... start + count - 1, as stored."""
        rows = self.rows[start : start + count]
        return {name: tf.constant(np.asarray(array[rows])) for name, array in self.arrays.items()}

    def identity(self) -> list:
        """What tells these features from others: shapes, rows, and `IDENTITY_PICTURES` evenly spaced pictures."""
        count = len(self.rows)
        some = self.rows[np.linspace(0, count - 1, min(count, IDENTITY_PICTURES)).astype(int)]
        seen = [(str(array.shape), np.asarray(array[some])) for array in self.arrays.values()]
        return [self.rows, *(value for pair in seen for value in pair)]


def _fill(
    matrices: Mapping[str, np.ndarray],
    fast: FastScorer,
    pictures: Pictures,
    tokens: np.ndarray,
    memory_mb: float,
    progress: bool,
    files: Sequence[ScoreFile] = (),
) -> None:
    """Fill (N_i, N_c) matrices of parts, page by page and block by block; what all `files` have is left as it is."""
    count = len(pictures.rows)
    if not count * len(tokens):
        return
    networks = pictures.networks
    sized = [(network, pictures.arrays[network.arrays[0]].shape[1:]) for network in networks.values()]
    pages = plan(sized, tokens, count, memory_mb)
    with tqdm(total=count * len(tokens), unit="pair", unit_scale=True, desc="scoring", disable=not progress) as bar:
        for page in pages:
            text = None
            for start in range(0, count, page.pictures):
                rows = slice(start, min(start + page.pictures, count))
                then = bar.n + (rows.stop - start) * len(page.captions)
                if not files or not all(file.has(rows, page.captions) for file in files):
                    text = text or {name: network.prepare(page.tree, fast.embed) for name, network in networks.items()}
                    scores = _score_block(fast, pictures, rows, page, text, bar)
                    for part, matrix in matrices.items():
                        matrix[rows, page.captions] = scores[part][page.tree.caption_of].T
                bar.update(then - bar.n)


def _score_block(
    fast: FastScorer, pictures: Pictures, rows: slice, page: Page, text: Mapping, bar: tqdm
) -> dict[str, np.ndarray]:
    """Scores of some pictures with the distinct captions of a page, by part: float32 (N_u, B)."""
    size = rows.stop - rows.start
    block, share = pictures.block(rows.start, size), len(page.captions) / len(page.tree.captions)

    def scored(captions: int) -> None:
        bar.update(round(captions * size * share / len(pictures.networks)))

    scores = {}
    for name, network in pictures.networks.items():
        scores[name] = network.score(page.tree, text[name], network.prepare_pictures(block), scored)
    if len(scores) == len(fast.parts) - 1:
        scores["score"] = fast.total(scores)
    return scores
