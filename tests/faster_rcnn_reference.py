"""Faster R-CNN's arithmetic of boxes once more, in plain NumPy and loops, written from the paper and the reference."""

import math

import numpy as np


def anchors(rows, columns, scales=(8, 16, 32), ratios=(0.5, 1, 2), stride=16):
    """(rows * columns * A, 4): for each row, column, ratio, scale."""
    found = []
    for row in range(rows):
        for column in range(columns):
            for ratio in ratios:
                w = np.round(math.sqrt(stride * stride / ratio))
                h = np.round(w * ratio)
                for scale in scales:
                    x, y = 7.5 + stride * column, 7.5 + stride * row
                    half_w, half_h = (w * scale - 1) / 2, (h * scale - 1) / 2
                    found.append([x - half_w, y - half_h, x + half_w, y + half_h])
    return np.array(found)


def iou(a, b):
    """IoU of two boxes whose last pixel counts."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return w * h / (area - w * h)


def ious(boxes, others):
    return np.array([[iou(a, b) for b in others] for a in boxes]).reshape(len(boxes), len(others))


def encode(box, reference):
    w, h = (reference[i + 2] - reference[i] + 1 for i in (0, 1))
    to_w, to_h = (box[i + 2] - box[i] + 1 for i in (0, 1))
    dx = (box[0] + to_w / 2 - reference[0] - w / 2) / w
    dy = (box[1] + to_h / 2 - reference[1] - h / 2) / h
    return np.array([dx, dy, math.log(to_w / w), math.log(to_h / h)])


def decode(delta, reference):
    w, h = (reference[i + 2] - reference[i] + 1 for i in (0, 1))
    x, y = reference[0] + w / 2 + delta[0] * w, reference[1] + h / 2 + delta[1] * h
    w, h = w * math.exp(delta[2]), h * math.exp(delta[3])
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def clip(box, height, width):
    return np.array([min(max(v, 0), last - 1) for v, last in zip(box, (width, height, width, height))])


def nms(boxes, scores, count, threshold, last_included):
    """Greedy: indices of the boxes that stay, best first."""
    extra = np.array([0, 0, 1, 1]) if last_included else 0
    order, kept = list(np.argsort(-scores, kind="stable")), []
    while order and len(kept) < count:
        best = order.pop(0)
        kept.append(best)
        order = [i for i in order if _plain_iou(boxes[best] + extra, boxes[i] + extra) <= threshold]
    return kept


def _plain_iou(a, b):
    return iou(a - [0, 0, 1, 1], b - [0, 0, 1, 1]) if (a[2:] > a[:2]).all() and (b[2:] > b[:2]).all() else 0.0


def anchor_labels(found, objects, height, width, positive=0.7, negative=0.3):
    """1 object, 0 background, -1 neither, before any drawing; and the deltas of the objects."""
    labels, deltas = np.full(len(found), -1), np.zeros((len(found), 4))
    inside = [a[0] >= 0 and a[1] >= 0 and a[2] < width and a[3] < height for a in found]
    shared = ious(found, objects)
    for i in np.flatnonzero(inside):
        best = max(shared[i], default=0.0)
        if best < negative:
            labels[i] = 0
        if best >= positive:
            labels[i] = 1
        for j in range(len(objects)):
            most = max(shared[k, j] for k in np.flatnonzero(inside))
            if most > 0 and shared[i, j] == most:
                labels[i] = 1
        if best > 0:
            deltas[i] = encode(objects[int(np.argmax(shared[i]))], found[i])
    return labels, deltas


def crop(feature_map, roi, stride=16, samples=14):
    """A RoI sampled bilinearly and max-pooled: (7, 7, M)."""
    rows, columns, channels = feature_map.shape
    grid = np.zeros((samples, samples, channels))
    for i in range(samples):
        for j in range(samples):
            y = (roi[1] + (roi[3] - roi[1]) * i / (samples - 1)) / stride
            x = (roi[0] + (roi[2] - roi[0]) * j / (samples - 1)) / stride
            if not (0 <= y <= rows - 1 and 0 <= x <= columns - 1):
                continue  # crop_and_resize gives 0 there
            top, left = int(min(y, rows - 2)), int(min(x, columns - 2))
            dy, dx = y - top, x - left
            near = feature_map[top : top + 2, left : left + 2]
            grid[i, j] = (near[0, 0] * (1 - dx) + near[0, 1] * dx) * (1 - dy)
            grid[i, j] += (near[1, 0] * (1 - dx) + near[1, 1] * dx) * dy
    return grid.reshape(samples // 2, 2, samples // 2, 2, channels).max((1, 3))
