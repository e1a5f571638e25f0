"""Flickr8k and Flickr30K: their owners' layout (token file and split lists), and Karpathy's JSON or lists.

In: the data set's folder; out: its `Corpus`, sizes asserted against the published ones. Flickr30K's official lists hold
ids without `.jpg`; lists of either form are read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.datasets import files
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.corpus import SPLITS, Corpus
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """What the owners of a Flickr data set publish: file names, numbers of images, addresses."""

    name: str
    token_files: tuple[str, ...]
    lists: dict[str, str]  # split -> file of the official list
    photo_folders: tuple[str, ...]
    sizes: dict[str, dict[str, int]]  # "official", "karpathy" -> split -> images
    publishers: str

    @property
    def photo_place(self) -> str:
        return files.either([f"{folder}/" for folder in self.photo_folders])

    def expected(self) -> str:
        """The part of an error that says which files are expected and who publishes them."""
        return (
            f"expected are {self.token_files[0]}, {', '.join(self.lists.values())} and the photos in "
            f"{self.photo_place}; with --split karpathy dataset_{self.name}.json in place of the text files, or "
            f"{self.token_files[0]} and train_karpathy.txt, val_karpathy.txt, test_karpathy.txt; "
            f"published at {self.publishers}, {files.KARPATHY_URL} (Karpathy's file)"
        )


FLICKR8K = Layout(
    name="flickr8k",
    token_files=("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt"),
    lists={"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"},
    photo_folders=("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    sizes={lists: {"train": 6_000, "val": 1_000, "test": 1_000} for lists in ("official", "karpathy")},
    publishers="https://forms.illinois.edu/sec/1713398 (a form of the University of Illinois)",
)
FLICKR30K = Layout(
    name="flickr30k",
    token_files=("results_20130124.token",),
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
    split_lists: str = "official",
    allow_partial: bool = False,
    need_images: bool = True,
) -> Corpus:
    """Loads `FLICKR8K` or `FLICKR30K`; see `load_corpus` for the arguments.

    "karpathy" takes the JSON where it is there, else the `*_karpathy.txt` lists. UserError if files are missing or
    malformed, or the sizes are not the published ones.
    """
    root = files.find_root(layout.name, root, layout.expected())
    problems: list[str] = []
    json_file = files.first_file(root, f"dataset_{layout.name}.json")
    if split_lists == "karpathy" and json_file:
        splits, captions = files.read_karpathy(json_file)
    else:
        token_file = files.first_file(root, *layout.token_files)
        names = layout.lists if split_lists == "official" else {s: f"{s}_karpathy.txt" for s in SPLITS}
        folder = token_file.parent if token_file else root
        lists = {s: files.first_file(folder, name) for s, name in names.items()}
        if not token_file or not any(lists.values()):
            missing = files.either(list(names.values())) if token_file else layout.token_files[0]
            if split_lists == "karpathy":
                missing = f"dataset_{layout.name}.json or {missing}"
            hint = f"{json_file} is there: --split karpathy takes it; " if json_file else ""
            raise UserError(f"{layout.name}: {missing} not found in {root}; {hint}{layout.expected()}")
        problems = [f"{names[s]} is missing" for s, path in lists.items() if not path]
        splits = {s: read_list(path) for s, path in lists.items() if path}
        captions = read_token_file(token_file)
    photos = files.list_photos(root / folder for folder in layout.photo_folders)
    place, published = f"in {layout.photo_place} of {root}", layout.sizes[split_lists]
    checks = {"published": published, "problems": problems, "allow_partial": allow_partial, "need_images": need_images}
    return assemble(layout.name, root, splits, captions, photos, place, **checks, split_lists=split_lists)


def read_list(path: Path) -> list[str]:
    """The photo names of a split list, one a line; `.jpg` is added to a bare id."""
    names = [text.strip() for _, text in files.read_lines(path)]
    return [name if "." in name else f"{name}.jpg" for name in names if name]


def read_token_file(path: Path) -> dict[str, list[str]]:
    """Lines `name.jpg#k<TAB>caption` -> photo name -> captions in the order of k.

    A photo's name ends at the last `#`: the published Flickr8k file has a photo named `….jpg.1`. A warning counts lines
    that repeat others; UserError at a line of another form, or one that gives a caption a second text.
    """
    lines: dict[tuple[str, int], tuple[int, str]] = {}
    repeated = 0
    for number, text in files.read_lines(path):
        if not text.strip():
            continue
        key, tab, caption = text.partition("\t")
        name, _, k = key.strip().rpartition("#")
        if not (tab and name and k.isdecimal()):
            line = text.strip()[:60]
            raise UserError(f"{path}:{number}: {line!r} is not 'name.jpg#k<TAB>caption'; correct or remove it")
        caption = files.clean_caption(caption)
        before, known = lines.setdefault((name, int(k)), (number, caption))
        if known != caption:
            raise UserError(f"{path}:{number}: {key} has another caption in line {before}; remove one")
        repeated += before != number
    if repeated:
        logger.warning("%s: %d repeated lines are left out", path, repeated)
    captions: dict[str, list[str]] = {}
    for (name, _), (_, caption) in sorted(lines.items(), key=lambda item: item[0][1]):
        captions.setdefault(name, []).append(caption)
    return captions
