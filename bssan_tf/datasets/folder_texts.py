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
_LABEL = re.compile(r"\s*\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*")  # a line of YOLO's: class, box
_WHOLE = "captions.txt", ("images.txt", "names.txt", "image_names.txt")  # without splits


class Row(NamedTuple):
    """A caption, and what it is of."""

    where: str
    image: str
    caption: str
    split: str | None  # None: not said


def find(root: Path) -> tuple[str, Iterator[Row], bool] | None:
    """What says the captions, in words, its rows, and whether it is one file; None if neither layout is there.

    UserError where files differ.
    """
    if pairs := _pairs(root):
        return f"{pairs[0][1].parent} {LINES}", _line_rows(pairs), len(pairs) == 1
    beside = any(text for _, text in _beside(root))
    return (f"{root} (a text beside each photo)", _beside_rows(root), False) if beside else None


def _pairs(root: Path) -> list[tuple[str | None, Path, Path]]:
    """(split, file of captions, file of names) of each list of lines in a folder and those in it."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    there = [path for folder in folders for path in _texts(folder)]
    names: dict[str, Path] = {}
    for path in there:
        if (match := _NAMES.fullmatch(path.name)) and not _CAPTIONS.fullmatch(path.name):
            _once(names, f"{match['split']}{match['set'] or ''}", path)
    captions: dict[tuple[str, str], Path] = {}
    unpaired: dict[Path, str] = {}
    languages = set()
    for path in there:
        if not (match := _CAPTIONS.fullmatch(path.name)):
            continue
        key, language = f"{match['split']}{match['set'] or ''}", match["language"] or ""
        if key not in names:
            unpaired[path] = language
            continue
        languages.add(language)
        if len(languages) > 1:
            told = f"captions of several languages ({', '.join(sorted(languages))})"
            raise UserError(f"{path.parent}: {told}; leave those of one there")
        _once(captions, (key, match["k"] or ""), path)
    if captions:
        _check_pairs(names, {key for key, _ in captions}, [path for path in unpaired if unpaired[path] in languages])
        return [(re.split("[_-]", key)[0], path, names[key]) for (key, _), path in sorted(captions.items())]
    whole, lists = files.first_file(root, _WHOLE[0]), files.first_file(root, *_WHOLE[1])
    return [(None, whole, lists)] if whole and lists else []


def _check_pairs(names: dict[str, Path], paired: set[str], unpaired: list[Path]) -> None:
    """UserError for captions without names; a warning for names without captions."""
    lists = [path.name for key, path in names.items() if key not in paired]
    if unpaired:
        beside = f" ({', '.join(lists)} has no captions)" if lists else ""
        told = f"no list of the photos' names goes with it{beside}"
        raise UserError(f"{unpaired[0]}: {told}; name both alike, as train.en and train.txt, or remove it")
    if lists:
        logger.warning("no captions go with %s, which is not used", ", ".join(lists))


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
        for caption in _captions_in(source, photo.name):
            yield Row(str(source), image, caption, None)
    if lacking:
        logger.warning("%s: %d photos have no text beside them (the first: %s)", root, len(lacking), lacking[0])


def _captions_in(source: Path, photo: str) -> list[str]:
    """The captions in the file beside a photo: each line of a text that is not empty, or JSON's `caption`."""
    if source.suffix == ".json":
        caption = files.read_json(source).get("caption", 0)
        if not isinstance(caption, (str, type(None))):
            raise UserError(f"{source}: has no text 'caption'; write one or remove {photo}")
        return [caption or ""]  # img2dataset writes null where there was none
    lines = [line for _, line in files.read_lines(source) if line.strip()]
    if lines and all(map(_LABEL.fullmatch, lines)):
        raise UserError(f"{source}: holds only numbers, as YOLO's labels; captions are expected beside {photo}")
    return lines or [""]
