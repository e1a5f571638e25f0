"""Training speed with and without the parts of a preset, in turns.

    python -m benchmarks.parts SETS.txt --common "--data flickr8k ..." --rounds 5 --steps 20

SETS.txt has a set a line, `name: flags of train.py`, as for benchmarks.recipe; the first is what the others are
compared with. Weights are random and features are the data set's own; nothing is kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import trange

from benchmarks.recipe import config_of, read_sets
from benchmarks.training import Ours
from bssan_tf import cli
from bssan_tf.config.schema import Config
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.runs.data import fit_config, open_data
from bssan_tf.training.batches import PairStream
from bssan_tf.training.run import word_vectors

WARM_UP = 3  # steps that trace the graph, and are not counted


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = cli.Parser(prog="python -m benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("sets", type=Path, help="a set a line, `name: flags of train.py`; the first is compared with")
    parser.add_argument("--common", default="", help="flags of every set, in one string")
    parser.add_argument("--steps", type=cli.count, default=20, help="steps of each round (20)")
    parser.add_argument("--rounds", type=cli.count, default=5, help="in each of which every set has its turn (5)")
    options = parser.parse_args(arguments)
    rates = measure(options)
    first = next(iter(rates.values()))
    width = max(map(len, rates))
    print(f"{'':{width}}  pictures/s  of the first (median of {options.rounds} rounds, lowest and highest)")
    for name, rate in rates.items():
        ratio = rate / first
        print(
            f"{name:{width}} {np.median(rate):11.1f}  {np.median(ratio):.3f} ({ratio.min():.3f} to {ratio.max():.3f})"
        )


def measure(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Pictures per second of each set, float (rounds,); pairs would count more for a set with more negatives.

    Raises:
        UserError: no sets; as the parts of a training.
    """
    sets = read_sets(options.sets)
    if not sets:
        raise UserError(f"{options.sets}: has no sets; give a line `name: flags of train.py` for each")
    works = {name: start(config_of(f"{options.common} {flags}", minutes=0)) for name, flags in sets.items()}
    for work in works.values():
        work.run(WARM_UP)
    seconds = {name: [] for name in works}
    for _ in trange(options.rounds, desc="rounds"):
        for name, work in works.items():
            seconds[name].append(work.run(options.steps)[0] / options.steps)
    return {name: works[name].config.training.batch_size / np.array(spent) for name, spent in seconds.items()}


def start(config: Config) -> Ours:
    """A set's network, and its batches from the first on."""
    data = open_data(config.data)
    train = data.split("train")
    tokenizer = Tokenizer.fit(train.captions, config.data.caption_length)
    glove = word_vectors(config, data, tokenizer)
    config = fit_config(config, data.features, 0 if glove is None else glove.shape[1])
    stream = PairStream(train, data.features, tokenizer(train.captions), config.training)
    return Ours(stream, config, len(tokenizer.words))


if __name__ == "__main__":
    cli.run(main)
