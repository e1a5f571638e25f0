"""Faster R-CNN from the command line: train, evaluate, convert weights.

python -m bssan_tf.features.faster_rcnn --train --voc VOCdevkit --initial keras --out detectors/voc
python -m bssan_tf.features.faster_rcnn --evaluate detectors/voc/weights.npz --voc VOCdevkit --sets 2007 --part test
python -m bssan_tf.features.faster_rcnn --convert vgg16_faster_rcnn_iter_110000.ckpt --out voc.npz
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.settings import (
    BOUNDS,
    MOST_INTEGER,
    SCENES,
    SCENES_TRAINING,
    DetectorConfig,
    DetectorTraining,
)

logger = logging.getLogger("bssan_tf.features.faster_rcnn")


def build_parser() -> argparse.ArgumentParser:
    """The command line; flags of settings are None unless given."""
    usage, _, examples = __doc__.partition("\n\n")
    texts = {"description": usage, "epilog": examples, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = cli.Parser("python -m bssan_tf.features.faster_rcnn", **texts)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--train", action="store_true", help="train into the folder --out, or resume there")
    task.add_argument("--evaluate", metavar="FILE", help="print the mean average precision of these weights")
    task.add_argument("--convert", metavar="FILE", help="write these weights (.ckpt, .npz or .h5) to --out")
    data = parser.add_argument_group("photos, one of")
    data.add_argument("--voc", type=Path, metavar="DIR", help="the folder VOCdevkit of PASCAL VOC")
    data.add_argument("--coco", type=Path, metavar="FILE", help="instances_*.json of COCO; its photos are in --images")
    data.add_argument("--scenes", action="store_true", help="drawn shapes, with the settings of the slim detector")
    data.add_argument("--sets", help="years of VOC, joined by + (2007+2012; 2007 with --evaluate)")
    data.add_argument("--part", help="list of VOC's photos (trainval; test with --evaluate)")
    data.add_argument("--images", type=Path, metavar="DIR", help="folder of the photos of --coco")
    data.add_argument("--count", type=cli.count, help="number of scenes (4000; 200 with --evaluate)")
    data.add_argument("--cache", type=Path, default=Path("cache"), help="where scenes are drawn (cache)")
    parser.add_argument("--out", type=Path, help="folder of a training, or file that --convert writes")
    parser.add_argument("--initial", metavar="FILE", help="start from keras (VGG-16, downloaded) or these weights")
    parser.add_argument("--half", action="store_true", help="with --convert: write float16, half as large")
    measures = "with --evaluate: area under the precision curve, or VOC 2007's 11 points (area)"
    parser.add_argument("--metric", choices=("area", "11point"), default="area", help=measures)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    group = parser.add_argument_group("training")
    for usual, scenes in ((DetectorConfig(), SCENES), (DetectorTraining(), SCENES_TRAINING)):
        for name, setting in settings_with_flags(usual).items():
            default, drawn = getattr(usual, name), getattr(scenes, name)
            shown = f"{default}" if drawn == default else f"{default}; {drawn} with --scenes"
            group.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=f"{setting['help']} ({shown})")
    return parser


def settings_with_flags(section: DetectorConfig | DetectorTraining) -> dict[str, Mapping[str, str]]:
    """The settings that have a flag, by name: their "help" and their "rule"."""
    return {field.name: field.metadata for field in dataclasses.fields(section) if field.metadata}


def main(arguments: list[str] | None = None) -> None:
    """Parse and do what was asked."""
    options = build_parser().parse_args(arguments)
    if options.convert:
        convert(options)
        return
    if [bool(options.voc), bool(options.coco), options.scenes].count(True) != 1:
        raise UserError("photos: give one of --voc, --coco and --scenes")
    if options.coco and not options.images:
        raise UserError(f"--coco {options.coco}: give the folder of its photos by --images")
    for section in (DetectorConfig(), DetectorTraining()):
        given_settings(options, section)  # a wrong value is refused before photos are read or drawn
    cli.load_tensorflow()
    train(options) if options.train else evaluate(options)


def convert(options: argparse.Namespace) -> None:
    """Read any detector's weights, write our own."""
    cli.load_tensorflow()
    from bssan_tf.features.faster_rcnn.weights import load_detector, save_weights

    if options.out is None or options.out.suffix not in (".npz", ".h5"):
        raise UserError("--out: give the file to write, .npz or .h5")
    try:
        out = cli.writable(str(options.out))  # a file only for --convert, so the parser can't ask for it
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--out {error}") from None
    save_weights(load_detector(options.convert, flag="--convert"), out, options.half)
    print(out)


