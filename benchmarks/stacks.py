"""The same work on two Pythons, such as those of the two stacks of packages, in turns: rates, seconds and memory.

Run `python -m benchmarks.stacks PYTHON PYTHON [--only WHAT ...] [--rounds N] [--json FILE]`, each PYTHON the
interpreter of a virtual environment. Each row is a process of its own. Of the rounds the best is taken; the ratio is
that of the second Python to the first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.tools.files import write_json

PROJECT = Path(__file__).resolve().parent.parent
# what is done: (arguments, key of its JSON, or None where the command's processor time counts)
WORK = {
    "train.py, scenes: processor seconds": (["train.py", "--name", "scenes", "--cache", "cache", "--quiet"], None),
    "visualize.py, cold: processor seconds": (["visualize.py", "PHOTO", "a red circle", "-o", "a.png"], None),
    "step at small, pairs/s": (
        ["-m", "benchmarks.training", "--size", "small", "--steps", "8", "--rounds", "3"],
        "pairs_per_s",
    ),
    "step at paper, pairs/s": (["-m", "benchmarks.training", "--steps", "3", "--rounds", "3"], "pairs_per_s"),
    "step at paper, bfloat16, pairs/s": (
        ["-m", "benchmarks.training", "--steps", "3", "--rounds", "3", "--mixed-precision"],
        "pairs_per_s",
    ),
    "scoring at paper, pairs/s": (
        ["-m", "benchmarks.scoring", "--only", "comparison", "--images", "16", "--naive-batches", "32"],
        "fast_pairs_per_s",
    ),
    "extraction by VGG-16, photos/s": (
        ["-m", "benchmarks.extraction", "--backbone", "vgg16", "--images", "16", "--rounds", "2"],
        "images_per_s",
    ),
}


def build_parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m benchmarks.stacks", description=__doc__.split("\n\n")[0])
    parser.add_argument("pythons", nargs=2, metavar="PYTHON", help="interpreters to compare")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="words of the rows to measure (default: all rows)")
    parser.add_argument("--rounds", type=cli.count, default=2, metavar="N", help="turns (default: 2)")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="the numbers")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    options = build_parser().parse_args(arguments)
    chosen = {what: how for what, how in WORK.items() if any(word in what for word in options.only or [""])}
    found = {what: [[], []] for what in chosen}
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / side for side in ("first", "second")]
        for _ in range(options.rounds):
            for what, (work, key) in chosen.items():
                for side, (python, place) in enumerate(zip(options.pythons, places)):
                    found[what][side].append(run(python, place, work, key))
                    print(f"{python}: {what} {found[what][side][-1][0]:.4g}", flush=True)
    print(f"| | {' | '.join(options.pythons)} | ratio | peak MiB |\n|---|---|---|---|---|")
    for what, sides in found.items():
        better = max if chosen[what][1] else min
        one, other = (better(value for value, _ in side) for side in sides)
        peaks = ", ".join(f"{min(peak for _, peak in side):,.0f}" for side in sides)
        print(f"| {what} | {one:.3g} | {other:.3g} | {other / one:.2f} | {peaks} |")
    if options.json:
        write_json(options.json, found)


def run(python: str, place: Path, work: list[str], key: str | None) -> tuple[float, float]:
    """What the JSON of some work says, or its processor seconds, and its peak memory in MiB."""
    place.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if work[0] == "train.py":  # a run of the same name again
        shutil.rmtree(place / "runs", ignore_errors=True)
    photo = next((str(path) for path in sorted((place / "cache").glob("scenes/images/test_*"))), "")
    command = [python, *(str(PROJECT / word) if word.endswith(".py") else word for word in work)]
    command = [photo if word == "PHOTO" else word for word in command]
    told = place / "numbers.json"
    with open(place / "log", "w+") as log:
        child = subprocess.Popen(
            command + (["--json", str(told)] if key else []), cwd=place, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise UserError(f"{' '.join(command)}: ended with {child.returncode}: {log.read()[-500:]}")
    value = json.loads(told.read_text())[key] if key else usage.ru_utime + usage.ru_stime
    return value, usage.ru_maxrss / 1024


if __name__ == "__main__":
    cli.run(main)
