"""From a DataConfig to what training and evaluation need: the corpus, its features, the tokenizer.

Extraction happens here, on first use; later calls open what the cache holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from bssan_tf.config.schema import Config, DataConfig, flag_of
from bssan_tf.datasets import load_corpus
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.errors import UserError
from bssan_tf.features.context import NO_CONTEXT, RunContext, with_context
from bssan_tf.features.store import Features, needed_features
from bssan_tf.runs.folder import RunFolder

FEATURE_KEYS = ("extractor", "weights_sha256", "boxes", "labels")  # what extracted features were made with

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
    detected = "faster_rcnn" if data.detector_weights or scenes else "grid"
    objects = data.objects or ("boxes" if data.boxes else detected)
    if objects == "boxes" and not (data.boxes or scenes):
        raise UserError("--objects boxes: no boxes given; add --boxes FILE.npz, or use --objects grid")
    if objects == "faster_rcnn" and not (data.detector_weights or scenes):
        raise UserError(
            "--objects faster_rcnn: no weights given; import the public checkpoint or train a detector, and name its"
            " file by --detector-weights FILE, or give the boxes of any detector by --boxes FILE.npz"
        )
    for name, wanted in (("detector_weights", "faster_rcnn"), ("boxes", "boxes")):
        if getattr(data, name) and objects != wanted:
            raise UserError(
                f"{flag_of(name)} {getattr(data, name)}: is not used with --objects {objects}; leave it out"
            )
    return dataclasses.replace(data, backbone=backbone, objects=objects)


def open_data(data: DataConfig, progress: bool = True, check: Callable[[Corpus], None] | None = None) -> Data:
    """Load the corpus, and extract or open its features.

    Args:
        check: called with the corpus before the features, which may take hours.

    Raises:
        UserError: for absent or wrong files, flags that do not fit, unreadable pictures; as `check`.
    """
    data = resolve(data)
    corpus = _corpus(data, progress)
    if check:
        check(corpus)
    if data.import_regions or data.import_objects:
        from bssan_tf.features.imported import import_features

        if data.object_context:
            raise UserError(NO_CONTEXT)
        features = import_features(
            corpus.image_ids,
            regions=data.import_regions and Path(data.import_regions),
            objects=data.import_objects and Path(data.import_objects),
            ids=data.import_ids and Path(data.import_ids),
        )
        return Data(corpus, features)
    features = _extracted(corpus, data, progress)
    return Data(corpus, with_context(features) if data.object_context else features)


def run_context(run: RunFolder, config: Config) -> RunContext | None:
    """How photos of no corpus get the context that a run's objects have beside them; None where they have none."""
    return RunContext(config.model.Q, run.trained_data().get("labels")) if config.data.object_context else None


def _corpus(data: DataConfig, progress: bool) -> Corpus:
    return load_corpus(
        data.data,
        root=Path(data.root) if data.root else None,
        split_lists=data.split,
        allow_partial=data.allow_partial,
        cache=Path(data.cache),
        need_images=not (data.import_regions or data.import_objects),
        progress=progress,
    )


def fingerprint(data: Data) -> dict:
    """What a run's numbers depend on of its data: captions, splits and features, as JSON values; not where they lie."""
    from bssan_tf.features.imported import content_sha256

    corpus, features = data.corpus, data.features
    said = "\n".join(f"{corpus.image_ids[i]}\t{text}" for i, text in zip(corpus.image_of_caption, corpus.captions))
    splits = {name: [corpus.image_ids[i] for i in rows] for name, rows in corpus.splits.items()}
    arrays = {name: getattr(features, name) for name in ("regions", "objects")}
    files = features.manifest.get("files", {})
    return {
        "captions_sha256": hashlib.sha256(said.encode()).hexdigest(),
        "splits_sha256": hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest(),
        "shapes": {name: list(array.shape) for name, array in arrays.items() if array is not None},
        **{key: features.manifest.get(key) for key in FEATURE_KEYS},
        "imported_sha256": {name: content_sha256(path) for name, path in files.items() if path},
    }


def extractors_of(run: RunFolder, data: DataConfig):
    """The extractor that a run was trained with, for new photos, and its Faster R-CNN or None.

    Raises:
        UserError: their weights are others now, or the run was trained on imported arrays.
    """
    if data.import_regions or data.import_objects:
        raise UserError(f"{run.path}: was trained on imported arrays, so there is no extractor for new photos")
    extractor, detector = build_extractor(data), build_detector(data)
    made_with = {"extractor": extractor.name, "weights_sha256": extractor.weights_sha256}
    if detector:
        made_with["boxes"] = detector.name
    run.require_same_data(made_with, tuple(made_with))
    return extractor, detector


