"""Early signs of collapse: a fixed set of validation pairs, looked at every few steps of a run's beginning.

The same pairs are scored under learned attention and under Eq. 8. Where positives and negatives are told apart under
the attention of training, but not under that of a test, the network looks at whose attention is even, not at what is
shown (docs/reproduction.md). In: a model in training. Out: `early_signs.csv` and one line of the log.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from bssan_tf.config.settings import TrainingConfig
from bssan_tf.datasets.corpus import Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features, gather, longest
from bssan_tf.metrics.recall import retrieval_report
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.pairing import UniformPairs
from bssan_tf.scoring import score_matrices
from bssan_tf.tools.files import replacing

logger = logging.getLogger(__name__)

EVERY = 20  # steps from one look to the next
RSUM_EVERY = 100  # steps; all pictures with all captions take as long as several steps
PICTURES = 64  # of the probe
NEGATIVES = 4  # of each picture: the captions of the next ones
_LEAST = 8  # pictures; with fewer, chance alone may rank most pairs right
_TOLD_APART, _NEAR_CHANCE = 0.9, 0.6  # shares of pairs ranked right
_LITTLE = 0.1  # of the hinge
_NAMES = {"w2r": "W2R", "o2w": "O2W", "score": "the score"}


class Probe:
    """A fixed, seeded set of validation pictures, each with its first caption, and what a model makes of them.

    Raises:
        UserError: as `check_probe`.
    """

    def __init__(
        self, model: Bssan, training: TrainingConfig, validation: Split, features: Features, tokenizer: Tokenizer
    ):
        check_probe(validation)
        part = validation.sample_images(PICTURES, training.seed).captions_per_image(1)
        tokens = tokenizer(part.captions)
        inputs = {**gather(features, part.image_rows), "tokens": tokens[:, : longest(tokens)]}
        self.model, self.margin = model, training.margin
        self.inputs = {name: tf.constant(inputs[name]) for name in model.scorer.input}
        shown = replace(training, negative_source="batch", negatives=NEGATIVES, all_pairs=0.0)
        learned = replace(shown, negative_attention="learned", uniform_positives=0.0)
        uniform = replace(shown, negative_attention="uniform", uniform_positives=1.0)
        graphs = [model.siamese(learned), model.siamese(uniform), model.scorer]
        self.parts = model.trained_parts  # of w2r and o2w those that the model has, or their score
        self._outputs = tf.function(
            lambda: [graph({name: self.inputs[name] for name in graph.input}, training=False) for graph in graphs],
            autograph=False,
        )
        pairs = tf.ones((len(part.image_ids), 1 + NEGATIVES, 1), tf.bool)
        flags = {
            "training": UniformPairs(training.negative_attention, training.uniform_positives),
            "learned": UniformPairs("learned"),
            "eq8": UniformPairs("uniform"),
            "uniform": UniformPairs("uniform", positives=1.0),
        }
        self._under_eq8 = {name: layer(pairs).numpy() for name, layer in flags.items()}  # bool (B, 1 + K)

    def measure(self, rsum: bool = True) -> dict[str, float]:
        """Of each trained part and attention: hinge (Eq. 7), score gap, share ranked right; entropy and rsum.

        Attentions: `training`, as the run's pairs are; `learned`, as at test time; `eq8`, the negatives under Eq. 8;
        `uniform`, the positives, too.

        Returns:
            `w2r_hinge_training` and so on; `w2r_entropy`, of α on positives as a share of log D, and `o2w_entropy`,
            of β as a share of the log of the number of words; `rsum` of all probe pictures and captions, or NaN.
        """
        *scores, own = self._outputs()
        found = {"rsum": np.nan}
        if rsum:
            pairs = SimpleNamespace(**{name: value.numpy() for name, value in self.inputs.items()})
            matrix = score_matrices(self.model.scorer, pairs, pairs.tokens, parts=["score"])["score"]
            found["rsum"] = retrieval_report(matrix, np.arange(len(matrix)))["rsum"]
        for part in self.parts:
            learned, uniform = (graph[part].numpy() for graph in scores)  # (B, 1 + K)
            for name, under_eq8 in self._under_eq8.items():
                for what, value in compared(np.where(under_eq8, uniform, learned), self.margin).items():
                    found[f"{part}_{what}_{name}"] = value
        words = self.inputs["tokens"].numpy() != 0  # (B, L)
        if "alpha" in own:
            found["w2r_entropy"] = entropy_share(own["alpha"].numpy()[words])
        if "beta" in own:
            valid = self.inputs["valid"].numpy()
            real = np.broadcast_to(words[:, None], own["beta"].shape)[valid]
            found["o2w_entropy"] = entropy_share(own["beta"].numpy()[valid], real)
        return found


def check_probe(validation: Split) -> None:
    """UserError if a validation split has too few pictures to see anything."""
    if (images := len(validation.image_ids)) < _LEAST:
        needs = f"needs {_LEAST} validation pictures, there are {images}"
        raise UserError(f"--early-signs: {needs}; leave it out, or raise --validation-images")


def compared(scores: np.ndarray, margin: float) -> dict[str, float]:
    """Positives against their negatives, scores float (B, 1 + K): `hinge` (Eq. 7, 17), `gap`, share ranked `right`."""
    gaps = scores[:, :1].astype(np.float64) - scores[:, 1:]  # (B, K)
    hinges = np.maximum(0, margin - gaps)
    right = (gaps > 0) + 0.5 * (gaps == 0)  # a tie counts half: a network that says the same of all pairs is at chance
    return {"hinge": float(hinges.mean()), "gap": float(gaps.mean()), "right": float(right.mean())}


def entropy_share(weights: np.ndarray, real: np.ndarray | None = None) -> float:
    """Mean entropy of attention float (n, N_k), of rows with sum 1, as a share of the even spread's; 0: all on one key.

    `real` bool (n, N_k) is False at padded keys. Rows with one key have no entropy and are left out.
    """
    keys = np.full(len(weights), weights.shape[1]) if real is None else real.sum(axis=1)  # (n,)
    weights, keys = weights[keys > 1].astype(np.float64), keys[keys > 1]
    entropy = -(weights * np.log(np.maximum(weights, 1e-30))).sum(axis=1)
    return float((entropy / np.log(keys)).mean()) if len(keys) else 1.0


class EarlySigns(tf.keras.callbacks.Callback):
    """Look at the probe every `EVERY` steps of `trained`, its model or the copy that is trained; say what that tells.

    What was said follows from the rows of the file, so that a resumed run neither repeats nor forgets it.

    Args:
        path: of the CSV; a row has the finished steps, the mean ranking losses since the last row or the epoch's start,
            and what the probe measured, rsum every `RSUM_EVERY` steps.
        last: steps to look at; the last look is at the next multiple of `EVERY`.
    """

    def __init__(self, probe: Probe, trained: Bssan, path: Path, last: int):
        super().__init__()
        self.probe, self.trained, self.path = probe, trained, path
        self.last = -(-last // EVERY) * EVERY
        self.rows: list[dict] | None = None

    def on_epoch_begin(self, epoch, logs=None):
        self._since, self._before = 0, np.zeros(len(self.probe.parts))

    def on_train_batch_begin(self, batch, logs=None):
        if self.rows is None:  # the optimizer knows its steps only now where a run is resumed
            done = int(self.model.optimizer.iterations.numpy())
            self.rows = [row for row in read_rows(self.path) if row["step"] <= done]
            if not self.rows:
                self._look(done, np.full(len(self.probe.parts), np.nan))

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        if step % EVERY == 0 and step <= self.last:
            means = np.array([float(logs[f"{part}_ranking"]) for part in self.probe.parts])  # since the epoch's start
            total = (batch + 1) * means
            self._look(step, (total - self._before) / (batch + 1 - self._since))
            self._since, self._before = batch + 1, total

    def on_train_end(self, logs=None):
        if not self.rows or self.rows[-1]["step"] >= self.last or collapsed(self.rows, self.probe.parts):
            return
        short = f"--early-signs: training was too short to tell; a sign takes two looks, {2 * EVERY} steps"
        logger.info(short if self.rows[-1]["step"] < 2 * EVERY else no_sign(self.rows[-1], self.probe.parts))

    def _look(self, step: int, losses: np.ndarray) -> None:
        if self.trained is not self.probe.model:
            self.probe.model.scorer.set_weights(self.trained.scorer.get_weights())
        before = collapsed(self.rows, self.probe.parts)
        losses = {f"{part}_loss": float(loss) for part, loss in zip(self.probe.parts, losses)}
        self.rows.append({"step": step, **losses, **self.probe.measure(step % RSUM_EVERY == 0)})
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        now = collapsed(self.rows, self.probe.parts)
        if now and not before:
            logger.warning(sign(self.rows[-1], now))
        elif step == self.last and not now:
            logger.info(no_sign(self.rows[-1], self.probe.parts))


def collapsed(rows: Sequence[dict], parts: Sequence[str]) -> list[str]:
    """The parts that showed the sign of collapse in two looks, one after the other.

    The sign: 90 % or more of the probe's pairs are ranked right under the attention of training. Under that of a test,
    less than 60 % are; or less than 90 %, and training sees less than a tenth of the hinge that is left there.
    Without pairs under Eq. 8 both attentions are the same, and there is no sign.
    """

    def shows(row: dict, part: str) -> bool:
        trained, learned = (row[f"{part}_right_{name}"] for name in ("training", "learned"))
        unseen = row[f"{part}_hinge_training"] < _LITTLE * row[f"{part}_hinge_learned"]
        return trained >= _TOLD_APART and (learned < _NEAR_CHANCE or (learned < _TOLD_APART and unseen))

    return [part for part in parts if any(shows(a, part) and shows(b, part) for a, b in zip(rows, rows[1:]))]


def sign(row: dict, parts: Sequence[str]) -> str:
    """The line that names a collapse."""
    numbers = "; ".join(
        f"{_NAMES[part]} ranks {row[f'{part}_right_training']:.1%} of the probe's pairs right as they are trained "
        f"(hinge {row[f'{part}_hinge_training']:.4f}), but {row[f'{part}_right_learned']:.1%} when all are attended "
        f"to as a test pair is (chance 50 %, hinge {row[f'{part}_hinge_learned']:.4f})"
        for part in parts
    )
    return (
        f"EARLY SIGN OF COLLAPSE at step {row['step']}: {numbers}. Training tells negatives by their uniform attention "
        "(Eq. 8), so that nothing more is learned of what they show. Remedy: --negative-attention learned."
    )


def no_sign(row: dict, parts: Sequence[str]) -> str:
    """The line that says that all is well so far, or that nothing is learned yet."""
    numbers = " and ".join(f"{_NAMES[part]} ranks {row[f'{part}_right_learned']:.1%}" for part in parts)
    slow = [_NAMES[part] for part in parts if row[f"{part}_right_learned"] < _NEAR_CHANCE]
    ending = f"; {' and '.join(slow)}: hardly anything learned yet" if slow else ""
    how = "all attended to as a test pair is (chance 50 %)"
    return f"No early sign of collapse after {row['step']} steps: {numbers} of the probe's pairs right, {how}{ending}."


def read_rows(path: Path) -> list[dict]:
    """The rows of an `early_signs.csv` as numbers, `step` as int; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows]
