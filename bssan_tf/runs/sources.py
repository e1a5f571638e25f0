"""What describes photos by a run's settings: its extractor, its detector or file of boxes, and their store's name."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bssan_tf.config.fields import HUB, hub_preset
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import SIDE
from bssan_tf.features.store import read_manifest
from bssan_tf.runs.folder import ANY, RunFolder

if TYPE_CHECKING:
    from bssan_tf.features.regions import Extractor

NAMELESS = "put class_names.txt, one name a line, beside the preset's files, or take --no-object-context"
NOT_IN_NAMES = re.compile(r"[^\w.-]+")  # in those of folders

logger = logging.getLogger(__name__)


class StoredExtractor:
    """Stands in for the `Extractor` that a store was made with, whose attributes it has.

    Args:
        manifest: of the store.
        find: opens the extractor; it is called once, when a picture is to be described.
    """

    def __init__(self, manifest: Mapping, find: Callable[[], Extractor]):
        self.name, self.layer, self.weights_sha256 = (
            manifest.get(key) for key in ("extractor", "layer", "weights_sha256")
        )
        self.grid = tuple(manifest.get("grid") or ())
        self.region_shape = tuple(manifest["arrays"]["regions"]["shape"][1:])
        self._find, self._lock = find, threading.Lock()

    def __reduce__(self):
        return self._network.__reduce__()

    @property
    def side(self) -> int:
        """Of the pictures that it takes, in pixels; only a preset of KerasHub may have another than the usual."""
        return self._network.side if (self.name or "").startswith(HUB) else SIDE

    @property
    def model(self):
        """As of `Extractor`; UserError where its weights are absent, or not those of the store."""
        return self._network.model

    def describe(self, *given):
        """As of `Extractor`; UserError as `model`."""
        return self._network.describe(*given)

    @property
    def _network(self) -> Extractor:
        with self._lock:  # pictures are decoded in threads
            return self._opened

    @functools.cached_property
    def _opened(self) -> Extractor:
        found = self._find()
        for what in ("name", "layer", "weights_sha256", "grid", "region_shape"):
            if (now := getattr(found, what)) != (then := getattr(self, what)):
                problem = f"the features of known photos were made with {what} {then}, not {now}"
                raise UserError(f"{self.name}: {problem}; give those by --backbone-weights, or another --cache")
        return found


def build_extractor(data: DataConfig):
    """The extractor that resolved settings name."""
    from bssan_tf.features.regions import Extractor

    if data.backbone is None or data.objects is None:
        raise ValueError("data settings are not resolved; take those of Config.resolved()")
    return Extractor(data.backbone, Path(data.backbone_weights) if data.backbone_weights else None)


def extractor_of(run: RunFolder, data: DataConfig, store_of: Callable[[str], Path] | None = None):
    """The extractor of a run; UserError if its weights are others now than in the training, or arrays were imported.

    Where `store_of` gives, for the extractor's name, a store of the run's own extractor, and no weights are given now,
    they are only looked for when a picture is to be described.
    """
    require_extracted(run, data)

    def find():
        extractor = build_extractor(data)
        run.require_same_data({"extractor": extractor.name, "weights_sha256": extractor.weights_sha256})
        return extractor

    trained = run.trained_data()
    given = data.backbone_weights not in (None, run.load_config().data.backbone_weights)
    known = store_of and not given and trained.get("extractor")
    manifest = read_manifest(store_of(trained["extractor"])) if known else None
    of_run = manifest and "regions" in manifest["arrays"] and manifest.get("extractor") == trained["extractor"]
    if of_run and trained.get("weights_sha256") in (ANY, manifest.get("weights_sha256")):
        return StoredExtractor(manifest, find)
    return find()


def require_extracted(run: RunFolder, data: DataConfig) -> None:
    """UserError for a run on imported arrays."""
    if data.import_regions or data.import_objects:
        raise UserError(f"{run.path}: was trained on imported arrays, so there is no extractor for new photos")


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
