"""CCA on made-up corpora: finds a link, finds nothing where there is none, reads only training rows."""

import dataclasses

import numpy as np
import pytest

from bssan_tf.cca import fit as baselines
from bssan_tf.cca import selection as cca_selection
from bssan_tf.cca import solve as correlations
from bssan_tf.cca.solve import project_bags
from bssan_tf.config.presets import preset
from bssan_tf.errors import UserError
from bssan_tf.features.pooling import pool_regions
from bssan_tf.metrics import recall

N_WORDS, M, D = 60, 48, 6


def corpus(n_images, seed, captions_each=3, noise=0.0):
    """Images with six of 40 attributes; a region shows one of them, a caption names five and adds fillers."""
    link = np.random.default_rng(99).normal(size=(40, M)) ** 2  # the look of each attribute
    rng = np.random.default_rng(seed)
    attributes = np.stack([rng.permutation(40)[:D] for _ in range(n_images)])  # (N_i, 6)
    regions = link[attributes] * rng.uniform(0.8, 1.2, (n_images, D, 1))
    regions = (regions + noise * np.random.default_rng(seed).normal(size=regions.shape) ** 2).astype(np.float16)
    owner = rng.permutation(np.repeat(np.arange(n_images), captions_each))
    named = np.stack([rng.permutation(attributes[i])[:5] for i in owner])
    fillers = rng.integers(42, N_WORDS, (len(owner), 3))
    tokens = np.concatenate([named + 2, fillers, np.zeros((len(owner), 4), int)], axis=1).astype(np.int32)
    return regions, owner, tokens


def fit(regions, owner, tokens, rows=None, seed=0):
    rows = np.arange(len(regions)) if rows is None else rows
    return baselines.fit_cca(regions, rows, tokens, owner, N_WORDS, seed)


