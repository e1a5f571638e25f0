"""Small scorers, pictures and captions for tests of fast scoring, and constants that make many small blocks of them."""

import functools
from types import SimpleNamespace

import numpy as np
from model_fixtures import TINY, VOCABULARY, random_pairs, randomise, tiny_config

from bssan_tf.models.bssan import Bssan
from bssan_tf.scoring import FastScorer, o2w, planning, score_matrices, w2r, w2r_cnn

TREE_TOKENS = np.array(
    [
        [3, 4, 5, 0],
        [3, 0, 0, 0],  # one word, a prefix of the first
        [7, 7, 0, 0],
        [3, 4, 5, 0],  # a duplicate
        [3, 4, 6, 9],  # full length
        [3, 4, 0, 0],
    ],
    np.int32,
)


@functools.cache
def make(variant="full", name="improved", seed=0, **values):
    """A config and a scorer with random weights, which tests share, and so only read."""
    config = tiny_config(name, variant=variant, **values)
    model = Bssan(config.model, VOCABULARY)
    randomise(model.scorer, seed)
    return config, model.scorer


def make_pictures(config, count=7, seed=0, dtype=np.float32):
    pairs = random_pairs(config, count, seed=seed)
    pairs["valid"][-1] = False  # a picture without any object
    arrays = {name: pairs[name].astype(dtype) for name in ("regions", "objects")}
    return SimpleNamespace(**arrays, valid=pairs["valid"])


def make_captions(count=40, length=30, seed=1):
    """Captions over few words, so that they share beginnings; of one word, of the full length, twice the same."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (count, length)).astype(np.int32)
    tokens[: count // 2, :3] = [2, 3, 4]
    lengths = rng.integers(1, length + 1, count)
    lengths[:4] = 1, length, 3, 2
    tokens[np.arange(length) >= lengths[:, None]] = 0
    tokens[5] = tokens[6]
    tokens[8] = 0  # no word at all
    return tokens


def score(*arguments, **options):
    """`score` of score_matrices alone."""
    return score_matrices(*arguments, parts=["score"], **options)["score"]


def sizes_of(scorer, D=TINY["D"]):
    """The networks of a scorer, as `planning.plan` takes them."""
    fast = FastScorer(scorer)
    return [(fast.w2r, (D, TINY["M"])), (fast.o2w, (TINY["P"], TINY["Q"]))]


SMALL = (
    (w2r, "SLAB_ROWS", 16),
    (w2r_cnn, "WINDOW_ROWS", 16),
    (o2w, "PAIR_ROWS", 64),
    (o2w, "GROUP", 4),
    (planning, "MIN_PICTURES", 2),
    (planning, "PLANNED_SHARE", 1.0),
)


def score_in_blocks(out, parts=None):
    """Matrices in files, many small blocks: also what the child does that is killed."""
    config, scorer = make()
    captions = make_captions(90, length=12)
    return score_matrices(scorer, make_pictures(config, 11), captions, parts=parts, memory_mb=0.06, out=out)
