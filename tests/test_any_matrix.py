"""`python -m bssan_tf.metrics`: any score matrix, with lonely images and captions, and without TensorFlow."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from bssan_tf.errors import UserError
from bssan_tf.metrics import __main__ as command
from bssan_tf.metrics import details, output
from bssan_tf.metrics.owners import owners_beside, write_owners

# Image 3 has no caption, caption 4 no image; both are in the way.
SCORES = np.array(
    [
        [0.9, 0.1, 0.2, 0.0, 0.8],  # own 0.9, then 0.1, which 0.2 and 0.8 beat: ranks 1, 4
        [0.3, 0.2, 0.5, 0.4, 0.6],  # own 0.5, 0.6 beats it; then 0.4, likewise: ranks 2, 3
        [0.0, 0.1, 0.2, 0.3, 0.4],  # no caption of its own
        [0.8, 0.7, 0.6, 0.5, 0.4],  # no caption of its own
    ],
    np.float32,
)
OWNER = [0, 0, 1, 1, -1]
T2I = [1, 4, 2, 2]  # 0.1 is beaten by 0.2, 0.1, 0.7: a tie counts; 0.5 by 0.6; 0.4 by 0.5


def files(folder, scores=SCORES, owner=OWNER, name="owner.txt"):
    np.save(folder / "scores.npy", scores)
    if name.endswith(".npy"):
        np.save(folder / name, np.array(owner))
    else:
        (folder / name).write_text("".join(f"{row}\n" for row in owner))
    return folder / "scores.npy", folder / name


@pytest.mark.parametrize("name", ["owner.txt", "owner.npy"])
def test_lonely_images_and_captions_are_candidates_only(tmp_path, name):
    value, text = command.measure(*files(tmp_path, name=name))
    assert value["i2t"]["R@1"] == 50
    assert value["i2t"]["MeanR"] == 1.5
    assert value["i2t"]["R-P"] == 50  # one of two first ones, and again
    assert value["i2t"]["mAP@R"] == pytest.approx(100 * (1 / 2 + (1 / 2) / 2) / 2)
    assert value["t2i"]["R@1"] == 100 * np.mean(np.array(T2I) <= 1)
    assert value["t2i"]["MeanR"] == np.mean(T2I)
    assert (value["n_images"], value["n_captions"]) == (4, 5)
    assert (value["images_without_caption"], value["captions_without_image"]) == (2, 1)
    lines = text.splitlines()
    assert lines[0] == "scores.npy: 4 images, 5 captions"
    assert lines[1] == "2 images without a caption: ranked among the others, never a query"
    assert lines[2] == "1 caption without an image: ranked among the others, never a query"
    assert output.detail_lines(value) in text


def test_where_none_is_lonely_it_is_the_report_of_evaluate(tmp_path):
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.concatenate([np.arange(9), rng.integers(9, size=20)]))
    scores = np.round(rng.normal(size=(9, 29)), 1)
    value, text = command.measure(*files(tmp_path, scores, owner))
    expected = details.detailed_report(scores, owner)
    assert {key: value[key] for key in expected} == expected
    assert "ranked among" not in text
    assert output.table_row("", expected, 0) in text.splitlines()


def test_intervals_draw_only_images_that_are_asked_for():
    """Lonely ones that are in nobody's way change nothing."""
    rng = np.random.default_rng(1)
    owner, scores = np.repeat(np.arange(12), 3), rng.normal(size=(12, 36))
    framed = np.full((15, 40), scores.min() - 1)
    framed[2:14, 1:37] = scores
    labels = np.full(40, -1)
    labels[1:37] = owner + 2
    expected, found = details.detailed_report(scores, owner), details.detailed_report(framed, labels, lonely=True)
    for way in ("i2t", "t2i"):
        assert found[way].pop("never") > expected[way].pop("never")  # they are candidates that nobody finds
        assert found[way].pop("N10_skewness") != expected[way].pop("N10_skewness")
    for key in ("i2t", "t2i", "rsum", "intervals"):
        assert found[key] == expected[key]


