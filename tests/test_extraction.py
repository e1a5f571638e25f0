"""Whole extractions with a tiny backbone: contents, kill -9 and resume, bad pictures, changed requests, memory."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from feature_fixtures import (
    arrays,
    extract,
    forbid_describing,
    spoil,
    tiny_extractor,
    vgg_arrays,
    write_boxes,
    write_pictures,
)
from PIL import Image

from bssan_tf.errors import UserError
from bssan_tf.features import describer, extraction, pictures
from bssan_tf.features.backbones import Backbone
from bssan_tf.features.extraction import MissingRows
from bssan_tf.features.faster_rcnn.detector import Detector
from bssan_tf.features.objects import grid_boxes
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.features.store_writer import StoreWriter


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def corpus(tmp_path):
    return write_pictures(tmp_path / "photos", 11)


def test_each_row_describes_its_own_picture(tmp_path, corpus, extractor):
    features = extract(corpus, tmp_path / "store", extractor)
    assert features.image_ids == corpus.image_ids
    assert features.regions.shape == (11, 196, 32)
    assert features.objects.shape == (11, 10, 32)
    assert features.grid == (14, 14)
    assert len(features.bad_rows) == 0
    boxes = grid_boxes()["boxes"][None]
    for row, path in enumerate(corpus.image_paths):
        alone = extractor.describe(read_picture(path)[0][None], boxes)
        np.testing.assert_allclose(features.regions[row], alone["regions"][0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(features.objects[row], alone["objects"][0], rtol=2e-3, atol=2e-3)
    assert np.ptp(np.asarray(features.regions, np.float32).mean((1, 2))) > 0.01  # the pictures differ
    manifest = features.manifest
    assert manifest["extractor"] == "tiny"
    assert manifest["layer"] == "block5_conv4"
    assert manifest["weights_sha256"] == extractor.weights_sha256
    assert manifest["finished_rows"] == 11
    assert manifest["arrays"]["regions"] == {"shape": [11, 196, 32], "dtype": "float16"}


def test_a_store_that_another_process_orders_anew_is_refused(tmp_path, corpus, extractor, monkeypatch):
    folder, opened = tmp_path / "store", extraction.open_store
    extract(corpus, folder, extractor)
    other = SimpleNamespace(name=corpus.name, image_ids=corpus.image_ids[::-1], image_paths=corpus.image_paths[::-1])

    def open_late(*given):
        monkeypatch.setattr(extraction, "open_store", opened)
        extract(other, folder, extractor, may_lose=True)
        return opened(*given)

    monkeypatch.setattr(extraction, "open_store", open_late)
    with pytest.raises(UserError, match=r"store: was changed by another process; start again$"):
        extract(corpus, folder, extractor)
    assert extract(corpus, folder, extractor, may_lose=True).image_ids == corpus.image_ids


def test_boxes_of_a_file_reach_their_photos(tmp_path, corpus, extractor):
    detections = write_boxes(tmp_path / "boxes.npz", corpus)
    features = extract(corpus, tmp_path / "store", extractor, boxes=tmp_path / "boxes.npz", objects=3)
    assert features.objects.shape == (11, 3, 32)
    assert features.manifest["labels"] == ["dog", "cat"]
    for row in range(11):
        order = np.argsort(-detections[row, :, 4])[:3]
        real = detections[row, order, 4] > 0
        np.testing.assert_array_equal(features.valid[row], real)
        expected = detections[row, order] / [80, 60, 80, 60, 1, 1]
        np.testing.assert_allclose(features.boxes[row, real], expected[real, :4], atol=1e-6)
        np.testing.assert_allclose(features.scores[row, real], expected[real, 4], atol=1e-6)
        np.testing.assert_array_equal(features.classes[row, real], expected[real, 5])
    picture = read_picture(corpus.image_paths[5])[0][None]
    alone = extractor.describe(picture, np.array(features.boxes[5:6]), np.array(features.valid[5:6]))
    np.testing.assert_allclose(features.objects[5], alone["objects"][0], rtol=2e-3, atol=2e-3)


def test_boxes_in_pixels_of_another_frame_are_announced(tmp_path, corpus, extractor, caplog):
    boxes = np.tile(np.array([0, 0, 512, 512, 0.9, 1], np.float32), (11, 1, 1))
    np.savez(tmp_path / "boxes.npz", names=np.array(corpus.image_ids), boxes=boxes)
    with caplog.at_level(logging.WARNING):
        extract(corpus, tmp_path / "store", extractor, boxes=tmp_path / "boxes.npz")
    assert "boxes of 11 photos reach far outside" in caplog.text


def test_regions_alone(tmp_path, corpus, extractor):
    features = extract(corpus, tmp_path / "store", extractor, boxes=None)
    assert features.objects is None
    assert features.boxes is None
    assert sorted(arrays(tmp_path / "store")) == ["digests.npy", "regions.npy", "sizes.npy", "sums.npy"]


def test_a_finished_store_is_only_opened(tmp_path, corpus, extractor, monkeypatch):
    first = extract(corpus, tmp_path / "store", extractor)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    forbid_describing(monkeypatch, extractor)
    again = extract(corpus, tmp_path / "store", extractor, batch_size=5)
    np.testing.assert_array_equal(first.regions, again.regions)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == stamps
    for path in corpus.image_paths:  # the pictures are not needed any more
        path.unlink()
    extract(corpus, tmp_path / "store", extractor)


CHILD = """
    import sys, time
    from pathlib import Path
    from feature_fixtures import tiny_extractor, write_pictures
    from bssan_tf.features.extraction import extract_features
    from bssan_tf.features.regions import Extractor

    describe = Extractor.describe

    def slowly(self, *batch):
        time.sleep(0.1)
        return describe(self, *batch)

    Extractor.describe = slowly
    base = Path(sys.argv[1])
    corpus = write_pictures(base / "photos", 40)
    extract_features(corpus, base / "store", tiny_extractor(base), boxes="grid", batch_size=4, commit_seconds=0)
