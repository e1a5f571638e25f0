"""Hubness, and corrections of scores, against plain loops written from their sources."""

import numpy as np
import pytest

from bssan_tf.metrics import hubs, recall
from bssan_tf.metrics.details import detailed_report
from bssan_tf.metrics.recall import NotFiniteError

QUERIES, CANDIDATES, BANK = 13, 21, 17


def drawn(seed=0, ties=False):
    """Scores and a bank, both with the same hubs."""
    rng = np.random.default_rng(seed)
    popular = rng.normal(size=CANDIDATES)
    scores, bank = (3 * rng.normal(size=(n, CANDIDATES)) + 2 * popular for n in (QUERIES, BANK))
    return (np.round(scores), np.round(bank)) if ties else (scores, bank)


@pytest.mark.parametrize("block", [1, 50, 1 << 22])
@pytest.mark.parametrize("first", [1, 4, 10, 99])
def test_occurrences_are_those_of_sorted_lists(monkeypatch, block, first):
    monkeypatch.setattr(recall, "BLOCK_SCORES", block)
    scores, _ = drawn()
    wanted = np.zeros(CANDIDATES)
    for row in scores:
        for candidate in sorted(range(CANDIDATES), key=lambda c: -row[c])[:first]:
            wanted[candidate] += 1
    np.testing.assert_array_equal(hubs.occurrences(scores, first), wanted)


def test_candidates_that_tie_share_the_places_that_are_left():
    scores = np.array([[9.0, 5.0, 5.0, 5.0, 1.0]])  # for two places
    np.testing.assert_allclose(hubs.occurrences(scores, 2), [1, 1 / 3, 1 / 3, 1 / 3, 0])
    tied, _ = drawn(ties=True)
    found, order = hubs.occurrences(tied), np.random.default_rng(1).permutation(CANDIDATES)
    assert found.sum() == pytest.approx(10 * QUERIES)
    np.testing.assert_allclose(hubs.occurrences(tied[:, order]), found[order])
    expected = np.zeros(CANDIDATES)  # the mean over orders in which ties are broken at random
    for seed in range(3000):
        order = np.random.default_rng(seed).permutation(CANDIDATES)
        places = np.argsort(-tied[:, order], axis=1, kind="stable")[:, :10]
        np.add.at(expected, order[places], 1 / 3000)
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_hubness_by_hand():
    scores = np.zeros((40, 40))
    scores[:, :9] = 2  # in every list
    np.fill_diagonal(scores[:, 9:], 1)  # the tenth place: candidates 9 ... 39, each once
    scores[31:, 39] = 1
    # N_10: nine times 40, thirty times 1, and once 1 + 9
    off = np.array([40.0] * 9 + [1.0] * 30 + [10.0]) - 10
    found = hubs.hubness(scores)
    assert found["N10_skewness"] == pytest.approx(np.mean(off**3) / np.std(off) ** 3)
    assert found["never"] == 0
    lonely = np.concatenate([scores, np.full((40, 10), -1.0)], axis=1)
    assert hubs.hubness(lonely)["never"] == 20


def test_where_all_occur_equally_often_nothing_is_skewed():
    assert hubs.hubness(np.zeros((7, 30))) == {"N10_skewness": 0, "never": 0}
    few = np.random.default_rng(0).normal(size=(50, 6))  # fewer candidates than ten
    assert hubs.hubness(few) == {"N10_skewness": 0, "never": 0}


def nearest(bank, candidate, k):
    return np.mean(sorted(bank[:, candidate])[-k:])


def deviation(bank):
    values = [float(value) for row in bank for value in row]
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def csls(scores, bank, k):
    """2 cos(x, y) - r_T(x) - r_S(y) (Conneau et al., Section 2.3)."""
    found = np.empty(scores.shape)
    for q, row in enumerate(scores):
        for c in range(CANDIDATES):
            found[q, c] = 2 * row[c] - np.mean(sorted(row)[-k:]) - nearest(bank, c, k)
    return found


def inverted_softmax(scores, bank, temperature):
    """exp(beta s) / (alpha_q sum over the bank), alpha_q so that a query's sum is 1 (Smith et al., Section 3.2)."""
    beta = 1 / (temperature * deviation(bank))
    found = np.empty(scores.shape)
    for q, row in enumerate(scores):
        raw = [np.exp(beta * row[c]) / sum(np.exp(beta * b) for b in bank[:, c]) for c in range(CANDIDATES)]
        found[q] = np.array(raw) / sum(raw)
    return found


def qb_norm(scores, bank, temperature, top):
    """Inverted softmax of a query whose best is in the activation set, else its scores (Bogolin et al., Section 3)."""
    beta = 1 / (temperature * deviation(bank))
    active = {c for row in bank for c in sorted(range(CANDIDATES), key=lambda c: -row[c])[:top]}
    found = np.empty(scores.shape)
    for q, row in enumerate(scores):
        for c in range(CANDIDATES):
            shared = sum(np.exp(beta * b) for b in bank[:, c]) if int(np.argmax(row)) in active else 1
            found[q, c] = np.exp(beta * row[c]) / shared
    return found


def places(scores):
    return np.argsort(-scores, axis=1, kind="stable")


@pytest.fixture(params=[1, 50, 1 << 22])
def block(monkeypatch, request):
    monkeypatch.setattr(recall, "BLOCK_SCORES", request.param)


