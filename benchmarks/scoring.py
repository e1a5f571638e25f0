"""Pairs per second of the exact fast scorer against Keras called on padded pairs.

Run `python -m benchmarks.scoring [--captions FILE] [--json FILE]`. Both run in turns in one process, so that other work
on the machine meets both; operations are counted from shapes, and compared with the machine's GEMM rate.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import operations, workload
from benchmarks.memory import peak_mb, reset_peak
from benchmarks.naive import NaiveScorer
from bssan_tf import cli
from bssan_tf.files import write_json
from bssan_tf.models.bssan import Bssan
from bssan_tf.scoring import FastScorer, score_matrix
from bssan_tf.scoring.planning import MEMORY_MB
from bssan_tf.scoring.prefix_tree import PrefixTree

NAIVE_BATCHES = (64, 128, 256, 512)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print one table, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.scoring", description=__doc__.split("\n")[0])
    workload.add_flags(parser)
    parser.add_argument("--images", type=cli.count, default=32, help="pictures of the largest matrix (32)")
    parser.add_argument("--memory", type=cli.count, default=MEMORY_MB, metavar="MB", help="budget of the fast scorer")
    parser.add_argument("--no-growth", action="store_true", help="only the comparison")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    workload.show({name: value for name, value in result.items() if name != "growth"})
    for row in result["growth"]:
        print("growth  " + "  ".join(f"{name} {value:.5g}" for name, value in row.items()))
    if options.json:
        write_json(options.json, result)


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """The comparison at full size, and how time and memory grow."""
    captions = workload.read_captions(options)
    tokens, vocabulary = workload.tokens_of(captions)
    config = workload.model_config(options)
    scorer = Bssan(config, vocabulary).scorer
    features = workload.draw_features(config, options.images, folder)
    fast = FastScorer(scorer)
    gemm = [workload.gemm_rate()]
    score(fast, features, tokens[:64], 2)  # trace

    naive = NaiveScorer(scorer, **features)
    rates, compared = [naive_rates(naive, tokens)], []
    base = peak_after_reset()
    seconds = {}
    for part in ("o2w", "w2r"):
        seconds[part], scores = timed(fast, features, tokens, options.images, part, options.memory)
        gemm.append(workload.gemm_rate())
        compared.append(largest_difference(naive, part, scores, tokens))
    resident = peak_mb()
    rates.append(naive_rates(naive, tokens))
    pairs = options.images * len(tokens)
    best = {size: float(np.median([rate[size] for rate in rates])) for size in NAIVE_BATCHES}
    naive_rate, fast_rate = max(best.values()), pairs / sum(seconds.values())
    tree, rate = PrefixTree(tokens), float(np.median(gemm))
    unavoidable = operations.w2r_tree(config, tree)
    padded = operations.w2r_pair(config, tokens.shape[1]) + operations.o2w_pair(config, tokens.shape[1])
    return {
        "captions": len(tokens),
        "distinct_words": len(tree.words),
        "tokens": int((tokens != 0).sum()),
        "tree_nodes": tree.nodes,
        "images": options.images,
        "naive_batch": max(best, key=best.get),
        "naive_pairs_per_s": naive_rate,
        "fast_pairs_per_s": fast_rate,
        "ratio": fast_rate / naive_rate,
        "max_abs_diff": max(compared),
        "w2r_pairs_per_s": pairs / seconds["w2r"],
        "o2w_pairs_per_s": pairs / seconds["o2w"],
        "naive_gflop_per_pair": padded / 1e9,
        "w2r_gflop_per_pair": unavoidable / len(tokens) / 1e9,
        "gemm_gflop_per_s": rate,
        "w2r_gflop_per_s": unavoidable * options.images / seconds["w2r"] / 1e9,
        "gemm_fraction": unavoidable * options.images / seconds["w2r"] / 1e9 / rate,
        "memory_budget_mb": options.memory,
        "peak_mb": resident - base,
        "growth": [] if options.no_growth else growth(options, config, fast, features, tokens, vocabulary),
    }


def peak_after_reset() -> float:
    reset_peak()
    return peak_mb()


def score(fast, features: dict, tokens: np.ndarray, images: int, part: str = "score", memory: int = MEMORY_MB):
    return score_matrix(fast, **features, captions=tokens, image_rows=np.arange(images), part=part, memory_mb=memory)


def timed(fast, features: dict, tokens: np.ndarray, images: int, part: str, memory: int) -> tuple[float, np.ndarray]:
    """Seconds of a whole matrix, and the matrix."""
    start = time.perf_counter()
    scores = score(fast, features, tokens, images, part, memory)
    return time.perf_counter() - start, scores


def naive_rates(naive: NaiveScorer, tokens: np.ndarray) -> dict[int, float]:
    """Pairs per second for each batch size, on random pairs."""
    rng, rates = np.random.default_rng(0), {}
    images = len(naive.arrays["regions"])
    for size in NAIVE_BATCHES:
        rows, captions = rng.integers(images, size=size), rng.integers(len(tokens), size=size)
        naive.pairs(rows, tokens[captions])  # trace
        start = time.perf_counter()
        naive.pairs(rows, tokens[captions])
        rates[size] = size / (time.perf_counter() - start)
    return rates


def largest_difference(naive: NaiveScorer, part: str, scores: np.ndarray, tokens: np.ndarray, pairs: int = 1024):
    """Over random pairs, between a part of the matrix and Keras."""
    rng, largest = np.random.default_rng(1), 0.0
    for _ in range(pairs // 256):
        rows, captions = rng.integers(len(scores), size=256), rng.integers(len(tokens), size=256)
        expected = naive.pairs(rows, tokens[captions])[part]
        largest = max(largest, float(np.abs(scores[rows, captions] - expected).max()))
    return largest


def growth(options: argparse.Namespace, config, fast, features: dict, tokens: np.ndarray, vocabulary: int) -> list:
    """Seconds and peak memory of W2R + O2W over pictures, captions, caption length and H."""
    few, some = max(1, options.images // 4), max(1, len(tokens) // 4)
    rows = []

    def add(name: str, value: int, fast: FastScorer, tokens: np.ndarray, images: int) -> None:
        base = peak_after_reset()
        seconds, _ = timed(fast, features, tokens, images, "score", options.memory)
        rate = images * len(tokens) / seconds
        rows.append({name: value, "seconds": seconds, "pairs_per_s": rate, "peak_mb": peak_mb() - base})

    for factor in (1, 2, 4):
        add("images", few * factor, fast, tokens[:some], few * factor)
    for factor in (1, 2, 4):
        add("captions", some * factor, fast, tokens[: some * factor], few)
    for length in (5, 10, 20, 30):
        add("length", length, fast, same_length(tokens[:some], length), few)
    for H in (config.H // 4, config.H // 2, config.H):
        smaller = FastScorer(Bssan(workload.model_config(options, H=H), vocabulary).scorer)
        score(smaller, features, tokens[:64], 1)  # trace
        add("H", H, smaller, tokens[:some], few)
    return rows


def same_length(tokens: np.ndarray, length: int) -> np.ndarray:
    """The captions one after the other, cut anew into captions of `length` words."""
    words = tokens[tokens != 0]
    count = min(len(tokens), len(words) // length)
    cut = np.zeros((count, tokens.shape[1]), np.int32)
    cut[:, :length] = words[: count * length].reshape(count, length)
    return cut


if __name__ == "__main__":
    cli.run(main)
