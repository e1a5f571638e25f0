"""Pictures described on a cluster of Ray: Ray Data's `map_batches`, on actors that hold the network.

Batches, their order and so their bytes are those of one process. What a node that dies had not given is done elsewhere.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.features.describer import Describer
from bssan_tf.tools.ray_cluster import FLAG, Home, ray_cluster

REMEDY = "photos, weights and boxes must be the same files at the same paths on all nodes"
BATCHES = 4  # that an actor is given at once; it decodes ahead in them


def described_on_ray(describer: Describer, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """As `describer.described(wanted)`.

    UserError as `ray_cluster`, and where a node lacks a photo or the weights, or has other ones.
    """
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return
    size = describer.batch_size * BATCHES
    with ray_cluster() as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        gpus = int(ray.cluster_resources().get("GPU", 0))
        most = gpus or sum(bool(node["Resources"].get("CPU")) for node in ray.nodes() if node["Alive"])
        found = ray.data.from_numpy(np.split(rows, range(size, len(rows), size))).map_batches(
            Describing,
            fn_constructor_args=(pickle.dumps(describer), Home.here()),
            batch_size=None,  # what is split above
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        )
        for values in found.iter_batches(batch_size=None, prefetch_batches=2):
            done, reasons = values.pop("row"), values.pop("reason")
            if not np.array_equal(done, rows[: len(done)]):
                raise RuntimeError(f"rows {done} in place of {rows[: len(done)]}")
            rows = rows[len(done) :]
            for row, reason in zip(done.tolist(), reasons.tolist()):
                if reason and describer.read(row) is not None:  # has it been mended, or does only this machine have it?
                    raise UserError(f"{FLAG}: a node has {reason}, but here it is read; {REMEDY}")
            describer.oversized.update(done[values.pop("oversized")].tolist())
            yield done, values
    if len(rows):
        raise RuntimeError(f"rows {rows} were not described")


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
            self.describer = pickle.loads(self.pickled)
            self._require_same_weights()
        describer, wanted = self.describer, np.zeros(len(self.describer.paths), bool)
        wanted[batch["data"]] = True
        for rows, values in describer.described(wanted):
            reasons = [describer.reasons.get(row, "") for row in rows.tolist()]
            oversized = np.array([row in describer.oversized for row in rows.tolist()])
            yield {"row": rows, "reason": np.array(reasons, object), "oversized": oversized, **values}

    def _require_same_weights(self) -> None:
        own, made_with = self.describer, self.describer.plan.made_with
        found = {"weights_sha256": own.extractor.weights_sha256}
        if own.detector:
            found["boxes"] = own.detector.name
        for what, value in found.items():
            if value != made_with[what]:
                node, told = socket.gethostname(), f"{value}, here they are {made_with[what]}"
                raise UserError(f"{FLAG}: on node {node} the weights are {told}; {REMEDY}")
