"""Settings: told once, checked, made into flags; presets, replacing fields, JSON of this version and the one before."""

import dataclasses
import json
import logging
import shlex

import pytest

from bssan_tf import datasets
from bssan_tf.commands import train
from bssan_tf.config import fields, settings
from bssan_tf.config.fields import setting
from bssan_tf.config.flags import table
from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import TrainingConfig, fields_of, flag_of
from bssan_tf.errors import UserError


def test_paper_preset_is_the_printed_text():
    config = preset("paper").check()
    model, training = config.model, config.training
    assert (model.D, model.M, model.P, model.Q, model.E, model.H, model.S) == (196, 512, 10, 4096, 300, 1024, 512)
    assert (model.w2r_mlp, model.o2w_mlp) == ((1024, 512, 128), (512, 256, 64))
    assert (model.o2w_weight, training.l2) == (0.6, 0.01)
    assert (training.optimizer, training.learning_rate, training.momentum) == ("sgd", 0.01, 0.9)
    assert (training.loss, training.negative_attention, training.negatives) == ("hinge", "uniform", 1)
    assert (training.negative_source, config.data.caption_length) == ("random", 30)
    # every part that the paper does not have is off
    assert (model.fusion, model.attention_scale, model.dropout, model.E_trained) == (0, 0, 0, 0)
    assert (model.region_norm, model.object_norm, model.train_embeddings) == ("none", "none", False)
    assert (training.clip_norm, training.warmup_steps, training.all_pairs) == (0, 0, 0)
    assert not config.data.object_context
    assert (training.cca_start, training.glove_prior, training.schedule) == (False, 0, "plateau")


@pytest.mark.parametrize("name", ["paper", "improved"])
@pytest.mark.parametrize("size", ["paper", "small", "tiny"])
@pytest.mark.parametrize("variant", ["full", "w2r", "o2w", "no_reg"])
@pytest.mark.parametrize("data", ["scenes", "flickr8k"])
def test_json_round_trip(name, size, variant, data):
    config = preset(name, size, variant, data).check()
    assert Config.from_json(config.to_json()) == config
    assert (config.training.l2 == 0) == (variant == "no_reg")


