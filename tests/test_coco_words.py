"""Words that name COCO's classes, and captions and instances of one folder as ground truth."""

import json
from collections import Counter

import numpy as np
import pytest
from coco_fixtures import CLASSES, write_coco

from bssan_tf.datasets.coco_words import SYNONYMS, ClassWords, load_grounded, plural
from bssan_tf.datasets.text import split_words
from bssan_tf.errors import UserError

LABELS = (*SYNONYMS, "bear", "bench", "toothbrush", "scissors", "sink")


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A man and two DOGS, on a bench!", [(1, "person"), (4, "dog"), (7, "bench")]),
        ("benches, knives, mice and a ship's mast", [(0, "bench"), (1, "knife"), (2, "mouse"), (5, "boat")]),
        ("ladies with a lady's toothbrushes", [(0, "person"), (3, "person"), (4, "toothbrush")]),
        ("a hot dog beside a hotdog and a dog", [(2, "hot dog"), (5, "hot dog"), (8, "dog")]),
        ("hot dogs at traffic lights", [(1, "hot dog"), (4, "traffic light")]),
        ("a teddy bear, a bear", [(2, "teddy bear"), (4, "bear")]),
        ("a stop sign", [(2, "stop sign")]),
        ("a sign to stop at the light in clear skies", []),  # no stop sign, no traffic light, no skis
        ("a hot", []),
        ("", []),
    ],
)
def test_words_that_name_a_class(caption, found):
    assert ClassWords(LABELS).find(split_words(caption)) == found


def test_only_the_classes_given_have_words():
    assert ClassWords(["dog"]).find(["man", "dog"]) == [(1, "dog")]
    assert ClassWords([]).find(["dog"]) == []


def test_no_word_names_two_classes():
    words = ClassWords(LABELS)
    for label in LABELS:
        for name in (label, *SYNONYMS.get(label, "").replace("_", "-").split()):
            said = split_words(name.replace("-", " "))
            assert words.find(said) == [(len(said) - 1, label)], name


def test_plural():
    assert [plural(noun) for noun in ("dog", "bus", "couch", "lady", "toy")] == [
        *("dogs", "buses", "couches", "ladies", "toys")
    ]


def test_captions_and_instances_as_ground_truth(tmp_path, caplog):
    write_coco(
        tmp_path,
        {
            "1.jpg": (["A dog by a man.", "Nothing here"], [("dog", 10, 20, 30, 5), ("car", 0, 0, 80, 60)]),
            "2.jpg": (["People, people!"], [("person", 0, 0, 40, 60), ("person", 60, 30, 30, 40), ("car", 9, 9, 0, 9)]),
            "3.jpg": (["A dog"], []),
        },
    )
    (tmp_path / "images" / "3.jpg").unlink()
    corpus = load_grounded(tmp_path)
    assert corpus.image_ids == ("1.jpg", "2.jpg")
    assert "2 of 3 photos" in caplog.text
    assert corpus.image_paths[0] == tmp_path / "images" / "1.jpg"
    assert dict(corpus.splits).keys() == {"train2017"}
    assert corpus.image_of_caption.tolist() == [0, 0, 1]
    truth = corpus.grounding
    assert truth.labels == (["dog", "car"], ["person", "person"])  # the car without width is none
    assert truth.named == ([(1, 0)], [], [(0, 0), (0, 1), (1, 0), (1, 1)])  # no box of a person in the first
    np.testing.assert_allclose(truth.boxes[0], [[1 / 8, 1 / 3, 1 / 2, 5 / 12], [0, 0, 1, 1]])
    np.testing.assert_allclose(truth.boxes[1], [[0, 0, 1 / 2, 1], [3 / 4, 1 / 2, 1, 1]])  # cut at the edges


def test_photos_of_one_number_are_not_mixed_up(tmp_path):
    photos = {f"{scene}_1.jpg": ([f"A dog {scene}"], [("dog", 0, 0, 40, 60)]) for scene in ("airport", "beach")}
    write_coco(tmp_path, photos)
    corpus = load_grounded(tmp_path)
    assert [path.name for path in corpus.image_paths] == ["airport_1.jpg", "beach_1.jpg"]


def test_words_are_counted_by_the_rule_of_the_run(tmp_path):
    write_coco(tmp_path, {"1.jpg": (["犬 a\u2013b dog"], [("dog", 0, 0, 40, 60)])})
    assert load_grounded(tmp_path).grounding.named == ([(3, 0)],)
    assert load_grounded(tmp_path, "ascii").grounding.named == ([(2, 0)],)


def test_validation_photos_come_first_and_a_part_needs_both_files(tmp_path):
    photos = {"7.jpg": (["A dog"], [("dog", 0, 0, 40, 60)])}
    for part in ("train2017", "val2014", "val2017"):
        write_coco(tmp_path, photos, part)
    assert list(load_grounded(tmp_path).splits) == ["val2017"]
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    assert list(load_grounded(tmp_path).splits) == ["val2014"]


def test_folders_that_cannot_be_measured(tmp_path):
    with pytest.raises(UserError, match=r"--pointing .*gone: no such folder"):
        load_grounded(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no captions and instances of the same photos; expected are captions_val2017"):
        load_grounded(tmp_path)
    write_coco(tmp_path, {"1.jpg": (["A man"], [("dog", 0, 0, 40, 60)])})
    with pytest.raises(UserError, match=r"no caption of captions_train2017\.json names the class of an object"):
        load_grounded(tmp_path)
    instances = tmp_path / "annotations" / "instances_train2017.json"
    whole = json.loads(instances.read_text())
    del whole["images"][0]["width"]
    instances.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"instances_train2017\.json: 1\.jpg has no width and height"):
        load_grounded(tmp_path)
    instances.write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match=r"instances_train2017\.json: not COCO's instances \(KeyError: 'categories'\)"):
        load_grounded(tmp_path)
    write_coco(tmp_path, {"1.jpg": (["A dog"], [("dog", 0, 0, 40, 60)])})
    (tmp_path / "images" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"no photo of captions_train2017\.json and instances_train2017\.json"):
        load_grounded(tmp_path)


def test_the_real_coco_mini(shared_data):
    folder = shared_data / "coco_mini"
    classes = json.loads((folder / "annotations" / "instances_train2017.json").read_text())["categories"]
    labels = {one["name"] for one in classes}
    assert SYNONYMS.keys() <= labels
    assert {name for _, name in CLASSES} <= labels
    corpus = load_grounded(folder)
    assert (len(corpus.image_ids), len(corpus.captions)) == (80, 400)
    counts = Counter()
    for image, text, named in zip(corpus.image_of_caption, corpus.captions, corpus.grounding.named):
        first = dict(reversed(named))  # position -> its first object
        counts.update(
            (split_words(text)[place], corpus.grounding.labels[image][thing]) for place, thing in first.items()
        )
    assert counts["dog", "dog"] == 24
    assert counts["man", "person"] == 29
    assert counts["bear", "teddy bear"] == 8
    assert counts["bear", "bear"] == 8
