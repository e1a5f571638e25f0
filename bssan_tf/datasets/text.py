"""Captions to token ids, and the GloVe vectors of their words.

In: the captions of the train split, a GloVe text file; out: a `Tokenizer` (captions -> int32 (N, L), zero-padded) and
an embedding matrix float32 (V, E) with a row for each of its words. Standardisation is Keras' own (lower-case, no
punctuation, split at white space), so that an exported model tokenises inside its graph with the same layer.
"""

from __future__ import annotations

import logging
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

PAD, UNKNOWN = 0, 1
SPECIAL = ("", "[UNK]")  # the words of PAD and UNKNOWN, as Keras has them
_LARGE = 2**26  # bytes of a GloVe file that is worth a bar

# What TextVectorization does with `lower_and_strip_punctuation`: ASCII only, é and É stay two letters.
_STANDARD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)
_WORD = re.compile(r"[^ \t\n\v\f\r]+")


def split_words(caption: str) -> list[str]:
    """All words of a caption after Keras' standardisation: lower-case, without punctuation."""
    return _WORD.findall(caption.translate(_STANDARD))


class Tokenizer:
    """Captions -> token ids, zero-padded or cut to `length` L (30 in Section IV-B); a thin cover of TextVectorization.

    `words` are the vocabulary without padding and unknown, most frequent first; ValueError if one repeats, is empty, or
    is not a single standardised word.
    """

    def __init__(self, words: Iterable[str], length: int = 30):
        words = tuple(words)
        if not words:
            raise ValueError("words: the vocabulary is empty")
        if len(set(words)) < len(words):
            raise ValueError("words: a word occurs twice")
        for word in words:
            if split_words(word) != [word]:
                raise ValueError(f"words: {word!r} is not a lower-case word without punctuation")
        self.words, self.length = SPECIAL + words, length  # the word of each token id: "" is 0, "[UNK]" is 1
        # strings (B,) -> int64 (B, L); exported models carry it
        self.layer = tf.keras.layers.TextVectorization(
            standardize="lower_and_strip_punctuation",
            split="whitespace",
            output_sequence_length=length,
            vocabulary=list(words),
            name="tokens_of",
        )

    @classmethod
    def fit(cls, train_captions: Iterable[str], length: int = 30) -> Tokenizer:
        """All words of these captions, which must be those of the TRAIN split only; UserError if there are none.

        The most frequent words come first, equally frequent ones in alphabetical order.
        """
        counts = Counter(word for caption in train_captions for word in split_words(caption))
        if not counts:
            raise UserError("captions: no train caption has a word; check the captions file")
        return cls(sorted(counts, key=lambda word: (-counts[word], word)), length)

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """int32 (N, L). A caption without a word becomes a row of zeros; a warning counts these."""
        captions = list(captions)
        tokens = np.zeros((len(captions), self.length), np.int32)
        for start in range(0, len(captions), 8192):
            part = slice(start, start + 8192)
            tokens[part] = self.layer(tf.constant(captions[part], tf.string)).numpy()
        empty = np.flatnonzero(tokens[:, 0] == PAD)
        if empty.size:
            first = captions[empty[0]]
            logger.warning("%d of %d captions have no words; the first: %r", empty.size, len(captions), first)
        return tokens

    def words_of(self, caption: str) -> list[str]:
        """The words that the tokens stand for, unknown ones as in the caption; padding has none."""
        return split_words(caption)[: self.length]

    def read_sentence(self, sentence: str, source: str) -> np.ndarray:
        """Token ids int32 (1, L) of a sentence given as `source`; UserError without words; unknown ones are logged."""
        words = self.words_of(sentence)
        if not words:
            raise UserError(f"{source} {sentence!r}: has no word; give a sentence")
        if unknown := [word for word in words if word not in self.words]:
            logger.warning("not in the vocabulary, so read as one unknown word: %s", ", ".join(unknown))
        return self([sentence])

    def save(self, path: Path) -> None:
        """Writes the vocabulary without the special words, one a line: line n (from 1) is token id n + 1."""
        Path(path).write_bytes("".join(f"{word}\n" for word in self.words[2:]).encode())

    @classmethod
    def load(cls, path: Path, length: int = 30) -> Tokenizer:
        """Reads what `save` has written; UserError if the file can't be read, or is not a vocabulary."""
        try:
            return cls(Path(path).read_bytes().decode("utf-8").rstrip("\n").split("\n"), length)
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); is the run complete?") from None
        except ValueError as error:  # UnicodeDecodeError too
            raise UserError(f"{path}: not a vocabulary of one word a line ({error}); restore it") from None


