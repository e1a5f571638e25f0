"""Pictures described on a cluster of Ray: Ray Data's `map_batches`, on actors that hold the network.

Batches, their order and so their bytes are those of one process. What a node that dies had not given is done elsewhere.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Iterator

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.describer import Describer, file_state
from bssan_tf.tools.ray_cluster import FLAG, Home, cpus_of_nodes, ray_cluster

REMEDY = "photos and weights must be the same files at the same paths on all nodes"
BATCHES = 4  # that an actor is given at once; it decodes ahead in them


def described_on_ray(describer: Describer, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """As `describer.described(wanted)`.

    UserError as `ray_cluster`, and where a node lacks a photo or the weights, or has other ones.
    """
    left = np.flatnonzero(wanted)
    if not len(left):
        return
    with ray_cluster("ray.data") as ray, contextlib.closing(_found(ray, describer, left)) as found:
        for values in found:
            rows, reasons = values.pop("row"), values.pop("reason")
            if not np.array_equal(rows, left[: len(rows)]):
                raise RuntimeError(f"rows {rows} in place of {left[: len(rows)]}")
            left = left[len(rows) :]
            for row, reason, size in zip(rows.tolist(), reasons.tolist(), values["sizes"].tolist()):
                if reason and describer.read(row) is not None:
                    raise UserError(f"{FLAG}: a node has {reason}, but here it is read; {REMEDY}")
                if not reason and size != getattr(file_state(describer.paths[row]), "size", None):
                    raise UserError(f"{FLAG}: {describer.paths[row]} has {size} bytes on a node, not here; {REMEDY}")
            describer.oversized.update(rows[values.pop("oversized")].tolist())
            yield rows, values
    if len(left):
        raise RuntimeError(f"rows {left} were not described")


def _found(ray, describer: Describer, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """What `Describing` gives for rows int (n,), in their order."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    size, gpus = describer.batch_size * BATCHES, int(ray.cluster_resources().get("GPU", 0))
    blocks = ray.data.from_numpy(np.split(rows, range(size, len(rows), size)))
    described = blocks.map_batches(
        Describing,
        fn_constructor_args=(pickle.dumps(describer), Home.here()),
        batch_size=size,  # a block's
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or len(cpus_of_nodes(ray))),
    )
    yield from described.iter_batches(batch_size=None, prefetch_batches=2)


class Describing:
    """An actor: rows of pictures -> what a store has of them.

    Args:
        pickled: a `Describer`; it is opened at the first call, so that its errors are told.
        home: where the command was given.
    """

    def __init__(self, pickled: bytes, home: Home):
        self.pickled, self.home, self.describer = pickled, home, None

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if self.describer is None:
            self.home.require_same_packages()
            self.home.enter()
            opened = pickle.loads(self.pickled)
            require_same_weights(opened)
            self.describer = opened
        describer, wanted = self.describer, np.zeros(len(self.describer.paths), bool)
        wanted[batch["data"]] = True
        for rows, values in describer.described(wanted):
            reasons = [describer.reasons.get(row, "") for row in rows.tolist()]
            oversized = np.array([row in describer.oversized for row in rows.tolist()])
            yield {"row": rows, "reason": np.array(reasons, object), "oversized": oversized, **values}


def require_same_weights(describer: Describer) -> None:
    """UserError where the network or the detector, opened on this node, are not those of the store's plan."""
    found, made_with = {"weights_sha256": describer.extractor.weights_sha256}, describer.plan.made_with
    if describer.detector:
        found["boxes"] = describer.detector.name
    for what, value in found.items():
        if value != made_with[what]:
            told = f"{value}, where the command was given they are {made_with[what]}"
            raise UserError(f"{FLAG}: on node {socket.gethostname()} the weights are {told}; {REMEDY}")
