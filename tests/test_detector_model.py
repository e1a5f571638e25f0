"""What Faster R-CNN sees of a photo, and its graphs: shapes, the chain against a reference, gradients, batches."""

import faster_rcnn_reference as reference
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks.detector import cut
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.images import BGR_MEANS, prepare, scale_for
from bssan_tf.features.faster_rcnn.losses import BoxLoss, ClassLoss, ObjectLoss
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import DetectorConfig, DetectorTraining
from bssan_tf.features.pictures import read_picture

TINY = DetectorConfig(
    labels=("cat", "dog", "owl"), width=1 / 16, hidden=24, anchor_scales=(2, 4), proposals=12, detections=10
)
TRAINING = DetectorTraining(rpn_batch=32, roi_batch=8, train_proposals=20, dropout=0.0)


@pytest.fixture(scope="module")
def detector():
    """Random weights, the heads' enlarged so that scores and boxes differ from RoI to RoI."""
    tf.keras.utils.set_random_seed(0)
    model = FasterRcnn(TINY)
    for name in ("rpn_cls_score/kernel", "rpn_bbox_pred/kernel", "cls_score/kernel"):
        model.weights[name].assign(model.weights[name] * 30)
    model.weights["bbox_pred/kernel"].assign(model.weights["bbox_pred/kernel"] * 300)
    return model


def photo(height, width, seed=0):
    soft = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC))


def inputs_of(*photos):
    pixels = np.stack([prepare(one, 128, 224)[0] for one in photos])
    scales = [prepare(one, 128, 224)[1] for one in photos]
    sizes = [one.shape[:2] for one in photos]
    return {"pixels": pixels, "scale": np.array(scales, np.float32), "size": np.array(sizes, np.float32)}


# ---- photos ----


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (480, 640, 600 / 480),
        (375, 500, 1.6),
        (600, 600, 1.0),
        (300, 600, 1000 / 600),
        (30, 1000, 1.0),
        (1200, 400, 5 / 6),
    ],
)
def test_the_short_side_becomes_600_unless_the_long_one_would_pass_1000(height, width, scale):
    assert scale_for(height, width) == pytest.approx(scale)
    pixels, found = prepare(np.zeros((height, width, 3), np.uint8))
    assert found == pytest.approx(scale)
    assert pixels.shape == (round(height * scale), round(width * scale), 3)


def test_pixels_are_bgr_minus_the_means_of_the_weights():
    pixels, scale = prepare(np.full((5, 7, 3), (10, 20, 30), np.uint8), 5, 10)
    assert scale == 1.0
    np.testing.assert_allclose(pixels[2, 3], [30 - 102.9801, 20 - 115.9465, 10 - 122.7717], atol=1e-4)
    assert pixels.dtype == np.float32


@pytest.mark.parametrize(("height", "width", "short", "long"), [(40, 60, 30, 50), (20, 30, 45, 90)])
def test_scaling_is_bilinear_between_pixel_centres(height, width, short, long):
    one = photo(height, width)
    pixels, _ = prepare(one, short, long)
    wanted = one[..., ::-1].astype(np.float64) - BGR_MEANS
    rng = np.random.default_rng(0)
    for _ in range(50):
        row, column = rng.integers(pixels.shape[0]), rng.integers(pixels.shape[1])
        y = min(max((row + 0.5) * height / pixels.shape[0] - 0.5, 0), height - 1)
        x = min(max((column + 0.5) * width / pixels.shape[1] - 0.5, 0), width - 1)
        top, left = int(min(y, height - 2)), int(min(x, width - 2))
        dy, dx = y - top, x - left
        near = wanted[top : top + 2, left : left + 2]
        value = (near[0, 0] * (1 - dx) + near[0, 1] * dx) * (1 - dy) + (near[1, 0] * (1 - dx) + near[1, 1] * dx) * dy
        np.testing.assert_allclose(pixels[row, column], value, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(97, 131), (300, 700)])