def read_photos(options: argparse.Namespace):
    """The photos that the flags name."""
    from bssan_tf.features.faster_rcnn import photos

    if options.scenes:
        part, count = ("train", 4000) if options.train else ("test", 200)
        folder, count = options.cache / "detector-scenes", options.count or count
        return photos.draw_scenes(folder, part, count, options.seed or 0, progress=not options.quiet)
    if options.coco:
        return photos.load_instances(options.coco, options.images)
    sets, part = ("2007+2012", "trainval") if options.train else ("2007", "test")
    return photos.load_voc(options.voc, options.sets or sets, options.part or part)


def settings(options: argparse.Namespace, labels: tuple[str, ...]) -> tuple[DetectorConfig, DetectorTraining]:
    """The settings of the data set with the flags that were given."""
    pair = (SCENES, SCENES_TRAINING) if options.scenes else (DetectorConfig(labels=labels), DetectorTraining())
    config, training = (dataclasses.replace(section, **given_settings(options, section)) for section in pair)
    if (step := training.decay_step) < (first := training.warmup_steps):
        raise UserError(f"--decay-step {step}: the first {first} steps are the warm-up; give a later one")
    return config, training


def given_settings(options: argparse.Namespace, section: DetectorConfig | DetectorTraining) -> dict[str, float]:
    """The settings of a section whose flags were given; UserError if a value breaks its rule."""
    rules = {name: setting["rule"] for name, setting in settings_with_flags(section).items()}
    given = {name: getattr(options, name) for name in rules if getattr(options, name) is not None}
    for name, value in given.items():
        if value < 0 or not value < math.inf or (value == 0 and rules[name] == "above 0"):
            least = rules[name].replace("0 or more", "of 0 or more")
            raise UserError(f"--{name.replace('_', '-')} {value}: must be a finite number {least}")
        low, high = BOUNDS.get(name, (0, MOST_INTEGER))
        if not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be from {low} to {high}")
    return given


def train(options: argparse.Namespace) -> None:
    """Train, and say where the weights are."""
    from bssan_tf.features.faster_rcnn import training

    if options.out is None:
        raise UserError("--out: give the folder of the training; the same again goes on with it")
    photos = read_photos(options)
    logger.info("%d photos, %d objects", len(photos.paths), sum(map(len, photos.boxes)))
    config, how = settings(options, photos.labels)
    training.train(photos, config, how, options.out, options.initial, not options.quiet)
    print(f"weights: {options.out / 'weights.npz'}   TensorBoard: tensorboard --logdir {options.out / 'logs'}")


def evaluate(options: argparse.Namespace) -> None:
    """Print the average precision of each class, their mean, and the speed."""
    import numpy as np
    from tqdm import tqdm

    from bssan_tf.features.faster_rcnn import average_precision
    from bssan_tf.features.faster_rcnn.detector import Detector
    from bssan_tf.features.pictures import read_picture

    photos, detector = read_photos(options), Detector(options.evaluate, "--evaluate")
    if detector.labels != photos.labels:
        raise UserError(f"--evaluate {options.evaluate}: its classes are not those of the photos; give other photos")
    found, seconds = [], 0.0
    for path in tqdm(photos.paths, desc="detecting", unit="photo", disable=options.quiet):
        start = time.perf_counter()
        found.append(detector.detect(read_picture(path, side=None)[0]))
        seconds += (time.perf_counter() - start) if len(found) > 1 else 0.0  # the first builds the graph
    truth = photos.boxes, photos.classes, photos.difficult
    mean, ap = average_precision.evaluate(found, *truth, len(photos.labels), options.metric)
    for label, value in zip(photos.labels, ap):
        print(f"{label:<16} {'no object' if np.isnan(value) else f'{value:.4f}'}")
    print(f"mAP@0.5 ({options.metric}) {mean:.4f} on {len(found)} photos")
    print(f"{(len(found) - 1) / max(seconds, 1e-9):.1f} photos/s")


if __name__ == "__main__":
    cli.run(main)
