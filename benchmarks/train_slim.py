"""Train the slim VGG-19 that ships with the package: `python -m benchmarks.train_slim --out FILE`.

In: scenes drawn on the fly, none of which a `scenes` corpus can hold. A linear layer on each of the 14 x 14 cells of
the last convolution must tell colour, shape and size of the object at its centre, so that regions are local and easy to
decode. Out: float16 weights for `build_vgg("vgg19", 1/8)`, or by `--layers vgg16` for the trunk that the slim Faster
R-CNN starts from. BatchNorm helps the training; it is folded into the convolutions at the end.
"""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from bssan_tf.cli import count
from bssan_tf.datasets.scene_pictures import COLOURS, SHAPES, SIDE, SIZES, Scene, draw_scene, plan_scene
from bssan_tf.features.backbones import BACKBONES, CONVOLUTIONS, build_vgg, preprocess
from bssan_tf.tools.files import replacing

logger = logging.getLogger(__name__)

CELLS = SIDE // 16  # per side of the grid
CLASSES = {"colour": 1 + len(COLOURS), "shape": 1 + len(SHAPES), "size": 1 + len(SIZES)}  # class 0: background
MEAN_FEATURE = 0.75  # of the shipped net's output on scenes
# Second part of a scene's seed. A corpus uses 0, 1 and 2 there, so none of its scenes is seen in training.
TRAINING, HELD_OUT = 10, 11


def draw_cells(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 224, 224, 3), RGB, as a corpus' JPEG files give them, and what is at the centre of each cell:
    int32 (N, 14, 14, 3), the classes of colour, shape and size."""
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), np.uint8)
    cells = np.zeros((len(scenes), CELLS, CELLS, 3), np.int32)
    colours, sizes = list(COLOURS), list(SIZES)
    for row, scene in enumerate(tqdm(scenes, desc="slim: drawing", unit="picture")):
        picture, owner = draw_scene(scene)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=90)
        pictures[row] = np.asarray(Image.open(file))
        at_centre = owner[8::16, 8::16]  # (14, 14)
        for index, thing in enumerate(scene.things):
            classes = colours.index(thing.colour), SHAPES.index(thing.shape), sizes.index(thing.size)
            cells[row][at_centre == index] = np.add(classes, 1)
    return pictures, cells


def add_batch_norm(plain: tf.keras.Model) -> tf.keras.Model:
    """The same network with BatchNorm between each convolution and its ReLU; random weights."""
    x = inputs = tf.keras.Input(plain.input_shape[1:], name="pixels")
    for layer in plain.layers[1:]:
        if isinstance(layer, tf.keras.layers.Conv2D):
            x = tf.keras.layers.Conv2D(layer.filters, 3, padding="same", use_bias=False, name=layer.name)(x)
            x = tf.keras.layers.BatchNormalization(momentum=0.97, name=f"{layer.name}_norm")(x)
            x = tf.keras.layers.ReLU(name=f"{layer.name}_relu")(x)
        else:
            x = type(layer).from_config(layer.get_config())(x)
    return tf.keras.Model(inputs, x)  # (B, 14, 14, M)


def fold_batch_norm(net: tf.keras.Model, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Weights with which the plain network gives `scale` (> 0) times the output of `net`, of `add_batch_norm`:
    "blockX_convY/kernel" float32 (3, 3, in, out) and "blockX_convY/bias" (out,)."""
    weights = {}
    for layer in net.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            norm = net.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = (weight.numpy() for weight in norm.weights)
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = f"{layer.name}/kernel", f"{layer.name}/bias"
            weights[kernel], weights[bias] = layer.kernel.numpy() * factor, beta - mean * factor
    return {**weights, kernel: weights[kernel] * scale, bias: weights[bias] * scale}  # the last passes the ReLU scaled


