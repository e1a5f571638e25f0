"""Measure a trained run: recall at 1, 5, 10 and the median rank in both directions, beside the paper's table.

With --search, find pictures for a sentence, or sentences for a picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.metrics import PROTOCOLS


def build_parser() -> argparse.ArgumentParser:
    """The command line of evaluate.py."""
    parser = cli.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("run", nargs="?", help="run folder (the latest)")
    parser.add_argument("--split", choices=("train", "val", "dev", "test"), default="test", help="(test)")
    parser.add_argument("--captions-per-image", type=cli.count, metavar="N", help="only the first N of a picture")
    parser.add_argument("--sample", type=cli.count, metavar="N", help="only a seeded subset of N pictures")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="full", help="COCO's protocols")
    parser.add_argument("--baseline", choices=("cca",), help="add a regularised CCA on the same features")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers to a file, too")
    parser.add_argument("--memory", type=cli.count, default=2048, metavar="MB", help="for scoring (2048)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the scores, .npy; a killed call goes on")
    parser.add_argument("--search", metavar="QUERY", help="a sentence, or a picture file: rank the split for it")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures to search instead of the split")
    parser.add_argument("--top", type=cli.count, default=10, metavar="N", help="results to show (10)")
    parser.add_argument("--rerank", type=int, default=100, metavar="N", help="candidates scored in full; 0: all (100)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    cli.add_data_flags(parser, moved_only=True)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, evaluate, print the table."""
    options = build_parser().parse_args(arguments)
    run = cli.run_folder(options.run)
    if options.search is not None:
        from bssan_tf.search import search, text_of

        moved = cli.given_data_flags(options)
        found = search(
            run, options.search, options.images, options.split, options.top, options.rerank, moved, not options.quiet
        )
        print(text_of(found))
        return
    if options.images:
        raise UserError(f"--images {options.images}: is for --search; --sample N measures on fewer pictures")
    from bssan_tf.evaluation import evaluate
    from bssan_tf.report import write_report

    value, text = evaluate(
        run,
        split=options.split,
        captions_per_image=options.captions_per_image,
        images=options.sample,
        protocol=options.protocol,
        baseline=options.baseline,
        data_flags=cli.given_data_flags(options),
        memory_mb=options.memory,
        out=options.out,
        progress=not options.quiet,
    )
    print(text)
    if options.json:
        write_report(options.json, value)
        print(f"\nnumbers: {options.json}")


if __name__ == "__main__":
    cli.run(main)
