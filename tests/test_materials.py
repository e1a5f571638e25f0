"""What reproduce.py refuses before it trains, on real files of a tiny corpus: images, protocols, data, signs."""

import csv

import pytest
from tiny_corpus import write_corpus

from bssan_tf.commands import reproduce
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import Request
from bssan_tf.reproduction import materials
from bssan_tf.reproduction.materials import Materials
from bssan_tf.reproduction.plan import check_what, make_plan


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Makes the materials of a plan for a tiny corpus of 48 pictures; `prepared.folder` has its files."""
    monkeypatch.chdir(tmp_path)
    flags = write_corpus(tmp_path / "photos")
    given = {"batch_size": 8, "epochs": 1, **dict(zip(("data", "import_regions", "import_objects"), flags[1::2]))}

    def prepared(*what, photos=(), request=None, presets=("improved",), **more):
        plan = make_plan(check_what(what), "mine", presets, (0,), {**given, **more}, reproduce.settings_maker("small"))
        return Materials(plan, request or Request(), photos, progress=False)

    prepared.folder = tmp_path / "photos"
    return prepared


def test_data_are_opened_once_for_all_trainings(prepared, monkeypatch):
    opened, really = [], materials.open_data
    monkeypatch.setattr(materials, "open_data", lambda config, progress: opened.append(config) or really(config))
    found = prepared("table2", "figure9", "text")
    assert len(opened) == 1
    assert len(found.part.image_ids) == 8
    assert found.why_no_cca is None or "training" in found.why_no_cca  # of 32 pictures
    assert len(found.chosen) == 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"photos": ["gone.png"]}, r"--photos gone.png: is no image of the test split; its names are like 0\d\d.png"),
        ({"request": Request(protocol="1k")}, "--protocol 1k: needs 1,000 images, the split has 8"),
        ({"presets": ("paper",), "validation_images": 4}, r"needs 8 validation pictures, there are 4; .*early-signs 0"),
        ({"batch_size": 64}, "--batch-size"),
    ],
)
def test_refused_before_training(prepared, options, problem):
    with pytest.raises(UserError, match=problem):
        prepared("figure5", **options)


def test_early_signs_can_be_left_out(prepared):
    assert prepared("figure5", presets=("paper",), validation_images=4, early_signs=0).plan.distinct()


def test_photos_that_are_gone_are_told_where_they_are_shown(prepared):
    for photo in prepared.folder.glob("*.png"):
        photo.write_text("no picture")
    with pytest.raises(UserError, match=r"\.png: "):
        prepared("figure5")
    assert prepared("text").plan.distinct()  # which shows none


def test_a_run_of_other_data_is_refused(prepared):
    found = prepared("figure5")
    (training,) = found.plan.distinct()
    fingerprint = found.data_of(training).fingerprint
    training.run.create(training.config, ["train.py"], fingerprint, lambda path: path.write_text("a\n"))
    prepared("figure5")  # the same data
    table = prepared.folder / "captions.csv"
    rows = list(csv.reader(table.open()))
    rows[-1][1] += " And more."
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(UserError, match=r"runs/mine-improved-bssan-0: the data have changed since training: captions"):
        prepared("figure5")
