"""A trained scorer as a SavedModel that needs neither this package nor Keras to be used.

In: the scorer, the tokenizer's layer, and if wanted what describes a photo inside a graph. Out: a folder for
`tf.saved_model.load` or TensorFlow Serving with two signatures, `serving_default` of features and token ids, and
`captions` of features and caption strings; and a third, `score_jpeg`, of JPEG or PNG files and caption
strings.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from bssan_tf.errors import UserError
from bssan_tf.tools.files import PATTERNS
from bssan_tf.tools.stack import take_plain_kernels

logger = logging.getLogger(__name__)


def export_saved_model(
    scorer: tf.keras.Model,
    tokenizer_layer: tf.keras.layers.TextVectorization,
    folder: Path,
    describe: Callable | None = None,
) -> None:
    """Write the scorer as a SavedModel; an older one in `folder` is replaced only when the new one is whole.

    `serving_default` takes the scorer's inputs by name, "tokens" int32 (B, L) among them; `captions` takes "captions"
    string (B,) in place of "tokens", and L is the longest of them. Both give all outputs of the scorer: "score" (B,),
    and of "w2r" (B,), "o2w" (B,), "alpha" (B, L, D) and "beta" (B, P, L) those that the variant has. B and L are free.

    With `describe`, `score_jpeg` takes "images" string (N_i,), the content of JPEG or PNG files, and "captions" string
    (N_c,), and gives "score", "w2r" and "o2w", as the variant has them, float32 (N_i, N_c), of all pairs. Photos are
    described and scored one after the other; what is held of all of them is their files and the scores.

    Args:
        scorer: dict in, dict out, with an input "tokens" int32 (B, L), padded by 0.
        tokenizer_layer: strings (B,) -> integers (B, L), padded by 0.
        folder: e.g. runs/NAME/export/1.
        describe: a picture file's content, string () -> the scorer's inputs but "tokens", of one picture (1, ...); an
            object whose `model` has all its weights.

    Raises:
        UserError: the folder can't be written.
    """
    take_plain_kernels(scorer)  # who uses it may have no GPU, or a caption without a word
    inputs = {name: value for name, value in scorer.input.items() if name != "tokens"}
    features = {name: tf.TensorSpec((None, *value.shape[1:]), value.dtype, name) for name, value in inputs.items()}

    def score_tokens(inputs: dict) -> dict:
        return scorer(inputs, training=False)

    def score_captions(inputs: dict) -> dict:
        inputs = dict(inputs)
        tokens = tokens_of(tokenizer_layer, inputs.pop("captions"))
        return scorer({**inputs, "tokens": tokens}, training=False)

    tokens = tf.TensorSpec((None, None), tf.int32, "tokens")
    captions = tf.TensorSpec((None,), tf.string, "captions")
    tokenizer_layer(tf.constant([""]))  # a layer that was never called can't be tracked
    archive = tf.keras.export.ExportArchive()
    archive.track(scorer)
    archive.track(tokenizer_layer)
    archive.add_endpoint("serving_default", score_tokens, [{**features, "tokens": tokens}])
    archive.add_endpoint("captions", score_captions, [{**features, "captions": captions}])
    if describe is not None:
        archive.track(describe.model)
        images = tf.TensorSpec((None,), tf.string, "images")
        score_files = scores_of_files(scorer, tokenizer_layer, describe)
        archive.add_endpoint("score_jpeg", score_files, [{"images": images, "captions": captions}])
    _write(archive, Path(folder))
    if PATTERNS.search(str(Path(folder).resolve())):
        logger.warning("%s: TensorFlow loads no SavedModel from a path with [, ], *, ? or \\; copy it first", folder)


def tokens_of(tokenizer_layer: tf.keras.layers.TextVectorization, captions: tf.Tensor) -> tf.Tensor:
    """Token ids int32 (N_c, L) of strings (N_c,); L is the longest of them, at least 1."""
    tokens = tf.cast(tokenizer_layer(captions), tf.int32)
    lengths = tf.reduce_sum(tf.cast(tokens != 0, tf.int32), axis=1)
    return tokens[:, : tf.maximum(tf.reduce_max(lengths), 1)]


def scores_of_files(
    scorer: tf.keras.Model, tokenizer_layer: tf.keras.layers.TextVectorization, describe: Callable
) -> Callable[[dict], dict]:
    """What `score_jpeg` runs."""
    parts = [name for name in ("score", "w2r", "o2w") if name in scorer.output]

    def score_files(inputs: dict) -> dict:
        tokens = tokens_of(tokenizer_layer, inputs["captions"])

        def score_file(content: tf.Tensor) -> dict:
            features = {name: tf.repeat(row, tf.shape(tokens)[0], axis=0) for name, row in describe(content).items()}
            scores = scorer({**features, "tokens": tokens}, training=False)
            return {name: scores[name] for name in parts}

        specs = {name: tf.TensorSpec((None,), tf.float32) for name in parts}
        return tf.map_fn(score_file, inputs["images"], fn_output_signature=specs, parallel_iterations=1)

    return score_files


def _write(archive: tf.keras.export.ExportArchive, folder: Path) -> None:
    part, old = (folder.with_name(folder.name + ending) for ending in (".part", ".old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):  # write_out prints every captured variable
            archive.write_out(str(part))
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = str(error).splitlines()[0]
        told = f"{folder}: SavedModel can't be written ({reason}); free some room or choose another folder"
        raise UserError(told) from error