def test_the_means_may_be_subtracted_after_the_scaling(height, width):
    one = photo(height, width)
    pixels, _ = prepare(one, 200, 400)
    before = tf.image.resize(one[..., ::-1] - BGR_MEANS, pixels.shape[:2], method="bilinear")  # the reference's order
    np.testing.assert_allclose(pixels, before, atol=1e-4)


def test_a_large_photo_is_scaled_before_it_becomes_float32(monkeypatch):
    seen = []
    resize = tf.image.resize
    monkeypatch.setattr(
        tf.image, "resize", lambda images, *a, **k: seen.append(images.dtype) or resize(images, *a, **k)
    )
    pixels, _ = prepare(photo(300, 400), 60, 100)
    assert pixels.dtype == np.float32
    assert seen == [np.uint8]


def test_whole_photos_of_every_kind(tmp_path):
    def saved(image, **options):
        image.save(tmp_path / "photo", **options)
        return tmp_path / "photo"

    one = Image.fromarray(photo(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned, size = read_picture(saved(one, format="PNG", exif=exif), side=None)
    assert size == (60, 40)
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(one), -1))
    grey, size = read_picture(saved(one.convert("L"), format="PNG"), side=None)
    assert size == (40, 60)
    np.testing.assert_array_equal(grey, np.repeat(np.asarray(one.convert("L"))[..., None], 3, 2))
    cmyk, _ = read_picture(saved(one.convert("CMYK"), format="JPEG", quality=95), side=None)
    assert np.abs(cmyk.astype(int) - np.asarray(one)).mean() < 4
    (tmp_path / "none").write_bytes(b"no picture")
    with pytest.raises(UserError, match="can't be read"):
        read_picture(tmp_path / "none", side=None)


# ---- inference ----


@pytest.mark.parametrize(("height", "width"), [(128, 128), (97, 211), (30, 1000), (33, 17)])
def test_any_size_of_photo(detector, height, width):
    found = detector.inference()(inputs_of(photo(height, width)))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (1, 10, 4),
        "classes": (1, 10),
        "scores": (1, 10),
        "fc7": (1, 10, 24),
        "valid": (1, 10),
    }
    boxes, scores, valid = (found[name][0].numpy() for name in ("boxes", "scores", "valid"))
    assert valid.any()
    assert (boxes[valid] >= 0).all()
    assert (boxes[valid] <= [width - 1, height - 1, width - 1, height - 1]).all()
    assert (np.diff(scores) <= 0).all()
    assert set(found["classes"][0].numpy()[valid]) <= {0, 1, 2}
    for name in ("boxes", "scores", "fc7"):
        assert np.isfinite(found[name]).all()
        assert not found[name][0].numpy()[~valid].any()


