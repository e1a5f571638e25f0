"""The preset `improved` on photos in NumPy, one pair at a time: the yardstick for the graphs of that preset.

Written from the paper and from the table "The preset `improved`" of docs/decisions.md, not from the code. A row of that
table is a part here; names of parts are the settings'. λ, the factor of the cosines and the like are the table's.
"""

import numpy as np
from numpy_reference import lstm, softmax

LAMBDA, DELTA, ALL_PAIRS, COSINES = 1.0, 1e-6, 1.0, 4.0
LSTM = ("kernel", "recurrent_kernel", "bias")
PARTS = (
    "E_trained", "region_norm", "object_norm", "cosine_attention", "attention_scale", "o2w_attention_scale", "fusion",
    "bilinear", "weighted_lengths", "o2w_weight", "object_context",
)  # fmt: skip


def in_context(own, classes, scores, regions, count):
    """[own ; class ; photo] of the objects (P, Q') of a photo with regions (D, M), `count` classes."""
    photo = regions.mean(axis=0)
    rows = []
    for features, number, score in zip(own, classes, scores):
        named = np.zeros(count)
        if number >= 0:
            named[number] = 0.08 * score
        rows.append([*(0.04 * features / np.abs(features).sum()), *named, *(photo / np.abs(photo).sum())])
    return np.array(rows)