def test_replace_finds_the_section():
    config = preset().replace(data="coco", H=5, seed=3)
    assert (config["data"], config["H"], config["seed"]) == ("coco", 5, 3)
    with pytest.raises(TypeError, match="'hh'"):
        preset().replace(hh=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, r"--batch-size 0: must be above 0"),
        ({"dropout": 1.0}, r"--dropout 1.0: must be 0 or more and below 1"),
        ({"glove_prior": -0.1}, r"--glove-prior -0.1: must be 0 or more"),
        ({"early_signs": -1}, r"--early-signs -1: must be 0 or more"),
        ({"uniform_positives": 2.0}, r"--uniform-positives 2.0: must be between 0 and 1"),
        ({"negative_source": "batch", "negatives": 64}, r"--negatives 64: must be below --batch-size"),
        ({"seed": -1}, r"--seed -1: must be 0 or more"),
        ({"seed": 2**32}, r"--seed 4294967296: must be 0 or more and below 2\^32"),
        ({"epochs": 10**400}, r"--epochs 10{19}: must be a number below 2\^32"),
        ({"margin": float("inf")}, r"--margin inf: must be a number below 2\^32"),
        ({"E_trained": -5}, r"--trained-embeddings -5: must be 0 or more"),
        ({"margin": 0.0}, r"--margin 0.0: must be above 0"),
        ({"plateau_factor": 1.0}, r"--plateau-factor 1.0: must be above 0 and below 1"),
        ({"loss": "mse"}, r"--loss mse: must be one of hinge, softmax"),
        ({"o2w_weight": -1.0}, r"--lambda -1.0"),
        ({"attention_scale": -1.0}, r"^--attention-scale -1.0: must be 0 or more"),
        ({"o2w_attention_scale": -1.0}, r"--o2w-attention-scale -1.0: must be 0 or more"),
        ({"o2w_attention_scale": float("nan")}, r"--o2w-attention-scale nan: must be 0 or more"),
        ({"learning_rate": float("nan")}, r"--learning-rate nan"),
        ({"caption_length": 0}, r"--caption-length 0: must be above 0"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(UserError, match=message):
        preset("paper").replace(**values).check()


@pytest.mark.parametrize("text", ["{", "[]", '{"preset": "paper"}', '{"data": {"colour": 1}}'])
def test_damaged_json(text):
    with pytest.raises(UserError, match=r"^x/config.json: (not (a config|valid JSON)|is a list).*train the run anew$"):
        Config.from_json(text, "x/config.json")


def test_unknown_names():
    for wrong in ({"name": "best"}, {"size": "huge"}):
        with pytest.raises(UserError, match="must be one of"):
            preset(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset().seed = 1


def changed(section, name, **values):
    """The JSON value of a config without one setting, and with others."""
    value = json.loads(preset("improved", data="flickr8k").to_json())
    del value[section][name]
    return {**value, **values}


def test_a_setting_that_a_config_does_not_have_yet_takes_its_default_with_a_word(caplog):
    caplog.set_level("INFO")
    config = Config.from_json(json.dumps(changed("training", "length_pool")), "runs/a/config.json")
    assert config == preset("improved", data="flickr8k")
    assert "runs/a/config.json: does not know all settings; taken are length_pool 32" in caplog.text


@pytest.mark.parametrize("number", [1, 99])
def test_a_config_of_another_format_is_refused_with_one_line(number):
    value = changed("training", "length_pool", format=number)
    values = [value, {key: told for key, told in value.items() if key != "format"}]  # which stands for format 1
    for one in values if number == 1 else values[:1]:
        with pytest.raises(UserError, match=rf"^c\.json: not a config .*its format is {number}, .*train the run anew$"):
            Config.from_json(json.dumps(one), "c.json")


@pytest.mark.parametrize(
    ("section", "name", "wrong"),
    [
        ("data", "root", 3), ("data", "caption_length", "30"), ("data", "allow_partial", 1), ("model", "H", 2.5),
        ("model", "w2r_mlp", [16, "8"]), ("model", "w2r_mlp", [0]), ("model", "bilinear", None),
        ("training", "margin", "wide"), ("training", "margin", float("nan")), ("training", "epochs", 10**30),
        ("training", "loss", ["hinge"]),
    ],
)  # fmt: skip
def test_a_config_with_a_value_of_another_type_is_refused_with_one_line(section, name, wrong):
    value = json.loads(preset().to_json())
    value[section][name] = wrong
    with pytest.raises(UserError, match=rf"^c\.json: not a config .*\({name} .*\); train the run anew$"):
        Config.from_json(json.dumps(value), "c.json")


def test_a_config_with_a_value_that_is_gone_is_refused_with_one_line():
    value = json.loads(preset().to_json())
    value["model"]["region_norm"] = "standard"
    with pytest.raises(UserError, match=r"^c\.json: --region-norm standard: must be one of none, sqrt_l2, centred$"):
        Config.from_json(json.dumps(value), "c.json")


def test_a_setting_told_in_one_place_is_flag_check_and_row_of_the_table(monkeypatch):
    told = ("tea", "int", setting(3, "cups of tea at each epoch", rule="above 0", needs={"bilinear": fields.SET}))
    more = dataclasses.make_dataclass("More", [told], bases=(TrainingConfig,), frozen=True)
    monkeypatch.setitem(settings.SECTIONS, "training", more)
    assert "cups of tea at each epoch (default: 3)" in " ".join(train.build_parser().format_help().split())
    assert config_of("--data flickr8k --tea 7")["tea"] == 7
    with pytest.raises(UserError, match="--tea -1: must be above 0"):
        config_of("--data flickr8k --tea -1")
    with pytest.raises(UserError, match="--tea 7: has no effect without --bilinear; add that, or leave it out"):
        config_of("--data flickr8k --tea 7 --no-bilinear")
    assert config_of("--data flickr8k --no-bilinear")["tea"] == 3
    assert "| `--tea` | cups of tea at each epoch | 3 |" in table()


def test_every_setting_has_a_phrase_and_needs_what_there_is():
    known = fields_of()
    for name, told in known.items():
        if "help" in told.metadata:
            assert len(told.metadata["help"].split()) >= 2 or told.metadata.get("choices"), name
        assert set(told.metadata.get("needs", {})) <= set(known)
        assert told.metadata.get("rule") in (None, *fields.RULES)
    assert settings.DATASETS == datasets.DATASETS


def config_of(flags):
    return train.config_of(train.build_parser().parse_args(shlex.split(flags)))


def photos(flags):
    return config_of(f"--data flickr8k {flags}")


@pytest.mark.parametrize("flags", ["--no-bilinear", "--fusion 0", "--negative-source random"])
def test_all_pairs_go_with_what_they_need(flags):
    assert photos("").training.all_pairs == 1
    assert photos(flags).training.all_pairs == 0
    with pytest.raises(
        UserError, match=r"--all-pairs 0\.5: has no effect with(out --bilinear| --negative-source random)"
    ):
        photos(f"{flags} --all-pairs 0.5")


def test_weighted_lengths_go_with_the_bilinear_score_and_that_with_the_fusion():
    assert photos("").model.weighted_lengths
    assert not photos("--no-bilinear").model.weighted_lengths
    assert not photos("--fusion 0").model.bilinear
    with pytest.raises(UserError, match="--weighted-lengths: has no effect without --bilinear; add that"):
        photos("--no-bilinear --weighted-lengths")
    with pytest.raises(UserError, match="--bilinear: has no effect without --fusion N; add that, or leave it out"):
        photos("--fusion 0 --bilinear")


def test_context_goes_where_there_is_none():
    assert not photos("--variant w2r").data.object_context
    assert photos("--variant o2w").data.object_context
    assert not photos("--import-regions r.npy").data.object_context
    with pytest.raises(UserError, match="--object-context: has no effect with --import-objects; leave that out"):
        photos("--import-objects o.npy --object-context")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--no-cca-start --glove-prior 0.5", "--glove-prior 0.5: has no effect without --cca-start"),
        (
            "--variant w2r --object-context",
            "--object-context: has no effect with --variant w2r; give full or o2w or no_reg, or leave it out",
        ),
        ("--momentum 0.5", "--momentum 0.5: has no effect with --optimizer adam; give sgd, or leave it out"),
        ("--momentum 0.9", "--momentum 0.9: has no effect with --optimizer adam"),
        ("--plateau-factor 0.1", "--plateau-factor 0.1: has no effect with --schedule cosine; give plateau"),
        ("--train-embeddings", "--train-embeddings: has no effect without --glove FILE"),
        (
            "--uniform-positives 0.5",
            "--uniform-positives 0.5: has no effect with --negative-attention learned; give uniform",
        ),
        ("--fuse fc --lambda 1", "--lambda 1.0: has no effect with --fuse fc; give sum, or leave it out"),
        ("--variant w2r --fuse fc", "--fuse fc: has no effect with --variant w2r; give full or no_reg"),
        (
            "--variant o2w --w2r-text cnn",
            "--w2r-text cnn: has no effect with --variant o2w; give full or w2r or no_reg",
        ),
        ("--fuse fc --lambda 0", r"--lambda 0\.0: has no effect with --fuse fc; give sum"),
        ("--variant no_reg --l2 0.1", r"--l2 0\.1: has no effect with --variant no_reg; give full"),
    ],
)
def test_a_flag_without_any_effect_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        photos(flags)


