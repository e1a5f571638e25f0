"""Write the boxes that a detector finds in the photos of a folder, for --boxes of any run.

python -m bssan_tf.features.boxes photos --out boxes.npz --detector keras_hub:dfine_small_coco
python -m bssan_tf.features.boxes photos --out boxes.npz --detector voc.npz

Photos in folders within are named by their path. The same command goes on where it was stopped, and adds new and
changed photos to a file that is whole. Boxes of photos in folders that can't be read just now are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_tf import cli
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError
from bssan_tf.reading.arrays import read_npz, texts
from bssan_tf.reading.files import refusing
from bssan_tf.tools.files import locked, naming, replacing

COUNT = 10  # objects of an image
AHEAD = 4  # photos that are decoded while one is looked at

logger = logging.getLogger("bssan_tf.features.boxes")


class Found(NamedTuple):
    """What a detector found in a photo."""

    stamp: tuple[int, int]  # bytes and time of change, in nanoseconds, of the file as it was read
    rows: np.ndarray  # float32 (n, 6), of a boxes file


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    usage, _, examples = __doc__.partition("\n\n")
    texts = {"description": usage, "epilog": examples, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = cli.Parser("python -m bssan_tf.features.boxes", **texts)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="photos, also in folders within")
    parser.add_argument(
        "--out", required=True, type=lambda path: cli.writable(path, ".npz"), metavar="FILE.npz", help="file to write"
    )
    parser.add_argument(
        "--detector", required=True, metavar="WHAT", help="keras_hub:PRESET, or weights of a Faster R-CNN"
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="names of the classes, one a line in the order of their numbers, of a preset that does not tell them",
    )
    parser.add_argument(
        "--count", type=cli.count, metavar="N", default=COUNT, help=f"boxes of a photo, the best (default: {COUNT})"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, detect, say where the file is."""
    options = build_parser().parse_args(arguments)
    cli.require_given("--detector", options.detector)
    found = pictures_in(options.folder)
    photos = {path.relative_to(options.folder).as_posix(): path for path in found.paths}
    cli.load_tensorflow()
    from bssan_tf.features.detectors import open_detector
    from bssan_tf.features.objects import read_class_names

    detector = open_detector(options.detector, "--detector")
    labels, given = detector.labels, f"--class-names {options.class_names}"
    if options.class_names and labels:
        raise UserError(f"{given}: the detector names its classes; leave it out")
    if options.class_names:
        labels = read_class_names(options.class_names, given, detector.count)
    elif labels is None:
        logger.info("--detector %s: does not name its classes; --class-names FILE does", options.detector)
    with Progress(options.out, detector.name, options.count, options.folder) as progress:
        bad = detect(photos, detector, progress, not options.quiet)
        hidden = found.hidden(progress.found.keys() - photos)  # they may be there again next time
        progress.finish([*photos, *sorted(hidden)], labels)
    if bad:
        shown = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
        logger.warning("%d of %d pictures can't be read, and have no boxes: %s", len(bad), len(photos), shown)
    print(options.out)


def detect(photos: dict[str, Path], detector, progress: Progress, bar: bool = True) -> list[str]:
    """Note the boxes of all photos that `progress` does not know as they are, and return why others can't be read.

    UserError where none of the photos can be read.
    """
    from tqdm import tqdm

    left = [name for name, path in photos.items() if not progress.knows(name, _stamp(path))]
    bad, done = [], len(photos) - len(left)
    shown = tqdm(total=len(photos), initial=done, desc="detecting", unit="photo", disable=not bar)
    with shown, contextlib.closing(_decoded([photos[name] for name in left], detector)) as decoded:
        for name, (stamp, inputs) in zip(left, decoded):
            if isinstance(inputs, UserError):
                bad.append(str(inputs))
                progress.found.pop(name, None)  # the boxes of what it was
            else:
                rows = detector.rows(detector.run(inputs))
                progress.note(name, Found(stamp, _best(rows, progress.count)))
            shown.update()
    if len(bad) == len(photos):
        raise UserError(f"none of {len(bad)} pictures can be read, the first: {bad[0]}")
    return bad


def _decoded(paths: Sequence[Path], detector) -> Iterator[tuple[tuple[int, int], object]]:
    """(stamp, a detector's inputs, or the UserError) of each photo, decoded ahead in threads."""
    from bssan_tf.features.describer import decoding_pool
    from bssan_tf.features.pictures import read_picture

    def read(path: Path):
        stamp = _stamp(path)  # before the pixels: what changes meanwhile is seen next time
        try:
            photo, _ = read_picture(path, side=None)
        except UserError as error:
            return stamp, error
        return stamp, detector.inputs(photo)  # its errors are no picture's

    pool, waiting = decoding_pool(), deque()
    try:
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and time of change of a file; zeros where it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _best(rows: np.ndarray, count: int) -> np.ndarray:
    """The best of a photo's boxes that have a score and an area, highest score first."""
    real = (rows[:, 4] > 0) & (rows[:, 2:4] > rows[:, :2]).all(axis=1)
    rows = rows[real]
    return rows[np.argsort(-rows[:, 4], kind="stable")][:count]


