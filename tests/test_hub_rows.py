"""Rows of scores corrected for hubs, with a stub in place of the model: the bank, what is refused, what is said."""

import argparse
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from model_fixtures import TINY, tiny_config

from benchmarks import hubs as benchmark
from benchmarks import recipe
from bssan_tf.commands import evaluate as command
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError
from bssan_tf.evaluation import retrieval, scores
from bssan_tf.evaluation.hubs import Bank
from bssan_tf.features.store import Features
from bssan_tf.metrics import hubs, recall
from bssan_tf.metrics.details import detailed_report
from bssan_tf.runs import data as data_module
from bssan_tf.runs.data import Data

TRAIN, TEST, N = 12, 10, 22
TEST_ROWS = np.arange(TRAIN, N)
SCORES = np.random.default_rng(0).normal(size=(N, 2 * N)).astype(np.float32)  # of image i and caption c


class Tokens:
    """Tokenizer: a caption is its number."""

    words = ("", "[UNK]", *map(str, range(2 * N)))

    def __call__(self, captions):
        return np.array([[int(caption)] for caption in captions], np.int32)

    def log_unread(self, captions, what):
        pass


def corpus(**splits):
    names = [f"{i}.jpg" for i in range(N)]
    splits = splits or {"train": np.arange(TRAIN), "test": TEST_ROWS}
    return Corpus("flickr8k", names, names, list(map(str, range(2 * N))), np.repeat(np.arange(N), 2), splits)


@pytest.fixture
def measure(monkeypatch):
    """evaluate() on the stubs; `measure.scored` lists the rows, captions and file of each scoring."""

    def score_matrices(scorer, features, tokens, image_rows, *, parts, out, **options):
        measure.scored.append((image_rows.tolist(), tokens[:, 0].tolist(), out))
        return {part: SCORES[np.ix_(image_rows, tokens[:, 0])] for part in parts or ("score", "w2r", "o2w")}

    def measure(**asked):
        return retrieval.evaluate(measure.run, scores.Request(**asked), progress=False)

    config, model = tiny_config(), SimpleNamespace(scorer="scorer")
    arrays = {"regions": np.ones((N, TINY["D"], TINY["M"])), "objects": np.ones((N, TINY["P"], TINY["Q"]))}
    features = Features(tuple(map(str, range(N))), **arrays, valid=np.ones((N, TINY["P"]), bool))
    measure.data = Data(corpus(), features)
    monkeypatch.setattr(data_module, "open_data", lambda *_, **__: measure.data)
    measure.scored, measure.compared = [], []
    measure.run = SimpleNamespace(
        name="stub", best="stub/best.keras", load_config=lambda: config, load_model=lambda: (model, Tokens()),
        calibration=lambda: None,
        require_same_data=measure.compared.append,
    )  # fmt: skip
    monkeypatch.setattr(scores, "FastScorer", lambda scorer: scorer)
    monkeypatch.setattr(scores, "score_matrices", score_matrices)
    return measure


def expected(method, rows, captions, pictures_bank, captions_bank, **settings):
    """The report of some images' rows and captions, each direction corrected by a bank of its own."""
    matrix = SCORES[np.ix_(rows, captions)]
    i2t = hubs.CORRECTIONS[method](matrix, SCORES[np.ix_(pictures_bank, captions)], **settings)
    t2i = hubs.CORRECTIONS[method](matrix.T, SCORES[np.ix_(rows, captions_bank)].T, **settings).T
    return detailed_report(i2t, np.repeat(np.arange(len(rows)), 2), t2i)


@pytest.mark.parametrize("method", hubs.CORRECTIONS)
def test_a_bank_of_the_train_split_corrects_each_direction(measure, method):
    value, text = measure(hub=method, bank=7)
    _, (bank_pictures, captions, _), (rows, bank_captions, _) = measure.scored
    assert (rows, captions) == (TEST_ROWS.tolist(), list(range(2 * TRAIN, 2 * N)))
    assert len(set(bank_pictures)) == len(set(bank_captions)) == 7
    assert max(bank_pictures) < TRAIN
    assert max(bank_captions) < 2 * TRAIN
    hub = value["hub"]
    assert hub["rows"]["score"] == {
        **expected(method, rows, captions, bank_pictures, bank_captions),
        "protocol": "full",
    }
    assert hub["rows"]["score"]["rsum"] != value["rsum"]
    assert (hub["method"], hub["bank"], hub["transductive"]) == (method, 7, False)
    left = [hub["rows"]["score"][way]["N10_skewness"] for way in ("i2t", "t2i")]
    assert left != [value[way]["N10_skewness"] for way in ("i2t", "t2i")]
    assert f"\nhubs with {method}, skewness of N_10: image to text {left[0]:.2f}, " in text
    assert f"; text to image {left[1]:.2f}, " in text
    plain, _ = measure()
    assert {key: value[key] for key in plain} == plain
    lines = text.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.startswith(f"  with {method} (7 of train) "))
    assert lines[place].endswith(f"{hub['rows']['score']['rsum']:.1f}")
    assert lines[place - 1].startswith("stub ")
    assert "; its bank is 7 training captions (text to image) and as many training pictures (image to text)\n" in text


