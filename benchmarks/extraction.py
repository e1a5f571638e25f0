"""Images per second of the whole extraction against a bare `backbone.predict` on decoded arrays.

Run `python -m benchmarks.extraction [--photos DIR] [--backbone NAME] [--backbone-weights FILE] [--json
FILE]`. Without photos, JPEGs of 500x375 pixels are drawn; without weights, random ones are used, as the
speed does not depend on them. Both are measured in turns, so that other work on the machine meets both;
`cpu_ratio_to_bare` compares processor time, which other work changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from benchmarks.memory import peak_mb
from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.features.backbones import BACKBONES, build_vgg, preprocess
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.tools.stack import weights_of

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def main(arguments: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m benchmarks.extraction", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos (drawn JPEGs)")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="vgg19")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help=".h5 or .npz (random weights)")
    parser.add_argument("--images", type=int, default=64, help="photos in each round (64)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    for key, value in result.items():
        print(f"{key:<22} {value:.3f}" if isinstance(value, float) else f"{key:<22} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Median rates, the median of the rounds' ratios, and the peak memory of extraction alone."""
    paths = photos(options, folder / "photos")
    ids = tuple(path.name for path in paths)
    weights = options.backbone_weights or random_weights(options.backbone, folder / "random.npz")
    extractor = Extractor(options.backbone, weights)
    size = options.batch_size

    def extraction(name: str, count: int) -> None:
        corpus = SimpleNamespace(name="benchmark", image_ids=ids[:count], image_paths=paths[:count])
        extract_features(corpus, folder / name, extractor, boxes="grid", batch_size=size, progress=False)

    extraction("warm-up", size)
    times = {"extraction": [timed(lambda: extraction("round 0", len(paths)))], "bare": []}
    peak = peak_mb()  # before the arrays of `predict` add theirs
    decoded = preprocess(np.stack([read_picture(path)[0] for path in paths])).numpy()

    def bare() -> None:
        extractor.model.predict(decoded, batch_size=size, verbose=0)

    bare()  # warm-up
    times["bare"].append(timed(bare))
    for i in range(1, options.rounds):
        times["extraction"].append(timed(lambda name=f"round {i}": extraction(name, len(paths))))
        times["bare"].append(timed(bare))
    seconds, cpu = (
        {name: np.array([measured[k] for measured in rounds]) for name, rounds in times.items()} for k in (0, 1)
    )
    return {
        "backbone": options.backbone,
        "images": len(paths),
        "batch_size": size,
        "images_per_s": len(paths) / float(np.median(seconds["extraction"])),
        "bare_images_per_s": len(paths) / float(np.median(seconds["bare"])),
        "ratio_to_bare": float(np.median(seconds["bare"] / seconds["extraction"])),
        "cpu_ratio_to_bare": float(np.median(cpu["bare"] / cpu["extraction"])),
        "peak_mb": peak,
    }


def timed(run) -> tuple[float, float]:
    """Seconds on the clock and of this process' processor time."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def photos(options: argparse.Namespace, folder: Path) -> tuple[Path, ...]:
    """The first photos of --photos, or drawn ones: soft colour fields with grain, as JPEG."""
    if options.photos:
        if not options.photos.is_dir():
            raise UserError(f"--photos {options.photos}: no such folder")
        paths = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
        if not paths:
            raise UserError(f"--photos {options.photos}: no photos in it; name a folder of JPEG or PNG files")
        return tuple(paths[: options.images])
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = tuple(folder / f"{i}.jpg" for i in range(options.images))
    for path in paths:
        soft = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
        grain = generator.normal(0, 12, (375, 500, 1))
        Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)).save(path, quality=85)
    return paths


def random_weights(backbone: str, path: Path) -> Path:
    """A weights file of the right shapes, as build_vgg initialises them."""
    model = build_vgg(BACKBONES[backbone].layers, BACKBONES[backbone].width)
    np.savez(path, **weights_of(model))
    return path


if __name__ == "__main__":
    cli.run(main)
