"""Explanations made by hand, for pages: a drawn photo, attention at places that the words' order says."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from bssan_tf.matching.erasing import Erasure
from bssan_tf.matching.explanation import Explanation

SHORT = "a dog runs through snow"
LONG = (
    "a big brown dog with a red zyxcollar runs happily through the deep white snow below a tall grey mountain while the"
    " yellow sun is shining"
)
BOXES = np.float32([[0.42, 0.4, 0.82, 0.9], [0.05, 0.12, 0.46, 0.62], [0.74, 0.06, 0.88, 0.28], [0, 0, 0, 0]])
LABELS = ["dog", "mountain", "sun", ""]


def drawn_photo(width: int = 900, height: int = 600) -> np.ndarray:
    """A dog in the snow before a mountain, uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), (135, 190, 235))
    draw = ImageDraw.Draw(image)

    def place(*fractions):
        return [(x * width, y * height) for x, y in zip(fractions[::2], fractions[1::2])]

    draw.rectangle(place(0, 0.6, 1, 1), fill=(238, 240, 245))
    draw.polygon(place(0.05, 0.6, 0.25, 0.15, 0.45, 0.6), fill=(90, 110, 120))
    draw.ellipse(place(0.75, 0.08, 0.87, 0.26), fill=(250, 220, 90))
    draw.ellipse(place(0.45, 0.5, 0.72, 0.75), fill=(120, 80, 45))
    draw.ellipse(place(0.66, 0.42, 0.8, 0.6), fill=(130, 88, 50))
    for x in (0.48, 0.54, 0.62, 0.67):
        draw.rectangle(place(x, 0.7, x + 0.025, 0.88), fill=(105, 70, 40))
    return np.asarray(image)


def explanation(caption: str = SHORT, seed: int = 0, grid=(14, 14), without=(), photo=None, **given) -> Explanation:
    """What a run might say of the drawn photo; `without` names of alpha, beta and erasures, `given` other fields."""
    rng, words = np.random.default_rng(seed), caption.lower().split()
    (rows, columns), L = grid, len(words)
    y, x = np.mgrid[:rows, :columns]
    peaks = zip(rng.uniform(1, rows - 1, L), rng.uniform(1, columns - 1, L), rng.uniform(1, 5, L))
    alpha = np.stack([np.exp(-((y - at) ** 2 + (x - across) ** 2) / (2 * s * s)) + 0.02 for at, across, s in peaks])
    pixels = drawn_photo() if photo is None else photo
    squares = [(0.1 * (i % 6), 0.2, 0.1 * (i % 6) + 5 / 14, 0.2 + 5 / 14) for i in range(L)]
    made = {
        "words": words,
        "known": np.array([not word.startswith("zyx") for word in words]),
        "scores": dict(zip(("score", "w2r", "o2w"), rng.normal(0.8, 0.6, 3).tolist())),
        "alpha": np.float32(alpha / alpha.sum(axis=(1, 2), keepdims=True)),
        "beta": np.float32(rng.dirichlet(np.full(L, 0.6), len(BOXES))),
        "boxes": BOXES,
        "labels": LABELS,
        "confidence": np.float32([0.98, 0.7, 0.4, 0]),
        "valid": np.array([True, True, True, False]),
        "pixels": np.asarray(Image.fromarray(pixels).resize((224, 224))),
        "source": pixels,
        "erasures": [
            Erasure(float(rng.normal(0.3, 0.2)), np.float32(rng.normal(0.05, 0.05, 20)), square) for square in squares
        ],
    }
    made |= {name: None for name in without}
    if without:
        made["scores"] = {"score": made["scores"]["score"]}
    return Explanation(**{**made, **given})
