"""Files that nobody means well: a few hundred broken, lying and hostile variants of small valid ones.

In: a folder and a valid file's bytes. Out: (name, bytes) of each variant, the same at each call.
"""

import io
import json
import struct
import zipfile
from collections.abc import Iterator

import h5py
import numpy as np
from PIL import Image

BYTES_CHANGED = 40  # variants of each kind with one spoiled byte


def mutations(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Cut, spoiled at one byte, at one 8-byte number, doubled, empty, and noise."""
    rng = np.random.default_rng(seed)
    for share in (0, 0.01, 0.1, 0.5, 0.9, 0.99):
        yield f"cut {share}", content[: int(share * len(content))]
    for number in range(BYTES_CHANGED):
        place, spoiled = int(rng.integers(len(content))), bytearray(content)
        spoiled[place] ^= int(rng.integers(1, 256))
        yield f"byte {number}", bytes(spoiled)
    for number in range(BYTES_CHANGED // 4):
        place = int(rng.integers(max(1, len(content) - 8)))
        yield f"number {number}", content[:place] + b"\xff" * 7 + b"\x7f" + content[place + 8 :]
    yield "twice", content + content
    yield "noise", rng.bytes(500)


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy with this header."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def header_of(shape: str, dtype: str = "'<f4'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"


def hostile_npy() -> Iterator[tuple[str, bytes]]:
    """Headers that lie; none of these is an array that can be read."""
    for shape in ("(2500000000000,)", "(-3,)", "(4294967296, 4294967296)", "(-1, -1)", "(9223372036854775807, 4)",
                  "(3.5,)", "('a',)", "3", "(" + "1," * 70 + ")", "(1" + "0" * 200 + ",)"):  # fmt: skip
        yield f"shape {shape[:30]}", npy(header_of(shape), bytes(64))
    for dtype in ("'|O'", "'<f99'", "'x'", "3", "[('a', '<f4')]", "'<U2147483647'", "'V16'", "None"):
        yield f"dtype {dtype}", npy(header_of("(16,)", dtype), bytes(32))
    yield "nested", npy("(" * 900 + ")" * 900)
    yield "no header", npy("")
    yield "no dictionary", npy("[1, 2]")
    yield "call", npy("__import__('os')")
    yield "long header", npy(header_of("(1,)") + " " * 60_000, bytes(4))
    yield "version 9", npy(header_of("(1,)"), bytes(4), (9, 0))


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return out.getvalue()


def saved(array: np.ndarray) -> bytes:
    """An array as .npy."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def hostile_npz(good: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Archives that are none, or do harm; `good` are the members of a valid one."""
    whole, first = packed(good), next(iter(good))
    yield "a single array", good[first]
    yield (
        "encrypted",
        whole.replace(b"PK\x01\x02\x14\x00\x14\x00\x00", b"PK\x01\x02\x14\x00\x14\x00\x01").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        ),
    )
    yield "many members", packed({**good, **{f"{i}.npy": b"" for i in range(10_001)}}, zipfile.ZIP_STORED)
    yield "bomb", packed({**good, "bomb.npy": npy(header_of("(25000000,)"), bytes(100_000_000))})
    yield "deflate", spoil_deflate(whole)
    for name, content in hostile_npy():
        yield f"member: {name}", packed({**good, first: content})


def spoil_deflate(whole: bytes) -> bytes:
    """With the compressed bytes of the first member replaced."""
    start = whole.index(b".npy") + 4
    return whole[:start] + b"\xff" * 20 + whole[start + 20 :]


def hostile_json() -> Iterator[tuple[str, bytes]]:
    """Texts of which none is a JSON object in Unicode."""
    for opening in ("[", '{"a":'):
        yield f"nested {opening}", opening.encode() * 100_000
    for number, text in enumerate(
        (b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff{}", b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}',
         b'{"\\udfff": 1}', b'{"a": "\\\\\\ud800 \\ud83d"}', "{}".encode("utf-16"), b'{"a": 1} {"b": 2}', b"\0",
         b'{"a": ' + b"9" * 5000 + b"x}")
    ):  # fmt: skip
        yield f"text {number}", text


MANIFEST = {  # of a feature store
    "format": 2, "images": 3, "finished_rows": 3, "bad_images": ["a"], "kept": ["sums", "digests", "stamps"],
    "grid": [2, 2], "arrays": {"regions": {"shape": [3, 4], "dtype": "float32"}},
}  # fmt: skip


