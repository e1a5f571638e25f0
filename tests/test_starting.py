"""What a model knows before its first step: statistics of the features, and the start from a CCA."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from training_fixtures import make_config, write_features

from bssan_tf.cca.fit import fit_cca
from bssan_tf.config.schema import Config
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.features.context import with_context
from bssan_tf.metrics.recall import chance_rsum, retrieval_report
from bssan_tf.models.attention import LOGIT_SIZE
from bssan_tf.models.bssan import Bssan
from bssan_tf.models.improved import bilinear
from bssan_tf.runs.data import fit_config, open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring import score_matrices
from bssan_tf.tools.stack import path_of
from bssan_tf.training import cca_start as starting
from bssan_tf.training import run as training

pytestmark = pytest.mark.usefixtures("no_export")

CCA = {"region_norm": "centred", "object_norm": "centred", "cca_start": True}
EVEN = {**CCA, "bilinear": True, "weighted_lengths": True, "fusion": 8, "attention_scale": 1e-6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


@pytest.fixture(scope="module")
def data(corpus):
    return open_data(make_config(corpus).data, progress=False)


def build(corpus, data, **values):
    config = fit_config(make_config(corpus, **values), data.features, 0)
    split = data.split("train")
    tokenizer = Tokenizer.fit(split.captions, config.data.caption_length)
    return Bssan(config.model, len(tokenizer.words)), split, tokenizer(split.captions)


def start(corpus, data, built=None, **values):
    """A model, `built` or new, that has started from a CCA of these data, with what it has started from."""
    model, split, tokens = built or build(corpus, data, **values)
    starting.adapt_norms(model, data.features, split.image_rows, seed=0)
    chosen = starting.start_from_cca(model, split, data.features, tokens, seed=0, glove_prior=0.3, progress=False)
    return SimpleNamespace(model=model, **model.networks, split=split, tokens=tokens, chosen=chosen)


@pytest.fixture(scope="module")
def started(corpus, data):
    return start(corpus, data, **CCA)


@pytest.fixture(scope="module")
def even(corpus, data):
    """The same with a bilinear score, attention spread evenly."""
    return start(corpus, data, **EVEN)


@pytest.mark.parametrize(("name", "array"), [("w2r", "regions"), ("o2w", "objects")])
def test_centred_norms_fit_what_the_split_has(data, started, name, array):
    rows = started.split.image_rows
    scaled = started.model.networks[name].scaled(getattr(data.features, array)[rows])
    scaled = scaled[data.features.valid[rows]] if array == "objects" else scaled.reshape(-1, scaled.shape[-1])
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.var(axis=0).mean(), 1, atol=1e-3)


def test_norms_of_other_modes_are_left_alone(corpus, data):
    model, split, _ = build(corpus, data)
    before = model.scorer.get_weights()
    starting.adapt_norms(model, data.features, split.image_rows, seed=0)
    assert all((a == b).all() for a, b in zip(before, model.scorer.get_weights()))


def test_from_the_start_words_match_what_they_name(data, started):
    """The fused products alone, summed over words and regions, must rank the training pictures far above chance."""
    network, split, tokens = started.w2r, started.split, started.tokens
    regions = network.scaled(data.features.regions[split.image_rows])
    pictures = network.fusion.project(regions).sum(axis=1)
    vectors = network.fusion.B(started.model.embeddings[-1](tokens)).numpy()
    captions = (vectors * (tokens > 1)[..., None]).sum(axis=1)
    used = min(started.chosen["dimension"], pictures.shape[1])
    report = retrieval_report(pictures[:, :used] @ captions[:, :used].T, split.image_of_caption)
    assert report["rsum"] > 2 * chance_rsum(len(regions), len(tokens))


@pytest.mark.parametrize("name", ["w2r", "o2w"])
@pytest.mark.parametrize(
    "values", [EVEN, {**EVEN, "cosine_attention": True}, {"fusion": 0}], ids=["all", "cosine", "none"]
)
def test_a_network_starts_from_what_is_known_of_the_text(corpus, data, name, values):
    """Products under W have the size that tanh takes, A and B give the maps' numbers and the text's, little else."""
    network = build(corpus, data, variant=name, **values)[0].networks[name]
    visual, textual = network.attention.W.shape if name == "o2w" else network.attention.W.shape[::-1]
    rng, first, d = np.random.default_rng(0), 2, 3
    maps, look = rng.normal(size=(2, visual, d)).astype(np.float32)
    sample, text = rng.normal(size=(50, visual)) + 1, rng.normal(size=(60, d)) + 1
    network.start_from(maps, look, sample.astype(np.float32), text.astype(np.float32), first)
    W, b = network.attention.W.numpy(), float(network.attention.b)
    W = W if name == "o2w" else W.T  # (visual, textual)
    products = np.einsum("nm,md,nd->n", sample, W[:, first : first + d], text[:50])
    assert products.std() == pytest.approx(LOGIT_SIZE, rel=1e-4)
    assert b == pytest.approx(0 if "cosine_attention" in values else -products.mean(), rel=1e-4)
    assert not np.delete(W, np.s_[first : first + d], axis=1).any()
    if not values["fusion"]:
        assert network.fusion is None
        return
    A, B = (layer.get_weights()[0] for layer in (network.fusion.A, network.fusion.B))
    assert (A.shape, B.shape) == ((visual, 8), (textual, 8))
    np.testing.assert_array_equal(A[:, :d], maps)
    assert 0 < np.abs(A[:, d:]).max() <= bilinear.SHY
    np.testing.assert_array_equal(B[first : first + d, :d], np.eye(d))
    assert B.sum() == np.abs(B).sum() == d


def test_the_bilinear_score_is_the_cca_s_and_rules_at_the_start(corpus, data):
    began = start(corpus, data, **{**EVEN, "weighted_lengths": False})
    features, split, tokens = data.features, began.split, began.tokens
    scores = score_matrices(began.model.scorer, features, tokens, split.image_rows)
    sides = (features.regions, split.image_rows, tokens)
    cca = fit_cca(*sides, split.image_of_caption, began.model.vocabulary_size, progress=False)
    expected = cca.score_matrix(*sides)
    assert np.corrcoef(scores["w2r"].ravel(), expected.ravel())[0, 1] > 0.8  # all regions count the same
    for name in ("w2r", "o2w"):
        mlp = began.model.networks[name].model.get_layer(f"{name}_mlp")
        assert not mlp.get_layer(f"{name}_mlp_out").get_weights()[0].any()


@pytest.mark.parametrize(("part", "name"), [("w2r", "regions"), ("o2w", "objects")])
def test_weighted_lengths_start_from_the_deviations_of_the_other_side(data, even, part, name):
    network, rows, tokens = even.model.networks[part], even.split.image_rows, even.tokens
    array = np.asarray(getattr(data.features, name)[rows], np.float32)
    real = np.asarray(data.features.valid[rows], bool) if part == "o2w" else np.ones(array.shape[:2], bool)
    some = real.any(axis=1)
    scaled = network.scaled(array) * real[..., None]
    pictures = network.fusion.project(scaled[some].sum(axis=1) / real[some].sum(axis=1, keepdims=True))
    captions = (even.model.embeddings[-1](tokens).numpy() * (tokens > 1)[..., None]).sum(axis=1)
    B = network.fusion.B.get_weights()[0].any(axis=0)  # numbers that a caption has
    captions = np.pad(captions[:, : B.sum()], ((0, 0), (0, len(B) - B.sum())))
    of_pictures, of_captions = (gain.numpy() for gain in (network.bilinear.attended_gain, network.bilinear.query_gain))
    if part == "o2w":
        of_pictures, of_captions = of_captions, of_pictures
    for gain, vectors, other in ((of_captions, captions, pictures), (of_pictures, pictures, captions)):
        deviations = other.std(axis=0)
        deviations = np.maximum(deviations, bilinear.LEAST_GAIN * np.sqrt(np.mean(deviations**2)))
        ratios = gain / deviations
        np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.01)
        assert np.ptp(gain) > 0.01
        lengths = np.linalg.norm(vectors, axis=1).mean()
        np.testing.assert_allclose(np.linalg.norm(gain * vectors, axis=1).mean(), lengths, rtol=0.01)


def test_vectors_that_do_not_vary_leave_the_lengths_as_they_are():
    still, moving = np.ones((3, 4), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(bilinear._gains(still, moving), np.ones(4))
    np.testing.assert_array_equal(bilinear._gains(moving, 0 * moving), np.ones(4))


def test_the_start_sees_which_words_are_alike(corpus, data, monkeypatch):
    config = fit_config(make_config(corpus, variant="w2r", **CCA), data.features, 6)
    split = data.split("train")
    tokenizer = Tokenizer.fit(split.captions, config.data.caption_length)
    glove = np.random.default_rng(0).normal(size=(len(tokenizer.words), 6)).astype(np.float32)
    tokens = tokenizer(split.captions)
    rare, common = tokens.max(), 3
    tokens = np.where(tokens == rare, 1, tokens)
    tokens[0, 0] = rare  # once: too rare for the CCA
    glove[rare] = glove[common]
    model, seen = Bssan(config.model, len(glove), glove=glove), {}

    def fit(*samples, **options):
        seen.update(options, cca=fit_cca(*samples, **options))
        return seen["cca"]

    monkeypatch.setattr(starting, "fit_cca", fit)
    before = model.embeddings[-1].get_weights()[0]
    starting.adapt_norms(model, data.features, split.image_rows, seed=0)
    starting.start_from_cca(model, split, data.features, tokens, seed=0, glove_prior=2.0, progress=False)
    np.testing.assert_array_equal(seen["word_vectors"], glove)
    assert (seen["kinship"], seen["weighted"]) == (2, False)
    cca, after = seen["cca"], model.embeddings[-1].get_weights()[0]
    d = min(cca.text_map.shape[1], after.shape[1])
    assert cca.weights[rare] == 0
    expected = starting._word_vectors(cca, tokens)
    np.testing.assert_array_equal(after[rare, :d], expected[rare])
    weighed = (
        cca.weights.max() * cca.text_map[rare] * cca.scale - cca.weights[common] * cca.text_map[common] * cca.scale
    )
    moved = after[rare, :d] - after[common, :d]  # both less the same mean, by the same factor
    assert moved @ weighed[:d] > 0.999 * np.linalg.norm(moved) * np.linalg.norm(weighed[:d])
    np.testing.assert_array_equal(after[:2], before[:2])  # padding and the unknown word


def test_without_the_prior_the_start_is_as_without_glove_vectors(corpus, data):
    config = fit_config(make_config(corpus, variant="w2r", **CCA), data.features, 6)
    split = data.split("train")
    tokens = Tokenizer.fit(split.captions, config.data.caption_length)(split.captions)
    glove = np.random.default_rng(0).normal(size=(tokens.max() + 1, 6)).astype(np.float32)
    model, seen = Bssan(config.model, len(glove), glove=glove), []
    fresh = model.embeddings[-1].get_weights()
    for values, prior in ((glove, 0.0), (2 * glove[::-1], 0.0), (glove, 0.3)):
        model.embeddings[0].set_weights([values])
        model.embeddings[-1].set_weights(fresh)
        starting.start_from_cca(model, split, data.features, tokens, 0, prior, progress=False)
        seen.append(model.embeddings[-1].get_weights()[0])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.allclose(seen[0], seen[2])


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({}, 6),
        ({"S": 30}, 9),
        ({"S": 30, "fusion": 0}, 20),
        ({"variant": "w2r"}, 9),
        ({"variant": "w2r", "fusion": 30}, 20),
    ],
)
def test_the_start_s_cca_has_as_many_numbers_as_every_part_can_take(values, most):
    assert starting._most_dimensions(Config().replace(**{"S": 6, "fusion": 9, "E_trained": 20, **values}).model) == most


def test_the_start_s_cca_is_selected_as_its_lengths_are_and_with_room_for_its_numbers(corpus, data, monkeypatch):
    seen = []

    def fit(*_, **options):
        seen.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "fit_cca", fit)
    for weighted in (False, True):
        with pytest.raises(KeyboardInterrupt):
            start(corpus, data, **{**EVEN, "variant": "w2r", "fusion": 7, "weighted_lengths": weighted})
    assert [(options["weighted"], options["most"]) for options in seen] == [(False, 7), (True, 7)]


def test_attention_starts_in_the_linear_part_of_tanh_and_points(data, started):
    caption, rows = started.tokens, started.split.image_rows[started.split.image_of_caption]
    inputs = {
        "regions": np.asarray(data.features.regions[rows], np.float32),
        "objects": np.asarray(data.features.objects[rows], np.float32),
        "valid": np.asarray(data.features.valid[rows], bool),
        "tokens": caption,
    }
    alpha = started.model.scorer(inputs)["alpha"].numpy()[caption > 1]
    assert 0.02 < alpha.std() < 0.3  # neither the same everywhere nor all on one region
    vectors, W = started.model.embeddings[-1](caption).numpy(), started.w2r.attention.W.numpy()
    e = np.einsum("nle,em,ndm->nld", vectors, W, started.w2r.scaled(inputs["regions"]))[caption > 1]
    assert 0.1 < e.std() < 1.5


def test_objects_in_context_start_by_looking_for_what_is_their_own(corpus, data):
    plain = data.features
    P = plain.objects.shape[1]
    classes = np.tile(np.arange(P, dtype=np.int32) % 3, (len(plain.objects), 1))
    context = with_context(dataclasses.replace(plain, classes=classes, scores=np.ones(classes.shape, np.float32)))
    began = start(corpus, dataclasses.replace(data, features=context), **{**EVEN, "weighted_lengths": False})
    M = context.regions.shape[2]
    W, A = began.o2w.attention.W.numpy(), began.o2w.fusion.A.get_weights()[0]
    assert not W[-M:].any()
    assert np.abs(W[:-M]).max() > 0
    assert np.abs(A[-M:]).max() > 0
    sides = (context.objects, began.split.image_rows, began.tokens)
    scores = score_matrices(began.model.scorer, context, began.tokens, began.split.image_rows)
    cca = fit_cca(*sides, began.split.image_of_caption, began.model.vocabulary_size, progress=False)
    assert np.corrcoef(scores["o2w"].ravel(), cca.score_matrix(*sides).ravel())[0, 1] > 0.6


def without_objects(data, rows):
    """The data as if pictures in these rows had no object."""
    objects, valid = np.array(data.features.objects), np.array(data.features.valid)
    objects[rows], valid[rows] = 0, False
    return dataclasses.replace(data, features=dataclasses.replace(data.features, objects=objects, valid=valid))


def test_pictures_without_objects_do_not_bend_the_map_of_objects(corpus, data, monkeypatch):
    empty = data.split("train").image_rows[::4]
    seen, regression = [], starting._regression
    monkeypatch.setattr(starting, "_regression", lambda x, y: seen.append((x, y)) or regression(x, y))
    built = build(corpus, data, **CCA)
    for here in (data, without_objects(data, empty)):
        start(corpus, here, built)
    _, (x, y), regions, (fewer, their) = seen
    assert len(regions[0]) == len(x)  # regions they have
    assert len(fewer) == len(their) == len(x) - len(empty)
    np.testing.assert_array_equal(their, y[np.arange(len(y)) % 4 > 0])  # of a CCA of the same regions


@pytest.mark.parametrize("values", [{**CCA, "object_norm": "sqrt_l2"}, {**CCA, "cca_start": False}])
def test_a_corpus_without_any_object_leaves_no_run(corpus, data, tmp_path, values):
    here, run = without_objects(data, data.split("train").image_rows), RunFolder(tmp_path / "run")
    config = make_config(corpus, **values)
    with pytest.raises(UserError, match="objects: no picture of the training split has one; check --import-objects /"):
        training.train(config, run, progress=False, data=here)
    boxes = config.replace(import_regions=None, import_objects=None, boxes="b.npz")
    with pytest.raises(UserError, match=r"check --boxes b\.npz$"):
        training.train(boxes, run, progress=False, data=here)
    assert not run.path.exists()


def test_one_object_in_the_training_split_is_enough_wherever_it_is(corpus, data, monkeypatch):
    monkeypatch.setattr(starting, "SAMPLED_PICTURES", 4)  # fewer than the pictures, as in large corpora
    rows, built = data.split("train").image_rows, build(corpus, data, **EVEN, variant="o2w")
    for one in (rows[0], rows[9]):
        here = without_objects(data, rows[rows != one])
        began = start(corpus, here, built)
        starting.check_start(
            make_config(corpus, **CCA), began.split, here.features, began.tokens, began.model.vocabulary_size
        )
        assert all(np.isfinite(array).all() for array in began.model.scorer.get_weights())
        assert (began.o2w.bilinear.attended_gain.numpy() > 0).all()


def test_norms_without_statistics_need_no_object(corpus, data):
    here, split = without_objects(data, slice(None)), data.split("train")
    tokens = Tokenizer.fit(split.captions, 30)(split.captions)
    for values in ({}, {**CCA, "variant": "w2r"}):
        starting.check_start(make_config(corpus, **values), split, here.features, tokens, 100)
    with pytest.raises(UserError, match="no picture of the training split has one"):  # as O2W's norm does
        starting.check_start(make_config(corpus, object_norm="centred"), split, here.features, tokens, 100)


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_starts_from_the_cca_if_asked_to(corpus, tmp_path, monkeypatch, asked):
    """That a resumed run does not is in test_training.py."""
    run, started = RunFolder(tmp_path / "run"), []
    monkeypatch.setattr(training, "start_from_cca", lambda model, *_: started.append(model))
    monkeypatch.setattr(training.Trainer, "_finish", lambda *_: {})
    monkeypatch.setattr(tf.keras.Model, "fit", lambda *_, **__: None)
    training.train(make_config(corpus, variant="w2r", **{**CCA, "cca_start": asked}), run, progress=False)
    assert len(started) == asked
    assert Config.load(run.config_file).training.cca_start == asked


@pytest.mark.parametrize(("hold", "mixed", "variant"), [(True, True, "full"), (False, False, "o2w")])
def test_o2w_s_attention_is_held_if_asked_to(corpus, tmp_path, monkeypatch, hold, mixed, variant):
    """In the graph that is trained, the bfloat16 copy included; W2R's is not."""
    fitted = []
    monkeypatch.setattr(training, "start_from_cca", lambda *_: None)
    monkeypatch.setattr(training.Trainer, "_finish", lambda *_: {})
    monkeypatch.setattr(tf.keras.Model, "fit", lambda siamese, *_, **__: fitted.append(siamese))
    config = make_config(corpus, variant=variant, **CCA, hold_o2w_attention=hold, mixed_precision=mixed)
    training.train(config, RunFolder(tmp_path / "run"), progress=False)
    held = {path_of(weight) for weight in fitted[0].weights} - {path_of(w) for w in fitted[0].trainable_weights}
    attention = {name for name in held if "attention" in name}
    assert attention == ({f"o2w_attention/{name}" for name in ("W", "b", "scale")} if hold else set())


