"""BSSAN in NumPy, one pair at a time, written from the paper's equations; the yardstick for the Keras graphs."""

import numpy as np

from bssan_tf.tools.stack import path_of


def softmax(e):
    exp = np.exp(e - e.max())
    return exp / exp.sum()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


class Weights:
    """The weights of a Keras model by `layer/weight` name."""

    def __init__(self, model):
        self.values = {}
        self._collect(model)

    def _collect(self, model):
        for layer in model.layers:
            if hasattr(layer, "layers"):
                self._collect(layer)
            else:
                for weight in layer.weights:
                    parts = path_of(weight).split("/")
                    direction = [p.split("_")[0] for p in parts if p.startswith(("forward_", "backward_"))]
                    self.values["/".join([layer.name, *direction, parts[-1]])] = weight.numpy().astype(np.float64)

    def __getitem__(self, name):
        return self.values[name]

    def __contains__(self, name):
        return name in self.values


def lstm(x, kernel, recurrent, bias):
    """States of every step, gates in Keras' order i, f, c, o."""
    n = recurrent.shape[0]
    h, c, states = np.zeros(n), np.zeros(n), []
    for step in x:
        i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def cnn(x, weights):
    """Features of a sentence by Kim (EMNLP 2014), section 2: c_i = f(w · x_{i:i+h-1} + b) with f = relu, max over time.

    Windows of h = 2, 3 and 4 begin at each word; beyond the sentence words are zeros.
    """
    found = []
    for h in (2, 3, 4):
        kernel, bias = weights[f"w2r_cnn{h}/kernel"], weights[f"w2r_cnn{h}/bias"]  # (h, F, H), (H,)
        padded = np.concatenate([x, np.zeros((h - 1, len(x[0])))])
        windows = [sum(padded[i + j] @ kernel[j] for j in range(h)) + bias for i in range(len(x))]
        found.append(np.max(np.maximum(windows, 0), axis=0))
    return np.concatenate(found)


