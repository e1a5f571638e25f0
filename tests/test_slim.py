"""The shipped slim VGG-19, and the script that makes it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import bssan_tf.features
from benchmarks.train_slim import add_batch_norm, batches, draw_cells, fold_batch_norm, main
from bssan_tf.datasets.scene_pictures import COLOURS, SHAPES, SIZES, draw_scene, plan_scene
from bssan_tf.features.backbones import build_vgg, load_weights, preprocess
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import SCENES
from bssan_tf.features.faster_rcnn.weights import load_initial

SHIPPED = Path(bssan_tf.features.__file__).with_name("slim_vgg19.npz")
FILTERS, CONVOLUTIONS = (8, 16, 32, 64, 64), (2, 2, 4, 4, 4)  # VGG-19's, at an eighth of its width


def wanted_shapes() -> dict:
    shapes, channels = {}, 3
    for block, (filters, count) in enumerate(zip(FILTERS, CONVOLUTIONS), 1):
        for conv in range(1, count + 1):
            shapes[f"block{block}_conv{conv}/kernel"] = (3, 3, channels, filters)
            shapes[f"block{block}_conv{conv}/bias"] = (filters,)
            channels = filters
    return shapes


@pytest.fixture(scope="module")
def fresh():
    """Features (N, 14, 14, 64) of scenes that neither the training nor a corpus has seen, and their cells."""
    pictures, cells = draw_cells([plan_scene((2024, 50, i)) for i in range(120)])
    net = build_vgg("vgg19", 1 / 8)
    load_weights(net, SHIPPED)
    return net.predict(preprocess(pictures).numpy(), batch_size=32, verbose=0), cells


# ---- the shipped weights ----


def test_shipped_file_has_exactly_the_sixteen_convolutions():
    assert SHIPPED.stat().st_size < 4_000_000
    with np.load(SHIPPED, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    assert {key: value.shape for key, value in arrays.items()} == wanted_shapes()
    assert len(arrays) == 32
    assert {value.dtype for value in arrays.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(value).all() and np.ptp(value) > 0 for value in arrays.values())


def test_features_have_a_sane_scale(fresh):
    features, _ = fresh
    assert features.shape == (120, 14, 14, 64)
    assert 0.5 < features.mean() < 1.0
    assert features.max() < 100
    assert (features.max((0, 1, 2)) > 0.1).mean() > 0.8  # few dead channels


@pytest.mark.parametrize(("column", "classes"), [(0, len(COLOURS)), (1, len(SHAPES))])
def test_cells_of_one_kind_are_nearest_to_each_other(fresh, column, classes):
    """A class' mean feature over half of the scenes is nearest to its own mean over the other half."""
    features, cells = fresh
    means = np.stack(
        [
            [features[half][cells[half][..., column] == kind].mean(0) for kind in range(classes + 1)]
            for half in (slice(0, None, 2), slice(1, None, 2))
        ]
    )  # (2, classes with the background, 64)
    distances = np.linalg.norm(means[0][:, None] - means[1][None], axis=-1)
    assert distances.argmin(1).tolist() == list(range(classes + 1))
    other = distances[~np.eye(classes + 1, dtype=bool)]
    assert np.diag(distances).max() < 0.6 * other.min()


@pytest.mark.parametrize(("column", "least"), [(0, 0.95), (1, 0.9), (2, 0.75)])
def test_a_cell_tells_its_object_by_a_linear_map(fresh, column, least):
    """Least squares on the object cells of 80 scenes reads those of the other 40: colour, shape, size."""
    features, cells = fresh
    held = cells[..., 0] > 0
    train, test = held.copy(), held.copy()
    train[80:], test[:80] = False, False
    one_hot = np.eye(9)[cells[train][:, column]]
    with_one = np.pad(features, [(0, 0)] * 3 + [(0, 1)], constant_values=1.0)
    solution = np.linalg.lstsq(with_one[train], one_hot, rcond=None)[0]
    guesses = (with_one[test] @ solution).argmax(-1)
    assert (guesses == cells[test][:, column]).mean() > least


# ---- the script ----


def test_cells_say_what_lies_at_their_centre():
    scene = plan_scene((1, 50, 4))
    pictures, cells = draw_cells([scene])
    assert pictures.shape == (1, 224, 224, 3)
    assert cells.shape == (1, 14, 14, 3)
    drawn, owner = draw_scene(scene)
    assert np.abs(pictures[0].astype(int) - drawn).mean() < 6  # JPEG
    seen = set()
    for row in range(14):
        for column in range(14):
            index = owner[16 * row + 8, 16 * column + 8]
            if index < 0:
                assert cells[0, row, column].tolist() == [0, 0, 0]
                continue
            thing = scene.things[index]
            x1, y1, x2, y2 = thing.box
            assert x1 - 1 <= 16 * column + 8 <= x2 + 1
            assert y1 - 1 <= 16 * row + 8 <= y2 + 1
            colour, shape, size = cells[0, row, column] - 1
            said = list(SIZES)[size], list(COLOURS)[colour], SHAPES[shape]
            assert said == tuple(thing.label.split())
            seen.add(index)
    assert seen == set(range(len(scene.things)))


