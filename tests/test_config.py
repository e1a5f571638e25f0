"""Presets, replacing fields, JSON, and what is refused."""

import dataclasses

import pytest

from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.errors import UserError


def test_paper_preset_is_the_printed_text():
    config = preset("paper").check()
    model, training = config.model, config.training
    assert (model.D, model.M, model.P, model.Q, model.E, model.H, model.S) == (
        196,
        512,
        10,
        4096,
        300,
        1024,
        512,
    )
    assert (model.w2r_mlp, model.o2w_mlp) == ((1024, 512, 128), (512, 256, 64))
    assert (model.o2w_weight, training.l2) == (0.6, 0.01)
    assert (training.optimizer, training.learning_rate, training.momentum) == ("sgd", 0.01, 0.9)
    assert (training.loss, training.negative_attention, training.negatives) == ("hinge", "uniform", 1)
    assert (training.negative_source, config.data.caption_length) == ("random", 30)
    # every part that the paper does not have is off
    assert (model.fusion, model.attention_scale, model.dropout, model.E_trained) == (0, 0, 0, 0)
    assert (model.region_norm, model.object_norm, model.train_embeddings) == ("none", "none", False)
    assert (training.clip_norm, training.warmup_steps, training.all_pairs, model.word_dropout) == (0, 0, 0, 0)
    assert not config.data.object_context
    assert (training.cca_start, training.glove_prior, training.group, training.schedule) == (False, 0, 1, "plateau")


@pytest.mark.parametrize("name", ["paper", "improved"])
@pytest.mark.parametrize("size", ["paper", "small", "tiny"])
@pytest.mark.parametrize("variant", ["full", "w2r", "o2w", "no_reg"])
def test_json_round_trip(name, size, variant):
    config = preset(name, size, variant).check()
    assert Config.from_json(config.to_json()) == config
    assert (config.training.l2 == 0) == (variant == "no_reg")


def test_replace_finds_the_section():
    config = preset().replace(data="coco", H=5, seed=3)
    assert (config.data.data, config.model.H, config.training.seed) == ("coco", 5, 3)
    with pytest.raises(TypeError, match="'hh'"):
        preset().replace(hh=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, r"--batch-size 0: must be above 0"),
        ({"dropout": 1.0}, r"--dropout 1.0: must be in \[0, 1\)"),
        ({"glove_prior": -0.1}, r"--glove-prior -0.1: must be 0 or more"),
        (
            {"negative_attention": "learned", "uniform_positives": 0.5},
            r"--uniform-positives 0.5: .* 0 with --negative-at",
        ),
        ({"early_signs": -1}, r"--early-signs -1: must be 0 or more"),
        ({"mixed_share": 2.0}, r"--mixed-share 2.0: must be between 0 and 1"),
        ({"negative_source": "batch", "negatives": 64}, r"--negatives 64: must be below --batch-size"),
        ({"seed": -1}, r"--seed -1: must be 0 or more"),
        ({"E_trained": -5}, r"--trained-embeddings -5: must be 0 or more"),
        ({"margin": 0.0}, r"--margin 0.0: must be above 0"),
        ({"loss": "mse"}, r"--loss mse: must be one of hinge, softmax"),
        ({"o2w_weight": -1.0}, r"--lambda -1.0"),
        ({"attention_scale": -1.0}, r"^--attention-scale -1.0: must be 0 or more"),
        ({"o2w_attention_scale": -1.0}, r"--o2w-attention-scale -1.0: must be 0 or more"),
        ({"o2w_attention_scale": float("nan")}, r"--o2w-attention-scale nan: must be 0 or more"),
        ({"learning_rate": float("nan")}, r"--learning-rate nan"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(UserError, match=message):
        preset("paper").replace(**values).check()


@pytest.mark.parametrize("text", ["{", "[]", '{"preset": "paper"}', '{"data": {"colour": 1}}'])
def test_damaged_json(text):
    with pytest.raises(UserError, match=r"^x/config.json: not a config"):
        Config.from_json(text, "x/config.json")


def test_unknown_names():
    for wrong in ({"name": "best"}, {"size": "huge"}):
        with pytest.raises(UserError, match="must be one of"):
            preset(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().seed = 1
