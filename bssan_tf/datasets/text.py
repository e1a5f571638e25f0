"""Captions to token ids, and the GloVe vectors of their words.

In: the captions of the train split, a GloVe text file; out: a `Tokenizer` (captions -> int32 (N, L), zero-padded) and
an embedding matrix float32 (V, E) with a row for each of its words. words.py says how a caption is split; an exported
model does the same inside its graph, by a Keras layer.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bssan_tf.datasets.words import UNICODE_STEPS, split_words
from bssan_tf.errors import UserError
from bssan_tf.reading.files import file_size, refusing

logger = logging.getLogger(__name__)

PAD, UNKNOWN = 0, 1
SPECIAL = ("", "[UNK]")  # the words of PAD and UNKNOWN, as Keras has them
MOST_UNKNOWN = 0.2  # share of a split's tokens above which something is wrong with them
_LARGE = 2**26  # bytes of a GloVe file that is worth a bar
_MOST_LINE = 2**20  # bytes
_GZIP = b"\x1f\x8b"
_OTHER_FILES = {  # first bytes -> what it is, and what to do
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\xba\x16\x4f\x2f": "fastText's binary format; take its .vec file",
}
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")
_WORD2VEC = (
    "word2vec's binary format; convert it, in gensim by KeyedVectors.load_word2vec_format(FILE, binary=True)"
    ".save_word2vec_format(NEW)"
)


class Tokenizer:
    """Captions -> token ids, zero-padded or cut to `length` L (30 in Section IV-B).

    `words` are the vocabulary without padding and unknown, most frequent first; ValueError if one repeats, is empty, or
    is not a single standardised word. `rule` is one of `words.RULES`.
    """

    def __init__(self, words: Iterable[str], length: int = 30, rule: str = "unicode"):
        words = tuple(words)
        if not words:
            raise ValueError("words: the vocabulary is empty")
        if len(set(words)) < len(words):
            raise ValueError("words: a word occurs twice")
        for word in words:
            if split_words(word, rule) != [word]:
                raise ValueError(f"words: {word!r} is not a lower-case word without punctuation")
        self.words, self.length, self.rule = SPECIAL + words, length, rule  # of each id: "" is 0, "[UNK]" is 1
        self._id_of = {word: token for token, word in enumerate(self.words)}

    @functools.cached_property
    def layer(self) -> tf.keras.layers.TextVectorization:
        """Strings (B,) -> int64 (B, L), the same tokens inside of a graph; exported models carry it."""
        return tf.keras.layers.TextVectorization(
            standardize="lower_and_strip_punctuation" if self.rule == "ascii" else _standardize,
            split="whitespace",
            output_sequence_length=self.length,
            vocabulary=list(self.words[2:]),
            name="tokens_of",
        )

    @classmethod
    def fit(cls, train_captions: Iterable[str], length: int = 30, rule: str = "unicode") -> Tokenizer:
        """All words of these captions, which must be those of the TRAIN split only; UserError if there are none.

        The most frequent words come first, equally frequent ones in alphabetical order.
        """
        counts = Counter(word for caption in train_captions for word in split_words(caption, rule))
        if not counts:
            raise UserError("captions: no train caption has a word; check the captions file")
        return cls(sorted(counts, key=lambda word: (-counts[word], word)), length, rule)

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """int32 (N, L). A caption without a word becomes a row of zeros; a warning counts these."""
        captions, known = list(captions), self._id_of.get
        tokens = np.zeros((len(captions), self.length), np.int32)
        for row, caption in zip(tokens, captions):
            ids = [known(word, UNKNOWN) for word in self.words_of(caption)]
            row[: len(ids)] = ids
        empty = np.flatnonzero(tokens[:, 0] == PAD)
        if empty.size:
            first = captions[empty[0]]
            logger.warning("%d of %d captions have no words; the first: %r", empty.size, len(captions), first)
        return tokens

    def words_of(self, caption: str) -> list[str]:
        """The words that the tokens stand for, unknown ones as in the caption; padding has none."""
        return split_words(caption, self.rule)[: self.length]

    def log_unread(self, captions: Sequence[str], every: Sequence[str] | None = None, what: str = "validation") -> None:
        """Log what the model won't read: the share of unknown tokens in `captions`, with a warning above a fifth of
        them, and how many captions of `every` (else of `captions`) are longer than `length`."""
        texts = captions if every is None else every
        # no caption has more words than letters
        counts = [len(split_words(text, self.rule)) for text in texts if len(text) > self.length]
        if cut := sum(count > self.length for count in counts):
            logger.warning(
                "%d of %d captions have more than %d words (the longest %d); what follows is cut; --caption-length N"
                " reads more", cut, len(texts), self.length, max(counts)
            )  # fmt: skip
        words = [word for text in captions for word in self.words_of(text)]
        share = sum(word not in self._id_of for word in words) / max(1, len(words))
        logger.info("%.1f %% of the %s tokens are unknown words", 100 * share, what)
        if share > MOST_UNKNOWN:
            cause = "few captions to learn words from, or captions of another language or spelling"
            if len(words) < 2 * len(captions):
                cause = "captions without blanks between their words; put blanks there"
            told = "%.1f %% of the %s tokens are none of the %d words of the training captions; the likely cause: %s"
            logger.warning(told, 100 * share, what, len(self.words) - 2, cause)

    def read_sentence(self, sentence: str, source: str) -> np.ndarray:
        """Token ids int32 (1, L) of a sentence given as `source`; UserError without words; unknown ones are logged."""
        words = self.words_of(sentence)
        if not words:
            raise UserError(f"{source} {sentence!r}: has no word; give a sentence")
        if (count := len(split_words(sentence, self.rule))) > self.length:
            logger.warning("%s: the first %d of its %d words are read", source, self.length, count)
        if unknown := [word for word in words if word not in self._id_of]:
            logger.warning("not in the vocabulary, so read as one unknown word: %s", ", ".join(unknown))
        return self([sentence])

    def save(self, path: Path) -> None:
        """Writes the vocabulary without the special words, one a line: line n (from 1) is token id n + 1."""
        Path(path).write_bytes("".join(f"{word}\n" for word in self.words[2:]).encode())

    @classmethod
    def load(cls, path: Path, length: int = 30, rule: str = "unicode") -> Tokenizer:
        """Reads what `save` has written; UserError if the file can't be read, or is not a vocabulary."""
        try:
            return cls(Path(path).read_bytes().decode("utf-8").rstrip("\n").split("\n"), length, rule)
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); is the run complete?") from None
        except ValueError as error:  # UnicodeDecodeError too
            raise UserError(f"{path}: not a vocabulary of one word a line ({error}); restore it") from None


