"""How sure a search may be of a hit: scores of a query's best candidates as probabilities.

In: scores float (N_i, N_c) of images with captions whose image is known. Out: a temperature and a bias. A query either
has its image among the N candidates or not, each in half of the cases; candidate i is it with the probability

    exp(s_i / T) / (sum_j exp(s_j / T) + N exp(b)),

a softmax (Guo et al., ICML 2017) with one option more, that there is none; it grows with the number of candidates, as
the best of more wrong ones is better. The sum runs over the best 100, as a search scores no others in full.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

KEPT = 100  # best candidates of a query
HITS = 10  # of a query, over which the error of calibration is measured
BINS = 15
LEAST = 20  # images to fit on
REJECTED = 0.8  # of the queries whose image is absent, by the threshold
_STEPS, _SMALL = 100, 1e-9


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of scores."""

    temperature: float  # T, in units of the score
    bias: float  # b
    threshold: float  # a probability that the first hit reaches in one of five queries whose image is absent
    error: float  # expected calibration error of the first ten hits, in percent, on queries that it was not fitted on

    def probabilities(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Of each of a query's best candidates, the best 100 or more, that it is the one: float (n,).

        `count` is the number of all candidates. Candidates beyond the best 100 get theirs, but don't count in the sum.
        """
        logits = np.asarray(scores, np.float64) / self.temperature
        return np.exp(logits - _log_sum(np.sort(logits)[::-1][:KEPT, None], self.bias, count)[0])

    def told(self) -> dict[str, float]:
        """As a JSON value, which `Calibration(**value)` takes."""
        return asdict(self)


def fit_calibration(scores: np.ndarray, image_of_caption: np.ndarray) -> Calibration | None:
    """Temperature and bias by maximum likelihood, on a matrix float (N_i, N_c) and its owners int (N_c,).

    The error is measured on each half of the images with what the other half gave, so that it is honest. None where
    the scores cannot tell: fewer than 20 images, or no more likely for the right image than for others.
    """
    scores, owners = np.asarray(scores), np.asarray(image_of_caption)
    if len(scores) < LEAST:
        return None
    halves = [_Queries.of(*half) for half in halves_of(scores, owners)]
    fitted = [_fit(half) for half in halves]
    queries = _Queries.of(scores, owners)
    whole = _fit(queries)
    if whole is None or None in fitted:
        return None
    tested = [_hits(half, *given) for half, given in zip(halves, fitted[::-1])]
    chances, right = (np.concatenate([one[k].ravel() for one in tested]) for k in (0, 1))
    threshold = float(np.quantile(_hits(queries, *whole)[2], REJECTED))  # as many candidates as a query has
    return Calibration(float(whole[0]), float(whole[1]), threshold, expected_error(chances, right))


def halves_of(scores: np.ndarray, owners: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores (N_i, N_c) and owners (N_c,) of every second image with its captions, and of the others."""
    first = np.arange(len(scores)) % 2 == 0
    return [(scores[kept][:, kept[owners]], (np.cumsum(kept) - 1)[owners[kept[owners]]]) for kept in (first, ~first)]


def measure(calibration: Calibration, scores: np.ndarray, image_of_caption: np.ndarray) -> dict[str, float]:
    """What a calibration is worth on other scores (N_i, N_c), in percent.

    `error` is of the first ten hits, `rejected` the share of queries without their image whose first hit is below the
    threshold, and `kept` that of the right first hits that are not.
    """
    queries = _Queries.of(np.asarray(scores), np.asarray(image_of_caption))
    chances, right, absent = _hits(queries, calibration.temperature, calibration.bias)
    first = chances[:, 0][right[:, 0]]
    kept = float((first >= calibration.threshold).mean()) if len(first) else 0.0
    rejected = float((absent < calibration.threshold).mean())
    return {"error": expected_error(chances, right), "rejected": 100 * rejected, "kept": 100 * kept}


def expected_error(chances: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in percent: |mean probability - share of right ones| over equal bins, weighted."""
    chances, right = np.ravel(chances), np.ravel(right).astype(float)
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, chances - right, BINS)
    return float(100 * np.abs(gaps).sum() / max(1, len(chances)))


@dataclass(frozen=True)
class _Queries:
    """Captions as queries for their image."""

    own: np.ndarray  # float64 (n,), the score of the query's image
    others: np.ndarray  # float64 (k, n), the best other images' scores, falling
    count: int  # N, of all candidates

    @classmethod
    def of(cls, scores: np.ndarray, owners: np.ndarray) -> _Queries:
        """From scores (N_i, N_c); reads it by blocks of captions."""
        own, others, kept = [], [], min(KEPT, len(scores) - 1)
        for start in range(0, scores.shape[1], 1024):
            block, rows = scores[:, start : start + 1024].astype(np.float64), owners[start : start + 1024]
            own.append(block[rows, np.arange(len(rows))])
            block[rows, np.arange(len(rows))] = -np.inf
            others.append(-np.sort(np.partition(-block, kept - 1, axis=0)[:kept], axis=0))
        return cls(np.concatenate(own), np.concatenate(others, axis=1), len(scores))


def _log_sum(logits: np.ndarray, bias: float, count: int) -> np.ndarray:
    """log(sum exp(logits) + count exp(bias)) over the first axis of (k, n)."""
    most = np.maximum(logits.max(axis=0), bias + np.log(count))
    return most + np.log(np.exp(logits - most).sum(axis=0) + np.exp(bias + np.log(count) - most))


def _fit(queries: _Queries) -> tuple[float, float] | None:
    """Temperature and bias by Newton's method on a convex function of 1/T and b; None where 1/T is not above 0."""
    others, own = queries.others, queries.own
    if (scale := float(others.std())) < _SMALL:
        return None
    found = np.array([1.0, 0.0])  # scale / T, b

    def options(present: bool) -> np.ndarray:
        return (np.vstack([own, others[: KEPT - 1]]) if present else others) / scale

    def loss(parameters: np.ndarray) -> float:
        a, b = parameters
        with_own, without = (_log_sum(a * options(present), b, queries.count) for present in (True, False))
        return float(np.mean(with_own - a * own / scale) + np.mean(without - b))

    for _ in range(_STEPS):
        gradient, hessian = np.zeros(2), np.full((2, 2), 0.0)
        for present in (True, False):
            x = options(present)
            total = _log_sum(found[0] * x, found[1], queries.count)
            chances = np.exp(found[0] * x - total)
            none = np.exp(found[1] + np.log(queries.count) - total)
            mean = (chances * x).sum(axis=0)
            target = own / scale if present else 0.0
            gradient += [np.mean(mean - target), np.mean(none - (0.0 if present else 1.0))]
            cross = -np.mean(mean * none)
            spread = np.mean((chances * x**2).sum(axis=0) - mean**2)
            hessian += [[spread, cross], [cross, np.mean(none * (1 - none))]]
        step = np.linalg.solve(hessian + _SMALL * np.eye(2), gradient)
        share = 1.0
        while share > _SMALL and not loss(found - share * step) <= loss(found):
            share /= 2
        found = found - share * step
        if np.abs(share * step).max() < 1e-7:
            break
    return (scale / found[0], found[1]) if np.isfinite(found).all() and found[0] > _SMALL else None


def _hits(queries: _Queries, temperature: float, bias: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of queries with and without their image: probabilities of the first hits and which are right, (2 n, 10); and the
    first hit's probability of those without (n,).
    """
    chances, right = [], []
    for present in (True, False):
        scores = np.vstack([queries.own, queries.others]) if present else queries.others
        order = np.argsort(-scores, axis=0, kind="stable")
        logits = np.take_along_axis(scores, order, 0)[:KEPT] / temperature
        chances.append(np.exp(logits - _log_sum(logits, bias, queries.count))[:HITS].T)
        right.append((order[:HITS] == 0).T if present else np.zeros(chances[0].shape, bool)[:, : chances[-1].shape[1]])
    width = min(chances[0].shape[1], chances[1].shape[1])
    stacked = [np.concatenate([one[:, :width] for one in values]) for values in (chances, right)]
    return stacked[0], stacked[1], chances[1][:, 0]
