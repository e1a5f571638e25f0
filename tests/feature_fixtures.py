"""A tiny backbone with seeded weights, small pictures and a stand-in corpus, for the tests of features."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from bssan_tf.features.extraction import extract_features

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def vgg_arrays(layers="vgg19", filters=(4, 8, 16, 32, 32), seed=0, dtype=np.float32):
    """Random convolution weights in the names and shapes of the .npz format; activations keep their scale."""
    generator = np.random.default_rng(seed)
    arrays, inputs = {}, 3
    for block, (count, outputs) in enumerate(zip(BLOCKS[layers], filters), 1):
        for i in range(1, count + 1):
            name = f"block{block}_conv{i}"
            scale = (2 / (9 * inputs)) ** 0.5
            arrays[f"{name}/kernel"] = generator.normal(0, scale, (3, 3, inputs, outputs)).astype(dtype)
            arrays[f"{name}/bias"] = generator.normal(0, 0.1, outputs).astype(dtype)
            inputs = outputs
    return arrays


def tiny_extractor(folder: Path):
    """VGG-19 of a sixteenth of the width, M = 32."""
    from bssan_tf.features.backbones import Backbone
    from bssan_tf.features.regions import Extractor

    weights = folder / "tiny.npz"
    if not weights.exists():
        np.savez(weights, **vgg_arrays())
    return Extractor(Backbone("tiny", "vgg19", 1 / 16), weights)


def write_pictures(folder: Path, count: int, seed=0):
    """JPEGs of 80x60 pixels, each another colour field; a corpus of them."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = tuple(f"photo{i:03d}.jpg" for i in range(count))
    for name in ids:
        soft = Image.fromarray(generator.integers(0, 256, (3, 4, 3), np.uint8))
        soft.resize((80, 60), Image.Resampling.BILINEAR).save(folder / name)
    return SimpleNamespace(name="pictures", image_ids=ids, image_paths=tuple(folder / name for name in ids))


def write_boxes(path: Path, corpus, detections=4, seed=0):
    """A boxes file for `write_pictures`, with scores between 0 and 1, in another order than the corpus."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 1, (len(corpus.image_ids), detections, 2, 2)) * [80, 60]
    corners.sort(axis=2)
    boxes = np.zeros((len(corpus.image_ids), detections, 6), np.float32)
    boxes[..., :4] = corners.reshape(*boxes.shape[:2], 4)
    boxes[..., 4] = generator.uniform(0.1, 1, boxes.shape[:2])
    boxes[..., 5] = generator.integers(0, 2, boxes.shape[:2])
    boxes[::3, -1, 4] = 0  # some have a detection fewer
    order = generator.permutation(len(boxes))
    np.savez(path, names=np.array(corpus.image_ids)[order], boxes=boxes[order], labels=np.array(["dog", "cat"]))
    return boxes


def extract(corpus, folder, extractor, **options):
    options = {"boxes": "grid", "batch_size": 4, "progress": False, **options}
    return extract_features(corpus, folder, extractor, **options)


def arrays(folder):
    """The bytes of all arrays but the times of the picture files."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy")) if path.name != "stamps.npy"}


def spoil(path):
    path.write_bytes(path.read_bytes()[:100])


def forbid_describing(monkeypatch, extractor):
    def describe(*_):
        raise AssertionError("nothing is left to extract")

    monkeypatch.setattr(extractor, "describe", describe)
