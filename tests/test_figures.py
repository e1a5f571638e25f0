"""What the figures show, read back from their pixels and texts."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from benchmarks import charts
from bssan_tf.drawing import figures
from bssan_tf.errors import UserError

GREY = np.full((224, 224, 3), 128, np.uint8)
WORDS = ["a", "dog", "costs", "$5", "or", "$6", "_maybe_"]
N, D, P = len(WORDS), 196, 4
BOXES = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.1, 0.9, 0.4], [0.1, 0.6, 0.4, 0.9], [0.6, 0.6, 0.9, 0.9]])


def one_hot(*cells):
    alpha = np.zeros((len(cells), D), np.float32)
    alpha[np.arange(len(cells)), cells] = 1
    return alpha


@pytest.fixture(scope="module")
def beta():
    return np.random.default_rng(0).dirichlet(np.ones(N), P).astype(np.float32)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def share_of(pixels, colour):
    """Share of the pixels that have this colour."""
    return np.mean(np.abs(pixels / 255 - np.array(to_rgb(colour))).max(axis=-1) < 0.02)


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 3)])
def test_coarse_grids_have_heat_too(grid):
    (heat,) = figures.heat_maps(np.eye(1, grid[0] * grid[1], dtype=np.float32), grid, (60, 50))
    assert heat.shape == (60, 50)
    np.testing.assert_allclose(heat[0, 0], heat.max(), rtol=1e-5)
    assert heat.max() > 0


def test_heat_is_where_attention_is():
    maps = figures.heat_maps(one_hot(3 * 14 + 10, 0), (14, 14), (224, 224))
    assert maps.shape == (2, 224, 224)
    for heat, (row, column) in zip(maps, [(3, 10), (0, 0)]):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert (y // 16, x // 16) == (row, column)
        assert heat.max() == 1
        assert heat[120:, :120].max() < 1e-4  # both cells are far from there
    inner = maps[0, 48:64, 160:176].mean()
    assert inner > 3 * maps[0, 48:64, 192:208].mean() > 0  # it falls off smoothly


def test_grid_that_does_not_divide_the_photo():
    alpha = np.zeros((1, 15), np.float32)
    alpha[0, 7] = 1  # row 1 of 3, column 2 of 5
    (heat,) = figures.heat_maps(alpha, (3, 5), (100, 224))
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert (y * 3 // 100, x * 5 // 224) == (1, 2)


def test_even_attention_stays_cool_everywhere():
    even = np.full((1, D), 1 / D, np.float32)
    np.testing.assert_allclose(figures.heat_maps(even, (14, 14), (224, 224)), 0.25, atol=1e-4)
    twice = even.copy()
    twice[0, :98] *= 1.5
    twice[0, 98:] *= 0.5
    assert figures.heat_maps(twice, (14, 14), (224, 224)).max() == pytest.approx(1.5 / 4, abs=1e-3)


def test_transparency_of_the_overlay():
    alpha = one_hot(3 * 14 + 10)
    white = np.full((224, 224, 3), 255, np.uint8)
    tile = figures.heat_overlays(white, alpha)[0]
    cold, hot = (np.array(figures.HEAT(value)[:3]) * 255 for value in (0.0, 1.0))
    np.testing.assert_allclose(tile[223, 0], 0.7 * 255 + 0.3 * cold, atol=1)
    hottest = figures.heat_maps(alpha, (14, 14), (224, 224))[0] == 1
    np.testing.assert_allclose(tile[hottest], np.tile(0.7 * 255 + 0.3 * hot, (hottest.sum(), 1)), atol=1)
    assert hot[0] > hot[2]  # warm is red
    assert cold[2] > cold[0]  # cold is blue


@pytest.mark.parametrize("colour", [(0, 0, 255), (255, 0, 0), (128, 0, 160), (0, 0, 0)])
def test_on_every_colour_the_hottest_spot_is_warm_and_the_rest_cold(colour):
    tile = figures.heat_overlays(np.full((224, 224, 3), colour, np.uint8), one_hot(3 * 14 + 10))[0].astype(int)
    assert tile[56, 168, 0] > tile[56, 168, 2] + 40
    assert tile[223, 0, 2] > tile[223, 0, 0] + 40
    assert tile.min() > 70  # as light as 0.7 of half of white, at least


def test_the_photo_below_heat_keeps_its_contrast():
    picture = np.full((224, 224, 3), 200, np.uint8)
    picture[:, :112] = (30, 60, 90)
    tile = figures.heat_overlays(picture, np.full((1, D), 1 / D, np.float32))[0].astype(float)
    luma = 0.299 * 30 + 0.587 * 60 + 0.114 * 90
    np.testing.assert_allclose(tile[0, 223] - tile[0, 0], 0.7 * (200 - luma) / 2, atol=1.1)


def test_the_bar_has_the_colours_of_the_tiles():
    figure = figures.attention_figure(GREY, WORDS, 0.0, alpha=one_hot(*range(N)))
    *tiles, bar = figure.subfigs[0].axes
    shown = tiles[1].get_images()[0].get_array()
    (colours,) = (part.cmap for part in bar.collections if isinstance(part, QuadMesh))
    np.testing.assert_allclose(np.array(colours(0.0)[:3]) * 255, shown[223, 223], atol=1)
    np.testing.assert_allclose(np.array(colours(1.0)[:3]) * 255, shown[0, 0], atol=1)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="does not fit the grid"):
        figures.heat_maps(one_hot(0), (7, 14), (224, 224))
    with pytest.raises(ValueError, match="needs words"):
        figures.attention_figure(GREY, WORDS, 1.0)
    with pytest.raises(ValueError, match="do not fit 7 words"):
        figures.attention_figure(GREY, WORDS, 1.0, alpha=one_hot(0))


def test_both_figures_in_one_png(tmp_path, beta):
    path = tmp_path / "out.png"
    alpha = np.concatenate([one_hot(*range(N)), np.zeros((2, D), np.float32)])  # two padded words
    figure = figures.attention_figure(
        GREY,
        WORDS,
        2.5,
        alpha=alpha,
        beta=np.pad(beta, ((0, 0), (0, 2))),
        boxes=BOXES,
        object_scores=np.array([0.2, 0.9, 0.95, 0.5]),
        valid=np.array([True, True, False, True]),
        object_names=["cat", "horse", "cow", "$hen$"],
        parts={"W2R": 1.25, "O2W": 2.0},
        out=path,
    )
    pixels = read(path)
    assert pixels.shape[1] == 1320
    assert 700 < pixels.shape[0] < 1500
    shown = texts(figure)
    assert any("matching score 2.500" in text and "W2R 1.250" in text and "O2W 2.000" in text for text in shown)
    assert all(shown.count(word) >= 2 for word in WORDS)  # under the line chart, and over a tile
    # The three best valid objects, best first; the invalid one is not there.
    legend = [text.get_text() for text in figure.subfigs[0].axes[1].get_legend().get_texts()]
    assert legend == ["horse", "$hen$", "cat", "even"]
    for colour in figures.COLOURS:
        assert share_of(pixels, colour) > 5e-4


def test_boxes_have_the_colour_of_their_line(beta):
    figure = figures.attention_figure(GREY, WORDS, 0.0, beta=beta, boxes=BOXES)
    photo, chart = figure.subfigs[0].axes
    assert [patch.get_edgecolor()[:3] for patch in photo.patches] == [to_rgb(c) for c in figures.COLOURS]
    for place, (patch, line) in enumerate(zip(photo.patches, chart.lines)):
        assert to_rgb(line.get_color()) == patch.get_edgecolor()[:3]
        np.testing.assert_allclose(line.get_ydata(), beta[place], atol=1e-7)
        x1, y1, x2, y2 = BOXES[place] * 224
        assert (patch.get_width(), patch.get_height()) == (pytest.approx(x2 - x1), pytest.approx(y2 - y1))
        assert patch.get_xy() == (pytest.approx(x1 - 0.5), pytest.approx(y1 - 0.5))


def test_fewer_objects_than_three(beta):
    figure = figures.attention_figure(
        GREY, WORDS, 0.0, beta=beta, boxes=BOXES, valid=np.array([False, False, True, False])
    )
    photo, chart = figure.subfigs[0].axes
    assert len(photo.patches) == 1
    np.testing.assert_allclose(chart.lines[0].get_ydata(), beta[2], atol=1e-7)
    figures.attention_figure(GREY, WORDS, 0.0, beta=beta, boxes=BOXES, valid=np.zeros(P, bool))


def test_tiles_alone_one_for_each_word():
    cells = (0, 13, 40, 100, 150, 182, 195)
    figure = figures.attention_figure(GREY, WORDS, 0.0, alpha=one_hot(*cells))
    photo, *tiles = [axis for axis in figure.subfigs[0].axes if axis.get_visible() and axis.get_images()]
    np.testing.assert_array_equal(photo.get_images()[0].get_array(), GREY)  # what no box is drawn on, stands here
    assert [axis.get_title() for axis in tiles] == WORDS
    for axis, cell in zip(tiles, cells):
        tile = axis.get_images()[0].get_array().astype(int)
        warmth = (tile[..., 0] - tile[..., 2]).reshape(14, 16, 14, 16).mean(axis=(1, 3))
        assert warmth.argmax() == cell


def test_thirty_words_fit():
    words = ["word" + str(i) for i in range(30)]
    array = figures.figure_to_array(
        figures.attention_figure(GREY, words, 0.0, alpha=np.full((30, D), 1 / D, np.float32))
    )
    assert array.dtype == np.uint8
    assert array.shape[1:] == (1320, 3)


def test_curves(tmp_path):
    figure = charts.curves_figure(
        {"improved": ([1, 2, 3], [10, 20, 15]), "paper": ([1, 2], [5, 6])},
        "epoch",
        "rsum",
        "a $title$",
        tmp_path / "c.png",
    )
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["improved", "paper"]
    assert axis.lines[0].get_ydata().tolist() == [10, 20, 15]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("epoch", "rsum", "a $title$")
    assert read(tmp_path / "c.png").shape == (550, 880, 3)
    assert figures.figure_to_array(charts.curves_figure({}, "x", "y", "empty")).shape == (550, 880, 3)


def test_png_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"absent/x\.png: can't be written"):
        charts.curves_figure({}, "x", "y", "t", tmp_path / "absent" / "x.png")
    assert list(tmp_path.iterdir()) == []
