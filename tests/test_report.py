"""Tables and JSON of a report: what is in them, and that the paper's numbers are as printed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bssan_tf.errors import UserError
from bssan_tf.evaluation import report
from bssan_tf.metrics import output, recall

OURS = recall.retrieval_report(np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.8]]), np.array([0, 0, 1]))
SAME = report.Setting("flickr30k")


def table_of(name, corpus, split, differs=(), value=OURS, **others):
    """The table of a report."""
    others["differs"] = list(differs)
    return report.text_table(report.report_json(value, run=name, corpus=corpus, split=split, **others))


def numbers(line):
    return [float(word) for word in line.split() if word.replace(".", "", 1).isdigit()]


def line_of(table, name):
    return next(line for line in table.splitlines() if line.strip().startswith(name))


def test_own_row_and_no_paper_rows_for_another_corpus():
    table = table_of("my-run", "flickr8k", "val", ("anything",))
    assert table.splitlines()[0] == "flickr8k, val: 2 images, 3 captions"
    # Image 0 first at rank 1, image 1 at rank 1; captions: 0 rank 1, 1 rank 2, 2 rank 1.
    assert numbers(line_of(table, "my-run")) == [100, 100, 100, 1, 66.7, 100, 100, 1, 566.7]
    assert "BSSAN" not in table
    assert "NOT the same" not in table


@pytest.mark.parametrize(
    ("corpus", "row", "printed"),
    [
        ("flickr30k", "BSSAN_w2r", [41.2, 71.1, 80.9, 3, 31, 61.3, 70.4, 3, 355.9]),
        ("flickr30k", "BSSAN ", [44.6, 74.9, 84.3, 2, 33.2, 62.6, 72.9, 3, 372.5]),
        ("coco", "BSSAN_no_reg", [54.7, 81.9, 89.7, 1, 40.7, 75.5, 87.9, 2, 430.4]),
        ("coco", "BSSAN ", [56, 82.6, 91.3, 1, 41.8, 76.7, 88.5, 2, 436.9]),
    ],
)
def test_paper_rows_are_as_printed(corpus, row, printed):
    table = table_of("my-run", corpus, "test")
    assert numbers(line_of(table, row)) == printed
    assert ("Table II" if corpus == "flickr30k" else "Table III") in table
    assert "*" not in table


def test_columns_stand_below_each_other():
    table = table_of("a-run-with-a-rather-long-name-of-its-own", "coco", "test", ("x",), baselines={"cca": OURS})
    lines = table.splitlines()
    ends = {len(line) for line in lines if (numbers(line) and "BSSAN" in line) or line.startswith(("a-run", "CCA"))}
    assert len(ends) == 1
    assert len(lines[2]) == ends.pop()


@pytest.mark.parametrize("name", ["W2R", "CCA", "CCA+ (objects in context)", "run"])
def test_a_run_of_any_name_keeps_its_row_and_its_parts_stand_below_it(name):
    keys = ("w2r", "o2w", "cca", "cca_weighted", "cca_context", "cca_context_weighted")
    others = [(key, {**OURS, "rsum": value}) for value, key in enumerate(keys, 1)]
    parts, baselines = dict(others[:2]), dict(others[2:])
    rows = table_of(name, "flickr8k", "val", baselines=baselines, parts=parts).splitlines()[4:]
    assert [(row[:27].strip(), numbers(row)[-1]) for row in rows] == [
        *((name, 566.7), ("W2R", 1), ("O2W", 2)),
        *(("CCA", 3), ("CCA+", 4), ("CCA (objects in context)", 5), ("CCA+ (objects in context)", 6)),
    ]


def test_differences_are_marked_in_every_paper_row():
    differs = report.differences(replace(SAME, split="val", regions="vgg16"))
    assert len(differs) == 2
    table = table_of("r", "flickr30k", "val", differs)
    assert all("*" in line for line in table.splitlines() if "BSSAN" in line)
    assert "vgg16; the paper's are of VGG-19" in table
    assert "NOT the same setting" in table


def test_differences_one_by_one():
    assert report.differences(SAME) == ()
    for change, word in [
        ({"split": "val"}, "val"),
        ({"official": False}, "part"),
        ({"split_lists": "karpathy"}, "karpathy"),
        ({"captions_per_image": 1}, "1 caption"),
        ({"regions": "slim"}, "slim"),
        ({"objects": "grid"}, "grid"),
        ({"images": 100}, "100 images ranked against each other; the paper's are 1,000 (fewer are easier)"),
        ({"images": 5000}, "5,000 images ranked against each other; the paper's are 1,000 (more are harder)"),
        ({"unreadable": 3}, "3 unreadable"),
        ({"E_glove": 50}, "word vectors of 50-d GloVe; the paper's are 300-d GloVe"),
        ({"E_trained": 250}, "300-d GloVe and 250 learned dimensions;"),
        ({"E_glove": 0, "E_trained": 300}, "word vectors of 300 learned dimensions;"),
        ({"corpus": "coco"}, "does not say"),
    ]:
        (found,) = report.differences(replace(SAME, **change))
        assert word in found


def test_scenes_and_folders_are_no_part_of_a_data_set():
    own = replace(SAME, corpus="scenes", official=False, split_lists="own")
    assert report.differences(own) == ()
    assert report.differences(replace(own, corpus="folder-photos")) == ()
    assert len(report.differences(replace(own, corpus="flickr8k"))) == 2


def test_features_that_the_model_has_not_are_no_difference():
    assert report.differences(replace(SAME, objects=None)) == ()
    assert report.differences(replace(SAME, regions=None)) == ()


def test_protocol_is_named():
    value = recall.mean_report([OURS] * 5, "5fold")
    assert "10 images, 15 captions (mean of 5 folds" in table_of("r", "coco", "test", value=value).splitlines()[0]


def test_the_paper_can_be_left_out():
    value = report.report_json(OURS, run="r", corpus="coco", split="val")
    assert "BSSAN" not in report.text_table(value, beside_paper=False)


def test_json_round_trip(tmp_path):
    pointing = {"w2r": 84.0, "o2w": None, "w2r_chance": 9.0, "o2w_chance": None, "n_words": 5, "n_objects": 0}
    value = report.report_json(OURS, run="r", corpus="scenes", split="test", pointing=pointing, baselines={"cca": OURS})
    path = tmp_path / "report.json"
    output.write_report(path, value)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read == value
    assert set(read) == {
        *("i2t", "t2i", "rsum", "n_images", "n_captions"),
        *("pointing", "run", "corpus", "split", "baselines"),
    }
    assert read["baselines"]["cca"]["i2t"]["R@1"] == 100
    assert "pointing" not in report.report_json(OURS, run="r", corpus="coco", split="test")
    assert "parts" not in read
    value = report.report_json(OURS, run="r", corpus="coco", split="test", parts={"w2r": OURS})
    assert value["parts"] == {"w2r": OURS}
    assert "baselines" not in value


def test_json_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"--json .*absent/report\.json: can't be written"):
        output.write_report(tmp_path / "absent" / "report.json", {})


def test_pointing_lines():
    both = {"w2r": 84.04, "o2w": 61.5, "w2r_chance": 9.1, "o2w_chance": 20, "n_words": 1234, "n_objects": 88}
    first, second = report.pointing_lines(both).splitlines()
    assert first.endswith("box: 84.0 % (of 1,234 words; chance 9.1 %)")
    assert second.endswith("61.5 % (of 88 objects; chance 20.0 %)")
    centred = report.pointing_lines({**both, "w2r_centre": 10.3}).splitlines()
    assert centred == [first.replace("9.1 %)", "9.1 %, the picture's centre 10.3 %)"), second]
    assert report.pointing_lines({**both, "w2r": None}) == second
    assert report.pointing_lines({"w2r": None, "o2w": None}) == ""
