"""What describes photos by a run's settings: its extractor, its detector or file of boxes, and their store's name."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path

from bssan_tf.config.fields import hub_preset
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features.store import read_manifest
from bssan_tf.features.stored_extractor import StoredExtractor
from bssan_tf.runs.folder import ANY, RunFolder

NAMELESS = "put class_names.txt, one name a line, beside the preset's files, or take --no-object-context"
NOT_IN_NAMES = re.compile(r"[^\w.-]+")  # in those of folders

logger = logging.getLogger(__name__)


def build_extractor(data: DataConfig):
    """The extractor that resolved settings name."""
    from bssan_tf.features.regions import Extractor

    if data.backbone is None or data.objects is None:
        raise ValueError("data settings are not resolved; take those of Config.resolved()")
    return Extractor(data.backbone, Path(data.backbone_weights) if data.backbone_weights else None)


def extractor_of(run: RunFolder, data: DataConfig, store_of: Callable[[str], Path] | None = None):
    """The extractor of a run; UserError if its weights are others now than in the training, or arrays were imported.

    Where `store_of` gives, for the extractor's name, a store of the run's own extractor, its weights are only looked
    for when a picture is to be described.
    """
    if data.import_regions or data.import_objects:
        raise UserError(f"{run.path}: was trained on imported arrays, so there is no extractor for new photos")

    def find():
        extractor = build_extractor(data)
        run.require_same_data({"extractor": extractor.name, "weights_sha256": extractor.weights_sha256})
        return extractor

    trained = run.trained_data()
    manifest = read_manifest(store_of(trained["extractor"])) if store_of and trained.get("extractor") else None
    of_run = manifest and "regions" in manifest["arrays"] and manifest.get("extractor") == trained["extractor"]
    if of_run and trained.get("weights_sha256") in (ANY, manifest.get("weights_sha256")):
        return StoredExtractor(manifest, find)
    return find()


def build_detector(data: DataConfig):
    """The detector that looks at the photos, else None; UserError where classes are needed, and it can't name them."""
    if not data.detects:
        return None
    from bssan_tf.features.detectors import open_detector

    hub = hub_preset(data.objects)
    detector = open_detector(*((data.objects, "--objects") if hub else (data.detector_weights, "--detector-weights")))
    if data.object_context and detector.labels is None:
        problem = f"{hub} does not name its classes, which objects in context need"
        raise UserError(f"--objects {data.objects}: {problem}; {NAMELESS}")
    return detector


def detector_of(run: RunFolder, data: DataConfig):
    """The detector of a run's settings, or None.

    UserError if it differs from the training's; for one that the run was not trained with, if the run needs the names
    of its classes, but knows none.
    """
    detector = build_detector(data)
    if detector and data.objects == run.load_config().data.objects:
        run.require_same_data({"boxes": detector.name})
    elif detector and data.object_context and not run.trained_data().get("labels"):
        problem = "the run does not know its classes by name"
        raise UserError(f"--objects {data.objects}: {problem}; leave it out, or train with boxes that name them")
    return detector


def objects_from(data: DataConfig, scenes_boxes: Path | None = None):
    """Where objects come from: a detector, a file of boxes (scenes bring theirs along), or "grid", which is said."""
    boxes = build_detector(data) or (data.boxes or scenes_boxes if data.objects == "boxes" else None)
    if boxes is None:
        tell_fixed_boxes()
    return boxes or "grid"


@functools.cache
def tell_fixed_boxes() -> None:
    """Say, once a process, that the objects are ten fixed boxes."""
    real = "--objects keras_hub:PRESET, --detector-weights FILE or --boxes FILE.npz gives real ones"
    logger.info("objects: ten fixed boxes, a stand-in for a detector's; %s", real)


def store_name(extractor: str, boxes) -> str:
    """The name of a store's folder, for the regions of an extractor of this name and for these objects."""
    source = getattr(boxes, "store_name", None) or Path(boxes).stem
    return f"{NOT_IN_NAMES.sub('_', extractor)}-{source}"
