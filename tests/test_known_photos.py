"""Photos whose features are known are searched without the backbone's weights; new ones need those of the training."""

import functools
import json
import shutil

import numpy as np
import pytest
from matcher_fixtures import CAPTIONS
from training_fixtures import share_models

from bssan_tf.errors import UserError
from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.features.regions import Extractor
from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs import sources
from bssan_tf.runs.folder import ANY, RunFolder

GONE = "the weights of slim could not be downloaded"


@pytest.fixture(autouse=True)
def _models_once():
    with pytest.MonkeyPatch.context() as patch:  # not of the tests, which undo theirs
        share_models(patch)
        patch.setattr(sources, "build_extractor", lambda _: slim())
        yield


@functools.cache
def slim():
    return Extractor("slim")


@pytest.fixture
def photos(matcher_work):
    return sorted((matcher_work / "photos").glob("*.png"))


@pytest.fixture
def run(matcher_work, tmp_path):
    """A copy, as its record of the weights may be changed."""
    return RunFolder(shutil.copytree(matcher_work / "runs" / "mine", tmp_path / "run"))


@pytest.fixture
def folder(run, photos, tmp_path):
    """Three photos whose features are in the cache."""
    (tmp_path / "known").mkdir()
    for photo in photos[:3]:
        shutil.copy(photo, tmp_path / "known")
    Matcher(run).index(tmp_path / "known")
    return tmp_path / "known"


def without_weights(monkeypatch):
    def absent(_):
        raise UserError(GONE)

    monkeypatch.setattr(sources, "build_extractor", absent)


def other_weights(monkeypatch, folder):
    """Extractors whose weights are all a little larger."""
    with np.load(slim().weights_file) as arrays:
        np.savez(folder / "other.npz", **{name: 1.01 * array for name, array in arrays.items()})
    monkeypatch.setattr(sources, "build_extractor", lambda _: Extractor("slim", folder / "other.npz"))


@pytest.mark.parametrize("recorded", ["the weights", ANY])  # a run that ships takes any
def test_known_photos_need_no_weights(run, folder, photos, monkeypatch, recorded):
    if recorded == ANY:
        run.data_file.write_text(json.dumps({**run.trained_data(), "weights_sha256": ANY}))
    before = [(hit.found, hit.score) for hit in Matcher(run).index(folder).search(CAPTIONS[0])]
    without_weights(monkeypatch)
    index = Matcher(run).index(folder)
    assert [(hit.found, hit.score) for hit in index.search(CAPTIONS[0])] == before
    assert len(index.like(folder / photos[0].name)) == 2

    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / photos[1].name).unlink()
    for _ in range(2):
        assert len(Matcher(run).index(folder)) == 2  # the one that can't be read has nothing to describe
    shutil.copy(photos[4], folder)
    for _ in range(2):  # it is not taken for one that can't be read
        with pytest.raises(UserError, match=GONE):
            Matcher(run).index(folder)
    monkeypatch.undo()
    assert len(Matcher(run).index(folder)) == 3


def test_a_photo_that_is_not_known_needs_them(run, folder, photos, monkeypatch):
    without_weights(monkeypatch)
    index = Matcher(run).index(folder)
    with pytest.raises(UserError, match=GONE):
        index.like(photos[7])
    (folder / "more").mkdir()
    shutil.copy(photos[3], folder / "more")
    with pytest.raises(UserError, match=GONE):
        Matcher(run).index(folder / "more")  # another folder, without a store


def test_a_split_is_measured_without_weights(run, matcher_work, monkeypatch, tmp_path):
    without_weights(monkeypatch)
    evaluate(run, Request(out=tmp_path / "scores.npy"), progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), np.load(matcher_work / "scores.npy"))


@pytest.mark.parametrize("recorded", ["the weights", ANY])
def test_new_photos_of_other_weights_are_refused(run, folder, photos, monkeypatch, tmp_path, recorded):
    if recorded == ANY:
        run.data_file.write_text(json.dumps({**run.trained_data(), "weights_sha256": ANY}))
    other_weights(monkeypatch, tmp_path)
    assert len(Matcher(run).index(folder)) == 3
    shutil.copy(photos[5], folder)
    told = "the data have changed since training: weights_sha256" if recorded != ANY else "known photos were made with"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            Matcher(run).index(folder)
    monkeypatch.undo()
    assert len(Matcher(run).index(folder)) == 4


def test_given_weights_are_looked_at(run, folder, monkeypatch, tmp_path):
    run.data_file.write_text(json.dumps({**run.trained_data(), "weights_sha256": ANY}))
    other_weights(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"weights_sha256 is .* there, .* asked for"):
        Matcher(run, {"backbone_weights": tmp_path / "other.npz"}).index(folder)


def test_a_new_photo_is_not_compared_with_photos_of_other_weights(run, folder, photos, monkeypatch, tmp_path):
    run.data_file.write_text(json.dumps({**run.trained_data(), "weights_sha256": ANY}))
    other_weights(monkeypatch, tmp_path)
    index = Matcher(run).index(folder)
    assert len(index.like(folder / photos[0].name)) == 2
    with pytest.raises(UserError, match="the backbone's weights: they are not those that the features of known photos"):
        index.like(photos[7])


def test_a_store_of_other_weights_than_the_runs_is_not_taken(run, folder, monkeypatch):
    run.data_file.write_text(json.dumps({**run.trained_data(), "weights_sha256": "0" * 64}))
    with pytest.raises(UserError, match="the data have changed since training: weights_sha256"):
        Matcher(run).index(folder)
    without_weights(monkeypatch)
    with pytest.raises(UserError, match=GONE):
        Matcher(run).index(folder)
