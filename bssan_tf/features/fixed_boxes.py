"""The ten fixed boxes in place of a store's objects, computed from its regions when they are read; nothing is stored.

In: features with objects of any boxes. Out: the same with what extraction with `--objects grid` would have stored: the
mean of a box that is the same in all photos is a weighted sum of the D regions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.context import ObjectsInContext
from bssan_tf.features.objects import grid_boxes, roi_means
from bssan_tf.features.store import Features

_BLOCK = 64  # pictures whose regions are read at once


class FixedObjects:
    """An array float16 (N, P, M) over regions (N, D, M), whose rows are computed when they are read.

    Args:
        grid: rows and columns in which the D regions lie.
        boxes: float32 (P, 4), as fractions of the picture.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, regions: np.ndarray, grid: tuple[int, int], boxes: np.ndarray):
        N, D, M = regions.shape
        self.regions, self.shape = regions, (N, len(boxes), M)
        cells = np.eye(D, dtype=np.float32).reshape(1, *grid, D)
        self._shares = np.array(roi_means(cells, boxes[None])[0])  # (P, D), of each region in each box

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        """Rows, indexed along the first axis as of a NumPy array."""
        places = np.arange(len(self))[rows]
        some = np.atleast_1d(places)
        found = np.empty((len(some), *self.shape[1:]), self.dtype)
        for start in range(0, len(some), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = self.of(np.asarray(self.regions[some[block]], np.float32))
        return found if np.ndim(places) else found[0]

    def of(self, regions: np.ndarray) -> np.ndarray:
        """The objects of float32 regions (n, D, M) that were read already: float16 (n, P, M)."""
        return (self._shares @ regions).astype(self.dtype)


def with_fixed_boxes(features: Features, Q: int | None = None) -> Features:
    """The features with the fixed boxes as objects, in context where the given ones are.

    `Q` is then the size of an object; None leaves it. UserError without regions on a grid, or where objects are no
    means of regions.
    """
    given = features.objects.features if features.in_context else features
    regions, objects, grid = given.regions, given.objects, given.grid
    if regions is None or objects is None or objects.shape[2] != regions.shape[2]:
        needed = "need regions, and objects that are means of these"
        raise UserError(f"fixed boxes: {needed}; leave out --fixed-boxes, or --objects grid")
    if grid is None:
        problem = "the features are of an older version, which did not note the grid of the regions"
        raise UserError(f"fixed boxes: {problem}; give another --cache to extract them anew")
    fixed = grid_boxes(objects.shape[1])
    alike = {name: np.broadcast_to(value, (len(objects), *value.shape)) for name, value in fixed.items()}
    alike["objects"] = FixedObjects(regions, grid, fixed["boxes"])
    made_with = {**given.manifest, "boxes": "grid", "labels": None}
    found = dataclasses.replace(given, manifest=made_with, **alike)
    if not features.in_context:
        return found
    around = features.objects
    in_context = ObjectsInContext(found, Q or around.shape[2], around.shares, around.means)
    return dataclasses.replace(found, objects=in_context, in_context=True)


def objects_of_read(fixed: Features, rows: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """`fixed.objects[rows]` of features by `with_fixed_boxes`, from their float32 regions (n, D, M), not read again."""
    if not fixed.in_context:
        return fixed.objects.of(regions)
    return fixed.objects.around(rows, fixed.objects.features.objects.of(regions))
