"""An HTML page that shows people why a photo and a sentence match: `page.html`, `page.css` and `page.js` with data.

In: explanations of one photo beside one or two captions. Out: one file that asks no other address for anything. Texts
of users reach it as JSON, which the script shows as text; a policy in the page lets no other script run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bssan_tf.drawing.figures import FULL_HEAT, HEAT, SIGMA, TRANSPARENCY
from bssan_tf.errors import UserError
from bssan_tf.features.objects import fixed_names
from bssan_tf.features.pictures import as_image, picture_of, read_picture
from bssan_tf.tools.files import write_text

MOST_BYTES = 600_000  # of a page
LONGEST = 640  # pixels of the photo's longer side
QUALITIES = (85, 75, 60, 45, 30)  # of its JPEG; the first that leaves the page small enough
OWN = '<meta name="generator" content="bssan_tf">'
_ALPHA = 100_000  # attention is written in these parts of 1


def page_of(found: Sequence) -> str:
    """The page of a photo beside one or two captions.

    Args:
        found: their `Explanation`s.

    Raises:
        UserError: the photo is gone, or captions so long that the page would be too large.
    """
    first = found[0]
    photo = _photo(first.pixels if first.source is None else first.source)
    data = {
        "heat": "".join(f"{r:02x}{g:02x}{b:02x}" for r, g, b in np.round(HEAT.colors[:, :3] * 255).astype(int)),
        "opacity": round(1 - TRANSPARENCY, 3),
        "sigma": SIGMA,
        "full": FULL_HEAT,
        "size": photo.size,
        "objects": _objects(first),
        "cases": [_case(one) for one in found],
    }
    title = " | ".join(" ".join(one.words) for one in found)
    for quality in QUALITIES:
        page = _filled(title, {**data, "photo": _data_uri(photo, quality)})
        if len(page) <= MOST_BYTES:
            return page
    size = f"{len(page) // 1000} KB, more than {MOST_BYTES // 1000}"
    raise UserError(f"the page would have {size}; give shorter captions")


def save_page(path: Path, page: str) -> None:
    """Write a page whole; UserError where the file can't be written."""
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); name another file with -o") from error


def own_page(path: Path) -> bool:
    """Whether a file is a page of ours, and so may be written anew."""
    try:
        with open(path, "rb") as file:
            return OWN.encode() in file.read(400)
    except OSError:
        return False


def _photo(source) -> Image.Image:
    """The upright photo, of at most LONGEST pixels a side, RGB."""
    if isinstance(source, (str, Path)):
        pixels, _ = read_picture(source, side=None)
    else:
        pixels, _ = picture_of(as_image(source, "photo"), side=None)
    photo = Image.fromarray(pixels)
    photo.thumbnail((LONGEST, LONGEST))
    return photo


def _data_uri(photo: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _objects(found) -> list[dict] | None:
    """The objects that the photo has, of P slots; None where nothing looks at the words."""
    if found.beta is None:
        return None
    names = found.labels or fixed_names(found.boxes)
    return [
        {
            "slot": p,
            "box": _rounded(found.boxes[p], 4),
            "label": (names[p] if names else "") or f"object {count}",
            "confidence": _rounded(found.confidence[p], 3) if found.labels else None,
        }
        for count, p in enumerate(np.flatnonzero(found.valid).tolist(), 1)
    ]


def _case(found) -> dict:
    """A caption: its words with their attention and erase tests, and its scores."""
    words = []
    for i, word in enumerate(found.words):
        words.append({"word": word, "known": bool(found.known[i])})
        if found.alpha is not None:
            words[-1]["alpha"] = np.round(found.alpha[i].ravel() * _ALPHA).astype(int).tolist()
        if found.erasures is not None:
            own = found.erasures[i]
            elsewhere = float(np.mean(own.elsewhere)) if len(own.elsewhere) else math.nan
            falls, square = _rounded((own.attended, elsewhere), 5), _rounded(own.square, 4)
            words[-1]["erased"] = {"square": square, "falls": falls, "places": len(own.elsewhere)}
    return {
        "words": words,
        "grid": None if found.alpha is None else list(found.alpha.shape[1:]),
        "beta": None if found.beta is None else [_rounded(row, 5) for row in found.beta],
        "scores": {name: _rounded(value, 5) for name, value in found.scores.items()},
    }


def _rounded(value, digits: int):
    """A number, or numbers, for JSON, which has neither infinity nor NaN."""
    if np.ndim(value):
        return [_rounded(one, digits) for one in value]
    return round(float(value), digits) if math.isfinite(value) else None


@functools.cache
def _template(ending: str) -> str:
    return (Path(__file__).parent / f"page.{ending}").read_text(encoding="utf-8")


def _filled(title: str, data: dict) -> str:
    """The template with everything in it, in ASCII."""
    style, script = _template("css"), _template("js")
    told = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":  # so that no text ends the element that it stands in
        told = told.replace(character, f"\\u{ord(character):04x}")
    parts = {
        "title": html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        "style_hash": _hash(style), "style": style, "script_hash": _hash(script), "script": script, "data": told,
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("html"))


def _hash(text: str) -> str:
    """What a content security policy calls an element of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
