"""A corpus of features without photos and the config of small runs on it, for several test files."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
import tiny_corpus

from bssan_tf.config.presets import preset
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.data import fit_config, open_data
from bssan_tf.runs.export import scores_of_files
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.training_state import newest_state

SIZES = {"H": 8, "S": 8, "w2r_mlp": (8, 6), "o2w_mlp": (8, 6), "E_trained": 10, "fusion": 6}


def write_features(folder, pictures=48):
    """Captions and imported features in `folder`; no photos, so that pictures of attention are left out."""
    tiny_corpus.write_corpus(folder, pictures)
    for photo in folder.glob("*.png"):
        photo.unlink()
    return folder


_PHOTOS = preset("improved", "small", data="flickr8k")
# what `improved` has on photos, as far as imported features allow
PHOTOS = {
    **{name: getattr(_PHOTOS.model, name) for name in (
        "bilinear", "weighted_lengths", "cosine_attention", "region_norm", "object_norm", "attention_scale",
        "o2w_attention_scale", "dropout", "o2w_weight",
    )},
    **{name: getattr(_PHOTOS.training, name) for name in (
        "all_pairs", "negative_attention", "negatives", "learning_rate", "o2w_rate", "schedule",
        "cca_start", "glove_prior",
    )},
}  # fmt: skip


def make_config(corpus, name="improved", **values):
    """A run of a few epochs on what `write_features` wrote, with the settings of scenes."""
    settings = {
        "data": str(corpus), "import_regions": str(corpus / "regions.npy"),
        "import_objects": str(corpus / "objects.npy"), "batch_size": 8, "negatives": 3, "epochs": 3,
        "validation_images": 0, "seed": 5, "warmup_steps": 2, **SIZES, **values,
    }  # fmt: skip
    return preset(name, "small").replace(**settings)


def leave_export_out(monkeypatch):
    """Runs without SavedModel and pictures, as the fixture `no_export`, for fixtures of a wider scope."""
    monkeypatch.setattr("bssan_tf.training.run.export_saved_model", lambda *_, **__: None)
    monkeypatch.setattr("bssan_tf.training.callbacks.AttentionImages.on_epoch_end", lambda *_, **__: None)


def saved_in_memory(monkeypatch):
    """Have matchers save nothing; returns what loads the signature `score_jpeg` of what they would have written."""
    kept = {}
    monkeypatch.setattr("bssan_tf.matching.serving.export_saved_model", lambda *given: kept.update({given[2]: given}))

    def load(folder):
        scorer, layer, _, describe = kept[Path(folder)]
        score = tf.function(scores_of_files(scorer, layer, describe))
        return SimpleNamespace(signatures={"score_jpeg": lambda **given: score(given)})

    return load


def without_steps(siamese, data, epochs, initial_epoch, callbacks, **_):
    """What fit does beside the steps, of which nothing is learned."""
    logs = {"loss": 1.0} | {f"{part}_{kind}": 1.0 for part in siamese.output for kind in ("loss", "ranking", "active")}
    listed = tf.keras.callbacks.CallbackList(callbacks, model=siamese, epochs=epochs)
    listed.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        listed.on_epoch_begin(epoch)
        listed.on_epoch_end(epoch, dict(logs))
    listed.on_train_end()


_load_model, _loaded = RunFolder.load_model, {}


def _load_once(run):
    """The model of a run with these weights and settings: to build it takes a second."""
    files = [run.best, run.packed_weights, run.config_file, run.vocabulary_file, run.data_file]
    read = [path.read_bytes() if path.is_file() else b"" for path in files]
    key = tuple(hashlib.sha256(content).digest() for content in read)
    if key not in _loaded:
        _loaded[key] = _load_model(run)
    return _loaded[key]


def share_models(monkeypatch):
    """Runs whose files are the same have one model, which tests only read."""
    monkeypatch.setattr(RunFolder, "load_model", _load_once)


def killed_in_the_last_epoch(run, folder):
    """A copy of a run as a kill during its last epoch would have left it."""
    copy, last = RunFolder(folder), run.load_config().training.epochs
    shutil.copytree(run.path, copy.path)
    for path in (copy.state / f"epoch-{last}.npz", copy.metrics_file):
        path.unlink()
    return copy


def same_weights(one, other):
    """Assert that the best weights of two runs are equal, and their last ones and the optimizer's, too."""
    best, other_best = ([w.numpy() for w in run.load_model()[0].scorer.weights] for run in (one, other))
    for a, b in zip(best, other_best):
        np.testing.assert_array_equal(a, b)
    states = [newest_state(run.state, run.history_file, run.metrics_file).arrays for run in (one, other)]
    assert len(states[0]) == len(states[1]) > len(best)  # the optimizer's, too
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def change_state(run, epoch, change):
    """Let `change` alter what the callbacks remember in a saved state."""
    path = run.state / f"epoch-{epoch}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    told = json.loads(arrays["callbacks"].tobytes())
    change(told)
    np.savez(path, **{**arrays, "callbacks": np.frombuffer(json.dumps(told).encode(), np.uint8)})


def untrained_run(folder, **values):
    """A run on the pictures of folder/photos, with extracted features and random weights; its name is its objects'."""
    where = {"data": str(folder / "photos"), "cache": str(folder / "cache"), "backbone": "slim"}
    config = preset("improved", "small").replace(**{**where, **SIZES, **values}).resolved()
    data = open_data(config.data, progress=False)
    tokenizer = Tokenizer.fit(data.split("train").captions, config.data.caption_length)
    config = fit_config(config, data.features, 0)
    found = RunFolder(folder / config.data.objects)
    found.create(config, ["test"], data.fingerprint, tokenizer.save)
    Bssan(config.model, len(tokenizer.words)).scorer.save(found.best)
    return found
