"""Pairs per second of training against the straightforward Keras loop, and the share of time spent waiting for input.

Run `python -m benchmarks.training [--captions FILE] [--json FILE]`. The straightforward loop has its features in
memory, pads every caption to 30 words, and passes positives and negatives through the network one after the other. Both
run in turns.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import operations, workload
from bssan_tf import cli
from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.features.store import Features, gather
from bssan_tf.models.bssan import Bssan
from bssan_tf.tools.files import write_json
from bssan_tf.training.batches import PairStream
from bssan_tf.training.step import compile_siamese, copy_of


def main(arguments: list[str] | None = None) -> None:
    """Measure, print one table, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    workload.add_flags(parser)
    parser.add_argument("--images", type=cli.count, default=512, help="pictures in the store (512)")
    parser.add_argument("--batch-size", type=cli.count, metavar="B", help="pictures of a step (the preset's)")
    parser.add_argument(
        "--length-pool", type=cli.count, metavar="N", help="batches sorted by length together (the preset's)"
    )
    parser.add_argument("--steps", type=cli.count, default=8, help="steps of each round (8)")
    parser.add_argument("--rounds", type=cli.count, default=3)
    parser.add_argument("--mixed-precision", action="store_true", help="ours in bfloat16, the other in float32")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    workload.show(result)
    if options.json:
        write_json(options.json, result)


