"""One score matrix in a process of its own: its seconds, and the memory that it takes at most.

In a process that has scored before, freed memory is used again and hides what a call takes. `start` makes the
process, `python -m benchmarks.alone JOB` is it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

PROJECT = Path(__file__).resolve().parent.parent


def start(
    folder: Path, options: argparse.Namespace, tokens: np.ndarray, vocabulary: int, images: int, **changes: int
) -> dict[str, float]:
    """Score the first pictures with all captions in a new process; `measure` says what is returned.

    Args:
        folder: holds what `workload.draw_features` drew; the captions are left there.
        options: `preset`, `size` and `memory`.
        tokens: int32 (N_c, L).
        vocabulary: number of token ids.
        images: N_i.
        changes: sizes of the model that differ from the preset's.
    """
    np.save(folder / "tokens.npy", tokens)
    job = {"folder": str(folder), "vocabulary": vocabulary, "images": images, "changes": changes}
    job |= {name: getattr(options, name) for name in ("preset", "size", "memory")}
    command = [sys.executable, "-m", "benchmarks.alone", json.dumps(job)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(job: dict) -> dict[str, float]:
    """Score a job's matrix.

    Returns:
        `seconds`, `pairs_per_s`, and `peak_mb`: MiB above the process with the model, but without scores.
    """
    from benchmarks import memory, workload
    from bssan_tf.models.bssan import Bssan
    from bssan_tf.scoring import FastScorer, score_matrices

    config = workload.model_config(argparse.Namespace(**job), **job["changes"])
    features = SimpleNamespace(**workload.load_features(Path(job["folder"])))
    tokens = np.load(Path(job["folder"]) / "tokens.npy")
    fast = FastScorer(Bssan(config, job["vocabulary"]).scorer)
    score_matrices(fast, features, tokens[:8], np.arange(1), parts=["score"])  # trace
    base = memory.settled_mb()
    begun = time.perf_counter()
    score_matrices(fast, features, tokens, np.arange(job["images"]), parts=["score"], memory_mb=job["memory"])
    seconds = time.perf_counter() - begun
    return {
        "seconds": seconds,
        "pairs_per_s": job["images"] * len(tokens) / seconds,
        "peak_mb": memory.peak_mb() - base,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
