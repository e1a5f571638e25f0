"""Two runs compared and ensembles, with stubs in place of the runs: figures, intervals, verdict, what is refused."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bssan_tf import cli
from bssan_tf.commands import evaluate
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.errors import UserError
from bssan_tf.evaluation import comparison
from bssan_tf.evaluation.comparison import NOT_TOLD_APART, compare, ensemble
from bssan_tf.evaluation.scores import Request
from bssan_tf.metrics import output, recall
from bssan_tf.metrics.details import detailed_report

IMAGES, CAPTIONS = 60, 2
OWNER = np.repeat(np.arange(IMAGES), CAPTIONS)


def drawn(seed, lift):
    """Scores whose right pairs are higher by `lift`, with the same noise for half of it."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(IMAGES, IMAGES * CAPTIONS))
    scores = shared + rng.normal(size=shared.shape) + lift * (np.arange(IMAGES)[:, None] == OWNER)
    return scores.astype(np.float32)


def corpus(captions=None):
    return Corpus(
        name="photos",
        image_ids=[f"{i}.jpg" for i in range(IMAGES)],
        image_paths=[Path(f"{i}.jpg") for i in range(IMAGES)],
        captions=captions or [f"caption {i}" for i in range(IMAGES * CAPTIONS)],
        image_of_caption=OWNER,
        splits={"test": np.arange(IMAGES)},
    )


@pytest.fixture
def runs(monkeypatch):
    """Runs by name, each with its matrix; `asked` has the files that were asked for."""
    matrices, corpora, asked = {}, {}, []

    def open_run(run, request, data_flags, progress):
        data = corpora.get(run.name, corpus())
        asked.append((run.name, request.out))

        def scores(fold):
            return {"score": matrices[run.name][np.ix_(fold.image_rows, fold.caption_rows)]}

        config = SimpleNamespace(training=SimpleNamespace(seed=5))
        part, about = data.split("test"), SimpleNamespace(corpus=data, features=None)
        return SimpleNamespace(run=run, part=part, scores=scores, config=config, data=about)

    monkeypatch.setattr(comparison, "open_run", open_run)

    def make(captions=None, **scores):
        matrices.update(scores)
        corpora.update(dict.fromkeys(scores, corpus(captions)) if captions else {})
        return [SimpleNamespace(name=name, path=Path("runs") / name, best=Path("best")) for name in scores]

    make.asked = asked
    return make


def test_differences_are_those_of_the_reports_with_paired_intervals(runs):
    a, b = drawn(1, 2.0), drawn(2, 2.1)
    value, text = compare(runs(one=a, two=b), Request())
    one, two = detailed_report(a, OWNER), detailed_report(b, OWNER)
    assert value["runs"]["one"] == {**one, "protocol": "full"}
    for way in ("i2t", "t2i"):
        for name in one[way]:
            assert value["difference"][way][name] == pytest.approx(two[way][name] - one[way][name])
    assert value["difference"]["rsum"] == pytest.approx(two["rsum"] - one["rsum"])
    low, high = value["difference"]["intervals"]["rsum"]
    assert low < value["difference"]["rsum"] < high
    # both are ranked on the same images: the difference is surer than those of two unpaired draws
    widths = [np.diff(report["intervals"]["rsum"])[0] for report in (one, two)]
    assert high - low < 0.9 * np.hypot(*widths)
    assert "two minus one, with 95 % intervals" in text
    assert f"rsum {value['difference']['rsum']:+.1f} ({low:+.1f} to {high:+.1f})" in text


def test_an_interval_of_paired_draws_is_that_of_a_loop(runs):
    """R@1 of captions, drawn image by image with the captions of each."""
    a, b = drawn(1, 2.0), drawn(2, 2.3)
    value, _ = compare(runs(one=a, two=b), Request())
    first = [100.0 * (recall.ranks(scores.T, OWNER, np.arange(IMAGES)) == 1) for scores in (a, b)]
    draws = np.random.default_rng(0).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=1000)
    found = []
    for draw in draws:
        taken = [c for image, count in enumerate(draw) for c in [2 * image, 2 * image + 1] * count]
        found.append(np.mean(first[1][taken]) - np.mean(first[0][taken]))
    assert value["difference"]["intervals"]["t2i"]["R@1"] == pytest.approx(np.percentile(found, (2.5, 97.5)))


@pytest.mark.parametrize(
    ("first", "second", "verdict"), [(1.5, 3.0, "two"), (3.0, 1.5, "one"), (2.0, 2.0, NOT_TOLD_APART)]
)
def test_the_verdict_is_the_better_one_or_none(runs, first, second, verdict):
    value, text = compare(runs(one=drawn(1, first), two=drawn(2, second)), Request())
    assert value["verdict"] == verdict
    assert (f": {verdict} is better" if verdict != NOT_TOLD_APART else f": {NOT_TOLD_APART}") in text


