"""From a DataConfig to what training and evaluation need: the corpus, its features, the tokenizer.

Extraction happens here, on first use; later calls open what the cache holds.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.config.fields import hub_preset
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import load_corpus
from bssan_tf.datasets.corpus import Corpus, Split
from bssan_tf.errors import UserError
from bssan_tf.features.context import NO_CONTEXT, with_context
from bssan_tf.features.store import Features
from bssan_tf.runs.folder import WORDS_WITHOUT_GLOVE, RunFolder
from bssan_tf.runs.sources import build_detector, build_extractor, extractor_of, objects_from, store_name
from bssan_tf.tools.files import file_sha256

FEATURE_KEYS = ("extractor", "weights_sha256", "boxes", "labels")  # what extracted features were made with
OF_BOXES = ("boxes", "labels")  # those that say which objects
SIZES = {"regions": "DM", "objects": "PQ"}  # fields of ModelConfig that have the arrays' shapes (N, D, M) and (N, P, Q)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """A corpus and its features; row i of the features belongs to picture i of the corpus."""

    corpus: Corpus
    features: Features

    def split(self, name: str) -> Split:
        """A split without the pictures that could not be read; UserError if there is no such split."""
        return self.corpus.split(name).without_rows(self.features.bad_rows)

    @property
    def imported_rows(self) -> str:
        """Which row of each imported array a picture has, as CSV; nothing where features were extracted."""
        rows, text = self.features.manifest.get("rows", {}), io.StringIO()
        if rows:
            csv.writer(text).writerows([("image", *rows), *zip(self.corpus.image_ids, *rows.values())])
        return text.getvalue()

    @functools.cached_property
    def fingerprint(self) -> dict:
        """What a run's results depend on: captions, splits and features, as JSON values; not where they lie."""
        from bssan_tf.features.imported import content_sha256

        corpus, features = self.corpus, self.features
        said = "\n".join(f"{corpus.image_ids[i]}\t{text}" for i, text in zip(corpus.image_of_caption, corpus.captions))
        splits = {name: [corpus.image_ids[i] for i in rows] for name, rows in corpus.splits.items()}
        arrays = {name: getattr(features, name) for name in SIZES}
        files = features.manifest.get("files", {})
        return {
            "captions_sha256": hashlib.sha256(said.encode()).hexdigest(),
            "splits_sha256": hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest(),
            "shapes": {name: list(array.shape) for name, array in arrays.items() if array is not None},
            **{key: features.manifest.get(key) for key in FEATURE_KEYS},
            "imported_sha256": {
                **{name: content_sha256(path) for name, path in files.items() if path},
                **features.manifest.get("order", {}),
            },
        }


def open_data(
    data: DataConfig,
    progress: bool = True,
    check: Callable[[Corpus], None] | None = None,
    run: RunFolder | None = None,
) -> Data:
    """Load the corpus of resolved settings, `check` it, and extract its features, which may take hours, or open them.

    The data of a trained `run` are opened without the backbone's weights, where no photo is new.

    Raises:
        UserError: for absent or wrong files, flags that do not fit, unreadable pictures; as `check`.
    """
    _require_backbone(data)
    corpus = corpus_of(data, progress)
    if check:
        check(corpus)
    if data.import_regions or data.import_objects:
        from bssan_tf.features.imported import import_features

        if data.object_context:
            raise UserError(NO_CONTEXT)
        given = {name: getattr(data, f"import_{name}") for name in ("regions", "objects", "ids")}
        files = {name: Path(path) for name, path in given.items() if path}
        if not (corpus.one_file or data.import_ids or data.imported_order != "file"):
            problem = "captions come from several files, so that the order of the rows is not sure"
            raise UserError(f"--data {data.data}: {problem}; say by --import-ids FILE.txt which row is which image")
        listed = corpus.file_ids if data.imported_order == "file" else ()  # earlier runs had the splits' order
        return Data(corpus, import_features(corpus.image_ids, **files, file_ids=listed))
    from bssan_tf.features.extraction import extract_features

    extractor, boxes, folder = _sources(corpus, data, run)
    features = extract_features(
        corpus, folder, extractor, boxes=boxes, skip_bad_images=data.skip_bad_images, progress=progress,
        verify=data.verify, check_photos=data.check_photos, engine=data.engine,
    )  # fmt: skip
    return Data(corpus, with_context(features, shares=data.object_shares) if data.object_context else features)


