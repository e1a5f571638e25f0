"""Measure a trained run: recall at 1, 5, 10 and the median rank in both directions, beside the paper's table."""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.metrics import PROTOCOLS


def build_parser() -> argparse.ArgumentParser:
    """The command line of evaluate.py."""
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("run", nargs="?", help="run folder (the latest)")
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument("--captions-per-image", type=cli.count, metavar="N", help="only the first N of a picture")
    parser.add_argument("--images", type=cli.count, metavar="N", help="only a seeded subset of N pictures")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="full", help="COCO's protocols")
    parser.add_argument("--baseline", choices=("cca",), help="add a regularised CCA on the same features")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to a file, too")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    cli.add_data_flags(parser, moved_only=True)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, evaluate, print the table."""
    options = build_parser().parse_args(arguments)
    from bssan_tf.runs import RunFolder, latest_run

    run = RunFolder(Path(options.run)) if options.run else latest_run()
    run.load_config()  # before TensorFlow loads: a wrong name is told at once
    from bssan_tf.evaluation import evaluate
    from bssan_tf.report import write_report

    value, text = evaluate(
        run,
        split=options.split,
        captions_per_image=options.captions_per_image,
        images=options.images,
        protocol=options.protocol,
        baseline=options.baseline,
        data_flags=cli.given_data_flags(options),
        progress=not options.quiet,
    )
    print(text)
    if options.json:
        write_report(Path(options.json), value)


if __name__ == "__main__":
    cli.run(main)
