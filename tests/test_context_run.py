"""A run whose objects have their context beside them, from training to every use of it, on a few drawn photos."""

import csv
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from feature_fixtures import write_pictures
from PIL import Image
from training_fixtures import SIZES, leave_export_out, saved_in_memory, without_steps

from bssan_tf.config.presets import preset
from bssan_tf.errors import UserError
from bssan_tf.evaluation.retrieval import evaluate
from bssan_tf.evaluation.scores import Request
from bssan_tf.features import detectors
from bssan_tf.features.objects import BoxesFile, top_objects
from bssan_tf.features.pictures import ORIENTATION_TAG, read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.matching.matcher import Matcher
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.runs import data, photo, sources
from bssan_tf.runs.data import open_data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.packed import pack
from bssan_tf.training.run import train

LABELS, OTHERS = ("dog", "cat", "car"), ("car", "emu", "dog", "cat")
SHARES = (0.03, 0.12)  # of own and class, not the default's
COUNT, TEST = 24, 5
LOAD_MODEL = RunFolder.load_model  # which the tests replace
CAPTIONS = ("a {} near a {}", "the {} beside the {}")


@dataclass
class Trained:
    """A run of no step, its photos, and the scores of its test split: {(name of the photo, caption): score}."""

    run: RunFolder
    photos: Path
    scores: dict
    model: tuple
    extractor: Extractor