def mlp(x, weights, name):
    """Dense, BatchNorm with its moving statistics, tanh; then one number (Table I)."""
    i = 1
    while f"{name}_dense{i}/kernel" in weights:
        x = x @ weights[f"{name}_dense{i}/kernel"] + weights[f"{name}_dense{i}/bias"]
        norm = {part: weights[f"{name}_norm{i}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) * norm["gamma"] + norm["beta"]
        x = np.tanh(x)
        i += 1
    return float(x @ weights[f"{name}_out/kernel"][:, 0] + weights[f"{name}_out/bias"][0])


def word_vectors(tokens, weights):
    parts = [weights[f"{name}/embeddings"] for name in ("glove", "embedding") if f"{name}/embeddings" in weights]
    return np.concatenate([part[tokens] for part in parts], axis=1)  # (L, E)


def normed(features, mode, weights, name):
    if mode == "none":
        return features
    features = np.sign(features) * np.sqrt(np.abs(features))
    if mode == "centred":
        return (features - weights[f"{name}/mean"]) / np.sqrt(weights[f"{name}/variance"])
    return features / np.linalg.norm(features, axis=-1, keepdims=True)  # sqrt_l2


def fused(visual, textual, weights, name):
    parts = [visual, textual]
    if f"{name}_A/kernel" in weights:
        parts.append((visual @ weights[f"{name}_A/kernel"]) * (textual @ weights[f"{name}_B/kernel"]))
    return np.concatenate(parts)


def bilinear(queries, attended, weights, name):
    """s Σ <q, a / |a|> / |Σ q|, lengths weighted where the model has weights; 0 where it has no such score."""
    if f"{name}_bilinear/log_scale" not in weights:
        return 0.0
    q = np.stack(queries) @ weights[f"{name}_fusion_{'B' if name == 'w2r' else 'A'}/kernel"]
    a = np.stack(attended) @ weights[f"{name}_fusion_{'A' if name == 'w2r' else 'B'}/kernel"]
    weighted = f"{name}_bilinear/query_gain" in weights
    gain_q, gain_a = (weights[f"{name}_bilinear/{side}_gain"] if weighted else 1.0 for side in ("query", "attended"))
    fits = sum(q_k @ a_k / np.sqrt(np.sum((gain_a * a_k) ** 2)) for q_k, a_k in zip(q, a))
    return np.exp(weights[f"{name}_bilinear/log_scale"]) * fits / np.sqrt(np.sum((gain_q * q.sum(axis=0)) ** 2))


def agreement(query, key, config):
    """query' key, or four times their cosine, which is 0 where a key is: the only word of a caption less the mean."""
    if config.cosine_attention and key.any():
        return 4 * (query @ key) / np.linalg.norm(query) / np.linalg.norm(key)
    return query @ key


def compared(keys, config):
    """Keys (N, F) as a query sees them: less their mean where there is a gate."""
    return keys - keys.mean(axis=0) if config.attention_gate else keys


def behind_gate(found, keys, weights, name):
    """v̄ + γ (Σ α v - v̄) of Σ α v where the model has a gate."""
    if f"{name}_gate/log_gamma" not in weights:
        return found
    return keys.mean(axis=0) + np.exp(weights[f"{name}_gate/log_gamma"]) * (found - keys.mean(axis=0))


def w2r(tokens, regions, weights, config, uniform=False):
    """Y and α of a pair (Eq. 1-6, 8). tokens: (L,) without padding; regions: (D, M)."""
    t = word_vectors(tokens, weights)
    r = normed(regions.astype(np.float64), config.region_norm, weights, "region_norm")
    W, b = weights["w2r_attention/W"], weights["w2r_attention/b"]
    factor = weights["w2r_attention/scale"] if config.attention_scale else 1.0
    c, alphas, attended = [], [], []
    for t_k in t:
        e = np.array([np.tanh(agreement(t_k @ W, r_j, config) + b) for r_j in compared(r, config)])  # Eq. 2
        alpha = np.full(len(r), 1 / len(r)) if uniform else softmax(factor * e)  # Eq. 1, 8
        u_k = behind_gate(sum(a * r_j for a, r_j in zip(alpha, r)), r, weights, "w2r")  # Eq. 3
        c.append(fused(u_k, t_k, weights, "w2r_fusion"))
        alphas.append(alpha)
        attended.append(u_k)
    if config.w2r_text == "cnn":
        text = cnn(c, weights)
    else:
        text = lstm(c, *(weights[f"w2r_lstm/{p}"] for p in ("kernel", "recurrent_kernel", "bias")))[-1]
    y = mlp(text, weights, "w2r_mlp")  # Eq. 5
    return y + bilinear(t, attended, weights, "w2r"), np.array(alphas)


def o2w(tokens, objects, weights, config, uniform=False):
    """Y' and β of a pair (Eq. 8-16). objects: (P, Q) without padding."""
    t = word_vectors(tokens, weights)
    objects = normed(objects.astype(np.float64), config.object_norm, weights, "object_norm")
    names = ("kernel", "recurrent_kernel", "bias")
    forward = lstm(t, *(weights[f"o2w_bilstm/forward/{p}"] for p in names))
    backward = lstm(t[::-1], *(weights[f"o2w_bilstm/backward/{p}"] for p in names))[::-1]
    s = (forward + backward) / 2  # merging mode "average"
    W, b = weights["o2w_attention/W"], weights["o2w_attention/b"]
    scale = config.attention_scale if config.o2w_attention_scale is None else config.o2w_attention_scale
    factor = weights["o2w_attention/scale"] if scale else 1.0
    y, betas, attended = [], [], []
    for o_j in objects:
        e = np.array([np.tanh(agreement(o_j @ W, s_k, config) + b) for s_k in compared(s, config)])  # Eq. 10
        beta = np.full(len(s), 1 / len(s)) if uniform else softmax(factor * e)  # Eq. 9, 8
        u_j = behind_gate(sum(b_k * s_k for b_k, s_k in zip(beta, s)), s, weights, "o2w")  # Eq. 11
        y.append(mlp(fused(o_j, u_j, weights, "o2w_fusion"), weights, "o2w_mlp"))  # Eq. 13
        betas.append(beta)
        attended.append(u_j)
    return float(np.mean(y)) + bilinear(objects, attended, weights, "o2w"), np.array(betas)  # Eq. 14
