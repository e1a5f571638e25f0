"""The HTML page of an explanation: what is in the file, how large it is, and what it never holds."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from page_fixtures import LABELS, LONG, SHORT, explanation
from PIL import Image

from bssan_tf.drawing import page as drawing
from bssan_tf.drawing.page import MOST_BYTES, own_page
from bssan_tf.errors import UserError
from bssan_tf.features.objects import grid_boxes


def data_of(page: str) -> dict:
    (told,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(told)


def photo_of(page: str) -> Image.Image:
    head, told = data_of(page)["photo"].split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(told)))


def test_what_is_told_of_words_objects_and_scores():
    found = explanation(LONG, scores={"score": 1.25, "w2r": float("nan"), "o2w": -0.5})
    told = data_of(found.page())
    (case,) = told["cases"]
    assert [word["word"] for word in case["words"]] == LONG.split()
    assert [word["word"] for word in case["words"] if not word["known"]] == ["zyxcollar"]
    assert case["scores"] == {"score": 1.25, "w2r": None, "o2w": -0.5}
    assert case["grid"] == [14, 14]
    for i in (0, 3, 24):
        word = case["words"][i]
        np.testing.assert_allclose(np.array(word["alpha"]) / 1e5, found.alpha[i].ravel(), atol=6e-6)
        falls = found.erasures[i].attended, found.erasures[i].elsewhere.mean()
        np.testing.assert_allclose(word["erased"]["falls"], falls, atol=6e-6)
        np.testing.assert_allclose(word["erased"]["square"], found.erasures[i].square, atol=6e-5)
    np.testing.assert_allclose(case["beta"], found.beta, atol=6e-6)
    assert [one["label"] for one in told["objects"]] == LABELS[:3]  # the fourth is no object
    assert [one["slot"] for one in told["objects"]] == [0, 1, 2]
    np.testing.assert_allclose([one["box"] for one in told["objects"]], found.boxes[:3], atol=6e-5)


def test_objects_without_names_are_counted():
    told = data_of(explanation(labels=None, valid=np.array([True, False, True, True])).page())
    assert [(one["label"], one["slot"]) for one in told["objects"]] == [
        ("object 1", 0),
        ("object 2", 2),
        ("object 3", 3),
    ]


def test_fixed_boxes_are_named_by_their_place():
    objects = {name: value for name, value in grid_boxes(12).items() if name in ("boxes", "valid")}
    shown = data_of(dataclasses.replace(explanation(), labels=None, **objects).page())["objects"]
    assert [one["label"] for one in shown[:3]] == ["whole photo", "top left", "top"]
    assert (shown[9]["label"], shown[9]["box"], shown[9]["confidence"]) == (
        "bottom right",
        [0.6667, 0.6667, 1, 1],
        None,
    )
    assert len(shown) == 10
    moved = dataclasses.replace(explanation(), labels=None, **{**objects, "boxes": objects["boxes"] / 2})
    assert data_of(moved.page())["objects"][0]["label"] == "object 1"


@pytest.mark.parametrize("part", ["alpha", "beta"])
def test_a_run_with_one_part(part):
    told = data_of(explanation(without=(part, "erasures")).page())
    (case,) = told["cases"]
    assert (case["grid"] is None, case["beta"] is None, told["objects"] is None) == (
        part == "alpha",
        part == "beta",
        part == "beta",
    )
    assert all(("alpha" in word) == (part == "beta") and "erased" not in word for word in case["words"])


def test_two_captions_share_the_photo():
    first, second = explanation(), explanation("a cat sleeps", seed=1)
    page = first.page(against=second)
    assert [len(case["words"]) for case in data_of(page)["cases"]] == [5, 3]
    assert page.count("data:image/jpeg") == 1
    assert "<title>a dog runs through snow | a cat sleeps</title>" in page


@pytest.mark.parametrize(
    ("size", "shown"), [((1600, 1200), (640, 480)), ((300, 900), (213, 640)), ((90, 60), (90, 60))]
)
def test_the_photo_keeps_its_shape(size, shown, tmp_path):
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "photo.png")
    photo = photo_of(explanation(source=tmp_path / "photo.png").page())
    assert photo.size == shown
    assert np.abs(np.asarray(photo).mean(axis=(0, 1)) - (200, 30, 30)).max() < 4


def test_a_photo_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg"):
        explanation(source=tmp_path / "gone.jpg").page()


def test_without_the_photo_itself_it_is_as_the_model_saw_it():
    assert photo_of(explanation(source=None).page()).size == (224, 224)


def test_a_page_is_small_whatever_the_photo():
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    page = explanation(LONG, photo=noise).page(against=explanation(LONG, seed=1))
    assert len(page.encode()) <= MOST_BYTES == 600_000
    assert photo_of(page).size == (640, 640)
    with pytest.raises(UserError, match=r"the page would have \d+ KB, more than 600; give shorter captions"):
        explanation(" ".join(["word"] * 900)).page()


MARKUP = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)>&amp;\u2028\ud800{{data}}"


def test_texts_of_users_are_no_markup():
    page = explanation(words=[MARKUP, *SHORT.split()[1:]], labels=[MARKUP, *LABELS[1:]]).page()
    assert page.isascii()
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page
    assert data_of(page)["cases"][0]["words"][0]["word"] == MARKUP
    assert data_of(page)["objects"][0]["label"] == MARKUP


def test_the_page_asks_no_other_address_for_anything():
    page = explanation().page()
    assert not re.findall(
        r"https?:|//[a-z]|@import|url\(", re.sub(r"^// .*$|/\* .*? \*/| // .*$", "", page, flags=re.M)
    )
    assert "default-src 'none'" in page


def test_only_pages_of_ours_are_ours(tmp_path):
    explanation().save_page(tmp_path / "ours.html")
    (tmp_path / "theirs.html").write_text("<!doctype html><title>mine</title>" + 500 * " " + drawing.OWN)
    assert own_page(tmp_path / "ours.html")
    assert not own_page(tmp_path / "theirs.html")
    assert not own_page(tmp_path / "gone.html")
    assert not own_page(tmp_path)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    explanation().save_page(tmp_path / "out.html")
    before = (tmp_path / "out.html").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bssan_tf.tools.files.os.replace", full)
    with pytest.raises(UserError, match=r"out\.html: can't be written \(No space left on device\)"):
        explanation("a cat").save_page(tmp_path / "out.html")
    assert (tmp_path / "out.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
