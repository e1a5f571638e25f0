"""Which photo file a name means: the exact name first, then the same name in other letters, if it is the only one.

In: the names that a data set's captions use, and the folders in which its photos may lie. Out: name -> path. Each
folder is listed once, never one `stat` for each photo. No name gets a photo by guessing: two photos that a name could
mean, and two names that would get one photo, are refused.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bssan_tf.errors import UserError

HEIC = (".heic", ".heif")  # read by pillow-heif, where it is installed
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", *HEIC)  # of pictures


class PhotoFolders:
    """The photos in some folders of a root.

    Args:
        root: the data set's folder.
        folders: relative to it, in the order in which they are looked at; those one level deeper come after them.
    """

    def __init__(self, root: Path, folders: Sequence[str] = ("",)):
        self.root = root
        self._names = {os.path.basename(folder) for folder in folders}
        self._listings: dict[Path, dict[str, bool]] = {}
        self._folded: dict[Path, dict[str, list[str]]] = {}
        there = [path for folder in folders if self.listing(path := root / folder)]
        self.upper = list({os.path.realpath(path): path for path in reversed(there)}.values())[::-1]
        known = {os.path.realpath(path) for path in (root, *self.upper)}
        deeper = [path / name for path in self.upper if path != root for name, dir in self.listing(path).items() if dir]
        self.deeper = [path for path in sorted(deeper) if os.path.realpath(path) not in known]

    def listing(self, folder: Path) -> dict[str, bool]:
        """name -> whether it is a folder, of what lies in a folder; empty if there is none."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = dict(_kinds(entries))
            except (FileNotFoundError, NotADirectoryError):
                self._listings[folder] = {}
            except (OSError, ValueError) as error:
                raise UserError(f"{folder}: cannot be read ({error}); check the folder and its rights") from None
        return self._listings[folder]

    def inside(self, folder: Path, name: str, folded: bool = False) -> list[Path]:
        """The files of a folder that `name`, which may have folders, means; `folded`: whatever capitals and accents."""
        found, parts = [folder], name.split("/")
        for part in parts:
            found = [place / entry for place in found for entry in self._entries(place, part, folded)]
        return [path for path in found if not self._listings[path.parent][path.name]]

    def _entries(self, folder: Path, name: str, folded: bool) -> list[str]:
        listing = self.listing(folder)
        if name in listing:
            return [name]
        if not folded:
            return []
        if folder not in self._folded:
            self._folded[folder] = {}
            for entry in listing:
                self._folded[folder].setdefault(fold(entry), []).append(entry)
        return self._folded[folder].get(fold(name), [])

    def find(
        self,
        names: Iterable[str],
        own: Mapping[str, Sequence[str]] | None = None,
        number: Callable[[str], str | None] | None = None,
        bare: bool = True,
    ) -> dict[str, Path]:
        """name -> photo, of the names that have one.

        Args:
            own: name -> the folders, relative to the root, in which its photo is looked for first.
            bare: a name's folder need not be there, if no other photo has the last part of its name. One that is
                there, or a photo in a folder that is none of these and one deeper, contradicts the name.
            number: what two names of one photo share, or None for a name that has no such number; its photo lies in
                its own folders only, where it has any.

        Raises:
            UserError: different photos for one name, or one photo for two names.
        """
        names, own = list(dict.fromkeys(names)), own or {}
        ends = Counter(name.rpartition("/")[2] for name in names) if bare else Counter()
        found: dict[str, Path] = {}
        for folded in (False, True):
            for name in names:
                if name in found:
                    continue
                owned = own.get(name, ())
                alone = bool(owned and number and number(name.rpartition("/")[2]) is None)
                if hits := self._hits(name, owned, alone, ends, folded):
                    found[name] = _one(name, hits)
        if number and len(found) < len(names):
            found |= self._by_number([name for name in names if name not in found], number)
        _refuse_shared(found)
        return found

    def _hits(self, name: str, own: Sequence[str], alone: bool, ends: Counter, folded: bool) -> list[Path]:
        """What could be the photo, from the nearest place that has any: its whole name before the last part of it."""
        owned = [self.root / folder for folder in own]
        groups = [[place] for place in owned]
        groups += [[self.root]] if own and "/" in name else []
        groups += [[p for p in places if not alone or _within(p, owned)] for places in (self.upper, self.deeper)]
        groups += [[self.root]] if "/" in name else []
        for places in groups:
            if hits := [hit for place in places for hit in self.inside(place, name, folded)]:
                return hits
        folder, _, last = name.rpartition("/")
        if not folder or not (folder in own or (ends[last] == 1 and not self._is_there(folder))):
            return []
        groups = [[place] for place in owned]
        if ends[last] == 1:
            deeper = [place for place in self.deeper if place.name in self._names]  # others tell photos apart
            groups += [[p for p in places if not alone or _within(p, owned)] for places in (self.upper, deeper)]
        for places in groups:
            if hits := [hit for place in places for hit in self.inside(place, last, folded)]:
                return hits
        return []

    def _is_there(self, folder: str) -> bool:
        return any(self.listing(place / folder) for place in (self.root, *self.upper))

    def _by_number(self, names: Sequence[str], number: Callable[[str], str | None]) -> dict[str, Path]:
        photos: dict[str, list[Path]] = {}
        for folder in (*self.upper, *self.deeper):
            for entry, is_folder in self.listing(folder).items():
                if not is_folder and (key := number(entry)):
                    photos.setdefault(key, []).append(folder / entry)
        keys = {name: number(name.rpartition("/")[2]) for name in names}
        return {name: _one(name, photos[key]) for name, key in keys.items() if key in photos}


def _kinds(entries: Iterable[os.DirEntry]) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a folder) of each entry that can be looked at: a link in a circle is neither."""
    for entry in entries:
        with contextlib.suppress(OSError):
            yield entry.name, entry.is_dir()


def fold(name: str) -> str:
    """A file name whatever its capitals and the form of its accents (macOS and other systems differ)."""
    return unicodedata.normalize("NFC", name).casefold()


def _one(name: str, hits: Sequence[Path]) -> Path:
    """The first of some photos that are the same; UserError if they differ."""
    for other in hits[1:]:
        if not _same(hits[0], other):
            raise UserError(f"{name}: is it {hits[0]} or {other}? They differ; rename or remove one")
    return hits[0]


def _same(one: Path, other: Path) -> bool:
    """Whether two files are one, or copies."""
    if os.path.samefile(one, other):
        return True
    if one.name != other.name and fold(one.name) == fold(other.name):
        return False  # beside each other on purpose
    return filecmp.cmp(one, other, shallow=False)


def _within(place: Path, folders: Sequence[Path]) -> bool:
    return place in folders or place.parent in folders


def _refuse_shared(found: Mapping[str, Path]) -> None:
    owner: dict[Path, str] = {}
    for name, path in found.items():
        if owner.setdefault(path, name) != name:
            raise UserError(f"{path}: is the one photo for {owner[path]} and for {name}; correct the names")


def check_name(name: str, where: str) -> None:
    """UserError, which begins with `where`, for a photo name with a line end or that is no Unicode text."""
    if "\n" in name or "\r" in name or not name.isprintable():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: the photo's name {name!r} is no Unicode text; rename the file") from None
        if "\n" in name or "\r" in name or "\0" in name:
            raise UserError(f"{where}: the photo's name {name!r} has a line end; rename the file")
