"""Any folder of pictures with a `captions.csv` (image,caption[,split]) or a `captions.jsonl` of these fields.

In: the folder; out: its `Corpus`. `image` is a path inside the folder, one row for each caption. Without the split
field, images are divided 80/10/10 into train, val and test by a seeded order, which the log says.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bssan_tf.datasets import files
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

LAYOUT = (
    "expected are pictures and a captions.csv with the header image,caption or image,caption,split, or a "
    'captions.jsonl with lines such as {"image": "a.jpg", "caption": "A dog runs.", "split": "train"}'
)


def load_folder(
    root: Path | None = None, name: str = "folder", allow_partial: bool = False, need_images: bool = True, seed: int = 0
) -> Corpus:
    """Loads a folder of pictures with captions; `name` is the corpus' name, the other arguments see `load_corpus`.

    UserError if the captions file or pictures are missing, or a row is malformed.
    """
    root = files.find_root(name, root, LAYOUT)
    table, lines = files.first_file(root, "captions.csv"), files.first_file(root, "captions.jsonl")
    if table and lines:
        raise UserError(f"{name}: {root} has both captions.csv and captions.jsonl; remove one of them")
    path = table or lines
    if not path:
        raise UserError(f"{name}: no captions.csv or captions.jsonl in {root}; {LAYOUT}")
    captions: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}
    without_split: str | None = None
    for where, row in _csv_rows(path) if table else _jsonl_rows(path):
        image, caption = _image_id(row["image"], where), files.clean_caption(row["caption"])
        if not caption:
            raise UserError(f"{where}: the caption of {image} is empty; write one or remove the row")
        captions.setdefault(image, []).append(caption)
        if row.get("split") is None:
            without_split = without_split or where
            continue
        split = files.split_name(row["split"], where)
        if split_of.setdefault(image, split) != split:
            raise UserError(f"{where}: {image} is in {split_of[image]} above, in {split} here; choose one")
    if not captions:
        raise UserError(f"{path}: has no captions; {LAYOUT}")
    if split_of and without_split:
        raise UserError(f"{without_split}: has no split, but other rows have one; give all rows one, or none")
    splits: dict[str, list[str]] = {}
    for image, split in (split_of or _divide(captions, seed, path)).items():
        splits.setdefault(split, []).append(image)
    parents = {(root / image).parent for image in captions}
    there = {path for parent in parents for path in files.list_photos([parent]).values()}
    photos = {image: root / image for image in captions if not need_images or root / image in there}
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    options = {"allow_partial": allow_partial, "need_images": need_images, "official": False}
    return assemble(name, root, splits, captions, photos, f"in {root}", **options, split_lists="own", place=digest)


def _image_id(text: str, where: str) -> str:
    """The path inside the folder, with `/`; `./a.jpg` and `a.jpg` are one image."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UserError(f"{where}: image {text!r} is not a file inside the folder; give its path from there")
    return str(path)


def _divide(captions: dict[str, list[str]], seed: int, path: Path) -> dict[str, str]:
    """image -> split, 80/10/10 by image, at least one image in each."""
    if len(captions) < 3:
        raise UserError(f"{path}: {len(captions)} images can't be divided into splits; add the field split")
    order = files.seeded_order(captions, seed)
    n = max(1, round(len(order) / 10))
    split_of = {image: "test" if i < n else "val" if i < 2 * n else "train" for i, image in enumerate(order)}
    divided = f"{len(order) - 2 * n} train, {n} val, {n} test images by a seeded order (seed {seed})"
    logger.info("%s has no split field: %s", path, divided)
    return {image: split_of[image] for image in captions}


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader((text for _, text in files.read_lines(path)), skipinitialspace=True, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not cells:
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                if not {"image", "caption"} <= set(header):
                    raise UserError(f"{where}: header {','.join(cells)!r} must name image and caption; add it")
                continue
            if len(cells) != (n := len(header)):
                raise UserError(f"{where}: {len(cells)} fields, the header has {n}; quote captions with commas")
            yield where, dict(zip(header, cells))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error}); correct the row") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, text in files.read_lines(path):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where}: not valid JSON ({error}); correct the line") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("image", "caption")):
            raise UserError(f'{where}: not an object with the texts "image" and "caption"; correct the line')
        yield where, row