def data_of_run(run: RunFolder, config: Config, progress: bool = True) -> Data:
    """The data that a run was trained on; `config` is the run's, its files where they are now.

    Where its objects are "grid" and the run's are others, the photos have the fixed boxes, computed from the regions
    beside the run's own boxes; without the file of these the photos are extracted with the fixed ones.

    Raises:
        UserError: as `open_data`; features that the model needs are absent or have other sizes; data have changed, of
            which the boxes file is told before anything is extracted.
    """
    own, objects, file = run.load_config().resolved().data, config.data.objects, config.data.boxes
    fixed = objects == "grid" and own.objects != "grid"
    if objects != own.objects and not fixed:
        if not (hub_preset(objects) and hub_preset(own.objects)):
            given = f"--boxes {file}" if file else f"--objects {objects}"
            problem = f"the run's own photos have objects of {own.objects}"
            raise UserError(f"{given}: {problem}; leave it out, or give other photos")
        run.require_same_data({"boxes": build_detector(config.data).name})  # a folder that has moved
    if file and objects == "boxes" and not (config.data.import_regions or config.data.import_objects):
        if not Path(file).exists():
            problem = f"the boxes of its photos, {file}, are not here"
            raise UserError(f"{run.path}: {problem}; give --boxes FILE.npz, or --objects grid")
        run.require_same_data({"boxes": file_sha256(file)})
    data = _fixed_data(run, config, own, progress) if fixed else open_data(config.data, progress, run=run)
    for name in config.model.needed_features:
        array = getattr(data.features, name)
        if array is None:
            needed = f"the run is of variant {config.model.variant}, which needs them, and none were imported"
            raise UserError(f"{name}: {needed}; add --import-{name} FILE.npy")
        trained = tuple(getattr(config.model, letter) for letter in SIZES[name])
        if array.shape[2] != trained[1]:
            differ = f"{name} of the data are {array.shape[1:]}, the run was trained on {trained}"
            raise UserError(f"{differ}; give the features that it was trained with")
    told = data.fingerprint.items()
    run.require_same_data({key: value for key, value in told if not (fixed and key in OF_BOXES)})
    return data


def _fixed_data(run: RunFolder, config: Config, own: DataConfig, progress: bool) -> Data:
    """A run's data with the fixed boxes for its `own` ones, beside which regions lie that need no detector."""
    from bssan_tf.features.fixed_boxes import with_fixed_boxes

    there = own.objects == "boxes" and (own.boxes is None or is_boxes_of(run, own.boxes))  # None: scenes bring theirs
    told = "" if there else f"; the photos are extracted for them, without {own.boxes or own.objects}"
    logger.info("objects: the ten fixed boxes in place of the run's own%s", told)
    kept = {"objects": own.objects, "boxes": own.boxes} if there else {}
    data = open_data(dataclasses.replace(config.data, **kept), progress, run=run)
    return dataclasses.replace(data, features=with_fixed_boxes(data.features, config.model.Q))


def is_boxes_of(run: RunFolder, file: str | Path) -> bool:
    """Whether a file is there, and the one of boxes that the run was trained with; another may have its name."""
    return Path(file).exists() and file_sha256(file) == run.trained_data().get("boxes")


def corpus_of(data: DataConfig, progress: bool = True) -> Corpus:
    """The corpus of data settings; UserError as `load_corpus`."""
    return load_corpus(
        data.data,
        root=Path(data.root) if data.root else None,
        split_lists=data.split,
        allow_partial=data.allow_partial,
        cache=Path(data.cache),
        need_images=not (data.import_regions or data.import_objects),
        progress=progress,
        word_rule=data.word_rule,
    )


def _require_backbone(data: DataConfig) -> None:
    """UserError for a backbone that isn't known, before the corpus takes its time."""
    from bssan_tf.features.regions import find_backbone

    if data.backbone and not (data.import_regions or data.import_objects):
        find_backbone(data.backbone)


def extract_part(data: DataConfig, shard: str, progress: bool = True) -> int:
    """Extract the part that `--shard` names: how many pictures it has. UserError as `open_data`, or for a bad shard."""
    from bssan_tf.features.extraction import extract_shard
    from bssan_tf.features.shards import Shard

    part = Shard.parse(shard)
    if data.engine:
        raise UserError(f"--shard {shard}: --engine {data.engine} divides the work itself; leave one out")
    if data.import_regions or data.import_objects:
        raise UserError(f"--shard {shard}: imported arrays need no extraction; leave it out")
    _require_backbone(data)
    corpus = corpus_of(data, progress)
    extractor, boxes, folder = _sources(corpus, data)
    return extract_shard(corpus, folder, extractor, part, boxes=boxes, progress=progress)


def _sources(corpus: Corpus, data: DataConfig, run: RunFolder | None = None):
    """Extractor, which is that of a run where one is given, source of objects and store of a corpus."""
    boxes = objects_from(data, corpus.boxes_file)

    def store_of(name: str) -> Path:
        return Path(data.cache) / corpus.cache_key / store_name(name, boxes)

    extractor = extractor_of(run, data, store_of) if run else build_extractor(data)
    return extractor, boxes, store_of(extractor.name)


def fit_config(config: Config, features: Features, glove_size: int) -> Config:
    """The config with the sizes that data decide: D, M, P, Q and the word vectors'.

    Without a GloVe file the words' vectors are learned: of `E_trained` dimensions, or WORDS_WITHOUT_GLOVE.
    """
    values = {"E_glove": glove_size}
    if not glove_size and not config.model.E_trained:
        values["E_trained"] = WORDS_WITHOUT_GLOVE
    for name, sizes in SIZES.items():
        if (array := getattr(features, name)) is not None:
            values |= dict(zip(sizes, array.shape[1:]))
        elif name in config.model.needed_features:
            needed = f"--variant {config.model.variant}: needs {name}, and none were imported"
            raise UserError(f"{needed}; add --import-{name} FILE.npy or choose another variant")
    return config.replace(**values)