def build_extractor(data: DataConfig):
    """The extractor that a DataConfig names."""
    from bssan_tf.features.regions import Extractor

    data = resolve(data)
    return Extractor(data.backbone, Path(data.backbone_weights) if data.backbone_weights else None)


def build_detector(data: DataConfig):
    """The Faster R-CNN of a run whose objects are its detections, else None."""
    from bssan_tf.features.faster_rcnn.detector import Detector

    data = resolve(data)
    return Detector(data.detector_weights) if data.objects == "faster_rcnn" else None


def objects_from(data: DataConfig, scenes_boxes: Path | None = None):
    """Where objects come from: a Detector, a file of boxes, or "grid", which is said.

    Args:
        scenes_boxes: the boxes that scenes bring along.
    """
    boxes = build_detector(data)
    if boxes is None and resolve(data).objects == "boxes":
        boxes = data.boxes or scenes_boxes
    if boxes is None:
        logger.info(
            "objects: ten fixed boxes, a stand-in for a detector's; --detector-weights FILE or --boxes FILE.npz gives"
            " real ones"
        )
    return boxes or "grid"


def store_name(extractor, boxes) -> str:
    """The name of a store's folder, for these regions and objects."""
    from bssan_tf.features.faster_rcnn.detector import Detector

    source = boxes.store_name if isinstance(boxes, Detector) else Path(boxes).stem
    return f"{extractor.name}-{source}"


def photo_features(
    run: RunFolder, config: Config, folder: Path, paths: Sequence[Path], must_list: bool = False, progress: bool = True
) -> Features:
    """Features of photos of no corpus as the run's were made, kept in the cache; unreadable ones are left out with a
    warning.

    Args:
        config: the run's, its files where they are now.
        folder: what the photos are from; names the store.
        paths: the photos, row by row; their names differ.
        must_list: the boxes file, where objects come from one, was given for these photos. Else the ten fixed boxes
            take its place if it does not list all of them, which is said.

    Raises:
        UserError: as `extractors_of`, or a boxes file that does not list all of the photos and must.
    """
    from bssan_tf.features.extraction import extract_features

    ids, data = tuple(path.name for path in paths), config.data
    corpus = SimpleNamespace(name=folder.name, image_ids=ids, image_paths=tuple(paths))
    extractor, detector = extractors_of(run, data)
    boxes = detector or (objects_from(data) if must_list or _lists(data, ids) else "grid")
    # other pictures, another store: a picture that came or went would shift its rows
    key = hashlib.sha256("\n".join([str(folder.resolve()), *ids]).encode()).hexdigest()[:12]
    store = Path(data.cache) / f"photos-{folder.name}-{key}" / store_name(extractor, boxes)
    features = extract_features(corpus, store, extractor, boxes=boxes, skip_bad_images=True, progress=progress)
    context = run_context(run, config)
    return with_context(features, context) if context else features


def _lists(data: DataConfig, names: Sequence[str]) -> bool:
    """Whether the boxes file, if there is to be one, is there and lists all photos of these names; a word if not."""
    from bssan_tf.features.objects import BoxesFile

    if resolve(data).objects != "boxes" or not data.boxes:
        return True
    path = Path(data.boxes)
    if path.exists() and set(names) <= BoxesFile(path).row_of_name.keys():
        return True
    said = "objects: ten fixed boxes, as %s is not there or lacks some of these photos; --boxes FILE.npz gives theirs"
    logger.info(said, path)
    return False


def extract_part(data: DataConfig, shard: str, progress: bool = True) -> int:
    """Extract the part of the features that `--shard` names, while other processes extract theirs.

    Returns:
        Pictures of the part.

    Raises:
        UserError: as `open_data`, or a shard that cannot be.
    """
    from bssan_tf.features.extraction import extract_shard
    from bssan_tf.features.shards import Shard

    part = Shard.parse(shard)
    if data.import_regions or data.import_objects:
        raise UserError(f"--shard {shard}: imported arrays need no extraction; leave it out")
    corpus = _corpus(resolve(data), progress)
    extractor, boxes, folder = _sources(corpus, data)
    return extract_shard(corpus, folder, extractor, part, boxes=boxes, progress=progress)


def _extracted(corpus: Corpus, data: DataConfig, progress: bool) -> Features:
    from bssan_tf.features.extraction import extract_features

    extractor, boxes, folder = _sources(corpus, data)
    return extract_features(
        corpus, folder, extractor, boxes=boxes, skip_bad_images=data.skip_bad_images, progress=progress
    )


def _sources(corpus: Corpus, data: DataConfig):
    """Extractor, source of objects and store of a corpus."""
    extractor, boxes = build_extractor(data), objects_from(data, corpus.boxes_file)
    return extractor, boxes, Path(data.cache) / corpus.cache_key / store_name(extractor, boxes)


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
