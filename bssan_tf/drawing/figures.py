"""Pictures of what the model sees: attention over a photo and over the words of a caption.

In: arrays and words. Out: matplotlib figures, drawn by Agg through the object API, so that nothing global changes;
`save` writes a PNG and `figure_to_array` makes an image for TensorBoard.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from bssan_tf.errors import UserError
from bssan_tf.tools.files import replacing

TRANSPARENCY = 0.7  # of the heat map over the photo (section V-D)
COLOURS = ("#e69f00", "#0072b2", "#c2185b")  # the three top objects; told apart by the colour-blind too
HEAT = ListedColormap(colormaps["turbo"](np.linspace(0.13, 0.86, 256)))  # without its two dark ends, nearly grey here
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)
_SIGMA = 0.75  # of the Gaussian filter, in cells
_FULL_HEAT = 4.0  # times the even share 1/D: a word's scale never ends below, so that even attention stays cool
_DPI = 110


def attention_figure(
    picture: np.ndarray,
    words: Sequence[str],
    score: float,
    *,
    alpha: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    object_scores: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    object_names: Sequence[str] | None = None,
    parts: Mapping[str, float] | None = None,
    grid: tuple[int, int] = (14, 14),
    out: Path | None = None,
) -> Figure:
    """Figures 7 and 8 in one: objects and their words above, the photo under each word's heat map below.

    Heat maps lie on the photo in grey. Where no objects are drawn, the photo itself stands before the first word's.

    Args:
        picture: uint8 (H, W, 3), the photo as the model saw it; 224 x 224.
        words, score: the n words of the caption, and MS of Eq. 19.
        alpha: float (L, D), L >= n; D = rows x columns of `grid`. None leaves the maps out.
        beta, boxes: float (P, L), and (P, 4), x1, y1, x2, y2 in [0, 1]. None leaves boxes and lines out.
        object_scores, valid: float and bool (P,), the detector's; the top three valid objects are shown, or the first.
        object_names: P short names, e.g. the detector's classes.
        parts: further numbers for the title, e.g. {"W2R": 1.2, "O2W": 0.4}.
        grid: rows and columns of the regions.
        out: where to write a PNG, if anywhere.

    Raises:
        ValueError: neither alpha nor beta, or shapes that do not fit.
        UserError: `out` can't be written.
    """
    n, shown = len(words), _top_objects(beta, object_scores, valid)
    if n == 0 or (alpha is None and beta is None):
        raise ValueError("attention_figure: needs words, and alpha or beta")
    if (alpha is not None and len(alpha) < n) or (beta is not None and (beta.shape[1] < n or boxes is None)):
        raise ValueError(f"attention_figure: alpha, beta and boxes do not fit {n} words")
    columns = 6 if n <= 18 else 8
    rows = 0 if alpha is None else -(-(n + (beta is None)) // columns)
    heights = ([4.0] if beta is not None else []) + ([(13 / columns) * rows] if rows else [])
    figure = new_figure(12, sum(heights) + 1.0)
    _title(figure, words, score, parts)
    panels = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)).tolist()
    if beta is not None:
        names = [object_names[p] if object_names else f"object {k + 1}" for k, p in enumerate(shown)]
        _draw_objects(panels.pop(0), picture, words, np.asarray(beta)[shown, :n], np.asarray(boxes)[shown], names)
    if alpha is not None:
        tiles = [("", picture)] if beta is None else []
        tiles += zip(words, heat_overlays(picture, np.asarray(alpha)[:n], grid))
        _draw_tiles(panels.pop(0), tiles, (rows, columns), _bar_colours(picture))
    if out is not None:
        save(figure, out)
    return figure


def heat_maps(alpha: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Attention as heat: up-sampled to the photo, Gaussian-filtered, 0 = none, 1 = the word's strongest.

    A word with almost even attention has no strongest place: four times the even share is its 1, so it stays cool.

    Args:
        alpha: float (n, D), rows that sum to 1.
        grid: rows and columns, D = rows x columns.
        size: height and width of the photo in pixels.

    Returns:
        float32 (n, height, width) in [0, 1].
    """
    from bssan_tf.tools.tfa import gaussian_filter  # late: it loads TensorFlow

    (rows, columns), (height, width) = grid, size
    if alpha.shape[1] != rows * columns:
        raise ValueError(f"alpha {alpha.shape} does not fit the grid {grid}")
    cells = np.asarray(alpha, np.float32).reshape(-1, rows, columns)
    maps = cells[:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width]
    sigma = _SIGMA * height / rows
    radius = min(round(3 * sigma), min(size) - 1)  # edges are mirrored once: a coarse grid's filter ends there
    maps = gaussian_filter(maps, 2 * radius + 1, sigma)
    peak = maps.max(axis=(1, 2), keepdims=True)
    return np.clip(maps / np.maximum(peak, _FULL_HEAT / alpha.shape[1]), 0, 1)


def heat_overlays(picture: np.ndarray, alpha: np.ndarray, grid: tuple[int, int] = (14, 14)) -> np.ndarray:
    """The photo (H, W, 3) in light grey under the heat map of each word, alpha float (n, D): uint8 (n, H, W, 3).

    All colour is the heat's, so that a blue object's hottest spot does not look cold.
    """
    heat = HEAT(heat_maps(np.asarray(alpha), grid, picture.shape[:2]))[..., :3] * 255
    return np.round(_blended(_light_grey(picture)[..., None], heat)).astype(np.uint8)


