"""The SavedModel: both signatures, loaded where the package is not, give the Keras model's numbers."""

import dataclasses
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from graph_fixtures import products
from PIL import Image

from bssan_tf.config.presets import preset
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.export import export_saved_model
from bssan_tf.tools.stack import KERAS_3

M, P, Q, D = 3, 2, 5, 4
CAPTIONS = ["A red dog, on GRASS!", "dog", "unheard words", ""]
SIZES = {"D": D, "M": M, "P": P, "Q": Q, "E_glove": 0, "E_trained": 6, "H": 7, "S": 5, "fusion": 3}

LOADER = """
import json, sys
import numpy as np
import tensorflow as tf

try:
    import bssan_tf
    sys.exit("the package can be imported here: the test would show nothing")
except ImportError:
    pass
inputs = dict(np.load("inputs.npz"))
captions = json.load(open("captions.json"))
for variant in sys.argv[1:]:
    loaded = tf.saved_model.load(variant + "/1")
    for signature in ("serving_default", "captions"):
        call = loaded.signatures[signature]
        wanted = call.structured_input_signature[1]
        given = {name: tf.constant(inputs[name]) for name in wanted if name != "captions"}
        if "captions" in wanted:
            given["captions"] = tf.constant(captions)
        outputs = call(**given)
        np.savez(f"{variant}-{signature}.npz", **{name: value.numpy() for name, value in outputs.items()})
        two = call(**{name: value[:2] for name, value in given.items()})  # another batch size
        np.savez(f"{variant}-{signature}-two.npz", **{name: value.numpy() for name, value in two.items()})
    if "score_jpeg" in loaded.signatures:
        images = tf.constant([open(f"{i}.png", "rb").read() for i in range(2)])
        outputs = loaded.signatures["score_jpeg"](images=images, captions=tf.constant(captions))
        np.savez(f"{variant}-score_jpeg.npz", **{name: value.numpy() for name, value in outputs.items()})
"""


class Described:
    """Regions of a PNG of D = 2 x 2 pixels, by a network with weights."""

    def __init__(self):
        self.model = tf.keras.Sequential([tf.keras.layers.Dense(M)])
        self.model.build((None, D, 3))
        self.model.set_weights([np.random.default_rng(3).normal(0, 0.6, (3, M)), np.zeros(M)])

    def __call__(self, content):
        pixels = tf.reshape(tf.io.decode_png(content, channels=3), (1, D, 3))
        return {"regions": self.model(tf.cast(pixels, tf.float32) / 255)}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.fit(["a red dog on grass", "the dog"], length=30)


