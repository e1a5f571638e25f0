"""Search with a trained run: pictures for a sentence, or sentences for a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.settings import RERANK
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import find_run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("search").replace("python ", ""), description=__doc__)
    parser.add_argument("query", help="a sentence in quotes, or a picture file")
    parser.add_argument("--run", help="run folder (default: the latest)")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures to search (default: those of the run's test split)"
    )
    cli.add_split_flag(parser)
    parser.add_argument("--top", type=cli.count, metavar="N", default=10, help="results to show (default: 10)")
    parser.add_argument(
        "--rerank",
        type=lambda text: cli.count(text, least=0),
        metavar="N",
        default=RERANK,
        help=f"candidates that the whole model scores, the best by O2W; 0 for all (default: {RERANK})",
    )
    cli.add_use_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, search, print the results."""
    options = build_parser().parse_args(arguments)
    if options.images and options.split:
        raise UserError(f"--split {options.split}: --images is searched instead of a split; leave one out")
    run = find_run(options.run)
    cli.load_tensorflow()
    from bssan_tf.evaluation.search import search, text_of

    where = {"folder": options.images, "split": options.split or "test", "data_flags": cli.moved_files(options)}
    how = {"top": options.top, "rerank": options.rerank, "memory_mb": options.memory, "progress": not options.quiet}
    found = search(run, options.query, **where, **how)
    print(text_of(found))
