"""Evaluation of a run with a stub in place of the model: what is scored, what is refused before, what is said."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from model_fixtures import TINY, tiny_config

from bssan_tf.config.settings import ModelConfig
from bssan_tf.datasets.corpus import Corpus, Grounding
from bssan_tf.errors import UserError
from bssan_tf.evaluation import retrieval as evaluation
from bssan_tf.evaluation import scores as scores_module
from bssan_tf.features.store import Features
from bssan_tf.metrics import recall
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.metrics.details import detailed_report
from bssan_tf.metrics.owners import read_owners
from bssan_tf.runs import data as data_module
from bssan_tf.runs.data import Data

TRAIN, TEST, CAPTIONS = 12, 10, 2
WORDS = ("", "[UNK]", *"abcdefgh")


def make_corpus(**changes):
    """12 train and 10 test images with two captions each; image i's are "a i" and "b i"."""
    n = TRAIN + TEST
    fields = {
        "name": "flickr30k",
        "image_ids": [f"{i}.jpg" for i in range(n)],
        "image_paths": [f"{i}.jpg" for i in range(n)],
        "captions": [f"{word} {i}" for i in range(n) for word in "ab"],
        "image_of_caption": np.repeat(np.arange(n), CAPTIONS),
        "splits": {"train": np.arange(TRAIN), "test": np.arange(TRAIN, n)[::-1]},
    }
    return Corpus(**{**fields, **changes})


def make_features(**changes):
    n, rng = TRAIN + TEST, np.random.default_rng(0)
    arrays = {
        "regions": rng.random((n, TINY["D"], TINY["M"])),
        "objects": rng.random((n, TINY["P"], TINY["Q"])),
        "valid": np.ones((n, TINY["P"]), bool),
    }
    return Features(tuple(map(str, range(n))), **{**arrays, **changes})


class Tokens:
    """Tokenizer: the image's number is the second token of a caption."""

    words = WORDS

    def __call__(self, captions):
        return np.array([[2 + "ab".index(c[0]), 2 + int(c[2:]) % 8] for c in captions], np.int32)

    def log_unread(self, captions, what):
        assert len(captions), what


RIGHT = {"score": 10, "w2r": 5, "o2w": 2}  # how many of the ten pictures each part ranks first