def scorer_of(variant, tokenizer):
    more = {"w2r_text": "cnn"} if variant == "w2r" else {}
    config = dataclasses.replace(
        preset("improved", "small", variant).model, **SIZES, **more, w2r_mlp=(4,), o2w_mlp=(3,)
    )
    model = Bssan(config, len(tokenizer.words)).scorer
    rng = np.random.default_rng(1)
    # Not as initialised: also the means and variances of BatchNorm have to come along.
    model.set_weights([rng.uniform(0.1, 0.9, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def tiny_scorer():
    """A stand-in without recurrent layers, quick to write: score = sum of the token ids' vectors."""
    tokens = tf.keras.Input((None,), dtype="int32", name="tokens")
    vectors = tf.keras.layers.Embedding(9, 1, name="embedding")(tokens)
    score = tf.keras.layers.GlobalAveragePooling1D(name="mean")(vectors)
    return tf.keras.Model({"tokens": tokens}, {"score": score})


@pytest.fixture(scope="module")
def inputs(tokenizer):
    rng = np.random.default_rng(0)
    tokens = tokenizer(CAPTIONS)
    return {
        "regions": rng.normal(size=(4, D, M)).astype(np.float32),
        "objects": rng.normal(size=(4, P, Q)).astype(np.float32),
        "valid": np.array([[True, True], [True, False], [True, True], [True, True]]),
        "tokens": tokens[:, :5],
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer, inputs):
    """Exports of two variants, one with picture files, and what a process without the package gets from them."""
    folder = tmp_path_factory.mktemp("export")
    scorers = {variant: scorer_of(variant, tokenizer) for variant in ("full", "w2r")}
    describe = Described()
    with pytest.MonkeyPatch.context() as patch:
        if KERAS_3:  # where there is a GPU, it would put in cuDNN's kernels alone, which run nowhere else
            rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")
            patch.setattr(rnn, "_is_gpu_available", lambda: True)
        for variant, scorer in scorers.items():
            more = [describe] if variant == "w2r" else []
            export_saved_model(scorer, tokenizer.layer, folder / variant / "1", *more)
    for i, pixels in enumerate(np.random.default_rng(2).integers(0, 255, (2, 2, 2, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    np.savez(folder / "inputs.npz", **inputs)
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))
    (folder / "load.py").write_text(LOADER)
    process = subprocess.run(
        [sys.executable, "-I", "load.py", *scorers], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return folder, scorers, describe


@pytest.mark.smoke
@pytest.mark.parametrize("signature", ["serving_default", "captions"])
@pytest.mark.parametrize(
    ("variant", "outputs"),
    [
        ("full", {"score", "w2r", "o2w", "alpha", "beta"}),
        ("w2r", {"score", "w2r", "alpha"}),
    ],
)
def test_same_numbers_without_the_package(exported, inputs, variant, outputs, signature):
    folder, scorers, _ = exported
    scorer = scorers[variant]
    expected = scorer({name: inputs[name] for name in scorer.input}, training=False)
    with np.load(folder / f"{variant}-{signature}.npz") as got:
        assert set(got.files) == outputs
        for name in outputs:
            assert got[name].shape == expected[name].shape
            np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)
        assert np.ptp(got["score"]) > 1e-3  # not all the same
    with np.load(folder / f"{variant}-{signature}-two.npz") as two:
        np.testing.assert_allclose(two["score"], expected["score"][:2], atol=1e-5)
        assert len(two["score"]) == 2


@pytest.mark.smoke
@pytest.mark.parametrize("variant", ["full", "w2r"])
def test_no_product_of_four_axes_and_no_kernel_of_a_gpu(exported, variant):
    """See test_products.py."""
    path = exported[0] / variant / "1"
    assert b"CudnnRNN" not in (path / "saved_model.pb").read_bytes()
    for call in tf.saved_model.load(str(path)).signatures.values():
        assert not products(call.graph.as_graph_def(add_shapes=True))


def test_picture_files_are_scored_without_the_package(exported, inputs):
    folder, scorers, describe = exported
    rows = [describe((folder / f"{i}.png").read_bytes())["regions"] for i in range(2)]
    with np.load(folder / "w2r-score_jpeg.npz") as got:
        assert {name: got[name].shape for name in got.files} == {"score": (2, 4), "w2r": (2, 4)}
        for found, row in zip(got["score"], rows):
            given = {"regions": np.repeat(row, 4, axis=0), "tokens": inputs["tokens"]}
            expected = scorers["w2r"]({name: given[name] for name in scorers["w2r"].input}, training=False)
            np.testing.assert_allclose(found, expected["score"], atol=1e-5)
        assert np.ptp(got["score"], axis=0).max() > 1e-3  # photos differ
        assert np.ptp(got["score"][:, :3], axis=1).max() > 1e-3  # and captions


def test_length_of_captions_is_free(exported, inputs):
    folder, *_ = exported
    call = tf.saved_model.load(str(folder / "full" / "1")).signatures["serving_default"]
    short = call(**{name: tf.constant(value) for name, value in inputs.items()})
    tokens = np.pad(inputs["tokens"], ((0, 0), (0, 25)))
    long = call(**{name: tf.constant(value) for name, value in {**inputs, "tokens": tokens}.items()})
    assert long["alpha"].shape == (4, 30, D)
    np.testing.assert_allclose(long["score"], short["score"], atol=1e-5)


def test_replaces_an_older_export_and_leaves_nothing_behind(tmp_path, capsys):
    target = tmp_path / "export" / "1"
    for leftover in (target, target.with_name("1.part")):
        leftover.mkdir(parents=True)
        (leftover / "old.txt").touch()
    never_called = Tokenizer.fit(["a red dog"], length=30)
    export_saved_model(tiny_scorer(), never_called.layer, target)
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    assert (target / "saved_model.pb").exists()
    assert not (target / "old.txt").exists()
    assert capsys.readouterr().out == ""


def test_failure_keeps_the_older_export(tmp_path, tokenizer, monkeypatch):
    target = tmp_path / "1"
    target.mkdir()
    (target / "old.txt").touch()

    def full_disk(self, path):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(type(tf.keras.export.ExportArchive()), "write_out", full_disk)
    with pytest.raises(UserError, match=r"can't be written .*No space left on device"):
        export_saved_model(tiny_scorer(), tokenizer.layer, target)
    assert (target / "old.txt").exists()


def test_folder_that_cannot_be_made(tmp_path, tokenizer):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/1: SavedModel can't be written"):
        export_saved_model(tiny_scorer(), tokenizer.layer, tmp_path / "file" / "1")
