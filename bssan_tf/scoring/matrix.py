"""The matching score MS of every picture with every caption (Eq. 19), exactly, within a memory budget.

In: a scorer, features, captions as token ids. Out: a matrix for each part that is asked for, all from one pass.
Pictures are read from memory-mapped arrays one block at a time; matrices in files are resumable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.config.settings import MEMORY_MB
from bssan_tf.scoring.folding import FoldedNetwork
from bssan_tf.scoring.on_ray import scored_on_ray
from bssan_tf.scoring.page import PageScorer
from bssan_tf.scoring.planning import Block, plan
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
    engine: str | None = None,
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
        engine: "ray" scores the blocks on a cluster; None here.
    """
    fast = scorer if isinstance(scorer, FastScorer) else FastScorer(scorer)
    parts = parts or fast.parts
    pictures = Pictures.of(fast.networks(parts), features, image_rows)
    shape = (len(pictures.rows), len(captions))
    if out is None:
        matrices = {part: np.empty(shape, np.float32) for part in parts}
        _fill(matrices, fast, pictures, captions, memory_mb, progress, engine=engine)
        return matrices
    files, weights = {}, fast.digest()
    for part in parts:
        seen = Pictures.of(fast.networks([part]), features, image_rows).identity()
        files[part] = ScoreFile(file_of(out, part), shape, [part, weights, data, captions, *seen])
    if begun := {part: file for part, file in files.items() if not file.finished}:
        matrices = {part: file.matrix for part, file in begun.items()}
        _fill(matrices, fast, pictures, captions, memory_mb, progress, list(begun.values()), engine)
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

    def read(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Features of pictures start ... start + count - 1, as stored."""
        rows = self.rows[start : start + count]
        return {name: np.asarray(array[rows]) for name, array in self.arrays.items()}

    def block(self, start: int, count: int) -> dict[str, tf.Tensor]:
        """The same as tensors."""
        return {name: tf.constant(array) for name, array in self.read(start, count).items()}

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
    engine: str | None = None,
) -> None:
    """Fill (N_i, N_c) matrices of parts, page by page and block by block; what all `files` have is left as it is."""
    count = len(pictures.rows)
    if not count * len(tokens):
        return
    sized = [(network, pictures.arrays[network.arrays[0]].shape[1:]) for network in pictures.networks.values()]
    blocks = [
        Block(page, start, min(page.pictures, count - start))
        for page in plan(sized, tokens, count, memory_mb)
        for start in range(0, count, page.pictures)
    ]
    done = 0

    def left() -> Iterator[Block]:
        nonlocal done
        for block in blocks:
            if files and all(file.has(*block.place) for file in files):
                done += block.pairs
                bar.update(done - bar.n)
            else:
                yield block

    pairs = count * len(tokens)
    with tqdm(total=pairs, unit="pair", unit_scale=True, desc="scoring", disable=not progress) as bar:
        scored = scored_on_ray(fast, pictures, left()) if engine == "ray" else _here(fast, pictures, left(), bar)
        with contextlib.closing(scored):
            for block, scores in scored:
                for part, matrix in matrices.items():
                    matrix[block.place] = scores[part][block.page.tree.caption_of].T
                del scores  # before the next ones are made
                done += block.pairs
                bar.update(done - bar.n)


def _here(
    fast: FastScorer, pictures: Pictures, blocks: Iterable[Block], bar: tqdm
) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Yield each block with its scores: see `PageScorer`. The bar moves on within a block, too."""
    page = scorer = None
    for block in blocks:
        if block.page is not page:
            page, scorer = block.page, None  # one at a time
            scorer = PageScorer(fast, tuple(pictures.networks), page.tree, len(page.captions))
        yield block, scorer.score(pictures.block(block.start, block.count), bar.update)
