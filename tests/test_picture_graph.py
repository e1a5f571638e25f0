"""Picture files decoded inside a graph: as `read_picture` decodes them, to a level of rounding."""

import contextlib
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bssan_tf.errors import UserError
from bssan_tf.features import picture_graph, pictures
from bssan_tf.features.picture_graph import MOST_APART, decode_picture
from bssan_tf.features.pictures import ORIENTATION_TAG, read_picture

SIDE = 64
GRAPH = tf.function(lambda content: decode_picture(content, SIDE), input_signature=[tf.TensorSpec((), tf.string)])


def drawn(height, width):
    """Waves, an edge and some noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [127 + 100 * np.sin(9 * x + 5 * y), 127 + 100 * np.cos(17 * x * y + y), 255 * (x > y)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8))


def content_of(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def both(content, folder):
    """What the graph, and what Pillow makes of a file, int (SIDE, SIDE, 3)."""
    (folder / "a").write_bytes(content)
    return GRAPH(content).numpy().astype(int), read_picture(folder / "a", SIDE)[0].astype(int)


@pytest.mark.parametrize("how", [{"kind": "PNG"}, {"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (40, 90), (333, 500), (560, 1100)])  # the last two decoded smaller
def test_pixels(size, how, tmp_path):
    found, expected = both(content_of(drawn(*size), **how), tmp_path)
    assert np.ptp(expected) > 200
    assert abs(found - expected).max() <= (0 if size == (SIDE, SIDE) else 1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs(mode, tmp_path):
    found, expected = both(content_of(drawn(90, 80).convert(mode), "JPEG"), tmp_path)
    assert abs(found - expected).max() <= 1


def test_transparent_parts_are_white(tmp_path):
    opacity = Image.fromarray((np.mgrid[:90, :120][1] * 2).astype(np.uint8))
    for mode in ("RGB", "L"):
        image = drawn(90, 120).convert(mode)
        image.putalpha(opacity)
        found, expected = both(content_of(image), tmp_path)
        assert expected[:, 0].min() > 250
        assert abs(found - expected).max() <= MOST_APART


@pytest.mark.parametrize(("mode", "how"), [("1", {}), ("P", {}), ("P", {"bits": 2}), ("P", {"transparency": 0})])
def test_pngs_of_few_colours(mode, how, tmp_path):
    image = drawn(SIDE, SIDE)
    image = image.quantize(2 ** how.get("bits", 4)) if mode == "P" else image.convert(mode)
    found, expected = both(content_of(image, **how), tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(expected) > 100


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("orientation", range(1, 10))  # there is no 9
def test_jpegs_are_upright(orientation, endian, tmp_path):
    exif = Image.Exif()
    exif.endian = endian
    exif[ORIENTATION_TAG], exif[0x010F], exif[0x0131] = orientation, "Maker", "a text that lies elsewhere"
    content = content_of(drawn(SIDE, SIDE), "JPEG", exif=exif)
    found, expected = both(content, tmp_path)
    np.testing.assert_array_equal(found, expected)
    turned = np.abs(GRAPH(content_of(drawn(SIDE, SIDE), "JPEG")).numpy() - expected).max() > 100
    assert turned == (1 < orientation < 9)


def test_exif_data_that_are_not_the_first_segment_or_damaged(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    content = content_of(drawn(SIDE, SIDE), "JPEG", exif=exif, comment=b"A comment")
    at = content.index(b"\xff\xe1")
    later = content[:at] + b"\xff\xe1\x00\x08Other\x00\xff\xe2\x00\x04ab\xff" + content[at:]  # a mark that is repeated
    start = b"II*\0"
    for changed in (
        later,
        content.replace(start + b"\x08", start + b"\xff"),
        content.replace(start, start + 4 * b"\xff"),
    ):
        found, expected = both(changed, tmp_path)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_refused(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        GRAPH(content_of(drawn(9, 9), kind))


@pytest.mark.parametrize(
    ("size", "how", "few"),
    [
        ((300, 400), {"kind": "JPEG"}, True),  # decoded to half
        ((300, 400), {"kind": "JPEG", "progressive": True}, False),
        ((120, 400), {"kind": "JPEG"}, False),
        ((199, 200), {"kind": "PNG"}, True),
        ((201, 200), {"kind": "PNG"}, False),
    ],
)
def test_more_pixels_than_fit_into_memory_are_refused(size, how, few, tmp_path, monkeypatch):
    for module in (picture_graph, pictures):
        monkeypatch.setattr(module, "MAX_PIXELS", 40_000)
    content = content_of(drawn(*size), **how)
    (tmp_path / "a").write_bytes(content)
    in_graph = tf.function(decode_picture)
    for read, given, error in (
        (in_graph, tf.constant(content), tf.errors.InvalidArgumentError),
        (read_picture, tmp_path / "a", UserError),
    ):
        with contextlib.nullcontext() if few else pytest.raises(error, match="more than 0 million"):
            read(given, SIDE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_refused(kind):
    content = content_of(drawn(90, 90), kind)
    for start in (0, 3, 30, len(content) // 2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            GRAPH(content[:start])