def _light_grey(picture: np.ndarray) -> np.ndarray:
    """A photo (H, W, 3) as float (H, W), half as far from white as its greys are."""
    return 127.5 + picture @ np.array(_LUMA) / 2


def _blended(grey: np.ndarray | float, heat: np.ndarray) -> np.ndarray:
    return TRANSPARENCY * grey + (1 - TRANSPARENCY) * heat


def _bar_colours(picture: np.ndarray) -> ListedColormap:
    """Heat's colours as they look over the photo's mean grey."""
    return ListedColormap(_blended(_light_grey(picture).mean() / 255, HEAT.colors[:, :3]))


def figure_to_array(figure: Figure) -> np.ndarray:
    """The figure as uint8 (height, width, 3) in pixels, e.g. for `tf.summary.image`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, or as PDF where the name says so, whole; UserError where the file can't be written."""
    try:
        with replacing(path) as part:
            if path.suffix.lower() == ".pdf":
                FigureCanvasPdf(figure).print_pdf(part, metadata={"CreationDate": None})
            else:
                FigureCanvasAgg(figure).print_png(part)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); name another file with -o") from error


def refuse_others(path: Path, own: Callable[[Path], bool] | None = None) -> None:
    """UserError where a file is there that is not `own`, a drawing of ours, and so must not be drawn over."""
    if path.exists() and not (own or own_drawing)(path):
        raise UserError(f"{path}: is a file of yours, not a drawing of this command; name another with -o")


def own_drawing(path: Path) -> bool:
    """Whether a file is a picture that Matplotlib has drawn, and so may be drawn anew."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return "matplotlib" in str(picture.info.get("Software", "")).lower()
    except (OSError, ValueError, SyntaxError):
        return False


def _top_objects(beta, object_scores, valid) -> np.ndarray:
    """Indices of the three objects to show, by falling detector score among the valid ones."""
    if beta is None:
        return np.zeros(0, int)
    real = np.arange(len(beta)) if valid is None else np.flatnonzero(valid)
    if object_scores is not None:
        real = real[np.argsort(-np.asarray(object_scores)[real], kind="stable")]
    return real[: len(COLOURS)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches with a small margin."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return figure


def _title(figure: Figure, words: Sequence[str], score: float, parts: Mapping[str, float] | None) -> None:
    numbers = f"matching score {score:.3f}"
    if parts:
        numbers += "   (" + ",  ".join(f"{name} {value:.3f}" for name, value in parts.items()) + ")"
    caption = "\n".join(textwrap.wrap(f"“{' '.join(words)}”", 100))
    figure.suptitle(f"{caption}\n{numbers}", fontsize=14, parse_math=False)


def _draw_objects(panel, picture, words, beta, boxes, names) -> None:
    """The photo with boxes, and a line of β over the words for each box in its colour (Fig. 8)."""
    photo, chart = panel.subplots(1, 2, width_ratios=(1, 2.4))
    height, width = picture.shape[:2]
    photo.imshow(picture)
    bare([photo])
    # The best box has the widest line, below the others, so that boxes in one place stay visible.
    scaled = boxes * (width, height, width, height) - 0.5
    for colour, line, (x1, y1, x2, y2) in zip(COLOURS, (6.5, 4.2, 2.2), scaled):
        photo.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=line))
    place = np.arange(len(words))
    for colour, line, name in zip(COLOURS, beta, names):
        chart.plot(place, line, color=colour, marker="o", linewidth=2.5, label=name)
    chart.axhline(1 / len(words), color="grey", linestyle=":", linewidth=1.2, label="even")
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(words) > 8 else {}
    chart.set_xticks(place, words, **slanted)
    chart.set_ylim(bottom=0)
    chart.set_ylabel("attention β over the words", fontsize=11)
    light(chart)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "borderaxespad": 0.2}
    legend = chart.legend(frameon=False, fontsize=11, **above)
    for label in (*chart.get_xticklabels(), *legend.get_texts()):
        label.set_parse_math(False)


def _draw_tiles(panel, tiles, layout: tuple[int, int], colours) -> None:
    """Titled pictures, one for each word: the photo under its heat map (Fig. 7); and the bar of the heat's colours."""
    axes = panel.subplots(*layout, squeeze=False).ravel()
    for axis, (title, tile) in zip(axes, tiles):
        axis.imshow(tile)
        axis.set_title(title, fontsize=13, parse_math=False)
    for axis in axes[len(tiles) :]:
        axis.set_visible(False)
    bare(axes)
    bar = panel.colorbar(ScalarMappable(cmap=colours), ax=axes, fraction=0.012, pad=0.01, ticks=[0, 1])
    bar.ax.set_yticklabels(["none", "most"])
    bar.set_label("attention α", fontsize=11, labelpad=-16)  # short enough for one row
    bar.outline.set_visible(False)


def bare(axes) -> None:
    """Take the ticks off axes with a picture, and everything off those without."""
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        if not axis.get_images():
            axis.axis("off")


def light(axis) -> None:
    """The look of a chart: no box around it, faint lines across."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)
