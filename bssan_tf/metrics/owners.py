"""The row of each caption's image: a file for any score matrix, and FILE.owners.txt beside one that evaluate.py keeps.

In: a .npy of integers, or text with a number a line; lines that start with # are for people. Out: int64 (N_c,).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import open_npy
from bssan_tf.reading.documents import lines_of, read_text
from bssan_tf.tools.files import write_text

OWNERS = "give the row of each caption's image, a .npy of integers or a text file with one a line"
_PART = re.compile(r"\.(w2r|o2w)$")  # of a matrix of one network, whose images and captions are those of the sum


def read_owners(path: Path) -> np.ndarray:
    """int64 (N_c,) of a .npy, or of a text file with a number a line; UserError if the file holds none."""
    if path.suffix == ".npy":
        owner = open_npy(path, OWNERS, mmap=False)
        if owner.ndim != 1 or owner.dtype.kind not in "iu":
            raise UserError(f"{path}: is {owner.dtype} {owner.shape}; {OWNERS}")
    else:
        lines = enumerate(lines_of(read_text(path, OWNERS).rstrip()), 1)
        try:
            owner = np.array([_whole(line, number) for number, line in lines if not line.startswith("#")], np.int64)
        except ValueError as error:
            raise UserError(f"{path}: {error}; {OWNERS}") from None
    if not owner.size:
        raise UserError(f"{path}: is empty; {OWNERS}")
    if owner.max() > np.iinfo(np.int64).max:
        raise UserError(f"{path}: {owner.max()} is no row; {OWNERS}")
    return owner.astype(np.int64)


def _whole(line: str, number: int) -> int:
    text = line.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise ValueError(f"line {number}: {text[:40]!r} is no row")
    return int(text)


def owners_of(scores: Path) -> Path:
    """FILE.owners.txt of FILE.npy."""
    return scores.with_name(f"{scores.stem}.owners.txt")


def owners_beside(scores: Path) -> Path:
    """`owners_of`; for FILE.w2r.npy and FILE.o2w.npy those of FILE.npy, unless they have their own."""
    own, whole = owners_of(scores), scores.with_name(f"{_PART.sub('', scores.stem)}.npy")
    return own if own.exists() else owners_of(whole)


def write_owners(scores: Path, owner: np.ndarray, about: str) -> None:
    """Write FILE.owners.txt beside FILE.npy; `about` is its first line. UserError as `require_owners_fit`."""
    require_owners_fit(scores, owner)
    rows = "".join(f"{row}\n" for row in np.asarray(owner).tolist())
    write_text(owners_of(scores), f"# {' '.join(about.splitlines())}\n{rows}")


def require_owners_fit(scores: Path, owner: np.ndarray) -> None:
    """UserError if another file lies where the owners of --out belong, int (N_c,); it would be replaced."""
    path = owners_of(scores)
    if not path.exists():
        return
    try:
        there = read_owners(path)
    except UserError:
        raise UserError(f"--out {scores}: {path} is a file of yours, and would be replaced; name another") from None
    if not np.array_equal(there, owner):
        raise UserError(f"--out {scores}: {path} is of other captions; delete both, or name another file")
