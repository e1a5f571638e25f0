"""Training batches: pictures' features, one caption each, and the negatives, as a function of the step number.

Step s of a run is always the same batch, so that a resumed run goes on with the batches of an uninterrupted one.
Features are read from the memory map, row by row, and never held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bssan_tf.config.settings import TrainingConfig
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.features.fixed_boxes import objects_of_read, with_fixed_boxes
from bssan_tf.features.store import Features, gather, longest
from bssan_tf.tools.step_dataset import StepDataset


class Shares(NamedTuple):
    """Which parts of each batch a process reads: `count` from `first` on, of `total` equal ones."""

    first: int = 0
    count: int = 1
    total: int = 1


WHOLE = Shares()


class PairStream:
    """Positive pairs and their negatives, batch by batch.

    A round passes the pictures in a new order, each with one of its captions; the next round takes the next caption.
    Batches never cross rounds, so a picture is at most once in a batch; the last N_i mod B pictures of a round are left
    out. Within a pool of `length_pool` batches, pairs are sorted by caption length before they are cut into batches, so
    that a batch holds little padding; the batches come in random order. A share of the photos of a batch, drawn for
    each, has the ten fixed boxes as objects.

    Args:
        split: pictures and captions to train on; `image_rows` are the pictures' rows in `features`.
        tokens: int32 (N_c, L), token ids of the split's captions.
        training: size of the batches, negatives and their source, pool, share of fixed boxes, and the seed.

    Raises:
        UserError: as `check_pictures`; as `with_fixed_boxes`, where there is such a share.
    """

    def __init__(self, split: Split, features: Features, tokens: np.ndarray, training: TrainingConfig):
        self.split, self.features, self.tokens, self.training = split, features, tokens, training
        check_pictures(split, training)
        self._fixed = with_fixed_boxes(features) if training.fixed_boxes else None
        self.images = len(split.image_ids)
        self.round_steps = self.images // training.batch_size
        self._random = training.negative_source == "random"
        self._lengths = (tokens != 0).sum(axis=1)
        counts = np.bincount(split.image_of_caption, minlength=self.images)
        by_image = np.argsort(split.image_of_caption, kind="stable")
        first = np.cumsum(counts) - counts
        # of pictures with the same number n of captions: their indices, and their captions (images, n)
        alike = {n: np.flatnonzero(counts == n) for n in np.unique(counts)}
        self._groups = [(images, by_image[first[images][:, None] + np.arange(n)]) for n, images in alike.items()]
        self._round = -1

    def _start_round(self, number: int) -> None:
        """Draw order, captions and negatives of a round; they depend on seed and number alone."""
        if number == self._round:
            return
        rng = np.random.default_rng([self.training.seed, number])
        self._order = rng.permutation(self.images)
        self._caption = np.empty(self.images, np.int64)
        for images, captions in self._groups:
            # each picture keeps one order of its n captions until all had their turn
            turn, place = divmod(number, captions.shape[1])
            keys = np.random.default_rng([self.training.seed, captions.shape[1], turn]).random(captions.shape)
            chosen = np.argsort(keys, axis=1)[:, place]
            self._caption[images] = captions[np.arange(len(images)), chosen]
        B, K = self.training.batch_size, self.training.negatives
        if self._random:
            self._negatives = rng.integers(len(self.tokens), size=(self.images, K))  # decision 15
        if self.training.length_pool > 1:
            pool, end = self.training.length_pool * B, self.round_steps * B
            for start in range(0, end, pool):
                self._sort_pool(slice(start, min(start + pool, end)), rng)
        if self._random:  # draw anew where a negative is a caption of the picture itself
            own = np.arange(self.images)[:, None]
            while (wrong := self.split.image_of_caption[self._negatives] == own).any():
                self._negatives[wrong] = rng.integers(len(self.tokens), size=int(wrong.sum()))
        self._round = number

    def _sort_pool(self, pool: slice, rng: np.random.Generator) -> None:
        """Sort pairs and negatives of a part of the round by length, and shuffle its batches."""
        images = self._order[pool]
        images = images[np.argsort(self._lengths[self._caption[images]], kind="stable")]
        if self._random:
            # the same draw, dealt out by length: the i-th shortest negatives go to the i-th shortest pair
            drawn = self._negatives[images].ravel()
            drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")]
            self._negatives[images] = drawn.reshape(len(images), -1)
        self._order[pool] = rng.permutation(images.reshape(-1, self.training.batch_size)).ravel()

    def batch(self, step: int, part: int = 0, parts: int = 1) -> dict[str, np.ndarray]:
        """Inputs of the siamese graph at a step (0-based), captions cut to the longest of the batch.

        Only one of so many equal parts is read; together they are the whole batch.
        """
        number, place = divmod(step, self.round_steps)
        self._start_round(number)
        B = self.training.batch_size
        images = self._order[place * B : (place + 1) * B]
        own = slice(part * B // parts, (part + 1) * B // parts)
        captions = {"tokens": self.tokens[self._caption[images]]}  # (B, L)
        if self._random:
            captions["negative_tokens"] = self.tokens[self._negatives[images]]  # (B, K, L)
        length = max(longest(ids.reshape(-1, ids.shape[-1])) for ids in captions.values())
        cut = {name: ids[own, ..., :length] for name, ids in captions.items()}
        return {**self._features_of(step, self.split.image_rows[images[own]], own), **cut}

    def _features_of(self, step: int, rows: np.ndarray, own: slice) -> dict[str, np.ndarray]:
        """Features of `own` pictures of a step, with the fixed boxes where the step's draw says so."""
        found = gather(self.features, rows)
        if self._fixed:
            # 0, 1: no draw of a round has such a seed
            draw = np.random.default_rng([self.training.seed, step, 0, 1]).random(self.training.batch_size)
            chosen = draw[own] < self.training.fixed_boxes
            found["objects"][chosen] = objects_of_read(self._fixed, rows[chosen], found["regions"][chosen])
            found["valid"][chosen] = self._fixed.valid[rows[chosen]]
        return found

    def dataset(self, inputs: dict[str, tf.Tensor], outputs: Sequence[str], shares: Shares = WHOLE) -> StepDataset:
        """The batches for Keras: shapes and dtypes of the model's `inputs`; as targets of its `outputs` zeros (B,).

        With `shares`, each step has as many elements of the dataset as there are shares, of B / total pairs.
        """
        first, count, total = shares
        B = self.training.batch_size // total
        specs = {name: tf.TensorSpec((B, *value.shape[1:]), value.dtype) for name, value in inputs.items()}

        def element(number: int) -> dict[str, np.ndarray]:
            step, place = divmod(number, count)
            return self.batch(step, first + place, total)

        return StepDataset(element, specs, targets={name: tf.zeros(B) for name in outputs})


def check_pictures(split: Split, training: TrainingConfig) -> None:
    """UserError where a split cannot be trained on: fewer pictures than a batch, one alone, one without a caption."""
    images = len(split.image_ids)
    if images < training.batch_size:
        flag = f"--batch-size {training.batch_size}"
        raise UserError(f"{flag}: the {split.name} split has only {images} pictures; take a smaller batch")
    if images < 2:
        raise UserError(f"{split.corpus_name}: the {split.name} split has one picture; negatives need another")
    if len(lacking := np.setdiff1d(np.arange(images), split.image_of_caption)):
        name = split.image_ids[lacking[0]]
        raise UserError(f"{split.corpus_name}: picture {name} of split {split.name} has no caption; remove it")
