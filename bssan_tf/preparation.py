"""From a DataConfig to what training and evaluation need: the corpus, its features, the tokenizer.

Extraction happens here, on first use; later calls open what the cache holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.config import Config, DataConfig
from bssan_tf.datasets import load_corpus
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.pipeline import needed_features
from bssan_tf.runs import RunFolder

FEATURE_KEYS = ("extractor", "weights_sha256", "boxes")  # None for imported arrays

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """A corpus and its features; row i of the features belongs to picture i of the corpus."""

    corpus: Corpus
    features: Features

    def split(self, name: str) -> Split:
        """A split without the pictures that could not be read; UserError if there is no such split."""
        return self.corpus.split(name).without_rows(self.features.bad_rows)


def resolve(data: DataConfig) -> DataConfig:
    """Fill in what depends on the data set: backbone and source of the objects."""
    scenes = data.data == "scenes"
    backbone = data.backbone or ("slim" if scenes else "vgg19")
    objects = data.objects or ("boxes" if data.boxes or scenes else "grid")
    if objects == "boxes" and not (data.boxes or scenes):
        raise UserError("--objects boxes: no boxes given; add --boxes FILE.npz, or use --objects grid")
    return dataclasses.replace(data, backbone=backbone, objects=objects)


def open_data(data: DataConfig, progress: bool = True) -> Data:
    """Load the corpus, and extract or open its features.

    Raises:
        UserError: for absent or wrong files, flags that do not fit, unreadable pictures.
    """
    data = resolve(data)
    imported = bool(data.import_regions or data.import_objects)
    corpus = load_corpus(
        data.data,
        root=Path(data.root) if data.root else None,
        split_lists=data.split,
        allow_partial=data.allow_partial,
        cache=Path(data.cache),
        need_images=not imported,
    )
    if imported:
        from bssan_tf.features.imported import import_features

        features = import_features(
            corpus.image_ids,
            regions=data.import_regions and Path(data.import_regions),
            objects=data.import_objects and Path(data.import_objects),
            ids=data.import_ids and Path(data.import_ids),
        )
        return Data(corpus, features)
    return Data(corpus, _extracted(corpus, data, progress))


def fingerprint(data: Data) -> dict:
    """What a run's numbers depend on of its data: captions, splits and features, as JSON values."""
    corpus, features = data.corpus, data.features
    said = "\n".join(f"{corpus.image_ids[i]}\t{text}" for i, text in zip(corpus.image_of_caption, corpus.captions))
    splits = {name: [corpus.image_ids[i] for i in rows] for name, rows in corpus.splits.items()}
    arrays = {name: getattr(features, name) for name in ("regions", "objects")}
    return {
        "captions_sha256": hashlib.sha256(said.encode()).hexdigest(),
        "splits_sha256": hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest(),
        "shapes": {name: list(array.shape) for name, array in arrays.items() if array is not None},
        **{key: features.manifest.get(key) for key in FEATURE_KEYS},
    }


def extractor_of(run: RunFolder, data: DataConfig):
    """The extractor that a run was trained with, for new photos.

    Raises:
        UserError: its weights are others now, or the run was trained on imported arrays.
    """
    if data.import_regions or data.import_objects:
        raise UserError(f"{run.path}: was trained on imported arrays, so there is no extractor for new photos")
    extractor = build_extractor(data)
    made_with = {"extractor": extractor.name, "weights_sha256": extractor.weights_sha256}
    run.require_same_data(made_with, tuple(made_with))
    return extractor


def build_extractor(data: DataConfig):
    """The extractor that a DataConfig names."""
    from bssan_tf.features.regions import Extractor

    data = resolve(data)
    return Extractor(data.backbone, Path(data.backbone_weights) if data.backbone_weights else None)


def boxes_of(corpus: Corpus, data: DataConfig) -> Path | str:
    """Where the objects' boxes come from: a file, or `grid`."""
    data = resolve(data)
    if data.objects == "grid":
        return "grid"
    return Path(data.boxes) if data.boxes else corpus.boxes_file


def _extracted(corpus: Corpus, data: DataConfig, progress: bool) -> Features:
    from bssan_tf.features.extraction import extract_features

    extractor = build_extractor(data)
    boxes = boxes_of(corpus, data)
    if boxes == "grid":
        logger.info("objects: ten fixed boxes, a stand-in for a detector's; --boxes FILE.npz gives real ones")
    name = f"{extractor.name}-{'grid' if boxes == 'grid' else Path(boxes).stem}"
    folder = Path(data.cache) / corpus.cache_key / name
    return extract_features(
        corpus, folder, extractor, boxes=boxes, skip_bad_images=data.skip_bad_images, progress=progress
    )


def fit_config(config: Config, features: Features, glove_size: int) -> Config:
    """The config with the sizes that data decide: D, M, P, Q and the word vectors'.

    Without a GloVe file the words' vectors are learned: `E_trained` numbers each, 300 if the preset has none.
    """
    values = {"E_glove": glove_size}
    if not glove_size and not config.model.E_trained:
        values["E_trained"] = 300
    needed = needed_features(config.model.variant)
    for name, sizes in (("regions", ("D", "M")), ("objects", ("P", "Q"))):
        array = getattr(features, name)
        if array is not None:
            values |= dict(zip(sizes, array.shape[1:]))
        elif name in needed:
            raise UserError(
                f"--variant {config.model.variant}: needs {name}, and none were imported; "
                f"add --import-{name} FILE.npy or choose another variant"
            )
    return config.replace(**values)
