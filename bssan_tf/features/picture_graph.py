"""`read_picture` once more, as operations of TensorFlow: for a graph that is served where Pillow is not.

In: the bytes of a JPEG or PNG file. Out: the pixels that the backbone sees, uint8 (side, side, 3). Both use libjpeg
and the same triangle filter. They round otherwise: levels of 0 to 255 differ by 1, and where the picture is transparent
by up to MOST_APART. At the size of the backbone all are equal.
"""

from __future__ import annotations

import tensorflow as tf

from bssan_tf.features.pictures import MAX_PIXELS, ORIENTATION_TAG

MOST_APART = 3
RATIOS = (1, 2, 4, 8)  # that libjpeg decodes smaller by
_HEADER = 2**18  # bytes of a JPEG in which its EXIF data begin and end
_TO_PNG_DEPTH = 25  # bytes of a PNG, of which the last is the depth
_PNG_SIZES = slice(16, 24)  # bytes of its width and height
_EXIF, _SCAN, _MARK, _PROGRESSIVE, _EXIF_START = 0xE1, 0xDA, 0xFF, 0xC2, (*b"Exif", 0, 0)
_MIRRORED, _UPSIDE_DOWN, _FIRST_TRANSPOSED = (2, 3, 6, 7), (3, 4, 7, 8), 5  # orientations, as `pictures.UPRIGHT`


def decode_picture(content: tf.Tensor, side: int) -> tf.Tensor:
    """Decode a file's content, a string (), upright by the EXIF orientation of a JPEG, and resize it bilinearly.

    Returns:
        uint8 (side, side, 3), RGB; transparent parts are white. Of any other format than JPEG and PNG, of a damaged
        file, and of one with more than MAX_PIXELS pixels, TensorFlow's InvalidArgumentError.
    """
    is_jpeg = tf.io.is_jpeg(content)
    pixels = tf.cond(is_jpeg, lambda: _decode_jpeg(content, side), lambda: _decode_png(content))
    small = tf.image.resize(tf.ensure_shape(pixels, (None, None, 3)), (side, side), antialias=True)
    orientation = tf.cond(is_jpeg, lambda: jpeg_orientation(content), lambda: 1)
    return _turned(tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8), orientation)


def _decode_jpeg(content: tf.Tensor, side: int) -> tf.Tensor:
    """float32 (height, width, 3), as Pillow's `draft`: decoded smaller down to twice the size asked for."""
    height, width = tf.unstack(tf.io.extract_jpeg_shape(content)[:2])
    ratio = tf.minimum(height, width) // (2 * side)

    def decoded(ratio: int):
        return tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    steps = tf.reduce_sum(tf.cast(ratio >= RATIOS[1:], tf.int32))
    branches = [lambda ratio=ratio: decoded(ratio) for ratio in RATIOS]
    start = tf.io.decode_raw(tf.strings.substr(content, 0, _HEADER), tf.uint8)
    progressive = tf.reduce_any((start[:-1] == _MARK) & (start[1:] == _PROGRESSIVE))  # such a one is held whole
    held = tf.where(progressive, 1, tf.gather(RATIOS, steps))
    with tf.control_dependencies([_few_pixels(height // held, width // held)]):
        return tf.cast(tf.switch_case(steps, branches), tf.float32)


def _few_pixels(height: tf.Tensor, width: tf.Tensor) -> tf.Operation | None:
    """What fails where these are too many; outside a graph it fails at once."""
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    problem = f"has more than {MAX_PIXELS / 1e6:.0f} million pixels; shrink the picture"
    return tf.debugging.assert_less_equal(pixels, tf.constant(MAX_PIXELS, tf.int64), problem)


def _decode_png(content: tf.Tensor) -> tf.Tensor:
    """float32 (height, width, 3), over white."""
    start = tf.io.decode_raw(tf.strings.substr(content, 0, _TO_PNG_DEPTH), tf.uint8)
    places = 256 ** tf.range(3, -1, -1, tf.int64)
    width, height = tf.unstack(tf.linalg.matvec(tf.reshape(tf.cast(start[_PNG_SIZES], tf.int64), (2, 4)), places))
    with tf.control_dependencies([_few_pixels(height, width)]):
        rgba = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    depth = tf.cast(start[-1], tf.float32)
    plain = tf.reduce_all(rgba[..., 3] == 2.0**depth - 1.0)  # what TensorFlow puts in for "opaque", below 8 bits, too
    opacity = tf.where(plain, 1.0, rgba[..., 3:] / 255.0)
    return rgba[..., :3] * opacity + 255.0 * (1.0 - opacity)


def jpeg_orientation(content: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG file's content, a string (): int32 (), 1 to 8, or another where it has none."""
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 0, _HEADER), tf.uint8), tf.int32)
    data = tf.concat([data, [0]], axis=0)  # what lies beyond is read as 0

    def bytes_at(places, count: int):
        places = tf.convert_to_tensor(places)[..., tf.newaxis] + tf.range(count)
        inside = (places >= 0) & (places < tf.size(data))
        return tf.gather(data, tf.where(inside, places, tf.size(data) - 1))  # (..., count)

    def number(places, count: int, little=False):
        values = bytes_at(places, count)
        values = tf.where(little, values[..., ::-1], values)
        return tf.reduce_sum(values * 256 ** tf.range(count - 1, -1, -1), axis=-1)

    def has_exif(at):
        return (number(at + 1, 1) == _EXIF) & tf.reduce_all(bytes_at(at + 4, 6) == _EXIF_START)

    def is_other(at):
        return (number(at, 1) == _MARK) & (number(at + 1, 1) != _SCAN) & ~has_exif(at)

    def following(at):
        return [tf.where(number(at + 1, 1) == _MARK, at + 1, at + 2 + number(at + 2, 2))]  # a mark may be repeated

    at = tf.while_loop(is_other, following, [tf.constant(2)])[0]
    start = at + 10  # of a TIFF file's header
    little = number(start, 1) == ord("I")
    table = start + number(start + 4, 4, little)
    entries = table + 2 + 12 * tf.range(number(table, 2, little))
    named = number(entries, 2, little) == ORIENTATION_TAG
    found = tf.reduce_max(tf.where(named, number(entries + 8, 2, little), 0))
    return tf.where(has_exif(at), found, 1)


def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Square pixels (side, side, 3) upright."""
    pixels = tf.where((orientation >= _FIRST_TRANSPOSED) & (orientation <= 8), tf.transpose(pixels, (1, 0, 2)), pixels)
    pixels = tf.where(tf.reduce_any(orientation == _MIRRORED), pixels[:, ::-1], pixels)
    return tf.where(tf.reduce_any(orientation == _UPSIDE_DOWN), pixels[::-1], pixels)