@pytest.mark.parametrize(
    ("flags", "backbone", "objects"),
    [
        ("", "slim", "faster_rcnn"),
        ("--objects boxes", "slim", "boxes"),
        ("--data coco", "vgg19", "grid"),
        ("--data coco --boxes b.npz", "vgg19", "boxes"),
        ("--data coco --backbone vgg16 --detector-weights d.npz", "vgg16", "faster_rcnn"),
        ("--data coco --objects keras_hub:dfine_nano_coco", "vgg19", "keras_hub:dfine_nano_coco"),
    ],
)
def test_backbone_and_objects_follow_from_the_data(flags, backbone, objects):
    data = config_of(flags).data
    assert (data.backbone, data.objects) == (backbone, objects)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data coco --objects boxes", "--objects boxes: no boxes given"),
        ("--data coco --objects faster_rcnn", "--objects faster_rcnn: no weights given"),
        ("--data coco --objects grid --boxes b.npz", r"--boxes b\.npz: is not used with --objects grid"),
        ("--data coco --objects keras_hub:a --boxes b.npz", r"--boxes b\.npz: is not used with --objects keras_hub:a"),
    ],
)
def test_objects_without_their_file_and_files_without_their_objects_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        config_of(flags)


def test_a_folder_that_data_named_moves_by_root():
    assert preset(data="my/photos").moved({"root": "elsewhere"}).data.data == "elsewhere"
    moved = preset(data="coco").moved({"root": "elsewhere"}).data
    assert (moved.data, moved.root) == ("coco", "elsewhere")


