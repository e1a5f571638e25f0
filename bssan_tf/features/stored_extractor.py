"""An extractor as a store knows it: its network and weights are looked for when a picture is to be described.

In: the manifest of a store, and what opens the network. Out: what a store is opened and grown with.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bssan_tf.config.fields import HUB
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import SIDE

if TYPE_CHECKING:
    from bssan_tf.features.regions import Extractor


class StoredExtractor:
    """Stands in for the `Extractor` that a store was made with, whose attributes it has.

    Args:
        manifest: of the store.
        find: opens the extractor; it is called once, when a picture is to be described.
    """

    def __init__(self, manifest: Mapping, find: Callable[[], Extractor]):
        self.name, self.layer, self.weights_sha256 = (
            manifest.get(key) for key in ("extractor", "layer", "weights_sha256")
        )
        self.grid = tuple(manifest.get("grid") or ())
        self.region_shape = tuple(manifest["arrays"]["regions"]["shape"][1:])
        self._find, self._lock = find, threading.Lock()

    @property
    def side(self) -> int:
        """Of the pictures that it takes, in pixels; only a preset of KerasHub may have another than the usual."""
        return self._network.side if (self.name or "").startswith(HUB) else SIDE

    @property
    def model(self):
        """As of `Extractor`; UserError where its weights are absent, or not those of the store."""
        return self._network.model

    def describe(self, *given):
        """As of `Extractor`; UserError as `model`."""
        return self._network.describe(*given)

    @property
    def _network(self) -> Extractor:
        with self._lock:  # pictures are decoded in threads
            return self._opened

    @functools.cached_property
    def _opened(self) -> Extractor:
        found = self._find()
        for what in ("name", "layer", "weights_sha256", "grid", "region_shape"):
            if (now := getattr(found, what)) != (then := getattr(self, what)):
                problem = f"the features of known photos were made with {what} {then}, not {now}"
                raise UserError(f"--backbone-weights {found.weights_file}: {problem}; give those, or another --cache")
        return found
