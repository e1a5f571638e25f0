"""Initialisation from the data: statistics of the features, and what a CCA knows of words and pictures.

In: a fresh model and its training split. Out: the same model, whose norms fit the features and, with `cca_start`,
whose word vectors, attention W and fusion already say which words go with which regions.
"""

from __future__ import annotations

import logging

import numpy as np

from bssan_tf.cca.fit import Cca, fit_cca, why_no_cca, why_too_few
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import ModelConfig, flag_of
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.features.pooling import LOOKS_AT, pool_scaled, real_places
from bssan_tf.features.store import Features
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.o2w import start_text

logger = logging.getLogger(__name__)

SAMPLED_PICTURES = 2000  # whose features give the statistics
SAMPLED_ROWS = 20  # of each of these pictures
WORD_SIZE = 0.3  # root mean square of the word vectors, over the words of the captions
RIDGE = 0.03  # of the regression, in units of the mean variance of a feature


def adapt_norms(model: Bssan, features: Features, image_rows: np.ndarray, seed: int) -> None:
    """Give norms with statistics those of a seeded sample of the training pictures, which `check_start` has passed."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(image_rows)
    for part, network in model.networks.items():
        norm = getattr(network, "norm", None)  # which the networks of the paper have not
        if norm and norm.fitted:
            norm.adapt(_sample(features, LOOKS_AT[part], rows, rng))


def check_cca_start(config: Config, images: int) -> None:
    """UserError where a start from a CCA is asked for that the flags, or so few training images, cannot give."""
    if not config.training.cca_start:
        return
    if not config.model.E_trained and (config.data.glove or config.data.text_corpus or config.model.E_glove):
        raise UserError("--cca-start: starts trained word vectors, and there are none; add --trained-embeddings 250")
    if problem := why_too_few(images):
        raise UserError(f"--cca-start: {problem}; add --no-cca-start")


def check_start(config: Config, split: Split, features: Features, tokens: np.ndarray, vocabulary_size: int) -> None:
    """UserError where no training picture has an object that the initialisation needs, or a CCA cannot be had.

    `tokens` int32 (N_c, L) are the training captions'. To be called before anything is written.
    """
    from_cca, data = config.training.cca_start, config.data
    needs_object = "objects" in config.model.needed_features and (from_cca or config.model.object_norm == "centred")
    if needs_object and not real_places(features, "objects", split.image_rows).any():
        given = [name for name in ("import_objects", "boxes", "detector_weights") if getattr(data, name)]
        source = f"{flag_of(given[0])} {getattr(data, given[0])}" if given else "--objects"
        raise UserError(f"objects: no picture of the training split has one; check {source}")
    check_cca_start(config, len(split.image_ids))
    if from_cca and (problem := why_no_cca(len(split.image_ids), tokens, vocabulary_size)):
        raise UserError(f"--cca-start: {problem}; add --no-cca-start")


def start_from_cca(
    model: Bssan, split: Split, features: Features, tokens: np.ndarray, seed: int, glove_prior: float, progress: bool
) -> dict:
    """Let the model start from a CCA of the training split's pictures and words; returns what its selection chose.

    Pictures are pooled regions, or pooled objects if they have context or there are no regions. The CCA has no more
    dimensions than word vectors, fusion and O2W's states have room for. Its word vectors become the first of the
    trained dimensions of each word, and the candidates of O2W's Bi-LSTM start as these.

    A ridge regression from the features, as the model sees them, to the pictures' CCA vectors gives A with v' A
    comparable to t; pictures without objects, zeros to the CCA, are left out of it. Then W = A' (Eq. 2 and 10) up to
    scale, but 0 for the photo's part of objects in context. The fusion (A v)∘(B t) has this A, and B picks from t.

    Weighted lengths of the bilinear score start as deviations: of each dimension of A v, over the captions' sums of
    words, which stand in for the Bi-LSTM states that O2W sees; of each dimension of a caption, over pictures.

    `tokens` int32 (N_c, L) are the captions' token ids, `seed` is of the CCA's held-out pictures and of the samples,
    `glove_prior` the `kinship` of `fit_cca`; 0 for a CCA that knows no GloVe vectors.
    """
    rng = np.random.default_rng(seed)
    visual = features.objects if features.in_context or features.regions is None else features.regions
    owner, rows = split.image_of_caption, split.image_rows
    config, samples = model.config, (visual, rows, tokens, owner, model.vocabulary_size)
    glove = model.embeddings[0].get_weights()[0] if config.E_glove else None
    limits = {"weighted": config.weighted_lengths, "most": _most_dimensions(config)}
    cca = fit_cca(*samples, seed, progress, word_vectors=glove, kinship=glove_prior, **limits)
    words, known = _word_vectors(cca, tokens), cca.text_map.any(axis=1, keepdims=True)  # (V, d), (V, 1)
    table = model.embeddings[-1].get_weights()[0]
    table[:, : words.shape[1]] = np.where(known, words, table[:, : words.shape[1]])
    model.embeddings[-1].set_weights([table])
    pictures = cca.project_images(visual, rows)  # (N_i, d)
    for part, network in model.networks.items():
        name = LOOKS_AT[part]
        sample = network.scaled(_sample(features, name, rng.permutation(rows), rng))
        some = real_places(features, name, rows).any(axis=1)
        pooled = pool_scaled(network.scaled, features, name, rows[some])
        maps = _regression(pooled, pictures[some])
        maps /= max(float(np.std(sample @ maps)), 1e-12)
        text = words[rng.permutation(tokens[tokens > 1])[: len(sample)]]
        look = maps.copy()
        if part == "o2w":
            if features.in_context:
                look[-features.regions.shape[2] :] = 0  # all objects have the same photo beside them
            start_text(model.o2w_text, config.E_glove, words.shape[1])
        network.start_from(maps, look, sample, text, first=config.E_glove if part == "w2r" else 0)
        if config.weighted_lengths:
            network.start_lengths(pooled, _sums_of_words(tokens, words))
    logger.info("started from a CCA of %d dimensions, rsum %.1f on held-back training pictures",
                words.shape[1], cca.chosen["held_rsum"])  # fmt: skip
    return cca.chosen


def _most_dimensions(config: ModelConfig) -> int:
    """For how many dimensions of a CCA every part of the model has room: word vectors, fusion, states of O2W."""
    places = (config.E_trained, config.fusion, 0 if config.variant == "w2r" else config.S)
    return min(place for place in places if place)  # 0: there is no such part


def _sample(features: Features, name: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some regions or objects of the first of these pictures that have one: float32 (n, M)."""
    found, chosen = [], np.sort(rows[real_places(features, name, rows).any(axis=1)][:SAMPLED_PICTURES])
    for row, real in zip(chosen, real_places(features, name, chosen)):
        places = np.sort(rng.permutation(np.flatnonzero(real))[:SAMPLED_ROWS])
        found.append(np.asarray(getattr(features, name)[row][places], np.float32))
    return np.concatenate(found)


