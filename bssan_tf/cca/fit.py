"""The baseline: regularised CCA of mean-pooled regions and bags of words, in NumPy.

In: the same regions (N, D, M) and token ids (N_c, L) that BSSAN sees. Out: a score matrix (N_i, N_c). Ridges, dimension
and the power of the correlations (Gong et al., IJCV 2014) are chosen on held-out images of the training split; then all
of its images make the final fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from bssan_tf.cca.selection import DIMENSIONS, Samples, held_back, select
from bssan_tf.cca.solve import KINSHIP, Solver, compare, maps_of_kin, project_bags
from bssan_tf.errors import UserError
from bssan_tf.features.pooling import pool_regions

logger = logging.getLogger(__name__)

_MAX_WORDS = 4000  # the text covariance is V x V
_MIN_CAPTIONS = 2  # a word of a single caption links nothing
_MIN_IMAGES = 10
_UNKNOWN = 1  # ids 0 and 1 are padding and the unknown word


@dataclass(frozen=True, eq=False)
class Cca:
    """A fitted CCA of d dimensions; V is the whole vocabulary."""

    image_mean: np.ndarray  # float32 (M,), of the pooled regions
    image_map: np.ndarray  # float32 (M, d), pooled regions to the common space
    text_mean: np.ndarray  # float32 (V,), of the bags of words
    text_map: np.ndarray  # float32 (V, d), bags of words to the common space
    weights: np.ndarray  # float32 (V,), of each word in a bag; 0 where a word is too rare, or in every caption
    scale: np.ndarray  # float32 (d,), correlation ** power of each dimension
    image_deviations: np.ndarray  # float32 (d,), of each dimension of the training images' vectors over the samples
    text_deviations: np.ndarray  # float32 (d,), the same of the training captions' vectors
    chosen: dict = field(default_factory=dict)  # the `Setting` that was selected, "held_images" and "held_rsum"

    def project_images(self, regions: np.ndarray, image_rows: np.ndarray) -> np.ndarray:
        """Vectors float32 (N_i, d) of the images in `image_rows` (N_i,) of `regions` (N, D, M)."""
        return (pool_regions(regions, image_rows) - self.image_mean) @ self.image_map * self.scale

    def project_captions(self, tokens: np.ndarray) -> np.ndarray:
        """Vectors float32 (N_c, d) of captions given as token ids int (N_c, L), less the training captions' mean."""
        return (project_bags(tokens, self.weights, self.text_map) - self.text_mean @ self.text_map) * self.scale

    def score_matrix(
        self, regions: np.ndarray, image_rows: np.ndarray, tokens: np.ndarray, weighted: bool = False
    ) -> np.ndarray:
        """Scores of every image and every caption, float32 (N_i, N_c): cosines or, `weighted`, products divided by the
        deviations of a caption's scores over images and of an image's over captions (`BilinearScore`).
        """
        images, captions = self.project_images(regions, image_rows), self.project_captions(tokens)
        return compare(images, captions, *(self.text_deviations, self.image_deviations) if weighted else ())


