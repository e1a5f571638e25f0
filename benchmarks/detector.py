"""Seconds of each stage of Faster R-CNN on one photo, and the peak memory.

Run `python -m benchmarks.detector PHOTO [--detector-weights FILE] [--json FILE]`. Without weights, random ones at full
width are used, as the speed hardly depends on them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.memory import peak_mb
from benchmarks.workload import show
from bssan_tf import cli
from bssan_tf.features.faster_rcnn.images import prepare
from bssan_tf.features.faster_rcnn.model import FasterRcnn
from bssan_tf.features.faster_rcnn.settings import DetectorConfig
from bssan_tf.features.faster_rcnn.weights import load_detector
from bssan_tf.features.pictures import read_picture


def main(arguments: list[str] | None = None) -> None:
    parser = cli.Parser(prog="python -m benchmarks.detector", description=__doc__.split("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--detector-weights", metavar="FILE", help="(random at full width)")
    parser.add_argument("--rounds", type=cli.count, default=3, help="of which the medians are shown (3)")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    result = measure(options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> dict:
    """Median seconds of the stages, of the first run, and of the whole graph."""
    weights = options.detector_weights
    model = load_detector(weights) if weights else FasterRcnn(DetectorConfig())
    graph, config = model.inference(), model.config
    stages = cut(graph)
    photo, (height, width) = read_picture(options.photo, side=None)

    def pixels():
        prepared, scale = prepare(photo, config.short_side, config.long_side)
        size = np.array([[height, width]], np.float32)
        return {"pixels": prepared[None], "scale": np.array([scale], np.float32), "size": size}

    whole = tf.function(lambda inputs: graph(inputs, training=False))
    seconds: dict[str, list[float]] = {name: [] for name in ("scaling", *stages, "whole graph")}
    for _ in range(options.rounds + 1):  # the first builds the graphs
        values, seconds_of = timed(pixels)
        seconds["scaling"].append(seconds_of)
        known = dict(values)
        for name, (run, takes, gives) in stages.items():
            inputs = [known[key] for key in takes]
            found, seconds_of = timed(lambda run=run, inputs=inputs: run(inputs))
            known.update(zip(gives, found))
            seconds[name].append(seconds_of)
        seconds["whole graph"].append(timed(lambda values=values: whole(values))[1])
    return {
        "photo": f"{width} x {height}",
        "pixels": f"{values['pixels'].shape[2]} x {values['pixels'].shape[1]}",
        "parameters": sum(int(np.prod(weight.shape)) for weight in model.weights.values()),
        **{f"{name}, s": float(np.median(times[1:])) for name, times in seconds.items()},
        "first time, s": sum(times[0] for times in seconds.values()),
        "peak_mb": peak_mb(),
    }


def cut(graph: tf.keras.Model) -> dict:
    """The inference graph in four parts: name -> (function, names of its inputs, names of its outputs)."""
    pixels, scale, size = (graph.input[name] for name in ("pixels", "scale", "size"))
    features = graph.get_layer("anchors").input
    rois, valid = graph.get_layer("proposals").output
    crops = graph.get_layer("roi_crop").output
    fc7 = graph.get_layer("detections").input[4]  # layers with weights belong to other graphs, too
    parts = {
        "trunk": ({"pixels": pixels}, {"features": features}),
        "RPN and proposals": ({"features": features, "pixels": pixels}, {"rois": rois, "valid": valid}),
        "RoI crop": ({"features": features, "rois": rois}, {"crops": crops}),
        "fc6 and fc7": ({"crops": crops}, {"fc7": fc7}),
        "heads and suppression": (
            {"fc7": fc7, "rois": rois, "valid": valid, "scale": scale, "size": size},
            dict(graph.output),
        ),
    }
    stages = {}
    for name, (inputs, outputs) in parts.items():
        part = tf.keras.Model(list(inputs.values()), list(outputs.values()))
        run = tf.function(lambda values, part=part: tf.nest.flatten(part(values, training=False)))
        stages[name] = run, tuple(inputs), tuple(outputs)
    return stages


def timed(run) -> tuple:
    """What a function returns, and its seconds on the clock."""
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
