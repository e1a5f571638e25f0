"""Tables of captions: CSV with comma, semicolon or tab, and JSON Lines, with the column names that are in use.

In: a file; out: its rows with the place of each, for errors. The columns `image` and `caption` may have the names that
open_clip, Hugging Face and Kaggle give them.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bssan_tf.datasets import files
from bssan_tf.datasets.photos import SUFFIXES
from bssan_tf.errors import UserError
from bssan_tf.reading.documents import parse_json

logger = logging.getLogger(__name__)

IMAGE = ("image", "file_name", "filename", "filepath", "image_name", "path")  # the first that is there counts
CAPTION = ("caption", "text", "title", "raw", "comment", "captions")
_LIST = re.compile(r"""\s*\[\s*["']""")  # begins a list of captions, as JSON or as Python writes it
_MOST_CELL = 1 << 24  # characters; csv's own limit of 131,072 is below a cell of captions in HTML


def csv_rows(path: Path, needed: Sequence[Sequence[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE:LINE", column -> cell) of each row of a table with a header, the columns' names in small letters.

    Each of `needed` is the names that a column may have; a row has it under the first of them. UserError: no such
    column, several of captions, a row of another width, or a quote that is not closed, with the line that opens it.
    """
    lines = [f"{text}\n" for _, text in files.read_lines(path)]
    header, columns, start = None, {}, 1
    head = next((line for line in lines if line.strip()), "")
    before = csv.field_size_limit(_MOST_CELL)
    delimiter = _delimiter(head)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            where, start = f"{path}:{start}" if header else f"{path}:{reader.line_num}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                columns = _columns(header, needed, f"{where}: header {','.join(cells)[:60]!r}")
                continue
            if len(cells) != (n := len(header)):
                raise UserError(f"{where}: {len(cells)} fields, the header has {n}; quote captions with commas")
            if "\n" in "".join(cells):
                _check_line_ends(cells, delimiter, where)
            row = dict(zip(header, cells))
            yield where, {**row, **{name: row[column] for name, column in columns.items()}}
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not valid CSV ({_reason(error, reader, start)}); correct the row") from None
    finally:
        csv.field_size_limit(before)


def _reason(error: csv.Error, reader, start: int) -> str:
    if "unexpected end of data" in str(error) or reader.line_num > start:
        return "a quote that this row opens is not closed in it"
    return str(error)


def _check_line_ends(cells: Sequence[str], delimiter: str, where: str) -> None:
    """UserError where a cell holds what looks like a row: its quote was meant to end before."""
    for line in (line for cell in cells if "\n" in cell for line in cell.split("\n") if delimiter in line):
        if any(field.strip().lower().endswith(SUFFIXES) for field in line.split(delimiter)):
            raise UserError(f"{where}: a quote that this row opens takes in the row {line[:40]!r}; close it before")


def _delimiter(header: str) -> str:
    """Comma, semicolon or tab: what the header has most of."""
    return max(",;\t", key=header.count)


def _columns(header: Sequence[str], needed: Sequence[Sequence[str]], where: str) -> dict[str, str]:
    """First name of each of `needed` -> the column that has it."""
    if len(set(header)) < len(header):
        raise UserError(f"{where} names a column twice; rename one")
    found = {names[0]: next((name for name in names if name in header), None) for names in needed}
    if lacking := [name for name, column in found.items() if column is None]:
        wanted = " and ".join(names[0] for names in needed)
        raise UserError(f"{where} must name {wanted} (there is no {' and no '.join(lacking)}); add it")
    if tuple(needed) == (IMAGE, CAPTION):
        _tell_columns(header, where)
    return found


def _tell_columns(names: Iterable[str], where: str) -> None:
    """Logs which columns are taken where others than image and caption are; UserError: two could be the caption."""
    images, captions = ([name for name in known if name in names] for known in (IMAGE, CAPTION))
    if len(captions) > 1 and captions[0] != CAPTION[0]:
        told = f"has {' and '.join(captions)}, each of which could be the caption"
        raise UserError(f"{where} {told}; call the right one caption")
    if (images[:1], captions[:1]) != ([IMAGE[0]], [CAPTION[0]]):
        logger.info("%s: %s is taken as the image, %s as the caption", where, *images[:1], *captions[:1])


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", fields) of each object; "image" and "caption" are there, the caption as text or a list of texts."""
    told: tuple[str, ...] | None = None
    for number, text in files.read_lines(path):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(text, where, "correct the line")
        image, caption = (next((row[n] for n in names if row.get(n) is not None), None) for names in (IMAGE, CAPTION))
        if caption is None and any(name in row for name in CAPTION):
            caption = ""  # null counts as an empty one
        if not isinstance(image, str) or not all(isinstance(one, str) for one in as_list(caption)) or caption is None:
            raise UserError(f'{where}: not an object with the texts "image" and "caption"; correct the line')
        if told != (found := tuple(name for name in (*IMAGE, *CAPTION) if row.get(name) is not None)) and caption:
            _tell_columns(found, where)
            told = found
        yield where, {**row, "image": image, "caption": caption}


def as_list(value) -> list:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def cell_list(row: Mapping[str, str], column: str, where: str) -> list:
    """The list that a cell holds as JSON."""
    return parse_json(row[column], f"{where}: {column}", "correct the row", list)


def caption_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a table or of JSON Lines by the file's suffix, with "image" and "caption", which may be a list of texts.

    UserError: see `csv_rows`, `jsonl_rows`; a cell that begins as a list is none of texts.
    """
    if path.suffix == ".jsonl":
        yield from jsonl_rows(path)
        return
    for where, row in csv_rows(path, (IMAGE, CAPTION)):
        if _LIST.match(row["caption"]):
            texts = cell_list(row, "caption", where)
            if not all(isinstance(text, str) for text in texts):
                raise UserError(f"{where}: caption is not a list of texts; correct the row")
            row["caption"] = texts
        yield where, row
