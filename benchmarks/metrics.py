"""How long the metrics of a score matrix take, and how often their 95 % intervals hold the truth.

Run `python -m benchmarks.metrics [--images N] [--captions N] [--draws N]`. For the second, splits are drawn from a
population whose recalls are known: each image has a difficulty of its own, which its captions share.
"""

from __future__ import annotations

import time

import numpy as np

from bssan_tf import cli
from bssan_tf.metrics.details import detailed_report, intervals
from bssan_tf.metrics.recall import retrieval_report


def build_parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m benchmarks.metrics", description=__doc__.split("\n\n")[0])
    for flag, number in (("images", 1000), ("captions", 5), ("draws", 1000)):
        parser.add_argument(f"--{flag}", type=cli.count, default=number, metavar="N", help=f"(default: {number})")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = build_parser().parse_args(arguments)
    rng, owner = np.random.default_rng(0), np.repeat(np.arange(options.images), options.captions)
    scores = rng.normal(size=(options.images, len(owner))).astype(np.float32)
    scores += 2 * (owner == np.arange(options.images)[:, None])
    for what in (retrieval_report, detailed_report):
        start = time.perf_counter()
        what(scores, owner)
        print(f"{what.__name__}: {time.perf_counter() - start:.2f} s for {options.images:,} x {len(owner):,} scores")
    print(f"intervals that hold the truth, of {options.draws:,}: R@1 {{:.1f}} %, {{:.1f}} %".format(*coverage(options)))


def coverage(options) -> list[float]:
    """Share, in percent, of the intervals of R@1 that hold its true value of 50 %: image to text, text to image."""
    held, owner = np.zeros(2), np.repeat(np.arange(options.images), options.captions)
    for draw in range(options.draws):
        rng = np.random.default_rng(draw)
        easy = rng.beta(2, 2, size=(options.images, 1))
        i2t, t2i = (1 + (rng.random((options.images, n)) >= easy) for n in (1, options.captions))
        found = intervals(i2t, t2i.reshape(-1, 1), owner)
        held += [low <= 50 <= high for low, high in (found[way]["R@1"] for way in ("i2t", "t2i"))]
    return list(100 * held / options.draws)


if __name__ == "__main__":
    cli.run(main)
