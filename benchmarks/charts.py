"""Charts of the benchmarks: named curves, and the early signs of collapse.

In: named curves; no model and no files. Out: matplotlib figures in the manner of
`figures.py`, which also writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bssan_tf.drawing.figures import light, new_figure, save


def curves_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    out: Path | None = None,
) -> Figure:
    """Line plot of named curves, each (x, y)."""
    figure = new_figure(8, 5)
    axis = figure.add_subplot()
    for name, (x, y) in curves.items():
        axis.plot(x, y, marker="o" if len(x) < 30 else None, markersize=4, linewidth=2, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title, parse_math=False)
    light(axis)
    if curves:
        axis.legend(frameon=False)
    if out is not None:
        save(figure, out)
    return figure


SIGNS = {
    "hinge": (("{part}_hinge_eq8", "--"), ("{part}_hinge_learned", "-")),
    "score gap": (("{part}_gap_eq8", "--"), ("{part}_gap_learned", "-")),
    "pairs ranked right": (("{part}_right_eq8", "--"), ("{part}_right_learned", "-")),
    "entropy of {letter} on positives": (("{part}_entropy", "-"),),
    "rsum": (("rsum", "-"),),
}


def signs_figure(
    curves: Mapping[str, Sequence[Mapping[str, np.ndarray]]], title: str = "", out: Path | None = None
) -> Figure:
    """What `early_signs.py` measured, over the steps: W2R on the left, O2W on the right, rsum below.

    Negatives under Eq. 8 are dashed, under learned attention solid. Lines are means over the runs of a name; its
    runs' range is shaded.

    Args:
        curves: {name: the columns of `early_signs.csv` of each of its runs}.
    """
    figure = new_figure(9, 12)
    axes = figure.subplots(len(SIGNS), 2, sharex=True)
    for (ylabel, lines), row in zip(SIGNS.items(), axes):
        for axis, part, letter in zip(row, ("w2r", "o2w"), ("α", "β")):
            for (name, runs), colour in zip(curves.items(), _colours(curves)):
                for column, style in lines:
                    _mean_and_range(axis, runs, column.format(part=part), colour, style, name)
            axis.set(ylabel=ylabel.format(letter=letter))
            light(axis)
            if "gap" in ylabel:
                axis.set_yscale("symlog", linthresh=0.1)
    for axis, name in zip(axes[0], ("W2R", "O2W")):
        axis.set_title(name)
    for axis in axes[-2]:
        axis.tick_params(labelbottom=True)
        axis.set(xlabel="step")
    axes[-1, 0].set(xlabel="step")
    axes[-1, 0].set_title("whole model")
    _legend(axes[-1, 1], axes[-1, 0])
    figure.suptitle(title, parse_math=False)
    if out is not None:
        save(figure, out)
    return figure


def _colours(names) -> np.ndarray:
    return colormaps["tab10"](np.arange(len(names)) % 10)


def _mean_and_range(axis, runs, column: str, colour, style: str, name: str) -> None:
    """Mean and range of a column over the steps that all runs have."""
    runs = [run for run in runs if column in run]  # a variant may have one network only
    if runs:
        count = min(len(run[column]) for run in runs)
        steps, values = runs[0]["step"][:count], np.stack([run[column][:count] for run in runs])
        there = np.isfinite(values).all(axis=0)  # rsum is not measured at every step
        steps, values = steps[there], values[:, there]
        axis.plot(steps, values.mean(axis=0), style, color=colour, linewidth=1.8, label=name)
        axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.12, linewidth=0)


def _legend(axis, drawn) -> None:
    """What colours and styles mean, in place of a chart."""
    handles, names = drawn.get_legend_handles_labels()
    styles = [Line2D([], [], color="black", linestyle=style) for style in ("-", "--")]
    names += ["all pairs under learned attention", "negatives under Eq. 8"]
    axis.clear()
    axis.axis("off")
    axis.legend([*handles, *styles], names, frameon=False, loc="center left")