@pytest.mark.parametrize("k", [1, 5, 17, 99])
def test_csls_is_the_source_s_but_for_a_term_of_the_query(block, k):
    scores, bank = drawn(1)
    found, wanted = hubs.csls(scores, bank, k=k), csls(scores, bank, k)
    np.testing.assert_array_equal(places(found), places(wanted))
    np.testing.assert_allclose(np.ptp(found - wanted, axis=1), 0, atol=1e-9)  # the term
    np.testing.assert_array_equal(places(found), places(hubs.nnn(scores, bank, k=k, alpha=0.5)))
    assert not np.array_equal(places(found), places(scores))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_inverted_softmax_is_the_source_s(block, temperature):
    scores, bank = drawn(2)
    found = hubs.inverted_softmax(scores, bank, temperature=temperature) / (temperature * deviation(bank))
    shares = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, inverted_softmax(scores, bank, temperature), rtol=1e-9)
    assert not np.array_equal(places(found), places(scores))


@pytest.mark.parametrize("top", [1, 2])
def test_qb_norm_is_the_source_s(block, top):
    scores, bank = drawn(3)
    bank = bank[:6]  # so that not all are hubs
    found, wanted = hubs.qb_norm(scores, bank, temperature=0.7, top=top), qb_norm(scores, bank, 0.7, top)
    np.testing.assert_array_equal(places(found), places(wanted))
    kept = (found == scores).all(axis=1)
    assert 0 < kept.sum() < QUERIES
    np.testing.assert_array_equal(found[~kept], hubs.inverted_softmax(scores, bank, temperature=0.7)[~kept])


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.3), (8, 1.0), (99, 2.0)])
def test_nnn_is_the_source_s(block, k, alpha):
    scores, bank = drawn(4)
    wanted = [[row[c] - alpha * nearest(bank, c, k) for c in range(CANDIDATES)] for row in scores]
    np.testing.assert_allclose(hubs.nnn(scores, bank, k=k, alpha=alpha), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", hubs.CORRECTIONS)
def test_scores_of_any_size_and_unit(name):
    """A unit and a shift change no rank, though exp of such scores overflows."""
    scores, bank = drawn(5)
    found = hubs.CORRECTIONS[name](scores, bank)
    large = hubs.CORRECTIONS[name](1e4 * scores, 1e4 * bank)
    np.testing.assert_allclose(large, 1e4 * found, rtol=1e-9)
    far = hubs.CORRECTIONS[name](scores + 1e5, bank + 1e5)
    np.testing.assert_array_equal(places(far), places(found))
    small = hubs.CORRECTIONS[name](scores.astype(np.float32), bank.astype(np.float32))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, found, atol=1e-4)
    whole = hubs.CORRECTIONS[name](np.round(scores).astype(int), bank)
    np.testing.assert_allclose(whole, hubs.CORRECTIONS[name](np.round(scores), bank), atol=1e-5)


@pytest.mark.parametrize("name", hubs.CORRECTIONS)
def test_a_bank_without_differences_changes_no_rank(name):
    scores, _ = drawn(6)
    found = hubs.CORRECTIONS[name](scores, np.full((BANK, CANDIDATES), 0.1))
    np.testing.assert_array_equal(places(found), places(scores))


@pytest.mark.parametrize("name", hubs.CORRECTIONS)
def test_banks_that_do_not_fit(name):
    scores, bank = drawn()
    correct = hubs.CORRECTIONS[name]
    for wrong in (bank[:, 1:], bank[:0], bank[0]):
        with pytest.raises(ValueError, match=r"^bank: shape .* does not fit 21 candidates$"):
            correct(scores, wrong)
    bank[3, 4] = np.nan
    with pytest.raises(NotFiniteError):
        correct(scores, bank)


@pytest.mark.parametrize("name", hubs.CORRECTIONS)
def test_a_hub_in_a_bank_of_others_is_no_hub_after_it(name):
    """Each query's own candidate is hidden behind a hub, of which the bank knows."""
    rng = np.random.default_rng(7)
    scores, bank = (rng.normal(scale=0.1, size=(n, 30)) for n in (30, 200))
    scores += 3 * np.eye(30)
    bank[np.arange(200), rng.integers(30, size=200)] += 3
    scores[:, 5] += 4
    bank[:, 5] += 4
    found = hubs.CORRECTIONS[name](scores, bank)
    rank = recall.ranks(found, np.arange(30), np.arange(30))
    assert np.mean(recall.ranks(scores, np.arange(30), np.arange(30)) == 1) < 0.1
    assert np.mean(rank == 1) > 0.9


def test_a_report_of_two_matrices_has_each_direction_of_its_own():
    rng, owner = np.random.default_rng(8), np.arange(40) % 15
    of_images, of_captions = rng.normal(size=(2, 15, 40))
    found = detailed_report(of_images, owner, of_captions)
    first, second = detailed_report(of_images, owner), detailed_report(of_captions, owner)
    assert (found["i2t"], found["t2i"]) == (first["i2t"], second["t2i"])
    assert found["t2i"] != first["t2i"]
    assert found["intervals"]["t2i"] == second["intervals"]["t2i"]
    assert found["rsum"] == pytest.approx(sum(found[way][f"R@{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)))
    with pytest.raises(ValueError, match="does not fit"):
        detailed_report(of_images, owner, of_captions[:, 1:])
