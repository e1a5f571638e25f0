"""Average precision: cases worked out by hand, brute force from the definition, and COCO's own evaluation."""

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bssan_tf.features.faster_rcnn.average_precision import average_precision, evaluate, match

TRUE = np.array([[0, 0, 9, 9], [20, 0, 29, 9]], np.float32)
EASY = np.zeros(2, bool)


def test_a_second_detection_of_an_object_is_wrong():
    boxes = np.array([[0, 0, 9, 8], [0, 0, 9, 9], [20, 0, 29, 9], [50, 50, 59, 59]])
    # the best score takes the object, though another box fits better
    assert match(boxes, np.array([0.9, 0.8, 0.3, 0.5]), TRUE, EASY).tolist() == [1, 0, 1, 0]
    assert match(boxes, np.array([0.7, 0.8, 0.3, 0.5]), TRUE, EASY).tolist() == [0, 1, 1, 0]


def test_a_detection_belongs_to_the_object_it_overlaps_most_even_if_that_is_taken():
    true = np.array([[0, 0, 9, 9], [2, 0, 11, 9]])
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]])
    assert match(boxes, np.array([0.9, 0.8]), true, EASY).tolist() == [1, 0]


def test_half_an_overlap_is_enough_and_the_last_pixel_counts():
    # 10 x 10 and 10 x 5 within it: exactly 0.5
    assert match(np.array([[0, 0, 9, 4]]), np.array([0.9]), TRUE, EASY).tolist() == [1]
    assert match(np.array([[0, 0, 9, 3]]), np.array([0.9]), TRUE, EASY).tolist() == [0]


def test_difficult_objects_count_neither_way():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 29, 9]])
    assert match(boxes, np.array([0.9, 0.8, 0.7]), TRUE, np.array([True, False])).tolist() == [-1, -1, 1]


def test_without_objects_or_detections():
    assert match(TRUE, np.array([0.9, 0.8]), np.zeros((0, 4)), np.zeros(0, bool)).tolist() == [0, 0]
    assert match(np.zeros((0, 4)), np.zeros(0), TRUE, EASY).tolist() == []


