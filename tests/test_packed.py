"""A run that is packed to be shipped: float16 weights, no places of files, and where it is taken."""

import json
import shutil

import numpy as np
import pytest
import tiny_corpus
from model_fixtures import random_pairs
from training_fixtures import untrained_run

from bssan_tf.commands import search
from bssan_tf.config.presets import preset
from bssan_tf.errors import UserError
from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.matching.matcher import Matcher
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.runs import folder as folders
from bssan_tf.runs import packed
from bssan_tf.runs.folder import RunFolder, find_run
from bssan_tf.tools.stack import weights_of
from bssan_tf.training.run import resume

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
    packed.main([str(run.path), str(folder / "cut"), "--card", str(folder / "card.md"), "--words", "6"])
    return folder


@pytest.fixture
def run(work):
    return RunFolder(work / "grid")


@pytest.fixture(scope="module")
def models(work):
    """(Bssan, Tokenizer) of the run and of what was made of it, by folder."""
    return {name: RunFolder(work / name).load_model() for name in ("grid", "packed", "cut")}


def test_what_is_packed(work, models):
    found = RunFolder(work / "packed")
    names = {"config.json", "data.json", "vocabulary.txt", "metrics.json", "weights.npz", "CARD.md"}
    assert {path.name for path in found.path.iterdir()} == names
    assert (found.path / "CARD.md").read_text() == "# Of drawn pictures\n"
    assert str(work) not in found.config_file.read_text()
    data = found.load_config().data
    assert (data.cache, data.data, data.glove, data.text_corpus) == ("cache", "photos", None, "texts.json")
    assert found.calibration() == SURE
    (model, tokenizer), (own, words) = models["packed"], models["grid"]
    assert tokenizer.words == words.words
    ours, theirs = weights_of(model.scorer), weights_of(own.scorer)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array.astype(np.float16).astype(array.dtype))


def test_a_run_with_boxes_is_used_without_their_file():
    config = preset("improved", data="coco").replace(boxes="/here/b.npz", backbone_weights="/here/w.npz").resolved()
    data = packed._without_places(config).moved({}).data
    assert (data.objects, data.boxes, data.backbone_weights) == ("boxes", "b.npz", None)


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
    assert find_run("pretrained").path == work / "packed"
    with pytest.raises(UserError, match="no trained run there"):
        find_run(None)
    scenes = tmp_path / "runs" / "scenes"
    shutil.copytree(run.path, scenes)
    (scenes / "config.json").write_text(run.load_config().replace(data="scenes").to_json())
    assert find_run(None, pretrained=True).name == "scenes"
    assert find_run(None, pretrained=True, photos=True).path == work / "packed"
    assert "no run of photos in runs/, so the pretrained one is taken: " in caplog.text
    (scenes / "config.json").write_text("{")  # is no reason to take another without a word
    with pytest.raises(UserError, match=r"runs/scenes"):
        find_run(None, pretrained=True, photos=True).load_config()
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(UserError, match="packed: is a packed run, which can be used but not trained on"):
        resume(find_run("pretrained"))
    assert not (work / "packed" / "lock").exists()
    monkeypatch.setattr(search, "PACKAGED", work / "packed")
    with pytest.raises(UserError, match="the pretrained run brings no photos; name a folder of yours by --images"):
        search.main(["two dogs"])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run.path)
    assert find_run(None, pretrained=True).name == "mine"
    assert find_run("pretrained", pretrained=True).path == work / "packed"
    monkeypatch.setattr(folders, "PACKAGED", tmp_path / "gone")
    with pytest.raises(UserError, match="gone: this version brings no trained run"):
        find_run("pretrained", pretrained=True)


def test_what_can_not_be_packed(work, run, models, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_model", lambda _: models["grid"])
    with pytest.raises(UserError, match="packed: is there already"):
        packed.pack(run, work / "packed", "")
    monkeypatch.setattr(packed, "MOST_BYTES", 1000)
    with pytest.raises(
        UserError, match=r"takes 0\.\d MB packed with 12 words, more than 0; give fewer --bits, or train a"
    ):
        packed.pack(run, tmp_path / "large", "")
    assert not list(tmp_path.iterdir())
    for bits, value in ((3, 65504), (3, np.uint32(0x7FFFFFFF).view(np.float32)), (10, 1e9)):
        monkeypatch.setattr(packed, "weights_of", lambda _, value=value: {"a": np.full((2, 2), value, np.float32)})
        with pytest.raises(UserError, match="a does not fit into float16; the run can't be packed"):
            packed.pack(run, tmp_path / "new", "", bits=bits)
    monkeypatch.setattr(RunFolder, "calibration", lambda _: None)
    with pytest.raises(UserError, match="has no calibration"):
        packed.pack(run, tmp_path / "new", "")


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"objects": "keras_hub:/home/me/x"}, "--objects keras_hub:/home/me/x"),
        ({"backbone": "keras_hub:/home/me/vit"}, "--backbone keras_hub:/home/me/vit"),
    ],
)
def test_a_run_on_a_preset_s_folder_is_not_packed(run, tmp_path, monkeypatch, values, flag):
    config = run.load_config().replace(**values)
    monkeypatch.setattr(RunFolder, "load_config", lambda _: config)
    monkeypatch.setattr(RunFolder, "load_model", lambda _: pytest.fail("loaded"))
    told = (
        rf"grid: was trained on a preset's folder \({flag}\), which can't be packed; name a preset that KerasHub knows"
    )
    with pytest.raises(UserError, match=told):
        packed.pack(run, tmp_path / "new", "")


