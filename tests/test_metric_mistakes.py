"""Each mistake of docs/metrics.md, made on purpose on drawn scores: which way it errs, and how far."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import mistakes as module
from benchmarks.mistakes import coarse, counted_from_zero, drawn_scores, ties_in_favour
from bssan_tf.metrics.recall import RECALLS, positive_ranks, retrieval_ranks, retrieval_report

NAMES = ("R@1", "R@5", "R@10")


@pytest.fixture(scope="module")
def drawn():
    return drawn_scores(300)


@pytest.fixture(scope="module")
def found(drawn):
    return {mistake.name: mistake for mistake in module.mistakes(*drawn)}


def gains(mistake, way):
    return np.array([mistake.wrong[way][name] - mistake.right[way][name] for name in NAMES])


def test_ranks_from_zero_give_the_next_recall(drawn, found):
    """What is called R@1 is R@2, R@5 is R@6, R@10 is R@11."""
    wrong = counted_from_zero(*drawn)
    for way, rank in zip(("i2t", "t2i"), retrieval_ranks(*drawn)):
        assert [wrong[way][f"R@{k}"] for k in RECALLS] == [100 * np.mean(rank <= k + 1) for k in RECALLS]
        assert wrong[way]["MedR"] == np.median(rank) - 1
    mistake = found["ranks from 0 compared with <= K"]
    for way in ("i2t", "t2i"):
        assert gains(mistake, way)[0] > 6 > gains(mistake, way)[1] > gains(mistake, way)[2] > 0
    assert 15 < mistake.wrong["rsum"] - mistake.right["rsum"] < 40


def test_ties_in_favour_flatter_coarse_scores_and_make_a_constant_perfect(drawn, found):
    def worth(name):
        mistake = found[f"ties in one's favour{name}"]
        assert all((gains(mistake, way) >= 0).all() for way in ("i2t", "t2i"))
        return mistake.wrong["rsum"] - mistake.right["rsum"]

    assert worth("") == 0  # float32 has no ties here
    assert 0 <= worth(", float16") < 5
    assert worth(", 64 levels") > 15
    assert worth(", all scores equal") == 600
    scores, owner = drawn
    truth, low, high = (
        report["rsum"]
        for report in (
            retrieval_report(scores, owner),
            retrieval_report(coarse(scores), owner),
            ties_in_favour(coarse(scores), owner),
        )
    )
    assert low < truth < high  # against us is the bound that can be trusted


def test_one_caption_an_image_is_harder_to_find_and_no_harder_to_ask_with(found):
    mistake = found["one caption an image, in place of all"]
    assert (gains(mistake, "i2t") < -5).all()
    assert gains(mistake, "t2i") == pytest.approx(np.zeros(3), abs=1e-9)


def test_the_first_caption_alone_among_all_is_far_harder_to_find(drawn, found):
    mistake = found["all are ranked, the first alone is right"]
    assert (gains(mistake, "i2t") < -20).all()
    assert (np.abs(gains(mistake, "t2i")) < 5).all()
    scores, owner = drawn
    for image in (0, 7):  # its rank among all captions, own ones included
        line = scores[image]
        place = 1 + sorted(range(len(line)), key=lambda c: -line[c]).index(5 * image)
        assert place >= positive_ranks(scores, np.arange(len(scores)), owner)[image, 0]


def test_counting_captions_by_five_loses_the_fifth_that_moved(found):
    """A caption is missing at the start: of each five, one is of the next image."""
    mistake = found["caption // 5, and the first is missing"]
    assert (gains(mistake, "i2t") < 0).all()
    for name in NAMES:
        assert mistake.wrong["t2i"][name] == pytest.approx(0.8 * mistake.right["t2i"][name], abs=2)


def test_fewer_images_are_easier_and_the_first_fold_is_one_draw(found):
    mean = found["mean of five folds, in place of all at once"]
    assert mean.wrong["rsum"] - mean.right["rsum"] > 80
    lucky = found["the luckiest fold, in place of all five"]
    assert lucky.wrong["rsum"] - lucky.right["rsum"] > 5
    seeds = [module.folds_of(*drawn_scores(300, seed=seed)) for seed in range(30)]
    sums = np.array([[retrieval_report(*fold)["rsum"] for fold in folds] for folds in seeds])
    assert sums[:, 0].std() > 1.5 * sums.mean(axis=1).std()  # all five are the steadier number


def test_lists_that_end_lose_what_is_behind_them(drawn, monkeypatch):
    scores, owner = drawn
    whole = np.mean([retrieval_report(*fold)["rsum"] for fold in module.folds_of(scores, owner)])
    monkeypatch.setattr(module, "LISTED", scores.shape[1])
    assert module.from_short_lists(scores, owner)["rsum"] == pytest.approx(whole)
    lost = []
    for length in (50, 10):
        monkeypatch.setattr(module, "LISTED", length)
        lost.append(whole - module.from_short_lists(scores, owner)["rsum"])
    assert 0 < lost[0] < lost[1]


def test_other_pictures_of_the_same_kind_are_a_draw(drawn, monkeypatch):
    """As those of another split's test list are: either way, by some points."""
    monkeypatch.setattr(module, "HALVES", 20)
    apart = module.differences_of_halves(*drawn)
    assert min(apart) < -3 < 3 < max(apart)


def test_test_captions_in_the_vocabulary_leave_no_unknown_word():
    train, test = ["a dog runs", "a cat"], ["a dog sleeps", "the cat", "a dog"]
    assert module.unseen_words(train, test) == (2, 2)  # "sleeps", "the"
    assert module.unseen_words([*train, *test], test) == (0, 0)


def test_the_command_prints_a_row_for_each(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "HALVES", 2)
    scores, owner = drawn_scores(20)
    np.save(tmp_path / "s.npy", scores[:, ::-1])
    np.save(tmp_path / "o.npy", owner[::-1])
    module.main(["--scores", str(tmp_path / "s.npy"), "--image-of-caption", str(tmp_path / "o.npy")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(list(module.mistakes(scores, owner)))
    assert rows[1].startswith("| ranks from 0 compared with <= K | ")