"""


def environment(project):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), str(project / "tests")])}


def start_child(base, project):
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(base)]
    return subprocess.Popen(command, env=environment(project), stderr=subprocess.PIPE, text=True)


def run(arguments, project):
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finished_rows(folder):
    try:
        return json.loads((folder / "manifest.json").read_text())["finished_rows"]
    except FileNotFoundError:
        return -1


@pytest.mark.large
def test_kill_9_in_the_middle_then_resume(tmp_path, project):
    base = tmp_path / "killed"
    base.mkdir()
    (tmp_path / "whole").mkdir()
    for rows in (0, 16):  # once as soon as there is a store, once in the middle
        child = start_child(base, project)
        deadline = time.monotonic() + 60
        while finished_rows(base / "store") < rows:
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert rows <= finished_rows(base / "store") < 40
    corpus = write_pictures(base / "photos", 40)
    describe, batches = Extractor.describe, []

    class Counting(Extractor):
        def describe(self, *batch):
            batches.append(len(batch[0]))
            return describe(self, *batch)

    tiny = tiny_extractor(base)
    left = -(-(40 - finished_rows(base / "store")) // 4)
    extract(corpus, base / "store", Counting(tiny.backbone, tiny.weights_file))
    assert batches == [4] * left  # what was finished is not done again
    extract(corpus, tmp_path / "whole" / "store", tiny)
    assert arrays(base / "store") == arrays(tmp_path / "whole" / "store")
    manifests = [(f / "store" / "manifest.json").read_text() for f in (base, tmp_path / "whole")]
    assert manifests[0] == manifests[1]


def test_an_interrupted_extraction_keeps_its_batches(tmp_path, corpus, extractor):
    whole = extract(corpus, tmp_path / "whole", extractor)

    class Stopping(Extractor):
        calls = 0

        def describe(self, *batch):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().describe(*batch)

    stopping = Stopping(extractor.backbone, extractor.weights_file)
    with pytest.raises(KeyboardInterrupt):
        extract(corpus, tmp_path / "store", stopping, commit_seconds=1000)
    assert finished_rows(tmp_path / "store") == 4  # what was done is kept even so
    features = extract(corpus, tmp_path / "store", extractor, batch_size=16)
    assert features.manifest["batch_size"] == 4
    assert arrays(tmp_path / "store") == arrays(tmp_path / "whole")
    np.testing.assert_array_equal(features.regions, whole.regions)


def test_bad_pictures_are_named_and_the_others_kept(tmp_path, corpus, extractor, monkeypatch):
    whole = extract(corpus, tmp_path / "whole", extractor)
    good = {row: corpus.image_paths[row].read_bytes() for row in (2, 9)}
    spoil(corpus.image_paths[2])
    corpus.image_paths[9].unlink()
    with pytest.raises(UserError, match=r"2 of 11 pictures can't be read.*--skip-bad-images") as error:
        extract(corpus, tmp_path / "store", extractor)
    assert "photo002.jpg: can't be read" in str(error.value)
    assert "photo009.jpg: no such file" in str(error.value)
    assert "\n" not in str(error.value)

    with monkeypatch.context() as patch:
        forbid_describing(patch, extractor)
        features = extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
        with pytest.raises(UserError, match=r"photo002.jpg"):
            extract(corpus, tmp_path / "store", extractor)
    np.testing.assert_array_equal(features.bad_rows, [2, 9])
    assert features.manifest["bad_images"] == ["photo002.jpg", "photo009.jpg"]
    for row in range(11):
        if row in (2, 9):
            for name in ("regions", "objects", "boxes", "scores", "valid"):
                assert not getattr(features, name)[row].any(), name
        else:
            np.testing.assert_array_equal(features.regions[row], whole.regions[row])
            np.testing.assert_array_equal(features.objects[row], whole.objects[row])

    corpus.image_paths[9].write_bytes(good[9])
    with pytest.raises(UserError, match=r"1 of 11 pictures can't be read: .*photo002.jpg"):
        extract(corpus, tmp_path / "store", extractor)
    corpus.image_paths[2].write_bytes(good[2])
    mended = extract(corpus, tmp_path / "store", extractor)
    assert len(mended.bad_rows) == 0
    assert arrays(tmp_path / "store") == arrays(tmp_path / "whole")


def test_each_photo_is_decoded_once_for_backbone_and_detector(tmp_path, corpus, extractor, monkeypatch):
    decode, decoded = pictures.Image.open, []
    monkeypatch.setattr(pictures.Image, "open", lambda path, **how: decoded.append(path) or decode(path, **how))
    detector = Detector()
    extract(corpus, tmp_path / "store", extractor, boxes=detector)
    assert sorted(decoded) == sorted(corpus.image_paths)
    found = describer.Describer(corpus, extractor, detector, 10, 4).read(3)
    np.testing.assert_array_equal(found.pixels, read_picture(corpus.image_paths[3])[0])
    assert found.size == (60, 80)
    assert found.state.size == corpus.image_paths[3].stat().st_size


def test_rows_that_need_extraction(tmp_path, corpus, extractor):
    given = describer.Describer(corpus, extractor, None, 10, 4)
    find = MissingRows(tmp_path / "store", given, range(11), progress=False).find
    assert find().all()  # there is no store yet
    spoil(corpus.image_paths[2])
    spoil(corpus.image_paths[3])
    extract(corpus, tmp_path / "store", extractor, boxes=None, skip_bad_images=True)
    Image.new("RGB", (90, 70), "orange").save(corpus.image_paths[2])  # mended
    Image.new("RGB", (90, 70), "orange").save(corpus.image_paths[6])  # replaced
    assert np.flatnonzero(find()).tolist() == [2, 6]
    missing = MissingRows(tmp_path / "store", given, range(3, 8), progress=False)
    assert np.flatnonzero(missing.find()).tolist() == [6]
    assert (missing.bad, missing.in_shards) == ({3}, False)


def test_batches_with_wanted_rows(corpus, extractor):
    given = describer.Describer(corpus, extractor, "grid", 10, 4)
    batches = list(given.batches(np.isin(np.arange(11), [1, 2, 4, 5, 8, 9, 10])))
    assert [rows.tolist() for rows, _ in batches] == [[1, 2, 4, 5], [8, 9, 10]]
    assert not list(given.batches(np.zeros(11, bool)))
    corpus.image_paths[9].unlink()
    values = given.describe(batches[1][0], [given.read(row) for row in batches[1][0]])
    assert {name: (value.shape[1:], str(value.dtype)) for name, value in values.items()} == {
        **given.plan.arrays,
        **given.plan.kept,
    }
    assert values["sizes"].tolist()[1] == describer.UNREADABLE
    assert [bool(values[name][1].any()) for name in ("regions", "objects", "boxes", "valid")] == [False] * 4
    assert (values["classes"] == -1).all()
    assert "no such file" in given.reason(9)


def test_bad_pictures_are_looked_at_once_in_a_start(tmp_path, corpus, extractor, monkeypatch):
    for row in (1, 2):
        spoil(corpus.image_paths[row])
    extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
    Image.new("RGB", (90, 70), "orange").save(corpus.image_paths[9])
    read = []

    def count(path, side):
        read.append(path.name)
        return read_picture(path, side)

    monkeypatch.setattr(describer, "read_picture", count)
    extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
    again = ["photo001.jpg", "photo002.jpg"]
    assert sorted(read) == [*again, "photo009.jpg"]  # and the new one alone
    read.clear()
    extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
    assert sorted(read) == again


def test_another_process_has_extracted_before_the_lock_was_free(tmp_path, corpus, extractor, monkeypatch):
    extract(corpus, tmp_path / "store", extractor)
    Image.new("RGB", (90, 70), "orange").save(corpus.image_paths[6])
    other = Extractor(extractor.backbone, extractor.weights_file)

    def overtaken(folder, plan):
        monkeypatch.setattr(extraction, "StoreWriter", StoreWriter)
        extract(corpus, folder, other)
        return StoreWriter(folder, plan)

    monkeypatch.setattr(extraction, "StoreWriter", overtaken)
    forbid_describing(monkeypatch, extractor)
    features = extract(corpus, tmp_path / "store", extractor)  # not done again
    extract(corpus, tmp_path / "fresh", other)
    assert arrays(tmp_path / "store") == arrays(tmp_path / "fresh")
    assert features.manifest["finished_rows"] == 11


def test_only_bad_pictures(tmp_path, corpus, extractor, monkeypatch):
    for path in corpus.image_paths:
        path.unlink()
    forbid_describing(monkeypatch, extractor)
    for skip in (False, True):  # nothing would be left
        with pytest.raises(UserError, match=r"11 of 11 .*photo000.*photo001.*photo002.*; and 8 more; give another"):
            extract(corpus, tmp_path / "store", extractor, skip_bad_images=skip)


def test_a_replaced_picture_is_described_anew(tmp_path, corpus, extractor):
    before = np.array(extract(corpus, tmp_path / "store", extractor).regions)
    Image.new("RGB", (90, 70), "orange").save(corpus.image_paths[6])
    after = extract(corpus, tmp_path / "store", extractor)
    changed = (after.regions != before).any((1, 2))
    np.testing.assert_array_equal(np.flatnonzero(changed), [6])
    extract(corpus, tmp_path / "fresh", extractor)
    assert arrays(tmp_path / "store") == arrays(tmp_path / "fresh")
    spoil(corpus.image_paths[6])
    broken = extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
    np.testing.assert_array_equal(broken.bad_rows, [6])
    assert not broken.regions[6].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"boxes": None}, 'boxes is "grid" there, null asked for; arrays is'),
        ({"objects": 5}, "arrays is"),
        ({"boxes": "file"}, 'boxes is "grid" there, "[0-9a-f]{64}" asked for'),
    ],
)
def test_another_request_to_a_store(tmp_path, corpus, extractor, options, words):
    extract(corpus, tmp_path / "store", extractor)
    if options.get("boxes") == "file":
        write_boxes(tmp_path / "boxes.npz", corpus)
        options = {"boxes": tmp_path / "boxes.npz"}
    with pytest.raises(
        UserError, match=rf"manifest\.json: .*{words}.*; give what it was made with, or another --cache$"
    ):
        extract(corpus, tmp_path / "store", extractor, **options)


def test_other_weights_or_images(tmp_path, corpus, extractor):
    extract(corpus, tmp_path / "store", extractor)
    np.savez(tmp_path / "other.npz", **vgg_arrays(seed=1))
    other = Extractor(Backbone("tiny", "vgg19", 1 / 16), tmp_path / "other.npz")
    with pytest.raises(UserError, match=f'weights_sha256 is "{extractor.weights_sha256}" there'):
        extract(corpus, tmp_path / "store", other)
    fewer = SimpleNamespace(name="pictures", image_ids=corpus.image_ids[:9], image_paths=corpus.image_paths[:9])
    with pytest.raises(UserError, match="images is 11 there, 9 asked for"):
        extract(fewer, tmp_path / "store", extractor)


MEMORY = """
    import sys
    from pathlib import Path
    from benchmarks.memory import peak_mb
    from feature_fixtures import tiny_extractor, write_pictures
    from bssan_tf.features.extraction import extract_features

    base = Path(sys.argv[1])
    for count in (64, 640):
        corpus = write_pictures(base / f"photos{count}", count)
        extract_features(corpus, base / f"store{count}", tiny_extractor(base), boxes="grid", progress=False)
        print(peak_mb())
