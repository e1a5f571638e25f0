"""`scenes`, the embedded default data set: drawn pictures, five captions each, and full ground truth.

In: a folder, a seed, the size of each split. Out: a `Corpus` whose `grounding` says where each object is and which word
names it. The folder holds images/*.jpg, captions.csv (image, caption, split), truth.json, boxes.npz (as a detector
would write it) and, written last, manifest.json. A picture's name ends in a digest of its plan: so pictures that a
killed run left are used again, and other scenes never pass for these, neither here nor in a feature store.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.datasets.corpus import SPLITS, Corpus, Grounding
from bssan_tf.datasets.scene_captions import write_captions
from bssan_tf.datasets.scene_pictures import SHAPES, SIDE, Scene, detected_boxes, plan_scene, scene_jpeg
from bssan_tf.errors import UserError
from bssan_tf.reading.documents import read_json
from bssan_tf.tools.files import write_bytes, write_json, write_text

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same seed gives other pictures, captions or boxes
DEFAULT_SIZES = {"train": 1200, "val": 200, "test": 200}
MOST_SCENES = 50_000  # more could not all differ from each other

_ANEW = "it is written anew"
_NAME = re.compile(r"(train|val|test)_\d{5}_[0-9a-f]{8}\.jpg")


def boxes_file(folder: Path) -> Path:
    """Where the boxes of the scenes in `folder` lie, as a detector would write them."""
    return Path(folder) / "boxes.npz"


def load_scenes(folder: Path, seed: int = 0, sizes: Mapping[str, int] | None = None, progress: bool = True) -> Corpus:
    """The scenes of `seed`, drawn into `folder` unless they are there already, in the order train, val, test.

    UserError for bad sizes or a bad seed, and if the folder cannot be written.

    Args:
        folder: where the pictures and their truth lie; made if need be. Other scenes in it are drawn over.
        seed: 0 or more; the same seed and sizes give the same bytes, whatever interrupted the drawing.
        sizes: pictures of "train", "val" and "test", 1 or more each; default `DEFAULT_SIZES`. Test and val do not
            depend on the size of train.
    """
    folder = Path(folder)
    wanted = _manifest(seed, DEFAULT_SIZES if sizes is None else sizes)
    try:
        found = _read_manifest(folder)
        corpus = _read(folder) if found == wanted else None
        if corpus is None:
            if found is not None:
                there, drawn = (json.dumps(manifest).replace('"', "") for manifest in (found, wanted))
                reason = "lacks files" if found == wanted else f"holds other scenes ({there})"
                logger.info("scenes: %s %s; drawing %s", folder, reason, drawn)
            _write(folder, wanted, progress)
            corpus = _read(folder)
    except OSError as error:
        problem = f"scenes: cannot write the pictures to {folder} ({error})"
        raise UserError(f"{problem}; name another folder by --cache") from error
    if corpus is None:
        raise UserError(f"scenes: {folder} changes while it is read; let only one program write to it")
    return corpus


def plan_corpus(seed: int, sizes: Mapping[str, int]) -> dict[str, list[Scene]]:
    """All scenes of a corpus by split; no two show the same (colour, shape) pairs."""
    taken: set[frozenset] = set()
    plans: dict[str, list[Scene]] = {split: [] for split in SPLITS}
    for split in ("test", "val", "train"):  # so that a smaller train split leaves the others as they are
        for number in range(sizes[split]):
            scene = plan_scene((seed, SPLITS.index(split), number), taken)
            taken.add(scene.key)
            plans[split].append(scene)
    return plans


def _manifest(seed: int, sizes: Mapping[str, int]) -> dict:
    """What decides the content of a folder; checks the values a user may choose."""
    if not _whole(seed, 0):
        raise UserError(f"scenes: seed is {seed!r}; give a whole number of 0 or more")
    if set(sizes) != set(SPLITS):
        raise UserError(f"scenes: sizes are given for {sorted(sizes)}; give them for train, val and test")
    for split in SPLITS:
        if not _whole(sizes[split], 1):
            raise UserError(f"scenes: size of {split} is {sizes[split]!r}; give a whole number of 1 or more")
    if sum(sizes.values()) > MOST_SCENES:
        raise UserError(f"scenes: {sum(sizes.values())} pictures asked for; at most {MOST_SCENES} in all can differ")
    return {"version": VERSION, "seed": int(seed), "sizes": {split: int(sizes[split]) for split in SPLITS}}


def _whole(value: object, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def _read_manifest(folder: Path) -> dict | None:
    try:
        return read_json(folder / "manifest.json", _ANEW)
    except UserError:
        return None


def _write(folder: Path, manifest: dict, progress: bool) -> None:
    """Draw what is not there yet, then write captions, truth, boxes and, last of all, the manifest."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    plans = [
        (f"{split}_{number:05d}_{_digest(scene)}.jpg", split, scene)
        for split, scenes in plan_corpus(manifest["seed"], manifest["sizes"]).items()
        for number, scene in enumerate(scenes)
    ]
    present = set(os.listdir(images))
    lacking = [(name, scene) for name, _, scene in plans if name not in present]
    for name, scene in tqdm(lacking, desc="scenes: drawing", unit="picture", disable=not progress):
        write_bytes(images / name, scene_jpeg(scene))

    rows, truth = io.StringIO(newline=""), []
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(("image", "caption", "split"))
    for name, split, scene in plans:
        captions = write_captions(scene)
        table.writerows((f"images/{name}", caption.text, split) for caption in captions)
        labels = [thing.label for thing in scene.things]
        boxes = [[round(edge / SIDE, 6) for edge in thing.box] for thing in scene.things]
        named = [caption.named for caption in captions]
        truth.append({"image": name, "labels": labels, "boxes": boxes, "named": named})
    names, boxes = [name for name, _, _ in plans], [detected_boxes(scene) for _, _, scene in plans]
    archive = io.BytesIO()
    np.savez(archive, names=np.array(names), boxes=np.stack(boxes), labels=np.array(SHAPES))
    write_text(folder / "captions.csv", rows.getvalue())
    write_text(folder / "truth.json", json.dumps(truth))
    write_bytes(boxes_file(folder), archive.getvalue())
    write_json(folder / "manifest.json", manifest)
    _tidy(folder, set(names))


