"""Weights before the first step: statistics of the features, and a start from what a CCA knows of words and pictures.

In: a fresh model and its training split. Out: the same model, whose norms with statistics fit the features and, with
`cca_start`, whose word vectors, attention W and fusion already say which words go with which regions.
"""

from __future__ import annotations

import logging

import numpy as np

from bssan_tf.cca.fit import Cca, fit_cca, why_no_cca, why_too_few
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import ModelConfig, flag_of
from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.models.blocks import Network
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.o2w import start_text

logger = logging.getLogger(__name__)

FEATURES = {"w2r": "regions", "o2w": "objects"}  # what each network looks at
SAMPLED_PICTURES = 2000  # whose features give the statistics
SAMPLED_ROWS = 20  # of each of these pictures
WORD_SIZE = 0.3  # root mean square of a word's CCA numbers, over the words of the captions
RIDGE = 0.03  # of the regression, in units of the mean variance of a feature
_BLOCK = 64


def adapt_norms(model: Bssan, features: Features, image_rows: np.ndarray, seed: int) -> None:
    """Give norms with statistics those of a seeded sample of the training pictures, which `check_start` has passed."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(image_rows)
    for part, network in model.networks.items():
        if network.norm and network.norm.fitted:
            network.norm.adapt(_sample(features, FEATURES[part], rows, rng))


def check_cca_start(config: Config, images: int) -> None:
    """UserError where the flags ask for a start from a CCA that so many training images, or the flags, cannot give."""
    if not config.training.cca_start:
        return
    if not config.model.E_trained and (config.data.glove or config.model.E_glove):
        raise UserError("--cca-start: starts trained word vectors, and there are none; add --trained-embeddings 250")
    if problem := why_too_few(images):
        raise UserError(f"--cca-start: {problem}; add --no-cca-start")


def check_start(config: Config, split: Split, features: Features, tokens: np.ndarray, vocabulary_size: int) -> None:
    """UserError where a training cannot start from its data as it should; to be called before anything is written.

    Args:
        split: the training pictures.
        tokens: int32 (N_c, L), token ids of their captions.

    Raises:
        UserError: no picture has an object, and there is something to be learned from objects before the first step;
            a start from a CCA is asked for and cannot be had.
    """
    from_cca, data = config.training.cca_start, config.data
    has_objects = "objects" in config.model.needed_features
    needs_one = has_objects and (from_cca or config.model.object_norm == "centred")
    if needs_one and not _real(features, "objects", split.image_rows).any():
        given = [name for name in ("import_objects", "boxes", "detector_weights") if getattr(data, name)]
        source = f"{flag_of(given[0])} {getattr(data, given[0])}" if given else "--objects"
        raise UserError(f"objects: no picture of the training split has one; check {source}")
    check_cca_start(config, len(split.image_ids))
    if from_cca and (problem := why_no_cca(len(split.image_ids), tokens, vocabulary_size)):
        raise UserError(f"--cca-start: {problem}; add --no-cca-start")


def start_from_cca(
    model: Bssan,
    split: Split,
    features: Features,
    tokens: np.ndarray,
    seed: int,
    glove_prior: float,
    progress: bool = True,
) -> dict:
    """Fit a CCA of pooled regions, or of pooled objects in their context where they have one, and bags of words on the
    training split, which `check_start` has passed, and let the model start from it. Where words have GloVe vectors, and
    `glove_prior` is above 0, the CCA gives words of similar ones similar maps, which helps the rare.

    The CCA has no more numbers than word vectors, fusion and O2W's states have a place for. Its word vectors become the
    first of the trained numbers of each word. A ridge regression from the pictures' features, as the model sees them,
    to their CCA vectors gives A with v' A comparable to t; then W = A' (Eq. 2 and 10) up to scale, of objects in
    context less the photo's part, which is 0; and the fusion (A v)∘(B t) has this A and picks t's numbers by B. The
    Bi-LSTM's candidates start as the word vectors, so that its states are comparable, too. Pictures without objects are
    left out of the regression from objects; a CCA of objects in context counts them as zeros.

    Where the bilinear score's lengths are weighted, the CCA is selected by such scores, and the weight of each number
    of a picture's vector A v becomes the deviation of this number over the captions' sums of words; that of each number
    of a caption, the one over pictures. Sums of words stand in for the means of Bi-LSTM states that O2W sees.

    Args:
        tokens: int32 (N_c, L), token ids of the split's captions.
        seed: of the CCA's held-back pictures and of the samples.
        glove_prior: `kinship` of `fit_cca`; 0 for a CCA that knows no GloVe vectors.

    Returns:
        What the CCA's selection chose.
    """
    rng = np.random.default_rng(seed)
    visual = features.objects if features.in_context or features.regions is None else features.regions
    owner, rows = split.image_of_caption, split.image_rows
    config, samples = model.config, (visual, rows, tokens, owner, model.vocabulary_size)
    cca = fit_cca(
        *samples,
        seed,
        progress,
        word_vectors=model.embeddings[0].get_weights()[0] if config.E_glove else None,
        kinship=glove_prior,
        weighted=config.weighted_lengths,
        most=_most_numbers(config),
    )
    words = _word_vectors(cca, tokens)  # (V, d)
    _start_words(model.embeddings[-1], words, cca.text_map.any(axis=1, keepdims=True))
    pictures = cca.project_images(visual, rows)  # (N_i, d)
    for part, network in model.networks.items():
        name = FEATURES[part]
        sample = network.scaled(_sample(features, name, rng.permutation(rows), rng))
        some = _real(features, name, rows).any(axis=1)
        pooled = _pooled(network, features, name, rows[some])
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


def _most_numbers(config: ModelConfig) -> int:
    """How many of a CCA's numbers every part of the model has a place for: word vectors, fusion, states of O2W."""
    places = [config.E_trained]
    if config.fusion:
        places.append(config.fusion)
    if config.variant != "w2r":
        places.append(config.S)
    return min(places)


