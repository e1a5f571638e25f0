"""evaluate.py --pointing: an untrained run on tiny photos, recomputed by hand; and the table's numbers."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from coco_fixtures import HEIGHT, WIDTH, write_coco
from training_fixtures import share_models

from bssan_tf.commands import evaluate as command
from bssan_tf.config.presets import preset
from bssan_tf.datasets.coco_words import load_grounded
from bssan_tf.datasets.picture_folder import Pictures, pictures_in
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.evaluation.photo_pointing import detected_truth, point_at_boxes, point_at_photos, shares
from bssan_tf.evaluation.pointing import Case, find_cases
from bssan_tf.evaluation.report import photo_pointing_text
from bssan_tf.evaluation.scores import Request
from bssan_tf.features.objects import BoxesFile, grid_boxes
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs import photo as runs_photo
from bssan_tf.runs import sources
from bssan_tf.runs.data import Data
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.own_boxes import OwnBoxes
from bssan_tf.runs.photo import folder_features, folder_index

PHOTOS = {
    "1.jpg": (["A dog by a man", "a car and a dog"], [("dog", 10, 10, 40, 40), ("person", 50, 0, 30, 60)]),
    "2.jpg": (["The car!", "people and dogs"], [("car", 0, 30, 60, 30), ("person", 0, 0, 20, 20)]),
    "3.jpg": (["Men see a puppy"], [("person", 0, 0, 40, 60), ("person", 60, 0, 20, 60), ("dog", 0, 0, 9, 9)]),
}
# (photo, caption, position, class) of each word that names a class the photo has; the run does not know "puppy"
NAMING = [
    *(("1.jpg", 0, 1, "dog"), ("1.jpg", 0, 4, "person"), ("1.jpg", 1, 4, "dog")),
    *(("2.jpg", 0, 1, "car"), ("2.jpg", 1, 0, "person"), ("3.jpg", 0, 0, "person")),
]
SEED = 1  # of weights with which some words point right, and some do not
WORDS = ("a", "the", "dog", "by", "man", "car", "people", "men")


def make_run(folder):
    """A run of untrained weights that says it was trained on regions of the slim VGG-19 and fixed boxes."""
    extractor = slim()
    channels = extractor.region_shape[1]
    sizes = {"H": 8, "S": 8, "w2r_mlp": (8, 6), "o2w_mlp": (8, 6), "E_trained": 10, "fusion": 6}
    sizes |= {
        "D": 196,
        "M": channels,
        "P": 10,
        "Q": channels,
        "E_glove": 0,
        "region_norm": "sqrt_l2",
        "object_norm": "sqrt_l2",
    }
    values = {"data": "gone", "backbone": "slim", "cache": str(folder / "cache"), **sizes}
    config = preset("improved", "small").replace(**values)
    run = RunFolder(folder / "run")
    made_with = {"extractor": extractor.name, "weights_sha256": extractor.weights_sha256, "boxes": "grid"}
    run.create(config, ["test"], made_with, Tokenizer(WORDS).save)
    tf.keras.utils.set_random_seed(SEED)
    Bssan(config.model, len(WORDS) + 2).scorer.save(run.best)
    return run


def copy_of(run, folder, **changes):
    """The same run with other settings, which its weights do not depend on."""
    copy = RunFolder(folder)
    shutil.copytree(run.path, copy.path)
    copy.config_file.write_text(run.load_config().replace(**changes).to_json())
    return copy


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch):
    """Models, and the extractor, which is the same in all tests."""
    share_models(monkeypatch)
    monkeypatch.setattr(sources, "build_extractor", lambda _: slim())


@functools.cache
def slim():
    return Extractor("slim")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pointing"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco") / "tiny"
    write_coco(folder, PHOTOS)
    return folder


def inside(photo, label, x, y):
    """Whether a point, in fractions of the photo, lies in a box of the class."""
    boxes = [box for name, *box in PHOTOS[photo][1] if name == label]
    return any(bx <= x * WIDTH <= bx + w and by <= y * HEIGHT <= by + h for bx, by, w, h in boxes)


@pytest.mark.large
def test_the_whole_command_by_hand(run, photos, tmp_path, capsys):
    report = tmp_path / "report.json"
    command.main([str(run.path), "--pointing", str(photos), "--quiet", "--json", str(report)])
    value = json.loads(report.read_text())
    printed = capsys.readouterr().out

    model, tokenizer = run.load_model()
    objects, extractor = grid_boxes(10), slim()
    right, centre = [], []
    for name, caption, position, label in NAMING:
        picture = read_picture(photos / "images" / name)[0][None]
        found = extractor.describe(picture, objects["boxes"][None], objects["valid"][None])
        tokens = tokenizer([PHOTOS[name][0][caption]])
        inputs = {**found, "valid": objects["valid"][None], "tokens": tokens}
        alpha = model.scorer({key: inputs[key] for key in model.scorer.input})["alpha"].numpy()[0, position]
        row, column = divmod(int(alpha.argmax()), 14)
        right.append(inside(name, label, (column + 0.5) / 14, (row + 0.5) / 14))
        centre.append(inside(name, label, 0.5, 0.5))
    assert 0 < sum(right) < len(right)  # else the comparison would see little
    rows = value["w2r"]
    assert (rows["all"]["n"], value["n_unknown"], value["n_images"], value["n_captions"]) == (6, 1, 3, 5)
    assert rows["all"]["right"] == pytest.approx(100 * np.mean(right))
    assert rows["all"]["centre"] == pytest.approx(100 * np.mean(centre))
    assert rows["all"]["lead"] == pytest.approx(rows["all"]["right"] - rows["all"]["centre"])
    others = [case[3] != "person" for case in NAMING]
    assert rows["without_person"]["right"] == pytest.approx(100 * np.mean(np.array(right)[others]))
    assert {name: row["n"] for name, row in rows["classes"].items()} == {"car": 1, "dog": 2, "person": 3}
    assert rows["classes"]["car"]["chance"] == pytest.approx(100 * (7 * 11) / 196)  # 7 rows of 14, 10.5 columns
    assert (value["objects"], value["o2w"]) == ("grid", None)
    assert "tiny, train2017: 3 images, 5 captions; 1 naming words" in printed
    assert "O2W is not measured: the objects are ten fixed boxes" in printed


def test_objects_of_a_boxes_file(run, photos, tmp_path, caplog):
    """O2W is measured on the boxes of --boxes, and a run's own boxes of other photos give way to the fixed ones."""
    caplog.set_level("INFO")
    own = tmp_path / "own.npz"
    row = np.array([[10, 10, 50, 50, 0.9, 0], [0, 0, 0, 0, 0, 0]], np.float32)  # the dog of photo 1
    np.savez(own, names=np.array(["other.jpg"]), boxes=row[None])
    theirs = tmp_path / "theirs.npz"
    np.savez(theirs, names=np.array(list(PHOTOS)), boxes=np.stack([row, 0 * row, 0 * row]))
    run = copy_of(run, tmp_path / "run", objects="boxes", boxes=str(own))
    value, _ = point_at_photos(run, photos, progress=False)
    assert (value["objects"], value["o2w"]) == ("grid", None)
    assert "ten fixed boxes, as no detector looks at these photos" in caplog.text
    value, text = point_at_photos(run, photos, {"boxes": str(theirs)}, progress=False)
    assert value["objects"] == "boxes"
    assert list(value["o2w"]["classes"]) == ["dog"]
    assert value["o2w"]["all"]["n"] == 2  # both captions of photo 1 name its dog
    assert value["o2w"]["all"]["chance"] == pytest.approx(100 / 5)  # one word of five
    assert "O2W: attention of an object" in text
    assert "not measured" not in text