def detect_by_hand(detector, inputs):
    """The whole chain but the convolutions and products, in NumPy loops, for the first photo."""
    config, weights = detector.config, {name: w.numpy() for name, w in detector.weights.items()}
    features = detector.trunk(inputs["pixels"][:1]).numpy()
    hidden = tf.nn.relu(tf.nn.conv2d(features, weights["rpn_conv/kernel"], 1, "SAME") + weights["rpn_conv/bias"])
    scores = hidden.numpy()[0] @ weights["rpn_cls_score/kernel"][0, 0] + weights["rpn_cls_score/bias"]
    deltas = hidden.numpy()[0] @ weights["rpn_bbox_pred/kernel"][0, 0] + weights["rpn_bbox_pred/bias"]
    rows, columns, A = *scores.shape[:2], config.anchors
    anchors = reference.anchors(rows, columns, config.anchor_scales)
    height, width = inputs["pixels"].shape[1:3]
    found, odds = [], []
    for i, anchor in enumerate(anchors):
        row, column, a = i // (columns * A), i // A % columns, i % A
        background, foreground = np.exp(scores[row, column, a]), np.exp(scores[row, column, a + A])
        odds.append(foreground / (background + foreground))
        found.append(reference.clip(reference.decode(deltas[row, column, 4 * a : 4 * a + 4], anchor), height, width))
    found, odds = np.array(found, np.float32), np.array(odds)
    rois = found[reference.nms(found, odds, config.proposals, config.proposal_iou, last_included=False)]

    crops = np.array([reference.crop(features[0], roi).ravel() for roi in rois])
    fc6 = np.maximum(crops @ weights["fc6/kernel"] + weights["fc6/bias"], 0)
    fc7 = np.maximum(fc6 @ weights["fc7/kernel"] + weights["fc7/bias"], 0)
    logits = fc7 @ weights["cls_score/kernel"] + weights["cls_score/bias"]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    box_deltas = fc7 @ weights["bbox_pred/kernel"] + weights["bbox_pred/bias"]
    detections = []
    for c in range(1, config.classes):
        boxes = []
        for roi, delta in zip(rois / inputs["scale"][0], box_deltas):
            box = reference.decode(delta[4 * c : 4 * c + 4] * [0.1, 0.1, 0.2, 0.2], roi)
            boxes.append(reference.clip(box, *inputs["size"][0]))
        for i in reference.nms(np.array(boxes, np.float32), chances[:, c], 1000, config.detection_iou, True):
            detections.append((chances[i, c], c - 1, boxes[i], fc7[i]))
    return sorted(detections, key=lambda detection: -detection[0])[: config.detections]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_chain_against_a_reference(detector, seed):
    inputs = inputs_of(photo(150, 200, seed))
    assert inputs["scale"][0] == pytest.approx(128 / 150)
    found = {name: value[0].numpy() for name, value in detector.inference()(inputs).items()}
    expected = detect_by_hand(detector, inputs)
    assert found["valid"].sum() == len(expected)
    for i, (score, kind, box, fc7) in enumerate(expected):
        assert found["scores"][i] == pytest.approx(score, abs=1e-4)
        assert found["classes"][i] == kind
        np.testing.assert_allclose(found["boxes"][i], box, atol=0.05)
        np.testing.assert_allclose(found["fc7"][i], fc7, rtol=1e-3, atol=1e-3 * np.abs(fc7).max())


def test_photos_of_a_batch_do_not_meet(detector):
    model, photos = detector.inference(), [photo(128, 160, seed) for seed in range(3)]
    together = model(inputs_of(*photos))
    for i, one in enumerate(photos):
        alone = model(inputs_of(one))
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value[0], rtol=1e-3, atol=1e-2, err_msg=name)


def test_parameters_by_name():
    weights = FasterRcnn(TINY).weights
    assert len(weights) == 2 * (13 + 3 + 4)
    assert weights["rpn_conv/kernel"].shape == (3, 3, 32, 32)
    assert weights["rpn_cls_score/kernel"].shape == (1, 1, 32, 12)
    assert weights["fc6/kernel"].shape == (7 * 7 * 32, 24)
    assert weights["bbox_pred/bias"].shape == (16,)


@pytest.mark.large
def test_parameters_at_full_width():
    weights = FasterRcnn(DetectorConfig()).weights
    assert sum(int(np.prod(weight.shape)) for weight in weights.values()) == 137_078_239


# ---- training graph ----


def training_inputs():
    boxes = np.array([[[20, 20, 80, 70], [0, 0, 0, 0]], [[5, 40, 60, 100], [70, 10, 120, 60]]], np.float32)
    pixels = np.stack([prepare(photo(128, 128, seed), 128, 128)[0] for seed in (3, 4)])
    return {
        "pixels": pixels,
        "boxes": boxes,
        "classes": np.array([[1, 0], [2, 3]], np.int32),
        "seed": np.array([[0, 1], [0, 2]], np.int32),
    }


