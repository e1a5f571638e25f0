"""What is measured on COCO beside recalls: on a small folder of Karpathy's split, and what is said where it isn't."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bssan_tf.datasets import coco, load_corpus
from bssan_tf.evaluation import coco_metrics
from bssan_tf.metrics import eccv, plausible

SIZES = {"train": 3, "val": 1, "test": 4}
TEST = (11, 12, 13, 14)  # COCO's numbers; each has captions 10 n and 10 n + 1, one of 12 has no word
NAME = "COCO_val2014_{:012d}.jpg"
SHOWN = {11: ["dog"], 12: ["dog", "cat"], 13: ["dog"], 14: []}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "KARPATHY_SIZES", SIZES)
    images = []
    for number in range(11, 19):
        split = "test" if number in TEST else "val" if number == 15 else "restval"
        texts = ["...", "A dog.", "A cat."] if number == 12 else ["A dog.", "A cat."]
        first = 10 * number - (number == 12)
        sentences = [{"raw": text, "sentid": first + k} for k, text in enumerate(texts)]
        images.append({"filename": NAME.format(number), "filepath": "val2014", "split": split, "sentences": sentences})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    write_instances(tmp_path)
    return tmp_path


def write_instances(folder, numbers=TEST):
    kinds = {"dog": 18, "cat": 17}
    (folder / "annotations").mkdir(exist_ok=True)
    annotations = [
        {"image_id": n, "category_id": kinds[kind], "bbox": [0, 0, 1, 1]} for n in numbers for kind in SHOWN[n]
    ]
    value = {
        "images": [{"id": n, "file_name": NAME.format(n)} for n in numbers],
        "categories": [{"id": number, "name": name} for name, number in kinds.items()],
        "annotations": annotations,
    }
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(value))


LISTS = eccv.Lists(
    np.array(TEST),
    np.array([10 * n + k for n in TEST for k in (0, 1)]),
    ({11: [110, 111, 130], 14: [140, 141]}, {110: [11, 13], 121: [12]}),
    (
        {n: [10 * n, 10 * n + 1] for n in TEST},
        {10 * n + k: [n] for n in TEST for k in (0, 1)},
    ),
)


def opened(folder, split="test", protocol="full", lists="karpathy", part=None):
    corpus = load_corpus("coco", root=folder, split_lists=lists, need_images=False, allow_partial=True)
    data = SimpleNamespace(corpus=corpus)
    config = SimpleNamespace(data=SimpleNamespace(root=str(folder)))
    request = SimpleNamespace(protocol=protocol)
    return SimpleNamespace(data=data, part=part or corpus.split(split), config=config, request=request)


@pytest.fixture
def lists(monkeypatch):
    monkeypatch.setattr(coco_metrics, "installed_lists", lambda: LISTS)


def test_captions_keep_coco_s_numbers_without_those_that_have_no_word(folder):
    corpus = opened(folder).data.corpus
    part = corpus.split("test")
    assert np.array(corpus.caption_numbers)[part.caption_rows].tolist() == [110, 111, 120, 121, 130, 131, 140, 141]
    assert part.captions[2:4] == ("A dog.", "A cat.")


def test_captions_without_numbers_are_told(folder, lists):
    text = (folder / "dataset_coco.json").read_text().replace('"sentid": 130', '"other": 130')
    (folder / "dataset_coco.json").write_text(text)
    run = opened(folder)
    assert run.data.corpus.caption_numbers == ()
    assert "lacks the 'sentid' of captions" in coco_metrics.coco_metrics(run).notes[0]


def test_all_is_measured_where_all_is_there(folder, lists):
    run = opened(folder)
    more = coco_metrics.coco_metrics(run)
    assert more.notes == ()
    scores = np.random.default_rng(0).normal(size=(4, 8))
    found = more.measure(scores, run.part)
    expected = eccv.listed_report(scores, TEST, LISTS.captions, LISTS)
    assert {key: found[key] for key in ("eccv", "cxc")} == expected
    shown = np.array([[0, 1], [1, 1], [0, 1], [0, 0]], bool)  # cat, dog
    assert found["pmrp"] == plausible.pmrp(scores, np.repeat(np.arange(4), 2), shown)
    lines = more.text(found).splitlines()
    numbers = expected["eccv"]["i2t"]
    assert lines[0] == (
        f"ECCV Caption, image to text: mAP@R {numbers['mAP@R']:.1f}, R-Precision {numbers['R-P']:.1f},"
        f" R@1 {numbers['R@1']:.1f}"
    )
    assert [line.split(":")[0] for line in lines[1:]] == [
        "ECCV Caption, text to image", "CxC, image to text", "CxC, text to image", "PMRP"
    ]  # fmt: skip


def test_pmrp_of_folds_is_their_mean_and_lists_need_all_images(folder, lists):
    run = opened(folder, protocol="5fold")
    more = coco_metrics.coco_metrics(run)
    assert more.notes == (
        "ECCV Caption and CxC are not measured: they rank 5,000 images at once, --protocol 5fold doesn't",
    )
    folds = [{"pmrp": {"i2t": 20.0, "t2i": 10.0}}, {"pmrp": {"i2t": 40.0, "t2i": 20.0}}]
    assert more.mean(folds) == {"pmrp": {"i2t": 30.0, "t2i": 15.0}}
    assert set(more.measure(np.eye(4, 8), run.part)) == {"pmrp"}


def test_what_is_missing_is_told_in_a_line_each(folder, lists, monkeypatch):
    run = opened(folder)
    fewer = opened(folder, part=run.part.without_rows(run.part.image_rows[1:2]))
    notes = coco_metrics.coco_metrics(fewer).notes
    lost = "1 of 4 images (the first: 12) and 2 of 8 captions (the first: 120)"
    assert notes == (f"ECCV Caption and CxC are not measured: {lost} of their lists are not scored",)
    other = coco_metrics.coco_metrics(opened(folder, split="train")).notes
    assert other == (
        "ECCV Caption and CxC are not measured: they are of Karpathy's test images (--split karpathy),"
        " not of karpathy train images",
        "PMRP is not measured: 3 of 3 images are not in instances_val2014.json",
    )
    write_instances(folder, TEST[:3])
    said = coco_metrics.coco_metrics(run).notes
    assert said == ("PMRP is not measured: 1 of 4 images are not in instances_val2014.json",)
    (folder / "annotations" / "instances_val2014.json").unlink()
    monkeypatch.setattr(coco_metrics, "installed_lists", lambda: None)
    said = coco_metrics.coco_metrics(run).notes
    assert said == (
        "ECCV Caption and CxC are not measured: pip install bssan_tf[eval] adds their lists",
        f"PMRP is not measured: instances_val2014.json is not in {folder}",
    )


def test_other_data_sets_have_none_of_it(folder):
    run = opened(folder)
    run.data.corpus = SimpleNamespace(name="flickr30k")
    assert coco_metrics.coco_metrics(run) is coco_metrics.NO_MORE
    assert coco_metrics.NO_MORE.measure(np.eye(2), None) == {}
    assert coco_metrics.NO_MORE.text({}) == ""


def test_the_package_is_not_needed(monkeypatch):
    monkeypatch.setattr(eccv, "PACKAGE", "eccv_caption_that_is_not_there")
    assert eccv.installed_lists() is None