class Progress:
    """What is known of the photos: the rows of an earlier file, and a line for each photo that was looked at since.

    The lines are in FILE.npz.progress, which is locked; a kill loses the photos at work, and spoils at most a line.

    Args:
        out: the boxes file.
        detector, count, folder: name of the detector, boxes of a photo, the photos' folder; UserError where the files
            are of others.
    """

    def __init__(self, out: Path, detector: str, count: int, folder: Path):
        self.out, self.detector, self.count, self.folder = out, detector, count, os.path.realpath(folder)
        self.path = out.with_name(f"{out.name}.progress")
        self.found: dict[str, Found] = {}
        self._header = f"{json.dumps([detector, count, self.folder])}\n"

    def __enter__(self) -> Progress:
        with contextlib.ExitStack() as held:
            busy = f"{self.out}: another process writes it; wait for its end, or name another"
            self._file = held.enter_context(locked(self.path, busy))
            fresh = not os.fstat(self._file).st_size
            try:
                if self.out.exists():
                    self._read_file()
                self._read_lines()
            except UserError:
                if fresh:  # so that nothing is left of a call that was refused
                    self.path.unlink()
                raise
            self._held = held.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._held.close()

    def _read_file(self) -> None:
        remedy = "remove it, or name another by --out"
        arrays = read_npz(self.out, remedy)
        if str(arrays.get("detector")) != self.detector:
            raise UserError(f"--out {self.out}: is there already, and not of this detector; {remedy}")
        with refusing(f"--out {self.out}", "not a file of this command", remedy):
            names, stamps, boxes = texts(arrays["names"], "names"), arrays["stamps"], arrays["boxes"]
            if boxes.shape != (len(names), self.count, 6) or stamps.shape != (len(names), 2):
                raise ValueError(f"its boxes are {boxes.shape}, and --count is {self.count}")
            for name, stamp, rows in zip(names, stamps.tolist(), boxes):
                self.found[name] = Found(tuple(stamp), rows[rows[:, 4] > 0])
        self._refuse_another_folder(arrays.get("folder"), remedy)

    def _refuse_another_folder(self, folder: np.ndarray | None, remedy: str) -> None:
        """Refuse a file of another folder, whose boxes would be dropped."""
        if folder is not None and str(folder) != self.folder:
            raise UserError(f"--out {self.out}: is there already, and of the photos of {folder}; {remedy}")
        if folder is None:  # of an older version
            gone = [name for name in self.found if not os.path.lexists(os.path.join(self.folder, name))]
            if gone:
                what = f"does not tell its folder, and has {len(gone)} photos that are not in {self.folder}"
                raise UserError(f"--out {self.out}: {what} ({gone[0]}); {remedy}")

    def _read_lines(self) -> None:
        """What a stopped call has noted; a line that a kill has cut is taken off."""
        content = self.path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines and lines[0] != self._header.encode():
            begun = "was begun with another folder, detector or --count"
            raise UserError(f"{self.path}: {begun}; give those again, or remove it to begin anew")
        kept = sum(map(len, lines[:1]))
        for line in lines[1:]:
            try:
                name, stamp, rows = json.loads(line)
                self.found[name] = Found(tuple(stamp), np.array(rows, np.float32).reshape(-1, 6))
            except (ValueError, TypeError):  # the disk was full, say
                break
            kept += len(line)
        os.ftruncate(self._file, kept)
        os.lseek(self._file, kept, os.SEEK_SET)
        if not lines:
            self._write(self._header)

    def _write(self, line: str) -> None:
        with naming(self.path):
            os.write(self._file, line.encode())

    def knows(self, name: str, stamp: tuple[int, int]) -> bool:
        """Whether a photo was looked at as it is now."""
        return name in self.found and self.found[name].stamp == stamp

    def note(self, name: str, found: Found) -> None:
        """Keep what was found in a photo."""
        self.found[name] = found
        self._write(f"{json.dumps([name, found.stamp, found.rows.tolist()])}\n")

    def finish(self, names: Sequence[str], labels: Sequence[str] | None) -> None:
        """Write the boxes file with these photos, of which those that are not known have no box."""
        boxes, stamps = np.zeros((len(names), self.count, 6), np.float32), np.zeros((len(names), 2), np.int64)
        for row, name in enumerate(names):
            if found := self.found.get(name):
                boxes[row, : len(found.rows)], stamps[row] = found.rows, found.stamp
        named = {} if labels is None else {"labels": np.array(labels)}
        with replacing(self.out, durable=True) as part, open(part, "wb") as file:
            named |= {"detector": self.detector, "folder": self.folder}
            np.savez(file, names=np.array(names), boxes=boxes, stamps=stamps, **named)
        self.path.unlink()


if __name__ == "__main__":
    cli.run(main)
