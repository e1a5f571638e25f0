"""Word vectors from captions alone, without photos: words that describe the same pictures get similar vectors.

In: files of captions, of any data set. Out: float32 (V, 300), a row for each word of a vocabulary: a truncated
eigendecomposition of the positive pointwise mutual information (Levy and Goldberg, NIPS 2014) of pairs of words in
different captions of one image. So "man" is near "guy", and "guitar" near "acoustic".
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bssan_tf.datasets import caption_files, coco
from bssan_tf.datasets.files import read_json, read_lines
from bssan_tf.datasets.words import split_words
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

DIMENSIONS = 300
LENGTH = 4.4  # root mean square of the vectors, as of 50-d GloVe over words of captions
_LEAST, _MOST_WORDS = 3, 12_000  # captions that a word is in; the most frequent words, whose pairs take 4 bytes each
_ROUNDS, _SPARE = 6, 60  # of the subspace iteration, and its dimensions beyond 300
_PAIRS = 2**22  # counted at once
_NUMBER = re.compile(r"\d{6,}")  # of a photo, in its name: Flickr's and COCO's
_SUFFIXES = (".json", ".token", ".csv", ".txt")

Images = dict[str, list[str]]  # image -> its captions


def read_corpus(path: str | Path) -> Images:
    """The captions of a file, or of all files of captions in a folder; UserError where there are none.

    A file is COCO's `captions_*.json`, Karpathy's JSON, a `.token` file, a table with `image` and `caption`; or, if it
    is named itself, plain text with a caption on each line, each of an image of its own.
    """
    path, source = Path(path), f"--text-corpus {path}"
    if not path.exists():
        raise UserError(f"{source}: no such file; give a file of captions, or a folder of such files")
    files = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.suffix.lower() in _SUFFIXES)
    found: Images = {}
    for file in files:
        if (reader := _reader(file, named=path.is_file())) is None:
            logger.info("%s: %s is no file of captions", source, file.name)
            continue
        own = reader(file)
        found |= {f"{file.name}/{name}": captions for name, captions in own.items()}
        logger.info("%s: %d images of %s", source, len(own), file.name)
    if not found:
        remedy = f"give a file of captions, or a folder of such ({', '.join(_SUFFIXES)})"
        raise UserError(f"{source}: has no captions; {remedy}")
    return found


def _reader(path: Path, named: bool) -> Callable[[Path], Images] | None:
    """What reads a file of captions; None for another kind. Plain text is one only where the user has named it."""
    if path.suffix.lower() == ".json":
        content = read_json(path)
        images, notes = content.get("images"), content.get("annotations")
        if _has(images, "sentences"):
            return lambda file: caption_files.read_karpathy(file).captions
        return coco.read_annotations if named or _has(notes, "caption") else None
    first = next((text for _, text in read_lines(path) if text.strip()), "")
    if re.match(r"\S+#\d+\t", first):
        return lambda file: caption_files.read_token_file(file).captions
    if first.replace(" ", "").lower().startswith("image_name|"):
        return lambda file: caption_files.read_results(file).captions
    if re.match(r"image\w*\s*[,;\t]\s*\w+", first):
        return lambda file: caption_files.read_table(file).captions
    return _read_plain if named else None


def _has(rows: object, field: str) -> bool:
    """Whether the first of some rows of a JSON file has a field."""
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and field in rows[0]


def _read_plain(path: Path) -> Images:
    return {f"line {number:,}": [text] for number, text in read_lines(path) if text.strip()}


def without(corpus: Images, names: Collection[str], captions: Collection[str], rule: str = "unicode") -> Images:
    """The corpus less some images: those whose name has the number of one of `names`, or else is the same, and those
    with one of these `captions`, whatever its punctuation.
    """
    keys, texts = {_key(name) for name in names}, {tuple(split_words(text, rule)) for text in captions}
    return {
        name: own
        for name, own in corpus.items()
        if _key(name) not in keys and not any(tuple(split_words(text, rule)) in texts for text in own)
    }


def _key(name: str) -> str:
    """What tells a photo whatever its data set calls it."""
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    number = _NUMBER.search(stem)
    return number[0].lstrip("0") if number else stem.lower()


def caption_vectors(
    images: Sequence[Sequence[str]], words: Sequence[str], rule: str = "unicode", seed: int = 0, progress: bool = True
) -> np.ndarray:
    """A vector for each of `words` from the captions of images: float32 (V, 300), of mean 0 over the corpus' words.

    A word of fewer than three captions gets zeros, as padding and the unknown word do. An image with one caption counts
    the pairs within it. UserError where the captions have too few words.
    """
    documents = [[set(split_words(caption, rule)) for caption in captions] for captions in images]
    counts = Counter(word for captions in documents for caption in captions for word in caption)
    known = [word for word, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if count >= _LEAST]
    known = known[:_MOST_WORDS]
    if len(known) <= DIMENSIONS:
        raise UserError(f"--text-corpus: only {len(known)} words are in {_LEAST} captions or more; give more captions")
    index = {word: row for row, word in enumerate(known)}
    rows = [[np.array([index[w] for w in sorted(c) if w in index], np.int64) for c in d] for d in documents]
    vectors = _decomposed(_positive_information(_pair_counts(rows, len(known), progress)), seed)
    vectors -= vectors.mean(axis=0)
    vectors *= LENGTH / np.sqrt(np.mean(np.sum(vectors**2, axis=1)))
    found = np.zeros((len(words), DIMENSIONS), np.float32)
    there = [row for row, word in enumerate(words) if word in index]
    found[there] = vectors[[index[words[row]] for row in there]]
    logger.info("text corpus: %d images, vectors for %d of %d words", len(images), len(there), len(words))
    return found


def _pair_counts(images: list[list[np.ndarray]], size: int, progress: bool) -> np.ndarray:
    """In how many pairs of captions of one image one word is in the first, another in the second: float32 (V, V)."""
    found, waiting, held = np.zeros(size * size, np.float32), [], 0

    def add() -> None:
        places, times = np.unique(np.concatenate(waiting), return_counts=True)
        found[places] += times
        waiting.clear()

    for captions in tqdm(images, desc="text corpus", unit="image", leave=False, disable=not progress):
        pairs = [(0, 0)] if len(captions) == 1 else [(i, j) for i in range(len(captions)) for j in range(len(captions))]
        for i, j in pairs:
            if i != j or len(captions) == 1:
                waiting.append((captions[i][:, None] * size + captions[j]).ravel())
                held += waiting[-1].size
        if held > _PAIRS:
            add()
            held = 0
    if waiting:
        add()
    return found.reshape(size, size)


def _positive_information(counts: np.ndarray) -> np.ndarray:
    """max(0, log p(a, b) / (p(a) p(b))) of symmetric counts (V, V)."""
    share = counts.sum(axis=1) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(counts / counts.sum()) - np.log(share)[:, None] - np.log(share)
    return np.maximum(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), 0)


def _decomposed(matrix: np.ndarray, seed: int) -> np.ndarray:
    """U √λ of the 300 largest eigenvalues, by subspace iteration (Halko et al., SIAM Review 2011): float32 (V, 300)."""
    size = min(len(matrix), DIMENSIONS + _SPARE)
    basis = np.random.default_rng(seed).normal(size=(len(matrix), size)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(matrix @ basis)
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    best = np.argsort(-values)[:DIMENSIONS]
    return basis @ vectors[:, best] * np.sqrt(np.maximum(values[best], 0))
