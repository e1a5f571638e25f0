"""A run without training on drawn photos, for the tests of `Matcher`; made once, however many processes test."""

import shutil

import numpy as np
import tiny_corpus
from PIL import Image
from training_fixtures import untrained_run

from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.files import locked

CAPTIONS = ["A red dog and a cat.", "There is a blue boat near the zyx!", "a bird"]


def made_once(folder):
    """`make_work` in a folder that several processes may ask for: one makes it, and the others wait."""
    with locked(folder.with_name(f"{folder.name}.lock")):
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            make_work(folder)
            done.touch()
    return folder


def make_work(folder):
    """A folder with `photos` and a run `runs/mine` on them; scores of its test split in scores.npy."""
    make_photos(folder / "photos", np.random.default_rng(0))
    run = RunFolder(folder / "runs" / "mine")
    run.path.parent.mkdir()
    parts = dict.fromkeys(("bilinear", "weighted_lengths", "cosine_attention"), True)  # as on photos
    untrained_run(folder, region_norm="centred", object_norm="centred", **parts).path.rename(run.path)
    evaluate(run, Request(out=folder / "scores.npy"), progress=False)


def make_photos(folder, rng, count=32):
    """Photos of even squares of colours, with the captions of `tiny_corpus`, which say nothing of them."""
    tiny_corpus.write_corpus(folder, count)
    for path in sorted(folder.glob("*.png")):
        squares = rng.integers(0, 255, (4, 6, 3), np.uint8)
        Image.fromarray(squares).resize((90, 60), Image.Resampling.NEAREST).save(path)
