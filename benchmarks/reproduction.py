"""What happens over the first steps of a training: runs of the paper's recipe and of others, and a picture of them.

    python -m benchmarks.reproduction -o collapse.png
    python -m benchmarks.reproduction --sets SETS.txt --steps 1000 --seeds 0 1 2 --common "--data flickr8k ..." -o c.png

Each set of flags is trained for so many steps with --early-signs; its learning rate stays, after the warm-up, as in
the first steps of a long run. Sets that the run folder has are only drawn, and refused if they are of other flags;
one that was interrupted is trained anew.
SETS.txt has a set a line, `name: flags of train.py`; without it, the sets below are taken.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.recipe import read_sets
from bssan_tf import cli
from bssan_tf.commands import train as command
from bssan_tf.config.schema import Config
from bssan_tf.runs.folder import RunFolder

SETS = {
    "paper": "--preset paper",
    "paper, learned attention": "--preset paper --negative-attention learned",
    "improved under Eq. 8": "--negative-attention uniform",
    "improved": "",
}


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, draw, and print the last row of each run."""
    parser = cli.Parser(prog="python -m benchmarks.reproduction", description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=Path, metavar="FILE", help="a set a line, `name: flags of train.py`")
    parser.add_argument("--common", default="", help="flags of every set, in one string (scenes)")
    parser.add_argument("--steps", type=cli.count, default=300, help="of each training (300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--title", default="", help="above the picture")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduction"), metavar="FOLDER")
    parser.add_argument("-o", "--out", type=cli.png, default="reproduction.png", help="PNG (reproduction.png)")
    options = parser.parse_args(arguments)
    sets = read_sets(options.sets) if options.sets else SETS
    configs = {name: config_of(f"{options.common} {flags}", options.steps) for name, flags in sets.items()}
    curves = {name: curves_of(name, config, options) for name, config in configs.items()}

    from benchmarks.charts import signs_figure

    signs_figure(curves, options.title, Path(options.out))
    for name, runs in curves.items():
        for seed, run in zip(options.seeds, runs):
            print(f"{name}, seed {seed}: " + "  ".join(f"{key} {values[-1]:.4g}" for key, values in run.items()))
    print(options.out)


def config_of(flags: str, steps: int) -> Config:
    """The config of train.py's flags for so many steps and one validation at their end."""
    config = command.config_of(command.build_parser().parse_args(shlex.split(flags)))
    return config.replace(schedule="plateau", epochs=1, steps_per_epoch=steps, early_signs=steps)


def curves_of(name: str, config: Config, options: argparse.Namespace) -> list[dict[str, np.ndarray]]:
    """The columns of early_signs.csv for each seed, after training where there is none."""
    import tensorflow as tf

    from bssan_tf.training import run as training
    from bssan_tf.training.early_signs import read_rows

    found = []
    for seed in options.seeds:
        run = RunFolder(options.runs / f"{name.replace('/', ' ')}, {config.data.data.replace('/', ' ')}, {seed}")
        if run.metrics_file.exists():
            run.require_settings(config.replace(seed=seed), "give another --runs")
        else:
            shutil.rmtree(run.path, ignore_errors=True)
            print(f"{run.path}: {options.steps} steps", flush=True)
            training.train(config.replace(seed=seed), run)
            tf.keras.backend.clear_session()  # else the graphs of all runs stay in memory
        rows = read_rows(run.early_signs_file)
        found.append({key: np.array([row[key] for row in rows]) for key in rows[0]})
    return found


if __name__ == "__main__":
    cli.run(main)
