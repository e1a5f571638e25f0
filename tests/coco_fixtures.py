"""A folder in COCO's layout with tiny photos, written by the tests."""

import json

import numpy as np
from PIL import Image

CLASSES = ((1, "person"), (3, "car"), (18, "dog"))  # COCO's numbers
WIDTH, HEIGHT = 80, 60


def write_coco(root, photos, part="train2017"):
    """Captions, instances and photos of 80x60 pixels.

    Args:
        photos: file name -> (captions, objects), each object (class, x, y, width, height) in pixels.
    """
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(photos)]
    number_of = {name: number for number, name in CLASSES}
    captions, instances = [], []
    for i, (texts, objects) in enumerate(photos.values()):
        captions += [{"image_id": i, "caption": text} for text in texts]
        instances += [{"image_id": i, "category_id": number_of[name], "bbox": box} for name, *box in objects]
    for name in ("annotations", "images"):
        (root / name).mkdir(parents=True, exist_ok=True)
    categories = [{"id": number, "name": name} for number, name in CLASSES]
    for name, value in (("captions", captions), ("instances", instances)):
        text = json.dumps({"images": images, "annotations": value, "categories": categories})
        (root / "annotations" / f"{name}_{part}.json").write_text(text)
    rng = np.random.default_rng(0)
    for name in photos:
        field = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        field.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).save(root / "images" / name)
