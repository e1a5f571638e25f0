"""The erase test of a run: over pairs of a split, how far scores fall where a word looked, and elsewhere.

In: a run and a number of pairs. Out: mean falls with standard errors over photos, and their ratio with a 95 % interval.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bssan_tf.datasets.text import UNKNOWN
from bssan_tf.errors import UserError
from bssan_tf.matching.erasing import PLACES, SHARE
from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs.data import Data
from bssan_tf.runs.folder import RunFolder

RESAMPLES = 1000  # of the bootstrap over photos


def erase_test(
    run: RunFolder,
    pairs: int,
    split: str = "test",
    data_flags: dict | None = None,
    progress: bool = True,
    data: Data | None = None,
) -> tuple[dict, str]:
    """Erase in a seeded sample of photos of a split, each with its first caption: a JSON value and a text for people.

    UserError as `Matcher.erase`, or data that are gone or differ from the training's. `data`: for studies, other data
    than the run's.
    """
    matcher = Matcher(run, data_flags, progress=progress, of_own_data=True)
    part = (data or matcher.data).split(split).sample_images(pairs).captions_per_image(1)
    known = (matcher.tokenizer(part.captions) > UNKNOWN).any(axis=1)  # (N,), captions with a word that can be erased
    pairs_of = [pair for pair, some in zip(zip(part.image_paths, part.captions), known) if some]
    attended, elsewhere = [], []
    with logging_redirect_tqdm():  # unknown words are named above the bar
        for path, caption in tqdm(pairs_of, desc="erasing", disable=not progress):
            found = matcher.erase(path, caption)
            attended.append(found.attended)
            elsewhere.append(float(found.elsewhere.mean()))
    if not attended:
        raise UserError(f"--erase {pairs}: the split {split} has no photo whose first caption has a known word")
    falls = np.array([attended, elsewhere])  # (2, n)
    n = falls.shape[1]
    drawn = falls[:, np.random.default_rng(0).integers(n, size=(RESAMPLES, n))].mean(axis=2)
    told = (drawn[1] > 0).all() and falls[1].mean() > 0  # else a ratio says nothing
    bounds = [float(bound) for bound in np.percentile(drawn[0] / drawn[1], (2.5, 97.5))] if told else None
    errors = falls.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else (None, None)
    value = {
        "run": run.name, "split": part.name, "pairs": n, "places": PLACES, "share": SHARE**2,
        "attended": float(falls[0].mean()), "attended_error": _float(errors[0]),
        "elsewhere": float(falls[1].mean()), "elsewhere_error": _float(errors[1]),
        "ratio": float(falls[0].mean() / falls[1].mean()) if told else None, "ratio_interval": bounds,
        "larger": float(100 * (falls[0] > falls[1]).mean()),
    }  # fmt: skip
    return value, text_of(value)


def _float(value) -> float | None:
    return None if value is None else float(value)


def text_of(value: dict) -> str:
    """The value in words."""

    def row(name: str) -> str:
        error = value[f"{name}_error"]
        return f"{value[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")

    ratio = "no ratio, as scores don't surely fall elsewhere"
    if value["ratio"] is not None:
        low, high = value["ratio_interval"]
        ratio = f"ratio {value['ratio']:.2f} (95 % interval {low:.2f} to {high:.2f})"
    return "\n".join([
        f"{value['split']}: {value['pairs']} photos, each with its first caption and its word that looks most sharply",
        f"a square of {100 * value['share']:.0f} % of the photo is grey; the score falls by",
        f"  {row('attended')}  where the word looked",
        f"  {row('elsewhere')}  elsewhere (mean of {value['places']} places)",
        f"  {ratio}; larger where the word looked in {value['larger']:.0f} % of the photos",
    ])  # fmt: skip
