"""A contact sheet: photos that a search has found, with rank, score and name."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure

from bssan_tf.drawing.figures import bare, new_figure
from bssan_tf.features.pictures import read_picture

COLUMNS = 5
MOST = 100  # photos of a sheet
_WIDTH = 26  # characters below a photo


def contact_sheet(title: str, found: Sequence) -> Figure:
    """The photos of a search, best first, as hits with `score` and `found`, of which the first `MOST` are drawn.

    UserError: a file is no picture any more.
    """
    found = found[:MOST]
    columns = min(COLUMNS, max(1, len(found)))
    rows = max(1, -(-len(found) // columns))
    figure = new_figure(max(2.3 * columns, 6), 2.6 * rows + 0.5)
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=13, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for rank, (axis, hit) in enumerate(zip(axes, found), 1):
        path = hit.found
        pixels, (height, width) = read_picture(path)
        longer = max(height, width)
        axis.imshow(pixels, extent=(0, width / longer, height / longer, 0))
        axis.set_title(f"{rank}   {hit.score:.3f}", fontsize=11, parse_math=False)
        axis.set_xlabel(textwrap.shorten(path.name, _WIDTH, placeholder="…") or path.name[:_WIDTH], parse_math=False)
    bare(axes)
    return figure
