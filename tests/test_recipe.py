"""The study of recipes on a tiny corpus: what is held back, what a row says, going on where it was, the CCA beside."""

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from training_fixtures import make_config, write_features

from benchmarks import held, recipe
from bssan_tf.cca.fit import fit_cca
from bssan_tf.datasets.text import Tokenizer, load_glove
from bssan_tf.errors import UserError
from bssan_tf.features.context import with_context
from bssan_tf.metrics.recall import single_caption_report
from bssan_tf.runs.data import open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import score_matrices

pytestmark = pytest.mark.usefixtures("no_export")

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


def test_a_growth_curve_trains_on_fewer_pictures_which_are_among_more(corpus, tmp_path, monkeypatch):
    data = open_data(make_config(corpus).data, progress=False)
    all_of, few = recipe.hold_back(data, 6).corpus.splits, recipe.hold_back(data, 6, pictures=9).corpus.splits
    more = recipe.hold_back(data, 6, pictures=12).corpus.splits
    assert (len(few["train"]), len(more["train"])) == (9, 12)
    assert set(few["train"]) < set(more["train"]) < set(all_of["train"])
    np.testing.assert_array_equal(few["val"], all_of["val"])
    with pytest.raises(UserError, match="--pictures 27: only 26 are left to train on"):
        recipe.hold_back(data, 6, pictures=27)
    sets, table, asked = tmp_path / "sets.txt", tmp_path / "study.csv", []

    def measure(config, data, folder):
        asked.append((len(data.corpus.splits["train"]), folder.name))
        return {"seed": config.training.seed}

    monkeypatch.setattr(recipe, "open_data", lambda _: data)
    monkeypatch.setattr(recipe, "measure", measure)
    sets.write_text("a: --data x\nb: --data x")
    arguments = [str(sets), "--held", "6", "--csv", str(table), "--pictures"]
    recipe.main([*arguments, "9"])
    recipe.main([*arguments, "9", "12"])
    assert asked == [(9, "a-9-0"), (9, "b-9-0"), (12, "a-12-0"), (12, "b-12-0")]
    with table.open(newline="") as file:
        names = [(row["name"], row["flags"]) for row in csv.DictReader(file)]
    assert names == [(f"{name} of {n}", "--data x") for n in (9, 12) for name in "ab"]
    sets.write_text("a: --data y")
    with pytest.raises(UserError, match="a of 9 is of other flags, '--data x'"):
        recipe.main([*arguments, "9"])


def single_captions_of(run, corpus):
    """The report of a run's twelve held-back pictures, from all of their captions."""
    part = recipe.hold_back(open_data(make_config(corpus).data, progress=False), 12).split("val")
    model, tokenizer = run.load_model()
    features, tokens = SimpleNamespace(regions=np.load(corpus / "regions.npy")), tokenizer(part.captions)
    scores = score_matrices(model.scorer, features, tokens, part.image_rows)
    return single_caption_report(scores["score"], part.image_of_caption)


def test_a_plateau_ends_with_the_minutes_and_a_cosine_with_its_epochs():
    plateau, cosine = (
        recipe.config_of(f"--data flickr8k --schedule {name} --epochs 3", 7) for name in ("plateau", "cosine")
    )
    assert (plateau.training.minutes, plateau.training.epochs) == (7, 10_000)
    assert (cosine.training.minutes, cosine.training.epochs) == (0, 3)
    assert plateau.training.stop_patience == cosine.training.stop_patience == 10_000


