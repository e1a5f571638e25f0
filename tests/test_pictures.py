"""Picture files of every kind -> 224x224 RGB, upright; broken and huge ones are errors that name the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from bssan_tf.errors import UserError
from bssan_tf.features import pictures
from bssan_tf.features.pictures import read_picture, shrink


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def photo(width, height):
    """A soft picture with structure at every scale down to a few pixels."""
    soft = Image.fromarray(noise(height // 40, width // 40))
    return soft.resize((width, height), Image.Resampling.BICUBIC)


def png_header(path, width, height):
    """A PNG that is all header: enough to be opened, not to be decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path


def test_a_picture_of_the_right_size_is_unchanged(tmp_path):
    pixels = noise(224, 224)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found, size = read_picture(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert size == (224, 224)
    np.testing.assert_array_equal(found, pixels)


def test_other_sizes_are_squashed_bilinearly_and_the_photo_size_is_height_width(tmp_path):
    pixels = noise(120, 300)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found, size = read_picture(tmp_path / "a.png")
    assert size == (120, 300)
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("side", [1, 3, 5000])
def test_extreme_shapes(tmp_path, side):
    Image.new("RGB", (side, 2), (9, 8, 7)).save(tmp_path / "a.png")
    found, size = read_picture(tmp_path / "a.png")
    assert size == (2, side)
    assert (found == [9, 8, 7]).all()


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (50, 255), (50, 50, 50)),
        ("LA", (50, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 0x8000, (128, 128, 128)),
        ("I;16", 200, (1, 1, 1)),
        ("I", 65535, (255, 255, 255)),
        ("F", 0.5, (128, 128, 128)),
        ("F", 200.0, (200, 200, 200)),
    ],
)
def test_every_colour_mode(tmp_path, mode, value, expected):
    path = tmp_path / "a.tif"
    Image.new(mode, (30, 20), value).save(path)
    with Image.open(path) as image:
        assert image.mode == mode  # else the test would show something else
    found, _ = read_picture(path)
    assert found.shape == (224, 224, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_16_bit_grey_png(tmp_path):
    Image.fromarray(np.full((20, 30), 0x4000, np.uint16)).save(tmp_path / "a.png")
    assert np.abs(read_picture(tmp_path / "a.png")[0].astype(int) - 64).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (30, 20), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert (read_picture(tmp_path / "opaque.png")[0] == [40, 50, 60]).all()
    assert (read_picture(tmp_path / "clear.png")[0] == 255).all()


def test_colours_under_transparency_do_not_bleed(tmp_path):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :20] = (255, 0, 0, 0)  # invisible red beside opaque blue
    pixels[:, 20:] = (0, 0, 255, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")[0].astype(int)
    assert (found[..., 2] == 255).all()  # white or blue, or a mixture of the two
    assert (found[..., 0] == found[..., 1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(400, 200).save(tmp_path / "a.png", exif=exif)
    found, size = read_picture(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        upright = ImageOps.exif_transpose(image)
    expected = np.asarray(upright.resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    assert size == (upright.height, upright.width) == ((200, 400) if orientation < 5 else (400, 200))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_is_ignored(tmp_path):
    photo(400, 200).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_picture(tmp_path / "a.jpg")[1] == (200, 400)


def test_large_jpegs_are_reduced_by_the_decoder_without_visible_change(tmp_path):
    photo(3000, 2000).save(tmp_path / "a.jpg", quality=90)
    found, size = read_picture(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    assert size == (2000, 3000)
    difference = np.abs(found - expected)
    assert difference.mean() < 0.5
    assert difference.max() <= 6


@pytest.mark.parametrize("cut", [0, 3, 200, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_off_files(tmp_path, suffix, cut):
    path = tmp_path / f"torn.{suffix}"
    photo(400, 200).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(UserError, match=rf"torn\.{suffix}: can't be read as a picture") as error:
        read_picture(path)
    assert "\n" not in str(error.value)


def test_no_picture_no_file_a_folder(tmp_path):
    (tmp_path / "note.jpg").write_text("not a picture")
    with pytest.raises(UserError, match=r"note\.jpg: can't be read"):
        read_picture(tmp_path / "note.jpg")
    with pytest.raises(UserError, match=r"none\.jpg: no such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(UserError, match="is a folder; give a picture file"):
        read_picture(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7000, 12000, 30000])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path, side):
    path = png_header(tmp_path / "huge.png", side, side)
    with pytest.raises(UserError, match=r"huge\.png: has .*million.*; shrink the picture"):
        read_picture(path)


def test_only_pixels_that_are_decoded_count(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1_000_000)
    photo(3000, 2000).save(tmp_path / "baseline.jpg")
    photo(3000, 2000).save(tmp_path / "progressive.jpg", progressive=True)  # libjpeg keeps it whole
    assert read_picture(tmp_path / "baseline.jpg")[1] == (2000, 3000)
    with pytest.raises(UserError, match=r"progressive\.jpg: has 3000 x 2000 pixels"):
        read_picture(tmp_path / "progressive.jpg")


def test_a_whole_photo_is_shrunk_as_if_read_small(tmp_path):
    photo(400, 200).save(tmp_path / "a.jpg")
    whole, size = read_picture(tmp_path / "a.jpg", side=None)
    assert whole.shape == (*size, 3) == (200, 400, 3)
    np.testing.assert_array_equal(shrink(whole), read_picture(tmp_path / "a.jpg")[0])


def test_real_photos(shared_data):
    paths = sorted((shared_data / "coco_mini" / "images").rglob("*.jpg"))[:5]
    for path in paths:
        found, size = read_picture(path)
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
            assert size == (image.height, image.width)
        assert np.abs(found.astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_every_format_is_turned_once(tmp_path, suffix):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:, 2] = 255  # left red, right blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: red comes up
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    found, size = read_picture(tmp_path / f"a.{suffix}", side=None)
    assert size == (40, 20)
    assert found.shape == (40, 20, 3)
    assert found[5, 10, 0] > 200 > 50 > found[5, 10, 2]
    assert found[35, 10, 2] > 200 > 50 > found[35, 10, 0]


def write_heic(path, pixels, orientation=1, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    module = pytest.importorskip("pillow_heif")
    module.register_heif_opener()
    Image.fromarray(pixels).save(path, "HEIF", exif=exif.tobytes(), quality=95, **options)


@pytest.mark.parametrize("side", [None, 224])
def test_heic_is_read_upright_whatever_its_suffix(tmp_path, side):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100], pixels[:, 100:] = (250, 0, 0), (0, 0, 250)  # red left of blue
    write_heic(tmp_path / "a.jpg", pixels, orientation=6)  # a quarter turn clockwise: red comes up
    found, size = read_picture(tmp_path / "a.jpg", side)
    assert size == (200, 100)
    assert found.shape == ((side, side, 3) if side else (200, 100, 3))
    height = len(found)
    assert (abs(found[height // 4].astype(int) - [250, 0, 0]) < 9).all()
    assert (abs(found[-height // 4].astype(int) - [0, 0, 250]) < 9).all()


def test_heic_keeps_the_limits(tmp_path, monkeypatch):
    path = tmp_path / "a.heic"
    write_heic(path, noise(64, 64))
    whole = path.read_bytes()
    monkeypatch.setattr(pictures, "MAX_PIXELS", 4000)
    with pytest.raises(UserError, match=r"a\.heic: has 64 x 64 pixels, more than 0 million; shrink the picture"):
        read_picture(path)
    monkeypatch.undo()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.heic: can't be read as a picture"):
        read_picture(path)


def test_heic_without_pillow_heif_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_heic_opener", lambda: False)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x1cftypheic" + bytes(99))
    with pytest.raises(UserError, match=r"a\.jpg: is HEIC; to read it: pip install pillow-heif$"):
        read_picture(tmp_path / "a.jpg")