class Reference:
    """Scores, attention and loss under some weights.

    Args:
        weights: `numpy_reference.Weights` of a scorer.
        without: parts that are left out.
        room: what is left out still has its place in the weights, with zeros in it.
    """

    def __init__(self, weights, without=(), room=False):
        self.weights, self.room = weights, room
        self.has = {part: part not in without for part in PARTS}

    def words(self, tokens):
        """GloVe's vectors, and beside them the learned dimensions."""
        parts = [self.weights["glove/embeddings"][tokens]]
        if self.has["E_trained"] or self.room:
            parts.append(self.weights["embedding/embeddings"][tokens] * self.has["E_trained"])
        return np.concatenate(parts, axis=1)

    def scaled(self, features, name):
        """The signed root, less the mean of each dimension, divided by the deviation."""
        features = features.astype(np.float64)
        if not self.has[name]:
            return features
        roots = np.sign(features) * np.sqrt(np.abs(features))
        return (roots - self.weights[f"{name}/mean"]) / np.sqrt(self.weights[f"{name}/variance"])

    def attention(self, queries, keys, network):
        """α or β, one row for each query (Eq. 1, 2, 9, 10)."""
        W, b = self.weights[f"{network}_attention/W"], self.weights[f"{network}_attention/b"]
        part = {"w2r": "attention_scale", "o2w": "o2w_attention_scale"}[network]
        factor = self.weights[f"{network}_attention/scale"] if self.has[part] else 1.0
        rows = []
        for query in queries @ W:
            products = keys @ query
            if self.has["cosine_attention"]:
                products = COSINES * products / np.linalg.norm(query) / np.linalg.norm(keys, axis=1)
            rows.append(softmax(factor * np.tanh(products + b)))
        return np.array(rows)

    def joined(self, visual, textual, network):
        """[visual ; textual ; (A visual)∘(B textual)], and both factors of the product."""
        if not (self.has["fusion"] or self.room):
            return np.concatenate([visual, textual], axis=1), None, None
        projected = visual @ self.weights[f"{network}_fusion_A/kernel"]
        picked = textual @ self.weights[f"{network}_fusion_B/kernel"]
        product = projected * picked * self.has["fusion"]
        return np.concatenate([visual, textual, product], axis=1), projected, picked

    def bilinear(self, queries, attended, network):
        """The products of queries and what they attend to, lengths taken off; 0 where there is no such score."""
        if not (self.has["bilinear"] and self.has["fusion"]):
            return 0.0
        gains = [1.0, 1.0]
        if self.has["weighted_lengths"]:
            gains = [self.weights[f"{network}_bilinear/{side}_gain"] for side in ("query", "attended")]
        total = 0.0
        for query, found in zip(queries, attended):
            total += query @ found / np.linalg.norm(gains[1] * found)
        factor = np.exp(self.weights[f"{network}_bilinear/log_scale"])
        return factor * total / np.linalg.norm(gains[0] * queries.sum(axis=0))

    def w2r(self, tokens, regions):
        """What the MLP gets (1, H), the bilinear score, α (L, D)."""
        words, regions = self.words(tokens), self.scaled(regions, "region_norm")
        alpha = self.attention(words, regions, "w2r")
        c, Au, Bt = self.joined(alpha @ regions, words, "w2r")
        last = lstm(c, *(self.weights[f"w2r_lstm/{part}"] for part in LSTM))[-1:]
        return last, self.bilinear(Bt, Au, "w2r"), alpha

    def o2w(self, tokens, objects):
        """What the MLP gets (P, F), the bilinear score, β (P, L); objects without padding."""
        words, objects = self.words(tokens), self.scaled(objects, "object_norm")
        forward = lstm(words, *(self.weights[f"o2w_bilstm/forward/{part}"] for part in LSTM))
        backward = lstm(words[::-1], *(self.weights[f"o2w_bilstm/backward/{part}"] for part in LSTM))[::-1]
        states = (forward + backward) / 2
        beta = self.attention(objects, states, "o2w")
        c, Ao, Bu = self.joined(objects, beta @ states, "o2w")
        return c, self.bilinear(Ao, Bu, "o2w"), beta

    def mlp(self, rows, network, training=False):
        """Dense, BatchNorm, tanh; then one number a row (Table I). In training BatchNorm's statistics are the rows'."""
        name, i = f"{network}_mlp", 1
        while f"{name}_dense{i}/kernel" in self.weights:
            rows = rows @ self.weights[f"{name}_dense{i}/kernel"] + self.weights[f"{name}_dense{i}/bias"]
            norm = {key: self.weights[f"{name}_norm{i}/{key}"] for key in ("gamma", "beta")}
            mean, variance = rows.mean(axis=0), rows.var(axis=0)
            if not training:
                mean, variance = (self.weights[f"{name}_norm{i}/moving_{key}"] for key in ("mean", "variance"))
            rows = np.tanh((rows - mean) / np.sqrt(variance + 1e-3) * norm["gamma"] + norm["beta"])
            i += 1
        return rows @ self.weights[f"{name}_out/kernel"][:, 0] + self.weights[f"{name}_out/bias"][0]

    def pair(self, tokens, regions, objects):
        """MS, Y, Y', α and β of a picture and a caption (Eq. 6, 16, 19); nothing is padded."""
        last, beside, alpha = self.w2r(tokens, regions)
        y = float(self.mlp(last, "w2r")[0]) + beside
        c, beside, beta = self.o2w(tokens, objects)
        y_o2w = float(self.mlp(c, "o2w").mean()) + beside
        weight = LAMBDA if self.has["o2w_weight"] else 0.6
        return {"score": y + weight * y_o2w, "w2r": y, "o2w": y_o2w, "alpha": alpha, "beta": beta}

    def batch(self, captions, regions, objects, training=False):
        """Scores of a batch: (V_i, T_i) and (V_i, T_{i+1}) whole, and of all pairs (V_i, T_{i+k}) the bilinear ones."""
        pictures = {"w2r": regions, "o2w": objects}
        count, scores = len(captions), {}
        for network, seen in pictures.items():
            of_pair = getattr(self, network)
            parts = [[of_pair(captions[(i + k) % count], seen[i]) for k in range(count)] for i in range(count)]
            beside = np.array([[part[1] for part in row] for row in parts])
            rows = [part[0] for row in parts for part in row[:2]]
            y = self.mlp(np.concatenate(rows), network, training)  # positives and negatives in one batch
            ends = np.cumsum([len(row) for row in rows])[:-1]
            y = np.reshape([part.mean() for part in np.split(y, ends)], (count, 2))
            scores |= {network: y + beside[:, :2], f"{network}_all": beside}
        return scores

    def loss(self, scores):
        """Eq. 18 with softmax losses, and the loss of all pairs with the same weights of the two networks."""
        kernels = [value for name, value in self.weights.values.items() if name.endswith(("kernel", "/W"))]
        total = DELTA * sum(np.sum(kernel**2) for kernel in kernels)
        for suffix, weight in (("", 1.0), ("_all", ALL_PAIRS)):
            total += weight * both_ways(scores[f"w2r{suffix}"])
            total += weight * LAMBDA * both_ways(scores[f"o2w{suffix}"])
        return total


def both_ways(scores):
    """Mean loss of ranking captions for pictures and pictures for captions; scores (V_i, T_{i+k}), positive first."""
    count, columns = scores.shape
    losses = []
    for n in range(count):
        captions = [scores[n, k] for k in range(columns)]
        pictures = [scores[(n - k) % count, k] for k in range(columns)]
        losses += [-np.log(softmax(np.array(row))[0]) for row in (captions, pictures)]
    return np.mean(losses)