WRONG = {
    "transposed": (SCORES.T, OWNER, r"scores.npy: looks transposed, \(5, 4\)"),
    "few": (SCORES, [*OWNER, 0], "6 captions, the matrix has 5 columns"),
    "row": (SCORES, [0, 0, 1, 4, -1], "caption 3: there is no image 4; rows are 0 to 3, and -1 is no image"),
    "below": (SCORES, [0, 0, 1, -2, -1], "caption 3: there is no image -2"),
    "nobody": (SCORES, [-1] * 5, "no caption has an image"),
    "nan": (SCORES, OWNER, "NaN or infinite values, the first in row 1"),
    "flat": (SCORES[0], OWNER, r"is float32 \(5,\)"),
    "integers": (SCORES.astype(int), OWNER, r"is int64 \(4, 5\)"),
    "empty": (SCORES[:, :0], OWNER, r"is empty, \(4, 0\)"),
    "word": (SCORES, [0, "dog", 1, 1, 1], "line 2: 'dog' is no row"),
    "gap": (SCORES, [0, "", 1, 1, 1], "line 2: '' is no row"),
    "fraction": (SCORES, [0, "1.0", 1, 1, 1], "line 2: '1.0' is no row"),
    "large": (SCORES, [0, "9" * 30, 1, 1, 1], "is no row"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(tmp_path, case):
    scores, owner, message = WRONG[case]
    scores = np.where(np.float32(0.6) == SCORES, np.nan, SCORES) if case == "nan" else scores
    with pytest.raises(UserError, match=message) as refused:
        command.measure(*files(tmp_path, scores, owner))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["scores.npy", "owner.txt", "owner.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"hello\xff"])
def test_broken_files_are_refused(tmp_path, name, content):
    paths = files(tmp_path, name="owner.npy" if name == "owner.npy" else "owner.txt")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        command.measure(*paths)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        command.measure(*paths)


@pytest.mark.parametrize("part", ["s.npy", "s.w2r.npy", "s.o2w.npy"])
def test_owners_beside_the_matrix_are_taken_and_that_is_said(tmp_path, capsys, part):
    scores, owner = files(tmp_path)
    scores.rename(tmp_path / part)
    (tmp_path / "s.owners.txt").write_text("# run: corpus, split\n" + owner.read_text())
    command.main([str(tmp_path / part), "--json", str(tmp_path / "r.json")])
    assert capsys.readouterr().out.startswith(f"image of each caption: {tmp_path / 's.owners.txt'}\n{part}: 4 images")
    assert json.loads((tmp_path / "r.json").read_text())["i2t"]["MeanR"] == 1.5


@pytest.mark.parametrize("name", [".", "/", "nothere.npy"])
def test_a_matrix_that_is_no_file_is_told_as_such(name):
    with pytest.raises(UserError, match=f"^{re.escape(name)}: no such file; give a .npy of floats"):
        command.main([name])


def test_owners_are_kept_under_the_name_of_their_own_matrix(tmp_path):
    write_owners(tmp_path / "s.w2r.npy", np.array([0, 1]), "run: corpus, split")
    assert [path.name for path in tmp_path.iterdir()] == ["s.w2r.owners.txt"]


def test_a_part_s_own_owners_go_before_those_of_the_sum(tmp_path):
    (tmp_path / "s.owners.txt").write_text("0\n")
    assert owners_beside(tmp_path / "s.w2r.npy") == tmp_path / "s.owners.txt"
    (tmp_path / "s.w2r.owners.txt").write_text("1\n")
    assert owners_beside(tmp_path / "s.w2r.npy") == tmp_path / "s.w2r.owners.txt"


@pytest.mark.parametrize("name", ["s.npy", "s.bank-captions.npy"])  # a bank has other captions than the split beside it
def test_without_owners_the_flag_is_asked_for(tmp_path, name):
    if name != "s.npy":
        (tmp_path / "s.owners.txt").write_text("0\n")
    np.save(tmp_path / name, SCORES)
    missing = tmp_path / name.replace(".npy", ".owners.txt")
    with pytest.raises(UserError, match=f"^--image-of-caption: is needed, as there is no {missing}; give the row of"):
        command.main([str(tmp_path / name)])


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["h5py"] = None
runpy.run_module("bssan_tf.metrics", run_name="__main__", alter_sys=True)
"""


def test_the_command_works_without_tensorflow(project, tmp_path):
    scores, owner = files(tmp_path)
    report = tmp_path / "report.json"

    def run(*arguments):
        call = [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)]
        return subprocess.run(call, cwd=project, capture_output=True, text=True, timeout=60)

    done = run(scores, "--image-of-caption", owner, "--json", report)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scores.npy: 4 images, 5 captions" in done.stdout
    assert json.loads(report.read_text())["i2t"]["R@1"] == 50
    np.save(scores, SCORES.T)
    refused = run(scores, "--image-of-caption", owner)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {scores}: looks transposed")
    assert len(refused.stderr.splitlines()) == 1


def test_a_file_that_is_no_report_is_kept(tmp_path):
    scores, owner = files(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UserError, match="is a file of yours"):
        command.main([str(scores), "--image-of-caption", str(owner), "--json", str(tmp_path / "mine.json")])
    assert (tmp_path / "mine.json").read_text() == "{}"
