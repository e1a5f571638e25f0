"""A run that is packed to be shipped: what `Matcher` needs, in float16, and a card that says what it is.

In: a finished run. Out: a folder that is used as a run, but not trained on: config.json, data.json, vocabulary.txt,
metrics.json, weights.npz, CARD.md. `python -m bssan_tf.runs.packed RUN FOLDER --card FILE` makes it.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_tf import cli
from bssan_tf.config.fields import hub_preset, is_preset_folder
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DATASETS, OF_TRAINING, DataConfig, fields_of, flag_of
from bssan_tf.datasets.text import SPECIAL, Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import read_npz, texts
from bssan_tf.reading.documents import read_text
from bssan_tf.reading.files import refusing
from bssan_tf.runs.folder import ANY, VOCABULARY, RunFolder, find_run
from bssan_tf.tools.files import file_sha256, write_text
from bssan_tf.tools.stack import assign_weights, path_of, weights_of

MOST_BYTES = 12_000_000
FRACTION = 10  # bits of float16's
LEAST_BITS = 5  # which cost nothing, where rare words do (docs/decisions.md)
CARD = "CARD.md"
REMEDY = "pack the run anew, or install the package anew"

logger = logging.getLogger(__name__)


class Packed(NamedTuple):
    """What a packed run takes, and how many of the run's words it knows."""

    size: int  # bytes
    words: int
    all_words: int
    bits: int  # of a weight's fraction


def pack(run: RunFolder, folder: Path, card: str, words: int | None = None, bits: int | None = None) -> Packed:
    """Write a run's best model to a new folder as a packed run.

    Weights are rounded to float16. The config keeps no place of files, only the names of those of training. The
    backbone's weights are told by its name alone, as Keras' download differs from copies of it in the last digits.

    Args:
        words: keep so many of the words, the most frequent of the training captions; None: as many as fit into 12 MB.
            The others are unknown words, as any that the run never had.
        bits: of a weight's fraction that are kept, from 1 to 10; None: as many as leave room for all words, 5 at least.

    Raises:
        UserError: no finished run, one on a preset's folder, a folder that is there, more than 12 MB.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; name another folder, or remove it")
    config = run.load_config()
    _check_networks(run, config.data)
    model, tokenizer = run.load_model()
    if run.calibration() is None:
        raise UserError(f"{run.path}: has no calibration, which comes with the end of a training; train the run anew")
    tables = {path_of(table) for layer in model.embeddings for table in layer.weights}
    with np.errstate(over="ignore"):  # told by `_checked`
        halves = {name: array.astype(np.float16) for name, array in weights_of(model.scorer).items()}
    _checked(run, halves)
    arrays = _checked(run, {name: _rounded(array, bits or FRACTION) for name, array in halves.items()})
    part = RunFolder(folder.with_name(f".{folder.name}.part"))
    shutil.rmtree(part.path, ignore_errors=True)
    part.path.mkdir(parents=True)
    write_text(part.config_file, _without_places(config).to_json() + "\n")
    shutil.copy(run.metrics_file, part.metrics_file)
    write_text(part.path / CARD, card)
    known = len(tokenizer.words) - len(SPECIAL)
    kept, per_word = min(words or known, known), sum(halves[name][0].nbytes for name in tables)
    per_word += max(len(f"{word}\n".encode()) for word in tokenizer.words) + 64  # compression varies by some bytes
    left, size = bits or FRACTION, _write_words(part, run, tokenizer, arrays, tables, kept, bits or FRACTION)
    while size > MOST_BYTES and not bits and left > LEAST_BITS:
        fewer_bits = {name: _rounded(array, left - 1) for name, array in halves.items()}
        if _infinite(fewer_bits):
            break
        left, arrays = left - 1, fewer_bits
        size = _write_words(part, run, tokenizer, arrays, tables, kept, left)
    while size > MOST_BYTES:
        fewer = kept - -(-(size - MOST_BYTES) // per_word)  # a word less saves no more than this: not too few are kept
        if words or fewer < 1:
            break
        kept = fewer
        size = _write_words(part, run, tokenizer, arrays, tables, kept, left)
    if size > MOST_BYTES:
        shutil.rmtree(part.path)
        problem = f"takes {size / 1e6:.1f} MB packed with {kept:,} words, more than {MOST_BYTES / 1e6:.0f}"
        raise UserError(
            f"{run.path}: {problem}; give fewer {'--words or ' if words else ''}--bits, or train a smaller one"
        )
    part.path.rename(folder)
    return Packed(size, kept, known, left)


def _checked(run: RunFolder, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, if all are finite."""
    if wrong := _infinite(arrays):
        raise UserError(f"{run.best}: {wrong[0]} does not fit into float16; the run can't be packed")
    return arrays


