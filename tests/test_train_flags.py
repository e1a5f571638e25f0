"""From the flags of train.py to a config: what a flag that was given turns off beside itself."""

import re
import shlex
from pathlib import Path

import pytest

import train
from bssan_tf.errors import UserError

DOCS = Path(__file__).parents[1] / "docs" / "reproduction.md"


def config_of(flags):
    return train.config_of(train.build_parser().parse_args(shlex.split(f"--data flickr8k {flags}")))


def ways_to_leave_out():
    """The flags in the second column of the last tables of docs/reproduction.md."""
    table = DOCS.read_text(encoding="utf-8").split("| left out by |", 1)[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return [flags for row in rows for flags in re.findall(r"`(--[^`]+)`", row[2])]


def test_the_table_of_parts_is_found():
    assert {"--negative-source random", "--no-cca-start"} <= set(ways_to_leave_out())


@pytest.mark.parametrize("flags", ways_to_leave_out())
def test_each_part_of_the_preset_can_be_left_out(flags):
    assert config_of(flags).preset == "improved"  # no UserError


@pytest.mark.parametrize("flags", ["--no-bilinear", "--fusion 0 --no-bilinear", "--negative-source random"])
def test_all_pairs_go_with_what_they_need(flags):
    assert config_of(flags).training.all_pairs == 0
    with pytest.raises(UserError, match=r"--all-pairs 0\.5: must be 0 without"):
        config_of(f"{flags} --all-pairs 0.5")


@pytest.mark.parametrize("flags", ["--no-bilinear", "--all-pairs 0", "--negative-source random"])
def test_no_negative_is_under_eq_8_without_the_loss_of_all_pairs(flags):
    assert config_of("").training.negative_attention == "mixed"
    assert config_of(flags).training.negative_attention == "learned"
    assert config_of(f"{flags} --negative-attention mixed").training.negative_attention == "mixed"
    assert config_of(f"--preset paper {flags}").training.negative_attention == "uniform"


def test_weighted_lengths_go_with_the_bilinear_score():
    assert config_of("").model.weighted_lengths
    assert not config_of("--no-bilinear").model.weighted_lengths
    with pytest.raises(UserError, match="--weighted-lengths"):
        config_of("--no-bilinear --weighted-lengths")


def test_all_pairs_stay_otherwise():
    assert config_of("").training.all_pairs == 1
    assert config_of("--all-pairs 0.5").training.all_pairs == 0.5
    assert config_of("--preset paper --bilinear --fusion 8 --negative-source batch").training.all_pairs == 0


def test_w2r_has_no_objects_to_put_in_context():
    assert not config_of("--variant w2r").data.object_context
    assert config_of("--variant o2w").data.object_context


def test_flags_of_what_no_preset_has():
    flags = "--loss hinge --hinge semi_hard --negative-source hardest --pooled-pairs 0.5 --weight-decay 0.1 --ema 0.99"
    training, plain = config_of(flags).training, config_of("").training
    names = ("loss", "hinge", "negative_source", "pooled_pairs", "weight_decay", "ema")
    assert [getattr(training, name) for name in names] == ["hinge", "semi_hard", "hardest", 0.5, 0.1, 0.99]
    assert [getattr(plain, name) for name in names] == ["softmax", "mean", "batch", 0, 0, 0]
    assert training.all_pairs == plain.all_pairs == 1  # of the batch, too
    with pytest.raises(UserError, match=r"--pooled-pairs 0\.5: must be 0 without --bilinear"):
        config_of("--no-bilinear --pooled-pairs 0.5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--no-cca-start --glove-prior 0.5", "--glove-prior: has no effect without --cca-start"),
        ("--variant w2r --object-context", "--object-context: has no effect without O2W"),
        ("--momentum 0.5", "--momentum: has no effect without --optimizer sgd"),
        ("--plateau-factor 0.1", "--plateau-factor: has no effect without --schedule plateau"),
        ("--train-embeddings", "--train-embeddings: has no effect without --glove FILE"),
        ("--negative-attention learned --mixed-share 0.3", "--mixed-share: has no effect without --negative-att"),
        ("--variant no_reg --l2 0.1", r"--l2 0\.1: must be 0 with --variant no_reg"),
    ],
)
def test_a_flag_without_any_effect_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        config_of(flags)


@pytest.mark.parametrize("flags", ["--mixed-share 0.25", "--uniform-positives 0.5"])
def test_flags_of_mixed_attention_keep_it_without_the_loss_of_all_pairs(flags):
    assert config_of(f"--all-pairs 0 {flags}").training.negative_attention == "mixed"
