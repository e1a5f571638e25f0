"""Training a detector: a step by hand, kill -9 and resume to the same numbers, the command line, bad requests."""

import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn import __main__ as command
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import SCENES, DetectorConfig, DetectorTraining
from bssan_tf.features.faster_rcnn.training import compile_training, train
from bssan_tf.features.faster_rcnn.weights import load_detector

TRAIN = [
    "--train", "--scenes", "--count", "6", "--steps", "6", "--save-every", "2", "--photos-per-step", "2", "--quiet",
]  # fmt: skip


def test_one_step_is_sgd_with_decay_of_kernels_and_double_rate_of_biases():
    config = DetectorConfig(labels=("cat",), width=1 / 16, hidden=8, anchor_scales=(2,))
    training = DetectorTraining(learning_rate=0.1, weight_decay=0.01, dropout=0.0, rpn_batch=8, roi_batch=4)
    tf.keras.utils.set_random_seed(0)
    model = FasterRcnn(config)
    graph = compile_training(model, training)
    inputs = {
        "pixels": np.random.default_rng(0).normal(0, 50, (1, 96, 96, 3)).astype(np.float32),
        "boxes": np.array([[[10, 10, 60, 60]]], np.float32),
        "classes": np.array([[1]], np.int32),
        "seed": np.array([[0, 0]], np.int32),
    }
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_mean(value) for value in graph(inputs, training=True).values())
    names = list(model.weights)
    gradients = dict(zip(names, tape.gradient(loss, list(model.weights.values()))))
    before = {name: weight.numpy() for name, weight in model.weights.items()}
    logs = graph.train_step(inputs)
    assert float(logs["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for name, weight in model.weights.items():
        if name.startswith(("block1", "block2")):
            np.testing.assert_array_equal(weight, before[name])  # frozen
        elif name.endswith("bias"):
            np.testing.assert_allclose(weight, before[name] - 0.2 * gradients[name], atol=1e-6)
        else:
            step = gradients[name] + 0.01 * before[name]
            np.testing.assert_allclose(weight, before[name] - 0.1 * step, rtol=1e-4, atol=1e-6)


def test_the_rate_falls_to_a_tenth_and_starts_there_with_a_warm_up():
    model = FasterRcnn(DetectorConfig(labels=("cat",), width=1 / 16, hidden=8))
    training = DetectorTraining(learning_rate=0.5, warmup_steps=10, decay_step=20)
    rate = compile_training(model, training).optimizer._learning_rate
    assert [round(float(rate(step)), 6) for step in (0, 9, 10, 19, 20, 999)] == [0.05, 0.05, 0.5, 0.5, 0.05, 0.05]
    training = dataclasses.replace(training, warmup_steps=20)  # as far as it may go
    rate = compile_training(model, training).optimizer._learning_rate
    assert {round(float(rate(step)), 6) for step in (0, 19, 20, 999)} == {0.05}


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "photos_per_s"} for row in csv.DictReader(file)]


