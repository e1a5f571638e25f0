"""Pairs per second of the exact fast scorer against Keras called on padded pairs.

Run `python -m benchmarks.scoring [--captions FILE] [--json FILE]`. Both run in turns in one process, so that other work
on the machine meets both; operations are counted from shapes, and compared with the machine's GEMM rate. Memory and
growth are measured in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from benchmarks import alone, operations, workload
from benchmarks.naive import NaiveScorer
from bssan_tf import cli
from bssan_tf.config.settings import MEMORY_MB
from bssan_tf.models.bssan import Bssan
from bssan_tf.scoring import FastScorer, score_matrices
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.tools.files import write_json


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.scoring", description=__doc__.split("\n")[0])
    workload.add_flags(parser)
    parser.add_argument("--images", type=cli.count, default=32, help="pictures of the largest matrix (32)")
    parser.add_argument("--memory", type=cli.count, default=MEMORY_MB, metavar="MB", help="budget of the fast scorer")
    parser.add_argument("--naive-batches", type=cli.count, nargs="+", default=(64, 128, 256, 512), metavar="N")
    parser.add_argument(
        "--checked", type=cli.count, default=1024, metavar="N", help="pairs compared in each part (1024)"
    )
    parser.add_argument("--only", choices=("comparison", "growth"), help="one of the two parts (both)")
    options = parser.parse_args(arguments)
    tokens, vocabulary = workload.tokens_of(workload.read_captions(options))
    result = {"memory_budget_mb": options.memory}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.draw_features(workload.model_config(options), options.images, folder)
        if options.only != "growth":
            result |= comparison(options, folder, tokens, vocabulary)
            workload.show(result)
        if options.only != "comparison":
            result["growth"] = growth(options, folder, tokens, vocabulary)
            for row in result["growth"]:
                print("growth  " + "  ".join(f"{name} {value:.5g}" for name, value in row.items()))
    if options.json:
        write_json(options.json, result)


def comparison(options: argparse.Namespace, folder: Path, tokens: np.ndarray, vocabulary: int) -> dict:
    """Rates of both, how much they differ, and the memory of the fast one alone."""
    config, features = workload.model_config(options), workload.load_features(folder)
    scorer = Bssan(config, vocabulary).scorer
    fast, naive, features = FastScorer(scorer), NaiveScorer(scorer, **features), SimpleNamespace(**features)
    gemm = [workload.gemm_rate()]
    score_matrices(fast, features, tokens[:64], np.arange(1))  # trace

    rates, compared, seconds = [naive_rates(naive, tokens, options.naive_batches)], [], {}
    for part in ("o2w", "w2r"):
        start = time.perf_counter()
        scores = score_matrices(fast, features, tokens, parts=[part], memory_mb=options.memory)[part]
        seconds[part] = time.perf_counter() - start
        gemm.append(workload.gemm_rate())
        compared.append(largest_difference(naive, part, scores, tokens, options.checked))
    rates.append(naive_rates(naive, tokens, options.naive_batches))
    pairs = options.images * len(tokens)
    best = {size: float(np.median([rate[size] for rate in rates])) for size in options.naive_batches}
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
        "peak_mb": alone.start(folder, options, tokens, vocabulary, options.images)["peak_mb"],
    }


def naive_rates(naive: NaiveScorer, tokens: np.ndarray, batches: Sequence[int]) -> dict[int, float]:
    """Pairs per second for each batch size, on random pairs."""
    rng, rates = np.random.default_rng(0), {}
    images = len(naive.arrays["regions"])
    for size in batches:
        rows, captions = rng.integers(images, size=size), rng.integers(len(tokens), size=size)
        naive.pairs(rows, tokens[captions])  # trace
        start = time.perf_counter()
        naive.pairs(rows, tokens[captions])
        rates[size] = size / (time.perf_counter() - start)
    return rates


def largest_difference(naive: NaiveScorer, part: str, scores: np.ndarray, tokens: np.ndarray, pairs: int) -> float:
    """Over random pairs, between a part of the matrix and Keras."""
    rng, largest = np.random.default_rng(1), 0.0
    for start in range(0, pairs, 256):
        size = min(256, pairs - start)
        rows, captions = rng.integers(len(scores), size=size), rng.integers(len(tokens), size=size)
        expected = naive.pairs(rows, tokens[captions])[part]
        largest = max(largest, float(np.abs(scores[rows, captions] - expected).max()))
    return largest


def growth(options: argparse.Namespace, folder: Path, tokens: np.ndarray, vocabulary: int) -> list[dict]:
    """Seconds and peak memory over pictures, captions, caption length and H, each in a process of its own."""
    few, some = max(1, options.images // 4), max(1, len(tokens) // 4)
    H = workload.model_config(options).H
    jobs = [("images", few * factor, tokens[:some], few * factor, {}) for factor in (1, 2, 4)]
    jobs += [("captions", some * factor, tokens[: some * factor], few, {}) for factor in (1, 2, 4)]
    jobs += [("length", length, same_length(tokens[:some], length), few, {}) for length in (5, 10, 20, 30)]
    jobs += [("H", width, tokens[:some], few, {"H": width}) for width in (H // 4, H // 2, H)]
    return [
        {name: value, **alone.start(folder, options, captions, vocabulary, images, **changes)}
        for name, value, captions, images, changes in tqdm(jobs, desc="growth", unit="matrix")
    ]


def same_length(tokens: np.ndarray, length: int) -> np.ndarray:
    """The captions one after the other, cut anew into captions of `length` words."""
    words = tokens[tokens != 0]
    count = min(len(tokens), len(words) // length)
    cut = np.zeros((count, tokens.shape[1]), np.int32)
    cut[:, :length] = words[: count * length].reshape(count, length)
    return cut


if __name__ == "__main__":
    cli.run(main)
