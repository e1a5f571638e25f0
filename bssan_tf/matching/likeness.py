"""How alike photos are to a model: where its words are compared with them.

Of Flickr8k's 1,000 dev photos, captions of a photo and of the one most like it share more words so (cosine of bags of
words 0.257) than by mean regions as the backbone gives them (0.226), or by W2R's cosine alone (0.246); chance is 0.075.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bssan_tf.features.pooling import LOOKS_AT, pool_scaled, unit_rows
from bssan_tf.features.store import Features
from bssan_tf.models.blocks import Network


def photo_vectors(networks: Mapping[str, Network], features: Features, rows: np.ndarray) -> np.ndarray:
    """A vector for each photo, float32 (n, F), of length 1; the product of two is the mean of the networks' cosines.

    A cosine is that of the mean region (W2R) or object (O2W), as the model sees it and as its words are compared with
    it. A photo without objects has 0 for O2W's part.
    """
    parts = []
    for name, network in networks.items():
        pooled = pool_scaled(network.scaled, features, LOOKS_AT[name], rows)
        parts.append(unit_rows(network.projected(pooled)))
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))
