"""The benchmark of training speed by sets of flags: every set has its turn in every round."""

import shlex

import pytest
from training_fixtures import SIZES, write_features

from benchmarks import parts
from bssan_tf.errors import UserError

SMALL = f"--variant w2r --batch-size 4 --lstm {SIZES['H']} --trained-embeddings 4 --fusion 4"


@pytest.fixture
def common(tmp_path):
    folder = write_features(tmp_path / "corpus")
    files = {name: shlex.quote(str(folder / f"{name}.npy")) for name in ("regions", "objects")}
    return f"--data {folder} --import-regions {files['regions']} --import-objects {files['objects']} {SMALL}"


def test_each_set_has_its_turn(tmp_path, common, monkeypatch, capsys):
    sets, turns = tmp_path / "sets.txt", []
    sets.write_text("all: --negatives 2\nplain: --negatives 3 --all-pairs 0\n")

    def counted(work, steps):
        turns.append((work.config.training.negatives, "w2r_all" in work.siamese.output, work.done, steps))
        work.done += steps  # takes no step: test_benchmarks.py does
        return 0.5 * work.config.training.negatives, 0.0, None

    monkeypatch.setattr(parts.Ours, "run", counted)
    parts.main([str(sets), "--common", common, "--steps", "2", "--rounds", "2"])
    both = [(2, True), (3, False)]
    assert turns == [(*each, done, steps) for done, steps in ((0, 3), (3, 2), (5, 2)) for each in both]
    head, first, second = capsys.readouterr().out.splitlines()
    assert "lowest and highest" in head
    assert first.split() == ["all", "8.0", "1.000", "(1.000", "to", "1.000)"]  # 2 steps of 4 pictures in 1 second
    assert second.split()[:3] == ["plain", "5.3", "0.667"]  # in 1.5 seconds


def test_no_sets_is_an_error(tmp_path):
    (tmp_path / "sets.txt").write_text("\n")
    with pytest.raises(UserError, match=r"sets\.txt: has no sets"):
        parts.main([str(tmp_path / "sets.txt")])
