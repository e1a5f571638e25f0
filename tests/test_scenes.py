"""The embedded data set: alike from alike seeds whatever interrupts, its truth checked against the pixels."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bssan_tf.datasets import load_corpus, scenes
from bssan_tf.datasets.scene_pictures import SHAPES, plan_scene
from bssan_tf.datasets.scenes import load_scenes
from bssan_tf.errors import UserError

# Written anew here, not taken from the module.
RGB = {
    "red": (215, 40, 40),
    "orange": (250, 130, 10),
    "yellow": (250, 220, 50),
    "green": (40, 160, 60),
    "blue": (35, 85, 220),
    "purple": (130, 35, 180),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
TINY = {"train": 6, "val": 3, "test": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """200 test scenes, as in the default corpus, and a few others."""
    return load_scenes(tmp_path_factory.mktemp("scenes"), seed=3, sizes={"train": 60, "val": 20, "test": 200})


def content(folder: Path) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the folder ----


def test_same_seed_gives_the_same_bytes(tmp_path):
    first = load_scenes(tmp_path / "a", seed=5, sizes=TINY)
    load_scenes(tmp_path / "b", seed=5, sizes=TINY)
    other = load_scenes(tmp_path / "c", seed=6, sizes=TINY)
    files = content(tmp_path / "a")
    assert files == content(tmp_path / "b")
    assert len(files) == 13 + 4  # pictures, captions, truth, boxes, manifest
    assert not set(first.image_ids) & set(other.image_ids)
    assert not set(first.captions) <= set(other.captions)


def test_a_second_load_draws_nothing_and_gives_the_same_corpus(tmp_path, monkeypatch):
    first = load_scenes(tmp_path, sizes=TINY)
    monkeypatch.setattr(scenes, "plan_scene", None)
    monkeypatch.setattr(scenes, "scene_jpeg", None)
    second = load_scenes(tmp_path, sizes=TINY)
    assert first.captions == second.captions
    assert first.image_paths == second.image_paths
    assert first.grounding.named == second.grounding.named
    assert np.array_equal(first.image_of_caption, second.image_of_caption)
    assert all(np.array_equal(a, b) for a, b in zip(first.grounding.boxes, second.grounding.boxes))


@pytest.mark.parametrize(
    "lost",
    [
        ("manifest.json", "captions.csv"),
        ("truth.json",),
        ("boxes.npz",),
        ("images",),
        ("manifest.json", "images"),
    ],
)
def test_lost_files_come_back_as_they_were(tmp_path, lost):
    load_scenes(tmp_path, sizes=TINY)
    before = content(tmp_path)
    for name in lost:
        pictures = sorted((tmp_path / "images").iterdir())[::3]
        for path in pictures if name == "images" else [tmp_path / name]:
            path.unlink()
    load_scenes(tmp_path, sizes=TINY)
    assert content(tmp_path) == before


@pytest.mark.parametrize("broken", ["", "[1, 2]", '{"seed": 0', "[" * 100_000], ids=range(4))
def test_a_broken_manifest_or_truth_is_written_anew(tmp_path, broken):
    load_scenes(tmp_path, sizes=TINY)
    before = content(tmp_path)
    (tmp_path / "truth.json").write_text(broken)
    load_scenes(tmp_path, sizes=TINY)
    (tmp_path / "manifest.json").write_text(broken)
    load_scenes(tmp_path, sizes=TINY)
    assert content(tmp_path) == before


def test_other_scenes_take_the_place_of_these(tmp_path, caplog):
    load_scenes(tmp_path / "used", seed=1, sizes={**TINY, "train": 9})
    mine = tmp_path / "used" / "images" / "holiday.jpg"
    mine.write_bytes(b"not ours")
    with caplog.at_level(logging.INFO):
        load_scenes(tmp_path / "used", seed=2, sizes=TINY)
    assert "other scenes" in caplog.text
    assert "seed: 1" in caplog.text
    assert mine.read_bytes() == b"not ours"
    mine.unlink()
    load_scenes(tmp_path / "fresh", seed=2, sizes=TINY)
    assert content(tmp_path / "used") == content(tmp_path / "fresh")


@pytest.mark.large
def test_kill_while_drawing_then_resume(tmp_path, project):
    sizes = {"train": 150, "val": 5, "test": 5}
    code = (
        "import sys; from pathlib import Path; from bssan_tf.datasets.scenes import load_scenes; "
        "assert 'tensorflow' not in sys.modules; "
        f"load_scenes(Path(sys.argv[1]), 7, {sizes})"
    )
    images = tmp_path / "killed" / "images"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    with open(tmp_path / "log", "w") as log:
        drawing = subprocess.Popen(command, cwd=project, stderr=log)
    deadline = time.monotonic() + 60
    while not images.is_dir() or len(list(images.glob("*.jpg"))) < 15:
        assert drawing.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(drawing.pid, signal.SIGKILL)
    drawing.wait()
    survivors = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in images.glob("*.jpg")}
    assert 15 <= len(survivors) < 160
    assert not (tmp_path / "killed" / "manifest.json").exists()
    half = images / ".train_00149_00000000.jpg.1.part"  # as a kill in the middle of a write leaves it
    half.write_bytes(b"\xff\xd8")
    os.utime(half, (0, 0))

    load_scenes(tmp_path / "killed", 7, sizes)
    load_scenes(tmp_path / "whole", 7, sizes)
    assert all(survivors[path] == (path.read_bytes(), path.stat().st_mtime_ns) for path in survivors)
    parts = {name for name in content(tmp_path / "killed") if name.endswith(".part")}
    assert str(half.relative_to(tmp_path / "killed")) not in parts  # an old one is cleared away
    killed = {name: data for name, data in content(tmp_path / "killed").items() if name not in parts}
    assert killed == content(tmp_path / "whole")


@pytest.mark.parametrize("writes", [0, 5, 13, 14, 15, 16])  # pictures, captions, truth, boxes, manifest
def test_an_interrupted_write_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch, writes):
    folder, whole, left = tmp_path / "folder", Path.write_bytes, [writes]
    load_scenes(folder, seed=1, sizes=TINY)

    def write_half(path, content):
        left[0] -= 1
        whole(path, content if left[0] >= 0 else content[: len(content) // 2])
        if left[0] < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        load_scenes(folder, seed=2, sizes=TINY)
    monkeypatch.undo()
    for path in (folder / "images").glob("*.jpg"):
        with Image.open(path) as picture:
            picture.load()
    for seed in (1, 2):
        load_scenes(folder, seed, TINY)
        load_scenes(tmp_path / f"fresh{seed}", seed, TINY)
        found = {name: data for name, data in content(folder).items() if not name.endswith(".part")}
        assert found == content(tmp_path / f"fresh{seed}")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"train": 0, "val": 1, "test": 1}, "size of train is 0"),
        ({"train": 1, "val": -2, "test": 1}, "size of val is -2"),
        ({"train": 1, "val": 1, "test": 1.5}, "size of test is 1.5"),
        ({"train": 1, "val": True, "test": 1}, "size of val is True"),
        ({"train": 1, "test": 1}, "give them for train, val and test"),
        ({"train": 1, "val": 1, "test": 1, "dev": 1}, "dev"),
        ({"train": 10**6, "val": 1, "test": 1}, "at most 50000"),
    ],
)
def test_bad_sizes(tmp_path, sizes, said):
    with pytest.raises(UserError, match=said):
        load_scenes(tmp_path / "new", sizes=sizes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seed", [-1, 0.5, "1", None, True])
def test_bad_seed(tmp_path, seed):
    with pytest.raises(UserError, match="seed is"):
        load_scenes(tmp_path, seed=seed, sizes=TINY)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    for folder in (file, file / "below"):
        with pytest.raises(UserError, match=r"scenes: cannot write .*file") as caught:
            load_scenes(folder, sizes=TINY)
        assert "\n" not in str(caught.value)


# ---- the corpus ----


def test_splits_share_no_scene(corpus):
    assert [len(corpus.splits[split]) for split in ("train", "val", "test")] == [60, 20, 200]
    assert sorted(np.concatenate(list(corpus.splits.values()))) == list(range(280))
    pairs = [frozenset(label.split(" ", 1)[1] for label in labels) for labels in corpus.grounding.labels]
    assert len(set(pairs)) == 280
    assert len(set(corpus.image_ids)) == 280
    assert all(path.name == name for path, name in zip(corpus.image_paths, corpus.image_ids))
    assert np.array_equal(np.bincount(corpus.image_of_caption), np.full(280, 5))
    assert corpus.name == "scenes"
    assert not corpus.official


def test_val_and_test_do_not_depend_on_the_size_of_train():
    small, large = (scenes.plan_corpus(0, {"train": number, "val": 100, "test": 100}) for number in (1, 300))
    assert small["val"] == large["val"]
    assert small["test"] == large["test"]
    assert small["train"] == large["train"][:1]


def test_pairs_run_out_but_scenes_do_not():
    taken = {plan_scene((0, i)).key for i in range(600)}
    couples = {frozenset(key) for key in taken if len(key) == 2}
    colours, shapes = itertools.combinations(RGB, 2), list(itertools.permutations(SHAPES, 2))
    every_couple = {frozenset(zip(two, others)) for two in colours for others in shapes}
    assert couples < every_couple
    assert len(every_couple) == 28 * 56
    scene = next(plan_scene((1, i), every_couple) for i in range(50) if len(plan_scene((1, i)).things) == 2)
    assert len(scene.things) == 3


def test_pictures_are_ordinary_jpeg_files(corpus):
    for path in corpus.image_paths[::20]:
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (224, 224))


def test_colours_of_the_pixels_are_the_named_ones(corpus):
    names, table = list(RGB), np.array(list(RGB.values()), float)
    truth = corpus.grounding
    for path, boxes, labels in zip(corpus.image_paths, truth.boxes, truth.labels):
        with Image.open(path) as picture:
            pixels = np.asarray(picture, float)
        for (x1, y1, x2, y2), label in zip(boxes * 224, labels):
            x, y = int((x1 + x2) / 2), int((y1 + y2) / 2)
            median = np.median(pixels[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3), axis=0)
            assert names[np.linalg.norm(table - median, axis=1).argmin()] == label.split()[1], (path, label)


def test_boxes_are_tight_around_the_objects(corpus):
    """Nearly all pixels of the object's colour lie inside the box, and they reach each of its sides."""
    for number in range(0, 280, 4):
        with Image.open(corpus.image_paths[number]) as picture:
            pixels = np.asarray(picture, float)
        for box, label in zip(corpus.grounding.boxes[number] * 224, corpus.grounding.labels[number]):
            x, y = box.reshape(2, 2).mean(0).astype(int)
            median = np.median(pixels[y - 3 : y + 4, x - 3 : x + 4], (0, 1))
            places = np.argwhere(np.linalg.norm(pixels - median, axis=-1) < 45)[:, ::-1]  # x, y
            inside = ((places >= box[:2] - 2) & (places < box[2:] + 2)).all(1)
            assert inside.mean() > 0.97, label
            reach = (*places[inside].min(0), *places[inside].max(0))
            assert np.abs(np.add(reach, (0, 0, 1, 1)) - box).max() < 8, label  # the rim is darker, corners are thin


