"""MSCOCO: the official caption annotations of 2014 or 2017, and Karpathy's JSON.

In: the data set's folder; out: its `Corpus`, sizes asserted against the published ones. The official annotations have
no captioned test images, so val2014 or val2017 gives validation and test images in a seeded order. `read_instances`
reads the objects, which only detectors and pointing need.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bssan_tf.datasets import files
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.caption_files import Captions, read_karpathy
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.datasets.photos import PhotoFolders
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

SEED = 0  # of the order in which val2014 (val2017) gives validation, then test images
VAL, TEST = 4_000, 1_000
ANNOTATED = {"2014": {"train": 82_783, "val": 40_504}, "2017": {"train": 118_287, "val": 5_000}}
KARPATHY_SIZES = {"train": 113_287, "val": 5_000, "test": 5_000}
PARTS = ("train2014", "val2014", "train2017", "val2017")
_FOLDERS = (*PARTS, "train", "val", "test")
PHOTO_FOLDERS = (*_FOLDERS, *(f"images/{folder}" for folder in _FOLDERS), "images")
_NUMBERED = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg", re.IGNORECASE)
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
    root: Path | None = None,
    split_lists: str = "auto",
    allow_partial: bool = False,
    need_images: bool = True,
    word_rule: str = "unicode",
) -> Corpus:
    """Loads MSCOCO. Photos are found by their name, else by their COCO number: either year's files serve any lists.

    The `split_lists` "official" are train2014 (82,783) for training, 4,000 and 1,000 of val2014 for validation and test
    as in the paper; or those of 2017, where they are there instead: train2017 (118,287), and val2017 (5,000) divided in
    the same way. "karpathy": 113,287 (train, restval), 5,000, 5,000. "auto": what is there, the official ones first.
    Other arguments: see `load_corpus`. UserError if files are missing or malformed, or the sizes are not the published
    ones.
    """
    root = files.find_root("coco", root, LAYOUT)
    json_file = files.first_file(root, *(f"{folder}dataset_coco.json" for folder in ("", "annotations/", "karpathy/")))
    annotations = {year: _annotation_files(root, year) for year in ANNOTATED}
    year = max(annotations, key=lambda year: len([*filter(None, annotations[year].values())]))  # a tie: 2014
    official = any(annotations[year].values())
    if split_lists == "auto":
        split_lists = "karpathy" if json_file and not official else "official"
    if split_lists == "karpathy":
        if not json_file:
            raise UserError(f"coco: dataset_coco.json not found in {root}; {LAYOUT}")
        found, published, problems = read_karpathy(json_file), KARPATHY_SIZES, []
    else:
        if not official:
            hint = f"{json_file} is there: --split karpathy takes it; " if json_file else ""
            raise UserError(f"coco: no caption annotations found in {root}; {hint}{LAYOUT}")
        found, problems = _read_official(annotations[year], year)
        published = {"train": ANNOTATED[year]["train"], "val": VAL, "test": TEST}
        split_lists = "official" if year == "2014" else year
        logger.info("coco: annotations of %s; val and test drawn from val%s with seed %d", year, year, SEED)
    return assemble(
        "coco",
        root,
        found.splits,
        found.captions,
        PhotoFolders(root, PHOTO_FOLDERS).find(found.captions, found.folders, coco_number) if need_images else {},
        f"in {PHOTO_PLACE} of {root}",
        published=published,
        problems=problems,
        allow_partial=allow_partial,
        need_images=need_images,
        split_lists=split_lists,
        one_file=split_lists == "karpathy" or len([*filter(None, annotations[year].values())]) == 1,
        source=found.format,
        word_rule=word_rule,
        numbers=found.numbers,
    )


def _read_official(paths: dict[str, Path | None], year: str) -> tuple[Captions, list[str]]:
    """The annotations of a year, and what they lack; names that both parts have get their part's folder."""
    parts = {part: read_annotations(path) for part, path in paths.items() if path}
    problems = [f"captions_{part}{year}.json is missing" for part, path in paths.items() if not path]
    names = Counter(name for captions in parts.values() for name in captions)
    found = Captions({}, f"COCO's annotations of {year}", {})
    for part, captions in parts.items():
        ids = [name if names[name] == 1 else f"{part}{year}/{name}" for name in captions]
        found.captions.update(zip(ids, captions.values()))
        found.folders.update(dict.fromkeys(ids, folders_of(f"{part}{year}")))
        found.splits.update({"train": ids} if part == "train" else divide_val(ids))
        if part == "val" and len(captions) != ANNOTATED[year][part]:
            published = f"published are {ANNOTATED[year][part]:,}"
            problems.append(f"{paths[part].name} lists {len(captions):,} images, {published}")
    return found, problems


