"""Score matrices in a file: what it holds, interruptions, other scores."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from model_fixtures import randomise
from scoring_fixtures import TREE_TOKENS, make, make_captions, make_pictures, score_in_blocks

from bssan_tf.errors import UserError
from bssan_tf.scoring import FastScorer, check_score_file, matrix, planning, score_matrix, w2r


def test_holds_the_matrix(tmp_path):
    config, scorer = make()
    pictures = make_pictures(config)
    out = tmp_path / "new" / "scores.npy"
    got = score_matrix(scorer, **pictures, captions=TREE_TOKENS, out=out)
    expected = score_matrix(scorer, **pictures, captions=TREE_TOKENS)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.load(out), expected)
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores.npy", "scores.npy.json"]


def test_a_finished_one_is_read_not_scored_again(tmp_path, monkeypatch):
    config, scorer = make()
    pictures = make_pictures(config)
    first = np.array(score_matrix(scorer, **pictures, captions=TREE_TOKENS, out=tmp_path / "s.npy"))
    monkeypatch.setattr(matrix, "_fill", None)
    np.testing.assert_array_equal(score_matrix(scorer, **pictures, captions=TREE_TOKENS, out=tmp_path / "s.npy"), first)


def test_an_interrupted_one_goes_on(tmp_path, monkeypatch, small_blocks):
    config, scorer = make()
    pictures, tokens = make_pictures(config, 11), make_captions(90, length=12)
    expected = score_matrix(scorer, **pictures, captions=tokens, memory_mb=0.06)
    real, calls = w2r.FastW2R.score, []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(w2r.FastW2R, "score", dies)
    limit = 8
    with pytest.raises(KeyboardInterrupt):
        score_matrix(scorer, **pictures, captions=tokens, memory_mb=0.06, out=tmp_path / "s.npy")
    assert not (tmp_path / "s.npy").exists()
    limit, before = -1, len(calls)
    got = score_matrix(scorer, **pictures, captions=tokens, memory_mb=0.06, out=tmp_path / "s.npy")
    np.testing.assert_array_equal(got, expected)
    blocks = sum(
        -(-11 // page.pictures) for page in planning.plan(FastScorer(scorer), ("w2r", "o2w"), tokens, 11, 6, 4, 0.06)
    )
    assert len(calls) - before == blocks - 7


def test_kill_9_in_the_middle_then_resume(tmp_path, monkeypatch, project, small_blocks):
    out, part = tmp_path / "killed.npy", tmp_path / "killed.npy.part"
    environment = {**os.environ, "PYTHONPATH": str(project)}
    child = subprocess.Popen(
        [sys.executable, str(project / "tests" / "slow_scoring.py"), str(out)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not part.exists() or np.isnan(np.load(part)).mean() > 0.5:
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    left = np.isnan(np.load(part)).mean()
    assert 0 < left <= 0.5
    assert not out.exists()

    block, done = matrix.Pictures.block, []

    def counted(self, start, count):
        done.append(count)
        return block(self, start, count)

    monkeypatch.setattr(matrix.Pictures, "block", counted)
    score_in_blocks(out)
    resumed = len(done)
    score_in_blocks(tmp_path / "whole.npy")
    assert resumed < 0.6 * (len(done) - resumed)  # what was finished is not done again
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def another_third(objects):
    """The same array, but for the third picture."""
    objects = objects.copy()  # the sum with 0 would make 0 of every -0
    objects[2] += 1
    return objects


def test_check_of_a_file_refuses_what_scoring_would(tmp_path):
    config, scorer = make()
    pictures, out = make_pictures(config), tmp_path / "s.npy"
    check_score_file(out, scorer, **pictures, captions=TREE_TOKENS, data="x")
    score_matrix(scorer, **pictures, captions=TREE_TOKENS, data="x", out=out)
    check_score_file(out, scorer, **pictures, captions=TREE_TOKENS, data="x")
    with pytest.raises(UserError, match="holds other scores"):
        check_score_file(out, scorer, **pictures, captions=TREE_TOKENS, data="y")


def test_scores_of_something_else_are_not_touched(tmp_path):
    config, scorer = make()
    pictures = make_pictures(config)
    out = tmp_path / "s.npy"
    score_matrix(scorer, **pictures, captions=TREE_TOKENS, out=out)
    before = out.read_bytes()
    other = {
        "captions": {"captions": TREE_TOKENS[::-1].copy()},
        "pictures": {"regions": pictures["regions"] + 1},
        "one picture": {"objects": another_third(pictures["objects"])},
        "data": {"data": "of another day"},
        "part": {"part": "w2r"},
    }
    for change in other.values():
        with pytest.raises(UserError, match="holds other scores"):
            score_matrix(scorer, **{**pictures, "captions": TREE_TOKENS, "out": out, **change})
    randomise(scorer, seed=5)
    with pytest.raises(UserError, match="holds other scores"):
        score_matrix(scorer, **pictures, captions=TREE_TOKENS, out=out)
    assert out.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    config, scorer = make()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        score_matrix(scorer, **make_pictures(config), captions=TREE_TOKENS, out=tmp_path / "file" / "s.npy")