def unit_bags(tokens, weights):
    """Each caption's bag of words (N_c, V), of length 1."""
    bags = np.zeros((len(tokens), N_WORDS))
    for c, caption in enumerate(tokens):
        for word in set(caption.tolist()) - {0, 1}:
            bags[c, word] = weights[word]
    return bags / np.linalg.norm(bags, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def linked():
    return fit(*corpus(300, seed=1))


def test_finds_the_link_on_new_images(linked):
    regions, owner, tokens = corpus(100, seed=2)
    scores = linked.score_matrix(regions, np.arange(100), tokens)
    assert scores.shape == (100, 300)
    assert scores.dtype == np.float32
    report = recall.retrieval_report(scores, owner)
    assert report["i2t"]["R@5"] > 95
    assert report["t2i"]["R@5"] > 95


def test_shuffled_pairs_give_chance():
    regions, owner, tokens = corpus(300, seed=1)
    cca = fit(regions, np.random.default_rng(0).permutation(owner), tokens)
    # Three times 60 images are held back: chance of R@1 + R@5 + R@10 is about 8 + 23 + 42 (three captions each) and 2 +
    # 8 + 17.
    # Were they part of the fit that is judged, its overfit would show here.
    assert cca.chosen["held_images"] == 180
    assert cca.chosen["held_rsum"] < 200
    test_regions, test_owner, test_tokens = corpus(100, seed=2)
    report = recall.retrieval_report(cca.score_matrix(test_regions, np.arange(100), test_tokens), test_owner)
    assert report["t2i"]["R@10"] < 25
    assert report["rsum"] < 130


class Recorder:
    """Regions that note which rows are read."""

    def __init__(self, regions):
        self.regions, self.shape, self.read = regions, regions.shape, set()

    def __getitem__(self, rows):
        self.read.update(np.asarray(rows).tolist())
        return self.regions[rows]


def test_fit_reads_training_rows_only():
    regions, owner, tokens = corpus(60, seed=3)
    everything = np.concatenate([regions, np.full((40, D, M), np.nan, np.float16)])
    order = np.random.default_rng(0).permutation(100)
    rows = np.argsort(order)[:60]  # row of image i
    recorder = Recorder(everything[order])
    cca = fit(recorder, owner, tokens, rows)
    assert recorder.read == set(rows.tolist())
    plain = fit(regions, owner, tokens)
    for weighted in (False, True):
        expected = plain.score_matrix(regions, np.arange(60), tokens, weighted)
        found = cca.score_matrix(recorder, rows, tokens, weighted)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_same_seed_same_numbers():
    regions, owner, tokens = corpus(60, seed=3)
    first, second = (fit(regions, owner, tokens, seed=5) for _ in range(2))
    assert first.chosen == second.chosen
    np.testing.assert_array_equal(first.image_map, second.image_map)


def test_scores_do_not_depend_on_padding_or_word_order(linked):
    regions, _, tokens = corpus(20, seed=4)
    expected = linked.score_matrix(regions, np.arange(20), tokens)
    shorter = linked.score_matrix(regions, np.arange(20), tokens[:, :8])
    reversed_words = linked.score_matrix(regions, np.arange(20), tokens[:, 7::-1])
    np.testing.assert_allclose(shorter, expected, atol=1e-6)
    np.testing.assert_allclose(reversed_words, expected, atol=1e-5)


@pytest.mark.parametrize("kinship", [0, 0.3, 2.0])
def test_solution_is_the_cca_of_the_definition(kinship):
    """Maps whiten the ridged covariances and diagonalise the cross covariance (Hardoon et al., 2004)."""
    regions, owner, tokens = corpus(200, seed=6)
    images = pool_regions(regions, np.arange(200))
    weights = baselines._word_weights(tokens, N_WORDS)
    used = np.flatnonzero(weights)
    bags = unit_bags(tokens, weights)
    x, y = images[owner] - images[owner].mean(0), (bags - bags.mean(0))[:, used]
    n = len(tokens)
    cxx, cyy, cxy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    rx, ry = 0.1 * np.trace(cxx) / len(cxx), 0.5 * np.trace(cyy) / len(cyy)
    kin = np.random.default_rng(0).normal(size=(len(used), 3))
    prior = np.eye(len(used)) + kinship * kin @ kin.T  # covariance of the words' weights

    sums = correlations.Sums.of(images, tokens, owner, weights, used)
    a, b, rho = correlations.Solver(sums, 0.5, kin if kinship else None, kinship).solve(0.1)
    top = slice(0, 20)
    np.testing.assert_allclose((a.T @ (cxx + rx * np.eye(M)) @ a)[top, top], np.eye(20), atol=1e-5)
    np.testing.assert_allclose((b.T @ (cyy + ry * np.linalg.inv(prior)) @ b)[top, top], np.eye(20), atol=1e-4)
    np.testing.assert_allclose((a.T @ cxy @ b)[top, top], np.diag(rho[top]), atol=1e-5)


def test_a_rare_word_learns_from_its_kin():
    """Two captions name attribute 0 by another word; with vectors that say so, that word gets nearly the same map."""
    regions, owner, tokens = corpus(300, seed=1)
    common, rare = 2, 41  # 41 names attribute 39, whose captions are left out
    kept = ~(tokens == rare).any(axis=1)
    owner, tokens = owner[kept], tokens[kept]
    named = np.flatnonzero((tokens == common).any(axis=1))[:2]
    tokens[named] = np.where(tokens[named] == common, rare, tokens[named])
    vectors = np.random.default_rng(5).normal(size=(N_WORDS, 20))
    vectors[rare] = vectors[common]

    def likeness(**kin):
        rows = np.arange(len(regions))
        cca = baselines.fit_cca(regions, rows, tokens, owner, N_WORDS, progress=False, **kin)
        a, b = cca.text_map[common] * cca.scale, cca.text_map[rare] * cca.scale
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    little, much = (likeness(word_vectors=vectors, kinship=kinship) for kinship in (1e-6, 10.0))
    assert abs(little - likeness()) < 0.001
    assert likeness(word_vectors=vectors, kinship=0) == likeness()
    assert much > little + 0.05


def test_the_yardstick_with_vectors_has_the_prior_of_the_preset():
    assert preset("improved", data="flickr8k").training.glove_prior == correlations.KINSHIP


def test_a_word_that_is_too_rare_gets_the_map_of_its_kin():
    regions, owner, tokens = corpus(300, seed=1)
    common, unused = 2, 41
    kept = ~(tokens == unused).any(axis=1)
    owner, tokens = owner[kept], tokens[kept]
    vectors = np.random.default_rng(5).normal(size=(N_WORDS, 50))  # as many as words, so that kin are few
    vectors[unused] = vectors[common]
    rows = np.arange(len(regions))
    cca = baselines.fit_cca(regions, rows, tokens, owner, N_WORDS, progress=False, word_vectors=vectors)
    a, b = cca.text_map[common] * cca.scale, cca.text_map[unused] * cca.scale
    assert cca.weights[unused] == 0
    assert a @ b > 0.7 * np.linalg.norm(a) * np.linalg.norm(b)
    assert not cca.text_map[:2].any()  # padding and the unknown word
    named = np.where(tokens == common, unused, tokens)
    without = np.where(tokens == common, 1, tokens)
    np.testing.assert_array_equal(cca.score_matrix(regions, rows, named), cca.score_matrix(regions, rows, without))


def test_a_word_of_every_caption_is_common_and_gets_no_map_of_kin():
    """It tells nothing, so its weight is 0, as that of words too rare; but these alone get the map of their kin."""
    regions, owner, tokens = corpus(300, seed=1)
    always, rare, absent = 42, 43, 41
    tokens = np.where(np.isin(tokens, (always, rare, absent)), 1, tokens)
    tokens[:, 8], tokens[0, 9] = always, rare
    vectors = np.random.default_rng(5).normal(size=(N_WORDS, 50))
    rows = np.arange(len(regions))
    cca = baselines.fit_cca(regions, rows, tokens, owner, N_WORDS, progress=False, word_vectors=vectors)
    assert not cca.weights[[always, rare, absent]].any()
    assert cca.text_map[[always, rare, absent]].any(axis=1).tolist() == [False, True, True]


def test_weighted_lengths_by_the_formula():
    """x y / (|x * captions' deviations| |y * pictures' deviations|); a picture counts as often as it has captions."""
    regions, owner, tokens = corpus(200, seed=6, noise=1)
    cca = fit(regions, owner[:400], tokens[:400])  # some pictures have no caption, others three
    text_mean = unit_bags(tokens[:400], cca.weights).mean(0)

    def vectors(regions, tokens):
        pooled = pool_regions(regions, np.arange(len(regions)))
        x = (pooled - cca.image_mean).astype(np.float64) @ cca.image_map * cca.scale
        return x, (unit_bags(tokens, cca.weights) - text_mean) @ cca.text_map * cca.scale

    of_pictures, of_captions = (side.std(axis=0) for side in vectors(regions[owner[:400]], tokens[:400]))
    for deviations, expected in ((cca.image_deviations, of_pictures), (cca.text_deviations, of_captions)):
        assert (deviations.shape, deviations.dtype) == ((cca.chosen["dimension"],), np.float32)
        np.testing.assert_allclose(deviations, expected, rtol=1e-3)
    new_regions, _, new_tokens = corpus(30, seed=7)
    x, y = vectors(new_regions, new_tokens)
    lengths = np.linalg.norm(x * of_captions, axis=1)[:, None] * np.linalg.norm(y * of_pictures, axis=1)
    scores = cca.score_matrix(new_regions, np.arange(30), new_tokens, weighted=True)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, x @ y.T / lengths, atol=1e-3 * scores.max())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_ridges_are_chosen_by_the_scores_that_are_asked_for(monkeypatch, weighted):
    regions, owner, tokens = corpus(200, seed=1, noise=1)
    monkeypatch.setattr(cca_selection, "IMAGE_RIDGES", (0.01, 10.0))
    monkeypatch.setattr(cca_selection, "TEXT_RIDGES", (0.3,))
    monkeypatch.setattr(cca_selection, "POWERS", (1.0,))
    seen, compare = [], cca_selection.compare

    def spy(x, y, *gains):
        assert len(gains) == (2 if weighted else 0)
        seen.append(compare(x, y, *gains))
        lengths = np.outer(*(np.linalg.norm(a * b.std(0) if weighted else a, axis=1) for a, b in ((x, y), (y, x))))
        np.testing.assert_allclose(seen[-1], x @ y.T / lengths, atol=1e-3 * np.abs(seen[-1]).max())
        return seen[-1] if len(seen) == 1 else -seen[-1]  # so that the first pair of ridges wins

    monkeypatch.setattr(cca_selection, "compare", spy)
    rows = np.arange(len(regions))
    cca = baselines.fit_cca(regions, rows, tokens, owner, N_WORDS, progress=False, weighted=weighted)
    assert len(seen) > 1
    assert cca.chosen["image_ridge"] == 0.01


