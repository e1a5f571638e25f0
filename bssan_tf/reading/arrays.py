""".npy and .npz: no pickle, and what a header claims is held against the file's size before memory is taken."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bssan_tf.errors import UserError
from bssan_tf.reading.files import check_claim, file_size, refusing

NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK"
MOST_MEMBERS = 10_000
BLOCK_BYTES = 32 << 20


def open_npy(path: str | Path, remedy: str, source: str | None = None, mmap: bool = True) -> np.ndarray:
    """The array of a .npy, memory-mapped for reading, or read where not `mmap`; UserError unless it is whole.

    Python objects, and types of fields, are refused.
    """
    source, size = source or str(path), file_size(path, remedy, source)
    with refusing(source, "not a complete .npy array of numbers", remedy):
        with open(path, "rb") as file:
            if file.read(2) == ZIP_MAGIC:
                raise ValueError("it is a .npz archive")
            file.seek(0)
            shape, fortran, dtype = read_header(file)
            offset, claimed = file.tell(), math.prod(shape) * dtype.itemsize
            if offset + claimed > size:
                raise ValueError(f"shape {shape} of {dtype} needs {claimed} bytes, the file has {size - offset}")
            if not mmap:
                check_claim(claimed, size)
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        order = "F" if fortran else "C"
        if not claimed:  # nothing to map
            return np.empty(shape, dtype, order)
        return np.memmap(path, dtype, "r", offset, shape, order)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype of an open .npy, whose data follow; ValueError if unusable."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format is {version[0]}.{version[1]}, known are 1.0 and 2.0")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if dtype.fields or dtype.subdtype or dtype.itemsize < 1:  # negative: the size of a text that overflows
        raise ValueError(f"its dtype {dtype} is not one of numbers or text")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape {shape} is negative")
    return tuple(map(int, shape)), fortran, dtype


def read_npz(
    path: str | Path,
    remedy: str,
    names: Collection[str] | None = None,
    optional: Collection[str] = (),
    source: str | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name; UserError: it is none, damaged, encrypted, or claims more than it can hold.

    Args:
        names: arrays that it must have; None for all that are there.
        optional: arrays that are read beside `names` where they are there.
    """
    source, size = source or str(path), file_size(path, remedy, source)
    with refusing(source, "not a readable .npz", remedy):
        with open(path, "rb") as file:
            if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                raise ValueError("it is a single .npy array; save it by np.savez")
        with zipfile.ZipFile(path) as archive:
            members = check_members(archive, size)
            arrays = {name.removesuffix(".npy"): info for name, info in members.items() if name.endswith(".npy")}
            if missing := [name for name in names or () if name not in arrays]:
                raise UserError(f"{source}: has no array {missing[0]!r}; {remedy}")
            wanted = arrays if names is None else [*names, *(name for name in optional if name in arrays)]
            return {name: _read_member(archive, arrays[name]) for name in wanted}


def check_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive of `size` bytes by name; ValueError where it may not be unpacked."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it has {len(members)} members, more than {MOST_MEMBERS}")
    for info in members:
        if info.flag_bits & 0x1:
            raise ValueError(f"its member {info.filename} is encrypted")
    found = {info.filename: info for info in members}
    if len(found) != len(members):
        raise ValueError("two of its members have one name")
    check_claim(sum(info.file_size for info in members), size)
    return found


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        shape, _, dtype = read_header(member)
        claimed, there = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if claimed != there:
        raise ValueError(f"{info.filename}: shape {shape} of {dtype} needs {claimed} bytes, it has {there}")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def texts(array: np.ndarray, what: str) -> tuple[str, ...]:
    """An array str (n,) as Python's strings; ValueError where it is another, or some are not Unicode text."""
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(f"{what} is {array.dtype} {array.shape}, not str (N,)")
    codes = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
        raise ValueError(f"{what} are not all Unicode text")
    return tuple(map(str, array))


def first_not_finite(array: np.ndarray) -> int | None:
    """The first row of a float array (n, ...) with a NaN or an infinity, read in blocks; None for none."""
    step = max(1, BLOCK_BYTES // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, len(array), step):
        block = np.asarray(array[start : start + step])
        if not (finite := _is_finite(block)).all():
            return start + int((~finite).reshape(len(block), -1).any(axis=1).argmax())
    return None


def _is_finite(block: np.ndarray) -> np.ndarray:
    if block.dtype != np.float16:
        return np.isfinite(block)
    return (np.ascontiguousarray(block).view(np.uint16) & 0x7C00) != 0x7C00  # the exponent; five times faster
