"""How a caption is split into words: in Python, and as patterns that a TensorFlow graph replaces, with equal results.

Both rules put ASCII captions in small letters, remove punctuation and split at blanks, as Keras does. A run keeps its
rule: `ascii`, of older runs, leaves all other characters as they are. `unicode` folds the capitals of every script,
takes every script's punctuation and blanks as such, and makes each character of a script that is written without
blanks (Chinese, Japanese, Thai, Lao, Khmer, Burmese) a word of its own, with the marks that stand on it.
"""

from __future__ import annotations

import re
import string
import unicodedata

RULES = ("unicode", "ascii")

_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.punctuation)
_WORD = re.compile(r"[^ \t\n\v\f\r]+")
# punctuation that joins: apostrophes, hyphens, the middle dot of Catalan, marks within Hebrew and Armenian words
_JOINING = "’‘‐‑\u00ad·׳״՛՜՞"
_BLANKS = "\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"  # beside \u2000-\u200a
_OWN_SCRIPTS = (  # first and last character; characters of these that are marks stand on the one before
    (0x0E01, 0x0E4E), (0x0E81, 0x0EDF), (0x1000, 0x103F), (0x1050, 0x108F), (0x1780, 0x17D3), (0x3005, 0x3007),
    (0x3021, 0x3029), (0x3031, 0x3035), (0x3041, 0x309F), (0x30A1, 0x30FF), (0x3105, 0x312F), (0x31A0, 0x31BF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D),
)  # fmt: skip


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code)).startswith("M")


def _ranges(codes) -> str:
    """Ascending code points as the inside of a character class that Python's `re` and RE2 both read."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(re.escape(chr(a)) if a == b else f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in runs)


def _is_blank(code: int) -> bool:
    char = chr(code)
    return char in _BLANKS or 0x2000 <= code <= 0x200A or (
        code > 127 and char not in _JOINING and unicodedata.category(char).startswith("P")
    )  # fmt: skip


_in_own = [code for first, last in _OWN_SCRIPTS for code in range(first, last + 1)]
_marks = [*filter(_is_mark, _in_own), 0xFF9E, 0xFF9F]  # the last two: sound marks of narrow katakana
_skipped = {*_marks, *filter(_is_blank, _in_own)}
_own = _ranges(code for code in _in_own if code not in _skipped) + "\U00020000-\U0003fffd"  # and rare Han
# (pattern, replacement) in their order, on text in small letters; replacements as of `re.sub`
UNICODE_STEPS = (
    (f"[{re.escape(string.punctuation)}{_JOINING}]+", ""),
    (f"[{_ranges(filter(_is_blank, range(0x10000)))}]+", " "),
    (f"([{_own}][{_ranges(_marks)}]*)", r" \1 "),
)
_STEPS = tuple((re.compile(pattern), replacement) for pattern, replacement in UNICODE_STEPS)


def split_words(caption: str, rule: str = "unicode") -> list[str]:
    """All words of a caption, in small letters and without punctuation, by one of `RULES`."""
    if rule == "ascii" or caption.isascii():
        return _WORD.findall(caption.translate(_ASCII))
    text = caption.lower()
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return _WORD.findall(text)


def has_word(caption: str) -> bool:
    """Whether a caption is more than blanks and punctuation."""
    return caption[:1].isalpha() or bool(split_words(caption))
