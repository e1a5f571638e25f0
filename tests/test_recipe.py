"""The study of recipes on a tiny corpus: what is held back, what a row says, going on where it was, the CCA beside."""

import csv
import dataclasses

import numpy as np
import pytest
from training_fixtures import make_config, write_features

from benchmarks import recipe
from bssan_tf.errors import UserError
from bssan_tf.features.context import with_context
from bssan_tf.metrics import single_caption_report
from bssan_tf.preparation import open_data
from bssan_tf.runs import RunFolder
from bssan_tf.scoring import score_matrix

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


def single_captions_of(run, corpus):
    """The report of a run's twelve held-back pictures, from all of their captions."""
    part = recipe.hold_back(open_data(make_config(corpus).data, progress=False), 12).split("val")
    model, tokenizer = run.load_model()
    regions, tokens = np.load(corpus / "regions.npy"), tokenizer(part.captions)
    scores = score_matrix(model.scorer, regions, None, tokens, image_rows=part.image_rows)
    return single_caption_report(scores, part.image_of_caption)


def test_a_study_appends_a_row_a_set_and_goes_on_where_it_was(corpus, tmp_path, capsys):
    sets, table = tmp_path / "sets.txt", tmp_path / "study.csv"
    sets.write_text("hinge: --loss hinge --schedule plateau\n\ncosine: --epochs 2 --no-cca-start\n")
    features = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [
        str(sets), "--common", f"--data {corpus} {features} {SIZES}", "--minutes", "0.001", "--held", "12",
        "--baseline", "--csv", str(table), "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    recipe.main(arguments)
    with table.open(newline="") as file:
        cca, *rows = csv.DictReader(file)
    assert [row["name"] for row in rows] == ["hinge", "cosine"]
    assert [row["epochs"] for row in rows] == ["1", "2"]  # the minutes, and the cosine's own end
    assert [row["pairs"] for row in rows] == ["64", "128"]  # 2 steps of 8 pictures with 4 captions each
    for row in rows:
        recalls = sum(float(row[f"{way}_R@{k}"]) for way in ("i2t", "t2i") for k in (1, 5, 10))
        assert float(row["rsum"]) == pytest.approx(recalls, abs=0.4)
        assert (row["images"], row["seed"], row["w2r_rsum"], row["o2w_rsum"]) == ("12", "0", row["rsum"], "")
        expected = single_captions_of(RunFolder(tmp_path / "runs" / f"{row['name']}-0"), corpus)
        for way in ("i2t", "t2i"):
            assert {key: float(row[f"{way}_{key}"]) for key in expected[way]} == pytest.approx(expected[way], abs=0.06)
    assert (cca["name"], cca["flags"], cca["seed"], cca["images"]) == ("cca", "regularised CCA", "0", "12")
    assert (cca["epochs"], cca["pairs"], cca["w2r_rsum"], cca["o2w_rsum"]) == ("", "", "", "")
    assert float(cca["rsum"]) > 400  # captions say what the regions show; chance has 267
    capsys.readouterr()
    recipe.main(arguments)
    assert not capsys.readouterr().out
    with table.open(newline="") as file:
        assert list(csv.DictReader(file)) == [cca, *rows]


def test_the_cca_is_fitted_on_the_train_part_and_measured_as_the_sets_are(corpus, monkeypatch):
    config = make_config(corpus, seed=3)
    data = recipe.hold_back(open_data(config.data, progress=False), 6)
    train, part = data.split("train"), data.split("val")
    seen = {}

    class Fitted:
        def score_matrix(self, regions, image_rows, tokens):
            seen["scored"] = (image_rows.tolist(), len(tokens))
            return np.where(np.arange(12) % 2, -1.0, 1.0) * (part.image_of_caption == np.arange(6)[:, None])

    def fit(visual, image_rows, tokens, image_of_caption, vocabulary_size, seed, progress):
        seen["visual"] = visual
        seen["fitted"] = (image_rows.tolist(), len(tokens), image_of_caption.tolist(), seed)
        assert tokens.max() == vocabulary_size - 1
        return Fitted()

    monkeypatch.setattr("bssan_tf.baselines.fit_cca", fit)
    row = recipe.baseline("cca", config, data)
    assert seen["visual"] is data.features.regions
    assert seen["fitted"] == (train.image_rows.tolist(), 52, train.image_of_caption.tolist(), 3)
    assert seen["scored"] == (part.image_rows.tolist(), 12)
    assert (row["i2t_R@1"], row["i2t_R@5"], row["i2t_MedR"]) == (50.0, 50.0, 3.5)  # first captions 1st, second last
    n, P = data.features.objects.shape[:2]
    known = {"classes": np.zeros((n, P), int), "scores": np.ones((n, P)), "valid": np.ones((n, P), bool)}
    context = with_context(dataclasses.replace(data.features, **known))
    assert recipe.baseline("cca_context", config, dataclasses.replace(data, features=context)) == row
    assert seen["visual"] is context.objects


def test_the_cca_has_a_row_for_each_data_config(corpus, tmp_path, monkeypatch):
    sets, table = tmp_path / "sets.txt", tmp_path / "study.csv"
    other = write_features(tmp_path / "other")
    lines = [f"{name}: --data {folder}" for name, folder in (("a", corpus), ("b", other), ("c", corpus))]
    sets.write_text("\n".join(lines))
    monkeypatch.setattr(recipe, "open_data", lambda config: config.data)
    monkeypatch.setattr(recipe, "hold_back", lambda data, held: data)
    monkeypatch.setattr(recipe, "measure", lambda config, data, folder: {"seed": config.training.seed})
    monkeypatch.setattr(recipe, "baseline", lambda kind, config, data: {"seed": config.training.seed, "rsum": data})
    common = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [str(sets), "--baseline", "--common", common, "--csv", str(table)]
    recipe.main([*arguments, "--seeds", "1", "2"])
    recipe.main([*arguments, "--seeds", "2", "4"])
    with table.open(newline="") as file:
        rows = [(row["name"], row["seed"], row["rsum"]) for row in csv.DictReader(file)]
    assert rows[:2] == [("cca", "1", str(corpus)), ("cca of b", "1", str(other))]
    assert [row[:2] for row in rows[2:]] == [(name, seed) for seed in "124" for name in "abc"]


def test_data_that_differ_in_the_context_of_objects_share_the_cca_of_regions():
    flags = {
        "w2r": "--data one --variant w2r",
        "whole": "--data one",
        "o2w": "--data one --variant o2w",
        "plain": "--data two --no-object-context",
        "more": "--data two",
    }
    configs = {name: recipe.config_of(f"{value} --preset improved", 1) for name, value in flags.items()}
    found = recipe.baselines_of(configs)
    assert {name: kind for name, (kind, _) in found.items()} == {
        "cca": "cca",
        "cca_context": "cca_context",
        "cca of plain": "cca",
        "cca_context of plain": "cca_context",
    }
    fitted_on = {"cca": "w2r", "cca_context": "whole", "cca of plain": "plain", "cca_context of plain": "more"}
    assert {name: config for name, (_, config) in found.items()} == {k: configs[v] for k, v in fitted_on.items()}
    with pytest.raises(UserError, match="cca_context: is the name of the --baseline's rows"):
        recipe.baselines_of({"cca_context": configs["whole"]})


def test_a_baseline_that_cannot_be_is_refused_before_any_training(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "measure", None)  # would be a TypeError
    sets = tmp_path / "sets.txt"
    sets.write_text("objects: --variant o2w")
    arguments = [str(sets), "--baseline", "--held", "6", "--csv", str(tmp_path / "study.csv")]
    objects = ["--common", f"--data {corpus} --import-objects {corpus / 'objects.npy'}"]
    with pytest.raises(UserError, match="--baseline: a CCA needs regions"):
        recipe.main([*arguments, *objects])
    sets.write_text("cca: --variant w2r")
    with pytest.raises(UserError, match="cca: is the name of the --baseline's rows"):
        recipe.main([*arguments, *objects])


@pytest.mark.parametrize("text", ["no colon", "a: --lr 1\na: --lr 2", ": --lambda 1"])
def test_lines_that_are_no_sets_are_refused(tmp_path, text):
    path = tmp_path / "sets.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"must be `name: flags of train.py`, each name once"):
        recipe.read_sets(path)
    with pytest.raises(UserError, match="cannot be read"):
        recipe.read_sets(tmp_path / "none.txt")
