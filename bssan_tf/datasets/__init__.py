"""The data sets by name: `load_corpus("flickr30k")` gives the `Corpus` of photos, captions and splits.

In: the value of `--data` and the flags about it; out: a checked corpus. Each data set's module says of which files it
consists; `scenes`, the embedded default, is drawn into the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bssan_tf.config.settings import DATASETS, fields_of
from bssan_tf.datasets.coco import load_coco
from bssan_tf.datasets.corpus import SPLITS, Corpus, Grounding, Split
from bssan_tf.datasets.flickr import FLICKR8K, FLICKR30K, load_flickr
from bssan_tf.datasets.folder import load_folder
from bssan_tf.datasets.scenes import load_scenes
from bssan_tf.errors import UserError

__all__ = ["DATASETS", "SPLITS", "SPLIT_LISTS", "Corpus", "Grounding", "Split", "load_corpus"]

SPLIT_LISTS = fields_of("data")["split"].metadata["choices"]


def scenes_folder(cache: Path | str) -> Path:
    """The folder in the cache in which `scenes` are drawn."""
    return Path(cache) / "scenes"


def load_corpus(
    data: str,
    root: Path | str | None = None,
    split_lists: str = "auto",
    allow_partial: bool = False,
    cache: Path | str = "cache",
    scene_sizes: Mapping[str, int] | None = None,
    need_images: bool = True,
    seed: int = 0,
    progress: bool = True,
    word_rule: str = "unicode",
) -> Corpus:
    """Loads the data set that `--data` names.

    UserError if the name is unknown, files are missing or malformed, or the sizes are not the published ones.

    Args:
        data: one of `DATASETS`, or the path of a folder of pictures with captions (see `folder.py`).
        root: the data set's folder; by default $BSSAN_DATA/NAME, then data/NAME.
        split_lists: "auto", those that are there; "official"; "karpathy"; or, of the Flickrs, "random".
        allow_partial: accept a subset of the published data set, with warnings that say what is missing.
        cache: where `scenes` are drawn, in its folder "scenes".
        scene_sizes: split -> number of scenes; None for the default.
        need_images: False leaves out the check that the photo files are there, for work on the text alone.
        seed: of scenes, and of the splits of a folder that says none.
        word_rule: the run's; of "ascii", that of older runs, captions without a word are kept.
    """
    if split_lists not in SPLIT_LISTS:
        raise UserError(f"--split {split_lists}: not known; choose one of {', '.join(SPLIT_LISTS)}")
    lists = {"karpathy": ("flickr8k", "flickr30k", "coco"), "random": ("flickr8k", "flickr30k")}
    if split_lists in lists and data not in lists[split_lists]:
        raise UserError(f"--split {split_lists}: {data} has no such lists; leave the flag out")
    if data == "scenes":
        if root is not None:
            raise UserError(f"--root {root}: scenes are drawn into the cache; say where it is by --cache")
        return load_scenes(scenes_folder(cache), seed, scene_sizes, progress)
    if data in ("flickr8k", "flickr30k"):
        layout = FLICKR8K if data == "flickr8k" else FLICKR30K
        return load_flickr(layout, root, split_lists, allow_partial, need_images, word_rule)
    if data == "coco":
        return load_coco(root, split_lists, allow_partial, need_images, word_rule)
    name = "folder"
    if data != "folder":
        if not Path(data).is_dir():
            known = ", ".join(name for name in DATASETS if name != "folder")  # its folder is what should be given
            remedy = "correct it; if a trained run's photos have moved, give their new place by --root"
            raise UserError(f"--data {data}: no such folder, and not one of the data sets {known}; {remedy}")
        if root is not None:
            raise UserError(f"--root {root}: --data {data} is a folder already; leave --root out")
        root, name = Path(data), f"folder-{Path(data).resolve().name}"
    return load_folder(root, name, allow_partial, need_images, seed, word_rule)
