"""What is shown and kept of a report on a score matrix: its table, further lines, its JSON file.

In: the dicts of recall.py and details.py. Out: text, and a file; nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bssan_tf.errors import UserError
from bssan_tf.metrics.recall import RECALLS
from bssan_tf.reading.documents import read_json
from bssan_tf.tools.files import write_json

KEYS = (*(f"R@{k}" for k in RECALLS), "MedR")  # columns of a table, in each direction
WAYS = {"i2t": "image to text", "t2i": "text to image"}
FURTHER = {"Mean r": "MeanR", "R-Precision": "R-P", "mAP@R": "mAP@R"}  # numbers below a table, and their keys


def table_lines(rows: Sequence[tuple[str, Mapping]], width: int | None = None) -> list[str]:
    """The lines of a table of reports by name: two of titles, a rule, the rows; `width` as `width_of`, if None."""
    width = width_of(rows) if width is None else width
    columns = "".join(f"{key:>7}" for key in KEYS[:3]) + f"{'Med r':>8}"
    ours = [table_row(name, report, width) for name, report in rows]
    return [
        " " * width + "  ".join(f"{name:^{len(columns)}}" for name in WAYS.values()),
        " " * width + f"{columns}  {columns}{'rsum':>8}",
        "-" * len(ours[0]),
        *ours,
    ]


def width_of(rows: Sequence[tuple[str, Mapping]]) -> int:
    """To which the names of a table are padded."""
    return max(24, *(len(name) + 2 for name, _ in rows))


def table_row(name: str, report: Mapping, width: int) -> str:
    """One row, its name padded to `width`."""
    i2t, t2i = (
        "".join(f"{way[key]:{8 if key == 'MedR' else 7}.1f}" for key in KEYS) for way in (report["i2t"], report["t2i"])
    )
    return name.ljust(width) + f"{i2t}  {t2i}{report['rsum']:8.1f}"


def detail_lines(value: Mapping) -> str:
    """Further metrics of our own row, and 95 % intervals where one matrix was measured; "" if there are none."""
    if "MeanR" not in value["i2t"]:
        return ""
    lines = [
        f"{name}: {', '.join(f'{title} {value[way][key]:.1f}' for title, key in FURTHER.items())}"
        for way, name in WAYS.items()
    ]
    lines.append(f"hubs, skewness of N_10: {hubs_text(value)}")
    if bounds := value.get("intervals"):
        recalls = "; ".join(
            f"{name} R@1 / 5 / 10 {' / '.join('{:.1f} to {:.1f}'.format(*bounds[way][f'R@{k}']) for k in RECALLS)}"
            for way, name in WAYS.items()
        )
        lines.append(f"95 % intervals, images resampled: rsum {{:.1f}} to {{:.1f}}; {recalls}".format(*bounds["rsum"]))
    return "\n".join(lines)


def hubs_text(report: Mapping) -> str:
    """Hubness in both directions."""
    return "; ".join(
        f"{WAYS[way]} {report[way]['N10_skewness']:.2f}, {report[way]['never']:.1f} % of the {what} never retrieved"
        for way, what in (("i2t", "captions"), ("t2i", "images"))
    )


def require_replaceable(path: Path) -> None:
    """UserError if a file is there that is no report."""
    remedy = "name another file"
    if path.exists() and "run" not in read_json(path, remedy, source=f"--json {path}"):
        raise UserError(f"--json {path}: is a file of yours, not a report of this command; {remedy}")


def write_report(path: Path, value: Mapping) -> None:
    """Write `report_json`'s value, whole or not at all; UserError if the file can't be written."""
    try:
        write_json(Path(path), dict(value))
    except OSError as error:
        raise UserError(f"--json {path}: can't be written ({error.strerror}); name another file") from error