def write_boxes(path, names, rng):
    """Four boxes a photo with `labels`; the first photo has none. The same in `other.npz`, whose labels are OTHERS."""
    corners = np.sort(rng.uniform(0, 1, (COUNT, 4, 2, 2)), axis=2) * [80, 60]
    classes = rng.integers(0, len(LABELS), (COUNT, 4, 1))
    scores = rng.uniform(0.3, 1, (COUNT, 4, 1))
    scores[0] = 0
    for file, labels in ((path, LABELS), (path.with_name("other.npz"), OTHERS)):
        numbers = np.array([labels.index(label) for label in LABELS])[classes]
        boxes = np.concatenate([corners.reshape(COUNT, 4, 4), scores, numbers], axis=2).astype(np.float32)
        np.savez(file, names=np.array(names), boxes=boxes, labels=np.array(labels))
    return classes[..., 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    photos, boxes = folder / "photos", folder / "boxes.npz"
    names = write_pictures(photos, COUNT).image_ids
    classes = write_boxes(boxes, names, np.random.default_rng(0))
    rows = [("image", "caption", "split")]
    for i, name in enumerate(names):
        split = "train" if i < COUNT - 2 * TEST else "val" if i < COUNT - TEST else "test"
        words = [LABELS[c] for c in classes[i, :2]]
        rows += [(name, f"{text.format(*words)} {i}", split) for text in CAPTIONS]  # all captions differ
    with (photos / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = preset("improved", "small", data=str(photos)).replace(
        backbone="slim", boxes=str(boxes), cache=str(folder / "cache"), batch_size=4, negatives=3, epochs=1,
        variant="o2w", warmup_steps=1, fixed_boxes=0.5, object_shares=SHARES, **SIZES,
    )  # fmt: skip
    assert config.data.object_context
    run = RunFolder(folder / "run")

    def one_batch(siamese, steps, **turns):
        siamese(next(iter(steps))[0], training=True)  # nothing is learned, but the statistics of BatchNorm
        without_steps(siamese, steps, **turns)

    with pytest.MonkeyPatch.context() as patch:
        leave_export_out(patch)
        patch.setattr(tf.keras.Model, "fit", one_batch)
        train(config, run, progress=False)
    value, text = evaluate(run, Request(out=folder / "scores.npy"), progress=False)
    assert (value["n_images"], value["n_captions"]) == (TEST, 2 * TEST)
    assert "rsum" in text
    matrix = np.load(folder / "scores.npy")
    assert matrix.shape == (TEST, 2 * TEST)
    captions = [row[1] for row in rows[-2 * TEST :]]
    scores = {
        (name, caption): matrix[i, j] for i, name in enumerate(names[-TEST:]) for j, caption in enumerate(captions)
    }
    return Trained(run, photos, scores, run.load_model(), Extractor("slim"))


@pytest.fixture(autouse=True)
def _loaded_once(trained, monkeypatch):
    """Model and extractor, which are the same in all tests."""
    monkeypatch.setattr(RunFolder, "load_model", lambda _: trained.model)
    monkeypatch.setattr(sources, "build_extractor", lambda _: trained.extractor)


def test_the_model_was_made_for_own_class_and_photo(trained):
    config = trained.run.load_config()
    data = open_data(config.data, progress=False)
    assert data.features.in_context
    size = 2 * config.model.M + len(LABELS)
    assert size == config.model.Q
    assert data.features.objects[:].shape == (COUNT, 10, size)
    older = dataclasses.replace(config.data, object_shares=(0.1, 0.2))
    for given, shares in ((config.data, SHARES), (older, (0.1, 0.2))):
        objects = open_data(given, progress=False).features.objects[:][data.features.valid[:]]
        np.testing.assert_allclose(np.abs(objects[:, : config.model.M]).sum(axis=1), shares[0], rtol=1e-3)
    made = photo.run_context(trained.run, config.replace(object_shares=(0.1, 0.2)))
    assert (made.Q, made.shares) == (size, (0.1, 0.2))
    assert data.features.valid.sum(axis=1).tolist() == [0] + [4] * (COUNT - 1)
    weights = trained.run.load_model()[0].scorer.get_weights()
    assert all(np.isfinite(array).all() for array in weights)
    assert json.loads(trained.run.data_file.read_text())["labels"] == list(LABELS)


def test_pictures_for_a_sentence(trained):
    caption = next(iter(trained.scores))[1]
    found = {hit.found.name: hit.score for hit in Matcher(trained.run).index_of_split().search(caption, rerank=0)}
    assert found == pytest.approx({name: s for (name, text), s in trained.scores.items() if text == caption}, abs=1e-5)


def test_sentences_for_a_photo(trained):
    photo = next(iter(trained.scores))[0]
    sentences = Matcher(trained.run).sentences_of_split()
    found = {hit.found: hit.score for hit in sentences.search(trained.photos / photo, rerank=0)}
    expected = {text: s for (name, text), s in trained.scores.items() if name == photo}
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("flags", [{}, {"boxes": "other.npz"}])
def test_pictures_of_a_folder_and_a_drawing_whatever_numbers_the_boxes_give_the_classes(trained, tmp_path, flags):
    flags = {name: str(trained.photos.parent / file) for name, file in flags.items()}
    names = sorted({name for name, _ in trained.scores})
    caption = next(iter(trained.scores))[1]
    folder = tmp_path if flags else trained.photos  # copies are no photos of the run
    for name in names if flags else ():
        shutil.copy(trained.photos / name, tmp_path / name)
    matcher = Matcher(trained.run, flags)
    found = matcher.index(folder).search(caption, top=COUNT, rerank=0)
    expected = {name: trained.scores[name, caption] for name in names}
    scores = {hit.found.name: hit.score for hit in found}
    assert {name: scores[name] for name in names} == pytest.approx(expected, abs=1e-3)
    explained = matcher.explain(folder / names[1], caption)
    assert explained.scores["score"] == pytest.approx(expected[names[1]], abs=1e-3)
    explained.draw(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_photos_that_are_not_the_run_s_have_ten_fixed_ones(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    folder, (name, caption) = tmp_path / "mine", next(iter(trained.scores))
    folder.mkdir()
    for copy in ("new.jpg", name):  # the boxes file lists another photo of the second name
        shutil.copy(trained.photos / name, folder / copy)
    matcher = Matcher(trained.run)
    found = {hit.found.name: hit.score for hit in matcher.index(folder).search(caption)}
    assert caplog.text.count("objects: ten fixed boxes, as no detector looks at these photos; ") == 1
    assert "; --objects keras_hub:PRESET or --boxes FILE.npz gives real ones" in caplog.text
    assert found["new.jpg"] == pytest.approx(found[name], abs=1e-5)
    for copy in ("new.jpg", name):
        assert matcher.explain(folder / copy, caption).scores["score"] == pytest.approx(found["new.jpg"], abs=1e-3)
    given = {"boxes": str(trained.photos.parent / "other.npz")}
    with pytest.raises(UserError, match="no row for 1 of 2 images, the first new"):
        Matcher(trained.run, given).index(folder)


@pytest.mark.parametrize(
    "own", [{}, {"boxes": "gone.npz"}, {"boxes": "b.npz"}, {"objects": "keras_hub:a", "boxes": None}]
)
def test_the_run_s_own_photos_are_measured_with_the_fixed_ones(trained, tmp_path, monkeypatch, caplog, own):
    """Without the run's own boxes file, which another of its name in the current folder is not, or its detector."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.npz").write_text("of someone else")
    names = sorted({name for name, _ in trained.scores})
    captions = list(dict.fromkeys(caption for _, caption in trained.scores))
    for name in names:
        shutil.copy(trained.photos / name, tmp_path / f"copy-{name}")
    matrix = Matcher(trained.run).score([tmp_path / f"copy-{name}" for name in names], captions)
    if own:
        config = trained.run.load_config().replace(**own)
        monkeypatch.setattr(RunFolder, "load_config", lambda _: config)
        monkeypatch.setattr(detectors, "open_detector", lambda *_: pytest.fail("a detector was opened"))
    else:
        monkeypatch.setattr(Extractor, "describe", lambda *_: pytest.fail("extracted anew"))
    value, _ = evaluate(trained.run, Request(out=tmp_path / "s.npy"), {"objects": "grid"}, progress=False)
    found = np.load(tmp_path / "s.npy")
    np.testing.assert_allclose(found, matrix, atol=1e-3)
    assert np.abs(found.ravel() - list(trained.scores.values())).max() > 1e-2
    assert "objects of grid" in str(value["differs"])
    told = f"; the photos are extracted for them, without {own.get('boxes') or own['objects']}" if own else ""
    assert f"objects: the ten fixed boxes in place of the run's own{told}" in caplog.messages


def test_boxes_that_are_not_the_run_s_are_refused_before_anything_is_extracted(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "open_data", lambda *_, **__: pytest.fail("extracted"))
    other = str(trained.photos.parent / "other.npz")
    with pytest.raises(UserError, match=r"the data have changed since training: boxes is [0-9a-f]{64}, was [0-9a-f]"):
        evaluate(trained.run, Request(), {"boxes": other}, progress=False)
    gone = r"run: the boxes of its photos, no\.npz, are not here; give --boxes FILE\.npz, or --objects grid"
    for ask in (lambda: evaluate(trained.run, Request(), {"boxes": "no.npz"}, progress=False),
                lambda: Matcher(trained.run, {"boxes": "no.npz"}, of_own_data=True).index_of_split()):  # fmt: skip
        with pytest.raises(UserError, match=gone):
            ask()


def test_a_packed_run_is_measured_without_its_boxes(trained, tmp_path, monkeypatch):
    """A file of the user's own that has the name of the run's is not taken for it."""
    monkeypatch.setattr(RunFolder, "load_model", LOAD_MODEL)
    monkeypatch.setattr(RunFolder, "calibration", lambda _: Calibration(2.0, 1.0, 0.2, 0.5))  # of more photos
    monkeypatch.chdir(tmp_path)
    found = RunFolder(tmp_path / "packed")
    pack(trained.run, found.path, "# A card")
    places = {"root": str(trained.photos), "cache": str(trained.photos.parent / "cache")}
    with pytest.raises(UserError, match=r"packed: the boxes of its photos, boxes\.npz, are not here; give --boxes"):
        evaluate(found, Request(), places, progress=False)
    shutil.copy(trained.photos.parent / "other.npz", tmp_path / "boxes.npz")
    with pytest.raises(UserError, match="the data have changed since training: boxes is"):
        evaluate(found, Request(), places, progress=False)
    matrices = []
    for name, run in (("own", trained.run), ("packed", found)):
        evaluate(run, Request(out=tmp_path / f"{name}.npy"), {**places, "objects": "grid"}, progress=False)
        matrices.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_allclose(*matrices, rtol=5e-3, atol=5e-3)
    assert (matrices[0] != matrices[1]).any()  # of float16


class FakeHub:
    """A detector of boxes alone, which knows the photos of `other.npz` and numbers the classes as that file."""

    Q, name, store_name, labels = None, "keras_hub:Fake 1", "keras_hub-fake", OTHERS

    def __init__(self, photos):
        file = BoxesFile(photos.parent / "other.npz")
        self.known = {
            read_picture(photos / name, side=None)[0].tobytes(): file.boxes[row]
            for name, row in file.row_of_name.items()
        }

    def inputs(self, photo):
        return {"rows": self.known[photo.tobytes()]}

    def run(self, inputs):
        return inputs

    def best(self, found, size, count):
        return top_objects(found["rows"], size, count)

    def objects(self, photo, count):
        return self.best(self.inputs(photo), photo.shape[:2], count)


@pytest.fixture
def hub(trained, monkeypatch):
    detector = FakeHub(trained.photos)
    monkeypatch.setattr(detectors, "open_detector", lambda what, flag: detector)
    return detector


def test_a_detector_of_kerashub_gives_other_photos_their_boxes_by_the_names_of_classes(trained, hub, tmp_path):
    (name, caption), expected = next(iter(trained.scores.items()))
    shutil.copy(trained.photos / name, tmp_path / "copy.jpg")
    flags = {"objects": "keras_hub:fake"}
    matcher = Matcher(trained.run, flags)
    (hit,) = matcher.index(tmp_path).search(caption)
    assert hit.score == pytest.approx(expected, abs=1e-3)
    found = matcher.explain(tmp_path / "copy.jpg", caption)
    assert found.scores["score"] == pytest.approx(expected, abs=1e-3)
    hits = matcher.sentences_of_split().search(tmp_path / "copy.jpg", rerank=0)
    assert {hit.found: hit.score for hit in hits}[caption] == pytest.approx(expected, abs=1e-3)


def test_a_detector_without_names_or_of_another_kind_is_refused(trained, hub, tmp_path, monkeypatch):
    (name, caption), flags = next(iter(trained.scores)), {"objects": "keras_hub:fake"}
    own = r"--objects keras_hub:fake: the run's own photos have objects of boxes; leave it out"
    with pytest.raises(UserError, match=own):
        Matcher(trained.run, flags).index_of_split()
    with pytest.raises(UserError, match=own):
        evaluate(trained.run, Request(), flags, progress=False)
    with pytest.raises(UserError, match="--objects faster_rcnn: the run's are boxes, which are described otherwise"):
        Matcher(trained.run, {"objects": "faster_rcnn"}).index(trained.photos)
    photo = tmp_path / "photo.jpg"
    shutil.copy(trained.photos / name, photo)
    kept = RunFolder.trained_data
    monkeypatch.setattr(RunFolder, "trained_data", lambda run: {**kept(run), "labels": None})
    with pytest.raises(UserError, match="--objects keras_hub:fake: the run does not know its classes by name"):
        Matcher(trained.run, flags).explain(photo, caption)
    monkeypatch.setattr(RunFolder, "trained_data", kept)
    hub.labels = None
    with pytest.raises(UserError, match="--objects keras_hub:fake: fake does not name its classes, which objects in"):
        Matcher(trained.run, flags).explain(photo, caption)


def test_a_run_on_a_detector_of_kerashub_knows_its_preset_wherever_that_lies(trained, hub, monkeypatch):
    config, kept = trained.run.load_config(), RunFolder.trained_data
    own = config.replace(objects="keras_hub:here", boxes=None)
    monkeypatch.setattr(RunFolder, "load_config", lambda _: own)
    opened = []
    monkeypatch.setattr(data, "open_data", lambda settings, *_, **__: opened.append(settings.objects) or 1 / 0)
    with pytest.raises(UserError, match="the data have changed since training: boxes is keras_hub:Fake 1, was"):
        evaluate(trained.run, Request(), {"objects": "keras_hub:there"}, progress=False)
    assert not opened  # nor was anything extracted
    monkeypatch.setattr(RunFolder, "trained_data", lambda run: {**kept(run), "boxes": hub.name})
    with pytest.raises(ZeroDivisionError):
        evaluate(trained.run, Request(), {"objects": "keras_hub:there"}, progress=False)
    assert opened == ["keras_hub:there"]


def test_boxes_that_are_given_stand_in_for_a_run_s_detector_of_kerashub(trained, tmp_path, monkeypatch):
    own = trained.run.load_config().replace(objects="keras_hub:absent", boxes=None)
    monkeypatch.setattr(RunFolder, "load_config", lambda _: own)
    (name, caption), expected = next(iter(trained.scores.items()))
    shutil.copy(trained.photos / name, tmp_path / name)
    flags = {"boxes": str(trained.photos.parent / "other.npz")}
    matcher = Matcher(trained.run, flags)
    (hit,) = matcher.index(tmp_path).search(caption)
    assert hit.score == pytest.approx(expected, abs=1e-3)
    assert matcher.explain(tmp_path / name, caption).scores["score"] == pytest.approx(expected, abs=1e-3)


def test_a_run_from_before_labels_were_kept(trained, tmp_path):
    old = RunFolder(tmp_path / "old")
    shutil.copytree(trained.run.path, old.path)
    data = json.loads(old.data_file.read_text())
    del data["labels"]
    old.data_file.write_text(json.dumps(data))
    assert evaluate(old, Request(), progress=False)[0]["n_images"] == TEST
    name, caption = next(iter(trained.scores))
    found = Matcher(old).explain(trained.photos / name, caption)
    assert found.scores["score"] == pytest.approx(trained.scores[name, caption], abs=1e-3)


def test_picture_files_are_scored_in_a_graph_with_the_fixed_boxes(trained, tmp_path, monkeypatch):
    """At their own size as `Matcher.score` does; resized ones to what the rounding of a level makes of it."""
    paths, captions = sorted(trained.photos.glob("*.jpg"))[:2], [caption for _, caption in trained.scores][:3]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    for path, size in zip(paths, [(224, 224), (500, 400)]):
        with Image.open(path) as image:
            image.resize(size).save(tmp_path / path.name, exif=exif)
    files = sorted(tmp_path.glob("*.jpg"))
    matcher = Matcher(trained.run)
    load = saved_in_memory(monkeypatch)
    matcher.save_savedmodel("serving/1")
    images = tf.constant([file.read_bytes() for file in files])
    found = load("serving/1").signatures["score_jpeg"](images=images, captions=tf.constant(captions))
    expected = matcher.score(files, captions)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(("score", "o2w"), (2, 3))
    assert np.ptp(expected, axis=0).min() > 0.05
    assert np.ptp(expected, axis=1).min() > 0.01
    np.testing.assert_allclose(found["score"][0], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["score"][1], expected[1], atol=0.03)
