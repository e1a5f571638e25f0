"""MSCOCO: the official caption annotations of 2014 or 2017, and Karpathy's JSON.

In: the data set's folder; out: its `Corpus`, sizes asserted against the published ones. The official annotations have
no captioned test images, so val2014 or val2017 gives validation and test images in a seeded order. `read_instances`
reads the objects, which only detectors and pointing need.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bssan_tf.datasets import files
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

SEED = 0  # of the order in which val2014 (val2017) gives validation, then test images
VAL, TEST = 4_000, 1_000
ANNOTATED = {"2014": {"train": 82_783, "val": 40_504}, "2017": {"train": 118_287, "val": 5_000}}
KARPATHY_SIZES = {"train": 113_287, "val": 5_000, "test": 5_000}
PARTS = ("train2014", "val2014", "train2017", "val2017")
PHOTO_FOLDERS = (*PARTS, *(f"images/{part}" for part in PARTS), "images")
PHOTO_PLACE = "train2014/ and val2014/ (or train2017/ and val2017/; also inside images/)"
LAYOUT = (
    "expected are captions_train2014.json and captions_val2014.json (or those of 2017) in annotations/ "
    f"and the photos in {PHOTO_PLACE}, published at https://cocodataset.org/#download; with --split karpathy "
    f"dataset_coco.json in place of the annotations, published at {files.KARPATHY_URL}"
)


class PhotoObjects(NamedTuple):
    """What `instances_*.json` says of one photo."""

    size: tuple[int | None, int | None]  # width, height in pixels; None where the file does not say it
    objects: list[tuple[tuple[float, float, float, float], int, bool]]  # (x, y, width, height) in pixels, class, crowd


def load_coco(
    root: Path | None = None, split_lists: str = "official", allow_partial: bool = False, need_images: bool = True
) -> Corpus:
    """Loads MSCOCO. Photos are found by their COCO number, so that either year's files serve any lists.

    The `split_lists` "official" are train2014 (82,783) for training, 4,000 and 1,000 of val2014 for validation and test
    as in the paper; or those of 2017, where they are there instead: train2017 (118,287), and val2017 (5,000) divided in
    the same way. "karpathy": 113,287 (train, restval), 5,000, 5,000. Other arguments: see `load_corpus`. UserError if
    files are missing or malformed, or the sizes are not the published ones.
    """
    root = files.find_root("coco", root, LAYOUT)
    problems: list[str] = []
    json_file = files.first_file(root, *(f"{folder}dataset_coco.json" for folder in ("", "annotations/", "karpathy/")))
    if split_lists == "karpathy":
        if not json_file:
            raise UserError(f"coco: dataset_coco.json not found in {root}; {LAYOUT}")
        (splits, captions), published = files.read_karpathy(json_file), KARPATHY_SIZES
    else:
        annotations = {year: _annotation_files(root, year) for year in ANNOTATED}
        year = max(annotations, key=lambda year: len([*filter(None, annotations[year].values())]))  # a tie: 2014
        if not any(annotations[year].values()):
            hint = f"{json_file} is there: --split karpathy takes it; " if json_file else ""
            raise UserError(f"coco: no caption annotations found in {root}; {hint}{LAYOUT}")
        splits, captions = {}, {}
        for part, path in annotations[year].items():
            if path is None:
                problems.append(f"captions_{part}{year}.json is missing")
                continue
            found, count = read_annotations(path), ANNOTATED[year][part]
            captions.update(found)
            splits.update({"train": list(found)} if part == "train" else divide_val(list(found)))
            if part == "val" and len(found) != count:
                problems.append(f"{path.name} lists {len(found):,} images, published are {count:,}")
        published = {"train": ANNOTATED[year]["train"], "val": VAL, "test": TEST}
        split_lists = "official" if year == "2014" else year
        logger.info("coco: annotations of %s; val and test drawn from val%s with seed %d", year, year, SEED)

    photos, place = find_photos(root, captions), f"in {PHOTO_PLACE} of {root}"
    checks = {"published": published, "problems": problems, "allow_partial": allow_partial, "need_images": need_images}
    return assemble("coco", root, splits, captions, photos, place, **checks, split_lists=split_lists)


def read_annotations(path: Path) -> dict[str, list[str]]:
    """An official `captions_*.json` -> file name -> captions, both in the order of the file."""
    data = files.read_json(path)
    try:
        names = {image["id"]: str(image["file_name"]) for image in data["images"]}
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for index, annotation in enumerate(data["annotations"]):
            image, text = annotation["image_id"], files.clean_caption(annotation["caption"])
            if image not in names:
                raise UserError(f"{path}: annotations[{index}]: 'images' has no image {image}; correct it")
            captions[names[image]].append(text)
    except (KeyError, TypeError, AttributeError) as error:
        raise _wrong_file(path, "caption annotations", error) from None
    return captions


def read_instances(path: Path) -> tuple[tuple[str, ...], dict[str, PhotoObjects]]:
    """An official `instances_*.json` (else UserError) -> class names by COCO's number, and file name -> its objects."""
    data = files.read_json(path)
    try:
        categories = sorted(data["categories"], key=lambda category: category["id"])
        class_of = {category["id"]: index for index, category in enumerate(categories)}
        labels = tuple(str(category["name"]) for category in categories)
        found = {image["id"]: PhotoObjects((image.get("width"), image.get("height")), []) for image in data["images"]}
        for one in data["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            kind, crowd = class_of[one["category_id"]], bool(one.get("iscrowd"))
            found[one["image_id"]].objects.append(((x, y, width, height), kind, crowd))
        return labels, {str(image["file_name"]): found[image["id"]] for image in data["images"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _wrong_file(path, "instances", error) from None


def _wrong_file(path: Path, expected: str, error: Exception) -> UserError:
    return UserError(f"{path}: not COCO's {expected} ({type(error).__name__}: {error}); is it the right file?")


def find_photos(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """File name -> photo of those names whose COCO number a photo in one of `PHOTO_FOLDERS` has."""
    by_number = {_number(name): path for name, path in files.list_photos(root / f for f in PHOTO_FOLDERS).items()}
    return {name: by_number[_number(name)] for name in names if _number(name) in by_number}


def divide_val(names: list[str]) -> dict[str, list[str]]:
    """Validation and test images out of the official val images: 4,000 and 1,000; 4/5 and 1/5 of fewer."""
    order = files.seeded_order(names, SEED)[: VAL + TEST]
    n_val = len(order) * VAL // (VAL + TEST)
    return {"val": order[:n_val], "test": order[n_val:]}


def _annotation_files(root: Path, year: str) -> dict[str, Path | None]:
    names = {part: f"captions_{part}{year}.json" for part in ANNOTATED[year]}
    return {part: files.first_file(root, f"annotations/{name}", name) for part, name in names.items()}


def _number(name: str) -> str:
    """COCO's number of a photo, the same in `COCO_val2014_000000000042.jpg` and `000000000042.jpg` (2017)."""
    return name.rpartition("_")[2]
