"""Reading what the data sets' formats have in common: where a data set lies, its text, JSON and photo files.

In: a data set's name and `--root`; out: paths, lines and parsed files; every fault becomes a UserError that names the
file and the line. Photos are looked up in one listing per folder, never by one `stat` each.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bssan_tf.datasets.corpus import SPLIT_ALIASES, SPLITS
from bssan_tf.errors import UserError

KARPATHY_URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/"


def find_root(name: str, root: Path | None, layout: str) -> Path:
    """The folder of data set `name`: `root` if given, else $BSSAN_DATA/NAME, else data/NAME.

    UserError if there is none; `layout` is its part about what is expected there and who publishes it.
    """
    if root is not None:
        if not Path(root).is_dir():
            raise UserError(f"{name}: --root {root} is not a folder; {layout}")
        return Path(root)
    base = os.environ.get("BSSAN_DATA")
    places = [Path(folder) / name for folder in (base, "data") if folder]
    if there := [place for place in places if place.is_dir()]:
        return there[0]
    unset = "" if base else " ($BSSAN_DATA is not set)"
    looked = " or ".join(map(str, places))
    raise UserError(f"{name}: no folder {looked}{unset}; put it there or say where it is by --root; {layout}")


def first_file(root: Path, *names: str) -> Path | None:
    """The first of `names` (relative to `root`) that is a file, or None."""
    return next((root / name for name in names if (root / name).is_file()), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end) of each line of a text file; UserError unless it is UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); convert it") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check the file and its rights") from None


def read_json(path: Path) -> dict:
    """A JSON file whose top is an object; UserError if it is anything else."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check the file and its rights") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(f"{path}: not valid JSON ({error}); is the download complete?") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a JSON object is expected, not a {type(data).__name__}; is it the right file?")
    return data


def clean_caption(text: str) -> str:
    """The caption on one line: tabs, line ends and runs of blanks become single blanks."""
    return " ".join(text.split())


def list_photos(folders: Iterable[Path]) -> dict[str, Path]:
    """File name -> path over those `folders` that exist; where two hold the same name, the first one wins."""
    photos: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for name in os.listdir(folder):
                photos.setdefault(name, folder / name)
    return photos


def seeded_order(names: Iterable[str], seed: int = 0) -> list[str]:
    """The names in random order: by hash, the same on every machine, and a further name does not change the others'."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def read_karpathy(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Karpathy's `dataset_*.json`: split -> file names, file name -> captions. COCO's "restval" is train."""
    images = read_json(path).get("images")
    if not isinstance(images, list):
        raise UserError(f"{path}: has no list 'images'; Karpathy's file is expected, see {KARPATHY_URL}")
    splits: dict[str, list[str]] = {}
    captions: dict[str, list[str]] = {}
    for index, image in enumerate(images):
        try:
            name, split = str(image["filename"]), image["split"]
            texts = [clean_caption(sentence["raw"]) for sentence in image["sentences"]]
        except (KeyError, TypeError, AttributeError):
            lacks = f"images[{index}] lacks 'filename', 'split' or 'sentences' with 'raw'"
            raise UserError(f"{path}: {lacks}; Karpathy's file is expected, see {KARPATHY_URL}") from None
        split = "train" if split == "restval" else split_name(split, f"{path}: images[{index}]")
        splits.setdefault(split, []).append(name)
        captions[name] = texts
    return splits, captions


def split_name(text: str, where: str) -> str:
    """`text` as "train", "val" or "test"; UserError that begins with `where` if it is none of these."""
    lowered = str(text).strip().lower()
    name = SPLIT_ALIASES.get(lowered, lowered)
    if name not in SPLITS:
        raise UserError(f"{where}: split {text!r} is not one of {', '.join(SPLITS)}; correct it")
    return name


def either(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
