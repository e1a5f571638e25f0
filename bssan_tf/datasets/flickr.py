"""Flickr8k and Flickr30K as their owners, Kaggle, Hugging Face and Karpathy publish them.

In: the data set's folder; out: its `Corpus`, sizes asserted against the published ones. Flickr30K's official lists hold
ids without `.jpg`; lists of either form are read. Captions and lists may come from different publishers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.datasets import files
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.caption_files import (
    Captions,
    read_annotations_csv,
    read_karpathy,
    read_list,
    read_results,
    read_table,
    read_token_file,
)  # fmt: skip
from bssan_tf.datasets.corpus import SPLITS, Corpus
from bssan_tf.datasets.photos import PhotoFolders
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

MOST_RANDOM = 1_000  # validation images, and test images, of --split random: as published
SEED = 0  # of --split random
KARPATHY_LISTS = {split: f"{split}_karpathy.txt" for split in SPLITS}


@dataclass(frozen=True)
class Layout:
    """What is published of a Flickr data set: file names, numbers of images, addresses."""

    name: str
    readers: dict[str, Callable[[Path], Captions]]  # file of captions -> its reader; the first that is there is taken
    lists: dict[str, str]  # split -> file of the official list
    photo_folders: tuple[str, ...]
    sizes: dict[str, dict[str, int]]  # "official", "karpathy" -> split -> images
    publishers: str

    @property
    def photo_place(self) -> str:
        return files.either([f"{folder}/" for folder in self.photo_folders])

    @property
    def json_name(self) -> str:
        return f"dataset_{self.name}.json"

    def expected(self) -> str:
        """The part of an error that says which files are expected and who publishes them."""
        first, *tables = self.readers
        return (
            f"expected are {first} (or {files.either(tables)}), {', '.join(self.lists.values())} and "
            f"the photos in {self.photo_place}; with --split karpathy {self.json_name} in place of the text files, or "
            f"{', '.join(KARPATHY_LISTS.values())} in place of the lists; "
            f"published at {self.publishers}, {files.KARPATHY_URL} (Karpathy's file); docs/data.md names mirrors"
        )


FLICKR8K = Layout(
    name="flickr8k",
    readers={"Flickr8k.token.txt": read_token_file, "captions.txt": read_table, "captions.csv": read_table},
    lists={"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"},
    photo_folders=("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    sizes={lists: {"train": 6_000, "val": 1_000, "test": 1_000} for lists in ("official", "karpathy")},
    publishers="https://forms.illinois.edu/sec/1713398 (a form of the University of Illinois)",
)
FLICKR30K = Layout(
    name="flickr30k",
    readers={
        "results_20130124.token": read_token_file,
        "results.csv": read_results,
        "flickr_annotations_30k.csv": read_annotations_csv,
    },
    lists={"train": "train.txt", "val": "val.txt", "test": "test.txt"},
    photo_folders=("images", "flickr30k-images", "flickr30k_images"),
    sizes={
        "official": {"train": 29_783, "val": 1_000, "test": 1_000},
        "karpathy": {"train": 29_000, "val": 1_014, "test": 1_000},
    },
    publishers=(
        "https://shannon.cs.illinois.edu/DenotationGraph/ (token file; photos by its form "
        "https://forms.illinois.edu/sec/229675), https://github.com/BryanPlummer/flickr30k_entities (lists)"
    ),
)


def load_flickr(
    layout: Layout,
    root: Path | None = None,
    split_lists: str = "auto",
    allow_partial: bool = False,
    need_images: bool = True,
    word_rule: str = "unicode",
) -> Corpus:
    """Loads `FLICKR8K` or `FLICKR30K`; see `load_corpus` for the arguments.

    "auto" takes the official lists where one is there, else Karpathy's; "karpathy" those of a file of captions that
    carries them, else the `*_karpathy.txt` lists. UserError if files are missing or malformed, or the sizes are not the
    published ones.
    """
    root = files.find_root(layout.name, root, layout.expected())
    folders = PhotoFolders(root, (*layout.photo_folders, ""))
    places = ["", *(f"{name}/" for name, is_folder in sorted(folders.listing(root).items()) if is_folder)]
    readers = {**layout.readers, layout.json_name: read_karpathy}
    there = {name: path for name in readers if (path := files.first_file(root, *(f"{p}{name}" for p in places)))}
    lists = {
        kind: {split: files.first_file(root, *(f"{place}{name}" for place in places)) for split, name in names.items()}
        for kind, names in (("official", layout.lists), ("karpathy", KARPATHY_LISTS))
    }
    if not there:
        raise UserError(f"{layout.name}: {next(iter(readers))} not found in {root}; {layout.expected()}")
    carriers = [name for name in there if readers[name] in (read_karpathy, read_annotations_csv)]
    if split_lists == "auto":
        karpathy = "karpathy" if carriers or any(lists["karpathy"].values()) else "official"
        split_lists = "official" if any(lists["official"].values()) else karpathy
        logger.info("%s: --split %s, whose lists are there", layout.name, split_lists)
    carried = bool(split_lists == "karpathy" and carriers)
    path = there[(carriers[-1:] if carried else [*there])[0]]  # Karpathy's own file is the last
    if split_lists != "random" and not carried and not any(lists[split_lists].values()):
        raise UserError(_no_lists(layout, root, path, split_lists, carriers))
    found, problems = readers[path.name](path), []
    photos = folders.find(found.captions, found.folders) if need_images else {}
    if split_lists == "random":
        splits = _divided(layout, path, found, photos)
    elif carried:
        splits = found.splits
    else:
        names = layout.lists if split_lists == "official" else KARPATHY_LISTS
        problems = [f"{names[split]} is missing" for split, file in lists[split_lists].items() if not file]
        splits = {split: read_list(file) for split, file in lists[split_lists].items() if file}
    return assemble(
        layout.name,
        root,
        splits,
        found.captions,
        photos,
        f"in {layout.photo_place} of {root}",
        published=layout.sizes.get(split_lists),
        problems=problems,
        allow_partial=allow_partial,
        need_images=need_images,
        official=split_lists != "random",
        split_lists=split_lists,
        source=f"{found.format} ({path})",
        word_rule=word_rule,
    )


def _divided(layout: Layout, path: Path, found: Captions, photos: Mapping[str, Path]) -> dict[str, list[str]]:
    """The splits of --split random: of the images that have a photo, where any has; a warning counts the others."""
    names = [name for name in found.captions if name in photos] if photos else [*found.captions]
    if lacking := len(found.captions) - len(names):
        first = next(name for name in found.captions if name not in photos)
        told = "%s: %d of %d images have no photo file in %s and are left out (the first: %s)"
        logger.warning(told, layout.name, lacking, len(found.captions), layout.photo_place, first)
    splits, divided = files.divide(names, SEED, str(path), MOST_RANDOM)
    logger.info("%s: %s", layout.name, divided)
    return splits


def _no_lists(layout: Layout, root: Path, path: Path, split_lists: str, carriers: list[str]) -> str:
    """The error where captions are there, but no lists."""
    wanted = files.either([*(layout.lists if split_lists == "official" else KARPATHY_LISTS).values()])
    if split_lists == "karpathy":
        wanted = f"{layout.json_name} or {wanted}"
    hint = f"{carriers[-1]} is there: --split karpathy takes its lists" if carriers else "or divide by --split random"
    return (
        f"{layout.name}: {path} says no splits, and {wanted} not found in {root}; fetch the lists into it, {hint}; "
        f"{layout.expected()}"
    )