def _standardize(text: tf.Tensor) -> tf.Tensor:
    """What `split_words` does before it splits, for strings of any shape."""
    text = tf.strings.regex_replace(tf.strings.lower(text), "İ", "i̇")  # else a Turkish locale has its own i
    text = tf.strings.lower(text, encoding="utf-8")
    for pattern, replacement in UNICODE_STEPS:
        text = tf.strings.regex_replace(text, pattern, replacement)
    return text


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

    The file, which may be compressed by gzip, has lines of a token and E numbers, separated by blanks (GloVe,
    Pennington et al. 2014). Tokens may hold
    blanks, as in GloVe 840B; of a repeated token the first line counts. `words` are `Tokenizer.words`: padding first,
    unknown second. `counts` int (V,), of each token id in the captions, are for `Coverage.token_share`.
    """
    row_of = {word.encode(): row for row, word in enumerate(words) if row > UNKNOWN}
    with refusing(str(path), "can't be read", "give a GloVe text file"):  # gzip, too, has its errors
        found = _read_vectors(Path(path), row_of, progress)
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
    E, headed, size = 0, False, file_size(path, "give a GloVe text file")
    look = {"desc": "GloVe", "unit": "B", "unit_scale": True, "leave": False, "disable": not progress or size < _LARGE}
    packed = _check_kind(path)
    with (gzip.open if packed else open)(path, "rb") as file, tqdm(total=None if packed else size, **look) as bar:
        for number, line in enumerate(_lines(file), 1):
            bar.update(len(line))
            line = (line[len(codecs.BOM_UTF8) :] if number == 1 and line.startswith(codecs.BOM_UTF8) else line).rstrip()
            n_fields = line.count(b" ")  # E, or more where the token holds blanks
            if not line:
                continue
            if not E:
                if header := re.fullmatch(rb"\d+ (\d+)", line):  # of word2vec's text format: rows, E
                    E, headed = int(header[1]), True
                    continue
                E = n_fields if _numbers(line.split(b" ")[1:]) is not None else 0
            if n_fields < E or not E:
                if headed and number == 2 and _CONTROL.search(line):
                    raise UserError(f"{path}: is {_WORD2VEC}")
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


def _check_kind(path: Path) -> bool:
    """Whether a file is compressed by gzip; UserError for other kinds that people have."""
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, kind in _OTHER_FILES.items():
        if start.startswith(magic):
            raise UserError(f"{path}: is {kind}")
    return start.startswith(_GZIP)


def _lines(file) -> Iterator[bytes]:
    """Lines of at most 1 MB, so that a file without line ends takes no memory."""
    return iter(lambda: file.readline(_MOST_LINE), b"")


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
