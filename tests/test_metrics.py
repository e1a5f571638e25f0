"""Ranks, recalls and protocols against matrices worked out by hand and a sort-based reference."""

import numpy as np
import pytest

from bssan_tf.errors import UserError
from bssan_tf.metrics import recall

# Three images; captions 0-1 of image 0, 2 of image 1, 3-5 of image 2.
OWNER = np.array([0, 0, 1, 2, 2, 2])
SCORES = np.array(
    [
        [0.1, 0.9, 0.5, 0.2, 0.3, 0.4],  # best own 0.9: rank 1
        [0.8, 0.7, 0.6, 0.1, 0.9, 0.2],  # own 0.6, above it 0.8 0.7 0.9: rank 4
        [0.9, 0.8, 0.7, 0.3, 0.6, 0.5],  # best own 0.6, above it 0.9 0.8 0.7: rank 4
    ]
)
I2T = [1, 4, 4]
T2I = [3, 1, 2, 1, 2, 1]  # 0.1 < 0.8, 0.9; 0.9 first; 0.6 < 0.7; 0.3 first; 0.6 < 0.9; 0.5 first


def test_hand_worked_ranks_of_uneven_captions():
    i2t, t2i = recall.retrieval_ranks(SCORES, OWNER)
    assert i2t.tolist() == I2T
    assert t2i.tolist() == T2I


def test_hand_worked_report():
    report = recall.retrieval_report(SCORES, OWNER)
    assert report["i2t"] == {"R@1": pytest.approx(100 / 3), "R@5": 100.0, "R@10": 100.0, "MedR": 4.0}
    assert report["t2i"] == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0, "MedR": 1.5}
    assert report["rsum"] == pytest.approx(100 / 3 + 50 + 400)
    assert (report["n_images"], report["n_captions"]) == (3, 6)


def test_order_of_captions_does_not_matter():
    order = np.array([5, 2, 0, 3, 1, 4])
    i2t, t2i = recall.retrieval_ranks(SCORES[:, order], OWNER[order])
    assert i2t.tolist() == I2T
    assert t2i.tolist() == [T2I[c] for c in order]


def test_ties_count_against_us():
    constant = recall.retrieval_report(np.zeros((20, 20), np.float32), np.arange(20))
    assert constant["rsum"] == 0
    assert constant["i2t"]["MedR"] == constant["t2i"]["MedR"] == 20
    # Two own captions that tie with each other but with no wrong one: still first.
    own = np.array([[0.5, 0.5, 0.1], [0.0, 0.0, 0.5]])
    i2t, _ = recall.retrieval_ranks(own, np.array([0, 0, 1]))
    assert i2t.tolist() == [1, 1]
    one_tie = np.array([[0.5, 0.5], [0.1, 0.9]])
    i2t, t2i = recall.retrieval_ranks(one_tie, np.array([0, 1]))
    assert i2t.tolist() == [2, 1]
    assert t2i.tolist() == [1, 1]


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_equals_a_sort_based_reference_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr(recall, "BLOCK_SCORES", block)
    rng = np.random.default_rng(3)
    owner = rng.permutation(np.concatenate([np.arange(13), rng.integers(0, 13, 29)]))
    scores = rng.normal(size=(13, 42)).astype(np.float32)  # without ties
    i2t, t2i = recall.retrieval_ranks(scores, owner)
    for image in range(13):
        order = list(np.argsort(-scores[image]))
        # The classical rank: the wrong captions in front of the first correct one.
        assert i2t[image] == 1 + min(order.index(c) for c in np.flatnonzero(owner == image))
    for caption in range(42):
        assert t2i[caption] == 1 + list(np.argsort(-scores[:, caption])).index(owner[caption])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(bad):
    scores = SCORES.copy()
    scores[2, 5] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        recall.retrieval_report(scores, OWNER)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        recall.retrieval_report(SCORES, OWNER[:-1])
    with pytest.raises(ValueError, match="no correct candidate"):
        recall.retrieval_report(SCORES, np.array([0, 0, 0, 2, 2, 2]))  # image 1 has no caption
    with pytest.raises(ValueError, match="no correct candidate"):
        recall.retrieval_report(SCORES, np.array([0, 0, 1, 2, 2, 3]))  # there is no image 3
    with pytest.raises(ValueError, match="does not fit"):
        recall.retrieval_report(np.zeros((0, 0)), np.zeros(0, int))


