"""Blocks of pictures scored on a cluster of Ray, each a task; their numbers are those of one process.

The features travel with the tasks, so that no other machine needs them. A task of a node that dies is done elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.scoring.page import PageScorer
from bssan_tf.scoring.planning import Block
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.score_file import digest
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.tools.ray_cluster import FLAG, Home, cpus_of_nodes, ray_cluster
from bssan_tf.tools.stack import trace_needed_kernels

SAVED = "scorer.keras"
WAITING = 2  # tasks for each node, so that none is idle while scores and features travel
RETRIES = 5  # of a task whose process or node has died
TOLD_AFTER = 60.0  # seconds without any scores

logger = logging.getLogger(__name__)


def scored_on_ray(fast: FastScorer, pictures, blocks: Iterable[Block]) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Yield each of the blocks with its scores, as `PageScorer` gives them, in the order in which they are done.

    `pictures` are the `Pictures` of which the blocks are; UserError as `ray_cluster`. Only CPUs are asked for.
    """
    left = iter(blocks)
    first = next(left, None)
    if first is None:
        return
    with ray_cluster() as ray:
        cpus = cpus_of_nodes(ray)
        # more than half of a node, as a process of TensorFlow takes all its cores
        task = ray.remote(num_cpus=min(cpus) // 2 + 1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_score)
        saved, names, home = _saved(fast), tuple(pictures.networks), Home.here()
        scorer, key = ray.put(saved), hashlib.sha256(saved).hexdigest()
        page, tokens, running, left = None, None, {}, itertools.chain([first], left)
        try:
            while True:
                for block in itertools.islice(left, WAITING * len(cpus) - len(running)):
                    if block.page is not page:
                        page, tokens = block.page, ray.put(block.page.tree.captions)
                    given = pictures.read(block.start, block.count)
                    running[task.remote(scorer, key, names, home, tokens, given)] = block
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=TOLD_AFTER)
                if not done:
                    logger.info("%s: no scores for %g s; are the CPUs of the cluster taken?", FLAG, TOLD_AFTER)
                for finished in done:
                    yield running.pop(finished), ray.get(finished)
                del done
        finally:
            for unfinished in running:
                ray.cancel(unfinished)


def _saved(fast: FastScorer) -> bytes:
    """The scorer as a .keras file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SAVED
        fast.scorer.save(file)
        return file.read_bytes()


@dataclass(frozen=True)
class _Keyed:
    """A value that is told from others by its key alone."""

    key: str
    value: object = field(compare=False)


def _score(
    scorer: bytes, key: str, names: tuple[str, ...], home: Home, tokens: np.ndarray, pictures: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The task: scores of some pictures with distinct captions int32 (N_u, L), as of `PageScorer.score`."""
    home.require_same_packages()
    scorer_of_page = _page_scorer(_Keyed(key, scorer), names, _Keyed(digest([str(tokens.shape), tokens]), tokens))
    scores = scorer_of_page.score({name: tf.constant(array) for name, array in pictures.items()})
    return {name: np.asarray(value) for name, value in scores.items()}


@functools.lru_cache(maxsize=1)  # a process of Ray does one task after another
def _page_scorer(scorer: _Keyed, names: tuple[str, ...], tokens: _Keyed) -> PageScorer:
    return PageScorer(_opened(scorer), names, PrefixTree(tokens.value), len(tokens.value))


@functools.lru_cache(maxsize=1)
def _opened(scorer: _Keyed) -> FastScorer:
    import bssan_tf.models.bssan  # noqa: F401  (registers all layers)

    trace_needed_kernels()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SAVED
        file.write_bytes(scorer.value)
        return FastScorer(tf.keras.models.load_model(file, compile=False))
