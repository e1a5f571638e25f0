"""Images per second of the whole extraction against a bare `backbone.predict` on decoded arrays.

Run `python -m benchmarks.extraction [--photos DIR] [--backbone NAME] [--backbone-weights FILE] [--json
FILE]`. Without photos, JPEGs of 500x375 pixels are drawn; without weights, random ones are used, as the
speed does not depend on them. Both are measured in turns, so that other work on the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from bssan_tf.features.backbones import BACKBONES, build_vgg, preprocess
from bssan_tf.features.extraction import extract_features
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos (drawn JPEGs)")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="vgg19")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help=".h5 or .npz (random weights)")
    parser.add_argument("--images", type=int, default=96, help="photos in each round (96)")
    parser.add_argument("--rounds", type=int, default=3)
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
    """Rates of both, from medians over the rounds, and the peak memory of extraction alone."""
    paths = photos(options, folder / "photos")
    weights = options.backbone_weights or random_weights(options.backbone, folder / "random.npz")
    extractor = Extractor(options.backbone, weights)
    corpus = SimpleNamespace(name="benchmark", image_ids=tuple(map(str, range(len(paths)))), image_paths=paths)

    def extraction(name: str, images: int) -> float:
        part = SimpleNamespace(
            name=corpus.name, image_ids=corpus.image_ids[:images], image_paths=corpus.image_paths[:images]
        )
        start = time.perf_counter()
        extract_features(part, folder / name, extractor, boxes="grid", batch_size=options.batch_size, progress=False)
        return time.perf_counter() - start

    extraction("warm-up", options.batch_size)
    extraction_seconds = [extraction("round 0", len(paths))]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before the arrays of `predict` add theirs
    decoded = preprocess(np.stack([read_picture(path)[0] for path in paths])).numpy()

    def bare() -> float:
        start = time.perf_counter()
        extractor.model.predict(decoded, batch_size=options.batch_size, verbose=0)
        return time.perf_counter() - start

    extractor.model.predict(decoded[: options.batch_size], verbose=0)
    bare_seconds = [bare()]
    for i in range(1, options.rounds):
        bare_seconds.append(bare())
        extraction_seconds.append(extraction(f"round {i}", len(paths)))
    rates = {name: len(paths) / statistics.median(seconds) for name, seconds in
             (("extraction", extraction_seconds), ("bare", bare_seconds))}  # fmt: skip
    return {
        "backbone": options.backbone,
        "images": len(paths),
        "batch_size": options.batch_size,
        "images_per_s": rates["extraction"],
        "bare_images_per_s": rates["bare"],
        "ratio_to_bare": rates["extraction"] / rates["bare"],
        "peak_mb": peak,
    }


def photos(options: argparse.Namespace, folder: Path) -> tuple[Path, ...]:
    """The first photos of --photos, or drawn ones: soft colour fields with grain, as JPEG."""
    if options.photos:
        paths = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
        if not paths:
            sys.exit(f"--photos {options.photos}: no photos in it; name a folder of JPEG or PNG files")
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
    np.savez(path, **{weight.name.split(":")[0]: weight.numpy() for weight in model.weights})
    return path


if __name__ == "__main__":
    sys.exit(main())
