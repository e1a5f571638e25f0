"""Score matrices in files: what they hold, one pass for all parts, interruptions, other scores."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from disk_fixtures import dead_process, limited_files
from hostile_files import packed, saved
from scoring_fixtures import TREE_TOKENS, make, make_captions, make_pictures, score, score_in_blocks, sizes_of

from bssan_tf.errors import UserError
from bssan_tf.scoring import matrix, o2w, planning, score_matrices, w2r
from bssan_tf.scoring.score_file import ScoreFile

PARTS = ("w2r", "o2w", "score")


@pytest.fixture
def passes(monkeypatch):
    """How many blocks each network has scored; once `passes.limit` are scored in all, the next one is interrupted."""

    class Passes(dict):
        limit = None

    passes = Passes(w2r=0, o2w=0)
    for name, network in (("w2r", w2r.FastW2R), ("o2w", o2w.FastO2W)):

        def counted(self, *arguments, name=name, real=network.score):
            if sum(passes.values()) == passes.limit:
                raise KeyboardInterrupt
            passes[name] += 1
            return real(self, *arguments)

        monkeypatch.setattr(network, "score", counted)
    return passes


def test_holds_the_matrix(tmp_path):
    config, scorer = make()
    pictures = make_pictures(config)
    out = tmp_path / "new" / "scores.npy"
    got = score(scorer, pictures, TREE_TOKENS, out=out)
    expected = score(scorer, pictures, TREE_TOKENS)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.load(out), expected)
    assert sorted(path.name for path in out.parent.iterdir()) == ["scores.npy", "scores.npy.json"]


def test_parts_lie_beside_the_sum_from_one_pass(tmp_path, passes):
    config, scorer = make()
    pictures, out = make_pictures(config), tmp_path / "scores.npy"
    got = score_matrices(scorer, pictures, TREE_TOKENS, out=out)
    assert passes == {"w2r": 1, "o2w": 1}
    files = {"score": out, "w2r": tmp_path / "scores.w2r.npy", "o2w": tmp_path / "scores.o2w.npy"}
    assert set(tmp_path.iterdir()) == {
        path.with_name(path.name + end) for path in files.values() for end in ("", ".json")
    }
    for part, expected in score_matrices(scorer, pictures, TREE_TOKENS).items():
        np.testing.assert_array_equal(got[part], expected)
        np.testing.assert_array_equal(np.load(files[part]), expected)


def test_finished_ones_are_read_not_scored_again(tmp_path, passes):
    config, scorer = make()
    pictures, out = make_pictures(config), tmp_path / "s.npy"
    first = np.array(score(scorer, pictures, TREE_TOKENS, out=out))
    np.testing.assert_array_equal(score(scorer, pictures, TREE_TOKENS, out=out), first)
    assert passes == {"w2r": 1, "o2w": 1}
    before = out.read_bytes()
    got = {part: np.array(value) for part, value in score_matrices(scorer, pictures, TREE_TOKENS, out=out).items()}
    assert passes == {"w2r": 2, "o2w": 2}  # the parts are missing
    assert out.read_bytes() == before
    for part, again in score_matrices(scorer, pictures, TREE_TOKENS, out=out).items():
        np.testing.assert_array_equal(again, got[part])
    assert passes == {"w2r": 2, "o2w": 2}


def test_an_interrupted_one_goes_on(tmp_path, passes, small_blocks):
    config, scorer = make()
    pictures, tokens = make_pictures(config, 11), make_captions(90, length=12)
    options = {"parts": PARTS, "memory_mb": 0.06}
    expected = score_matrices(scorer, pictures, tokens, **options)
    blocks = sum(-(-11 // page.pictures) for page in planning.plan(sizes_of(scorer), tokens, 11, 0.06))
    assert passes == {"w2r": blocks, "o2w": blocks}
    passes.update(w2r=0, o2w=0)
    passes.limit = 15  # in the eighth block
    with pytest.raises(KeyboardInterrupt):
        score_matrices(scorer, pictures, tokens, out=tmp_path / "s.npy", **options)
    assert not list(tmp_path.glob("*.npy"))
    passes.limit = None
    got = score_matrices(scorer, pictures, tokens, out=tmp_path / "s.npy", **options)
    assert set(got) == set(expected)
    for part in PARTS:
        np.testing.assert_array_equal(got[part], expected[part])
    assert passes == {"w2r": blocks + 1, "o2w": blocks}  # the interrupted block is all that W2R scored twice


@pytest.mark.large
def test_kill_9_in_the_middle_then_resume(tmp_path, monkeypatch, project, small_blocks):
    parts = PARTS
    out, whole = tmp_path / "killed.npy", tmp_path / "whole.npy"
    left = [path.with_name(path.name + ".part") for path in (matrix.file_of(out, part) for part in parts)]
    child = subprocess.Popen(
        [sys.executable, str(project / "tests" / "slow_scoring.py"), str(out), *parts],
        env={**os.environ, "PYTHONPATH": str(project)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not all(path.exists() and np.isnan(np.load(path)).mean() <= 0.5 for path in left):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert all(0 < np.isnan(np.load(path)).mean() <= 0.5 for path in left)
    assert not list(tmp_path.glob("*.npy"))

    block, done = matrix.Pictures.block, []

    def counted(self, start, count):
        done.append(count)
        return block(self, start, count)

    monkeypatch.setattr(matrix.Pictures, "block", counted)
    score_in_blocks(out, parts)
    resumed = len(done)
    score_in_blocks(whole, parts)
    assert resumed < 0.6 * (len(done) - resumed)  # what was finished is not done again
    for part in parts:
        assert matrix.file_of(out, part).read_bytes() == matrix.file_of(whole, part).read_bytes()


def changed(pictures, **arrays):
    """The same features with other arrays."""
    return type(pictures)(**{**vars(pictures), **arrays})


def another_third(objects):
    """The same array, but for the third picture."""
    objects = objects.copy()  # the sum with 0 would make 0 of every -0
    objects[2] += 1
    return objects


@pytest.mark.parametrize("part", ["score", "o2w"])
def test_scores_of_something_else_are_not_touched(tmp_path, passes, part):
    config, scorer = make()
    pictures = make_pictures(config)
    out = tmp_path / "s.npy"
    score_matrices(scorer, pictures, TREE_TOKENS, parts=[part], out=out, data="of today")
    before = matrix.file_of(out, part).read_bytes()
    same = {"features": pictures, "captions": TREE_TOKENS, "parts": [part], "out": out, "data": "of today"}
    others = [
        {"captions": TREE_TOKENS[::-1].copy()},
        {"image_rows": np.arange(7)[::-1]},
        {"features": changed(pictures, objects=another_third(pictures.objects))},
        {"features": changed(pictures, valid=~pictures.valid)},
        {"data": "of another day"},
    ]
    for other in others:
        with pytest.raises(UserError, match="holds other scores"):
            score_matrices(scorer, **{**same, **other})
    brighter = changed(pictures, regions=pictures.regions + 1)  # what O2W does not look at
    if part == "o2w":
        score_matrices(scorer, **{**same, "features": brighter})
    else:
        with pytest.raises(UserError, match="holds other scores"):
            score_matrices(scorer, **{**same, "features": brighter})
    with pytest.raises(UserError, match="holds other scores"):
        score_matrices(make(seed=5)[1], **same)
    assert matrix.file_of(out, part).read_bytes() == before
    assert passes["o2w"] == 1


def test_a_file_of_another_part_is_refused(tmp_path):
    config, scorer = make("w2r")  # whose score is W2R's
    pictures = make_pictures(config)
    score_matrices(scorer, pictures, TREE_TOKENS, parts=["w2r"], out=tmp_path / "s.npy")
    for ending in ("", ".json"):
        (tmp_path / f"s.w2r.npy{ending}").replace(tmp_path / f"s.npy{ending}")
    with pytest.raises(UserError, match="holds other scores"):
        score(scorer, pictures, TREE_TOKENS, out=tmp_path / "s.npy")


def test_a_folder_that_cannot_be_made(tmp_path):
    config, scorer = make()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        score(scorer, make_pictures(config), TREE_TOKENS, out=tmp_path / "file" / "s.npy")


@pytest.mark.parametrize("text", ['{"mine": 1}', "[1, 2]", "my notes", "", '{"shape": [1], "sha256": "x", "mine": 2}'])
def test_a_note_of_the_user_is_never_replaced(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=r"--out.*s\.json.*; name another file") as error:
        ScoreFile(tmp_path / "s", (2, 3), ["x"])
    assert "\n" not in str(error.value)
    assert (tmp_path / "s.json").read_text() == text
    assert not (tmp_path / "s.part").exists()


def finished(folder):
    file = ScoreFile(folder / "s.npy", (2, 3), ["x"])
    file.matrix[:] = np.arange(6).reshape(2, 3)
    file.finish()
    return folder / "s.npy"


@pytest.mark.parametrize(
    "other",
    [
        *(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), np.ones((2, 3)), np.full((2, 3), "x")),
        *(b"no array", b"", packed({"a.npy": saved(np.ones((2, 3), np.float32))})),
    ],
    ids=range(7),
)
def test_a_finished_file_that_has_changed_is_refused(tmp_path, other):
    path = finished(tmp_path)
    np.testing.assert_array_equal(ScoreFile(path, (2, 3), ["x"]).matrix, [[0, 1, 2], [3, 4, 5]])
    path.write_bytes(other) if isinstance(other, bytes) else np.save(path, other)
    with pytest.raises(UserError, match=r"--out .*s\.npy") as error:
        ScoreFile(path, (2, 3), ["x"])
    assert "\n" not in str(error.value)


def test_a_finished_file_of_an_older_version_is_taken_and_that_is_said(tmp_path, caplog):
    path = finished(tmp_path)
    note = tmp_path / "s.npy.json"
    note.write_text(json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "content"}))
    with caplog.at_level(logging.INFO):
        assert ScoreFile(path, (2, 3), ["x"]).finished
    assert "finished by an older version, which noted no checksum" in caplog.text


def test_links_are_not_written_through(tmp_path):
    mine = tmp_path / "mine.npy"
    np.save(mine, np.full((2, 3), np.nan, np.float32))
    before = mine.read_bytes()
    ScoreFile(tmp_path / "s.npy", (2, 3), ["x"])
    (tmp_path / "s.npy.part").unlink()
    (tmp_path / "s.npy.part").symlink_to(mine)
    with pytest.raises(UserError, match=r"s\.npy\.part is a symbolic link; name another file"):
        ScoreFile(tmp_path / "s.npy", (2, 3), ["x"])
    assert mine.read_bytes() == before


def test_a_disk_without_room_is_told_before_anything_is_scored(tmp_path):
    def make():
        with limited_files(100_000):
            ScoreFile(tmp_path / "s.npy", (100, 1000), ["x"])

    with pytest.raises(UserError, match=r"--out .*s\.npy: File too large; make room, or name another file"):
        make()
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy.json"]
    assert np.isnan(ScoreFile(tmp_path / "s.npy", (100, 1000), ["x"]).matrix).all()  # with room, it goes on


def test_leftovers_are_cleared(tmp_path):
    for name in ("s.npy.part.new", f".s.npy.part.{dead_process()}.part", f".t.npy.part.{dead_process()}.part"):
        (tmp_path / name).write_text("")
    finished(tmp_path)
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".t.npy")]
    assert sorted(left) == ["s.npy", "s.npy.json"]
