"""What the benchmarks of scoring and training work on: captions, drawn features, the machine's GEMM rate."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from bssan_tf import cli
from bssan_tf.config.presets import preset
from bssan_tf.config.settings import ModelConfig
from bssan_tf.datasets.scene_captions import write_captions
from bssan_tf.datasets.scene_pictures import plan_scene
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that both benchmarks have."""
    parser.add_argument("--captions", type=Path, metavar="FILE", help="one a line, or Flickr's token file (scenes')")
    parser.add_argument("--list", type=Path, metavar="FILE", help="only captions of these image ids, with a token file")
    parser.add_argument("--preset", choices=("paper", "improved"), default="paper", help="(paper)")
    parser.add_argument("--size", choices=("paper", "small", "tiny"), default="paper", help="(paper: Table I)")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers there, too")


def read_captions(options: argparse.Namespace) -> tuple[str, ...]:
    """The captions of --captions, of the images of --list only, or of drawn scenes.

    Raises:
        UserError: a file that cannot be read or holds none.
    """
    if options.captions is None:
        return tuple(caption.text for i in range(400) for caption in write_captions(plan_scene((i,))))
    try:
        lines = options.captions.read_text(encoding="utf-8").splitlines()
        wanted = set(options.list.read_text(encoding="utf-8").split()) if options.list else None
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    found = []
    for line in lines:
        name, tab, caption = line.partition("\t")
        if wanted is None or name.split("#")[0] in wanted:
            found.append(caption if tab else line)
    if not found:
        raise UserError(f"--captions {options.captions}: no captions in it")
    return tuple(found)


def tokens_of(captions: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """int32 (N_c, 30) and the size of their vocabulary."""
    tokenizer = Tokenizer.fit(captions, 30)
    return tokenizer(captions), len(tokenizer.words)


def model_config(options: argparse.Namespace, **changes) -> ModelConfig:
    """The model of --preset and --size, with 300 numbers a word in all, as the paper has it."""
    model = preset(options.preset, options.size).model
    values = {"E_glove": 300 - model.E_trained, "Q": 4096 if options.preset == "paper" else 512, **changes}
    return preset(options.preset, options.size).replace(**values).model


def draw_features(config: ModelConfig, images: int, folder: Path) -> dict[str, np.ndarray]:
    """Float16 arrays with the sparsity of real ones, in `folder`; the time does not depend on what they show."""
    rng = np.random.default_rng(0)
    for name, shape in (("regions", (config.D, config.M)), ("objects", (config.P, config.Q))):
        path = folder / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(images, *shape))
        for row in array:
            row[:] = np.maximum(rng.normal(-1.5, 1.0, shape), 0) * 20
        array.flush()
    return load_features(folder)


def load_features(folder: Path) -> dict[str, np.ndarray]:
    """What `draw_features` wrote: `regions` (N, D, M) and `objects` (N, P, Q), memory-mapped, and `valid`."""
    found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("regions", "objects")}
    return {**found, "valid": np.ones(found["objects"].shape[:2], bool)}


def gemm_rate(rows: int = 2048, size: int = 1024, repeats: int = 9) -> float:
    """Median GFLOP/s of (rows, size) x (size, 4 size) in float32 with TensorFlow: the LSTM's recurrent product."""
    left, right = tf.random.normal((rows, size)), tf.random.normal((size, 4 * size))
    multiply = tf.function(tf.matmul)
    multiply(left, right)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(left, right).numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * rows * size * 4 * size / float(np.median(seconds)) / 1e9


def show(rows: dict[str, object]) -> None:
    """One table of names and numbers."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value:.4g}" if isinstance(value, float) else f"{name:<{width}}  {value}")