def test_settings_are_said(measure):
    value, text = measure(hub="nnn")
    assert value["hub"]["settings"] == hubs.nnn.__kwdefaults__
    told = ", ".join(f"{name} {number:g}" for name, number in hubs.nnn.__kwdefaults__.items())
    assert f"with nnn: {told}; its bank is 12 training captions" in text  # all there are


def test_a_transductive_bank_is_the_split_itself_and_is_called_so(measure):
    value, text = measure(hub="inverted-softmax", transductive=True)
    ((rows, captions, _),) = measure.scored  # nothing more is scored
    wanted = expected("inverted-softmax", rows, captions, rows, captions)
    assert value["hub"]["rows"] == {"score": {**wanted, "protocol": "full"}}
    assert (value["hub"]["bank"], value["hub"]["transductive"]) == (None, True)
    assert any(line.startswith("  with inverted-softmax (transductive) ") for line in text.splitlines())
    assert "(transductive): to be compared with transductive figures only" in text


def test_folds_have_the_bank_s_scores_of_their_own_candidates(measure, monkeypatch):
    monkeypatch.setattr(recall, "_FOLD", 2)
    value, _ = measure(hub="csls", bank=5, protocol="5fold")
    assert len(measure.scored) == 15
    folds = value["hub"]["rows"]["score"]["folds"]
    for fold, start in zip(folds, range(0, 15, 3)):
        (rows, captions, _), (pictures, of_pictures, _), (of_captions, bank, _) = measure.scored[start : start + 3]
        assert (of_captions, of_pictures) == (rows, captions)
        assert fold == expected("csls", rows, captions, pictures, bank)
    assert value["hub"]["rows"]["score"]["rsum"] == pytest.approx(np.mean([fold["rsum"] for fold in folds]))


def test_a_bank_s_scores_lie_beside_the_split_s_and_parts_have_no_corrected_row(measure, tmp_path):
    value, _ = measure(hub="csls", out=tmp_path / "s.npy", parts=True)
    assert [out.name for _, _, out in measure.scored] == ["s.npy", "s.bank-pictures.npy", "s.bank-captions.npy"]
    assert [path.name for path in tmp_path.iterdir()] == ["s.owners.txt"]  # a bank's captions have other images
    assert list(value["parts"]) == ["w2r", "o2w"]
    assert list(value["hub"]["rows"]) == ["score"]
    value, _ = measure(hub="csls", transductive=True, parts=True)
    assert list(value["hub"]["rows"]) == ["score"]


def test_each_cca_has_a_corrected_row_below_it(measure, monkeypatch):
    from bssan_tf.cca import fit

    def score_matrix(regions, image_rows, tokens, weighted=False):
        return SCORES[np.ix_(image_rows, tokens[:, 0])] * (-1 if weighted else 1)

    monkeypatch.setattr(fit, "fit_cca", lambda *_, **__: SimpleNamespace(score_matrix=score_matrix))
    monkeypatch.setattr(fit, "why_no_cca", lambda *_: None)
    value, text = measure(hub="csls", bank=4, baseline="cca")
    assert list(value["hub"]["rows"]) == ["score", "cca", "cca_weighted"]
    assert list(value["baselines"]) == ["cca", "cca_weighted"]
    assert value["hub"]["rows"]["cca"] == value["hub"]["rows"]["score"]
    assert value["hub"]["rows"]["cca_weighted"] != value["hub"]["rows"]["cca"]
    names = [line[:24].strip() for line in text.splitlines()[4:10]]
    assert names == [
        "stub",
        "with csls (4 of train)",
        "CCA",
        "with csls (4 of train)",
        "CCA+",
        "with csls (4 of train)",
    ]


def test_what_is_no_bank_is_refused_before_scoring(measure):
    with pytest.raises(UserError, match=r"^--bank 13: the train split has 12 pictures; give at most so many$"):
        measure(hub="csls", bank=13)
    overlap = (
        r"^--hub: the bank \(12 captions and 12 pictures of the train split\) has 12 of the measured pictures; use "
    )
    with pytest.raises(UserError, match=overlap):
        measure(hub="csls", split="train")
    assert not measure.scored
    value, _ = measure(hub="csls", split="train", transductive=True)
    assert value["hub"]["rows"]["score"]["n_images"] == TRAIN