def test_the_index_of_a_search_is_not_touched(run, photos, tmp_path, monkeypatch):
    config = run.load_config().moved({"cache": str(tmp_path)})
    found = pictures_in(photos)
    features, rows, paths = folder_index(run, config, photos, found, None, False)
    assert (rows.tolist(), paths) == ([0, 1, 2], found.paths)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    part = folder_features(run, config, photos, found.paths[1:2], None, False)
    np.testing.assert_array_equal(part.regions[0], features.regions[1])
    assert {path: path.read_bytes() for path in before if path.exists()} == before


def test_an_index_of_the_runs_own_photos_keeps_those_of_a_folder_that_can_not_be_read(
    run, photos, tmp_path, monkeypatch
):
    """Its photos are known by their ids in the corpus, which do not tell their folder."""
    boxes, paths = tmp_path / "boxes.npz", pictures_in(photos).paths
    np.savez(boxes, names=np.array(list(PHOTOS)), boxes=np.zeros((3, 1, 6), np.float32))
    config = run.load_config().moved({"cache": str(tmp_path)})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, objects="boxes", boxes=str(boxes)))
    own = OwnBoxes(BoxesFile(boxes), {str(path.resolve()): (path.name, 0) for path in paths})
    monkeypatch.setattr(
        runs_photo.OwnFile, "of", lambda _, paths: own._replace(images=dict([*own.images.items()][: len(paths)]))
    )
    folder_index(run, config, photos, Pictures(paths, ()), None, False)
    with pytest.raises(UserError, match=r"tiny: the index may have 1 photos that can't be read now: nas can't be read"):
        folder_index(run, config, photos, Pictures(paths[:2], ("nas",)), None, False)
    features, *_ = folder_index(run, config, photos, Pictures(paths[:2], ()), None, False)
    assert features.image_ids == ("1.jpg", "2.jpg")