@pytest.mark.parametrize(
    ("right", "objects", "area", "eleven"),
    [
        # precision 1, 1/2, 2/3, 1/2, 3/5 at recall 1/4, 1/4, 1/2, 1/2, 3/4
        ([1, 0, 1, 0, 1], 4, (1 + 2 / 3 + 3 / 5) / 4, (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11),
        ([0, 1], 1, 1 / 2, 1 / 2),  # the monotone precision at recall 0 is 1/2, too
        ([1, 1], 2, 1.0, 1.0),
        ([1, -1, -1, 1], 2, 1.0, 1.0),  # what does not count leaves no trace
        ([0, 0], 3, 0.0, 0.0),
        ([], 3, 0.0, 0.0),
        ([1], 10, 0.1, 2 / 11),  # recall 0.1 is reached exactly: the points 0 and 0.1
    ],
)
def test_worked_cases(right, objects, area, eleven):
    scores = np.linspace(1, 0.1, len(right))
    order = np.random.default_rng(0).permutation(len(right))
    for metric, value in (("area", area), ("11point", eleven)):
        found = average_precision(scores[order], np.array(right, int)[order], objects, metric)
        assert found == pytest.approx(value), metric


def test_a_class_without_objects_has_no_ap():
    assert np.isnan(average_precision(np.array([0.5]), np.array([0]), 0))
    with pytest.raises(ValueError, match="metric"):
        average_precision(np.array([0.5]), np.array([0]), 1, "coco")


# ---- by brute force ----


def brute_force(photos, kind, metric):
    """AP of a class from its definition: for each threshold the matching is done anew."""
    objects = sum(int((c == kind).sum() - d[c == kind].sum()) for _, (_, c, d) in photos)
    thresholds = sorted({s for (_, c, scores), _ in photos for s in scores[c == kind]}, reverse=True)
    curve = []
    for threshold in thresholds:
        right = wrong = 0
        for (boxes, classes, scores), (true, true_classes, difficult) in photos:
            found = set()
            mine = [i for i in np.argsort(-scores) if classes[i] == kind and scores[i] >= threshold]
            true_rows = [j for j in range(len(true)) if true_classes[j] == kind]
            for i in mine:
                shared = {j: pixels_shared(boxes[i], true[j]) for j in true_rows}
                best = max(shared, key=shared.get, default=None)
                if best is None or shared[best] < 0.5:
                    wrong += 1
                elif difficult[best]:
                    continue
                elif best in found:
                    wrong += 1
                else:
                    found.add(best)
                    right += 1
        curve.append((right / objects, right / (right + wrong) if right + wrong else 0.0))
    if metric == "11point":
        return sum(max([p for r, p in curve if r >= t / 10 - 1e-9], default=0.0) for t in range(11)) / 11
    steps = sorted({r for r, _ in curve} | {0.0})
    return sum((b - a) * max(p for r, p in curve if r >= b) for a, b in zip(steps, steps[1:]))


def pixels_shared(a, b):
    """IoU by counting pixels on a raster."""
    rasters = []
    for box in (a, b):
        raster = np.zeros((60, 60), bool)
        x1, y1, x2, y2 = map(int, box)
        raster[y1 : y2 + 1, x1 : x2 + 1] = True
        rasters.append(raster)
    return (rasters[0] & rasters[1]).sum() / (rasters[0] | rasters[1]).sum()


def random_photos(seed):
    rng = np.random.default_rng(seed)
    photos, score = [], iter(rng.permutation(1000) / 1000)
    for _ in range(8):
        n = rng.integers(0, 5)
        corner = rng.integers(0, 30, (n, 2))
        true = np.concatenate([corner, corner + rng.integers(8, 25, (n, 2))], 1)
        true_classes, difficult = rng.integers(0, 3, n), rng.random(n) < 0.25
        near = np.repeat(true, 3, 0) + rng.integers(-4, 5, (3 * n, 4))
        corner = rng.integers(0, 30, (4, 2))
        boxes = np.clip(np.concatenate([near, np.concatenate([corner, corner + 12], 1)]), 0, 59)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        classes = np.concatenate([np.repeat(true_classes, 3), rng.integers(0, 3, 4)])
        scores = np.array([next(score) for _ in boxes])
        photos.append(((boxes, classes, scores), (true, true_classes, difficult)))
    return photos


@pytest.mark.parametrize("metric", ["area", "11point"])
@pytest.mark.parametrize("seed", range(4))
def test_against_brute_force(seed, metric):
    photos = random_photos(seed)
    detections = [dict(zip(("boxes", "classes", "scores"), found)) for found, _ in photos]
    mean, ap = evaluate(detections, *zip(*(true for _, true in photos)), 4, metric)
    expected = [brute_force(photos, kind, metric) for kind in range(3)]
    np.testing.assert_allclose(ap[:3], expected, atol=1e-9)
    assert np.isnan(ap[3])
    assert mean == pytest.approx(np.mean(expected))
    assert 0 < mean < 1


# ---- by COCO's library ----


def separate_photos(seed):
    """Photos whose objects lie in cells of their own: only there VOC and COCO match alike."""
    rng = np.random.default_rng(seed)
    photos, score = [], iter(rng.permutation(5000) / 5000)
    for _ in range(12):
        cells = np.stack(np.divmod(rng.permutation(16), 4), 1) * 60
        true, found = [], []
        for corner in cells[: rng.integers(0, 9)]:
            kind, hard = rng.integers(3), rng.random() < 0.25
            x1, y1 = corner + 15
            box = np.array([x1, y1, *(corner + 15 + rng.integers(15, 30, 2))])
            true.append((box, kind, hard))
            for _ in range(rng.integers(0, 4)):
                # COCO's crowds, which also count neither way, have another IoU: so these are found well or not at all.
                shift = rng.integers(-1, 2, 4) if hard else rng.integers(-8, 8, 4)
                found.append((box + shift, kind if rng.random() < 0.8 or hard else rng.integers(3)))
        for corner in cells[9 : 9 + rng.integers(0, 5)]:
            found.append((np.array([*corner, *(corner + rng.integers(5, 55, 2))]), rng.integers(3)))
        photos.append((true, [(*one, next(score)) for one in found]))
    return photos


def coco_ap(photos, kind, recalls):
    """Mean of COCOeval's precision at IoU 0.5 over some recalls, of one class."""

    def entry(number, box, category, **more):
        x1, y1, x2, y2 = map(float, box)
        sides = x2 - x1 + 1, y2 - y1 + 1  # COCO's boxes are x, y, width, height
        return {"image_id": number, "category_id": int(category) + 1, "bbox": [x1, y1, *sides], **more}

    truth = [
        entry(number, *one[:2], iscrowd=int(one[2]), area=1.0)
        for number, (true, _) in enumerate(photos)
        for one in true
    ]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(photos))],
        "categories": [{"id": category} for category in (1, 2, 3)],
        "annotations": [{"id": i, **one} for i, one in enumerate(truth, 1)],
    }
    coco.createIndex()
    found = [entry(number, *one[:2], score=one[2]) for number, (_, found) in enumerate(photos) for one in found]
    judge = COCOeval(coco, coco.loadRes(found), "bbox")
    judge.params.iouThrs, judge.params.recThrs = np.array([0.5]), recalls
    judge.params.catIds, judge.params.maxDets = [kind + 1], [1000]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"].mean()


@pytest.mark.parametrize("seed", range(3))
def test_against_pycocotools(seed):
    """COCO's 101 recalls are replaced: by 11, and by those that one object each adds, whose mean is the area."""
    photos = separate_photos(seed)
    arrays = [[np.array([one[i] for one in true]) for true, _ in photos] for i in range(3)]
    boxes, classes, difficult = ([a.reshape(-1, 4) for a in arrays[0]], *arrays[1:])
    difficult = [hard.astype(bool) for hard in difficult]
    detections = [
        {name: np.array([one[i] for one in found]) for i, name in enumerate(("boxes", "classes", "scores"))}
        for _, found in photos
    ]
    for found in detections:
        found["boxes"] = found["boxes"].reshape(-1, 4)
    counts = [sum(int(((c == kind) & ~d).sum()) for c, d in zip(classes, difficult)) for kind in range(3)]
    recalls = {
        "area": [np.arange(1, count + 1) / count for count in counts],
        "11point": [np.linspace(0, 1, 11) - 1e-9] * 3,
    }
    for metric, points in recalls.items():
        mean, ap = evaluate(detections, boxes, classes, difficult, 3, metric)
        expected = [coco_ap(photos, kind, points[kind]) for kind in range(3)]
        np.testing.assert_allclose(ap, expected, atol=1e-9)
        assert mean == pytest.approx(np.mean(expected))
        assert 0.1 < mean < 0.9