def _word_vectors(cca: Cca, tokens: np.ndarray) -> np.ndarray:
    """The CCA's vector of each word, its weight included, less the words' mean: float32 (V, d)."""
    weights = np.where(cca.weights > 0, cca.weights, cca.weights.max())  # unused: as much as the rarest that was used
    words = weights[:, None] * cca.text_map * cca.scale
    counts = np.bincount(tokens[tokens > 1], minlength=len(words))
    words = words - counts @ words / max(1, counts.sum())
    rms = np.sqrt((counts[:, None] * words**2).sum() / max(1, counts.sum()) / words.shape[1])
    return (words * WORD_SIZE / max(rms, 1e-12)).astype(np.float32)


def _regression(pictures: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """Ridge regression from pictures (N, M) to their CCA vectors (N, d), both centred: float32 (M, d)."""
    x, y = pictures - pictures.mean(axis=0), projected - projected.mean(axis=0)
    gram = x.T.astype(np.float64) @ x
    gram[np.diag_indices_from(gram)] += RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    return np.linalg.solve(gram, x.T @ y).astype(np.float32)


def _sums_of_words(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Sum of the vectors (V, d) of each caption's words: float32 (N_c, d)."""
    return sum(words[ids] * (ids > 1)[:, None] for ids in tokens.T)  # by place: (N_c, L, d) would be large
