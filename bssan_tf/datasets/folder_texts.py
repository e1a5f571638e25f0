"""Captions in text files: one file beside each photo (img2dataset), or one line for each photo of a list (Multi30k).

In: a folder without a table; out: rows of place, image, caption and split. Lists of lines are `train.en` or
`train_captions.txt` with the photos' names in `train.txt` or `train_images.txt`, or `captions.txt` with `images.txt`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bssan_tf.datasets import files
from bssan_tf.datasets.photos import SUFFIXES, check_name
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

PHOTO_FOLDERS = ("", "images", "Images", "flickr30k-images", "flickr30k_images")  # of lists of lines
LINES = "(lines)"  # ends their description
_SPLIT = r"(?P<split>train|val|valid|validation|dev|test)(?P<set>[_-][\w-]+)??"
_CAPTIONS = re.compile(rf"{_SPLIT}(?:\.(?P<k>\d))?(?:\.(?P<language>[a-z]{{2}})|_(?:caps|captions)\.txt)")
_NAMES = re.compile(rf"{_SPLIT}(?:_images|_ims|_ids|_names)?\.txt")
_WHOLE = "captions.txt", ("images.txt", "names.txt", "image_names.txt")  # without splits


class Row(NamedTuple):
    """A caption, and what it is of."""

    where: str
    image: str
    caption: str
    split: str | None  # None: not said


def find(root: Path) -> tuple[str, Iterator[Row]] | None:
    """What says the captions, in words, and its rows; None if neither layout is there. UserError where files differ."""
    if pairs := _pairs(root):
        return f"{pairs[0][1].parent} {LINES}", _line_rows(pairs)
    beside = any(text for _, text in _beside(root))
    return (f"{root} (a text beside each photo)", _beside_rows(root)) if beside else None


def _pairs(root: Path) -> list[tuple[str | None, Path, Path]]:
    """(split, file of captions, file of names) of each list of lines in a folder and those in it."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    there = [path for folder in folders for path in _texts(folder)]
    names: dict[str, Path] = {}
    for path in there:
        if (match := _NAMES.fullmatch(path.name)) and not _CAPTIONS.fullmatch(path.name):
            _once(names, f"{match['split']}{match['set'] or ''}", path)
    captions: dict[tuple[str, str], Path] = {}
    languages = set()
    for path in there:
        if (match := _CAPTIONS.fullmatch(path.name)) and (key := f"{match['split']}{match['set'] or ''}") in names:
            languages.add(match["language"] or "")
            if len(languages) > 1:
                told = f"captions of several languages ({', '.join(sorted(languages))})"
                raise UserError(f"{path.parent}: {told}; leave those of one there")
            _once(captions, (key, match["k"] or ""), path)
    if captions:
        return [(re.split("[_-]", key)[0], path, names[key]) for (key, _), path in sorted(captions.items())]
    whole, lists = files.first_file(root, _WHOLE[0]), files.first_file(root, *_WHOLE[1])
    return [(None, whole, lists)] if whole and lists else []


def _texts(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if _CAPTIONS.fullmatch(entry.name) or _NAMES.fullmatch(entry.name)]
    return [folder / name for name in sorted(found)]


def _once(paths: dict, key, path: Path) -> None:
    if paths.setdefault(key, path) != path:
        raise UserError(f"{path.parent}: is it {paths[key]} or {path}? remove one")


def _line_rows(pairs: list[tuple[str | None, Path, Path]]) -> Iterator[Row]:
    for split, captions, names in pairs:
        texts, images = files.read_lines(captions), files.read_lines(names)
        if len(texts) != len(images):
            counts = f"has {len(texts):,} lines, but {names} has {len(images):,}"
            raise UserError(f"{captions}: {counts}; one caption and one name a line are expected")
        for (number, text), (_, image) in zip(texts, images):
            image = re.sub(r"#\d+$", "", image.strip())
            yield Row(f"{captions}:{number}", image if "." in image else f"{image}.jpg", text, split)


def _beside(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """(photo, the text or JSON file beside it or None) of each photo in a folder and all below it."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        there = set(names)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES:
                continue
            text = next((f"{stem}{end}" for end in (".txt", ".json") if f"{stem}{end}" in there), None)
            yield Path(folder, name), text and Path(folder, text)


def _beside_rows(root: Path) -> Iterator[Row]:
    lacking = []
    for photo, source in _beside(root):
        if source is None:
            lacking.append(photo)
            continue
        image = photo.relative_to(root).as_posix()
        check_name(image, str(root))
        if source.suffix == ".txt":
            caption = files.read_text(source)
        else:
            caption = files.read_json(source).get("caption")
            if not isinstance(caption, str):
                raise UserError(f"{source}: has no text 'caption'; write one or remove {photo.name}")
        yield Row(str(source), image, caption, None)
    if lacking:
        logger.warning("%s: %d photos have no text beside them (the first: %s)", root, len(lacking), lacking[0])