def fit_cca(
    regions: np.ndarray,
    image_rows: np.ndarray,
    tokens: np.ndarray,
    image_of_caption: np.ndarray,
    vocabulary_size: int,
    seed: int = 0,
    progress: bool = True,
    word_vectors: np.ndarray | None = None,
    kinship: float = KINSHIP,
    weighted: bool = False,
    most: int = DIMENSIONS[-1],
) -> Cca:
    """Fit on a training split; every caption with its image is one sample.

    UserError for fewer than ten images, or if no word occurs in two captions; ValueError for ids and rows out of range.

    Args:
        regions, image_rows: float (N, D, M), may be a memory map; of it, the training images' rows int (N_i,) are read.
        tokens, vocabulary_size: int (N_c, L), 0 is padding, 1 the unknown word; and V, above every id in `tokens`.
        image_of_caption: int (N_c,), index into `image_rows`.
        seed: of the images that are held out for the selection.
        word_vectors: float (V, E), e.g. of GloVe; words of similar vectors then have similar maps. Too rare words (of
            one caption, or past the 4,000 most frequent) get the maps that their vectors tell, which no score looks at;
            words without a vector of their own share one. None for the plain baseline.
        kinship: variance that their weights share, in units of a word's own (prior: I + kinship G G'); 0: no vectors.
        weighted: select by scores with weighted lengths, which want less ridge than cosines.
        most: dimensions that a vector may have.
    """
    tokens, owner = np.asarray(tokens), np.asarray(image_of_caption)
    if problem := why_no_cca(len(image_rows), tokens, vocabulary_size):
        raise UserError(f"--baseline cca: {problem}; leave it out")
    if owner.max(initial=0) >= len(image_rows):
        raise ValueError("image_of_caption: index out of range")
    weights = _word_weights(tokens, vocabulary_size)
    used = np.flatnonzero(weights)
    vectors = None if word_vectors is None or not kinship else _centred(word_vectors, tokens, used)
    kin = None if vectors is None else vectors[used]
    samples = Samples(pool_regions(regions, image_rows, progress), tokens, owner, weights, used)
    chosen, sums = select(samples, held_back(len(image_rows), seed), kin, kinship, weighted, most)
    logger.info("CCA: chosen on %d held-back training images: %s", chosen["held_images"], chosen)
    solver, d = Solver(sums, chosen["text_ridge"], kin, kinship), chosen["dimension"]
    image_map, text_map, correlations = solver.solve(chosen["image_ridge"], d)
    scale = correlations ** chosen["power"]
    full_map, full_mean = np.zeros((vocabulary_size, d), np.float32), np.zeros(vocabulary_size, np.float32)
    if kin is not None:
        rare = _rare_words(tokens, vocabulary_size)
        full_map[rare] = maps_of_kin(kin, text_map, vectors[rare], kinship)
    full_map[used], full_mean[used] = text_map, sums.y_mean
    return Cca(
        image_mean=sums.x_mean.astype(np.float32),
        image_map=image_map.astype(np.float32),
        text_mean=full_mean,
        text_map=full_map,
        weights=weights,
        scale=scale.astype(np.float32),
        image_deviations=_deviations(sums.xx / sums.n, sums.x_mean, image_map * scale),
        text_deviations=_deviations(sums.yy / sums.n, sums.y_mean, text_map * scale),
        chosen=chosen,
    )


def why_too_few(images: int) -> str | None:
    """Why so many training images are too few for a CCA; None if they are not."""
    return None if images >= _MIN_IMAGES else f"needs at least {_MIN_IMAGES} training images, there are {images}"


def why_no_cca(images: int, tokens: np.ndarray, vocabulary_size: int) -> str | None:
    """What is missing for a CCA of a training split with so many images and tokens int (N_c, L); None if nothing."""
    if problem := why_too_few(images):
        return problem
    if tokens.max(initial=0) >= vocabulary_size:
        raise ValueError("tokens: index out of range")
    return None if _word_weights(tokens, vocabulary_size).any() else "no word occurs in two training captions"


def _captions_of(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """In how many captions each word is: int (V,); 0 for words too rare, padding and the unknown word."""
    ordered = np.sort(tokens, axis=1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    captions = np.bincount(ordered[first], minlength=vocabulary_size)  # captions that have the word
    captions[: _UNKNOWN + 1] = 0
    captions[captions < _MIN_CAPTIONS] = 0
    captions[np.argsort(-captions, kind="stable")[_MAX_WORDS:]] = 0
    return captions


def _rare_words(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Ids of the words too rare to be used: a word of every caption has no weight either, but is not rare."""
    unused = np.flatnonzero(_captions_of(tokens, vocabulary_size) == 0)
    return unused[unused > _UNKNOWN]


def _word_weights(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Inverse document frequency float32 (V,); 0 for words too rare or of every caption, and for ids of no word."""
    captions = _captions_of(tokens, vocabulary_size)
    return np.where(captions > 0, np.log(len(tokens) / np.maximum(captions, 1)), 0).astype(np.float32)


def _centred(vectors: np.ndarray, tokens: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Vectors (V, E) less the mean over the captions' words, of mean square length 1 over the words in use."""
    counts = np.bincount(tokens[tokens > _UNKNOWN], minlength=len(vectors))
    centred = vectors.astype(np.float64) - counts @ vectors / counts.sum()
    return centred / max(np.sqrt(np.mean(np.sum(centred[used] ** 2, axis=1))), 1e-12)


def _deviations(products: np.ndarray, mean: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Deviation of each dimension of z @ maps (K, d), from the means of z z' (K, K) and z (K,): float32 (d,)."""
    variances = np.sum(products @ maps * maps, axis=0) - (mean @ maps) ** 2
    return np.sqrt(np.maximum(variances, 0)).astype(np.float32)  # rounding may go below 0