def test_a_start_without_trained_word_vectors_is_refused(corpus, data):
    config = make_config(corpus, **CCA, E_glove=50).replace(E_trained=0)
    split = data.split("train")
    with pytest.raises(UserError, match=r"--cca-start: .*add --trained-embeddings 250"):
        starting.check_start(config, split, data.features, np.ones((len(split.captions), 3), np.int32), 5)


def test_a_corpus_too_small_for_a_cca_leaves_no_run(corpus, tmp_path, monkeypatch):
    few = tmp_path / "few"
    shutil.copytree(corpus, few)
    head, *lines = (few / "captions.csv").read_text().splitlines()
    train = [line for line in lines if line.endswith(",train")]
    rest = [line for line in lines if not line.endswith(",train")]
    (few / "captions.csv").write_text("\n".join([head, *train[:16], *rest]))  # two captions a picture
    (few / "ids.txt").write_text("\n".join(f"{i:03}.png" for i in range(48)))
    monkeypatch.setattr("bssan_tf.features.imported.import_features", lambda *_, **__: pytest.fail("read"))
    config = make_config(few, **CCA, batch_size=4, import_ids=str(few / "ids.txt"))
    with pytest.raises(UserError, match="--cca-start: needs at least 10 training images, there are 8; add --no-cca"):
        training.train(config, RunFolder(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()
