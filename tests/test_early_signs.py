"""Early signs of collapse: what is measured, when a collapse is named, and what a resumed run's file holds."""

import contextlib
import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import randomise
from training_fixtures import killed_in_the_last_epoch, leave_export_out, make_config, write_features

from bssan_tf.datasets.text import Tokenizer
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.data import fit_config, open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.training import early_signs as es
from bssan_tf.training import run as training
from bssan_tf.training.batches import PairStream
from bssan_tf.training.losses import PairwiseHinge
from bssan_tf.training.step import compile_siamese, copy_of

pytestmark = pytest.mark.usefixtures("no_export")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


def test_positives_against_negatives_by_hand():
    scores = np.array([[1.0, 0.9, 1.0], [0.0, 0.5, -3.0]])
    found = es.compared(scores, margin=0.2)
    assert found["hinge"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.0) / 4)
    assert found["gap"] == pytest.approx((0.1 + 0.0 - 0.5 + 3.0) / 4)
    assert found["right"] == (1 + 0.5 + 0 + 1) / 4  # a tie counts half


def test_entropy_is_a_share_of_the_even_spreads():
    even, one = np.full((2, 4), 0.25), np.eye(4)[:2]
    assert es.entropy_share(even) == pytest.approx(1)
    assert es.entropy_share(one) == pytest.approx(0)
    padded = np.array([[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.7, 0.1, 0.1, 0.1]])
    real = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)  # one key: no entropy
    last = -(0.7 * np.log(0.7) + 0.3 * np.log(0.1)) / np.log(4)
    assert es.entropy_share(padded, real) == pytest.approx((1 + last) / 2)


def row(trained, learned, hinges=(0.1, 0.2), part="w2r"):
    right = {f"{part}_right_training": trained, f"{part}_right_learned": learned}
    return right | dict(zip((f"{part}_hinge_training", f"{part}_hinge_learned"), hinges))


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ([(0.5, 0.5), (1.0, 0.55), (1.0, 0.52)], ["w2r"]),
        ([(1.0, 0.55), (0.8, 0.5), (1.0, 0.55)], []),  # never twice in a row
        ([(1.0, 0.7), (1.0, 0.7)], []),  # content tells them apart, too
        ([(1.0, 0.7, (0.001, 0.1)), (1.0, 0.7, (0.001, 0.1))], ["w2r"]),  # but there is nothing left to learn from
        ([(1.0, 0.95, (0.001, 0.1)), (1.0, 0.95, (0.001, 0.1))], []),  # nor need there be
        ([(0.75, 0.5), (0.75, 0.5)], []),  # half of the negatives learned: they are still to be told
        ([(0.5, 0.5), (0.5, 0.5)], []),  # nothing learned is no collapse
    ],
)
def test_collapse_is_what_is_told_apart_by_attention_alone(looks, found):
    assert es.collapsed([row(*look) for look in looks], ["w2r"]) == found


def probe_of(corpus, name="improved", **values):
    """A probe of the tiny corpus on random weights."""
    config = make_config(corpus, name, **values)
    data = open_data(config.data, progress=False)
    tokenizer = Tokenizer.fit(data.split("train").captions)
    config = fit_config(config, data.features, 0)
    model = Bssan(config.model, len(tokenizer.words))
    randomise(model.scorer)
    return es.Probe(model, config.training, data.split("val"), data.features, tokenizer), config


def test_the_probe_scores_as_the_trained_graph_does(corpus):
    mixed = {"negative_attention": "mixed", "negatives": es.NEGATIVES, "uniform_positives": 0.5}
    probe, config = probe_of(corpus, **mixed)
    found = probe.measure()
    siamese = probe.model.siamese(config.training)
    scores = siamese({name: probe.inputs[name] for name in siamese.input}, training=False)
    for part in ("w2r", "o2w"):
        hinge = PairwiseHinge(config.training.margin).call(None, scores[part])
        assert found[f"{part}_hinge_training"] == pytest.approx(float(tf.reduce_mean(hinge)), rel=1e-4)
        hinges = {found[f"{part}_hinge_{name}"] for name in ("training", "learned", "eq8", "uniform")}
        assert len(hinges) == 4
        assert 0 < found[f"{part}_entropy"] < 1
    own = probe.model.scorer(probe.inputs)
    gap = own["w2r"].numpy()[:, None] - scores["w2r"].numpy()  # against itself in column 0 where not under Eq. 8
    assert np.abs(gap[::2, 0]).max() < 1e-4 < np.abs(gap[1::2, 0]).min()


