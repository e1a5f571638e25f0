"""How the settings of a CCA are chosen: on three held-back parts, by the mean of their rsum."""

import numpy as np
import pytest

from bssan_tf.cca import selection as cca_selection
from bssan_tf.cca.selection import PARTS, Samples, Setting, held_back, select


def samples(images=60, captions=3, words=12):
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), captions)
    tokens = rng.integers(2, words, (len(owner), 5))
    weights = np.r_[0, 0, np.ones(words - 2)].astype(np.float32)
    pooled = rng.normal(size=(images, 8)).astype(np.float32)
    return Samples(pooled, tokens, owner, weights, np.flatnonzero(weights))


@pytest.mark.parametrize(("images", "size"), [(10, 2), (100, 20), (9000, 1000)])
def test_parts_are_disjoint_and_leave_most_images_to_the_fit(images, size):
    part_of = held_back(images, seed=1)
    assert [(part_of == part).sum() for part in range(PARTS)] == [size] * PARTS
    assert (part_of == -1).sum() == images - PARTS * size
    np.testing.assert_array_equal(part_of, held_back(images, seed=1))
    assert (part_of != held_back(images, seed=2)).any()


def test_a_part_is_judged_by_a_fit_to_all_others(monkeypatch):
    given, part_of, seen = samples(), held_back(60, seed=0), []
    original = cca_selection._held_rsums

    def spy(_, sums, held, *rest):
        seen.append(set(given.owner[held]))
        others = given.sums(np.flatnonzero(~np.isin(np.arange(len(given.owner)), held)))
        for name in ("n", "x", "y", "xx", "yx", "yy"):
            np.testing.assert_allclose(getattr(sums, name), getattr(others, name), rtol=1e-5, atol=1e-5)
        return original(given, sums, held, *rest)

    monkeypatch.setattr(cca_selection, "_held_rsums", spy)
    chosen, sums = select(given, part_of, None, 0.0, False, 512)
    assert seen == [set(np.flatnonzero(part_of == part)) for part in range(PARTS)]
    assert (sums.n, chosen["held_images"]) == (180, 36)
    assert chosen["dimension"] == 8  # of the images, which have no more


def test_the_mean_over_the_parts_decides_among_those_that_are_close_on_the_first(monkeypatch):
    lucky, steady, far = Setting(0.3, 1.0, 8, 1.0), Setting(1.0, 1.0, 8, 1.0), Setting(3.0, 1.0, 8, 1.0)
    rsums = [{lucky: 200.0, steady: 197.0, far: 195.0}, {lucky: 150.0, steady: 180.0}, {lucky: 170.0, steady: 160.0}]
    asked = []

    def found(_, sums, held, settings, *rest):
        asked.append(settings)
        everything = dict.fromkeys(settings, 0.0) if len(asked) == 1 else {}
        return everything | rsums[len(asked) - 1]

    monkeypatch.setattr(cca_selection, "_held_rsums", found)
    chosen, _ = select(samples(), held_back(60, seed=0), None, 0.0, False, 8)
    assert asked[1:] == [[lucky, steady]] * 2
    assert (chosen["text_ridge"], chosen["held_rsum"]) == (1.0, pytest.approx((197 + 180 + 160) / 3))
