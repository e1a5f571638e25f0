"""Which settings of the corrections of hubs are best: rsum of training pictures that the bank does not have.

    python -m benchmarks.hubs runs/NAME --images 500 --bank 100 500 --out hubs.npy
    python -m benchmarks.hubs runs/recipe/SET-0 --held 500

A run has trained on its training pictures, which makes their scores better than those of new ones. Only a run of
`benchmarks.recipe`, with the same `--held`, has not trained on the pictures that are measured; they chose its epoch.
CCAs are fitted without them in either case. Two Markdown tables are printed: every setting, the best of each method in
bold; and what the best gains.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bssan_tf import cli
from bssan_tf.config.settings import BANK
from bssan_tf.errors import UserError
from bssan_tf.metrics.recall import both_ways, ranks, summarise
from bssan_tf.runs.folder import RunFolder, find_run

GRID = {
    "csls": [{"k": k} for k in (1, 5, 10, 20, 50)],
    "inverted-softmax": [{"temperature": t} for t in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)],
    "qb-norm": [{"temperature": t, "top": n} for n in (1, 5) for t in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)],
    "nnn": [{"k": k, "alpha": a} for k in (4, 16, 64, 256) for a in (0.25, 0.5, 0.75, 1.0, 1.5)],
}
Found = Mapping[str, float]  # rsum by row: of the run, and of each CCA
Setting = tuple[str, str]  # a method, and its settings with the bank's size in words


def main(arguments: list[str] | None = None) -> None:
    """Score, try every setting, and print."""
    parser = cli.Parser(prog="python -m benchmarks.hubs", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="run folder (default: the latest)")
    parser.add_argument("--images", type=cli.count, default=500, metavar="N", help="pictures that are measured (500)")
    parser.add_argument(
        "--bank", type=cli.count, nargs="+", default=[100, BANK], metavar="N", help=f"sizes of the bank (100 {BANK})"
    )
    parser.add_argument(
        "--held", type=cli.count, metavar="N", help="the run is of benchmarks.recipe with this --held: measure its own"
    )
    parser.add_argument("--no-baseline", action="store_true", help="leave the CCAs out")
    parser.add_argument("--out", type=cli.scores_file, metavar="FILE", help="keep the scores, as evaluate.py does")
    cli.add_use_flags(parser)
    options = parser.parse_args(arguments)
    run = find_run(options.run)
    cli.load_tensorflow()
    before, after = study(run, options)
    print(f"at most {options.images:,} pictures that the run has {'not ' if options.held else ''}trained on\n")
    print(tables(run.name, before, after))


def study(run: RunFolder, options: argparse.Namespace) -> tuple[Found, dict[Setting, Found]]:
    """rsum without a correction, and with each setting; UserError as `open_run` and `Bank.draw`, or few pictures."""
    from bssan_tf.evaluation.hubs import Bank, bank_matrices
    from bssan_tf.evaluation.scores import Request, open_run

    flags, progress = cli.moved_files(options), not options.quiet
    data = data_for(run, options)
    request = Request(
        split="val", images=options.images, baseline=None if options.no_baseline else "cca", out=options.out,
        memory_mb=options.memory,
    )  # fmt: skip
    opened = open_run(run, request, flags, progress, data)
    part, train = opened.part, data.split("train")
    banks = {size: Bank.draw(train, size, part) for size in sorted(set(options.bank))}
    whole = banks[max(banks)]
    before: dict[str, float] = {}
    after: dict[Setting, dict[str, float]] = {}
    ccas = opened.cca() if request.baseline else ()
    for scores, bank_scores in ((opened.scores, opened.bank_scores), *((cca, cca) for cca in ccas)):
        matrices, of_bank = scores(part), bank_matrices(whole, part, bank_scores)
        for name, matrix in matrices.items():
            before[name] = rsum(matrix, matrix, part.image_of_caption)
            for size, bank in banks.items():
                pictures, captions = of_bank[name]
                parts = pictures[np.isin(whole.image_rows, bank.image_rows)], captions[: len(bank.captions)]
                for (method, told), value in tried(matrix, *parts, part.image_of_caption):
                    after.setdefault((method, f"{told}, bank {size:,}"), {})[name] = value
    return before, after


def data_for(run: RunFolder, options: argparse.Namespace):
    """The run's data, with pictures that are measured as `val`, and as `train` those that are not."""
    from benchmarks.recipe import hold_back
    from bssan_tf.runs.data import data_of_run, open_data

    config, progress = run.load_config().moved(cli.moved_files(options)), not options.quiet
    if options.held:
        data = hold_back(open_data(config.data, progress), options.held)
        run.require_same_data(data.fingerprint)
        return data
    data = data_of_run(run, config, progress)
    if (count := len(data.corpus.splits["train"])) < 2 * options.images:
        raise UserError(f"--images {options.images}: the train split has {count:,} pictures; give at most half of them")
    return hold_back(data, options.images)


def tried(
    matrix: np.ndarray, pictures: np.ndarray, captions: np.ndarray, owner: np.ndarray
) -> Iterator[tuple[Setting, float]]:
    """Each method and settings of GRID with rsum of scores (N_i, N_c), banks as `bank_matrices`, owner int (N_c,)."""
    from bssan_tf.evaluation.hubs import corrected

    for method, grid in GRID.items():
        for settings in grid:
            if settings.get("k", 0) > len(captions):
                continue  # all of the bank, as with fewer
            told = ", ".join(f"{name} {value:g}" for name, value in settings.items())
            yield (method, told), rsum(*corrected(method, matrix, pictures, captions, **settings), owner)


def rsum(i2t: np.ndarray, t2i: np.ndarray, owner: np.ndarray) -> float:
    """rsum of scores (N_i, N_c) for image to text and for text to image, owner int (N_c,)."""
    images = np.arange(len(i2t))
    return both_ways(summarise(ranks(i2t, images, owner)), summarise(ranks(t2i.T, owner, images)))["rsum"]


def tables(run: str, before: Found, after: Mapping[Setting, Found]) -> str:
    """Every setting, the best of each method bold, and below the gain of these."""
    from bssan_tf.evaluation.report import ROW_NAMES

    best: dict[tuple[str, str], Setting] = {}  # of a method, by row
    for setting, found in after.items():
        for row, value in found.items():
            kept = best.setdefault((setting[0], row), setting)
            if value > after[kept][row]:
                best[setting[0], row] = setting
    columns = [ROW_NAMES.get(row, run) for row in before]
    head = [f"| correction | settings | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    lines = [*head, f"| none | | {' | '.join(f'{value:.1f}' for value in before.values())} |"]
    for setting, found in after.items():
        cells = (f"**{found[row]:.1f}**" if best[setting[0], row] == setting else f"{found[row]:.1f}" for row in before)
        lines.append(f"| {setting[0]} | {setting[1]} | {' | '.join(cells)} |")
    lines += ["", f"| best | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for method in GRID:
        cells = (f"{best[method, row][1]}: {after[best[method, row]][row] - before[row]:+.1f}" for row in before)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