@pytest.mark.large
def test_a_study_appends_a_row_a_set_and_goes_on_where_it_was(corpus, tmp_path, capsys):
    sets, table = tmp_path / "sets.txt", tmp_path / "study.csv"
    sets.write_text("\nhinge: --loss hinge --schedule plateau\n\n")
    features = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [
        str(sets), "--common", f"--data {corpus} {features} {SIZES}", "--minutes", "0.001", "--held", "12",
        "--baseline", "--csv", str(table), "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    recipe.main(arguments)
    with table.open(newline="") as file:
        cca, weighted, *rows = csv.DictReader(file)
    assert [row["name"] for row in rows] == ["hinge"]
    assert [row["epochs"] for row in rows] == ["1"]  # the minutes
    assert [row["pairs"] for row in rows] == ["64"]  # 2 steps of 8 pictures with 4 captions each
    for row in rows:
        recalls = sum(float(row[f"{way}_R@{k}"]) for way in ("i2t", "t2i") for k in (1, 5, 10))
        assert float(row["rsum"]) == pytest.approx(recalls, abs=0.4)
        assert (row["images"], row["seed"], row["w2r_rsum"], row["o2w_rsum"]) == ("12", "0", row["rsum"], "")
        expected = single_captions_of(RunFolder(tmp_path / "runs" / f"{row['name']}-0"), corpus)
        for way in ("i2t", "t2i"):
            assert {key: float(row[f"{way}_{key}"]) for key in expected[way]} == pytest.approx(expected[way], abs=0.06)
    assert (cca["name"], cca["flags"]) == ("cca", "regularised CCA")
    assert (weighted["name"], weighted["flags"]) == ("cca_weighted", recipe.BASELINES["cca"]["cca_weighted"])
    for row in (cca, weighted):
        assert [row[key] for key in ("seed", "images", "epochs", "pairs", "w2r_rsum")] == ["0", "12", "", "", ""]
        assert float(row["rsum"]) > 400  # captions say what the regions show; chance has 267
    capsys.readouterr()
    recipe.main(arguments)
    assert not capsys.readouterr().out
    run = str(tmp_path / "runs" / f"{rows[0]['name']}-0")
    held.main([run, "--held", "12", "--quiet"])
    told = capsys.readouterr().out
    assert "12 held-back pictures, 24 captions" in told
    assert f"score   rsum {rows[0]['rsum']} with one caption a picture, " in told
    with pytest.raises(UserError, match="the data have changed since training"):
        held.main([run, "--held", "6", "--quiet"])
    with table.open(newline="") as file:
        assert list(csv.DictReader(file)) == [cca, weighted, *rows]


def test_a_run_or_a_row_of_other_flags_is_refused(corpus, tmp_path, monkeypatch):
    sets, table, runs = tmp_path / "sets.txt", tmp_path / "study.csv", tmp_path / "runs"
    features = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [
        str(sets), "--common", f"--data {corpus} {features} {SIZES}", "--held", "12", "--csv", str(table),
        "--runs", str(runs),
    ]  # fmt: skip
    (runs / "one-0").mkdir(parents=True)
    kept = recipe.config_of(arguments[2], 10).replace(D=9, margin=0.2)  # a size of data does not count
    (runs / "one-0" / "config.json").write_text(kept.to_json())
    monkeypatch.setattr("bssan_tf.training.run.resume", lambda *_, **__: pytest.fail("resumed"))
    sets.write_text("one: --margin 0.4\n")
    with pytest.raises(
        UserError, match=r"one-0: is a run of other flags, --margin was 0\.2, is 0\.4; give another --runs"
    ):
        recipe.main(arguments)
    (runs / "one-0" / "config.json").write_text(kept.replace(margin=0.4, object_shares=(0.1, 0.2)).to_json())
    with pytest.raises(UserError, match=r"is a run of an older version, object_shares was \(0\.1, 0\.2\), is \(0\.04"):
        recipe.main(arguments)  # which is no flag
    row = dict.fromkeys(recipe.COLUMNS, "1") | {"name": "one", "flags": "--margin 0.3", "seed": "0"}
    recipe.append(table, row)
    with pytest.raises(UserError, match=r"study\.csv: one is of other flags, '--margin 0\.3'; give another --csv"):
        recipe.main(arguments)


def test_the_cca_is_fitted_on_the_train_part_and_measured_as_the_sets_are(corpus, monkeypatch):
    config = make_config(corpus, seed=3)
    data = recipe.hold_back(open_data(config.data, progress=False), 6)
    train, part = data.split("train"), data.split("val")
    seen = {"visual": [], "scored": []}

    class Fitted:
        def score_matrix(self, regions, image_rows, tokens, weighted=False):
            seen["scored"].append((image_rows.tolist(), len(tokens)))
            own = part.image_of_caption == np.arange(6)[:, None]
            return own * 1.0 if weighted else own * np.where(np.arange(12) % 2, -1.0, 1.0)

    def fit(visual, image_rows, tokens, image_of_caption, vocabulary_size, seed, progress, **options):
        assert options in ({}, {"word_vectors": None, "weighted": True})
        seen["visual"].append(visual)
        seen["fitted"] = (image_rows.tolist(), len(tokens), image_of_caption.tolist(), seed)
        assert tokens.max() == vocabulary_size - 1
        return Fitted()

    monkeypatch.setattr("bssan_tf.cca.fit.fit_cca", fit)
    rows = recipe.baseline("cca", config, data)
    assert seen["fitted"] == (train.image_rows.tolist(), 52, train.image_of_caption.tolist(), 3)
    assert seen["scored"] == [(part.image_rows.tolist(), 12)] * 2
    assert list(rows) == ["cca", "cca_weighted"]
    row, weighted = rows.values()
    assert (weighted["seed"], weighted["i2t_R@1"]) == (3, 100.0)
    assert (row["i2t_R@1"], row["i2t_R@5"], row["i2t_MedR"]) == (50.0, 50.0, 3.5)  # first captions 1st, second last
    n, P = data.features.objects.shape[:2]
    known = {"classes": np.zeros((n, P), int), "scores": np.ones((n, P)), "valid": np.ones((n, P), bool)}
    context = with_context(dataclasses.replace(data.features, **known))
    of_context = recipe.baseline("cca_context", config, dataclasses.replace(data, features=context))
    assert of_context == {"cca_context": row, "cca_context_weighted": weighted}
    regions, _, objects, _ = seen["visual"]
    assert (regions is data.features.regions, objects is context.objects) == (True, True)


def test_glove_is_for_the_weighted_row_alone(corpus, tmp_path, monkeypatch):
    config = make_config(corpus, seed=3)
    data = recipe.hold_back(open_data(config.data, progress=False), 6)
    train = data.split("train")
    tokenizer = Tokenizer.fit(train.captions, config.data.caption_length)
    rng, path = np.random.default_rng(0), tmp_path / "glove.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, rng.normal(size=4)))}\n" for word in tokenizer.words[2:]))
    config = config.replace(glove=str(path))
    monkeypatch.setattr(recipe, "figures", lambda scores, part: scores)
    rows = recipe.baseline("cca", config, data)
    samples = (data.features.regions, train.image_rows, tokenizer(train.captions), train.image_of_caption)
    part, glove = data.split("val"), load_glove(path, tokenizer.words)[0]
    sides = (data.features.regions, part.image_rows, tokenizer(part.captions))
    samples = (*samples, len(tokenizer.words), 3, False)
    plain, kindred = fit_cca(*samples), fit_cca(*samples, glove, weighted=True)
    np.testing.assert_array_equal(rows["cca"]["score"], plain.score_matrix(*sides))
    np.testing.assert_array_equal(rows["cca_weighted"]["score"], kindred.score_matrix(*sides, weighted=True))
    assert not np.allclose(rows["cca_weighted"]["score"], plain.score_matrix(*sides, weighted=True))


