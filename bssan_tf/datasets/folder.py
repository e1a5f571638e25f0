"""Any folder of pictures with captions: a table, JSON Lines, or one of the layouts of folder_texts.py.

In: the folder; out: its `Corpus`. Tables are `captions.csv` (image,caption[,split]) and `captions.jsonl` of these
fields, one row for each caption, `image` a path inside the folder; and Hugging Face's `metadata.csv` and
`metadata.jsonl`, whose folders may name the splits. Without splits, images are divided 80/10/10 into train, val and
test by a seeded order, which the log says.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from bssan_tf.datasets import files, folder_texts, tables
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.corpus import SPLIT_ALIASES, SPLITS, Corpus
from bssan_tf.datasets.photos import PhotoFolders, check_name
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

LAYOUT = (
    "expected are pictures and a captions.csv with the header image,caption or image,caption,split, or a "
    'captions.jsonl with lines such as {"image": "a.jpg", "caption": "A dog runs.", "split": "train"}; docs/data.md '
    "names other layouts"
)
TABLES = ("captions.csv", "captions.tsv", "captions.jsonl")
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face
Row = folder_texts.Row


def load_folder(
    root: Path | None = None,
    name: str = "folder",
    allow_partial: bool = False,
    need_images: bool = True,
    seed: int = 0,
    word_rule: str = "unicode",
) -> Corpus:
    """Loads a folder of pictures with captions; `name` is the corpus' name, the other arguments see `load_corpus`.

    UserError if the captions file or pictures are missing, or a row is malformed.
    """
    root = files.find_root(name, root, LAYOUT)
    source, rows, one_file = _find_rows(name, root)
    captions: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}
    without_split: str | None = None
    for where, image, caption, split in rows:
        image = _image_id(image, root, where)
        captions.setdefault(image, []).append(files.clean_caption(caption))
        if split is None:
            without_split = without_split or where
            continue
        split = files.split_name(split, where)
        if split_of.setdefault(image, split) != split:
            raise UserError(f"{where}: {image} is in {split_of[image]} above, in {split} here; choose one")
    if not captions:
        raise UserError(f"{source}: has no captions; {LAYOUT}")
    if split_of and without_split:
        raise UserError(f"{without_split}: has no split, but other rows have one; give all rows one, or none")
    splits: dict[str, list[str]] = {}
    for image, split in split_of.items():
        splits.setdefault(split, []).append(image)
    if not splits:
        splits, divided = files.divide(captions, seed, source)
        logger.info("%s has no split field: %s", source, divided)
    photos = {image: root / image for image in captions}
    if need_images:
        places = folder_texts.PHOTO_FOLDERS if source.endswith(folder_texts.LINES) else ("",)
        photos = PhotoFolders(root, places).find(captions, bare=False)
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    options = {"allow_partial": allow_partial, "need_images": need_images, "source": source, "word_rule": word_rule}
    own = {"official": False, "split_lists": "own", "one_file": one_file, "place": digest}
    return assemble(name, root, splits, captions, photos, f"in {root}", **options, **own)


def _find_rows(name: str, root: Path) -> tuple[str, Iterable[Row], bool]:
    """What says the captions of a folder, in words, its rows, and whether it is one file.

    UserError if nothing says them, or two files do.
    """
    there = [file for file in TABLES if (root / file).is_file()]
    if len(there) > 1:
        raise UserError(f"{name}: {root} has both {' and '.join(there)}; remove one of them")
    if there:
        return str(root / there[0]), _table_rows(root / there[0]), True
    if metadata := _metadata_files(root):
        if len({path.parent for path in metadata}) < len(metadata):
            raise UserError(f"{name}: {metadata[0].parent} has both {' and '.join(METADATA)}; remove one of them")
        more = f" and {len(metadata) - 1} more" if len(metadata) > 1 else ""
        return f"{metadata[0]}{more}", _metadata_rows(root, metadata), len(metadata) == 1
    if found := folder_texts.find(root):
        return found
    raise UserError(f"{name}: no captions.csv or captions.jsonl in {root}; {LAYOUT}")


def _table_rows(path: Path) -> Iterator[Row]:
    for where, row in tables.caption_rows(path):
        split = row.get("split")
        if isinstance(split, str) and not split.strip():
            split = None
        for caption in tables.as_list(row["caption"]) or [""]:  # no caption counts as an empty one
            yield Row(where, row["image"], caption, split)


def _metadata_files(root: Path) -> list[Path]:
    patterns = [f"{place}/{file}" for place in ("*", "data/*") for file in METADATA]
    folders = [root, *(path.parent for pattern in patterns for path in sorted(root.glob(pattern)))]
    return [folder / file for folder in dict.fromkeys(folders) for file in METADATA if (folder / file).is_file()]


def _metadata_rows(root: Path, metadata: list[Path]) -> Iterator[Row]:
    """Their rows; where none says a split and all photos lie in folders of several splits, these are the splits."""
    rows = [
        row._replace(image=str(PurePosixPath(path.parent.relative_to(root).as_posix(), row.image)))
        for path in metadata
        for row in _table_rows(path)
    ]
    folders = [next((split for part in row.image.split("/")[:-1] if (split := _split_of(part))), None) for row in rows]
    if any(row.split for row in rows) or not any(folders):
        return iter(rows)
    if None in folders:
        image, known = rows[folders.index(None)].image, ", ".join(f"{split}/" for split in SPLITS)
        told = f"photos lie in folders of splits, but {image} in none of them ({known})"
        raise UserError(f"{root}: {told}; move {image.rpartition('/')[0] or image}, or give all rows the field split")
    if len(set(folders)) > 1:
        logger.info("%s: the folders' names are the splits", root)
        return (row._replace(split=split) for row, split in zip(rows, folders))
    return iter(rows)


def _split_of(folder: str) -> str | None:
    name = SPLIT_ALIASES.get(folder.lower(), folder.lower())
    return name if name in SPLITS else None


def _image_id(text: str, root: Path, where: str) -> str:
    """The path inside the folder, with `/`; `./a.jpg`, `a.jpg` and an absolute path to it are one image."""
    for folder in (root, root.resolve()):
        if text.startswith(f"{folder}{os.sep}"):
            text = text[len(str(folder)) + 1 :]
    check_name(text, where)
    path = files.path_inside(text)
    if path is None:
        raise UserError(f"{where}: image {text!r} is not a file inside the folder; give its path from there")
    return path