@pytest.mark.parametrize(("variant", "attention", "same"), [("w2r", "uniform", "eq8"), ("o2w", "learned", "learned")])
def test_training_is_one_of_the_attentions(corpus, variant, attention, same):
    found = probe_of(corpus, variant=variant, negative_attention=attention, negative_source="random")[0].measure()
    for what in ("hinge", "gap", "right"):
        assert found[f"{variant}_{what}_training"] == found[f"{variant}_{what}_{same}"]
    assert {name[:3] for name in found} == {variant, "rsu"}


def test_a_sum_that_alone_is_trained_is_what_is_looked_at():
    attention = {"alpha": np.full((2, 3, 4), 0.25), "beta": np.full((2, 2, 3), 1 / 3)}
    learned, uniform = np.array([[1.0, 0.9], [0.0, 0.5]]), np.array([[5.0, -5.0], [5.0, -5.0]])
    outputs = [{"score": learned}, {"score": uniform}, attention]
    inputs = {"tokens": np.ones((2, 3), int), "valid": np.ones((2, 2), bool)}
    probe = SimpleNamespace(
        parts=("score",), margin=0.2,
        inputs={name: tf.constant(value) for name, value in inputs.items()},
        _outputs=lambda: [{name: tf.constant(value) for name, value in out.items()} for out in outputs],
        _under_eq8={"training": np.array([[False, True]] * 2), "learned": np.zeros((2, 2), bool)},
    )  # fmt: skip
    found = es.Probe.measure(probe, rsum=False)
    assert (found["score_right_training"], found["score_right_learned"]) == (1.0, 0.5)
    assert found["score_hinge_learned"] == pytest.approx((0.1 + 0.7) / 2)
    assert (found["w2r_entropy"], found["o2w_entropy"]) == (pytest.approx(1), pytest.approx(1))
    assert "at step 40: the score ranks 100.0% of" in es.sign({"step": 40, **row(1.0, 0.5, part="score")}, ["score"])
    assert ": the score ranks 50.0% of" in es.no_sign({"step": 40, **row(1.0, 0.5, part="score")}, ["score"])


@contextlib.contextmanager
def lines():
    """The lines that early_signs.py logs."""
    found, handler = [], logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    es.logger.addHandler(handler)
    es.logger.setLevel(logging.INFO)
    yield found
    es.logger.removeHandler(handler)


@pytest.fixture(scope="module")
def collapsing(tmp_path_factory):
    """A run under Eq. 8 on captions that say nothing about the pictures; its rows, what was logged, and the data."""
    corpus = write_features(tmp_path_factory.mktemp("blind") / "corpus", pictures=112)
    np.save(corpus / "regions.npy", np.random.default_rng(0).permutation(np.load(corpus / "regions.npy")))
    values = {"variant": "w2r", "optimizer": "adam", "l2": 0.0, "steps_per_epoch": 30, "epochs": 2, "early_signs": 60}
    config = make_config(corpus, "paper", **values)
    data = open_data(config.data, progress=False)
    rows = np.concatenate([data.corpus.splits[name] for name in ("train", "val")])
    splits = {"train": rows[:40], "val": rows[40:]}
    data = dataclasses.replace(data, corpus=dataclasses.replace(data.corpus, splits=splits))
    run = RunFolder(tmp_path_factory.mktemp("runs") / "eq8")
    with lines() as logged, pytest.MonkeyPatch.context() as patch:
        leave_export_out(patch)
        training.train(config, run, progress=False, data=data)
    return run, es.read_rows(run.early_signs_file), logged, data


def test_collapse_is_named_once_and_its_numbers_kept(collapsing):
    _, rows, logged, _ = collapsing
    assert [row["step"] for row in rows] == [0, 20, 40, 60]
    assert rows[0]["w2r_right_training"] < 0.9 <= rows[-1]["w2r_right_training"]
    assert rows[-1]["w2r_right_learned"] < 0.6
    assert rows[-1]["w2r_loss"] < 0.1 * rows[1]["w2r_loss"]
    assert len(logged) == 1
    assert logged[0].startswith("EARLY SIGN OF COLLAPSE at step ")
    assert "Remedy: --negative-attention learned" in logged[0]