def test_weights_of_the_backbone_that_are_left_behind_are_said(run, models, tmp_path, monkeypatch, caplog):
    config = run.load_config().replace(backbone_weights="/here/w.npz", backbone="vgg19")
    monkeypatch.setattr(RunFolder, "load_config", lambda _: config)
    monkeypatch.setattr(RunFolder, "load_model", lambda _: models["grid"])
    packed.pack(run, tmp_path / "new", "")
    told = "is packed without /here/w.npz, and will be used with the weights that Keras downloads for vgg19"
    assert [record.getMessage() for record in caplog.records] == [f"{run.path}: {told}"]


def test_the_rarest_words_are_cut_and_scores_of_the_others_stay(run, models):
    (whole, words), (cut, kept) = models["packed"], models["cut"]
    assert (len(words.words), kept.words) == (14, words.words[:8])
    noted = json.loads((run.path.with_name("cut") / "data.json").read_text())["packed"]
    assert noted == {"words": 6, "of_words": 12, "bits": 10}
    assert {"a", "and"} <= set(kept.words)
    counted, tables = weights_of(cut.scorer), ("embedding/embeddings",)
    for name, array in weights_of(whole.scorer).items():
        np.testing.assert_array_equal(counted[name], array[:8] if name in tables else array)
    captions = [f"a {words.words[7]} and", f"{words.words[6]} and {words.words[2]}", "zebra"]
    pairs = random_pairs(run.load_config(), len(captions))
    scores = [
        model.scorer({**pairs, "tokens": read(captions)})["score"].numpy()
        for model, read in ((whole, words), (cut, kept))
    ]
    np.testing.assert_array_equal(*scores)
    assert len(np.unique(scores[0])) == 3
    dropped, unknown = kept([f"a {words.words[8]} and", "a zebra and"])
    np.testing.assert_array_equal(dropped, unknown)


def test_as_many_words_as_fit(work, run, models, tmp_path, monkeypatch, capsys):
    def size_of(folder):
        return sum(path.stat().st_size for path in folder.iterdir())

    monkeypatch.setattr(RunFolder, "load_model", lambda _: models["grid"])
    most = (size_of(work / "packed") + size_of(work / "cut")) // 2
    monkeypatch.setattr(packed, "MOST_BYTES", most)
    packed.main([str(run.path), str(tmp_path / "fits"), "--card", str(work / "card.md"), "--bits", "10"])
    words = len((tmp_path / "fits" / "vocabulary.txt").read_text().splitlines())
    assert 6 < words < 12
    assert size_of(tmp_path / "fits") <= most
    assert f"MB, 10 bits, {words} of 12 words; the {12 - words} rarest are unknown to it" in capsys.readouterr().out
    for one_more in (words + 1, 30):
        with pytest.raises(UserError, match="MB packed with"):
            packed.pack(run, tmp_path / "more", (work / "card.md").read_text(), words=one_more, bits=10)
    assert packed.pack(run, tmp_path / "all-words", (work / "card.md").read_text())[1:3] == (12, 12)
    bits = json.loads((tmp_path / "all-words" / "data.json").read_text())["packed"]["bits"]
    assert packed.LEAST_BITS <= bits < 10  # bits go before words
    assert packed.pack(run, tmp_path / "fewer", "", words=6)[1:] == (6, 12, 10)
    with pytest.raises(
        UserError, match=r"MB packed with 12 words, more than 0; give fewer --words or --bits, or train"
    ):
        packed.pack(run, tmp_path / "all", "", words=30, bits=10)


def test_fewer_bits_take_less_and_change_a_weight_by_half_of_the_last_one(work, models, run, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "load_model", lambda _: models["grid"])
    sizes = [packed.pack(run, tmp_path / str(bits), "", bits=bits).size for bits in (10, 6, 3)]
    assert sizes[0] > 1.1 * sizes[1] > 1.2 * sizes[2]
    kept = np.load(tmp_path / "3" / "weights.npz")
    changed = 0
    for number, name in enumerate(kept["names"]):
        found, own = packed._values(kept[f"weight_{number}"]), weights_of(models["packed"][0].scorer)[name]
        if own.ndim < 2:
            np.testing.assert_array_equal(found, own)
        normal = np.abs(own) > 1e-4
        np.testing.assert_allclose(found[normal], own[normal], rtol=2**-4)
        changed += (found != own).sum()
    assert changed
    assert packed._rounded(np.array([[1.9375, -1.9375, 1.0625, 0.0]], np.float16), 3).tolist() == [
        [2.0, -2.0, 1.125, 0.0]
    ]


def test_a_packed_run_is_measured_as_the_run_is(work, run, tmp_path):
    places = {"root": str(work / "photos"), "cache": str(work / "cache")}
    matrices = []
    for name, found in (("own", run), ("packed", RunFolder(work / "packed"))):
        value, _ = evaluate(found, Request(out=tmp_path / f"{name}.npy"), places, progress=False)
        assert value["n_images"] == 8
        matrices.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_allclose(*matrices, rtol=5e-3, atol=5e-3)
    assert (matrices[0] != matrices[1]).any()  # of float16


@pytest.mark.large
def test_damaged_weights(work, tmp_path):
    found = RunFolder(tmp_path)
    for path in (work / "packed").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = dict(np.load(found.packed_weights))
    for wrong, told in (
        ({**arrays, "names": arrays["names"][:-1]}, "in one of them only"),
        ({**arrays, "weight_0": np.zeros((2, 3), np.uint8)}, r"is \(3,\), not"),
        ({**arrays, "weight_0": np.zeros(3, np.float16)}, r"float16 \(3,\) are not the bytes of float16"),
        ({"names": arrays["names"]}, "weight_0"),
    ):
        np.savez(found.packed_weights, **wrong)
        with pytest.raises(
            UserError, match=f"weights.npz: is not the weights of its config.json .*{told}.*pack the run anew, or inst"
        ):
            found.load_model()
