"""The study of recipes on a tiny corpus: what is held back, what a row says, going on where it was."""

import csv

import numpy as np
import pytest
from training_fixtures import make_config, write_features

from benchmarks import recipe
from bssan_tf.errors import UserError
from bssan_tf.preparation import open_data

SIZES = "--size tiny --variant w2r --lstm 8 --trained-embeddings 10 --fusion 6 --batch-size 8 --negatives 3 --seed 0"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


def test_pictures_are_held_back_from_the_train_split_alone(corpus):
    data = open_data(make_config(corpus).data, progress=False)
    held = recipe.hold_back(data, 6)
    train, val = (set(held.corpus.splits[name]) for name in ("train", "val"))
    assert (len(train), len(val)) == (26, 6)
    assert train | val == set(data.corpus.splits["train"])
    assert set(held.corpus.splits) == {"train", "val"}
    again = recipe.hold_back(data, 6)
    np.testing.assert_array_equal(held.corpus.splits["val"], again.corpus.splits["val"])
    with pytest.raises(UserError, match="--held 20: the train split has only 32"):
        recipe.hold_back(data, 20)


def test_a_study_appends_a_row_a_set_and_goes_on_where_it_was(corpus, tmp_path, capsys):
    sets, table = tmp_path / "sets.txt", tmp_path / "study.csv"
    sets.write_text("hinge: --loss hinge --schedule plateau\n\ncosine: --epochs 2 --no-cca-start\n")
    features = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [
        str(sets), "--common", f"--data {corpus} {features} {SIZES}", "--minutes", "0.001", "--held", "6",
        "--csv", str(table), "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    recipe.main(arguments)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["hinge", "cosine"]
    assert [row["epochs"] for row in rows] == ["1", "2"]  # the minutes, and the cosine's own end
    assert [row["pairs"] for row in rows] == ["96", "192"]  # 3 steps of 8 pictures with 4 captions each
    for row in rows:
        recalls = sum(float(row[f"{way}_R@{k}"]) for way in ("i2t", "t2i") for k in (1, 5, 10))
        assert float(row["rsum"]) == pytest.approx(recalls, abs=0.4)
        assert (row["images"], row["seed"], row["w2r_rsum"], row["o2w_rsum"]) == ("6", "0", row["rsum"], "")
    capsys.readouterr()
    recipe.main(arguments)
    assert not capsys.readouterr().out
    with table.open(newline="") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.mark.parametrize("text", ["no colon", "a: --lr 1\na: --lr 2", ": --lambda 1"])
def test_lines_that_are_no_sets_are_refused(tmp_path, text):
    path = tmp_path / "sets.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"must be `name: flags of train.py`, each name once"):
        recipe.read_sets(path)
    with pytest.raises(UserError, match="cannot be read"):
        recipe.read_sets(tmp_path / "none.txt")
