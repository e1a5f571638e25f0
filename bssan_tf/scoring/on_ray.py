"""Blocks of pictures scored on a cluster of Ray, each a task; their numbers are those of one process.

The features travel with the tasks, so that no other machine needs them. A task of a node that dies is done elsewhere.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf.scoring.page import PageScorer
from bssan_tf.scoring.planning import Block, Page
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.score_file import digest
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.tools.ray_cluster import Home, ray_cluster
from bssan_tf.tools.stack import trace_needed_kernels

SAVED = "scorer.keras"
WAITING = 2  # tasks for each node, so that none is idle while scores and features travel


def scored_on_ray(fast: FastScorer, pictures, blocks: Sequence[Block]) -> Iterator[tuple[Block, dict[str, np.ndarray]]]:
    """Yield each of the blocks with its scores, as `PageScorer` gives them, in the order in which they are done.

    `pictures` are the `Pictures` of which the blocks are; UserError as `ray_cluster`.
    """
    if not blocks:
        return
    with ray_cluster() as ray:
        cpus = [cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU"))]
        gpus = int(ray.cluster_resources().get("GPU", 0))
        of_task = {"num_gpus": 1} if gpus else {"num_cpus": min(cpus)}  # a task takes all cores of its node
        task = ray.remote(max_retries=-1, scheduling_strategy="SPREAD", **of_task)(_score)
        scorer, key, names, home = ray.put(_saved(fast)), fast.digest(), tuple(pictures.networks), Home.here()
        page, tokens, running, left = None, None, {}, list(reversed(blocks))
        while left or running:
            while left and len(running) < WAITING * (gpus or len(cpus)):
                block = left.pop()
                if block.page is not page:
                    page, tokens = block.page, ray.put(block.page.tree.captions)
                running[task.remote(scorer, key, names, home, tokens, pictures.read(block.start, block.count))] = block
            (done,), _ = ray.wait(list(running), num_returns=1)
            block, scores = running.pop(done), ray.get(done)
            yield block, scores


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
    scores = _page_scorer(_Keyed(key, scorer), names, _Keyed(digest([tokens]), tokens)).score(
        {name: tf.constant(array) for name, array in pictures.items()}
    )
    return {name: np.asarray(value) for name, value in scores.items()}


@functools.lru_cache(maxsize=1)  # a process of Ray does one task after another
def _page_scorer(scorer: _Keyed, names: tuple[str, ...], tokens: _Keyed) -> PageScorer:
    page = Page(np.arange(len(tokens.value)), PrefixTree(tokens.value), pictures=0)
    return PageScorer(_opened(scorer), names, page)


@functools.lru_cache(maxsize=1)
def _opened(scorer: _Keyed) -> FastScorer:
    import bssan_tf.models.bssan  # noqa: F401  (registers all layers)

    trace_needed_kernels()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SAVED
        file.write_bytes(scorer.value)
        return FastScorer(tf.keras.models.load_model(file, compile=False))
