"""Hubs: candidates that are among the first results of too many queries. How many there are, and what corrects scores.

In: scores float (N_q, N_k), one row a query and one column a candidate; for a correction also a bank float (N_b, N_k),
the scores of other queries with the same candidates. Out: floats, or corrected scores (N_q, N_k). Nothing here knows a
model. Corrected scores order the candidates of one query: terms of the query alone are left out, and softmaxes stand as
their logarithms, so that no score is too large for them. Matching scores have no unit, so temperatures are in standard
deviations of the bank's scores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bssan_tf.metrics import recall
from bssan_tf.metrics.recall import NotFiniteError

FIRST = 10  # results that hubness looks at: N_10


def occurrences(scores: np.ndarray, first: int = FIRST) -> np.ndarray:
    """N_k: how many queries have a candidate among their `first` results, float (N_k,); all results, if fewer.

    Candidates that tie for the last places share them: of two for one place, each counts as half. So the order of the
    candidates does not matter, and the sum is always first * N_q.

    Raises:
        NotFiniteError: NaN or infinite scores.
    """
    count = scores.shape[1]
    found = np.zeros(count)
    for block, last in _tops(scores, first):
        query, candidate = np.nonzero(block >= last)
        above = block[query, candidate] > last[query, 0]
        left = min(first, count) - np.bincount(query[above], minlength=len(block))  # (b,) places of those that tie
        tied = np.bincount(query[~above], minlength=len(block))
        found += np.bincount(candidate, np.where(above, 1.0, (left / tied)[query]), minlength=count)
    return found


def hubness(scores: np.ndarray) -> dict[str, float]:
    """Of `occurrences` N_10: "N10_skewness", and "never", the share in percent of candidates that no query retrieves.

    The skewness is E[(N - mean)^3] / deviation^3, 0 where all candidates occur equally often.

    Reference: Radovanovic et al., Hubs in Space, JMLR 2010.
    """
    found = occurrences(scores)
    off = found - found.mean()
    even = np.ptp(found) <= 1e-9 * found.mean()  # but for rounding
    skewness = 0.0 if even else float(np.mean(off**3) / np.mean(off**2) ** 1.5)
    return {"N10_skewness": skewness, "never": 100.0 * float(np.mean(found == 0))}


def csls(scores: np.ndarray, bank: np.ndarray, *, k: int = 5) -> np.ndarray:
    """2 s(q, c) - r(c), where r(c) is the mean of the `k` highest scores of candidate c in the bank.

    The source also takes off r(q), which is the same for all candidates of a query. Ranks are those of `nnn` with an
    alpha of 1/2 and the same k.

    Reference: Conneau et al., Word Translation Without Parallel Data, ICLR 2018.
    """
    return _less(2 * scores, _nearest(scores, bank, k))


def inverted_softmax(scores: np.ndarray, bank: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """T log(exp(s(q, c) / T) / sum over the bank of exp(b(j, c) / T)).

    T is `temperature` standard deviations of the bank's scores. The source's normaliser of a query, over its
    candidates, is left out.

    Reference: Smith et al., Offline Bilingual Word Vectors, Orthogonal Transformations and the Inverted Softmax, ICLR
    2017.
    """
    return _less(scores, _log_sums(scores, bank, temperature))


def qb_norm(scores: np.ndarray, bank: np.ndarray, *, temperature: float = 1.0, top: int = 5) -> np.ndarray:
    """Dynamic inverted softmax: `inverted_softmax` for queries whose best candidate is a hub; others keep their scores.

    Hubs (the source's activation set) are the candidates among the `top` best of any query of the bank. All that tie
    for a place have it.

    Reference: Bogolin et al., Cross Modal Retrieval with Querybank Normalisation, CVPR 2022.
    """
    sums = _log_sums(scores, bank, temperature)
    hubs = np.zeros(scores.shape[1], bool)
    for block, least in _tops(bank, top):
        hubs |= (block >= least).any(axis=0)
    near_hub = [((block >= best) & hubs).any(axis=1) for block, best in _tops(scores, 1)]
    return np.where(np.concatenate(near_hub)[:, None], _less(scores, sums), scores)


def nnn(scores: np.ndarray, bank: np.ndarray, *, k: int = 4, alpha: float = 0.5) -> np.ndarray:
    """s(q, c) - alpha r(c), where r(c) is the mean of the `k` highest scores of candidate c in the bank.

    Reference: Chowdhury et al., Nearest Neighbor Normalization Improves Multimodal Retrieval, EMNLP 2024.
    """
    return _less(scores, alpha * _nearest(scores, bank, k))


# All take scores (N_q, N_k) and a bank (N_b, N_k), and raise NotFiniteError for a bank that is NaN or infinite,
# ValueError for one without a row or of other candidates.
CORRECTIONS = {"csls": csls, "inverted-softmax": inverted_softmax, "qb-norm": qb_norm, "nnn": nnn}


def _less(scores: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Scores (N_q, N_k) less a number of each candidate (N_k,); float32 stays float32."""
    return scores - taken.astype(np.result_type(scores, np.float32))


def _nearest(scores: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k highest of each candidate's scores in the bank, float64 (N_k,); of all, if there are fewer."""
    k = min(k, len(bank))
    found = [np.partition(block, len(bank) - k, axis=0)[-k:].mean(axis=0) for block in _by_candidate(scores, bank)]
    return np.concatenate(found)


def _log_sums(scores: np.ndarray, bank: np.ndarray, temperature: float) -> np.ndarray:
    """T log sum over the bank of exp(b / T) of each candidate, float64 (N_k,); T as `inverted_softmax`."""
    mean = sum(np.sum(block) for block in _by_candidate(scores, bank)) / bank.size
    squares = sum(np.sum((block - mean) ** 2) for block in _by_candidate(scores, bank))
    T = temperature * np.sqrt(squares / bank.size)
    if 1e-12 * abs(mean) >= T:  # a bank without differences tells nothing
        return np.zeros(scores.shape[1])
    found = []
    for block in _by_candidate(scores, bank):
        most = block.max(axis=0)
        found.append(most + T * np.log(np.sum(np.exp((block - most) / T), axis=0)))
    return np.concatenate(found)


def _by_candidate(scores: np.ndarray, bank: np.ndarray) -> Iterator[np.ndarray]:
    """The bank in float64, (N_b, b) some candidates at a time."""
    if bank.ndim != 2 or bank.shape[1] != scores.shape[1] or 0 in bank.shape:
        raise ValueError(f"bank: shape {bank.shape} does not fit {scores.shape[1]} candidates")
    step = max(1, recall.BLOCK_SCORES // len(bank))
    for start in range(0, bank.shape[1], step):
        yield _finite(np.asarray(bank[:, start : start + step], np.float64))


def _tops(scores: np.ndarray, top: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some queries' scores (b, N_k), and the lowest of the `top` best of each (b, 1)."""
    count = scores.shape[1]
    top, step = min(top, count), max(1, recall.BLOCK_SCORES // count)
    for start in range(0, len(scores), step):
        block = _finite(np.asarray(scores[start : start + step]))
        yield block, np.partition(block, count - top, axis=1)[:, count - top, None]


def _finite(block: np.ndarray) -> np.ndarray:
    if not np.isfinite(block).all():
        raise NotFiniteError("scores: NaN or infinite values")
    return block
