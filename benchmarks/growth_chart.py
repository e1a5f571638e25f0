"""Draw how scoring grows: `python -m benchmarks.growth_chart growth.json -o growth.png`.

In: what `python -m benchmarks.scoring --json FILE` wrote. Out: one PNG, seconds above and memory below, over pictures,
captions, words of a caption and H.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

from bssan_tf import cli
from bssan_tf.drawing.figures import light, new_figure, save
from bssan_tf.errors import UserError

SERIES = {"images": "pictures", "captions": "captions", "length": "words of a caption", "H": "H"}


def growth_figure(rows: list[dict], budget_mb: float | None = None, out: Path | None = None) -> Figure:
    """Lines over each of the series.

    Args:
        rows: one of the names of `SERIES` each, and `seconds`, `pairs_per_s`, `peak_mb`.
        budget_mb: drawn beside the memory.
        out: where to write a PNG, if anywhere.
    """
    figure = new_figure(12, 5.5)
    axes = figure.subplots(2, len(SERIES), sharex="col")
    for column, (name, label) in enumerate(SERIES.items()):
        series = [row for row in rows if name in row]
        x = [row[name] for row in series]
        # captions of other lengths and models of other sizes have other numbers of pairs or operations
        rate = name in ("length", "H")
        above, below = axes[:, column]
        above.plot(x, [row["pairs_per_s" if rate else "seconds"] for row in series], marker="o")
        above.set_ylabel("pairs per second" if rate else "seconds")
        below.plot(x, [row["peak_mb"] for row in series], marker="o", color="tab:green")
        if budget_mb:
            below.axhline(budget_mb, color="grey", linestyle="--", linewidth=1)
        below.set(xlabel=label, ylabel="MiB")
        for axis in (above, below):
            axis.set(ylim=(0, None), xlim=(0, None))
            light(axis)
    if out is not None:
        save(figure, out)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Parse, read, draw."""
    parser = cli.Parser(prog="python -m benchmarks.growth_chart", description=__doc__.split("\n")[0])
    parser.add_argument("numbers", type=Path, help="JSON that benchmarks.scoring wrote")
    parser.add_argument("-o", "--out", type=cli.png, default="growth.png", help="PNG to write (growth.png)")
    options = parser.parse_args(arguments)
    try:
        numbers = json.loads(options.numbers.read_text(encoding="utf-8"))
        rows = numbers["growth"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{options.numbers}: no growth in it ({error}); write it by benchmarks.scoring --json"
        ) from None
    growth_figure(rows, numbers["memory_budget_mb"], Path(options.out))
    print(options.out)


if __name__ == "__main__":
    cli.run(main)