def _tidy(folder: Path, names: set[str]) -> None:
    """Remove pictures of other scenes, and what killed runs left half-written (not what is written now)."""
    for path in (*folder.iterdir(), *(folder / "images").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            half_written = path.name.endswith(".part") and time.time() - path.stat().st_mtime > 3600
            if half_written or (_NAME.fullmatch(path.name) and path.name not in names):
                path.unlink()


def _read(folder: Path) -> Corpus | None:
    """The corpus that lies in a finished folder, or None where a file is missing or broken."""
    try:
        truth = read_json(folder / "truth.json", _ANEW, list)
        with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = tuple(image["image"] for image in truth)
        if not {*names}.issubset(os.listdir(folder / "images")) or not boxes_file(folder).is_file():
            return None
        number_of = {f"images/{name}": number for number, name in enumerate(names)}
        owners = np.array([number_of[row["image"]] for row in rows], np.int64)  # (N_c,)
        split_of_row = np.array([row["split"] for row in rows])  # (N_c,)
        boxes = tuple(np.array(image["boxes"], np.float32) for image in truth)
        labels = tuple(tuple(image["labels"]) for image in truth)
        named = tuple(tuple(map(tuple, pairs)) for image in truth for pairs in image["named"])
        return Corpus(
            name="scenes",
            image_ids=names,
            image_paths=tuple(folder / "images" / name for name in names),
            captions=tuple(row["caption"] for row in rows),
            image_of_caption=owners,
            splits={split: np.unique(owners[split_of_row == split]) for split in SPLITS},
            grounding=Grounding(boxes, labels, named),
            boxes_file=boxes_file(folder),
            official=False,
            split_lists="own",
        )
    except (UserError, FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _digest(scene: Scene) -> str:
    """Eight hex digits that stand for a plan and for the version of the code that draws it."""
    return hashlib.sha256(f"{VERSION} {scene!r}".encode()).hexdigest()[:8]
