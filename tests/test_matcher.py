"""`Matcher`, the public class: scores, explanations and erase test of photos in any form, and the examples of docs."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from matcher_fixtures import CAPTIONS
from PIL import Image
from training_fixtures import saved_in_memory

import bssan_tf
from bssan_tf.errors import UserError
from bssan_tf.evaluation.erase_test import erase_test
from bssan_tf.features.pictures import read_picture
from bssan_tf.matching.erasing import PLACES, Erasure, erasures, squares_of
from bssan_tf.matching.matcher import BATCH, Matcher
from bssan_tf.runs.folder import RunFolder


@pytest.fixture
def photos(matcher_work):
    return sorted((matcher_work / "photos").glob("*.png"))


def test_scores_are_those_of_the_evaluation(matcher, matcher_work, photos):
    lines = (matcher_work / "photos" / "captions.csv").read_text().splitlines()
    captions = [line.split(",")[1] for line in lines if line.endswith(",test")]
    found = matcher.score(photos[-8:], captions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.load(matcher_work / "scores.npy"), rtol=1e-3, atol=1e-3)


def test_a_photo_is_a_file_an_image_or_an_array(matcher, photos):
    path = photos[3]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
        found = matcher.score([path, str(path), image, pixels], CAPTIONS)
    assert np.ptp(found[0]) > 0
    np.testing.assert_allclose(found, np.tile(found[:1], (4, 1)), rtol=1e-5, atol=1e-5)


def test_an_image_is_turned_by_its_exif_data_as_its_file_is(matcher, photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    with Image.open(photos[0]) as image:
        image.convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as image:
        file, opened = matcher.score([tmp_path / "turned.jpg", image], CAPTIONS)
    np.testing.assert_allclose(opened, file, rtol=1e-5, atol=1e-5)
    assert not np.allclose(matcher.score([photos[0]], CAPTIONS)[0], file, atol=1e-3)


def test_parts_sum_to_the_score_and_batches_change_nothing(matcher, photos):
    some = photos[: BATCH + 3]
    whole = matcher.score(some, CAPTIONS)
    parts = [matcher.score(some, CAPTIONS, part) for part in ("w2r", "o2w")]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-4)
    alone = np.concatenate([matcher.score([photo], CAPTIONS) for photo in some[-4:]])
    np.testing.assert_allclose(alone, whole[-4:], rtol=1e-3, atol=1e-3)
    assert matcher.score([], CAPTIONS).shape == (0, 3)
    assert matcher.score(some[:2], []).shape == (2, 0)


def test_an_explanation(matcher, photos, tmp_path):
    found = matcher.explain(photos[0], CAPTIONS[1])
    assert found.source == photos[0]
    assert found.words == ["there", "is", "a", "blue", "boat", "near", "the", "zyx"]
    assert found.known.tolist() == [True] * 7 + [False]
    assert found.alpha.shape == (8, 14, 14)
    assert (len(found.boxes), found.beta.shape, found.labels) == (10, (10, 8), None)
    np.testing.assert_allclose(found.alpha.sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(found.beta.sum(axis=1), 1, rtol=1e-5)
    assert found.scores["score"] == pytest.approx(matcher.score([photos[0]], [CAPTIONS[1]])[0, 0], rel=1e-5)
    assert set(found.scores) == {"score", "w2r", "o2w"}
    found.draw(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 600


@pytest.mark.large
def test_a_saved_model(matcher, photos, tmp_path):
    matcher.save_savedmodel(tmp_path / "saved")
    features, _ = matcher.describe(matcher.read([photos[0]] * len(CAPTIONS)))
    arrays = {
        name: tf.constant(array, tf.bool if name == "valid" else tf.float32) for name, array in vars(features).items()
    }
    signatures = tf.saved_model.load(str(tmp_path / "saved")).signatures
    found = signatures["captions"](**arrays, captions=tf.constant(CAPTIONS))["score"]
    np.testing.assert_allclose(found, matcher.score([photos[0]], CAPTIONS)[0], rtol=1e-3, atol=1e-3)
    images, expected = tf.constant([photo.read_bytes() for photo in photos[:2]]), matcher.score(photos[:2], CAPTIONS)
    found = signatures["score_jpeg"](images=images, captions=tf.constant(CAPTIONS))
    assert set(found) == {"score", "w2r", "o2w"}
    np.testing.assert_allclose(found["score"], expected, atol=0.03)


@pytest.mark.parametrize("peak", [(0, 0), (13, 13), (6, 7), (2, 11)])
def test_squares_of_the_erase_test(peak):
    alpha = np.full((14, 14), 1e-3)
    alpha[peak] += 1
    first, others = squares_of(alpha, np.random.default_rng(0))
    top, left, height, width = first
    assert (height, width) == (5, 5)
    assert top <= peak[0] < top + 5
    assert left <= peak[1] < left + 5
    cells = np.zeros((14, 14), int)
    cells[top : top + 5, left : left + 5] = 1
    assert 1 <= len(others) <= PLACES
    assert len(set(others)) == len(others)
    for y, x, *size in others:
        assert (*size, *cells[y : y + 5, x : x + 5].shape) == (5, 5, 5, 5)
        assert not cells[y : y + 5, x : x + 5].any()


def test_the_fall_where_a_word_looked_and_elsewhere(matcher, photos):
    caption, pixels = CAPTIONS[1], read_picture(photos[2])[0]
    explained = matcher.explain(photos[2], caption)
    found = matcher.erase(photos[2], caption, word=3, seed=1)
    first, others = squares_of(explained.alpha[3], np.random.default_rng(1))
    assert found.square == pytest.approx(tuple(np.array([first[1], first[0], first[1] + 5, first[0] + 5]) / 14))
    grey = []
    for top, left, *_ in (first, *others):
        grey.append(pixels.copy())
        grey[-1][16 * top : 16 * top + 80, 16 * left : 16 * left + 80] = (124, 117, 104)
    falls = matcher.score([photos[2]], [caption])[0, 0] - matcher.score(grey, [caption])[:, 0]
    np.testing.assert_allclose([found.attended, *found.elsewhere], falls, rtol=1e-3, atol=1e-3)
    assert np.ptp(falls) > 0
    sharpest = int(np.argmax(explained.alpha.max(axis=(1, 2))[:-1]))  # the last word is unknown
    own, given = (matcher.erase(photos[2], caption, word, seed=1) for word in (None, sharpest))
    assert (own.attended, own.square) == (given.attended, given.square)


def test_the_erase_test_of_every_word_scores_each_square_once(matcher, photos, monkeypatch):
    alone = {word: matcher.erase(photos[2], CAPTIONS[0], word) for word in (1, 4)}
    described, describe = [], matcher.describe
    monkeypatch.setattr(matcher, "describe", lambda read, *how: described.extend(read) or describe(read, *how))
    found, other = matcher.explain_all(photos[2], CAPTIONS[:2], erase=True)
    assert len(found.erasures) == 6
    assert len(other.erasures) == len(other.words) == 8
    for word, expected in alone.items():
        own = found.erasures[word]
        assert own.square == expected.square
        np.testing.assert_allclose(own.attended, expected.attended, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(own.elsewhere, expected.elsewhere, rtol=1e-3, atol=1e-3)
    seen = {photo.pixels.tobytes() for photo in described}
    assert len(described) == len(seen) <= 101  # the photo, and at most all squares; 14 words of 21 would be 294
    assert found.scores["score"] == pytest.approx(matcher.score([photos[2]], CAPTIONS[:1])[0, 0], rel=1e-4)
    assert matcher.explain(photos[2], CAPTIONS[0]).erasures is None
    assert matcher.explain_all(photos[2], []) == []


def test_a_page_of_a_photo(matcher, photos, tmp_path):
    matcher.explain(photos[0], CAPTIONS[1], erase=True).save_page(tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "<title>there is a blue boat near the zyx</title>" in page
    told = json.loads(re.search(r'id="data">(.*?)<', page)[1])
    assert told["size"] == [90, 60]
    assert [word["known"] for word in told["cases"][0]["words"]] == [True] * 7 + [False]
    assert len(told["objects"]) == 10


def test_words_share_the_random_places_of_the_erase_test():
    maps = np.full((25, 14, 14), 1e-3)
    maps[np.arange(25), np.arange(25) % 13, np.arange(25) * 7 % 14] = 1
    scored = []
    found = erasures(lambda squares: scored.extend(squares) or np.zeros((len(squares), 1)), np.ones(1), [maps])
    assert len(found[0]) == 25
    assert all(len(one.elsewhere) >= 19 for one in found[0])
    assert len(scored) == len(set(scored)) <= 75


def test_the_erase_test_of_a_run(matcher_work, matcher, monkeypatch):
    falls = {0: (3.0, 1.0), 1: (1.0, 1.0), 2: (2.0, 1.0)}
    asked = []

    def erase(_, path, caption):
        attended, elsewhere = falls[len(asked)]
        asked.append((path.name, caption))
        return Erasure(attended, np.array([elsewhere - 0.5, elsewhere + 0.5]), (0, 0, 1, 1))

    monkeypatch.setattr(Matcher, "erase", erase)
    value, text = erase_test(matcher.run, 3, "val", progress=False)
    assert (value["attended"], value["elsewhere"], value["ratio"], value["pairs"]) == (2, 1, 2, 3)
    assert value["larger"] == pytest.approx(100 * 2 / 3)
    assert value["attended_error"] == pytest.approx(1 / np.sqrt(3))
    assert 1 <= value["ratio_interval"][0] < 2 < value["ratio_interval"][1] <= 3
    assert "  2.000 ± 0.577  where the word looked\n  1.000 ± 0.000  elsewhere (mean of 20 places)" in text
    falls.update({3: (1.0, -1.0), 4: (1.0, 1.0), 5: (1.0, 1.0)})
    value, text = erase_test(matcher.run, 3, "val", progress=False)
    assert (value["ratio"], value["ratio_interval"]) == (None, None)
    assert "no ratio, as scores don't surely fall elsewhere; larger where the word looked in 33 %" in text
    del asked[3:]
    lines = (matcher_work / "photos" / "captions.csv").read_text().splitlines()
    first = dict(line.split(",")[:2] for line in reversed(lines) if line.endswith(",val"))
    assert len({name for name, _ in asked}) == 3
    assert all(first[name] == caption for name, caption in asked)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.score("photo.jpg", CAPTIONS), "photos: is a single one; give a list"),
        (lambda m: m.score(np.zeros((4, 4, 3), np.uint8), CAPTIONS), "photos: is a single one; give a list"),
        (lambda m: m.score([], "a dog"), "captions: is a single one; give a list"),
        (lambda m: m.score(["gone.jpg"], CAPTIONS), r"gone\.jpg: "),
        (
            lambda m: m.score([np.zeros((4, 4, 3))], CAPTIONS),
            r"photo 1: is an array float64 \(4, 4, 3\); RGB",
        ),
        (lambda m: m.score([np.zeros((4, 4), np.uint8)], CAPTIONS), r"photo 1: is an array uint8 \(4, 4\)"),
        (lambda m: m.score([None], CAPTIONS), "photo 1: is a NoneType; give a file"),
        (lambda m: m.score([], ["a dog", "?!"]), r"caption 2 '\?!': has no word"),
        (lambda m: m.score([], CAPTIONS, "alpha"), "alpha: is no part of .*mine, which has w2r, o2w, score"),
        (lambda m: m.explain("gone.jpg", "a dog"), r"gone\.jpg: "),
        (
            lambda m: m.erase(np.zeros((9, 9, 3), np.uint8), "a dog", 2),
            "word 2: the caption has 2 words",
        ),
        (
            lambda m: m.erase(np.zeros((9, 9, 3), np.uint8), "zyx qqq"),
            "caption 'zyx qqq': the run knows none of its words",
        ),
        (lambda m: m.index("gone"), "gone: no such folder"),
        (lambda m: m.index_of_split("val").search("zyx qqq"), "query 'zyx qqq': the run knows none of its words"),
        (lambda m: m.index_of_split("val").like("gone.jpg"), r"gone\.jpg: no such file"),
        (lambda m: m.index_of_split("val").like(None), "photo 1: is a NoneType; give a file"),
        (lambda m: m.sentences(["a dog", ""]), "caption 2 '': has no word"),
    ],
)
def test_bad_input(matcher, call, told):
    with pytest.raises(UserError, match=f"^{told}"):
        call(matcher)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such run"):
        Matcher.load(tmp_path / "gone")


def test_the_package_offers_it_without_loading_tensorflow():
    code = "import sys, bssan_tf; assert 'tensorflow' not in sys.modules and 'Matcher' in bssan_tf.__all__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert bssan_tf.Matcher is Matcher
    with pytest.raises(AttributeError, match="no attribute 'Matchr'"):
        _ = bssan_tf.Matchr


def test_the_examples_of_the_page_run(project, matcher_work, matcher, photos, monkeypatch, tmp_path):
    examples = re.findall("```python\n(.*?)```", (project / "docs" / "usage.md").read_text(), re.S)
    examples = [example for example in examples if "import Matcher" in example]
    assert len(examples) == 2
    monkeypatch.setattr(tf.saved_model, "load", saved_in_memory(monkeypatch))
    model, extractor = (matcher.model, matcher.tokenizer), matcher.reader.extractor  # loaded once for all examples
    monkeypatch.setattr(RunFolder, "load_model", lambda _: model)
    monkeypatch.setattr("bssan_tf.runs.sources.build_extractor", lambda _: extractor)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    for name in ("dog.jpg", "beach.jpg", "holiday/1.jpg", "holiday/2.jpg"):
        with Image.open(photos[0]) as image:
            image.convert("RGB").save(tmp_path / name)
    shutil.copytree(matcher_work / "runs", tmp_path / "runs")
    names = {}
    for example in examples:
        exec(example, names)
    assert names["scores"].shape == (2, 2)
    assert names["hits"][0].found.parent.name == "holiday"
    np.testing.assert_allclose(names["served"], names["scores"], atol=0.03)
    assert np.ptp(names["scores"]) > 0.1