@pytest.mark.parametrize(("protocol", "needed"), [("1k", "1,000"), ("5fold", "5,000"), ("5k", "5,000")])
def test_too_few_images_for_the_protocol(protocol, needed):
    with pytest.raises(UserError, match=f"--protocol {protocol}: needs {needed} images, the split has 999"):
        recall.protocol_folds(protocol, 999)


def test_folds_of_the_protocols():
    assert recall.protocol_folds("full", 7) == [(0, 7)]
    assert recall.protocol_folds("1k", 6000) == [(0, 1000)]
    assert recall.protocol_folds("5k", 6000) == [(0, 5000)]
    assert recall.protocol_folds("5fold", 6000) == [(k, k + 1000) for k in range(0, 5000, 1000)]
    with pytest.raises(ValueError, match="protocol"):
        recall.protocol_folds("10k", 20_000)


def test_folds_are_averaged():
    first = recall.retrieval_report(SCORES, OWNER)
    second = recall.retrieval_report(np.eye(2), np.arange(2))
    report = recall.mean_report([first, second], "5fold")
    assert report["i2t"] == {"R@1": pytest.approx(200 / 3), "R@5": 100.0, "R@10": 100.0, "MedR": 2.5}
    assert report["t2i"] == {"R@1": 75.0, "R@5": 100.0, "R@10": 100.0, "MedR": 1.25}
    assert report["rsum"] == pytest.approx(200 / 3 + 75 + 400)
    assert (report["n_images"], report["n_captions"], report["protocol"]) == (5, 8, "5fold")
    assert report["folds"] == [first, second]
    assert recall.mean_report([first], "full") == {**first, "protocol": "full"}


# Two images; captions 0 and 4 of image 1, 1, 2 and 3 of image 0, whose third caption no report has.
SINGLE_OWNER = np.array([1, 0, 0, 0, 1])
SINGLE_SCORES = np.array(
    [
        [0.1, 0.9, 0.2, 9.0, 0.3],  # first captions 0.9 > 0.1: rank 1; second captions 0.2 < 0.3: rank 2
        [0.8, 0.4, 0.7, 9.0, 0.6],  # first 0.8 > 0.4: rank 1; second 0.6 < 0.7: rank 2
    ]
)


def test_single_captions_are_ranked_among_single_captions_and_averaged():
    report = recall.single_caption_report(SINGLE_SCORES, SINGLE_OWNER)
    # The first captions find their images (0.9 > 0.4, 0.8 > 0.1); of the second, 0.2 < 0.7 but 0.6 > 0.3.
    assert report["i2t"] == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0, "MedR": 1.5}
    assert report["t2i"] == {"R@1": 75.0, "R@5": 100.0, "R@10": 100.0, "MedR": 1.25}
    assert report["rsum"] == pytest.approx(525)
    assert (report["n_images"], report["n_captions"]) == (2, 4)


def test_where_an_image_has_one_caption_only_the_first_ones_are_ranked():
    first = recall.retrieval_report(SCORES[:, [0, 2, 3]], np.arange(3))
    assert recall.single_caption_report(SCORES, OWNER) == first
    order = np.array([3, 0, 2])
    assert recall.single_caption_report(SCORES[:, order], OWNER[order]) == first


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 0, 1, 2, 2], "does not fit 5 owners"),
        ([0, 0, 0, 2, 2, 2], "image 1 has no caption"),
        ([0, 0, 1, 2, 2, 3], "there is no image 3"),
    ],
)
def test_single_captions_of_no_image_are_refused(owner, message):
    with pytest.raises(ValueError, match=message):
        recall.single_caption_report(SCORES, owner)


def test_memory_mapped_scores(tmp_path):
    np.save(tmp_path / "scores.npy", SCORES.astype(np.float32))
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    assert recall.retrieval_report(mapped, OWNER)["rsum"] == recall.retrieval_report(SCORES, OWNER)["rsum"]


def test_chance_rsum_is_what_random_scores_reach():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(40), 5)
    found = np.mean([recall.retrieval_report(rng.random((40, 200)), owner)["rsum"] for _ in range(60)])
    assert recall.chance_rsum(40, 200) == pytest.approx(found, rel=0.06)