def _real(features: Features, name: str, rows: np.ndarray) -> np.ndarray:
    """Which of the regions or objects of some pictures are no padding: bool (n, D or P)."""
    if name == "objects" and features.valid is not None:
        return np.asarray(features.valid[rows], bool)
    return np.ones((len(rows), getattr(features, name).shape[1]), bool)


def _sample(features: Features, name: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some regions or objects of the first of these pictures that have one: float32 (n, M)."""
    found = []
    for row in np.sort(rows[_real(features, name, rows).any(axis=1)][:SAMPLED_PICTURES]):
        places = np.flatnonzero(_real(features, name, np.array([row]))[0])
        places = np.sort(rng.permutation(places)[:SAMPLED_ROWS])
        found.append(np.asarray(getattr(features, name)[row][places], np.float32))
    return np.concatenate(found)


def _pooled(network: Network, features: Features, name: str, rows: np.ndarray) -> np.ndarray:
    """Mean of a picture's regions or objects as the model sees them, of which each has some: float32 (N_i, M)."""
    found = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        real = _real(features, name, block)[..., None].astype(np.float32)
        found.append((network.scaled(getattr(features, name)[block]) * real).sum(axis=1) / real.sum(axis=1))
    return np.concatenate(found)


def _word_vectors(cca: Cca, tokens: np.ndarray) -> np.ndarray:
    """The CCA's vector of each word, its weight included, less the words' mean: float32 (V, d).

    A word that the CCA did not use weighs as much as the rarest that it did.
    """
    weights = np.where(cca.weights > 0, cca.weights, cca.weights.max())
    words = weights[:, None] * cca.text_map * cca.scale
    counts = np.bincount(tokens[tokens > 1], minlength=len(words))
    words = words - counts @ words / max(1, counts.sum())
    rms = np.sqrt((counts[:, None] * words**2).sum() / max(1, counts.sum()) / words.shape[1])
    return (words * WORD_SIZE / max(rms, 1e-12)).astype(np.float32)


def _start_words(embedding, words: np.ndarray, known: np.ndarray) -> None:
    """The first numbers of the words that the CCA knows, bool (V, 1), from its vectors (V, d)."""
    table = embedding.get_weights()[0]
    table[:, : words.shape[1]] = np.where(known, words, table[:, : words.shape[1]])
    embedding.set_weights([table])


def _regression(pictures: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """Ridge regression from pictures (N, M) to their CCA vectors (N, d), both centred: float32 (M, d)."""
    x, y = pictures - pictures.mean(axis=0), projected - projected.mean(axis=0)
    gram = x.T.astype(np.float64) @ x
    gram[np.diag_indices_from(gram)] += RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    return np.linalg.solve(gram, x.T @ y).astype(np.float32)


def _sums_of_words(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Sum of the vectors (V, d) of each caption's words: float32 (N_c, d)."""
    sums = np.zeros((len(tokens), words.shape[1]), np.float32)
    for place in range(tokens.shape[1]):
        sums += words[tokens[:, place]] * (tokens[:, place, None] > 1)
    return sums
