"""Reading what the data sets' formats have in common: where a data set lies, its text and JSON files.

In: a data set's name and `--root`; out: paths, lines and parsed files; every fault becomes a UserError that names the
file and the line. tables.py reads tables, photos.py finds the photos.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from bssan_tf.datasets.corpus import SPLIT_ALIASES, SPLITS
from bssan_tf.errors import UserError
from bssan_tf.reading import documents

KARPATHY_URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/"
COMPLETE = "check the file and its rights, and that the download is complete"


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


def read_text(path: Path) -> str:
    """A text file, UTF-8 or UTF-16 with its mark, every line end as "\\n"; UserError for other encodings."""
    content = documents.read_bytes(path, COMPLETE)
    wide = content.startswith(documents.UTF16_MARKS)
    if not wide and (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise UserError(f"{path}:{line}: has NUL bytes (perhaps UTF-16 without its mark); convert it to UTF-8")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise UserError(f"{path}: starts as UTF-16, but is not ({error.reason}); convert it to UTF-8") from None
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        problem = f"not UTF-8 (byte 0x{byte:02x})"
        raise UserError(f"{path}:{line}: {problem}; convert it from its encoding to UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number from 1, line without its end) of each line of `read_text`."""
    return list(enumerate(read_text(path).removesuffix("\n").split("\n"), 1))


def read_json(path: Path) -> dict:
    """A JSON file whose top is an object; UserError if it is anything else."""
    return documents.read_json(path, COMPLETE)


def clean_caption(text: str) -> str:
    """The caption on one line: tabs, line ends and runs of blanks become single blanks."""
    return " ".join(text.split())


def path_inside(text: str) -> str | None:
    """A relative path as `a/b.jpg`, whatever its slashes; None if it leaves its folder or names no file."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    return None if path.is_absolute() or ".." in path.parts or not path.name else str(path)


def seeded_order(names: Iterable[str], seed: int = 0) -> list[str]:
    """The names in random order: by hash, the same on every machine, and a further name does not change the others'."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def divide(names: Iterable[str], seed: int, source: str, most: int | None = None) -> tuple[dict[str, list[str]], str]:
    """split -> names, a tenth (at most `most`) each for val and test by `seeded_order`; and that in words.

    Names keep their order. UserError, which begins with `source`, for fewer than three.
    """
    names = list(names)
    if len(names) < 3:
        raise UserError(f"{source}: {len(names)} images can't be divided into splits; add the field split")
    order = seeded_order(names, seed)
    n = min(max(1, round(len(order) / 10)), most or len(order))
    split_of = {image: "test" if i < n else "val" if i < 2 * n else "train" for i, image in enumerate(order)}
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(split_of[name], []).append(name)
    return splits, f"{len(order) - 2 * n:,} train, {n:,} val, {n:,} test images by a seeded order (seed {seed})"


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