def weights(folder):
    return {name: weight.numpy() for name, weight in load_detector(folder / "weights.npz").weights.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    command.main([*TRAIN, "--cache", str(folder / "cache"), "--out", str(folder / "run")])
    return folder


@pytest.mark.smoke
def test_a_training_leaves_weights_history_and_logs(whole):
    run = whole / "run"
    rows = history(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {"epoch", "loss", "rpn_class", "rpn_box", "roi_class", "roi_box"}
    parts = sum(float(rows[0][name]) for name in ("rpn_class", "rpn_box", "roi_class", "roi_box"))
    assert float(rows[0]["loss"]) == pytest.approx(parts, rel=1e-5)
    assert load_detector(run / "weights.npz").config == SCENES
    assert list(run.glob("logs/**/events*"))


@pytest.mark.large
def test_kill_9_and_resume_gives_the_same_numbers(whole, project, tmp_path):
    arguments = [*TRAIN, "--cache", str(whole / "cache"), "--out", str(tmp_path / "run")]
    child = subprocess.Popen(
        [sys.executable, "-m", "bssan_tf.features.faster_rcnn", *arguments], cwd=project, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state" / "epoch-1.npz").exists():
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "run" / "weights.npz").exists()
    command.main(arguments)
    assert history(tmp_path / "run") == history(whole / "run")
    resumed = weights(tmp_path / "run")
    for name, array in weights(whole / "run").items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_a_finished_training_is_only_written_out_again(whole, capsys):
    run, before = whole / "run", weights(whole / "run")
    (run / "weights.npz").unlink()
    command.main([*TRAIN, "--cache", str(whole / "cache"), "--out", str(run)])
    for name, array in weights(run).items():
        np.testing.assert_array_equal(array, before[name])
    assert str(run / "weights.npz") in capsys.readouterr().out


def test_evaluation_prints_each_class_and_the_mean(whole, capsys):
    command.main(
        ["--evaluate", str(whole / "run" / "weights.npz"), "--scenes", "--count", "3", "--cache", str(whole / "cache")]
    )
    said = capsys.readouterr().out.split("\n")
    assert len(said) == 64 + 2 + 1
    assert said[0].startswith("red circle")
    assert "mAP@0.5 (area)" in said[64]
    assert "on 3 photos" in said[64]
    assert said[65].endswith("photos/s")


def test_weights_are_converted(whole, tmp_path, capsys):
    command.main(["--convert", str(whole / "run" / "weights.npz"), "--out", str(tmp_path / "a.h5"), "--half"])
    converted = load_detector(tmp_path / "a.h5")
    for name, array in weights(whole / "run").items():
        np.testing.assert_array_equal(converted.weights[name], array.astype(np.float16))
    assert (tmp_path / "a.h5").stat().st_size < 0.6 * (whole / "run" / "weights.npz").stat().st_size


def test_the_help_names_the_default_of_each_setting_and_that_of_scenes():
    text = " ".join(command.build_parser().format_help().split())
    for said in ("(1.0; 0.125 with --scenes)", "(4096; 256 with --scenes)", "(80000; 2000 with --scenes)"):
        assert said in text
    assert "all random choices (0)" in text  # the same for both


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "--out", "x"], "give one of --voc, --coco and --scenes"),
        (["--train", "--scenes", "--voc", "y", "--out", "x"], "give one of --voc, --coco and --scenes"),
        (["--train", "--coco", "a.json", "--out", "x"], "give the folder of its photos by --images"),
        (["--train", "--scenes", "--count", "2"], "--out: give the folder of the training"),
        (
            ["--train", "--scenes", "--count", "2", "--out", "x", "--steps", "0"],
            "--steps 0: must be a finite number above 0",
        ),
        (
            ["--train", "--scenes", "--count", "2", "--out", "x", "--seed", "-1"],
            "--seed -1: must be a finite number of 0 or more",
        ),
        (["--train", "--scenes", "--count", "4", "--out", "x", "--initial", "no.npz"], r"--initial no\.npz: no such"),
        (
            ["--train", "--scenes", "--count", "2", "--out", "x", "--width", "nan"],
            "--width nan: must be a finite number",
        ),
        (
            ["--train", "--scenes", "--count", "2", "--out", "x", "--width", "inf"],
            "--width inf: must be a finite number",
        ),
        (
            ["--train", "--scenes", "--count", "2", "--out", "x", "--decay-step", "99"],
            "--decay-step 99: the first 100 st",
        ),
        (["--convert", "a.ckpt", "--out", "no/a.npz"], r"--out no/a\.npz: there is no folder no; make it first"),
        (["--convert", "a.ckpt", "--out", "a.pkl"], r"--out: give the file to write, \.npz or \.h5"),
        (["--convert", "a.ckpt", "--out", "a.npz"], r"^--convert a\.ckpt: no such file"),
        (["--evaluate", "a.npz", "--scenes", "--count", "1"], r"^--evaluate a\.npz: no such file"),
        (
            ["--train", "--scenes", "--count", "4", "--out", "x", "--initial", "bad.npz"],
            r"^--initial bad\.npz: not a re",
        ),
        (["--evaluate", "a.npz", "--voc", "nowhere"], "--voc nowhere"),
    ],
)
def test_bad_requests(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npz").write_text("no archive")
    with pytest.raises(UserError, match=words) as error:
        command.main([*arguments, "--quiet"])
    assert "\n" not in str(error.value)


def test_other_settings_than_the_folder_was_begun_with(whole):
    arguments = [*TRAIN, "--cache", str(whole / "cache"), "--out", str(whole / "run")]
    with pytest.raises(UserError, match=r"settings\.json: learning_rate is 0\.01 there, 0\.5 asked for"):
        command.main([*arguments, "--learning-rate", "0.5"])
    with pytest.raises(UserError, match=r"settings\.json: was begun with other photos"):
        command.main([*arguments, "--count", "4"])
    with pytest.raises(UserError, match=r"settings\.json: was begun with another --initial \(None\)"):
        command.main([*arguments, "--initial", str(whole / "run" / "weights.npz")])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"detector": 3}', None])
