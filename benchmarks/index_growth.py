"""What it costs that an index grows: seconds of a first extraction, and of those after the folder has changed.

Run `python -m benchmarks.index_growth [--photos N] [--json FILE]`. Photos are drawn, and so are their features, of
VGG's size: what is measured is all but the backbone.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from bssan_tf import cli
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.growing import in_store_order
from bssan_tf.features.pictures import SIDE
from bssan_tf.tools.files import write_json


class DrawnFeatures:
    """Stands in for an Extractor: regions from the colours of a picture's cells; counts the pictures described."""

    name, layer, weights_sha256, grid, region_shape, model = "drawn", "none", "0", (14, 14), (196, 512), None
    side = SIDE

    def __init__(self):
        self.described = 0

    def describe(self, pictures: np.ndarray, boxes: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
        """As `Extractor.describe`."""
        self.described += int(pictures.any(axis=(1, 2, 3)).sum())  # a batch is filled up with black ones
        cells = pictures[:, ::16, ::16].reshape(len(pictures), 196, 3).astype(np.float16)
        regions = np.tile(cells, (1, 1, 171))[..., :512]
        return {"regions": regions, "objects": np.repeat(regions[:, :1], boxes.shape[1], axis=1)}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write the numbers."""
    parser = cli.Parser(prog="python -m benchmarks.index_growth", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=cli.count, default=5000, metavar="N", help="of the first index (5000)")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=".") as folder:  # /tmp may be memory
        result = measure(Path(folder), options.photos)
    for name, (seconds, described) in result.items():
        print(f"{name:<20} {seconds:8.2f} s  {described:6} described")
    if options.json:
        write_json(options.json, result)


def measure(folder: Path, count: int) -> dict[str, tuple[float, int]]:
    """Seconds, and photos described, of each step."""
    more = max(1, count // 100)
    paths, rng = [folder / "photos" / f"{i:06d}.jpg" for i in range(count + more)], np.random.default_rng(0)
    (folder / "photos").mkdir()
    for path in paths:
        soft = Image.fromarray(rng.integers(1, 256, (6, 8, 3), np.uint8))
        soft.resize((224, 224), Image.Resampling.BICUBIC).save(path, quality=85)
    extractor, result = DrawnFeatures(), {}

    def step(name: str, photos: list[Path]) -> None:
        extractor.described, start = 0, time.perf_counter()
        ids = in_store_order(folder / "store", [path.relative_to(folder).as_posix() for path in photos], True)
        corpus = SimpleNamespace(name="drawn", image_ids=ids, image_paths=tuple(folder / name for name in ids))
        extract_features(corpus, folder / "store", extractor, "grid", progress=False, may_lose=True)
        result[name] = time.perf_counter() - start, extractor.described

    step("first", paths[:count])
    step("nothing new", paths[:count])
    step("1 % new", paths)
    for path in paths[::100]:
        os.replace(path, path.with_name(f"moved-{path.name}"))
    paths = [path.with_name(f"moved-{path.name}") if i % 100 == 0 else path for i, path in enumerate(paths)]
    step("1 % moved", paths)
    for path in paths[1::100]:
        Image.fromarray(rng.integers(1, 256, (224, 224, 3), np.uint8)).save(path)
    step("1 % changed", paths)
    step("1 % gone", [path for i, path in enumerate(paths) if i % 100 != 2])
    return result


if __name__ == "__main__":
    cli.run(main)