def folders_of(part: str) -> list[str]:
    """Where the photos of a part such as train2014 are looked for first; those without COCO's number only there."""
    return [*(f"{place}{name}" for name in (part, part[:-4]) for place in ("", "images/")), "images"]


def read_annotations(path: Path) -> dict[str, list[str]]:
    """An official `captions_*.json` -> file name -> captions, both in the order of the file."""
    data = files.read_json(path)
    try:
        names = _names_of(data["images"], path)
        captions: dict[str, list[str]] = {name: [] for name in names.values()}
        for index, annotation in enumerate(data["annotations"]):
            image, text = annotation["image_id"], files.clean_caption(annotation["caption"])
            if image not in names:
                raise UserError(f"{path}: annotations[{index}]: 'images' has no image {image!r}; correct it")
            captions[names[image]].append(text)
    except (KeyError, TypeError, AttributeError) as error:
        raise _wrong_file(path, "caption annotations", error) from None
    return captions


def _names_of(images: list[dict], path: Path) -> dict[int, str]:
    """id -> file name; UserError where two images share either."""
    names: dict[int, str] = {}
    for index, image in enumerate(images):
        name = _file_name(image["file_name"])
        if names.setdefault(image["id"], name) != name:
            raise UserError(f"{path}: images[{index}]: id {image['id']!r} is that of {names[image['id']]}; correct it")
    twice, count = Counter(names.values()).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"{path}: two images have the file name {twice}; tell them apart by their folders")
    return names


def _file_name(name: str) -> str:
    """`file_name`, with its folder if it has one; TypeError if it is no text."""
    if not isinstance(name, str):
        raise TypeError(f"file_name is {name!r}")
    return files.path_inside(name) or name.replace("\\", "/").rpartition("/")[2]


def read_instances(path: Path) -> tuple[tuple[str, ...], dict[str, PhotoObjects]]:
    """An official `instances_*.json` (else UserError) -> class names by COCO's number, and file name -> its objects."""
    data = files.read_json(path)
    try:
        categories = sorted(data["categories"], key=lambda category: category["id"])
        class_of = {category["id"]: index for index, category in enumerate(categories)}
        labels = tuple(str(category["name"]) for category in categories)
        found = {image["id"]: PhotoObjects(_size(image), []) for image in data["images"]}
        for one in data["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            if not math.isfinite(x + y + width + height):
                raise ValueError(f"bbox {one['bbox']} is not finite")
            kind, crowd = class_of[one["category_id"]], bool(one.get("iscrowd"))
            found[one["image_id"]].objects.append(((x, y, width, height), kind, crowd))
        return labels, {name: found[number] for number, name in _names_of(data["images"], path).items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _wrong_file(path, "instances", error) from None


def _size(image: dict) -> tuple[int | None, int | None]:
    """Width and height, None where the file does not say it; ValueError where they are no lengths."""
    size = image.get("width"), image.get("height")
    for edge in size:
        if edge is not None and not (isinstance(edge, (int, float)) and 0 <= edge < 1e9):
            raise ValueError(f"{edge!r} is no width or height")
    return size


def _wrong_file(path: Path, expected: str, error: Exception) -> UserError:
    return UserError(f"{path}: not COCO's {expected} ({type(error).__name__}: {error}); is it the right file?")


def divide_val(names: list[str]) -> dict[str, list[str]]:
    """Validation and test images out of the official val images: 4,000 and 1,000; 4/5 and 1/5 of fewer."""
    order = files.seeded_order(names, SEED)[: VAL + TEST]
    n_val = len(order) * VAL // (VAL + TEST)
    return {"val": order[:n_val], "test": order[n_val:]}


def _annotation_files(root: Path, year: str) -> dict[str, Path | None]:
    names = {part: f"captions_{part}{year}.json" for part in ANNOTATED[year]}
    return {part: files.first_file(root, f"annotations/{name}", name) for part, name in names.items()}


def coco_number(name: str) -> str | None:
    """COCO's number of a photo, the same in `COCO_val2014_000000000042.jpg` and `000000000042.jpg` (2017)."""
    match = _NUMBERED.fullmatch(name)
    return match and match[1]
