"""The files in which captions of Flickr8k, Flickr30K and COCO are published: one reader for each format.

In: a file; out: `Captions`. token.txt is their owners' format, `results.csv` and `captions.txt` are Kaggle's,
`flickr_annotations_30k.csv` is Hugging Face's, `dataset_*.json` is Karpathy's.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bssan_tf.datasets import files, tables
from bssan_tf.datasets.files import KARPATHY_URL, clean_caption
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

_RESULTS_HEADER = "image_name|comment_number|comment"
_NO_SEPARATOR = re.compile(r"(\d+)\s+(\S.*)")  # "4   A dog runs": what one published row has


@dataclass
class Captions:
    """What a file says."""

    captions: dict[str, list[str]]  # image id -> its captions, images in the order in which the file names them first
    format: str  # in words, for the log
    splits: dict[str, list[str]] | None = None  # split -> image ids, where the file says them
    folders: dict[str, list[str]] = field(default_factory=dict)  # image id -> where its photo is looked for first
    numbers: dict[str, list[int]] = field(default_factory=dict)  # image id -> its captions' own, where said


def read_list(path: Path) -> list[str]:
    """The photo names of a split list, one a line; `.jpg` is added to a bare id."""
    names = [text.strip() for _, text in files.read_lines(path)]
    return [name if "." in name else f"{name}.jpg" for name in names if name]


def _numbered(path: Path, rows: Iterable[tuple[int, str, int, str]]) -> dict[str, list[str]]:
    """(line, photo, k, caption) -> photo -> captions in the order of k; photos in the order of their first row.

    A warning counts rows that repeat others; UserError at one that gives a caption a second text.
    """
    known: dict[tuple[str, int], tuple[int, str]] = {}
    repeated = 0
    for number, name, k, text in rows:
        caption = clean_caption(text)
        before, first = known.setdefault((name, k), (number, caption))
        if first != caption:
            raise UserError(f"{path}:{number}: {name}#{k} has another caption in line {before}; remove one")
        repeated += before != number
    if repeated:
        logger.warning("%s: %d repeated lines are left out", path, repeated)
    captions: dict[str, list[str]] = {name: [] for name, _ in known}  # by k alone, one without #0 would come last
    for (name, _), (_, caption) in sorted(known.items(), key=lambda item: item[0][1]):
        captions[name].append(caption)
    return captions


def read_token_file(path: Path) -> Captions:
    """Lines `name.jpg#k<TAB>caption`.

    A photo's name ends at the last `#`: the published Flickr8k file has a photo named `….jpg.1`. A warning counts lines
    that repeat others; UserError at a line of another form, or one that gives a caption a second text.
    """
    rows = []
    for number, text in files.read_lines(path):
        if not text.strip():
            continue
        key, tab, caption = text.partition("\t")
        name, _, k = key.strip().rpartition("#")
        if not (tab and name and k.isdecimal()):
            line = text.strip()[:60]
            raise UserError(f"{path}:{number}: {line!r} is not 'name.jpg#k<TAB>caption'; correct or remove it")
        rows.append((number, name, int(k[:9]), caption))
    return Captions(_numbered(path, rows), "its owners' token file")


def read_results(path: Path) -> Captions:
    """Kaggle's `results.csv` of Flickr30K: lines `name.jpg| k| caption` under a header; quotes mean nothing.

    The published file has a row without its second `|`, which is read. UserError at a line of another form.
    """
    lines = [(number, text) for number, text in files.read_lines(path) if text.strip()]
    header = lines[0][1].replace(" ", "").lower() if lines else ""
    if header != _RESULTS_HEADER:
        raise UserError(f"{path}:1: header {header[:60]!r} is not 'image_name| comment_number| comment'; restore it")
    rows = []
    for number, text in lines[1:]:
        name, *fields = (part.strip() for part in text.split("|", 2))
        if len(fields) == 1 and (match := _NO_SEPARATOR.fullmatch(fields[0])):
            fields = list(match.groups())
        if len(fields) != 2 or not name or not fields[0].isdecimal():
            raise UserError(f"{path}:{number}: {text[:60]!r} is not 'name.jpg| k| caption'; correct or remove it")
        rows.append((number, name, int(fields[0][:9]), fields[1]))
    return Captions(_numbered(path, rows), "Kaggle's results.csv")


def read_table(path: Path) -> Captions:
    """Kaggle's `captions.txt` of Flickr8k: a table `image,caption`, a row for each caption."""
    captions: dict[str, list[str]] = {}
    for _, row in tables.caption_rows(path):
        texts = map(clean_caption, tables.as_list(row["caption"]))
        captions.setdefault(row["image"].strip(), []).extend(texts)
    return Captions(captions, f"Kaggle's {path.name}")


def read_annotations_csv(path: Path) -> Captions:
    """Hugging Face's `flickr_annotations_30k.csv`: `raw` is a JSON list of captions; with Karpathy's split."""
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    for where, row in tables.csv_rows(path, (("filename", "image"), ("raw",), ("split",))):
        name, texts = row["filename"].strip(), tables.cell_list(row, "raw", where)
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{where}: raw is not a list of texts; correct the row")
        if name in captions:
            raise UserError(f"{where}: {name} is there already; remove one")
        captions[name] = [clean_caption(text) for text in texts]
        splits.setdefault(_karpathy_split(row["split"], where), []).append(name)
    return Captions(captions, f"Hugging Face's {path.name}", splits)


def read_karpathy(path: Path) -> Captions:
    """Karpathy's `dataset_*.json`. An image is named by its file, with its folder where two have the same name."""
    images = files.read_json(path).get("images")
    if not isinstance(images, list):
        raise UserError(f"{path}: has no list 'images'; Karpathy's file is expected, see {KARPATHY_URL}")
    names = Counter(image.get("filename") for image in images if isinstance(image, dict) and _is_named(image))
    found = Captions({}, f"Karpathy's {path.name}", {})
    for index, image in enumerate(images):
        where = f"{path}: images[{index}]"
        try:
            name, split, folder = image["filename"], image["split"], image.get("filepath") or ""
            texts = [clean_caption(sentence["raw"]) for sentence in image["sentences"]]
            name.encode(), folder.strip("/")
        except (KeyError, TypeError, AttributeError):
            lacks = f"images[{index}] lacks 'filename', 'split' or 'sentences' with 'raw'"
            raise UserError(f"{path}: {lacks}; Karpathy's file is expected, see {KARPATHY_URL}") from None
        folder = files.path_inside(folder) or ""
        if names[name] > 1 and folder:
            name = f"{folder}/{name}"
        if name in found.captions:
            raise UserError(f"{where}: a second image {name}; remove one, or tell them apart by 'filepath'")
        found.splits.setdefault(_karpathy_split(split, where), []).append(name)
        found.captions[name] = texts
        numbers = [sentence.get("sentid") for sentence in image["sentences"]]
        if all(type(number) is int for number in numbers):
            found.numbers[name] = numbers
        if folder:
            found.folders[name] = [folder, f"images/{folder}", "images"]
    return found


def _is_named(image: dict) -> bool:
    return isinstance(image.get("filename"), str)


def _karpathy_split(text: str, where: str) -> str:
    """A split's name; COCO's "restval" is train."""
    return "train" if text == "restval" else files.split_name(text, where)
