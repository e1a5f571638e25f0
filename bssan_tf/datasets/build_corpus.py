"""From what a format's reader found to a checked `Corpus`.

In: the split lists, the captions and the photo files of a data set; out: its corpus. All that is missing against the
published data set is told at once: as an error, or with `--allow-partial` as warnings with counts; then only the
images that have both a photo and captions stay.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bssan_tf.datasets.corpus import SPLITS, Corpus
from bssan_tf.datasets.photos import check_name
from bssan_tf.datasets.words import has_word
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)


def assemble(
    name: str,
    root: Path,
    splits: Mapping[str, Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    photos: Mapping[str, Path],
    photo_place: str,
    *,
    published: Mapping[str, int] | None = None,
    problems: Sequence[str] = (),
    allow_partial: bool = False,
    need_images: bool = True,
    official: bool = True,
    split_lists: str = "official",
    one_file: bool = True,
    place: str = "",
    source: str = "its captions file",
    word_rule: str = "unicode",
    numbers: Mapping[str, Sequence[int]] | None = None,
) -> Corpus:
    """Builds the corpus of the images in `splits`: train, val, test, each in the order of its list.

    UserError if nothing is left, an image is in two splits, a name or caption is no text or, without `allow_partial`,
    anything is missing or a caption has no word.

    Args:
        name, root: the data set and its folder.
        splits, published: split -> image ids, and -> number of images, asserted where given.
        captions: image id -> captions, in the order of their file; images in no split are left out.
        photos: image id -> photo file, for the photos there are; others get a path in `images/`.
        photo_place, source: where photos are looked for, "in images/ of ROOT", and the captions' format, in words.
        problems: what the reader has found missing.
        allow_partial, need_images, word_rule: see `load_corpus`; a corpus that lacks anything is not official.
        official, split_lists, one_file, place: see `Corpus`.
        numbers: image id -> its captions' numbers, for `Corpus.caption_numbers`; needed of all images.
    """
    splits = {split: list(splits[split]) for split in SPLITS if split in splits}
    _check_disjoint(name, splits)
    listed = [image for images in splits.values() for image in images]
    _check_text(name, listed, captions)
    texts, wordless = (captions, []) if word_rule == "ascii" else _with_words(listed, captions)
    kept, missing = _complete(listed, texts, photos if need_images else None, photo_place)
    problems = [*problems, *_other_sizes(splits, published or {}), *wordless, *missing]
    _tell(name, root, problems, allow_partial, bool(kept))
    row = {image: index for index, image in enumerate(kept)}
    rows = {split: found for split, ids in splits.items() if (found := [row[image] for image in ids if image in row])}
    logger.info("%s: captions from %s, %s", name, source, _folders_of([photos.get(image) for image in kept]))
    logger.info("%s: %s images", name, ", ".join(f"{split} {len(images):,}" for split, images in rows.items()))
    return Corpus(
        name=name,
        image_ids=tuple(kept),
        image_paths=tuple(photos.get(image, root / "images" / image) for image in kept),
        captions=tuple(caption for image in kept for caption in texts[image]),
        image_of_caption=np.repeat(np.arange(len(kept)), [len(texts[image]) for image in kept]),
        splits=rows,
        official=official and not problems,
        split_lists=split_lists,
        file_ids=tuple(captions),
        one_file=one_file,
        place=place,
        caption_numbers=_numbers_of(kept, captions, texts, numbers or {}),
    )


def _numbers_of(
    kept: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    texts: Mapping[str, Sequence[str]],
    numbers: Mapping[str, Sequence[int]],
) -> tuple[int, ...]:
    """The numbers of the captions that stay, `texts`; () where those of an image are not known."""
    if not all(image in numbers for image in kept):
        return ()
    pairs = ((image, text, number) for image in kept for text, number in zip(captions[image], numbers[image]))
    return tuple(number for image, text, number in pairs if text in texts[image])


def _complete(
    listed: Sequence[str], captions: Mapping[str, Sequence[str]], photos: Mapping[str, Path] | None, photo_place: str
) -> tuple[list[str], list[str]]:
    """The images with captions and, where `photos` are given, a photo; and one sentence about each lack."""
    kept = with_captions = [image for image in listed if captions.get(image)]
    problems = _missing("have no caption", listed, kept)
    if photos is not None:
        kept = [image for image in with_captions if image in photos]
        problems += _missing(f"have no photo file {photo_place}", with_captions, kept)
    return kept, problems


def _tell(name: str, root: Path, problems: Sequence[str], allow_partial: bool, any_left: bool) -> None:
    """All that is missing: as warnings where that is allowed and images are left, else as a UserError."""
    if problems and not allow_partial:
        raise UserError(f"{name}: {'; '.join(problems)}; complete {root}, or use what is there by --allow-partial")
    if not any_left:
        raise UserError(f"{name}: no image is left in {root}: {'; '.join(problems) or 'its lists are empty'}")
    for problem in problems:
        logger.warning("%s: %s", name, problem)


def _other_sizes(splits: Mapping[str, Sequence[str]], published: Mapping[str, int]) -> list[str]:
    """One sentence about each split that has not its published size."""
    sizes = {split: (len(splits[split]), count) for split, count in published.items() if split in splits}
    return [f"{split} lists {n:,} images, published are {count:,}" for split, (n, count) in sizes.items() if n != count]


def _missing(what: str, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """One sentence about the images that `after` has lost, or none."""
    kept = set(after)
    lost = [image for image in before if image not in kept]
    return [f"{len(lost):,} of {len(before):,} images {what} (the first: {lost[0]})"] if lost else []


def _check_text(name: str, images: Sequence[str], captions: Mapping[str, Sequence[str]]) -> None:
    """UserError for a photo's name, or a caption, that can't be stored."""
    for image in images:
        check_name(image, name)
        for caption in captions.get(image, ()):
            try:
                caption.isascii() or caption.encode()
            except UnicodeEncodeError:
                raise UserError(f"{name}: a caption of {image} is no Unicode text: {caption!r}; correct it") from None


def _with_words(
    images: Sequence[str], captions: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The captions of these images that have a word, and one sentence about the others, or none."""
    total, bad = 0, []
    kept: dict[str, Sequence[str]] = {}
    for image in images:
        texts = captions.get(image, ())
        found = [text for text in texts if has_word(text)]
        total += len(texts)
        bad += [image] * (len(texts) - len(found))
        kept[image] = found
    told = f"{len(bad):,} of {total:,} captions are empty or only punctuation (the first: of {bad[0]})" if bad else ""
    return kept, [told] if bad else []


def _folders_of(paths: Sequence[Path | None]) -> str:
    """Where the photos lie, in words; the three folders that have most."""
    counts = Counter(path.parent for path in paths if path is not None)
    if not counts:
        return "without photos"
    shown = [f"{folder}/ ({count:,})" for folder, count in counts.most_common(3)]
    return f"photos in {', '.join(shown)}" + (f" and {len(counts) - 3:,} more folders" if len(counts) > 3 else "")


def _check_disjoint(name: str, splits: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for split, images in splits.items():
        for image in images:
            if image in seen:
                raise UserError(f"{name}: {image} is listed in {seen[image]} and again in {split}; remove one")
            seen[image] = split
