"""--quiet while scenes are drawn: no bar, neither for a corpus, nor for a shard of it, nor for a detector."""

import pytest

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.datasets import scenes
from bssan_tf.features.faster_rcnn import __main__ as detector
from bssan_tf.features.faster_rcnn import photos
from bssan_tf.runs.data import extract_part, open_data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "DEFAULT_SIZES", {"train": 6, "val": 3, "test": 4})
    return tmp_path


@pytest.mark.parametrize("progress", [True, False])
def test_a_corpus(cache, monkeypatch, capsys, progress):
    monkeypatch.setattr("bssan_tf.runs.data._sources", lambda *_: (None, None, None))
    monkeypatch.setattr("bssan_tf.features.extraction.extract_features", lambda *_, **__: None)
    open_data(DataConfig(cache=str(cache)), progress=progress)
    assert ("scenes: drawing" in capsys.readouterr().err) is progress
    assert (cache / "scenes" / "manifest.json").exists()


def test_a_shard(cache, capsys):
    data = Config().replace(cache=str(cache)).resolved().data
    extract_part(data, "1/2", progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_scenes_of_a_detector(cache, monkeypatch, flags):
    off = []
    monkeypatch.setattr(photos, "tqdm", lambda steps, **how: off.append(how["disable"]) or steps)
    arguments = ["--train", "--scenes", "--count", "3", "--cache", str(cache), *flags]
    assert len(detector.read_photos(detector.build_parser().parse_args(arguments)).paths) == 3
    assert off == [True if flags else None]  # None: tqdm's own choice, a bar on a terminal
