"""The signature of picture files: in a SavedModel where one graph can hold all that it needs, else a word why not."""

import io
from types import SimpleNamespace

import pytest
import tensorflow as tf
from PIL import Image

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError
from bssan_tf.matching import serving
from bssan_tf.matching.serving import save_matcher


class FakeExtractor:
    """Whose regions are the pixels."""

    side, model = 4, "backbone"

    @staticmethod
    def graph(pixels, boxes, valid):
        return tf.reshape(tf.cast(pixels, tf.float16), (1, 16, 3)), tf.zeros((*boxes.shape[:2], 3), tf.float16)


class FakeMatcher:
    """Of a run whose scorer takes some inputs, and whose photos a reader describes, or none can."""

    tokenizer = SimpleNamespace(layer=None)

    def __init__(self, inputs, problem=None, **reader):
        self.model = SimpleNamespace(scorer=SimpleNamespace(input=dict.fromkeys((*inputs, "tokens"))))
        given = {"config": Config(), "data": DataConfig(), "boxes": None, "detector": None, "context": None, **reader}
        self.problem, self.given = problem, given

    @property
    def reader(self):
        if self.problem:
            raise UserError(self.problem)
        return SimpleNamespace(extractor=FakeExtractor, **self.given)


@pytest.fixture
def saved(monkeypatch):
    found = []
    monkeypatch.setattr(serving, "export_saved_model", lambda *given: found.append(given[-1]))
    return found


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"boxes": "my.npz"}, "objects are those of my.npz, which can't be in it; only the ten fixed boxes can"),
        (
            {"detector": object(), "data": DataConfig(objects="keras_hub:a")},
            "objects come from keras_hub:a, which can't be in it; only the ten fixed boxes can",
        ),
        ({"problem": "run: was trained on imported arrays"}, "run: was trained on imported arrays"),
    ],
)
def test_without_picture_files(saved, caplog, given, reason):
    save_matcher(FakeMatcher(("regions", "objects", "valid"), **given), "serving/1")
    assert saved == [None]
    assert [record.getMessage() for record in caplog.records] == [
        f"serving/1: without the signature score_jpeg: {reason}"
    ]


def test_a_detector_that_the_model_does_not_need_is_no_hindrance(saved, caplog):
    save_matcher(FakeMatcher(("regions",), detector=object()), "serving/1")
    assert not caplog.records
    (describe,) = saved
    file = io.BytesIO()
    Image.new("RGB", (5, 9), (250, 2, 1)).save(file, "PNG")
    (regions,) = describe(tf.constant(file.getvalue())).values()
    assert regions.dtype == tf.float32
    assert regions.numpy().tolist() == [[[250, 2, 1]] * 16]
    assert describe.model == "backbone"