def own_boxes(run, photos, folder, labels=("dog", "person", "car")):
    """A run whose pictures are the photos with a detector's boxes, and these as Data."""
    rows = np.zeros((3, 3, 6), np.float32)
    rows[0] = [(10, 10, 50, 50, 0.9, 0), (50, 0, 80, 60, 0.29, 1), (0, 0, 5, 5, 0.3, 2)]  # the person is too unsure
    rows[1, 0] = (0, 30, 60, 60, 0.8, 2)
    named = {} if labels is None else {"labels": np.array(labels)}
    np.savez(folder / "boxes.npz", names=np.array(list(PHOTOS)), boxes=rows, **named)
    run = copy_of(run, folder / "run", objects="boxes", boxes=str(folder / "boxes.npz"), cache=str(folder / "cache"))
    corpus = load_grounded(photos)
    given = run.load_config(), photos, corpus.image_paths, {"boxes": str(folder / "boxes.npz")}, False
    corpus = dataclasses.replace(corpus, splits={"val": np.array([0, 1, 2])}, grounding=None)
    return run, Data(corpus, folder_features(run, *given))


def test_the_boxes_of_the_runs_own_detector_as_truth(run, photos, tmp_path):
    run, data = own_boxes(run, photos, tmp_path)
    value, text = point_at_boxes(run, Request(split="val"), progress=False, data=data)
    # photo 1: the dog of both captions, the car of the second; photo 2: the car
    assert {name: row["n"] for name, row in value["w2r"]["classes"].items()} == {"car": 2, "dog": 2}
    assert {name: row["n"] for name, row in value["o2w"]["classes"].items()} == {"car": 2, "dog": 2}
    assert (value["split"], value["objects"], value["n_images"], value["n_captions"]) == ("val", "boxes", 3, 5)
    assert 0 < value["w2r"]["all"]["entropy"] <= 100
    model, tokenizer = run.load_model()
    inputs = {name: getattr(data.features, name)[1:2] for name in ("regions", "objects", "valid")}
    outputs = model.scorer({**inputs, "tokens": tokenizer(["The car!"])})
    alpha, beta = outputs["alpha"].numpy()[0, 1], outputs["beta"].numpy()[0, 0, :2]
    row, column = divmod(int(alpha.argmax()), 14)
    right = inside("2.jpg", "car", (column + 0.5) / 14, (row + 0.5) / 14)
    truth = detected_truth(data.features, data.corpus, ["dog", "person", "car"], "unicode")
    cases = find_cases(model.scorer, data.features, data.split("val"), truth, tokenizer)
    (word,), (thing,) = ([case for row, case in found if row == 1] for found in (cases.words, cases.objects))
    assert (word.right, thing.right) == (right, beta[1] > beta[0])
    assert word.entropy == pytest.approx(-(alpha * np.log(alpha)).sum() / np.log(196), rel=1e-5)
    assert thing.entropy == pytest.approx(-(beta * np.log2(beta)).sum(), rel=1e-5)
    assert "the boxes are a detector's, of a score of 0.3 or more" in text
    assert "entropy" in text


@pytest.mark.large
def test_boxes_without_names_take_them_from_a_file_or_are_refused(run, photos, tmp_path):
    run, data = own_boxes(run, photos, tmp_path, labels=None)
    names = tmp_path / "names.txt"
    names.write_text("dog\nperson\ncar\n")
    value, _ = point_at_boxes(run, Request(split="val"), names, progress=False, data=data)
    assert list(value["w2r"]["classes"]) == ["car", "dog"]
    with pytest.raises(UserError, match="does not name its classes; add --class-names FILE"):
        point_at_boxes(run, Request(split="val"), progress=False, data=data)
    names.write_text("dog\nperson\n")
    with pytest.raises(UserError, match="2 classes, and the boxes have a class 2; give one a line"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=data)
    names.write_text("cup\nfork\nbed\n")
    with pytest.raises(UserError, match="--pointing boxes: none of the words that name a class"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=data)
    names.write_text("dog\n\ncar\n")
    with pytest.raises(UserError, match=r"names\.txt: line 2 has no word; give each class its name"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=data)
    names.write_text("dog\nperson\ncar\n")
    known = dataclasses.replace(data.corpus, grounding=load_grounded(photos).grounding)
    with pytest.raises(UserError, match="--pointing boxes: the objects of tiny are known"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=Data(known, data.features))
    fixed = dataclasses.replace(data.features, classes=np.full((3, 10), -1))
    with pytest.raises(UserError, match="are of no detector; train it with --boxes FILE"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=Data(data.corpus, fixed))