def test_a_cca_takes_no_more_numbers_than_there_is_a_place_for():
    regions, owner, tokens = corpus(200, seed=1, noise=1)
    samples = (regions, np.arange(len(regions)), tokens, owner, N_WORDS)
    free = baselines.fit_cca(*samples, progress=False)
    few = baselines.fit_cca(*samples, progress=False, most=3)
    assert few.chosen["dimension"] == few.image_map.shape[1] == few.text_map.shape[1] == 3
    assert free.chosen["dimension"] > 3


def test_weighted_scores_of_all_captions_spread_alike_over_the_training_pictures():
    regions, owner, tokens = corpus(300, seed=1, noise=1)  # noise, so that correlations differ
    cca = fit(regions, owner, tokens)

    def unevenness(weighted):
        """Of captions' deviations over pictures, and of pictures' over captions: deviation by mean."""
        scores = cca.score_matrix(regions, np.arange(300), tokens, weighted)
        return np.array([spreads.std() / spreads.mean() for spreads in (scores.std(axis=0), scores.std(axis=1))])

    assert (unevenness(weighted=True) < 0.03).all()
    assert (unevenness(weighted=False) > 0.04).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_vectors_of_zeros_score_zero(linked, weighted):
    regions, _, tokens = corpus(4, seed=1)
    for side in ("image_map", "text_map"):
        cca = dataclasses.replace(linked, **{side: np.zeros_like(getattr(linked, side))})
        assert not cca.score_matrix(regions, np.arange(4), tokens, weighted).any()
    flat = np.zeros_like(linked.scale)
    cca = dataclasses.replace(linked, scale=flat, image_deviations=flat, text_deviations=flat)
    assert not cca.score_matrix(regions, np.arange(4), tokens, weighted).any()