def test_equal_scores_differ_by_nothing(runs):
    value, _ = compare(runs(one=drawn(1, 2.0), two=drawn(1, 2.0)), Request())
    assert value["difference"]["intervals"]["rsum"] == [0.0, 0.0]
    assert value["verdict"] == NOT_TOLD_APART


def test_folds_are_compared_one_by_one_and_averaged(runs, monkeypatch):
    monkeypatch.setattr(recall, "_FOLD", IMAGES // 5)
    a, b = drawn(1, 2.0), drawn(2, 3.0)
    value, _ = compare(runs(one=a, two=b), Request(protocol="5fold"))
    size, found = IMAGES // 5, []
    for start in range(0, IMAGES, size):
        own = np.flatnonzero(OWNER // size == start // size)
        blocks = (matrix[start : start + size][:, own] for matrix in (a, b))
        found.append([detailed_report(block, OWNER[own] - start)["rsum"] for block in blocks])
    assert value["difference"]["rsum"] == pytest.approx(np.diff(np.mean(found, axis=0))[0])
    low, high = value["difference"]["intervals"]["rsum"]
    assert low < value["difference"]["rsum"] < high


def test_an_ensemble_is_the_mean_of_the_scores(runs):
    scores = [drawn(seed, 2.0) for seed in (1, 2, 3)]
    value, text = ensemble(runs(one=scores[0], two=scores[1], three=scores[2]), Request(out=Path("s.npy")))
    assert {**detailed_report(np.mean(scores, axis=0), OWNER), "protocol": "full"}.items() <= value.items()
    assert value["runs"]["three"]["rsum"] == detailed_report(scores[2], OWNER)["rsum"]
    assert value["rsum"] > max(report["rsum"] for report in value["runs"].values())  # noise averages out
    assert "mean of their scores" in text
    assert "R-Precision" in text
    assert [out for _, out in runs.asked] == [Path("s.1.npy"), Path("s.2.npy"), Path("s.3.npy")]


def test_runs_of_one_name_are_told_by_their_paths(runs):
    found = runs(one=drawn(1, 2.0))
    other = SimpleNamespace(name="one", path=Path("other/one"), best=Path("best"))
    assert set(compare([*found, other], Request())[0]["runs"]) == {"runs/one", "other/one"}


def test_other_data_are_refused(runs):
    other = runs([f"another {i}" for i in range(IMAGES * CAPTIONS)], two=drawn(2, 2.0))
    with pytest.raises(UserError, match=r"runs/two: is of other pictures or captions than runs/one"):
        compare([*runs(one=drawn(1, 2.0)), *other], Request())


def test_a_run_is_not_compared_with_itself(runs):
    with pytest.raises(UserError, match="named twice"):
        compare(runs(one=drawn(1, 2.0)) * 2, Request())


def test_scores_that_are_not_finite_name_the_run(runs, monkeypatch):
    monkeypatch.setattr("bssan_tf.evaluation.retrieval.require_finite", lambda features: None)
    with pytest.raises(UserError, match=r"best: gives scores that are not finite"):
        compare(runs(one=drawn(1, 2.0), two=np.full((IMAGES, IMAGES * CAPTIONS), np.nan, np.float32)), Request())


def test_a_report_of_several_runs_may_be_replaced(runs, tmp_path):
    value, _ = compare(runs(one=drawn(1, 2.0), two=drawn(2, 2.0)), Request())
    output.write_report(tmp_path / "report.json", value)
    output.require_replaceable(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == value


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a", "b", "--parts"], "--parts: has no effect with several runs"),
        (["a", "b", "--baseline", "cca"], "--baseline cca: has no effect with several runs"),
        (["a", "b", "--pointing", "photos"], "--pointing photos: has no effect with several runs"),
        (["a", "b", "--hub", "nnn"], "--hub nnn: has no effect with several runs"),
        (["a", "--ensemble"], "--ensemble: is of two runs or more; name them"),
        (["a", "b", "c"], "c: two runs are compared, no more; leave it out, or add --ensemble"),
        (["--pointing", "photos", "--ensemble"], "--ensemble: is of two runs or more"),
    ],
)
def test_flags_that_several_runs_do_not_take(monkeypatch, arguments, problem):
    monkeypatch.setattr(cli, "load_tensorflow", lambda: pytest.fail("too late"))
    with pytest.raises(UserError, match=problem):
        evaluate.main(arguments)


def test_two_runs_are_compared_and_several_averaged(monkeypatch, capsys):
    asked = []
    for name in ("compare", "ensemble"):
        monkeypatch.setattr(comparison, name, lambda *given, name=name: asked.append((name, *given)) or ({}, name))
    monkeypatch.setattr(evaluate, "find_run", lambda name: name)
    with suppress(SystemExit):
        evaluate.main(["a", "b", "--split", "val", "--quiet"])
        evaluate.main(["a", "b", "c", "--ensemble"])
    assert asked == [
        ("compare", ["a", "b"], Request(split="val"), {}, False),
        ("ensemble", ["a", "b", "c"], Request(), {}, True),
    ]
    assert capsys.readouterr().out.split() == ["compare", "ensemble"]