"""


@pytest.mark.large
def test_peak_memory(tmp_path, project):
    few, many = map(float, run(["-c", textwrap.dedent(MEMORY), tmp_path], project).split())
    assert many < 1024  # MB, TensorFlow included
    assert many - few < 60


def benchmark(project, tmp_path, *options):
    run(["-m", "benchmarks.extraction", *options, "--json", tmp_path / "result.json"], project)
    return json.loads((tmp_path / "result.json").read_text())


@pytest.mark.large
def test_the_benchmark_runs_without_any_data(tmp_path, project):
    result = benchmark(project, tmp_path, "--backbone", "slim", "--images", 8, "--rounds", 1, "--batch-size", 4)
    assert result["images"] == 8
    assert result["images_per_s"] > 0
    assert 0 < result["ratio_to_bare"] < 10
    assert 0 < result["peak_mb"] < 1024


@pytest.mark.large
def test_vgg16_on_real_photos_is_as_fast_as_the_bare_backbone_in_2_gb(tmp_path, project, shared_data):
    weights = shared_data / "weights" / "vgg16_imagenet_notop_float16.npz"
    options = ["--photos", shared_data / "flickr8k" / "images", "--backbone", "vgg16", "--backbone-weights", weights]
    result = benchmark(project, tmp_path, *options)
    assert result["peak_mb"] < 2048
    print({name: round(result[name], 3) for name in ("images_per_s", "bare_images_per_s", "ratio_to_bare")})
    assert result["cpu_ratio_to_bare"] > 0.9
    assert result["ratio_to_bare"] > 0.9


def test_weights_that_cannot_be_read_are_not_told_as_another_stores(corpus, tmp_path, extractor):
    extract(corpus, tmp_path / "store", extractor)
    (tmp_path / "bad.npz").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"--backbone-weights .*bad\.npz: not a readable \.npz") as error:
        extract(corpus, tmp_path / "store", Extractor(extractor.backbone, tmp_path / "bad.npz"))
    assert "delete" not in str(error.value)
