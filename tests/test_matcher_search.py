"""`Matcher` searches: folders that grow, what can't be read now, photos like a photo, probabilities, sentences."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from matcher_fixtures import CAPTIONS
from PIL import Image

from bssan_tf.datasets import picture_folder
from bssan_tf.errors import UserError
from bssan_tf.features.regions import Extractor
from bssan_tf.matching.matcher import Matcher
from bssan_tf.metrics.calibration import Calibration
from bssan_tf.runs.folder import RunFolder


@pytest.fixture
def photos(matcher_work):
    return sorted((matcher_work / "photos").glob("*.png"))


def test_a_folder_is_searched_as_it_is_scored(matcher, photos, tmp_path):
    for photo in photos[:5]:
        shutil.copy(photo, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    expected = matcher.score([tmp_path / photo.name for photo in photos[:5]], CAPTIONS[:1])[:, 0]
    index = matcher.index(tmp_path)
    assert len(index) == 5
    hits = index.search(CAPTIONS[0], top=3)
    assert [hit.found.name for hit in hits] == [photos[i].name for i in np.argsort(-expected)[:3]]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected)[:1:-1], rel=1e-3, abs=1e-3)


def test_boxes_for_a_run_on_fixed_boxes_are_those_of_the_photos(matcher_work, photos, tmp_path):
    """In each way of asking, of the command (boxes of the run's own data, if it has such) and of the class."""
    boxes, folder = tmp_path / "boxes.npz", tmp_path / "all"
    folder.mkdir()
    names = [Path(shutil.copy(photo, folder)).name for photo in photos[:3]]
    np.savez(boxes, names=np.array(names), boxes=np.array([[[9, 6, 45, 30, 0.9, 3]]] * 3, np.float32))
    for own in (False, True):
        matcher = Matcher(RunFolder(matcher_work / "runs" / "mine"), {"boxes": boxes}, of_own_data=own)
        index = matcher.index(folder)
        assert (len(index), index._features.valid.sum(1).tolist()) == (3, [1, 1, 1])
        np.testing.assert_allclose(index._features.boxes[:, 0], [[0.1, 0.1, 0.5, 0.5]] * 3)
        hits = index.like(folder / names[0])
        assert (len(hits), hits[0].score <= 1) == (2, True)
        scored = matcher.score([folder / names[0]], CAPTIONS[:1])[0, 0]
        (hit,) = matcher.sentences(CAPTIONS[:1]).search(folder / names[0])
        assert hit.score == pytest.approx(scored, rel=1e-3)
        found = {hit.found.name: hit.score for hit in index.search(CAPTIONS[0])}
        assert found[names[0]] == pytest.approx(scored, rel=1e-3, abs=1e-3)
        for ask in (index.like, matcher.sentences_of_split().search):
            with pytest.raises(UserError, match=rf"--boxes .*boxes\.npz: does not list {photos[5].name}"):
                ask(photos[5])
        with pytest.raises(UserError, match=r"--boxes .*boxes\.npz: is not used with --objects grid; leave it out"):
            matcher.index_of_split()
    with pytest.raises(UserError, match=r"--boxes .*boxes\.npz: is not used with --objects keras_hub:a; leave it out"):
        Matcher.load(matcher_work / "runs" / "mine", objects="keras_hub:a", boxes=boxes)


def test_an_index_grows(matcher, photos, tmp_path, monkeypatch):
    folder, (one, two, three, four, five, six) = tmp_path / "mine", photos[10:16]
    folder.mkdir()
    for photo in (two, three, four, five):
        shutil.copy(photo, folder)
    described, describe = [], Extractor.describe
    monkeypatch.setattr(Extractor, "describe", lambda *given: described.append(1) or describe(*given))

    def check(*read):
        described.clear()
        index, there = matcher.index(folder), sorted(folder.rglob("*.png"))
        assert [bool(described), len(index)] == [*read, len(there)]
        scores = matcher.score(there, CAPTIONS[:1])[:, 0]
        hits = index.search(CAPTIONS[0], top=9)
        assert [hit.found for hit in hits] == [there[i] for i in np.argsort(-scores)]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1], rel=1e-3, abs=1e-3)

    check(True)
    (folder / "a").mkdir()
    shutil.copy(one, folder / "a" / three.name)  # a name that is there already, before all others
    check(True)
    check(False)
    (folder / four.name).rename(folder / "a" / "moved.png")
    (folder / two.name).unlink()
    check(False)
    shutil.copy(six, folder / five.name)
    check(True)