@dataclass(frozen=True)
class Coverage:
    """How much of a vocabulary a GloVe file covers; padding and unknown are not counted."""

    found: int  # words with a vector
    total: int  # all words
    token_share: float | None  # share of the captions' tokens that have a vector, in [0, 1]; None without counts
    missing: tuple[str, ...]  # words without a vector, in the vocabulary's order

    def __str__(self) -> str:
        tokens = "" if self.token_share is None else f", {self.token_share:.1%} of the caption tokens"
        return f"{self.found:,} of {self.total:,} words ({self.found / self.total:.1%}){tokens}"


def load_glove(
    path: Path, words: Sequence[str], counts: np.ndarray | None = None, progress: bool = True
) -> tuple[np.ndarray, Coverage]:
    """The embedding matrix of `words` from a GloVe text file of any dimension E, and what it covers, also logged.

    The matrix is float32 (V, E): zeros for padding, a word's vector where the file has it, and for unknown and all
    other words one vector, the mean of those found. UserError if the file can't be read, a line is malformed (with its
    number), or no word is in it.

    The file has lines of a token and E numbers, separated by blanks (GloVe, Pennington et al. 2014). Tokens may hold
    blanks, as in GloVe 840B; of a repeated token the first line counts. `words` are `Tokenizer.words`: padding first,
    unknown second. `counts` int (V,), of each token id in the captions, are for `Coverage.token_share`.
    """
    row_of = {word.encode(): row for row, word in enumerate(words) if row > UNKNOWN}
    try:
        found = _read_vectors(Path(path), row_of, progress)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); give a GloVe text file") from None
    if not found:
        raise UserError(f"{path}: has none of the {len(row_of):,} words; is it a file of their language?")
    shared = np.mean(list(found.values()), axis=0, dtype=np.float64).astype(np.float32)
    matrix = np.tile(shared, (len(words), 1))
    matrix[PAD] = 0
    for row, vector in found.items():
        matrix[row] = vector
    share = None if counts is None else float(np.sum(counts[list(found)]) / max(1, np.sum(counts[UNKNOWN:])))
    missing = tuple(word for row, word in enumerate(words) if row > UNKNOWN and row not in found)
    coverage = Coverage(len(found), len(row_of), share, missing)
    logger.info("%s: %d-d vectors for %s", path, matrix.shape[1], coverage)
    if missing:
        logger.info("words without a vector share one; the most frequent: %s", ", ".join(missing[:10]))
    return matrix, coverage


def _read_vectors(path: Path, row_of: dict[bytes, int], progress: bool) -> dict[int, np.ndarray]:
    """row -> float32 (E,) of the words of `row_of` that are in the file. Only their lines are parsed."""
    found: dict[int, np.ndarray] = {}
    E, size = 0, path.stat().st_size
    look = {"desc": "GloVe", "unit": "B", "unit_scale": True, "leave": False, "disable": not progress or size < _LARGE}
    with open(path, "rb") as file, tqdm(total=size, **look) as bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            line = line.rstrip()
            n_fields = line.count(b" ")  # E, or more where the token holds blanks
            if not line:
                continue
            if not E:
                if header := re.fullmatch(rb"\d+ (\d+)", line):  # of word2vec's text format: rows, E
                    E = int(header[1])
                    continue
                E = n_fields if _numbers(line.split(b" ")[1:]) is not None else 0
            if n_fields < E or not E:
                raise _malformed(path, number, line, E)
            row = row_of.get(line[: line.find(b" ")])
            if row is None or row in found:
                continue
            fields = line.split(b" ")
            if n_fields > E and b"" not in fields and _numbers(fields[1:-E]) is None:
                continue  # a token with blanks that only begins like our word, such as "at name@domain.com"
            vector = _numbers(fields[1:])
            if vector is None or len(vector) != E:
                raise _malformed(path, number, line, E)
            found[row] = vector
    return found


def _numbers(fields: Sequence[bytes]) -> np.ndarray | None:
    """float32 (len(fields),), or None unless all of them are finite numbers."""
    try:
        vector = np.array(fields, np.float32)
    except ValueError:
        return None
    return vector if vector.size and np.isfinite(vector).all() else None


def _malformed(path: Path, number: int, line: bytes, E: int) -> UserError:
    start, numbers = line[:40].decode("utf-8", "replace"), f"{E} numbers" if E else "its numbers"
    return UserError(f"{path}:{number}: {start!r}... is not a token and {numbers}; is it a GloVe text file, and whole?")