def test_damaged_settings(whole, tmp_path, content):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    (run / "settings.json").unlink() if content is None else (run / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.json: .*; remove its folder or give another --out") as error:
        command.main([*TRAIN, "--cache", str(whole / "cache"), "--out", str(run)])
    assert "\n" not in str(error.value)


def test_photos_with_other_boxes_are_other_photos(whole):
    arguments = command.build_parser().parse_args([*TRAIN, "--cache", str(whole / "cache")])
    photos = command.read_photos(arguments)
    moved = dataclasses.replace(photos, boxes=(photos.boxes[0] + 1, *photos.boxes[1:]))
    with pytest.raises(UserError, match=r"settings\.json: was begun with other photos \(6 with SHA-256"):
        train(moved, *command.settings(arguments, photos.labels), whole / "run", progress=False)


def test_refused_requests_leave_the_folder_free(tmp_path, whole):
    scenes = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), "--quiet"]
    sized = [*TRAIN, *scenes, "--short-side", "448", "--long-side", "448"]
    command.read_photos(command.build_parser().parse_args(sized))
    for i in range(0, 6, 2):  # of other sizes than the rest
        path = tmp_path / "cache" / "detector-scenes" / f"train_0_{i:05d}.jpg"
        with Image.open(path) as image:
            image.resize((224, 150)).save(path)
    with pytest.raises(UserError, match=r"--initial none\.npz: no such file"):
        command.main([*sized, "--initial", "none.npz"])
    with pytest.raises(UserError, match="the photos have several sizes; take 1"):
        command.main([*sized, "--photos-per-step", "6"])
    with pytest.raises(UserError, match=r"block1_conv1/kernel is .* 0\.01 of its width"):
        command.main([*sized, "--width", "0.01", "--initial", str(whole / "run" / "weights.npz")])
    assert not (tmp_path / "run").exists()


def test_what_a_training_has_not_saved_yet_binds_nothing(tmp_path, whole, monkeypatch):
    """The second batch can be refused, too."""
    scenes = [*TRAIN, "--cache", str(whole / "cache"), "--out", str(tmp_path / "run")]

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.keras.Model, "fit", stop)
    for more in ([], ["--learning-rate", "0.5"]):
        with pytest.raises(KeyboardInterrupt):
            command.main([*scenes, *more])
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["training"]["learning_rate"] == 0.5


def test_a_photo_that_cannot_be_read_is_named_in_one_line(tmp_path, whole):
    (tmp_path / "cache" / "detector-scenes").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (224, 224)).save(tmp_path / "cache" / "detector-scenes" / f"train_0_{i:05d}.jpg")
    (tmp_path / "cache" / "detector-scenes" / "train_0_00003.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train_0_00003\.jpg: can't be read as a picture") as error:
        command.main([*TRAIN, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")])
    assert "\n" not in str(error.value)