@pytest.fixture
def measure(monkeypatch):
    """evaluate() on the stubs; `scored` lists the rows and number of captions of each call of score_matrices.

    A part's first so many pictures have 1 with their own captions; all other pairs have 0, a tie.
    """
    scored, compared = [], []

    def scores(scorer, features, captions, image_rows, *, parts, **options):
        assert scorer is measure.scorer
        assert features is measure.data.features
        measure.options = options
        n = len(image_rows)
        scored.append((image_rows.tolist(), len(captions)))
        own = np.repeat(np.arange(n), len(captions) // n) == np.arange(n)[:, None]
        first = {part: own * (np.arange(n)[:, None] < RIGHT[part] * n / TEST) for part in parts or RIGHT}
        return {part: matrix.astype(np.float32) for part, matrix in first.items()}

    def measure(config=None, corpus=None, features=None, scorer="scorer", progress=False, calibration=None, **asked):
        config = config or tiny_config()
        measure.scorer = scorer
        model = SimpleNamespace(scorer=scorer)
        run = SimpleNamespace(
            name="stub",
            best="stub/best.keras",
            load_config=lambda: config,
            load_model=lambda: (model, Tokens()),
            calibration=lambda: calibration,
            require_same_data=compared.append,
        )
        measure.data = Data(corpus or make_corpus(), features or make_features())
        monkeypatch.setattr(data_module, "open_data", lambda *_, **__: measure.data)
        return evaluation.evaluate(run, scores_module.Request(**asked), progress=progress)

    monkeypatch.setattr(scores_module, "FastScorer", lambda scorer: scorer)
    monkeypatch.setattr(scores_module, "score_matrices", scores)
    measure.scored, measure.compared = scored, compared
    return measure


def test_whole_split(measure):
    value, text = measure()
    assert measure.scored == [(list(range(21, 11, -1)), 20)]
    assert (value["rsum"], value["n_images"], value["n_captions"], value["run"]) == (600, 10, 20, "stub")
    assert "stub" in text
    (data,) = measure.compared
    assert set(data) >= {"captions_sha256", "splits_sha256", "imported_sha256"}  # all of it, against the training's
    assert "baselines" not in value


def test_scores_that_are_not_finite_name_the_picture_or_the_weights(measure, monkeypatch):
    def scores(*_, **__):
        return {"score": np.full((TEST, TEST * CAPTIONS), np.nan, np.float32)}

    monkeypatch.setattr(scores_module, "score_matrices", scores)
    with pytest.raises(UserError, match=r"^stub/best\.keras: gives scores that are not finite; train the run anew$"):
        measure()
    spoiled = make_features()
    spoiled.regions[17, 0, 0] = np.inf
    with pytest.raises(UserError, match=r"^regions: the row of 17 \(picture 17 of the corpus\) has values"):
        measure(features=spoiled)


def test_only_the_pairs_of_each_fold_are_scored(measure, monkeypatch):
    monkeypatch.setattr(recall, "_FOLD", 2)
    value, text = measure(protocol="5fold")
    assert measure.scored == [([21 - k, 20 - k], 4) for k in (0, 2, 4, 6, 8)]
    assert [fold["n_images"] for fold in value["folds"]] == [2] * 5
    assert (value["n_images"], value["n_captions"], value["rsum"]) == (10, 20, 600)
    assert "2 images ranked against each other" in text
    del measure.scored[:]
    value, _ = measure(protocol="1k", captions_per_image=1)
    assert measure.scored == [([21, 20], 2)]
    assert (value["n_images"], value["n_captions"], value["protocol"]) == (2, 2, "1k")


@pytest.fixture
def protocol_report(monkeypatch):
    """The report of a 10 x 10 matrix under a protocol, in five folds of two images."""
    monkeypatch.setattr(recall, "_FOLD", 2)

    def report(scores, owner, protocol):
        names, texts = list(map(str, range(10))), [""] * 10
        corpus = Corpus("coco", names, names, texts, owner, {"test": np.arange(10)})

        def cut(fold):
            return {"a": scores[np.ix_(fold.image_rows, fold.caption_rows)], "b": np.zeros((2, 2))}

        found = evaluation.protocol_reports(cut, corpus.split("test"), protocol)
        assert list(found) == ["a", "b"]
        return found["a"]

    return report


@pytest.fixture
def matrix():
    """The second image of fold k is only found where k is even."""
    scores = np.eye(10)
    for fold in (1, 3):
        second = 2 * fold + 1
        scores[second, second] = -1.0
    scores[0, 9] = 2.0  # another fold's caption, which must not harm image 0 inside its own fold
    return scores


@pytest.mark.parametrize("order", [np.arange(10), np.random.default_rng(0).permutation(10)])
def test_folds_are_disjoint_and_averaged_whatever_the_order_of_captions(protocol_report, matrix, order):
    report = protocol_report(matrix[:, order], np.arange(10)[order], "5fold")
    # Per fold: R@1 100, 50, 100, 50, 100 in both directions; median rank 1 or (1 + 2) / 2.
    assert [fold["i2t"]["R@1"] for fold in report["folds"]] == [100, 50, 100, 50, 100]
    wanted = {"R@1": 80, "R@5": 100, "R@10": 100, "MedR": 1.2, "MeanR": 1.2, "R-P": 80, "mAP@R": 80}
    wanted |= {"N10_skewness": 0, "never": 0}  # of two candidates
    assert report["i2t"] == pytest.approx(wanted)
    assert report["rsum"] == pytest.approx(560)
    assert (report["n_images"], report["n_captions"], report["protocol"]) == (10, 10, "5fold")


def test_the_mean_of_folds_has_an_interval(protocol_report, matrix):
    """R@1 of a fold whose second image is not found: 0, 50 or 100, by how often each image is drawn."""
    report = protocol_report(matrix, np.arange(10), "5fold")
    shares = []
    for place in range(5):
        drawn = np.random.default_rng(place).multinomial(2, [0.5, 0.5], size=1000)
        shares.append(drawn @ ([100, 0] if place in (1, 3) else [100, 100]) / 2)
    assert report["intervals"]["i2t"]["R@1"] == pytest.approx(np.percentile(np.mean(shares, axis=0), (2.5, 97.5)))


def test_first_fold_alone(protocol_report, matrix):
    first = protocol_report(matrix, np.arange(10), "1k")
    assert (first["n_images"], first["n_captions"], first["rsum"]) == (2, 2, 600)


@pytest.mark.parametrize("protocol", ["5k", "full"])
def test_all_images_at_once_equal_the_whole_matrix(monkeypatch, protocol):
    monkeypatch.setattr(recall, "_FOLD", 2)
    split = make_corpus().split("test")
    scores = np.random.default_rng(1).random((TRAIN + TEST, (TRAIN + TEST) * CAPTIONS))
    whole = scores[np.ix_(split.image_rows, split.caption_rows)]
    found = evaluation.protocol_reports(
        lambda part: {"": scores[np.ix_(part.image_rows, part.caption_rows)]}, split, protocol
    )
    assert found[""] == {**detailed_report(whole, split.image_of_caption), "protocol": protocol}


def test_cca_has_the_same_folds(measure, monkeypatch):
    from bssan_tf.cca import fit as baselines

    fitted, embedded = [], []

    def fit_cca(regions, image_rows, tokens, image_of_caption, vocabulary_size, seed, progress, **options):
        fitted.append((image_rows.tolist(), len(tokens), vocabulary_size, progress, options))
        return SimpleNamespace(score_matrix=scores)

    def scores(regions, image_rows, tokens, weighted=False):
        if not weighted:
            embedded.append(image_rows.tolist())
        own = np.repeat(np.arange(len(image_rows)), CAPTIONS) == np.arange(len(image_rows))[:, None]
        return own.astype(float) if weighted else np.zeros(own.shape)

    monkeypatch.setattr(baselines, "fit_cca", fit_cca)
    monkeypatch.setattr(recall, "_FOLD", 2)
    value, text = measure(protocol="5fold", baseline="cca")
    samples = (list(range(TRAIN)), 24, len(WORDS), False)
    assert fitted == [(*samples, {}), (*samples, {"word_vectors": None, "weighted": True})]
    assert embedded == [rows for rows, _ in measure.scored]
    assert {name: row["protocol"] for name, row in value["baselines"].items()} == {
        "cca": "5fold",
        "cca_weighted": "5fold",
    }
    assert value["baselines"]["cca"]["i2t"]["R@1"] == 0  # ties count against
    assert value["baselines"]["cca_weighted"]["i2t"]["R@1"] == 100
    assert value["rsum"] == 600
    assert [line[:24].strip() for line in text.splitlines() if line.startswith("CCA")] == ["CCA", "CCA+"]


def test_the_weighted_cca_has_the_run_s_glove_vectors_as_the_start_has(measure, monkeypatch):
    from bssan_tf.cca import fit as baselines

    glove = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
    layers = {"glove": SimpleNamespace(get_weights=lambda: [glove])}
    fitted = []

    def fit_cca(*samples, progress, word_vectors=None, weighted=False):
        fitted.append(word_vectors)
        by_weighted = weighted

        def score(regions, image_rows, tokens, weighted=False):
            assert weighted == by_weighted == (word_vectors is not None)
            own = np.repeat(np.arange(len(image_rows)), CAPTIONS) == np.arange(len(image_rows))[:, None]
            return own.astype(float) if weighted else np.zeros(own.shape)

        return SimpleNamespace(score_matrix=score)

    monkeypatch.setattr(baselines, "fit_cca", fit_cca)
    scorer = SimpleNamespace(get_layer=layers.__getitem__)
    value, _ = measure(tiny_config(E_glove=5), scorer=scorer, baseline="cca")
    plain, kindred = fitted
    assert (plain is None, kindred is glove) == (True, True)
    assert {name: row["i2t"]["R@1"] for name, row in value["baselines"].items()} == {"cca": 0, "cca_weighted": 100}


def recalls(value):
    return {name: row["i2t"]["R@1"] for name, row in {"score": value, **value["parts"]}.items()}


@pytest.mark.parametrize("kept", [False, True])
def test_parts_are_measured_in_the_same_pass(measure, tmp_path, kept):
    out = tmp_path / "s.npy" if kept else None
    value, text = measure(parts=True, memory_mb=7, out=out)
    assert measure.scored == [(list(range(21, 11, -1)), 20)]
    known = json.dumps(measure.compared[0])
    assert measure.options == {"memory_mb": 7, "out": out, "data": known, "progress": False, "engine": None}
    assert recalls(value) == {"score": 100, "w2r": 50, "o2w": 20}
    assert "baselines" not in value
    assert [line.split()[:2] for line in text.splitlines() if line.startswith(("stub", "W2R", "O2W"))] == [
        ["stub", "100.0"],
        ["W2R", "50.0"],
        ["O2W", "20.0"],
    ]
    alone, _ = measure()
    assert {key: value[key] for key in alone} == alone


def test_kept_scores_have_the_image_of_each_caption_beside_them(measure, tmp_path):
    out, beside = tmp_path / "s.npy", tmp_path / "s.owners.txt"
    measure(out=out)
    assert beside.read_text().startswith("# stub: flickr30k, test; ")
    assert read_owners(beside).tolist() == np.repeat(np.arange(TEST), CAPTIONS).tolist()
    before = beside.read_bytes()
    measure(out=out)
    assert beside.read_bytes() == before
    scored = len(measure.scored)
    with pytest.raises(UserError, match=r"--out .*s.npy: .*s.owners.txt is of other captions; delete both, or name"):
        measure(out=out, captions_per_image=1)
    beside.write_text("my notes")
    with pytest.raises(UserError, match=r"s.owners.txt is a file of yours, and would be replaced; name another"):
        measure(out=out)
    assert len(measure.scored) == scored
    assert beside.read_text() == "my notes"


def test_probabilities_of_hits_are_measured(measure):
    """All own images score 1 here, all others 0."""
    sure = Calibration(0.05, 10.0, threshold=0.5, error=0.0)
    value, text = measure(calibration=sure)
    assert value["calibration"]["rejected"] == 100
    assert value["calibration"]["kept"] == 100
    assert value["calibration"]["error"] < 0.5
    assert "probabilities of hits (search.py): calibration error 0.0 % over the first ten" in text
    assert "calibration" not in measure()[0]


def test_parts_in_folds(measure, monkeypatch):
    monkeypatch.setattr(recall, "_FOLD", 2)
    value, _ = measure(parts=True, protocol="5fold")
    assert [rows for rows, _ in measure.scored] == [[21 - k, 20 - k] for k in (0, 2, 4, 6, 8)]
    assert [len(row["folds"]) for row in value["parts"].values()] == [5, 5]
    assert recalls(value) == {"score": 100, "w2r": 50, "o2w": 50}
    with pytest.raises(UserError, match=r"--out s.npy: holds one matrix, and --protocol 5fold has 5; leave one out"):
        measure(protocol="5fold", out=Path("s.npy"))


@pytest.mark.parametrize("variant", ["w2r", "o2w"])
def test_parts_of_a_run_with_one_are_refused_at_once(measure, variant):
    with pytest.raises(UserError, match="--parts: the run has one part only; leave it out"):
        measure(tiny_config(variant=variant), parts=True, out=Path("s.npy"), baseline="cca")
    assert not measure.compared  # no data were opened


def test_parts_of_a_run_that_trained_their_sum_are_refused_at_once(measure):
    with pytest.raises(UserError, match="--parts: with --fuse fc no network was trained to score alone; leave it out"):
        measure(tiny_config(fuse="fc"), parts=True)
    assert not measure.compared


def test_objects_in_context_have_a_cca_of_their_own(measure, monkeypatch):
    from bssan_tf.cca import fit as baselines
    from bssan_tf.features.context import with_context

    plain, fitted, scored = make_features(), [], []
    P = plain.objects.shape[1]
    classes, confidence = np.zeros((TRAIN + TEST, P), np.int32), np.ones((TRAIN + TEST, P), np.float32)
    valid = np.ones((TRAIN + TEST, P), bool)
    context = with_context(dataclasses.replace(plain, classes=classes, scores=confidence, valid=valid))

    def fit_cca(visual, *rest, **options):
        fitted.append(visual)
        return SimpleNamespace(score_matrix=scores)

    def scores(visual, image_rows, tokens, weighted=False):
        scored.append(visual)
        return np.zeros((len(image_rows), len(tokens)))

    monkeypatch.setattr(baselines, "fit_cca", fit_cca)
    config = tiny_config().replace(Q=context.objects.shape[2])
    value, text = measure(config=config, features=context, baseline="cca")
    assert list(value["baselines"]) == ["cca", "cca_weighted", "cca_context", "cca_context_weighted"]
    expected = [plain.regions] * 2 + [context.objects] * 2  # a fit for each row
    assert [id(array) for array in fitted] == [id(array) for array in scored] == [id(array) for array in expected]
    labels = [line[:26].strip() for line in text.splitlines() if line.startswith("CCA")]
    assert labels == ["CCA", "CCA+", "CCA (objects in context)", "CCA+ (objects in context)"]


@pytest.mark.parametrize("protocol", ["1k", "5fold", "5k"])
def test_too_small_a_split_is_refused_before_scoring(measure, protocol):
    with pytest.raises(UserError, match=f"--protocol {protocol}: needs .* images, the split has 10"):
        measure(protocol=protocol, baseline="cca")
    assert not measure.scored


@pytest.mark.parametrize(
    ("variant", "absent", "refused"),
    [
        ("full", "objects", True),
        ("no_reg", "regions", True),
        ("w2r", "regions", True),
        ("o2w", "objects", True),
        ("w2r", "objects", False),
        ("o2w", "regions", False),
    ],
)
def test_features_that_the_variant_needs(measure, variant, absent, refused):
    config, features = tiny_config(variant=variant), make_features(**{absent: None})
    if not refused:
        assert measure(config, features=features)[0]["rsum"] == 600
        return
    with pytest.raises(UserError, match=f"{absent}: the run is of variant {variant}.*--import-{absent} FILE.npy"):
        measure(config, features=features)
    assert not measure.scored


def test_needed_features():
    needed = {name: ModelConfig(variant=name).needed_features for name in ("w2r", "o2w", "full", "no_reg")}
    both = ("regions", "objects")
    assert needed == {"w2r": ("regions",), "o2w": ("objects",), "full": both, "no_reg": both}


def test_features_of_another_size(measure):
    with pytest.raises(UserError, match=r"objects of the data are \(4, 3\), the run was trained on \(4, 7\)"):
        measure(features=make_features(objects=np.zeros((TRAIN + TEST, TINY["P"], 3))))
    # w2r never looks at objects
    measure(tiny_config(variant="w2r"), features=make_features(objects=np.zeros((TRAIN + TEST, 4, 3))))


def test_a_bad_out_is_refused_before_cca_is_fitted(measure, monkeypatch):
    from bssan_tf.cca import fit as baselines

    asked = []

    def refuse(scorer, features, captions, image_rows, *, out, data, **options):
        asked.append((out, image_rows.tolist(), len(captions), json.loads(data)["shapes"]["regions"]))
        raise UserError("holds other scores")

    monkeypatch.setattr(recall, "_FOLD", 2)
    monkeypatch.setattr(scores_module, "score_matrices", refuse)
    monkeypatch.setattr(baselines, "fit_cca", None)  # would be a TypeError
    with pytest.raises(UserError, match="holds other scores"):
        measure(out=Path("s.npy"), baseline="cca", protocol="1k")
    assert asked == [(Path("s.npy"), [21, 20], 4, [TRAIN + TEST, TINY["D"], TINY["M"]])]


def test_too_few_pictures_for_a_cca_are_refused_before_scoring(measure):
    few = make_corpus(splits={"train": np.arange(9), "test": np.arange(TRAIN, TRAIN + TEST)})
    with pytest.raises(UserError, match="--baseline cca: needs at least 10 training images, there are 9; leave it out"):
        measure(corpus=few, baseline="cca")
    assert not measure.scored


def test_cca_without_regions_is_refused_before_scoring(measure):
    with pytest.raises(UserError, match="--baseline: a CCA needs regions, and there are objects only; leave it out"):
        measure(tiny_config(variant="o2w"), features=make_features(regions=None), baseline="cca")
    assert not measure.scored


def test_differences_are_said(measure):
    config = tiny_config(data="flickr30k", backbone="vgg16", E_glove=50, E_trained=9)
    features = make_features(bad_rows=np.array([0, 13, 14]))  # 0 is of train
    corpus = dataclasses.replace(make_corpus(), official=False)
    value, text = measure(config, corpus, features, images=5, captions_per_image=1)
    assert (value["n_images"], value["n_captions"]) == (5, 5)
    below = text.split("NOT the same setting")[1].split("\n\n")[0]
    for phrase in (
        "only a part of the data set",
        "5 images ranked against each other; the paper's are 1,000",
        "2 unreadable image(s) of the split",
        "1 caption(s) an image",
        "regions of vgg16",
        "objects of grid",
        "50-d GloVe and 9 learned dimensions",
    ):
        assert phrase in below
    assert len(below.strip().splitlines()) == 8  # the heading's rest and these seven


def test_sources_that_the_variant_does_not_use_are_not_said(measure):
    config = tiny_config(data="flickr30k", variant="w2r", import_regions="r.npy")
    _, text = measure(config)
    assert "regions of your own file" in text
    assert "objects of" not in text


def test_pointing_where_there_is_ground_truth(measure, monkeypatch):
    calls = []

    def pointing(scorer, features, split, grounding, tokenizer, progress):
        calls.append((split.name, grounding, progress))
        return {"w2r": 50.0, "w2r_chance": 10.0, "n_words": 4, "o2w": None}

    monkeypatch.setattr(evaluation, "pointing", pointing)
    n = TRAIN + TEST
    boxes = [np.array([[0.1, 0.1, 0.5, 0.5]])] * n
    truth = Grounding(boxes=tuple(boxes), labels=(("thing",),) * n, named=((),) * (n * CAPTIONS))
    corpus = make_corpus(name="scenes", grounding=truth, split_lists="own", official=False)
    value, text = measure(corpus=corpus, progress=True)
    assert calls == [("test", truth, True)]
    assert value["pointing"]["w2r"] == 50.0
    assert "50.0 % (of 4 words; chance 10.0 %)" in text


def test_what_coco_allows_more_is_measured_of_every_row_and_said(measure, monkeypatch):
    more = SimpleNamespace(
        measure=lambda matrix, fold: {"pmrp": {"i2t": float(matrix.shape[0]), "t2i": float(len(fold.captions))}},
        mean=lambda folds: {"pmrp": folds[0]["pmrp"]},
        text=lambda report: f"PMRP: {report['pmrp']['i2t']}",
    )
    monkeypatch.setattr(evaluation, "coco_metrics", lambda opened: more)
    value, text = measure(parts=True)
    assert value["pmrp"] == value["parts"]["w2r"]["pmrp"] == {"i2t": TEST, "t2i": TEST * CAPTIONS}
    assert f"PMRP: {float(TEST)}" in text.splitlines()