def hostile_manifests() -> Iterator[tuple[str, bytes]]:
    """JSON of which none is the manifest of a feature store."""
    yield from hostile_json()
    for name in sorted(MANIFEST.keys() - {"grid"}):
        yield f"no {name}", json.dumps({key: value for key, value in MANIFEST.items() if key != name}).encode()
    for name, value in (
        ("format", 3), ("format", "2"), ("images", None), ("images", -1), ("finished_rows", 2.0),
        ("finished_rows", True),
        ("bad_images", [[1]]), ("bad_images", "a"), ("kept", 5), ("kept", []), ("kept", ["foo"]), ("kept", [["sums"]]),
        ("kept", ["sums", "digests"]), ("kept", ["digests", "stamps"]), ("grid", [1]), ("grid", 5), ("batch_size", "x"),
        ("batch_size", 0), ("arrays", []), ("arrays", {"regions": None}), ("arrays", {"regions": {}}),
        ("arrays", {"regions": {"shape": [3, -4], "dtype": "float32"}}),
        ("arrays", {"regions": {"shape": [2, 4], "dtype": "float32"}}),
        ("arrays", {"regions": {"shape": [3, 4], "dtype": "x"}}),
        ("arrays", {"regions": {"shape": [3, 4], "dtype": None}}),
    ):  # fmt: skip
        yield f"{name} {value}", json.dumps({**MANIFEST, name: value}).encode()


def hostile_progress() -> Iterator[tuple[str, bytes]]:
    """JSON of which none is the progress of a shard."""
    yield from hostile_json()
    good = {"first": 2, "finished": 4, "bad_images": ["a"]}
    for name, value in (("first", -1), ("first", "2"), ("finished", 1), ("finished", 2.5), ("bad_images", [[1]])):
        yield f"{name} {value}", json.dumps({**good, name: value}).encode()


def hostile_xml() -> Iterator[tuple[str, bytes]]:
    """XML that is none, or would grow, or would read other files."""
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(12)
    )
    yield "bomb", b'<?xml version="1.0"?>' + bomb + b"]><a>&m;</a>"
    yield "bomb in UTF-16", ('<?xml version="1.0"?>' + bomb.decode() + "]><a>&m;</a>").encode("utf-16")
    yield "other file", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>'
    for number, text in enumerate(
        (
            b"",
            b"<a>",
            b"<a></b>",
            b"text",
            b"<a>\xff</a>",
            b"<a/><b/>",
            b"<?xml version='1.0' encoding='x'?><a/>",
            b"\0",
        )
    ):
        yield f"text {number}", text
    yield "deep and open", b"<a>" * 100_000


def valid_h5() -> bytes:
    """Two datasets and an attribute."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.attrs["layer_names"] = ["one"]
        file["one/kernel"], file["one/bias"] = np.ones((3, 4), np.float32), np.zeros(4, np.float32)
    return out.getvalue()


def hostile_h5(folder) -> Iterator[tuple[str, bytes]]:
    """Files that take their data from others, or claim more than they hold."""
    secret = folder / "secret.bin"
    secret.write_bytes(np.arange(12, dtype=np.float32).tobytes())
    (folder / "other.h5").write_bytes(valid_h5())
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource(folder / "other.h5", "one/kernel", (3, 4))
    makers = {
        "external link": lambda group: group.__setitem__("x", h5py.ExternalLink(str(folder / "other.h5"), "/one")),
        "external storage": lambda group: group.create_dataset(
            "x", (3, 4), np.float32, external=[(str(secret), 0, 48)]
        ),
        "virtual dataset": lambda group: group.create_virtual_dataset("x", layout),
        "huge dataset": lambda group: group.create_dataset("x", (2**40,), np.float32, chunks=(1024,)),
        "overflowing dataset": lambda group: group.create_dataset("x", (2**40, 2**40), np.float32, chunks=(32, 32)),
    }
    for name, make in makers.items():
        for place in ("/", "a/b"):
            out = io.BytesIO(valid_h5())
            with h5py.File(out, "r+") as file:
                make(file.require_group(place))
            yield f"{name} in {place}", out.getvalue()


def hostile_keras(folder) -> Iterator[tuple[str, bytes]]:
    """Archives as of Keras 3's format, of which none may be opened."""
    config = b'{"class_name": "Functional"}'
    yield "no weights", packed({"config.json": config})
    yield "no config", packed({"model.weights.h5": valid_h5()})
    yield "weights are text", packed({"config.json": config, "model.weights.h5": b"hello"})
    for name, text in hostile_json():
        yield f"config: {name}", packed({"config.json": text, "model.weights.h5": valid_h5()})
    for name, content in hostile_h5(folder):
        yield name, packed({"config.json": config, "model.weights.h5": content})


def valid_picture(kind: str) -> bytes:
    """A small photo."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def detector_settings() -> Iterator[tuple[str, str]]:
    """JSON objects of which none tells a detector."""
    for name, value in (
        ("labels", 3), ("labels", [1, 2]), ("labels", []), ("width", "wide"), ("width", -1), ("width", 1e9),
        ("hidden", "4096"), ("hidden", 10**30), ("hidden", True), ("hidden", 0), ("short_side", 1e308),
        ("anchor_scales", "8"), ("anchor_scales", [float("nan")]), ("anchor_scales", [0]), ("anchor_ratios", None),
        ("proposals", float("inf")), ("proposals", 0), ("detection_iou", 2), ("depth", 3),
    ):  # fmt: skip
        yield f"{name} {value}", json.dumps({name: value})
