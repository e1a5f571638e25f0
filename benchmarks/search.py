"""What search in stages gains and loses against scoring every candidate in full.

Run `python -m benchmarks.search RUN [--split val] [--beside train] [--json FILE]`. Recalls are those of all queries of
the split; seconds are those of single queries, as a user makes them, each answered in every way in turns. What is
scored in full is chosen by O2W of all, or for photos by an index (`matching/vector_index.py`).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from bssan_tf import cli
from bssan_tf.config.flags import moving_fields
from bssan_tf.errors import UserError
from bssan_tf.matching.vector_index import vector_index
from bssan_tf.metrics.recall import ranks, summarise
from bssan_tf.runs.data import data_of_run
from bssan_tf.runs.folder import RunFolder, find_run
from bssan_tf.scoring import FastScorer, score_matrices
from bssan_tf.scoring.first_stage import has_first_stage
from bssan_tf.scoring.two_stage import CaptionSearch, PictureSearch, Ranking
from bssan_tf.tools.files import write_json

KEEP_MB = 2048  # for the candidates' sides, from query to query


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.search", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="run folder (the latest)")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="(val)")
    parser.add_argument("--images", type=cli.count, default=1000, metavar="N", help="pictures, a seeded choice (1000)")
    parser.add_argument("--captions-per-image", type=cli.count, default=1, metavar="N", help="the first N (1)")
    parser.add_argument(
        "--beside",
        nargs="+",
        choices=("train", "val", "test"),
        default=[],
        help="splits whose pictures are candidates, too",
    )
    parser.add_argument("--sentences", type=cli.count, metavar="N", help="that are measured, a seeded choice (all)")
    parser.add_argument("--rerank", type=cli.count, nargs="+", default=[50, 100, 200, 400], metavar="N")
    parser.add_argument("--queries", type=cli.count, default=20, metavar="N", help="timed, a seeded choice (20)")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers there, too")
    cli.add_moved_flags(parser, *(name for name in moving_fields() if name != "glove"))  # of training only
    options = parser.parse_args(arguments)
    result = measure(find_run(options.run), options)
    for way in filter(result.get, ("text_to_image", "image_to_text")):
        print(f"{way.replace('_', ' ')}, {result[way]['candidates']} candidates")
        print("by index  in full   R@1   R@5  R@10   R@10 lost   ms a query   times as fast")
        for row in result[way]["rows"]:
            recalls = "".join(f"{row[f'R@{K}']:6.1f}" for K in (1, 5, 10))
            numbers = f"{row['R@10_lost']:12.2f} {1000 * row['seconds']:12.1f} {row['speed_up']:15.1f}"
            print(f"{row['by_index'] or '':8} {row['reranked']:8}{recalls}{numbers}")
    if options.json:
        write_json(options.json, result)


def measure(run: RunFolder, options: argparse.Namespace) -> dict:
    """Both directions: `candidates`, and for each number of candidates that are scored in full, recalls and seconds.

    The first of the `rows` scores all in full, each further one fewer.

    Raises:
        UserError: the variant has one part, so that there is nothing to choose by; data that are gone or differ.
    """
    if options.split in options.beside:
        raise UserError(f"--beside {options.split}: is measured already; name other splits")
    config = run.load_config().moved(cli.moved_files(options))
    model, tokenizer = run.load_model()
    fast = FastScorer(model.scorer)
    if len(fast.parts) < 3:
        raise UserError(f"{run.path}: is of variant {config.model.variant}, which has one stage; name a full one")
    data = data_of_run(run, config)
    split, features = data.split(options.split), data.features
    if len(split.image_ids) > options.images:
        split = split.sample_images(options.images)
    split = split.captions_per_image(options.captions_per_image)
    tokens, owner = tokenizer(split.captions), split.image_of_caption
    if options.sentences and options.sentences < len(tokens):
        some = np.sort(np.random.default_rng(0).permutation(len(tokens))[: options.sentences])
        tokens, owner = tokens[some], owner[some]
    others = [data.split(name).image_rows for name in options.beside]
    rows = np.concatenate([split.image_rows, *others])
    images = np.arange(len(rows))
    matrices = score_matrices(fast, features, tokens, rows, progress=True)
    pictures = PictureSearch(fast, features, rows, keep_mb=KEEP_MB)
    reranked = sorted({n for n in options.rerank if n < len(rows)}, reverse=True)
    ways, scores, first = [(0, 0), *((0, n) for n in reranked)], {part: m.T for part, m in matrices.items()}, None
    if has_first_stage(fast) and features.sums is not None:
        first = vector_index(fast, features, rows)
        scores["index"] = first.stage.sentences(tokens) @ first.stage.photos(features, rows).T
        ways += [(n, 0) for n in reranked]

    def found_pictures(caption: int, by_index: int, rerank: int) -> Ranking:
        among = first.search(tokens[[caption]], by_index) if by_index else None
        return pictures.rank(tokens[[caption]], rerank, among)

    found = {
        "run": run.name,
        "corpus": split.corpus_name,
        "split": split.name,
        "text_to_image": direction(scores, owner, images, found_pictures, ways, options.queries),
    }
    if not (options.beside or options.sentences):
        captions = CaptionSearch(fast, tokens, keep_mb=KEEP_MB)

        def found_captions(image: int, _, rerank: int) -> Ranking:
            return captions.rank(features, split.image_rows[image], rerank)

        ways = [(0, 0), *((0, n) for n in sorted({n for n in options.rerank if n < len(tokens)}, reverse=True))]
        found["image_to_text"] = direction(matrices, images, owner, found_captions, ways, options.queries)
    return found


def direction(
    scores: dict[str, np.ndarray],
    query_labels: np.ndarray,
    candidate_labels: np.ndarray,
    search: Callable[[int, int, int], Ranking],
    ways: list[tuple[int, int]],
    timed: int,
) -> dict:
    """Recalls and seconds of one direction.

    Args:
        scores: `o2w` and `score`, float (N_q, N_k), and `index` where a way asks for it.
        query_labels, candidate_labels: as for `recall.ranks`.
        search: called with a query and a way.
        ways: how many the index chooses, and how many O2W; 0 for all. The first one scores all in full.
        timed: queries, a seeded choice.
    """
    queries, candidates = scores["score"].shape
    some = np.random.default_rng(0).permutation(queries)[:timed]
    seconds = {way: [] for way in ways}
    for query in some[:3]:  # until graphs are traced for any shape
        for way in ways:
            search(query, *way)
    for query in tqdm(some, desc="queries", unit="query"):
        for way in ways:
            start = time.perf_counter()
            order, found = search(query, *way)
            seconds[way].append(time.perf_counter() - start)
            if way[0]:  # the search is what the recalls are of, but for near ties of an index, which holds float16
                products = scores["index"][query]
                lowest = -np.sort(-products)[: way[0]][-1] - 1e-2 * np.abs(products).max()
                assert (products[order] >= lowest).all(), "the index gives others than the best products"
            else:
                expected = -np.sort(-staged(scores["o2w"][[query]], scores["score"][[query]], way[1])[0])[: len(found)]
                np.testing.assert_allclose(found, expected, atol=1e-3)
    rows = []
    for way in ways:
        by_index, rerank = way
        final = staged(scores["o2w"], scores["score"], rerank)
        if by_index:
            final = staged(scores["index"], scores["score"], by_index)
        recalls = summarise(ranks(final, query_labels, candidate_labels))
        numbers = {"by_index": by_index, "reranked": rerank or by_index or candidates}
        rows.append({**numbers, **recalls, "seconds": float(np.median(seconds[way]))})
        rows[-1]["R@10_lost"] = rows[0]["R@10"] - recalls["R@10"]
        rows[-1]["speed_up"] = float(np.median(np.array(seconds[ways[0]]) / np.array(seconds[way])))
    return {"candidates": candidates, "queries": queries, "rows": rows}


def staged(first: np.ndarray, full: np.ndarray, rerank: int) -> np.ndarray:
    """Scores (N_q, N_k) that rank as two stages do: by `full` among the best `rerank` of `first`, then by `first`."""
    if not rerank:
        return full
    order = np.argsort(-first, axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable")  # in the first stage, from 0
    return np.where(place < rerank, full, full.min() - 1 - place)


if __name__ == "__main__":
    cli.run(main)
