"""What a training is measured on, and what would else stop it only after hours of extraction."""

from __future__ import annotations

from pathlib import Path

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import TrainingConfig
from bssan_tf.datasets.caption_vectors import read_corpus
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.training.batches import check_pictures
from bssan_tf.training.cca_start import check_cca_start
from bssan_tf.training.early_signs import check_probe


def check_fixed_boxes(config: Config) -> None:
    """UserError where the fixed boxes of a `resolved` config can't stand in for its objects."""
    if config.training.fixed_boxes and (objects := config.data.objects) in ("grid", "faster_rcnn"):
        what = {"grid": "are the fixed boxes already", "faster_rcnn": "are described otherwise than boxes"}[objects]
        given = f"--fixed-boxes {config.training.fixed_boxes}"
        raise UserError(f"{given}: the objects of --objects {objects} {what}; leave it out, or give --boxes FILE.npz")


def check_corpus(corpus: Corpus, config: Config) -> None:
    """UserError for what would else stop a training only after hours of extraction."""
    check_pictures(corpus.split("train"), config.training)
    check_cca_start(config, len(corpus.split("train").image_ids))
    validation = validation_split(corpus, config.training)
    fit_tokenizer(corpus.split("train"), config).log_unread(corpus.split("val").captions, corpus.captions)
    if config.training.early_signs:
        check_probe(validation)
    if config.data.glove and not Path(config.data.glove).is_file():
        raise UserError(f"--glove {config.data.glove}: no such file; give a GloVe text file")
    if config.data.text_corpus:
        read_corpus(config.data.text_corpus)


def validation_split(corpus: Corpus, training: TrainingConfig) -> Split:
    """The pictures and captions that choose the best model: the val split, or a seeded part of it."""
    split = corpus.split("val")
    if training.validation_images:
        split = split.sample_images(training.validation_images, training.seed)
    if training.validation_captions:
        split = split.captions_per_image(training.validation_captions)
    return split


def fit_tokenizer(train: Split, config: Config) -> Tokenizer:
    """The tokenizer of the training captions, as the run's settings want it."""
    return Tokenizer.fit(train.captions, config.data.caption_length, config.data.word_rule)