@pytest.mark.parametrize(
    ("own", "given", "objects", "boxes"),
    [
        ("boxes", {"objects": "keras_hub:a"}, "keras_hub:a", None),
        ("boxes", {"objects": "grid"}, "grid", None),
        ("boxes", {"objects": "boxes"}, "boxes", "own.npz"),
        ("keras_hub:a", {}, "keras_hub:a", None),
        ("keras_hub:a", {"boxes": "b.npz"}, "boxes", "b.npz"),
        ("grid", {"objects": "boxes", "boxes": "b.npz"}, "boxes", "b.npz"),
    ],
)
def test_objects_of_photos_that_are_not_the_run_s(own, given, objects, boxes):
    config = preset(data="coco").replace(objects=own, boxes="own.npz" if own == "boxes" else None)
    moved = config.moved(given).data
    assert (moved.objects, moved.boxes) == (objects, boxes)


@pytest.mark.parametrize(("own", "given"), [("faster_rcnn", "keras_hub:a"), ("keras_hub:a", "faster_rcnn")])
def test_objects_that_are_described_otherwise_than_the_run_s_are_refused(own, given):
    config = preset(data="coco").replace(objects=own, detector_weights="d.npz" if own == "faster_rcnn" else None)
    with pytest.raises(UserError, match=f"--objects {given}: the run's are {own}, which are described otherwise"):
        config.moved({"objects": given, "detector_weights": "d.npz"})


@pytest.mark.parametrize("flags", ["--objects keras_hub:", "--objects hub:a", "--objects keras_hub"])
def test_objects_of_no_known_source_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        config_of(flags)
    assert "must be one of faster_rcnn, boxes, grid, keras_hub:PRESET; see" in capsys.readouterr().err
    with pytest.raises(UserError, match=f"{flags}: must be one of faster_rcnn, boxes, grid, keras_hub:PRESET"):
        preset(data="coco").replace(objects=flags.split()[1]).check()


def test_what_a_given_flag_turns_off_is_said(caplog):
    caplog.set_level("INFO")
    photos("--fusion 0")
    assert "off, as other flags leave it without effect: --bilinear, --weighted-lengths, --all-pairs" in caplog.text
    caplog.clear()
    photos("--variant w2r")
    assert not caplog.text  # as the preset of that variant is


def test_flags_have_the_names_of_their_fields_but_for_letters():
    assert (flag_of("o2w_weight"), flag_of("H"), flag_of("early_signs")) == ("--lambda", "--lstm", "--early-signs")
    assert photos("--early-signs").training.early_signs == 300
    assert photos("--early-signs 40").training.early_signs == 40


def test_an_older_run_keeps_its_rule_of_words():
    value = json.loads(Config().to_json())
    assert value["data"].pop("word_rule") == "unicode"
    assert Config.from_json(json.dumps(value)).data.word_rule == "ascii"


def test_what_one_call_does_is_not_kept(caplog):
    config = preset("paper").replace(verify=False, check_photos=True)
    with caplog.at_level(logging.INFO):
        kept = Config.from_json(config.to_json())
    assert (kept.data.verify, kept.data.check_photos) == (True, False)
    assert "verify" not in config.to_json()
    older = json.loads(config.to_json())
    older["data"]["verify"] = False
    assert Config.from_json(json.dumps(older)).data.verify
    assert not caplog.records  # nothing is missing


def test_an_older_run_keeps_the_shares_of_its_objects():
    value = json.loads(photos("").to_json())
    assert value["data"].pop("object_shares") == [0.04, 0.08]
    assert Config.from_json(json.dumps(value)).data.object_shares == (0.1, 0.2)
    assert Config.from_json(photos("").to_json()) == photos("")


def test_an_older_run_has_an_lstm_and_a_sum():
    value = json.loads(preset("paper").to_json())
    assert (value["model"].pop("w2r_text"), value["model"].pop("fuse")) == ("lstm", "sum")
    assert Config.from_json(json.dumps(value)) == preset("paper")


def test_a_dense_layer_over_both_networks_has_no_lambda():
    assert photos("--preset paper --fuse fc").model.o2w_weight == 1
    assert photos("--preset paper").model.o2w_weight == 0.6


def test_runs_of_before_have_their_rows_in_the_order_of_the_splits():
    older = json.loads(preset("paper").to_json())
    assert older["data"].pop("imported_order") == "file"
    assert Config.from_json(json.dumps(older)).data.imported_order == "splits"


def test_a_config_of_the_other_keras_is_read_and_told_once(caplog):
    caplog.set_level("INFO")
    value = json.loads(preset("improved").to_json())
    other = {2: 3, 3: 2}[value["format"]]
    for _ in range(2):
        config = Config.from_json(json.dumps({**value, "format": other}), "other/config.json")
    assert config == preset("improved")
    told = f"other/config.json: of Keras {other}, this is Keras {value['format']}: scores are the same to 1e-4"
    assert caplog.messages.count(told) == 1
