"""Pictures of what a model reaches: retrieval lists (Figures 5 and 6 of the paper) and curves.

In: scores, texts and pictures, or named curves; no model and no files. Out: matplotlib figures in the manner of
`figures.py`, which also writes them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bssan_tf.drawing.figures import bare, light, new_figure, quoted, save

RIGHT, WRONG = "#1a7f37", "#c62828"


def retrieval_figure(
    scores: np.ndarray,
    captions: Sequence[str],
    image_of_caption: np.ndarray,
    picture_of: Callable[[int], np.ndarray],
    images: Sequence[int] = (),
    queries: Sequence[int] = (),
    top: int = 5,
    out: Path | None = None,
) -> Figure:
    """Figures 5 and 6: photos with their best captions, captions with their best photos.

    Right ones are green, wrong ones red.

    Args:
        scores: float (N_i, N_c).
        captions: N_c texts.
        image_of_caption: int (N_c,).
        picture_of: image index -> uint8 (H, W, 3).
        images: image indices to show with their `top` captions.
        queries: caption indices to show with their `top` photos.
        out: where to write a PNG, if anywhere.
    """
    if not len(images) and not len(queries):
        raise ValueError("retrieval_figure: neither images nor queries")
    heights = [2.6] * len(images) + [2.7] * len(queries)
    figure = new_figure(12, sum(heights))
    panels = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)).tolist()
    for panel, image in zip(panels, images):
        axes = panel.subplots(1, 2, width_ratios=(1, 4))
        axes[0].imshow(picture_of(image))
        for rank, caption in enumerate(np.argsort(-scores[image], kind="stable")[:top]):
            colour = RIGHT if image_of_caption[caption] == image else WRONG
            y = 1 - (rank + 0.5) / top
            line = textwrap.shorten(f"{rank + 1}.  {captions[caption]}", 105, placeholder=" …")
            text = axes[1].text(0.01, y, line, color=colour, va="center", fontsize=12, parse_math=False)
            text.set_in_layout(False)
        bare(axes)
    for panel, caption in zip(panels[len(images) :], queries):
        axes = np.atleast_1d(panel.subplots(1, top))
        panel.suptitle(quoted(captions[caption], 100), fontsize=12, parse_math=False)
        for axis, image in zip(axes, np.argsort(-scores[:, caption], kind="stable")[:top]):
            axis.imshow(picture_of(image))
            _frame(axis, RIGHT if image_of_caption[caption] == image else WRONG)
        bare(axes)
    if out is not None:
        save(figure, out)
    return figure


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


def _frame(axis, colour: str) -> None:
    for spine in axis.spines.values():
        spine.set(edgecolor=colour, linewidth=4)
