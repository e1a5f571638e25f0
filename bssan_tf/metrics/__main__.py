"""Measure any score matrix, whoever made it: `python -m bssan_tf.metrics scores.npy --image-of-caption FILE`.

The matrix has a row for each image and a column for each caption; higher is better. FILE has a line for each caption:
the row of its image, counted from 0, or -1 for none. Images may have any number of captions, or none. Without FILE,
scores.owners.txt is taken, which `evaluate.py --out` writes beside its matrix.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.metrics.details import detailed_report
from bssan_tf.metrics.output import detail_lines, require_replaceable, table_lines, write_report
from bssan_tf.metrics.owners import OWNERS, owners_beside, read_owners
from bssan_tf.metrics.recall import NotFiniteError
from bssan_tf.reading.arrays import first_not_finite, open_npy

MATRIX = "give a .npy of floats (N_images, N_captions)"
NOBODY = -1  # the image of a caption without one


def build_parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(prog="python -m bssan_tf.metrics", description=__doc__.split(": `")[0] + ".")
    parser.add_argument("scores", type=Path, help="a .npy of floats: a row an image, a column a caption")
    parser.add_argument(
        "--image-of-caption",
        type=Path,
        metavar="FILE",
        help="for each caption the row of its image, from 0, or -1: a .npy of integers, or text with one a line "
        "(default: SCORES.owners.txt, which evaluate.py --out writes)",
    )
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the figures to a file, too")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, measure, print the table."""
    options = build_parser().parse_args(arguments)
    if options.json:
        require_replaceable(options.json)
    if not options.scores.is_file():
        raise UserError(f"{options.scores}: no such file; {MATRIX}")
    value, text = measure(options.scores, options.image_of_caption or _found_owners(options.scores))
    print(text)
    if options.json:
        write_report(options.json, value)
        print(f"\nnumbers: {options.json}")


def _found_owners(scores_file: Path) -> Path:
    """The file beside the matrix, which is said; UserError if there is none."""
    found = owners_beside(scores_file)
    if not found.exists():
        raise UserError(f"--image-of-caption: is needed, as there is no {found}; {OWNERS}")
    print(f"image of each caption: {found}")
    return found


def measure(scores_file: Path, owners_file: Path) -> tuple[dict, str]:
    """`details.detailed_report` of a matrix in a file as a JSON value, and the text for people.

    "images_without_caption" and "captions_without_image" count those that are candidates only. UserError: a file is
    not what it should be, they do not fit each other, scores that are NaN or infinite.
    """
    scores, owner = read_scores(scores_file), read_owners(owners_file)
    _require_fit(scores, owner, scores_file, owners_file)
    try:
        report = detailed_report(scores, owner, lonely=True)
    except NotFiniteError:
        row = first_not_finite(scores)
        raise UserError(f"{scores_file}: NaN or infinite values, the first in row {row}; {MATRIX}") from None
    n_images, n_captions = scores.shape
    lonely = n_images - len(np.unique(owner[owner != NOBODY])), np.count_nonzero(owner == NOBODY)
    counts = dict(zip(("images_without_caption", "captions_without_image"), map(int, lonely)))
    value = {"run": scores_file.name, **report, **counts}
    heading = f"{scores_file.name}: {n_images:,} images, {n_captions:,} captions"
    said = [
        f"{number:,} {what if number > 1 else what.replace('s ', ' ', 1)}: ranked among the others, never a query"
        for what, number in zip(("images without a caption", "captions without an image"), lonely)
        if number
    ]
    table = [heading, *said, *table_lines([("", value)], 0)]
    return value, "\n".join([*table, "", detail_lines(value)])


def read_scores(path: Path) -> np.ndarray:
    """A matrix float (N_i, N_c), memory-mapped; UserError if the file holds none."""
    scores = open_npy(path, MATRIX)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise UserError(f"{path}: is {scores.dtype} {scores.shape}; {MATRIX}")
    if not scores.size:
        raise UserError(f"{path}: is empty, {scores.shape}; {MATRIX}")
    return scores


def _require_fit(scores: np.ndarray, owner: np.ndarray, scores_file: Path, owners_file: Path) -> None:
    """UserError unless each column has an owner, and each owner is a row."""
    n_images, n_captions = scores.shape
    if len(owner) != n_captions:
        if len(owner) == n_images and owner.max() < n_captions:
            raise UserError(f"{scores_file}: looks transposed, {scores.shape}; rows are images: save its .T")
        differ = f"{len(owner):,} captions, the matrix has {n_captions:,} columns"
        raise UserError(f"{owners_file}: {differ}; give one row for each caption")
    wrong = np.flatnonzero((owner < NOBODY) | (owner >= n_images))
    if wrong.size:
        place, rows = wrong[0], f"rows are 0 to {n_images - 1}, and {NOBODY} is no image"
        raise UserError(f"{owners_file}: caption {place}: there is no image {owner[place]}; {rows}")
    if (owner == NOBODY).all():
        raise UserError(f"{owners_file}: no caption has an image; {OWNERS}")


if __name__ == "__main__":
    cli.run(main)