def test_class_names_beside_those_of_the_file_are_refused(run, photos, tmp_path):
    run, data = own_boxes(run, photos, tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("car\ndog\nperson\n")
    with pytest.raises(UserError, match="the boxes' own file names its classes; leave it out"):
        point_at_boxes(run, Request(split="val"), names, progress=False, data=data)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--pointing", ""], "--pointing: its value is empty"),
        (["--pointing", "boxes", "--parts"], "--parts: has no effect with --pointing"),
        (["--pointing", "photos", "--split", "val"], "--split val: has no effect with --pointing"),
        (
            ["--pointing", "boxes", "--objects", "grid"],
            "--objects grid: --pointing boxes measures by the run's own boxes",
        ),
        (["--class-names", "f"], "--class-names f: has no effect with anything but --pointing boxes"),
    ],
)
def test_flags_that_do_not_fit(flags, told):
    with pytest.raises(UserError, match=told):
        command.main(["runs/none", *flags])


def test_runs_that_cannot_be_measured(run, photos, tmp_path):
    with pytest.raises(UserError, match=r"--pointing .*: the run is of variant o2w, which has no W2R"):
        point_at_photos(copy_of(run, tmp_path / "o2w", variant="o2w"), photos)
    deaf = copy_of(run, tmp_path / "deaf")
    Tokenizer([f"word{i}" for i in range(len(WORDS))]).save(deaf.vocabulary_file)
    told = deaf.trained_data()
    del told["vocabulary_sha256"]  # as a version before this one
    deaf.data_file.write_text(json.dumps(told))
    with pytest.raises(UserError, match="none of the words that name a class is in the run's vocabulary"):
        point_at_photos(deaf, photos, progress=False)


LABELS = (["dog", "person"], ["car", "dog"])
CASES = [  # photo 0: two of the dog, one of the person; photo 1: one of the car
    *((0, Case(0, 1.0, 0.2, False, 0.5, True)), (0, Case(0, 0.0, 0.2, False, 0.7, True))),
    *((0, Case(1, 1.0, 0.5, False, 0.9, False)), (1, Case(0, 0.5, 0.1, True, 0.7, False))),
]


def test_shares_by_hand():
    found = shares(CASES, LABELS, ("right", "chance", "centre"))
    assert found["all"]["n"] == 4
    assert [found["all"][name] for name in ("right", "chance", "centre", "lead")] == [62.5, 25, 50, 12.5]
    assert found["without_person"]["n"] == 3
    assert found["without_person"]["right"] == pytest.approx(50)
    assert found["class_mean"]["n"] == 3
    assert found["class_mean"]["right"] == pytest.approx((50 + 100 + 50) / 3)
    assert found["class_mean"]["centre"] == pytest.approx(100 / 3)
    assert found["classes"]["dog"] == {"n": 2, "right": 50, "chance": pytest.approx(20), "centre": 100}


def test_errors_are_of_photos_not_of_words():
    # 400 words, but of 100 photos whose four words agree: sqrt(p (1 - p) / 100), not / 400
    cases = [(row, Case(0, float(row % 4 == 0), 0.5, False, 1.0, row % 2 == 0)) for row in range(100) for _ in range(4)]
    row = shares(cases, [["dog"]] * 100, ("right", "chance", "centre"))["all"]
    assert row["right"] == 25
    assert row["right_error"] == pytest.approx(100 * (0.25 * 0.75 / 100) ** 0.5, rel=0.1)
    # right - centre is -1 in a quarter of the photos, else 0
    assert row["lead"] == -25
    assert row["lead_error"] == pytest.approx(100 * (0.25 * 0.75 / 100) ** 0.5, rel=0.1)


def test_one_photo_of_people_alone():
    found = shares([(0, Case(1, 1.0, 0.5, False, 1.0))], LABELS, ("right", "chance"))
    assert found["all"] == {"n": 1, "right": 100, "chance": 50, "right_error": None}
    assert found["without_person"] is None


def test_table():
    value = {
        "corpus": "coco",
        "split": "val2017",
        "n_images": 2,
        "n_captions": 3,
        "n_unknown": 1234,
        "objects": "boxes",
    }
    value |= {"w2r": shares(CASES, LABELS, ("right", "chance", "tied", "entropy", "centre")), "o2w": None}
    value["w2r"]["all"] |= {"right_error": 3.04, "lead_error": 4.06}
    lines = photo_pointing_text(value).splitlines()
    assert (
        lines[0] == "coco, val2017: 2 images, 3 captions; 1,234 naming words that the run does not know are not counted"
    )
    assert " ".join(lines[4].split()) == "all words 4 62.5 ± 3.0 25.0 70.0 50.0 +12.5 ± 4.1"
    assert lines[6].startswith("mean of 3 classes ")
    assert "25 % of the words have several cells at their peak" in lines[-1]
    value["objects"] = "grid"
    assert "O2W is not measured" in photo_pointing_text(value)
    assert "O2W" not in photo_pointing_text({**value, "objects": None})