def test_a_few_photos_that_are_gone_are_not_found_nor_counted(matcher, photos, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "mine"
    folder.mkdir()
    for photo in photos[:18]:
        shutil.copy(photo, folder)
    assert len(matcher.index(folder)) == 18
    gone, moved, *_ = sorted(folder.iterdir())
    gone.unlink()
    moved.rename(folder / "zz.png")
    (folder / "zzz.png").write_bytes(b"no picture")
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "describe", None)  # all is known
        index = matcher.index(folder)
    assert "1 of 18 pictures can't be read and are left out: zzz.png" in caplog.text
    there = sorted(path for path in folder.iterdir() if path.name != "zzz.png")
    assert len(index) == 17
    assert sorted(hit.found for hit in index.search(CAPTIONS[0], top=99)) == there
    hits = index.like(photos[0], top=99)
    assert sorted(hit.found for hit in hits) == there
    for path in there:
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"18 of 18 pictures can't be read: .*; give another folder, or mend them"):
        matcher.index(folder)


def test_an_index_keeps_photos_whose_folder_can_not_be_read_now(matcher, photos, tmp_path, monkeypatch):
    folder, disk = tmp_path / "mine", tmp_path / "disk"
    (disk / "deep").mkdir(parents=True)
    folder.mkdir()
    for photo, place in zip(photos[20:23], (folder, disk, disk / "deep")):
        shutil.copy(photo, place)
    (folder / "nas").symlink_to(disk)
    (folder / "other").symlink_to("/nowhere")  # of which the index knows nothing
    assert len(matcher.index(folder)) == 3
    disk.rename(tmp_path / "unmounted")
    told = r"mine: the index may have 2 photos that can't be read now: nas, other can't be read; mount it or mend its"
    with pytest.raises(UserError, match=told) as error:
        matcher.index(folder)
    assert "\n" not in str(error.value)
    (tmp_path / "unmounted").rename(disk)
    monkeypatch.setattr(Extractor, "describe", None)  # all is known
    assert len(matcher.index(folder)) == 3
    (folder / "nas").unlink()
    assert len(matcher.index(folder)) == 1


def test_an_index_keeps_photos_that_can_not_be_read_now(matcher, photos, tmp_path, monkeypatch, caplog):
    """A link that leads nowhere, to a disk that is not mounted, is named; HEIC without pillow-heif is refused."""
    folder, disk = tmp_path / "mine", tmp_path / "disk"
    for place in (folder, disk):
        place.mkdir()
    for photo, path in zip(photos[10:13], (folder / "here.png", disk / "there.png", folder / "phone.heic")):
        shutil.copy(photo, path)
    (folder / "link.png").symlink_to(disk / "there.png")
    (folder / "new.png").symlink_to("/nowhere.png")
    monkeypatch.setattr(picture_folder, "heic_is_read", lambda: True)
    assert len(matcher.index(folder)) == 3
    assert "1 of 4 pictures can't be read and are left out: new.png" in caplog.text
    monkeypatch.setattr(picture_folder, "heic_is_read", lambda: False)
    told = r"mine: the index may have 1 photos that can't be read now: phone\.heic is HEIC; to read it: pip install"
    with pytest.raises(UserError, match=told):
        matcher.index(folder)
    monkeypatch.setattr(picture_folder, "heic_is_read", lambda: True)
    monkeypatch.setattr(Extractor, "describe", None)  # all is known
    disk.rename(tmp_path / "unmounted")
    hits = matcher.index(folder).search(CAPTIONS[0])
    assert sorted(hit.found.name for hit in hits) == ["here.png", "phone.heic"]
    assert "1 known photos can't be read now, as links that lead nowhere: link.png; they are left out" in caplog.text
    (tmp_path / "unmounted").rename(disk)
    assert len(matcher.index(folder)) == 3
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale(os.stat, "link.png"))
        assert len(matcher.index(folder)) == 2
    disk.rename(tmp_path / "unmounted")
    (folder / "here.png").unlink()
    (folder / "phone.heic").unlink()
    with pytest.raises(UserError, match=r"mine: 1 known photos can't be read now, .*: link\.png; mount the disk"):
        matcher.index(folder)


