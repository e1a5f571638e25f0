"""Ranking for one query in two stages: all candidates by the cheap part, the best of them by the whole score.

O2W costs a small part of W2R (see docs/performance.md), so it goes first. Variants with one part have one stage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bssan_tf.scoring.matrix import score_matrix
from bssan_tf.scoring.scorer import FastScorer

RERANK = 100


def rank_pictures(fast: FastScorer, features, image_rows: np.ndarray, tokens: np.ndarray, rerank: int = RERANK):
    """Pictures for a sentence, best first.

    Args:
        features: has `regions`, `objects` and `valid`, as the feature store has.
        image_rows: int (N_i,), the candidates' rows in it.
        tokens: int32 (1, L), the sentence.
        rerank: how many of the first stage are scored in full; 0: all.

    Returns:
        Places int (N_i,) in `image_rows`, best first, and the full scores float32 (rerank,) of the first ones.
    """

    def score(part: str, places: np.ndarray) -> np.ndarray:
        return _matrix(fast, features, image_rows[places], tokens, part)[:, 0]

    return two_stages(fast, score, len(image_rows), rerank)


def rank_captions(fast: FastScorer, features, row: int, tokens: np.ndarray, rerank: int = RERANK):
    """Sentences for a picture, best first; as `rank_pictures`, with the picture's row and tokens int32 (N_c, L)."""

    def score(part: str, places: np.ndarray) -> np.ndarray:
        return _matrix(fast, features, np.array([row]), tokens[places], part)[0]

    return two_stages(fast, score, len(tokens), rerank)


def two_stages(
    fast: FastScorer, score: Callable[[str, np.ndarray], np.ndarray], count: int, rerank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order all `count` candidates by O2W, and the best `rerank` of them by MS.

    Args:
        score: called with a part's name and the places of candidates, returns their scores.
    """
    places = np.arange(count)
    if rerank and rerank < count and {"w2r", "o2w"} <= set(fast.parts):
        places = np.argsort(-score("o2w", places), kind="stable")
    else:
        rerank = count
    best = places[:rerank]
    scores = score("score", best)
    order = np.argsort(-scores, kind="stable")
    return np.concatenate([best[order], places[len(best) :]]), scores[order]


def _matrix(fast: FastScorer, features, image_rows: np.ndarray, tokens: np.ndarray, part: str) -> np.ndarray:
    return score_matrix(
        fast, features.regions, features.objects, tokens, valid=features.valid, image_rows=image_rows, part=part
    )
