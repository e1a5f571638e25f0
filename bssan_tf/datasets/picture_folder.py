"""The pictures in a folder and its subfolders, each once, whatever links lead to it."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from bssan_tf.datasets.photos import HEIC, SUFFIXES, check_name
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

HEIC_REMEDY = "pip install pillow-heif"


def pictures_in(folder: Path, tell: bool = True) -> list[Path]:
    """The pictures in a folder and all below it, sorted by their paths relative to it.

    What begins with a dot is left out. Links are followed; a picture that several ways lead to is found once, by the
    way without links if there is one. HEIC is left out where pillow-heif is not installed; that, and subfolders that
    can't be read, are logged if `tell`.

    Raises:
        UserError: no such folder, it can't be read, it has no picture, a name has a line end.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one with pictures")
    found, unread = _walk(folder)
    if unread and unread[0].filename == str(folder):
        raise UserError(f"{folder}: can't be read ({unread[0].strerror}); check the rights")
    root, once = os.path.realpath(folder), {}
    real = {path: os.path.realpath(path) for path in found}
    direct = {path: real[path] == os.path.join(root, path.relative_to(folder)) for path in found}
    for path in sorted(found, key=lambda path: (not direct[path], path.relative_to(folder).parts)):
        once.setdefault(real[path], path)
    paths = sorted(once.values(), key=lambda path: path.relative_to(folder).parts)
    heic = [] if heic_is_read() else [path for path in paths if path.suffix.lower() in HEIC]
    left_out = f"{folder}: {len(heic)} HEIC pictures are left out; to read them: {HEIC_REMEDY}"
    paths = [path for path in paths if not heic or path.suffix.lower() not in HEIC]
    if not paths:
        raise UserError(left_out if heic else f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    for path in paths:
        check_name(path.relative_to(folder).as_posix(), str(folder))
    if tell and heic:
        logger.warning(left_out)
    if tell and unread:
        names = ", ".join(str(error.filename) for error in unread[:3])
        logger.warning("%d folders can't be read, and are left out: %s", len(unread), names)
    return paths


def heic_is_read() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def _walk(folder: Path) -> tuple[list[Path], list[OSError]]:
    """Files with a picture's suffix, and why folders could not be read; each folder once, by a link only at last."""
    found, unread, seen, plain, links = [], [], set(), [folder], []
    while plain or links:
        here = plain.pop() if plain else links.pop(0)
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        (links if entry.is_symlink() else plain).append(here / entry.name)
                    elif entry.name.lower().endswith(SUFFIXES):
                        found.append(here / entry.name)
        except OSError as error:
            unread.append(error)
    return found, unread


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