def test_objects_are_large_enough_and_apart():
    seen = set()
    for i in range(300):
        things = plan_scene((9, i)).things
        boxes = np.array([thing.box for thing in things])
        assert 2 <= len(things) <= 4
        assert boxes.min() >= 8
        assert boxes.max() <= 216
        longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
        for thing, side in zip(things, longer):
            low, high = {"small": (44, 54), "medium": (60, 70), "large": (78, 90)}[thing.size]
            assert low - 1e-6 <= side <= high + 1e-6
        for a in range(len(things)):
            for b in range(a):
                gap = np.maximum(boxes[a, :2], boxes[b, :2]) - np.minimum(boxes[a, 2:], boxes[b, 2:])
                assert gap.max() > 5
        assert len({thing.colour for thing in things}) == len({thing.shape for thing in things}) == len(things)
        seen |= {thing.label for thing in things}
    assert len(seen) > 150  # of 3 x 8 x 8


# ---- files that other parts of the project read ----


def test_boxes_file_is_what_a_detector_might_write(corpus):
    with np.load(corpus.boxes_file, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["boxes", "labels", "names"]
        names, boxes, labels = archive["names"], archive["boxes"], archive["labels"]
    assert tuple(names.tolist()) == corpus.image_ids
    assert tuple(labels.tolist()) == SHAPES
    assert boxes.dtype == np.float32
    assert boxes.shape == (280, 10, 6)
    shaken, filled = [], []
    for rows, true, things in zip(boxes, corpus.grounding.boxes, corpus.grounding.labels):
        used = rows[:, 4] > 0
        assert not rows[~used].any()
        rows = rows[used]
        assert (np.diff(rows[:, 4]) <= 0).all()
        assert rows[:, 4].max() <= 1
        assert rows[:, :4].min() >= 0
        assert rows[:, :4].max() <= 224
        assert (rows[:, :2] < rows[:, 2:4]).all()
        n = len(things)
        assert n + 2 <= len(rows) <= 10
        filled.append(len(rows))
        overlap = iou(rows[:, None, :4], true[None] * 224)  # (rows, objects)
        assert sorted(overlap[:n].argmax(1)) == list(range(n))  # the true ones come first, each once
        assert (overlap[:n].max(1) > 0.55).all()
        assert (overlap[n:] < 0.3).all()
        for row, obj in enumerate(overlap[:n].argmax(1)):
            assert labels[int(rows[row, 5])] == things[obj].split()[2]
            shaken.append(rows[row, :4] - true[obj] * 224)
    assert 1 < np.std(shaken) < 4
    assert abs(np.mean(shaken)) < 0.4
    assert min(filled) < 6
    assert max(filled) == 10


def iou(a, b):
    wide = np.clip(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]), 0, None)
    high = np.clip(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]), 0, None)
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    return wide * high / (areas[0] + areas[1] - wide * high)


def test_the_folder_is_a_folder_data_set_as_well(corpus):
    folder = corpus.image_paths[0].parent.parent
    read = load_corpus(str(folder))
    for split in ("train", "val", "test"):
        ours, theirs = corpus.split(split), read.split(split)
        assert ours.captions == theirs.captions
        assert tuple(f"images/{name}" for name in ours.image_ids) == theirs.image_ids


def test_load_corpus_draws_into_the_cache(tmp_path):
    loaded = load_corpus("scenes", cache=tmp_path, scene_sizes=TINY, seed=4)
    manifest = json.loads((tmp_path / "scenes" / "manifest.json").read_text())
    assert manifest["seed"] == 4
    assert manifest["sizes"] == TINY
    assert loaded.boxes_file == tmp_path / "scenes" / "boxes.npz"