def test_each_loss_reaches_the_weights_it_should(detector):
    model = detector.training(TRAINING)
    weights = detector.weights
    with tf.GradientTape(persistent=True) as tape:
        losses = model(training_inputs(), training=True)
        sums = {name: tf.reduce_sum(value) for name, value in losses.items()}
    assert {name: value.shape for name, value in losses.items()} == {
        name: (2,) for name in ("rpn_class", "rpn_box", "roi_class", "roi_box")
    }
    assert all((value.numpy() > 0).all() for value in losses.values())
    trunk, rpn = "block1_conv1/kernel", "rpn_conv/kernel"
    reached = {
        "rpn_class": (trunk, rpn, "rpn_cls_score/kernel"),
        "rpn_box": (trunk, rpn, "rpn_bbox_pred/kernel"),
        "roi_class": (trunk, "fc6/kernel", "fc7/kernel", "cls_score/kernel"),
        "roi_box": (trunk, "fc6/kernel", "fc7/kernel", "bbox_pred/kernel"),
    }
    heads = [trunk, rpn, *(name for name in weights if name.endswith("kernel") and "block" not in name)]
    for loss, names in reached.items():
        for name in heads:
            gradient = tape.gradient(sums[loss], weights[name])
            if name in names:  # through the crop to the first convolution
                assert np.abs(gradient).max() > 0, (loss, name)
            else:
                assert gradient is None or not np.abs(gradient).max(), (loss, name)


def test_the_gradient_of_the_crop_is_the_slope(detector):
    """A small step against the gradient of the RoIs' loss lowers it by step x squared gradient."""
    model, inputs = detector.training(TRAINING), training_inputs()
    kernel = detector.weights["block5_conv3/kernel"]
    before = tf.identity(kernel)

    def loss():
        values = model(inputs, training=True)
        return tf.reduce_sum(values["roi_class"] + values["roi_box"])

    with tf.GradientTape() as tape:
        start = loss()
    gradient = tape.gradient(start, kernel)
    step = 1e-3 / float(tf.reduce_sum(gradient**2))
    kernel.assign_sub(step * gradient)
    fall = float(start - loss())
    kernel.assign(before)
    assert fall == pytest.approx(1e-3, rel=0.2)


def test_losses_by_hand():
    logits, labels = np.array([[2.0, -1.0, 5.0]], np.float32), np.array([[1, 0, 0]], np.int32)
    used = np.array([[1, 1, 0]], np.float32)
    wanted = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))) / 2
    assert ObjectLoss()((logits, labels, used)).numpy() == pytest.approx([wanted])
    wanted = np.log(np.exp([1, 2, 3]).sum()) - 2
    classes = np.array([[1, 0]], np.int32)
    scores = np.array([[[1, 2, 3], [9, 0, 0]]], np.float32)
    assert ClassLoss()((scores, classes, used[:, 1:])).numpy() == pytest.approx([wanted], rel=1e-5)
    assert ClassLoss()((scores, classes, np.zeros((1, 2), np.float32))).numpy() == [0]  # none is used
    targets = np.zeros((1, 3, 4), np.float32)
    deltas = np.array([[[0.5, 2, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9]]], np.float32)
    # sigma 1: 0.125 + 1.5; sigma 3: bend 1/9, 0.5 - 1/18 + 2 - 1/18; two anchors count
    assert BoxLoss(1.0)((deltas, targets, labels, used)).numpy() == pytest.approx([1.625 / 2])
    assert BoxLoss(3.0)((deltas, targets, labels, used)).numpy() == pytest.approx([(2.5 - 1 / 9) / 2])
    by_class = np.concatenate([np.full((1, 3, 4), 7, np.float32), deltas], -1)  # four numbers for each of 2 classes
    assert BoxLoss(1.0)((by_class, targets, labels, used)).numpy() == pytest.approx([1.625 / 2])


def test_the_stages_of_the_benchmark_are_the_whole_graph(detector):
    graph, inputs = detector.inference(), inputs_of(photo(100, 140))
    known = dict(inputs)
    for run, takes, gives in cut(graph).values():
        known.update(zip(gives, run([known[name] for name in takes])))
    for name, value in graph(inputs).items():
        np.testing.assert_allclose(known[name], value, rtol=1e-4, atol=1e-3)
