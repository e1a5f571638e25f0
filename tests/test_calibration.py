"""Probabilities of hits: drawn scores whose probabilities are known, the formula by loops, and what cannot be told."""

import json

import numpy as np
import pytest

from benchmarks import probabilities
from bssan_tf.errors import UserError
from bssan_tf.metrics.calibration import Calibration, expected_error, fit_calibration, measure
from bssan_tf.runs.folder import RunFolder

N = 300


def drawn(seed, images=N, captions=3):
    """Others ~ N(0, 1), the right image ~ N(2, 1): the likelihood ratio is exp(2 s - 2), so T is 1/2 and b is 2."""
    rng, owners = np.random.default_rng(seed), np.repeat(np.arange(images), captions)
    scores = rng.normal(size=(images, len(owners)))
    scores[owners, np.arange(len(owners))] += 2
    return scores, owners


def test_what_is_known_is_found():
    found = fit_calibration(*drawn(0, images=90, captions=20))  # fewer than the sum takes, so that it is whole
    assert found.temperature == pytest.approx(0.5, abs=0.03)
    assert found.bias == pytest.approx(2, abs=0.2)
    assert found.error < 1


@pytest.mark.parametrize("images", [40, 300, 900])
def test_it_holds_whatever_the_number_of_candidates(images):
    found = measure(fit_calibration(*drawn(0)), *drawn(1, images))
    assert found["error"] < 1.5
    assert 0 < found["kept"] < 100


def test_the_threshold_rejects_four_fifths_of_what_is_not_there():
    found = measure(fit_calibration(*drawn(0)), *drawn(1))
    assert found["rejected"] == pytest.approx(80, abs=4)


def test_the_scale_of_scores_does_not_matter():
    scores, owners = drawn(0)
    one, other = fit_calibration(scores, owners), fit_calibration(1000 * scores, owners)
    assert other.temperature == pytest.approx(1000 * one.temperature, rel=1e-4)
    assert (other.bias, other.error, other.threshold) == pytest.approx((one.bias, one.error, one.threshold), rel=1e-3)


def test_the_parameters_are_the_most_likely_ones():
    scores, owners = drawn(2, images=60)  # fewer than the sum takes, so that it is whole

    def likelihood(temperature, bias):
        total, n = 0.0, len(scores)
        for column, own in zip(scores.T, owners):
            chances, none = np.exp(column / temperature), n * np.exp(bias)
            total += np.log(chances[own] / (chances.sum() + none)) + np.log(
                none / (chances.sum() - chances[own] + none)
            )
        return total

    found = fit_calibration(scores, owners)
    best = likelihood(found.temperature, found.bias)
    for temperature, bias in ((1.03, 0), (0.97, 0), (1, 0.05), (1, -0.05)):
        assert likelihood(temperature * found.temperature, found.bias + bias) < best


def test_probabilities_by_the_formula():
    calibration, scores = Calibration(0.5, 2.0, 0.1, 1.0), np.array([1.0, 3.0, 2.0])
    expected = np.exp(2 * scores) / (np.exp(2 * scores).sum() + 50 * np.exp(2))
    np.testing.assert_allclose(calibration.probabilities(scores, 50), expected)
    many = np.concatenate([[5.0, 4.0], np.zeros(500)])
    sum_of_best = np.exp(10) + np.exp(8) + 98
    found = calibration.probabilities(many, 502)
    np.testing.assert_allclose(found[:2], np.exp([10, 8]) / (sum_of_best + 502 * np.exp(2)))


def test_the_expected_error_of_known_bins():
    chances = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
    right = np.array([1, 0, 0, 0, 1, 1])
    assert expected_error(chances, right) == pytest.approx(100 * (4 / 6 * 0.15 + 2 / 6 * 0.1))
    assert expected_error(np.array([1.0]), np.array([0])) == 100


@pytest.mark.parametrize(
    "scores",
    [
        drawn(0)[0][:19, :57:3],
        np.zeros((20, 20)),
        np.random.default_rng(0).normal(size=(50, 50)),
        -drawn(0)[0][:50, :50] * np.where(np.eye(50), 5, 1),
    ],
    ids=["few", "all alike", "chance", "worse than chance"],
)
def test_scores_that_cannot_tell(scores):
    found = fit_calibration(scores, np.arange(len(scores)))
    assert found is None or found.temperature > 5  # as good as none


def test_halves_of_different_size_and_fewer_hits_than_ten():
    assert fit_calibration(*drawn(0, images=21)).error < 20


def test_a_run_keeps_it(tmp_path):
    run, calibration = RunFolder(tmp_path), fit_calibration(*drawn(0))
    assert run.calibration() is None
    run.metrics_file.write_text(json.dumps({"rsum": 1.0}))
    assert run.calibration() is None
    run.metrics_file.write_text(json.dumps({"calibration": calibration.told()}))
    assert run.calibration() == calibration
    for damaged in ({"temperature": 1.0}, {"temperature": "warm"}, [1, 2]):
        run.metrics_file.write_text(json.dumps({"calibration": damaged}))
        with pytest.raises(UserError, match=r"metrics\.json: calibration: is damaged"):
            run.calibration()


def test_the_benchmark_of_probabilities(tmp_path, capsys):
    scores, owners = drawn(0, images=200, captions=2)
    np.save(tmp_path / "s.npy", scores.astype(np.float32))
    (tmp_path / "s.owners.txt").write_text("".join(f"{owner}\n" for owner in owners))
    probabilities.main([str(tmp_path / "s.npy")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100 images, 200 sentences"
    assert lines[1].startswith("expected calibration error over the first ten hits: ")
    rows = [[cell.strip(" %") for cell in line.split("|")[1:-1]] for line in lines[6:]]
    assert len(rows) == 8
    rejected, kept = ([float(row[k]) for row in rows] for k in (1, 2))
    assert rejected == sorted(rejected)
    assert kept == sorted(kept, reverse=True)
    assert rejected[-1] > 90