def test_owners_of_captions_count_as_pictures_of_the_bank():
    """Whatever the lists of a corpus say: rows decide."""
    train = corpus().split("train")
    bank = Bank.draw(train, 3, corpus().split("test"))
    (other, *_) = {int(text) // 2 for text in bank.captions} - set(bank.image_rows)
    measured = dataclasses.replace(corpus(test=np.array([other, 20])).split("test"), name="val")
    with pytest.raises(UserError, match=r"--hub: the bank \(3 captions .* has 1 of the measured pictures; use"):
        Bank.draw(train, 3, measured)


def test_the_bank_is_the_same_for_every_run_and_a_smaller_one_is_in_it():
    split, test = corpus().split("train"), corpus().split("test")
    large, again, small = (Bank.draw(split, size, test) for size in (8, 8, 3))
    assert large.captions == again.captions
    assert set(small.captions) < set(large.captions)
    assert set(small.image_rows) < set(large.image_rows)


def test_a_bank_that_is_not_finite_is_one_line(measure, monkeypatch):
    spoiled = SCORES.copy()
    spoiled[:TRAIN] = np.nan  # of training pictures alone
    monkeypatch.setattr(f"{__name__}.SCORES", spoiled)
    with pytest.raises(UserError, match=r"^stub/best\.keras: gives scores that are not finite; train the run anew$"):
        measure(hub="nnn")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--bank", "9"], "--bank 9: has no effect without --hub; add it, or leave this out"),
        (["--transductive"], "--transductive: has no effect without --hub; add it, or leave this out"),
        (
            ["--hub", "csls", "--bank", "9", "--transductive"],
            "--bank 9: with --transductive, the split itself is the bank; leave one out",
        ),
        (["--pointing", "x", "--hub", "csls"], "--hub csls: has no effect with --pointing; leave it out"),
        (["--pointing", "x", "--transductive"], "--transductive: has no effect with --pointing; leave it out"),
    ],
)
def test_flags_that_do_not_fit(flags, line):
    with pytest.raises(UserError) as error:
        command.main(["run", *flags])
    assert str(error.value) == line


def study(run, images=4, bank=(3,), held=None):
    options = {"images": images, "bank": bank, "held": held, "no_baseline": True, "out": None, "memory": 9}
    return benchmark.study(run, argparse.Namespace(**options, quiet=True))


@pytest.mark.parametrize("held", [None, 5])
def test_the_study_measures_training_pictures_that_its_bank_does_not_have(measure, held):
    before, after = study(measure.run, bank=(6, 3), held=held)
    (rows, captions, _), (bank_pictures, _, _), (_, bank_captions, _) = measure.scored
    parts = recipe.hold_back(measure.data, held or 4)  # a run of benchmarks.recipe knows what was held back from it
    assert measure.compared == [(parts if held else measure.data).fingerprint]
    train, rest = parts.split("train"), parts.split("val")
    assert len(rows) == 4
    assert set(rows) <= set(rest.image_rows) <= set(range(TRAIN))
    large, small = (Bank.draw(train, size, rest) for size in (6, 3))
    assert (bank_pictures, bank_captions) == (large.image_rows.tolist(), list(map(int, large.captions)))
    assert before == {"score": recall.retrieval_report(SCORES[np.ix_(rows, captions)], np.repeat(range(4), 2))["rsum"]}
    for setting, bank, k in (("k 5, bank 6", large, 5), ("k 1, bank 3", small, 1)):
        wanted = expected("csls", rows, captions, bank.image_rows, list(map(int, bank.captions)), k=k)["rsum"]
        assert after["csls", setting] == {"score": wanted}
    assert ("csls", "k 10, bank 6") not in after  # as k 6 would be


def test_more_pictures_than_half_of_the_train_split_are_refused_by_the_study(measure):
    with pytest.raises(UserError, match=r"^--images 7: the train split has 12 pictures; give at most half of them$"):
        study(measure.run, images=7)


def test_tables_of_the_study():
    after = {(method, "bank 3"): {"score": 410.0, "cca": 300.0 + i} for i, method in enumerate(benchmark.GRID)}
    after["csls", "bank 9"] = {"score": 409.0, "cca": 305.0}
    lines = benchmark.tables("one", {"score": 405.0, "cca": 306.0}, after).splitlines()
    assert lines[:4] == [
        "| correction | settings | one | CCA |",
        "|---|---|---|---|",
        "| none | | 405.0 | 306.0 |",
        "| csls | bank 3 | **410.0** | 300.0 |",
    ]
    assert "| csls | bank 9 | 409.0 | **305.0** |" in lines
    assert "| csls | bank 3: +5.0 | bank 9: -1.0 |" in lines
