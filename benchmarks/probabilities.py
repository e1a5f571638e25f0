"""How sure a search may be of its hits: `python -m benchmarks.probabilities FILE.npy`.

In: FILE.npy and FILE.owners.txt of `evaluate.py RUN --out FILE.npy`. The calibration is fitted on every second image
with its captions, and measured on the others. Out: its expected error, and as Markdown what a least probability costs:
sentences whose image is absent and that find nothing, right first hits that are kept.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.metrics.calibration import fit_calibration, halves_of, measure
from bssan_tf.metrics.owners import read_owners
from bssan_tf.reading.arrays import open_npy

LEAST = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = cli.Parser(prog="python -m benchmarks.probabilities", description=__doc__.split("\n")[0])
    parser.add_argument("scores", type=Path, metavar="FILE.npy", help="of evaluate.py --out")
    options = parser.parse_args(arguments)
    scores = np.asarray(open_npy(options.scores, "keep them anew"))
    print(study(scores, read_owners(options.scores.with_suffix(".owners.txt"))))


def study(scores: np.ndarray, owners: np.ndarray) -> str:
    """The report on scores float (N_i, N_c) and their owners int (N_c,); UserError where no calibration can be had."""
    half, other = halves_of(scores, owners)
    if (found := fit_calibration(*half)) is None:
        raise UserError("scores: cannot tell right images from others; give those of a trained run")
    told = measure(found, *other)
    lines = [
        f"{len(other[0]):,} images, {len(other[1]):,} sentences",
        f"expected calibration error over the first ten hits: {told['error']:.1f} %",
        f"the default least probability is {found.threshold:.3f}",
        "",
        "| least probability | finds nothing, of sentences whose image is absent | right first hits that are kept |",
        "|---|---|---|",
    ]
    for least in sorted((*LEAST, found.threshold)):
        row = measure(dataclasses.replace(found, threshold=least), *other)
        lines.append(f"| {least:.3g} | {row['rejected']:.0f} % | {row['kept']:.0f} % |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