def _infinite(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of arrays that are not finite: a carry makes infinity of a large value, and may make a number of NaN."""
    return [name for name, array in arrays.items() if not np.isfinite(array).all()]


def _check_networks(run: RunFolder, data: DataConfig) -> None:
    """UserError for a network that only a folder of the user's holds; of own weights of another, a warning."""
    for name in ("backbone", "objects"):
        if (preset := hub_preset(getattr(data, name))) and is_preset_folder(preset):
            problem = f"was trained on a preset's folder ({flag_of(name)} {getattr(data, name)})"
            raise UserError(f"{run.path}: {problem}, which can't be packed; name a preset that KerasHub knows")
    if data.backbone_weights:
        told = "%s: is packed without %s, and will be used with the weights that Keras downloads for %s"
        logger.warning(told, run.path, data.backbone_weights, data.backbone)


def _without_places(config: Config) -> Config:
    """The config without places of files; of those that a use can do without, it keeps the name."""
    moving = {name: told.default for name, told in fields_of("data").items() if "moves" in told.metadata}
    named = (*OF_TRAINING, "boxes")  # so that it is known that there were such files
    moving |= {name: Path(file).name for name in named if (file := config[name])}
    if config.data.data not in DATASETS:
        moving["data"] = Path(config.data.data).name
    return config.replace(**moving)


def _write_words(
    part: RunFolder, run: RunFolder, tokenizer: Tokenizer, arrays: dict, tables: set, kept: int, bits: int
) -> int:
    """Write all that depends on how many words are kept; bytes of the folder then. `tables` have a row for each."""
    rows = len(SPECIAL) + kept
    Tokenizer(tokenizer.words[len(SPECIAL) : rows], tokenizer.length, tokenizer.rule).save(part.vocabulary_file)
    cut = {"words": kept, "of_words": len(tokenizer.words) - len(SPECIAL), "bits": bits}
    changed = {"weights_sha256": ANY, VOCABULARY: file_sha256(part.vocabulary_file), "packed": cut}
    write_text(part.data_file, json.dumps({**run.trained_data(), **changed}, indent=1) + "\n")
    values = [array[:rows] if name in tables else array for name, array in arrays.items()]
    named = {f"weight_{number}": _planes(array) for number, array in enumerate(values)}
    np.savez_compressed(part.packed_weights, names=np.array(list(arrays)), **named)
    return sum(path.stat().st_size for path in part.path.iterdir())


def _rounded(array: np.ndarray, bits: int) -> np.ndarray:
    """float16 of any shape with so many bits of the fraction; vectors and single values, which are few, as they are."""
    lost = FRACTION - bits
    if not lost or array.ndim < 2:
        return array
    whole = array.view(np.uint16).astype(np.uint32) + (1 << (lost - 1))  # a carry reaches the exponent, as it should
    return (whole >> lost << lost).astype(np.uint16).view(np.float16)


def _planes(array: np.ndarray) -> np.ndarray:
    """The bytes of float16 values, uint8 (2, ...): all lower ones before all higher ones, which zip packs better."""
    pairs = np.array(array, "<f2", order="C")[..., None].view(np.uint8)
    return np.array(np.moveaxis(pairs, -1, 0), order="C")


def _values(planes: np.ndarray) -> np.ndarray:
    """The float16 values of `_planes`; ValueError where it is something else."""
    if planes.dtype != np.uint8 or planes.shape[:1] != (2,):
        raise ValueError(f"{planes.dtype} {planes.shape} are not the bytes of float16")
    return np.array(np.moveaxis(planes, 0, -1), order="C").view("<f2")[..., 0]


def unpack(path: Path, scorer) -> None:
    """Read the weights of a packed run into a scorer; UserError where the file is damaged, or of another network."""
    found = read_npz(path, REMEDY)
    with refusing(str(path), "is not the weights of its config.json", REMEDY):
        names = texts(found["names"], "names")
        assign_weights(scorer, {name: _values(found[f"weight_{number}"]) for number, name in enumerate(names)})


def main(arguments: list[str] | None = None) -> None:
    """Pack a run."""
    parser = cli.Parser(prog="python -m bssan_tf.runs.packed", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a finished run")
    parser.add_argument("folder", type=Path, help="to be made")
    parser.add_argument(
        "--card", type=Path, required=True, metavar="FILE", help="Markdown: data and its licence, recipe, figures"
    )
    parser.add_argument(
        "--words",
        type=cli.count,
        metavar="N",
        help=f"keep the N most frequent words (default: as many as fit into {MOST_BYTES / 1e6:.0f} MB)",
    )
    parser.add_argument(
        "--bits",
        type=cli.count,
        choices=range(1, FRACTION + 1),
        metavar="N",
        help=f"keep N of the {FRACTION} bits of each weight's fraction (default: as many as leave room for all words, "
        f"{LEAST_BITS} at least)",
    )
    options = parser.parse_args(arguments)
    run, card = find_run(options.run), read_text(options.card, "write one", f"--card {options.card}")
    cli.load_tensorflow()
    size, words, known, bits = pack(run, options.folder, card, options.words, options.bits)
    rest = f"; the {known - words:,} rarest are unknown to it" if words < known else ""
    print(f"{options.folder}: {size / 1e6:.2f} MB, {bits} bits, {words:,} of {known:,} words{rest}")


if __name__ == "__main__":
    cli.run(main)
