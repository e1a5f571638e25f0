"""The run that comes with the package: what it is, and that it finds what it should."""

import json

import numpy as np
import pytest

from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs.folder import PACKAGED, find_run
from bssan_tf.runs.packed import CARD, MOST_BYTES


@pytest.fixture(scope="module")
def pretrained():
    run = find_run("pretrained", pretrained=True)
    assert run.path == PACKAGED
    return run


def test_it_is_small_and_says_what_it_is(pretrained):
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) <= MOST_BYTES
    card = (PACKAGED / CARD).read_text(encoding="utf-8")
    for word in ("Flickr8k", "research", "python train.py", "rsum", "float16", "fixed boxes"):
        assert word in card
    data = vars(pretrained.load_config().data)
    assert not [name for name, value in data.items() if "/" in str(value)]  # no places of files


def test_its_model_scores_features(pretrained):
    model, tokenizer = pretrained.load_model()
    config, rng = pretrained.load_config().model, np.random.default_rng(0)
    inputs = {
        "regions": rng.gamma(1.0, 1.0, (2, 196, config.M)).astype(np.float32),
        "objects": rng.gamma(1.0, 1.0, (2, config.P, config.Q)).astype(np.float32),
        "valid": np.ones((2, config.P), bool),
        "tokens": tokenizer(["a dog runs through the snow", "two children play football"]),
    }
    found = model.scorer(inputs)
    assert np.isfinite(found["score"]).all()
    assert (inputs["tokens"] > 1).sum() >= 9  # words that it knows


@pytest.mark.large
def test_real_photos_of_another_data_set_are_found(shared_data):
    folder, weights = shared_data / "coco_mini", shared_data / "weights" / "vgg16_imagenet_notop_float16.npz"
    found = json.loads((folder / "annotations" / "captions_train2017.json").read_text())
    captions = {one["image_id"]: one["caption"] for one in found["annotations"]}
    some = [one for one in found["images"] if one["id"] in captions][:40]
    files = [folder / "images" / one["file_name"] for one in some]
    scores = Matcher.load("pretrained", backbone_weights=weights).score(files, [captions[one["id"]] for one in some])
    ranks = (scores > np.diag(scores)).sum(axis=0)  # of each caption's photo
    assert np.mean(ranks < 5) > 0.4  # chance: 0.125
