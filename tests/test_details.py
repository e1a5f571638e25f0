"""Mean rank, R-Precision and mAP@R against a brute force, and what bootstrap intervals must do."""

import numpy as np
import pytest

from bssan_tf.metrics import details, output, recall


def brute_force(scores, owner, way):
    """Per query (best rank, R-Precision, AP at R) from a sorted list in which ties go to the wrong ones."""
    found = []
    for query in range(scores.shape[0 if way == "i2t" else 1]):
        row = scores[query] if way == "i2t" else scores[:, query]
        correct = owner == query if way == "i2t" else np.arange(len(scores)) == owner[query]
        ranked = [hit for _, hit in sorted(zip(-row, correct))]  # False before True
        R = sum(ranked)
        average = sum((sum(ranked[: i + 1]) / (i + 1)) * ranked[i] for i in range(R)) / R
        found.append((1 + ranked.index(True), sum(ranked[:R]) / R, average))
    return np.array(found)


def uneven(seed=0, images=40, captions=130, ties=True):
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.concatenate([np.arange(images), rng.integers(images, size=captions - images)]))
    scores = rng.normal(size=(images, captions)) + 1.5 * (owner == np.arange(images)[:, None])
    return (np.round(scores, 1) if ties else scores), owner


@pytest.mark.parametrize("block", [1, 1000, 1 << 22])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_sorted_list_with_uneven_captions_and_ties(monkeypatch, seed, block):
    monkeypatch.setattr(recall, "BLOCK_SCORES", block)
    scores, owner = uneven(seed)
    found = details.detailed_report(scores, owner)
    for way in ("i2t", "t2i"):
        rank, precision, average = brute_force(scores, owner, way).mean(axis=0)
        assert found[way]["MeanR"] == pytest.approx(rank, abs=1e-9)
        assert found[way]["R-P"] == pytest.approx(100 * precision, abs=1e-9)
        assert found[way]["mAP@R"] == pytest.approx(100 * average, abs=1e-9)
    plain = recall.retrieval_report(scores, owner)
    for way in ("i2t", "t2i"):
        assert plain[way] == {name: found[way][name] for name in plain[way]}
    assert plain["rsum"] == found["rsum"]


def test_by_hand():
    """An image with two captions at ranks 1 and 3 of four."""
    scores, owner = np.array([[4.0, 3.0, 2.0, 1.0], [0.0, 9.0, 0.0, 8.0]]), np.array([0, 1, 0, 1])
    rank = recall.positive_ranks(scores, np.arange(2), owner)
    assert rank.tolist() == [[1, 3], [1, 2]]
    precision, average = details.precisions_at_r(rank)
    assert precision.tolist() == [0.5, 1.0]
    assert average.tolist() == [0.5, 1.0]


def test_a_query_with_one_correct_candidate_has_r_precision_r_at_1():
    scores, owner = uneven(4)
    found = details.detailed_report(scores, owner)["t2i"]
    assert found["R-P"] == found["mAP@R"] == found["R@1"]


def test_intervals_are_those_of_drawing_images_again():
    scores, owner = uneven(1, images=60, captions=200)
    found = details.detailed_report(scores, owner)
    ranks = recall.retrieval_ranks(scores, owner)
    rng, draws = np.random.default_rng(7), {"i2t": [], "t2i": [], "medr": []}
    for _ in range(2000):
        images = rng.integers(60, size=60)
        own = np.concatenate([np.flatnonzero(owner == image) for image in images])
        draws["i2t"].append(100 * np.mean(ranks[0][images] <= 1))
        draws["t2i"].append(100 * np.mean(ranks[1][own] <= 5))
        draws["medr"].append(np.median(ranks[1][own]))
    for way, name, key in (("i2t", "R@1", "i2t"), ("t2i", "R@5", "t2i"), ("t2i", "MedR", "medr")):
        wanted, value = np.percentile(draws[key], (2.5, 97.5)), found[way][name]
        low, high = found["intervals"][way][name]
        assert low <= value <= high
        np.testing.assert_allclose((low, high), wanted, atol=0.15 * np.ptp(wanted) + 1e-9)
    low, high = found["intervals"]["rsum"]
    assert low < found["rsum"] < high


def test_captions_are_drawn_with_their_image():
    """Each caption twice says nothing new: the intervals stay."""
    scores, owner = uneven(2, images=50, captions=50, ties=False)
    once = details.intervals(*metrics_of(scores, owner))
    ranks = recall.positive_ranks(scores.T, owner, np.arange(50))
    twice = details.intervals(metrics_of(scores, owner)[0], np.repeat(ranks, 2, axis=0), np.repeat(owner, 2))
    assert twice["t2i"] == pytest.approx(once["t2i"])


def metrics_of(scores, owner):
    images = np.arange(len(scores))
    return recall.positive_ranks(scores, images, owner), recall.positive_ranks(scores.T, owner, images), owner


def test_the_same_scores_have_the_same_intervals_and_a_perfect_matrix_has_none():
    scores, owner = uneven(3)
    assert details.detailed_report(scores, owner) == details.detailed_report(scores, owner)
    perfect = details.detailed_report(np.eye(20), np.arange(20))
    assert perfect["intervals"]["rsum"] == [600, 600]
    assert perfect["intervals"]["t2i"]["MedR"] == [1, 1]


def test_lines_for_people():
    scores, owner = uneven(5)
    value = details.detailed_report(scores, owner)
    first, second, hubs, third = output.detail_lines(value).splitlines()
    assert first.startswith(f"image to text: Mean r {value['i2t']['MeanR']:.1f}, R-Precision ")
    assert second.startswith("text to image: Mean r ")
    skewness, never = value["t2i"]["N10_skewness"], value["t2i"]["never"]
    assert hubs.startswith("hubs, skewness of N_10: image to text ")
    assert hubs.endswith(f"; text to image {skewness:.2f}, {never:.1f} % of the images never retrieved")
    low, high = value["intervals"]["rsum"]
    assert third.startswith(
        f"95 % intervals, images resampled: rsum {low:.1f} to {high:.1f}; image to text R@1 / 5 / 10 "
    )
    folds = recall.mean_report([value, value], "5fold")
    assert len(output.detail_lines(folds).splitlines()) == 3  # each fold has its own
    assert output.detail_lines(recall.retrieval_report(scores, owner)) == ""