def measure(options, folder: Path) -> dict:
    """Median rates over the rounds, and the median of the rounds' ratios."""
    tokens, vocabulary = workload.tokens_of(workload.read_captions(options))
    options.images = min(options.images, len(tokens))
    config = preset(options.preset, options.size)
    config = Config(training=config.training, model=workload.model_config(options))
    changes = {"batch_size": options.batch_size, "length_pool": options.length_pool}
    changes = {name: value for name, value in changes.items() if value is not None}
    config = config.replace(mixed_precision=options.mixed_precision, **changes)
    arrays = workload.draw_features(config.model, options.images, folder)
    split = one_caption_each(options.images, len(tokens))
    features = Features(split.image_ids, **arrays)
    stream = PairStream(split, features, tokens[: len(split.captions)], config.training)

    pairs = config.training.batch_size * (1 + config.training.negatives)
    ours, keras = Ours(stream, config, vocabulary), Straightforward(stream, config, vocabulary, tokens.shape[1])
    ours.run(3), keras.run(1)  # trace
    gemm, seconds, waits, straight, flops = [workload.gemm_rate()], [], [], [], []
    for _ in range(options.rounds):
        spent, waited, words = ours.run(options.steps)
        seconds.append(spent / options.steps)
        waits.append(waited / spent)
        flops.append(3 * needed(config, words) / spent)  # forward, and two products for each one in the backward pass
        straight.append(keras.run(max(1, options.steps // 2)))
        gemm.append(workload.gemm_rate())
    rate = float(np.median(gemm))
    return {
        "batch_size": config.training.batch_size,
        "negatives": config.training.negatives,
        "pairs_per_s": pairs / float(np.median(seconds)),
        "straightforward_pairs_per_s": pairs / float(np.median(straight)),
        "ratio": float(np.median(np.array(straight) / np.array(seconds))),
        "input_wait_fraction": float(np.median(waits)),
        "gflop_per_s": float(np.median(flops)) / 1e9,
        "gemm_gflop_per_s": rate,
        "gemm_fraction": float(np.median(flops)) / 1e9 / rate,
    }


def one_caption_each(images: int, captions: int) -> Split:
    """A split in which each picture has as many of the captions."""
    names = tuple(f"{i}.jpg" for i in range(images))
    owner = np.repeat(np.arange(images), captions // images)
    return Split(
        corpus_name="benchmark",
        name="train",
        image_ids=names,
        image_paths=names,
        captions=tuple(map(str, range(len(owner)))),
        image_of_caption=owner,
        image_rows=np.arange(images),
        caption_rows=np.arange(len(owner)),
    )


def needed(config: Config, words: np.ndarray) -> float:
    """Operations of the forward pass of pairs whose captions have so many words, padding left out."""
    model = config.model
    texts = words.sum() / len(words) * 8 * model.S * 2 * (model.E + model.S)  # Bi-LSTM, once a caption
    captions = config.training.batch_size * (
        1 if config.training.negative_source != "random" else 1 + config.training.negatives
    )
    steps = len(words) / (config.training.batch_size * (1 + config.training.negatives))
    per_pair = sum(operations.w2r_pair(model, int(n)) + operations.o2w_pair(model, int(n), text=False) for n in words)
    # objects' half of Eq. 10 is computed once a picture
    again = len(words) - steps * config.training.batch_size
    return per_pair - again * model.P * 2 * model.Q * model.S + steps * captions * texts


class Ours:
    """The project's training step on the project's input pipeline."""

    def __init__(self, stream: PairStream, config: Config, vocabulary: int):
        self.stream, self.config = stream, config
        model = Bssan(config.model, vocabulary, config.training.l2)
        if config.training.mixed_precision:
            model = copy_of(model, mixed_precision=True)
        self.siamese = model.siamese(config.training)
        compile_siamese(self.siamese, config)
        self.step = tf.function(self.siamese.train_step, reduce_retracing=True)  # what fit() calls
        self.done = 0

    def run(self, steps: int) -> tuple[float, float, np.ndarray]:
        """Seconds of some steps, those of them that were spent waiting for input, and the words of each pair."""
        first, self.done = self.done, self.done + steps
        names = list(self.siamese.output)
        dataset = iter(self.stream.dataset(self.siamese.input, names).steps(first, self.done))
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(dataset)
            waited += time.perf_counter() - asked
            self.step(batch)["loss"].numpy()
        spent = time.perf_counter() - start
        return spent, waited, np.concatenate([self.words(step) for step in range(first, self.done)])

    def words(self, step: int) -> np.ndarray:
        """Words of the caption of each pair of a step."""
        batch, K = self.stream.batch(step), self.config.training.negatives
        own = (batch["tokens"] != 0).sum(axis=1)
        if "negative_tokens" in batch:
            return np.concatenate([own, (batch["negative_tokens"] != 0).sum(axis=2).ravel()])
        return np.concatenate([np.roll(own, -k) for k in range(1 + K)])


class Straightforward:
    """What one writes first: two padded passes through the scorer, features in memory, hinge, gradient, SGD."""

    def __init__(self, stream: PairStream, config: Config, vocabulary: int, length: int):
        self.stream, self.length = stream, length
        self.scorer = Bssan(config.model, vocabulary, config.training.l2).scorer
        self.optimizer = tf.keras.optimizers.SGD(0.01, momentum=0.9)
        self.parts = [name for name in ("w2r", "o2w") if name in self.scorer.output]
        self.memory = gather(stream.features, np.arange(stream.images))
        self.K = config.training.negatives
        self.done = 0
        self.step = tf.function(self._step)

    def _step(self, pictures, tokens, negatives):
        with tf.GradientTape() as tape:
            positive = self.scorer({**pictures, "tokens": tokens}, training=True)
            negative = self.scorer(
                {**{k: tf.repeat(v, self.K, axis=0) for k, v in pictures.items()}, "tokens": negatives}, training=True
            )
            loss = tf.add_n(self.scorer.losses)
            for part in self.parts:
                loss += tf.reduce_mean(tf.nn.relu(0.2 - tf.repeat(positive[part], self.K) + negative[part]))
        variables = self.scorer.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    def run(self, steps: int) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        rng = np.random.default_rng(self.done)
        for _ in range(steps):
            rows = rng.choice(self.stream.images, self.stream.training.batch_size, replace=False)
            pictures = {name: tf.constant(self.memory[name][rows]) for name in self.scorer.input if name != "tokens"}
            drawn = rng.integers(len(self.stream.tokens), size=len(rows) * (1 + self.K))
            tokens = tf.constant(self.stream.tokens[drawn])
            self.step(pictures, tokens[: len(rows)], tokens[len(rows) :]).numpy()
        self.done += steps
        return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    cli.run(main)