def test_the_cca_has_its_rows_for_each_data_config(corpus, tmp_path, monkeypatch):
    sets, table = tmp_path / "sets.txt", tmp_path / "study.csv"
    other = write_features(tmp_path / "other")
    lines = [f"{name}: --data {folder}" for name, folder in (("a", corpus), ("b", other), ("c", corpus))]
    sets.write_text("\n".join(lines))
    monkeypatch.setattr(recipe, "open_data", lambda config: config.data)
    monkeypatch.setattr(recipe, "hold_back", lambda data, held, pictures: data)
    monkeypatch.setattr(recipe, "measure", lambda config, data, folder: {"seed": config.training.seed})
    fitted = []

    def baseline(kind, config, data):
        fitted.append((kind, data))
        return {name: {"seed": config.training.seed, "rsum": data} for name in (kind, f"{kind}_weighted")}

    monkeypatch.setattr(recipe, "baseline", baseline)
    common = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [str(sets), "--baseline", "--common", common, "--csv", str(table)]
    recipe.append(table, {"name": "cca", "seed": 0, "minutes": 1, **dict.fromkeys(recipe.FIGURES, 7)})  # is kept
    recipe.main([*arguments, "--seeds", "1", "2"])
    recipe.main([*arguments, "--seeds", "2", "4"])
    with table.open(newline="") as file:
        rows = [(row["name"], row["seed"], row["flags"], row["rsum"]) for row in csv.DictReader(file)]
    assert rows[:4] == [
        ("cca", "0", "", "7"),
        ("cca_weighted", "1", recipe.BASELINES["cca"]["cca_weighted"], str(corpus)),
        ("cca of b", "1", "regularised CCA", str(other)),
        ("cca_weighted of b", "1", recipe.BASELINES["cca"]["cca_weighted"], str(other)),
    ]
    assert [row[:2] for row in rows[4:]] == [(name, seed) for seed in "124" for name in "abc"]
    assert fitted == [("cca", str(corpus)), ("cca", str(other))]


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
    expected = {("cca", ""): "w2r", ("cca_context", ""): "whole"}
    expected |= {("cca", " of plain"): "plain", ("cca_context", " of plain"): "more"}
    assert found == {key: configs[name] for key, name in expected.items()}


@pytest.mark.parametrize("taken", ["cca_context", "cca_weighted"])
def test_a_set_cannot_have_the_name_of_a_baselines_row(taken):
    config = recipe.config_of("--data one --preset improved", 1)
    with pytest.raises(UserError, match=f"{taken}: is the name of the --baseline's rows"):
        recipe.baselines_of({taken: config})


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