def stale(stat, name):
    """`os.stat` where a file of this name lies on a server that is gone."""

    def failing(path, *given, **how):
        if str(path).endswith(name):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(path, *given, **how)

    return failing


def vectors_of(matcher, paths):
    """Each network's mean of what it looks at, scaled and projected by its own weights: unit rows, by network."""
    features, _ = matcher.describe(matcher.read(paths))
    for name, rows, real in (("w2r", features.regions, None), ("o2w", features.objects, features.valid)):
        network = matcher.model.networks[name]
        rows, real = np.asarray(rows, np.float32), np.ones(rows.shape[:2]) if real is None else real
        mean, variance = network.norm.get_weights()
        scaled = (np.sign(rows) * np.sqrt(abs(rows)) - mean) / np.sqrt(variance)
        pooled = [row[places > 0].mean(axis=0) for row, places in zip(scaled, real)]
        vectors = np.stack(pooled) @ network.fusion.A.get_weights()[0]
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_photos_like_a_photo(matcher, photos, tmp_path):
    (tmp_path / "deep").mkdir()
    paths = [tmp_path / "deep" / photo.name if i % 2 else tmp_path / photo.name for i, photo in enumerate(photos[:6])]
    for photo, path in zip(photos, paths):
        shutil.copy(photo, path)
    alike = np.mean([vectors @ vectors[0] for vectors in vectors_of(matcher, paths)], axis=0)
    order = [int(i) for i in np.argsort(-alike) if i != 0]
    index = matcher.index(tmp_path)
    (tmp_path / "deep" / "link.png").symlink_to(paths[0])
    for query in (paths[0], str(tmp_path / "deep" / ".." / paths[0].name), tmp_path / "deep" / "link.png"):
        hits = index.like(query, top=4)
        assert [hit.found for hit in hits] == [paths[i] for i in order[:4]]
        assert [hit.score for hit in hits] == pytest.approx(alike[order[:4]], abs=2e-3)
    with Image.open(photos[0]) as image:
        hits = index.like(image)
    assert [hit.found for hit in hits] == [paths[i] for i in (0, *order)]
    assert hits[0].score == pytest.approx(1, abs=1e-3)


def test_hits_have_probabilities_where_the_run_has_a_calibration(matcher, photos, monkeypatch, tmp_path):
    for photo in photos[:5]:
        shutil.copy(photo, tmp_path)
    assert all(hit.probability is None for hit in matcher.index(tmp_path).search(CAPTIONS[0]))
    with pytest.raises(UserError, match=r"^--min-probability 0\.5: the run has no calibration; it comes with"):
        matcher.index(tmp_path).search(CAPTIONS[0], min_probability=0.5)
    sure = Calibration(temperature=2.0, bias=-1.0, threshold=0.3, error=1.0)
    monkeypatch.setattr(RunFolder, "calibration", lambda _: sure)
    index = matcher.index(tmp_path)
    hits = index.search(CAPTIONS[0])
    expected = np.exp([hit.score / 2 for hit in hits])
    expected /= expected.sum() + 5 * np.exp(-1)
    assert [hit.probability for hit in hits] == pytest.approx(list(expected))
    least = (expected[1] + expected[2]) / 2
    assert index.search(CAPTIONS[0], min_probability=least) == hits[:2]
    assert index.search(CAPTIONS[0], min_probability=1.0) == []
    assert all(hit.probability is None for hit in index.search(CAPTIONS[0], top=2, rerank=3))
    assert index.search(CAPTIONS[0], top=5, rerank=3)[0].probability == hits[0].probability  # all were scored
    with pytest.raises(
        UserError, match=r"^--min-probability 0\.5: --rerank 3 scores too few for it; give --rerank 100"
    ):
        index.search(CAPTIONS[0], top=2, rerank=3, min_probability=0.5)
    assert index.like(photos[0])[0].probability is None


def test_sentences_are_searched_for_a_photo(matcher, photos):
    expected = matcher.score([photos[4]], CAPTIONS)[0]
    hits = matcher.sentences(CAPTIONS).search(photos[4])
    assert [hit.found for hit in hits] == [CAPTIONS[i] for i in np.argsort(-expected)]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected)[::-1], rel=1e-4, abs=1e-4)
