"""A run that is packed to be shipped: what `Matcher` needs, in float16, and a card that says what it is.

In: a finished run. Out: a folder that is used as a run, but not trained on: config.json, data.json, vocabulary.txt,
metrics.json, weights.npz, CARD.md. `python -m bssan_tf.runs.packed RUN FOLDER --card FILE` makes it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np

from bssan_tf import cli
from bssan_tf.config.settings import DATASETS, OF_TRAINING, fields_of
from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import read_npz, texts
from bssan_tf.reading.documents import read_text
from bssan_tf.reading.files import refusing
from bssan_tf.runs.folder import ANY, PACKED_WEIGHTS, RunFolder, find_run
from bssan_tf.tools.files import write_text
from bssan_tf.tools.stack import assign_weights, weights_of

MOST_BYTES = 12_000_000
CARD = "CARD.md"
REMEDY = "install the package anew"


def pack(run: RunFolder, folder: Path, card: str) -> int:
    """Write a run's best model to a new folder as a packed run; its size in bytes.

    Weights are rounded to float16. The config keeps no place of files, only the names of those of training. The
    backbone's weights are told by its name alone, as Keras' download differs from copies of it in the last digits.
    UserError: no finished run, a folder that is there, more than 12 MB.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; name another folder, or remove it")
    config, (model, _) = run.load_config(), run.load_model()
    if run.calibration() is None:
        raise UserError(f"{run.path}: has no calibration, which comes with the end of a training; train the run anew")
    moving = {name: told.default for name, told in fields_of("data").items() if "moves" in told.metadata}
    moving |= {name: Path(file).name for name in OF_TRAINING if (file := config[name])}  # that there were any
    if config.data.data not in DATASETS:
        moving["data"] = Path(config.data.data).name
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **moving))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    arrays = {name: array.astype(np.float16) for name, array in weights_of(model.scorer).items()}
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{run.best}: {wrong[0]} does not fit into float16; the run can't be packed")
    names, values = list(arrays), list(arrays.values())
    named = {f"weight_{number}": array for number, array in enumerate(values)}
    np.savez_compressed(part / PACKED_WEIGHTS, names=np.array(names), **named)
    packed = RunFolder(part)
    write_text(packed.config_file, config.to_json() + "\n")
    write_text(packed.data_file, json.dumps({**run.trained_data(), "weights_sha256": ANY}, indent=1) + "\n")
    for file in (run.vocabulary_file, run.metrics_file):
        shutil.copy(file, part / file.name)
    write_text(part / CARD, card)
    size = sum(path.stat().st_size for path in part.iterdir())
    if size > MOST_BYTES:
        shutil.rmtree(part)
        problem = f"takes {size / 1e6:.1f} MB packed, more than {MOST_BYTES / 1e6:.0f}"
        raise UserError(f"{run.path}: {problem}; train a smaller one")
    part.rename(folder)
    return size


def unpack(path: Path, scorer) -> None:
    """Read the weights of a packed run into a scorer; UserError where the file is damaged, or of another network."""
    found = read_npz(path, REMEDY)
    with refusing(str(path), "is not the weights of its config.json", REMEDY):
        names = texts(found["names"], "names")
        assign_weights(scorer, {name: found[f"weight_{number}"] for number, name in enumerate(names)})


def main(arguments: list[str] | None = None) -> None:
    """Pack a run."""
    parser = cli.Parser(prog="python -m bssan_tf.runs.packed", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a finished run")
    parser.add_argument("folder", type=Path, help="to be made")
    parser.add_argument(
        "--card", type=Path, required=True, metavar="FILE", help="Markdown: data and its licence, recipe, figures"
    )
    options = parser.parse_args(arguments)
    run, card = find_run(options.run), read_text(options.card, "write one", f"--card {options.card}")
    cli.load_tensorflow()
    print(f"{options.folder}: {pack(run, options.folder, card) / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