def test_batches_mirror_picture_and_cells_together():
    pictures, cells = draw_cells([plan_scene((1, 50, 4)), plan_scene((1, 50, 5))])
    mirrored = []
    for pixels, targets, weights in batches(pictures, cells, 2, seed=0).take(8):
        assert pixels.shape == (2, 224, 224, 3)
        assert set(targets) == set(weights) == {"colour", "shape", "size"}
        assert np.array_equal(weights["size"], np.where(targets["colour"] > 0, 3.0, 1.0))
        for picture, colour, shape in zip(pixels.numpy(), targets["colour"].numpy(), targets["shape"].numpy()):
            candidates = [(i, step) for i in (0, 1) for step in (1, -1)]
            plain = [preprocess(pictures[i][:, ::step]).numpy() for i, step in candidates]
            away = [np.abs(picture - other).mean() for other in plain]  # up to 12 by the brightness
            i, step = candidates[int(np.argmin(away))]
            assert min(away) < 12.5
            assert np.array_equal(colour, cells[i, :, ::step, 0])
            assert np.array_equal(shape, cells[i, :, ::step, 1])
            mirrored.append(step)
    assert set(mirrored) == {1, -1}


def test_folding_the_batch_norm_changes_nothing():
    plain = build_vgg("vgg19", 1 / 32)
    net = add_batch_norm(plain)
    rng = np.random.default_rng(0)
    for layer in net.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            draws = (
                rng.uniform(0.7, 1.6, n),
                rng.normal(0, 0.3, n),
                rng.normal(0, 0.2, n),
                rng.uniform(0.2, 2, n),
            )
            layer.set_weights(draws)  # gamma, beta, moving mean and variance
    pixels = rng.normal(0, 60, (2, 224, 224, 3)).astype(np.float32)
    unfolded = net(pixels, training=False).numpy()
    assert unfolded.std() > 0.05
    for scale in (1.0, 2.5):
        weights = fold_batch_norm(net, scale)
        assert set(weights) == set(wanted_shapes())
        for layer in plain.layers[1:]:
            if layer.weights:
                layer.set_weights([weights[f"{layer.name}/kernel"], weights[f"{layer.name}/bias"]])
        # Twenty layers of float32: the error is that of the largest value, and moves with the number of threads.
        np.testing.assert_allclose(plain(pixels).numpy(), scale * unfolded, atol=1e-4 * scale * np.abs(unfolded).max())


@pytest.mark.large
def test_the_command_line_trains_and_writes_a_file_that_loads(tmp_path, project):
    out = tmp_path / "new" / "slim.npz"
    command = [sys.executable, "-m", "benchmarks.train_slim", "--out", str(out)]
    command += ["--steps", "3", "--batch", "2", "--scenes", "4", "--held-out", "3"]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in out.parent.iterdir()] == ["slim.npz"]
    net = build_vgg("vgg19", 1 / 8)
    before = net.get_weights()
    load_weights(net, out)
    assert not any(np.array_equal(a, b) for a, b in zip(before, net.get_weights()) if a.ndim > 1)
    said = re.search(r"colour (\d\.\d+), shape (\d\.\d+), size (\d\.\d+), background (\d\.\d+)", run.stderr)
    assert all(0 <= float(share) <= 1 for share in said.groups())


@pytest.mark.large
def test_the_slim_vgg16_is_where_the_slim_detector_starts(tmp_path):
    out = tmp_path / "trunk.npz"
    main(["--layers", "vgg16", "--out", str(out), "--steps", "1", "--batch", "2", "--scenes", "2", "--held-out", "1"])
    detector = FasterRcnn(SCENES)
    load_initial(detector, out)
    with np.load(out) as arrays:
        assert len(arrays.files) == 26  # 13 convolutions
        for name in arrays.files:
            np.testing.assert_array_equal(detector.weights[name], arrays[name].astype(np.float32))


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--out", "slim.h5"],
        ["--out", f"{__file__}/slim.npz"],
        ["--out", "a.npz", "--steps", "0"],
        ["--out", "a.npz", "--batch", "x"],
        ["--out", "a.npz", "--seed", "-1"],
    ],
)
def test_bad_flags_end_before_any_work(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
