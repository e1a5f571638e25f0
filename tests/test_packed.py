"""A run that is packed to be shipped: float16 weights, no places of files, and where it is taken."""

import json

import numpy as np
import pytest
import tiny_corpus
from training_fixtures import untrained_run

from bssan_tf.errors import UserError
from bssan_tf.matching.matcher import Matcher
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.runs import folder as folders
from bssan_tf.runs import packed
from bssan_tf.runs.folder import RunFolder, find_run
from bssan_tf.tools.stack import weights_of

SURE = Calibration(2.0, 1.0, 0.2, 0.5)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a run and `packed`, made of it by the command."""
    folder = tmp_path_factory.mktemp("packed")
    tiny_corpus.write_corpus(folder / "photos", pictures=18)
    run = untrained_run(folder)
    config = run.load_config().replace(text_corpus=str(folder / "texts.json"))
    run.config_file.write_text(config.to_json())
    run.metrics_file.write_text(json.dumps({"rsum": 1.0, "calibration": SURE.told()}))
    (folder / "card.md").write_text("# Of drawn pictures\n")
    packed.main([str(run.path), str(folder / "packed"), "--card", str(folder / "card.md")])
    return folder


@pytest.fixture
def run(work):
    return RunFolder(work / "grid")


def test_what_is_packed(work, run):
    found = RunFolder(work / "packed")
    names = {"config.json", "data.json", "vocabulary.txt", "metrics.json", "weights.npz", "CARD.md"}
    assert {path.name for path in found.path.iterdir()} == names
    assert (found.path / "CARD.md").read_text() == "# Of drawn pictures\n"
    assert str(work) not in found.config_file.read_text()
    data = found.load_config().data
    assert (data.cache, data.data, data.glove, data.text_corpus) == ("cache", "photos", None, "texts.json")
    assert found.calibration() == SURE
    (model, tokenizer), (own, words) = found.load_model(), run.load_model()
    assert tokenizer.words == words.words
    ours, theirs = weights_of(model.scorer), weights_of(own.scorer)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array.astype(np.float16).astype(array.dtype))


@pytest.mark.large
def test_it_scores_as_the_run_does_whatever_the_last_digits_of_the_backbone(work, run):
    photos = sorted((work / "photos").glob("*.png"))[:3]
    noted = json.loads((work / "packed" / "data.json").read_text())
    assert noted["weights_sha256"] == "any"
    found, own = (Matcher.load(one).score(photos, ["a red dog", "a boat"]) for one in (work / "packed", run.path))
    np.testing.assert_allclose(found, own, rtol=5e-3, atol=5e-3)
    data = json.loads(run.data_file.read_text())
    RunFolder(work / "packed").require_same_data({**data, "weights_sha256": "other"})
    with pytest.raises(UserError, match="extractor is vgg19, was slim"):
        RunFolder(work / "packed").require_same_data({**data, "extractor": "vgg19"})


def test_where_it_is_taken(work, run, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(folders, "PACKAGED", work / "packed")
    monkeypatch.chdir(tmp_path)
    assert find_run("pretrained", pretrained=True).path == find_run(None, pretrained=True).path == work / "packed"
    assert "no run in runs/, so the pretrained one is taken: " in caplog.text
    for name in (None, "pretrained"):
        with pytest.raises(UserError, match=r"no trained run there|no such run"):
            find_run(name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run.path)
    assert find_run(None, pretrained=True).name == "mine"
    assert find_run("pretrained", pretrained=True).path == work / "packed"
    monkeypatch.setattr(folders, "PACKAGED", tmp_path / "gone")
    with pytest.raises(UserError, match="gone: this version brings no trained run"):
        find_run("pretrained", pretrained=True)


def test_what_can_not_be_packed(work, run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="packed: is there already"):
        packed.pack(run, work / "packed", "")
    monkeypatch.setattr(packed, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"takes 0\.\d MB packed, more than 0; train a smaller one"):
        packed.pack(run, tmp_path / "large", "")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(RunFolder, "calibration", lambda _: None)
    with pytest.raises(UserError, match="has no calibration"):
        packed.pack(run, tmp_path / "new", "")


@pytest.mark.large
def test_damaged_weights(work, tmp_path):
    found = RunFolder(tmp_path)
    for path in (work / "packed").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = dict(np.load(found.packed_weights))
    for wrong, told in (
        ({**arrays, "names": arrays["names"][:-1]}, "in one of them only"),
        ({**arrays, "weight_0": np.zeros(3, np.float16)}, r"is \(3,\), not"),
        ({"names": arrays["names"]}, "weight_0"),
    ):
        np.savez(found.packed_weights, **wrong)
        with pytest.raises(UserError, match=f"weights.npz: is not the weights of its config.json .*{told}"):
            found.load_model()
