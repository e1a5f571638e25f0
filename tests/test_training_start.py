"""What a training is told before the first step: errors before features are read, and the prior of its CCA."""

from types import SimpleNamespace

import pytest
from training_fixtures import make_config, write_features

from bssan_tf.datasets import load_corpus
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import RunFolder
from bssan_tf.training import run as training


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("tiny") / "corpus")


def test_too_large_a_batch_is_refused_before_features_are_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("bssan_tf.features.imported.import_features", lambda *_, **__: pytest.fail("read"))
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"--batch-size 900: the train split has only 32 pictures"):
        training.train(make_config(corpus, batch_size=900), run, progress=False)
    assert not run.path.exists()


def test_an_absent_glove_file_is_told_before_features_are_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("bssan_tf.features.imported.import_features", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match=r"--glove nowhere\.txt: no such file"):
        training.train(make_config(corpus, glove="nowhere.txt"), RunFolder(tmp_path / "run"), progress=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cca_start": True, "E_trained": 0}, "--cca-start: starts trained word vectors, and there are none; add"),
        ({"early_signs": 20, "validation_images": 7}, "--early-signs: needs 8 validation pictures, there are 7"),
    ],
)
def test_what_flags_and_corpus_cannot_give_is_told_before_features_are_read(
    corpus, tmp_path, monkeypatch, values, message
):
    monkeypatch.setattr("bssan_tf.features.imported.import_features", lambda *_, **__: pytest.fail("read"))
    (tmp_path / "glove.txt").write_text("dog 0.5 0.5\n")
    config = make_config(corpus, glove=str(tmp_path / "glove.txt"), **values)
    for data in (None, SimpleNamespace(corpus=load_corpus(str(corpus), need_images=False))):
        with pytest.raises(UserError, match=message):
            training.train(config, RunFolder(tmp_path / "run"), progress=False, data=data)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prior", [0.7, 0.0])
def test_the_start_has_the_prior_of_the_config(corpus, tmp_path, monkeypatch, prior):
    seen = []

    def start(model, split, features, tokens, seed, glove_prior, progress):
        seen.append((seed, glove_prior, progress))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "start_from_cca", start)
    with pytest.raises(KeyboardInterrupt):
        training.train(
            make_config(corpus, variant="w2r", cca_start=True, glove_prior=prior),
            RunFolder(tmp_path / "run"),
            progress=False,
        )
    assert seen == [(5, prior, False)]
