"""The pictures in a folder and its subfolders, each once, whatever links lead to it."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bssan_tf.datasets.photos import HEIC, SUFFIXES, check_name
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

HEIC_REMEDY = "pip install pillow-heif"


class Pictures(NamedTuple):
    """What is in a folder and all below it."""

    paths: list[Path]  # of the pictures, sorted by their paths relative to the folder
    unread: tuple[str, ...]  # folders that can't be read just now, and links that lead nowhere, relative to it
    heic: tuple[str, ...] = ()  # HEIC pictures that are there, but not in `paths`: pillow-heif is not installed

    def hidden(self, names: Iterable[str]) -> list[str]:
        """Those of these names, relative to the folder, that are there or may be, but can't be read now."""
        places, heic = tuple(f"{place}/" for place in self.unread), set(self.heic)
        return [name for name in names if name in heic or name.startswith(places)]

    def told(self) -> str:
        """Why these can't be read, and what to do."""
        found = []
        if self.unread:
            found.append(f"{', '.join(self.unread[:3])} can't be read; mount it or mend its rights")
        if self.heic:
            found.append(f"{self.heic[0]} is HEIC; to read it: {HEIC_REMEDY}")
        return "; ".join(found)


def pictures_in(folder: Path, tell: bool = True) -> Pictures:
    """The pictures in a folder and all below it.

    What begins with a dot is left out. Links are followed; a picture that several ways lead to is found once, by the
    way without links if there is one. HEIC is left out where pillow-heif is not installed; that, and subfolders that
    can't be read, are logged if `tell`.

    Raises:
        UserError: no such folder, it can't be read, it has no picture, a name has a line end.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {problem}; name one with pictures")
    real, unread = _walk(folder)
    if folder in unread:
        raise UserError(f"{folder}: can't be read ({unread[folder]}); check the rights")
    root, once = os.path.realpath(folder), {}
    parts = {path: path.parts[len(folder.parts) :] for path in real}
    direct = {path: real[path] == os.path.join(root, *parts[path]) for path in real}
    for path in sorted(real, key=lambda path: (not direct[path], parts[path])):
        once.setdefault(real[path], path)
    paths = sorted(once.values(), key=parts.get)
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
        names = ", ".join(str(path) for path in list(unread)[:3])
        logger.warning("%d folders can't be read, and are left out: %s", len(unread), names)
    return Pictures(paths, *(tuple(path.relative_to(folder).as_posix() for path in some) for some in (unread, heic)))


def heic_is_read() -> bool:
    """Whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def _walk(folder: Path) -> tuple[dict[Path, str], dict[Path, str]]:
    """Files with a picture's suffix, where each lies without links, and why folders could not be read; each folder
    once, by a link only at last.
    """
    found, unread, seen, plain, links = {}, {}, set(), [folder], []
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
                    path, picture = here / entry.name, entry.name.lower().endswith(SUFFIXES)
                    try:
                        if entry.is_dir():
                            (links if entry.is_symlink() else plain).append(path)
                        elif picture:
                            link = entry.is_symlink()
                            found[path] = os.path.realpath(path) if link else os.path.join(real, entry.name)
                        elif entry.is_symlink():
                            entry.stat()  # fails where it leads nowhere: to a disk that is not mounted, maybe
                    except OSError as error:
                        if picture:
                            found[path] = os.path.realpath(path)
                        elif error.errno != errno.ELOOP:  # a link in a circle
                            unread[path] = str(error.strerror)
        except OSError as error:
            unread[here] = str(error.strerror)
    return found, unread
    return found, unread
