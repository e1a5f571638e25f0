"""Who says what about which photo: the one type that every data set is turned into.

A `Corpus` holds the photos' ids and paths, the captions, an explicit `image_of_caption` array and the splits; a `Split`
is one of its splits with images and captions counted from 0. `Grounding` is the ground truth of `scenes` and of COCO's
instances: where each object lies and which word of a caption names it. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bssan_tf.errors import UserError

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val"}


def _frozen_indices(values, what: str, below: int) -> np.ndarray:
    """`values` as a read-only int64 copy; ValueError unless all of them are in [0, below)."""
    array = np.array(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what}: must be a flat array of integers, is {array.dtype} {array.shape}")
    if array.size and (array.min() < 0 or array.max() >= below):
        raise ValueError(f"{what}: {array.min()} to {array.max()}, must lie in [0, {below})")
    array = array.astype(np.int64)
    array.setflags(write=False)
    return array


def _same_lengths(**fields) -> None:
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lengths differ: {lengths}")


@dataclass(frozen=True, eq=False)
class Grounding:
    """Ground truth of a corpus: objects of each image, and the words that name them.

    A word is given as its position among the whitespace tokens of the lower-cased caption without punctuation, from 0.
    Named are the colour or the shape of an object of scenes, and the class of objects of COCO. ValueError if boxes and
    labels do not fit each other, or a box is empty or leaves the image.
    """

    boxes: tuple  # per image float32 (n_i, 4): x1, y1, x2, y2 as fractions of the image, in [0, 1]
    labels: tuple  # per image the n_i descriptions of its objects, e.g. "large red circle", or "dog"
    named: tuple  # per caption its (word position, object index) pairs

    def __post_init__(self):
        _same_lengths(boxes=self.boxes, labels=self.labels)
        boxes = tuple(np.array(b, np.float32).reshape(-1, 4) for b in self.boxes)
        for image, (box, labels) in enumerate(zip(boxes, self.labels)):
            if len(box) != len(labels):
                raise ValueError(f"image {image}: {len(box)} boxes, {len(labels)} labels")
            if box.size and not (box.min() >= 0 and box.max() <= 1 and (box[:, :2] < box[:, 2:]).all()):
                raise ValueError(f"image {image}: not boxes x1 < x2, y1 < y2 in [0, 1]: {box.tolist()}")
        object.__setattr__(self, "boxes", boxes)

    def check(self, image_of_caption: np.ndarray) -> None:
        """ValueError unless every (word, object) pair refers to an object of the caption's image."""
        _same_lengths(named=self.named, captions=image_of_caption)
        for caption, (pairs, image) in enumerate(zip(self.named, image_of_caption)):
            for position, obj in pairs:
                if position < 0 or not 0 <= obj < len(self.boxes[image]):
                    raise ValueError(f"caption {caption}: ({position}, {obj}) is no word and object")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Photos, captions, splits; ValueError if they do not fit, ids repeat, splits overlap or a photo has no caption."""

    name: str  # the data set, e.g. "flickr30k"
    image_ids: tuple[str, ...]  # N_i unique names; the feature store's rows are in this order
    image_paths: tuple[Path, ...]  # N_i
    captions: tuple[str, ...]  # N_c
    image_of_caption: np.ndarray  # int64 (N_c,), the index of each caption's image
    splits: Mapping[str, np.ndarray]  # "train", "val", "test" (those there are) -> int64 indices in the list's order
    grounding: Grounding | None = None
    boxes_file: Path | None = None  # of scenes: their boxes.npz
    official: bool = True  # the published data set, whole; False for a subset, a folder, scenes
    split_lists: str = "official"  # whose lists divide it: "official", "karpathy", "2017" (COCO), "own"
    file_ids: tuple[str, ...] = ()  # ids in the order of the captions' file, those left out included; () = image_ids
    one_file: bool = True  # one file of captions names all images; False: rows of a user's arrays have no sure order
    caption_numbers: tuple[int, ...] = ()  # N_c, COCO's own, where its file says them; else ()
    place: str = ""  # tells corpora of one name apart in the cache, e.g. a digest of a folder's path

    def __post_init__(self):
        for name in ("image_ids", "image_paths", "captions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        n = len(self.image_ids)
        _same_lengths(image_ids=self.image_ids, image_paths=self.image_paths)
        _same_lengths(captions=self.captions, image_of_caption=self.image_of_caption)
        if self.caption_numbers:
            _same_lengths(captions=self.captions, caption_numbers=self.caption_numbers)
        if len(set(self.image_ids)) < n:
            raise ValueError("image_ids: an id occurs twice")
        owners = _frozen_indices(self.image_of_caption, "image_of_caption", n)
        splits = {name: _frozen_indices(rows, f"split {name}", n) for name, rows in self.splits.items()}
        members = np.concatenate([*splits.values(), np.zeros(0, np.int64)])
        if len(np.unique(members)) < len(members):
            raise ValueError("splits: an image occurs twice")
        if np.bincount(owners, minlength=n).min(initial=1) < 1:
            raise ValueError("an image has no caption")
        if self.grounding is not None:
            _same_lengths(image_ids=self.image_ids, grounding=self.grounding.boxes)
            self.grounding.check(owners)
        object.__setattr__(self, "image_of_caption", owners)
        object.__setattr__(self, "splits", splits)

    @property
    def cache_key(self) -> str:
        """Name of its folder in the cache: corpora with other lists or in another place have other images."""
        lists = "" if self.split_lists in ("official", "own") else self.split_lists
        return "-".join(filter(None, (self.name, lists, self.place)))

    def split(self, name: str) -> Split:
        """One split ("dev", "validation" mean "val"), captions grouped by image in its order; UserError if absent."""
        name = SPLIT_ALIASES.get(name, name)
        if name not in self.splits:
            raise UserError(f"{self.name}: has no split {name!r}; choose one of {', '.join(self.splits)}")
        images = self.splits[name]
        position = np.full(len(self.image_ids), -1, np.int64)
        position[images] = np.arange(len(images))
        owner = position[self.image_of_caption]  # (N_c,), -1: not in this split
        captions = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
        return Split(
            corpus_name=self.name,
            name=name,
            image_ids=tuple(self.image_ids[i] for i in images),
            image_paths=tuple(self.image_paths[i] for i in images),
            captions=tuple(self.captions[i] for i in captions),
            image_of_caption=owner[captions],
            image_rows=images,
            caption_rows=captions,
        )


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a corpus, images and captions counted from 0; captions are grouped by image."""

    corpus_name: str  # e.g. "flickr8k"
    name: str  # e.g. "val"
    image_ids: tuple[str, ...]  # N_i
    image_paths: tuple[Path, ...]  # N_i
    captions: tuple[str, ...]  # N_c
    image_of_caption: np.ndarray  # int64 (N_c,) into this split's images, ascending
    image_rows: np.ndarray  # int64 (N_i,), the images' indices in the corpus = their rows in the feature store
    caption_rows: np.ndarray  # int64 (N_c,), the captions' indices in the corpus

    def __post_init__(self):
        _same_lengths(image_ids=self.image_ids, image_paths=self.image_paths, image_rows=self.image_rows)
        _same_lengths(captions=self.captions, owners=self.image_of_caption, caption_rows=self.caption_rows)
        if (np.diff(self.image_of_caption) < 0).any():
            raise ValueError("image_of_caption: captions are not grouped by image")

    def _keep(self, images: np.ndarray, captions: np.ndarray | None = None) -> Split:
        """The given images with the given captions of theirs, or all; both are ascending indices."""
        if captions is None:
            captions = np.flatnonzero(np.isin(self.image_of_caption, images))
        return replace(
            self,
            image_ids=tuple(self.image_ids[i] for i in images),
            image_paths=tuple(self.image_paths[i] for i in images),
            captions=tuple(self.captions[i] for i in captions),
            image_of_caption=np.searchsorted(images, self.image_of_caption[captions]).astype(np.int64),
            image_rows=self.image_rows[images],
            caption_rows=self.caption_rows[captions],
        )

    def captions_by_image(self) -> list[tuple[str, ...]]:
        """The captions of each image."""
        ends = np.searchsorted(self.image_of_caption, np.arange(len(self.image_ids) + 1))
        return [self.captions[start:stop] for start, stop in zip(ends, ends[1:])]

    def sample_images(self, n: int, seed: int = 0) -> Split:
        """A seeded random subset of n images (all, of fewer) in order, with all captions; a smaller n is in it."""
        if n < 1:
            raise ValueError(f"sample_images: n is {n}, must be positive")
        if n >= len(self.image_ids):
            return self
        # RandomState: NumPy has frozen its stream, so that the subset stays the same for ever
        return self._keep(np.sort(np.random.RandomState(seed).permutation(len(self.image_ids))[:n]))

    def without_rows(self, rows: np.ndarray) -> Split:
        """The split without the images of these corpus rows, e.g. pictures that could not be read."""
        return self._keep(np.flatnonzero(~np.isin(self.image_rows, rows)))

    def only(self, image: int, caption: int) -> Split:
        """The split of one image with one of its captions."""
        return self._keep(np.array([image]), np.array([caption]))

    def captions_per_image(self, n: int) -> Split:
        """The first n captions of each image; an image that has fewer keeps them all."""
        if n < 1:
            raise ValueError(f"captions_per_image: n is {n}, must be positive")
        first = np.searchsorted(self.image_of_caption, self.image_of_caption)  # (N_c,) of the same image
        rank = np.arange(len(self.captions)) - first
        return self._keep(np.arange(len(self.image_ids)), np.flatnonzero(rank < n))
