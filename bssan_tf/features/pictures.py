"""A picture file -> the pixels that the backbone sees.

Section V-B of the paper: "we resize the images to 224x224 with channel RGB". In: JPEG, PNG, WebP, GIF, BMP, TIFF, and
where pillow-heif is installed HEIC. Out: uint8 (224, 224, 3) RGB, or the whole photo for a detector, and the photo's
size, for boxes given in its pixels.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from bssan_tf.datasets.picture_folder import HEIC_REMEDY
from bssan_tf.errors import UserError
from bssan_tf.reading.files import file_size

SIDE = 224
# Whatever the suffix, Pillow takes any other format too, among them PostScript, which it has Ghostscript run.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # JPEG includes MPO
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # at its bytes 8 to 11
# Decoding takes up to 12 bytes a pixel, beside the backbone in 2 GB; Pillow's own limit is 179 million pixels.
MAX_PIXELS = 40_000_000  # as decoded: large baseline JPEGs are decoded smaller
LARGE_PIXELS = 2_000_000  # such pictures take turns, so that only one is decoded at a time

ORIENTATION_TAG = 0x0112
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
UPRIGHT = dict(enumerate(TURNS, 2))  # EXIF orientation -> what makes the picture upright; 1 is upright

_one_large_picture = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit is an error


def read_picture(path: str | Path, side: int | None = SIDE) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a picture file, upright by its EXIF orientation, and resize it bilinearly to `side`, unless that is None.

    Returns:
        pixels: uint8 (side, side, 3) or (height, width, 3), RGB; transparent parts are white.
        size: (height, width) of the upright photo in pixels.

    Raises:
        UserError: the file is absent, no picture, cut short, or has too many pixels; HEIC without pillow-heif.
    """
    file_size(path, "give a picture file")  # a pipe would wait for a writer
    try:
        formats = _formats(path)
        with Image.open(path, formats=formats) as image:
            turned = image.format == "TIFF"  # by Pillow itself, when the pixels are read
            size = image.size
            if side:  # a JPEG decoder halves for free; from twice the size asked for, nothing is lost by it
                image.draft(None, (2 * side, 2 * side))
            width, height = size if image.info.get("progressive") else image.size  # that are in memory at once
            if width * height <= MAX_PIXELS:
                with _turn(width * height):
                    return _upright(image, size, side, turned)
        problem = f"has {size[0]} x {size[1]} pixels, more than {MAX_PIXELS / 1e6:.0f} million"
    except Image.DecompressionBombError:
        problem = f"has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
    except UserError:
        raise
    except Exception as error:  # Pillow's plug-ins raise nearly any type on a broken file
        reason = " ".join(str(error).replace(str(path), "file").split()) or type(error).__name__
        raise UserError(f"{path}: can't be read as a picture ({reason}); replace the file") from error
    raise UserError(f"{path}: {problem}; shrink the picture")


def _formats(path: str | Path) -> tuple[str, ...]:
    """What a file may be; UserError for HEIC that can't be read here."""
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] != b"ftyp" or start[8:] not in HEIC_BRANDS:
        return FORMATS
    if not _heic_opener():
        raise UserError(f"{path}: is HEIC; to read it: {HEIC_REMEDY}")
    return ("HEIF",)


@functools.lru_cache(maxsize=1)
def _heic_opener() -> bool:
    """Have Pillow read HEIC, which libheif turns upright itself; whether that could be done."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def as_image(source: object, name: str) -> Image.Image:
    """A PIL image, or an array uint8 (height, width, 3) of RGB pixels, as a PIL image; UserError for anything else."""
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, np.ndarray):
        raise UserError(f"{name}: is a {type(source).__name__}; give a file, a PIL image or an array")
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        wanted = "RGB pixels are uint8 (height, width, 3)"
        raise UserError(f"{name}: is an array {source.dtype} {source.shape}; {wanted}")
    return Image.fromarray(source)


def picture_of(image: Image.Image, side: int | None = SIDE) -> tuple[np.ndarray, tuple[int, int]]:
    """As `read_picture`, of a PIL image that may be decoded already."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"photo: has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; shrink it")
    try:
        return _upright(image, image.size, side, turned=image.format == "TIFF")
    except Exception as error:  # as in `read_picture`
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"photo: can't be read as a picture ({reason}); replace it") from error


def shrink(photo: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A whole photo uint8 (height, width, 3) of `read_picture` as the backbone sees it, uint8 (side, side, 3)."""
    with _turn(photo.shape[0] * photo.shape[1]):
        return np.asarray(_resized(Image.fromarray(photo), side))


def _turn(pixels: int) -> contextlib.AbstractContextManager:
    return _one_large_picture if pixels > LARGE_PIXELS else contextlib.nullcontext()


def _upright(
    image: Image.Image, size: tuple[int, int], side: int | None, turned: bool
) -> tuple[np.ndarray, tuple[int, int]]:
    if turned:
        image.load()
        size = image.size
    width, height = size
    try:
        orientation = 1 if turned else image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        orientation = 1
    small = _small_rgb(image, side)
    if orientation in UPRIGHT:  # after the resizing, which treats both axes alike
        small = small.transpose(Image.Transpose[UPRIGHT[orientation]])
    size = (width, height) if orientation in range(5, 9) else (height, width)
    return np.array(small, np.uint8), size


def _small_rgb(image: Image.Image, side: int | None) -> Image.Image:
    """Resize and convert to RGB, in the order that is exact for the mode."""
    if image.mode.startswith(("I", "F")):
        return _wide_grey(image, side)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        small = _resized(rgba, side)  # Pillow weighs colours by their opacity
        return Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return _resized(image, side).convert("RGB")


def _resized(image: Image.Image, side: int | None) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR) if side else image


def _wide_grey(image: Image.Image, side: int | None) -> Image.Image:
    """16-bit, 32-bit and float grey, scaled by the type's range; Pillow's convert would clip at 255."""
    most = image.getextrema()[1]
    full = 1.0 if image.mode == "F" and most <= 1 else 255.0
    if image.mode.startswith("I;16") or most > 255:
        full = max(65535.0, most)
    values = np.asarray(_resized(image.convert("F"), side))
    if not np.isfinite(values).all():
        raise ValueError("non-finite grey values")
    grey = np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