def batches(pictures: np.ndarray, cells: np.ndarray, batch: int, seed: int) -> tf.data.Dataset:
    """Endless training batches: shuffled, mirrored and a little brighter or darker at random."""

    def vary(row):
        picture, classes = tf.gather(pixels, row), tf.gather(targets, row)
        if tf.random.uniform(()) < 0.5:
            picture, classes = picture[:, ::-1], classes[:, ::-1]
        picture = tf.clip_by_value(tf.cast(picture, tf.float32) + tf.random.uniform((), -12, 12), 0, 255)
        weight = tf.where(classes[..., 0] > 0, 3.0, 1.0)  # most cells are background
        names = {name: classes[..., i] for i, name in enumerate(CLASSES)}
        return preprocess(picture), names, dict.fromkeys(CLASSES, weight)

    with tf.device("CPU"):
        pixels, targets = tf.constant(pictures), tf.constant(cells)
    rows = tf.data.Dataset.range(len(pictures)).shuffle(len(pictures), seed=seed).repeat()
    return rows.map(vary, tf.data.AUTOTUNE).batch(batch, drop_remainder=True).prefetch(2)


def train(net: tf.keras.Model, data: tf.data.Dataset, steps: int, learning_rate: float) -> None:
    """Fit the net and its heads by Adam under a cosine schedule with a short warm-up."""
    warm_up = max(1, steps // 20)
    schedule = tf.keras.optimizers.schedules.CosineDecay(
        learning_rate / 20, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    loss = {name: tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in CLASSES}
    net.compile(tf.keras.optimizers.Adam(schedule), loss, jit_compile=False)
    with tqdm(total=steps, desc="slim: training", unit="step") as bar:
        show = tf.keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda _, logs: bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            or bar.update()
        )
        net.fit(data, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0, callbacks=[show])


def cell_accuracy(net: tf.keras.Model, pictures: np.ndarray, cells: np.ndarray) -> dict[str, float]:
    """Share of right cells: "colour", "shape", "size" where there is an object, else "background"."""
    logits = net.predict(preprocess(pictures).numpy(), batch_size=32, verbose=0)
    held = cells[..., 0] > 0
    guesses = {name: logits[name].argmax(-1) for name in CLASSES}
    accuracy = {name: float((guesses[name] == cells[..., i])[held].mean()) for i, name in enumerate(CLASSES)}
    return {**accuracy, "background": float((guesses["colour"] == 0)[~held].mean())}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: draw, train, measure, fold and save."""
    parser = argparse.ArgumentParser("python -m benchmarks.train_slim", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights to write, .npz")
    parser.add_argument("--layers", choices=sorted(CONVOLUTIONS), default="vgg19", help="whose layout (%(default)s)")
    parser.add_argument("--steps", type=count, default=1400, help="training steps (%(default)s)")
    parser.add_argument("--batch", type=count, default=24, help="pictures per step (%(default)s)")
    parser.add_argument("--scenes", type=count, default=3000, help="pictures to train on (%(default)s)")
    parser.add_argument("--held-out", type=count, default=300, help="pictures to measure on (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="largest rate of Adam (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and order (%(default)s)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".npz":
        parser.error(f"--out {args.out}: must end in .npz")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be 0 or more")
    try:  # before the training, not after it
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out}: its folder cannot be made ({error})")

    tf.keras.utils.set_random_seed(args.seed)
    net = add_batch_norm(build_vgg(args.layers, BACKBONES["slim"].width))
    logits = {name: tf.keras.layers.Conv2D(number, 1, name=name)(net.output) for name, number in CLASSES.items()}
    headed = tf.keras.Model(net.input, logits)  # (B, 14, 14, classes) each, linear in a cell's feature
    scenes = [plan_scene((args.seed, TRAINING, i)) for i in range(args.scenes)]
    train(headed, batches(*draw_cells(scenes), args.batch, args.seed), args.steps, args.learning_rate)
    pictures, cells = draw_cells([plan_scene((args.seed, HELD_OUT, i)) for i in range(args.held_out)])
    mean = float(net.predict(preprocess(pictures).numpy(), batch_size=32, verbose=0).mean())
    scale = MEAN_FEATURE / max(mean, 1e-6)
    with replacing(args.out) as part, part.open("wb") as file:
        np.savez(file, **{key: value.astype(np.float16) for key, value in fold_batch_norm(net, scale).items()})
    said = ", ".join(f"{name} {value:.4f}" for name, value in cell_accuracy(headed, pictures, cells).items())
    logger.info("%s: %d bytes; share of right cells on held-out scenes: %s", args.out, args.out.stat().st_size, said)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