def test_repeated_and_unknown_words():
    weights = np.array([0, 0, 3, 4], np.float32)
    tokens = np.array([[2, 3, 2, 1, 0], [1, 1, 0, 0, 0]])
    bags = project_bags(tokens, weights, np.eye(4, dtype=np.float32))
    np.testing.assert_allclose(bags, [[0, 0, 0.6, 0.8], [0, 0, 0, 0]], atol=1e-6)


def test_rare_words_are_left_out_and_common_ones_weigh_less():
    tokens = np.array([[2, 3, 1], [2, 2, 4], [2, 3, 0], [5, 0, 0]])
    weights = baselines._word_weights(tokens, 7)
    assert weights.tolist() == [0, 0, pytest.approx(np.log(4 / 3)), pytest.approx(np.log(2)), 0, 0, 0]


def test_pooling_by_hand():
    regions = np.array([[[14.0, 0], [18, -2]], [[0, 0], [0, 0]]], np.float16)  # means 16 and -1: roots 4 and -1
    pooled = pool_regions(regions, [1, 0])
    np.testing.assert_allclose(pooled, [[0, 0], np.array([4, -1]) / np.sqrt(17)], atol=1e-6)


def test_misuse_is_refused():
    regions, owner, tokens = corpus(9, seed=1)
    with pytest.raises(UserError, match="at least 10 training images, there are 9"):
        fit(regions, owner, tokens)
    regions, owner, tokens = corpus(12, seed=1)
    with pytest.raises(ValueError, match="out of range"):
        fit(regions, owner, tokens + 30)
    with pytest.raises(UserError, match="no word occurs in two"):
        fit(regions, owner, np.ones_like(tokens))