def test_a_resumed_run_continues_the_file(collapsing, tmp_path):
    whole, _, logged, data = collapsing
    killed = killed_in_the_last_epoch(whole, tmp_path / "killed")
    with lines() as again:
        training.resume(killed, progress=False, data=data)
    assert killed.early_signs_file.read_text() == whole.early_signs_file.read_text()
    assert again == logged  # row 20 alone is older than the resumed epoch, so the sign is seen in it


@pytest.mark.large
def test_the_probe_changes_nothing_and_sees_the_twins_weights(corpus, tmp_path):
    probe, config = probe_of(corpus, variant="o2w", learning_rate=1e-4)
    twin = copy_of(probe.model, mixed_precision=True)
    siamese = twin.siamese(config.training)
    compile_siamese(siamese, config)
    variables = [*siamese.variables, *siamese.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    data = open_data(config.data, progress=False)
    split = data.split("train")
    tokens = Tokenizer.fit(split.captions)(split.captions)
    stream = PairStream(split, data.features, tokens, config.training)
    batches = stream.dataset(siamese.input, list(siamese.output))

    def fitted(callbacks):
        """Weights after 21 steps."""
        tf.keras.utils.set_random_seed(0)
        tf.config.experimental.enable_op_determinism()
        for variable, value in zip(variables, start):
            variable.assign(value)
        siamese.fit(batches.steps(0, 21), steps_per_epoch=21, callbacks=callbacks, verbose=0)
        return twin.scorer.get_weights()

    with lines() as logged:
        weights = fitted([es.EarlySigns(probe, twin, tmp_path / "signs.csv", last=300)])
    rows = es.read_rows(tmp_path / "signs.csv")
    assert [row["step"] for row in rows] == [0, 20]
    assert rows[0]["o2w_entropy"] != rows[1]["o2w_entropy"]
    assert len(logged) == 1  # at the end of training
    assert "training was too short to tell; a sign takes two looks, 40 steps" in logged[0]
    for a, b in zip(weights, fitted([])):
        np.testing.assert_array_equal(a, b)


def test_losses_are_means_since_the_last_row_or_the_epochs_start(tmp_path):
    measured, asked = row(0.5, 0.5), []
    probe = SimpleNamespace(parts=("w2r",), model=None, measure=lambda rsum: asked.append(rsum) or measured)
    signs = es.EarlySigns(probe, None, tmp_path / "signs.csv", last=81)  # the next look is at 100
    steps = tf.Variable(0)
    signs.set_model(SimpleNamespace(optimizer=SimpleNamespace(iterations=steps)))
    losses = np.arange(1, 121) / 100
    for epoch in range(4):
        signs.on_epoch_begin(epoch)
        for batch in range(30):
            signs.on_train_batch_begin(batch)
            steps.assign_add(1)
            seen = losses[epoch * 30 :][: batch + 1]
            signs.on_train_batch_end(batch, {"w2r_ranking": seen.mean()})
    rows = es.read_rows(signs.path)
    assert [row["step"] for row in rows] == [0, 20, 40, 60, 80, 100]
    expected = [losses[a:b].mean() for a, b in ((0, 20), (30, 40), (40, 60), (60, 80), (90, 100))]
    assert [row["w2r_loss"] for row in rows[1:]] == pytest.approx(expected)
    assert asked == [True, False, False, False, False, True]


def test_a_training_that_ends_early_is_told_what_was_seen(tmp_path):
    signs = es.EarlySigns(SimpleNamespace(parts=("w2r",)), None, tmp_path / "signs.csv", last=300)
    signs.rows = [{"step": step, **row(0.7, 0.7)} for step in (0, 20, 40)]
    with lines() as logged:
        signs.on_train_end()
    assert len(logged) == 1
    assert logged[0].startswith("No early sign of collapse after 40 steps: W2R ranks 70.0%")


def test_what_is_hardly_learned_is_said_to_be():
    both = {"step": 300, **row(0.9, 0.83), **row(0.5, 0.52, part="o2w")}
    line = es.no_sign(both, ["w2r", "o2w"])
    assert "W2R ranks 83.0% and O2W ranks 52.0%" in line
    assert line.endswith("O2W: hardly anything learned yet.")
    assert "hardly" not in es.no_sign(both, ["w2r"])
