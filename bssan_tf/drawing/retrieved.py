"""What was retrieved, and how retrieval depends on λ and δ: Figures 5, 6 and 9 of the paper.

In: pictures, sentences and numbers. Out: matplotlib figures, in the manner of `figures.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from bssan_tf.drawing.figures import COLOURS, bare, light, new_figure

RIGHT, WRONG = "#007a3d", "#c00000"  # green and red; the marks before sentences tell them apart without colour
MARKS = {True: "✓", False: "✗"}
_WIDTH = 52  # characters of a line of a sentence


def sentences_figure(pictures: Sequence[np.ndarray], found: Sequence[Sequence[tuple[str, bool]]]) -> Figure:
    """Figure 5: pictures, each with its best sentences, right ones green and wrong ones red.

    Args:
        pictures: uint8 (H, W, 3).
        found: for each picture its sentences, best first, and whether they are its own.
    """
    columns = 2 if len(pictures) > 1 else 1
    rows = -(-len(pictures) // columns)
    figure = new_figure(7.0 * columns, 3.2 * rows)
    axes = figure.subplots(rows, 2 * columns, width_ratios=(1, 1.6) * columns, squeeze=False)
    for place, (picture, sentences) in enumerate(zip(pictures, found)):
        photo, text = axes[place // columns, 2 * (place % columns) :][:2]
        photo.imshow(picture)
        lines = [(textwrap.wrap(sentence, _WIDTH), right) for sentence, right in sentences]
        total = sum(len(wrapped) + 0.4 for wrapped, _ in lines)
        height = 0.0
        for wrapped, right in lines:
            told = "\n".join([f"{MARKS[right]} {wrapped[0]}", *(f"   {line}" for line in wrapped[1:])])
            at = 1 - height / max(total, 12)
            style = {"color": RIGHT if right else WRONG, "va": "top", "fontsize": 10, "parse_math": False}
            text.text(0, at, told, transform=text.transAxes, **style)
            height += len(wrapped) + 0.4
    bare(axes.ravel())
    return figure


def pictures_figure(
    sentences: Sequence[str], found: Mapping[str, Sequence[Sequence[tuple[np.ndarray, bool]]]]
) -> Figure:
    """Figure 6: sentences with their best pictures under each variant, the right one framed.

    Args:
        sentences: the queries.
        found: {variant: for each sentence its pictures uint8 (H, W, 3), best first, and whether it is the right one}.
    """
    best = max(len(pictures) for rows in found.values() for pictures in rows)
    figure = new_figure(1.7 * best + 1.6, len(sentences) * (1.75 * len(found) + 0.5))
    panels = np.atleast_1d(figure.subfigures(len(sentences), 1))
    for place, (panel, sentence) in enumerate(zip(panels, sentences)):
        panel.suptitle("\n".join(textwrap.wrap(f"“{sentence}”", 90)), fontsize=12, parse_math=False)
        axes = panel.subplots(len(found), best, squeeze=False)
        for row, (variant, rows) in zip(axes, found.items()):
            row[0].set_ylabel(variant, rotation=0, ha="right", va="center", fontsize=11)
            for axis, (picture, right) in zip(row, rows[place]):
                axis.imshow(picture)
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    side.set(visible=right, color=RIGHT, linewidth=5)
            bare(row[len(rows[place]) :])
    return figure


def sensitivity_figure(
    curves: Mapping[str, Mapping[float, Sequence[Mapping | None]]], names: Mapping[str, str]
) -> Figure:
    """Figure 9: recalls over a parameter, image to text above, text to image below; a thin line a seed, a wide mean.

    Args:
        curves: {parameter: {value: reports of `recall.retrieval_report`, one a seed, or None for a run that has
            collapsed}}. What has none but collapsed runs is a gap, marked × on the axis.
        names: {"i2t": title of its row, "t2i": ...}.
    """
    figure = new_figure(5.2 * len(curves), 7.5)
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, (parameter, points) in zip(axes.T, curves.items()):
        places, values = np.arange(len(points)), sorted(points)
        for axis, (way, title) in zip(column, names.items()):
            for colour, key in zip(COLOURS, ("R@1", "R@5", "R@10")):
                told = [[np.nan if one is None else one[way][key] for one in points[value]] for value in values]
                lines = np.ma.masked_invalid(np.array(told).T)  # (seeds, values)
                for line in lines if len(lines) > 1 else ():
                    axis.plot(places, line, color=colour, linewidth=0.8, alpha=0.6)
                means = lines.mean(axis=0)
                axis.plot(places, means, color=colour, marker="o", linewidth=2.5, label=key)
            if len(lost := places[np.ma.getmaskarray(means)]):  # an empty line would spoil the layout
                axis.plot(lost, 0 * lost, "x", color="black", markersize=9, clip_on=False, zorder=3)
            axis.set_xticks(places, [f"{value:g}" for value in values])  # evenly, as powers of ten and 0 are
            axis.set(xlabel=parameter, ylabel=f"{title}, %")
            axis.set_ylim(bottom=0)
            light(axis)
    axes[0, 0].legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
