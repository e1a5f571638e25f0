"""A folder of tiny pictures with captions and features of a user's own, in which retrieval can be learned."""

import csv

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "blue", "black", "white", "yellow")
THINGS = ("dog", "cat", "bird", "car", "tree", "boat")
D, M, P, Q = 4, 12, 3, 12


def write_corpus(folder, pictures=48, seed=0):
    """Pictures with two things each, two captions a picture; regions and objects say noisily what is there.

    Returns the flags of train.py that name them.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    regions = rng.gamma(1.0, 0.1, (pictures, D, M)).astype(np.float32)
    objects = np.zeros((pictures, P, Q), np.float32)
    rows = []
    for i in range(pictures):
        Image.fromarray(np.full((8, 8, 3), 5 * i % 256, np.uint8)).save(folder / f"{i:03}.png")
        colours, things = rng.permutation(6)[:2], rng.permutation(6)[:2]
        for k, place in enumerate(rng.permutation(D)[:2]):
            regions[i, place, [colours[k], 6 + things[k]]] += 3.0
            objects[i, k, [colours[k], 6 + things[k]]] = 3.0
        a, b = (f"{COLOURS[c]} {THINGS[t]}" for c, t in zip(colours, things))
        split = "train" if i < pictures - 16 else ("val" if i < pictures - 8 else "test")
        seen = "" if split == "train" else " unseen"  # a word that the vocabulary must not have
        rows += [
            (f"{i:03}.png", f"A {a} and a{seen} {b}.", split),
            (f"{i:03}.png", f"There is a {b} near the {a}!", split),
        ]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    np.save(folder / "regions.npy", regions)
    np.save(folder / "objects.npy", objects.astype(np.float16))
    return [
        "--data", str(folder), "--import-regions", str(folder / "regions.npy"),
        "--import-objects", str(folder / "objects.npy"),
    ]  # fmt: skip


TINY = [
    "--size", "small", "--lstm", "8", "--bilstm", "8", "--trained-embeddings", "10", "--fusion", "6",
    "--batch-size", "8", "--negatives", "3", "--epochs", "2", "--validation-images", "0", "--quiet",
]  # fmt: skip
