"""Search with a trained run: pictures for a sentence, or sentences for a picture."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.settings import RERANK
from bssan_tf.datasets.photos import SUFFIXES
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import read_picture
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
    picture = is_picture(options.query)
    if picture and options.images:
        raise UserError(f"--images {options.images}: is searched for a sentence; for a picture leave it out")
    run = find_run(options.run)
    if picture:
        read_picture(options.query)  # before anything slow
    elif options.images:
        pictures_in(options.images, tell=False)
    cli.load_tensorflow()
    from bssan_tf.matching.matcher import Matcher

    matcher = Matcher(run, cli.moved_files(options), options.memory, not options.quiet, of_own_data=True)
    if picture:
        index = matcher.sentences_of_split(options.split or "test")
    else:
        index = matcher.index(options.images) if options.images else matcher.index_of_split(options.split or "test")
    print(text_of(index.search(options.query, options.top, options.rerank)))


def is_picture(query: str) -> bool:
    """Whether a query is a picture file; UserError for a path of something else, which would be read as a sentence."""
    if Path(query).suffix.lower() in SUFFIXES:
        return True
    if os.sep in query or Path(query).suffix:
        if os.path.isdir(query):
            raise UserError(f"{query}: is a folder; to search its pictures give a sentence, and --images {query}")
        if os.path.exists(query):
            raise UserError(f"{query}: is no picture file ({', '.join(SUFFIXES)}); give one, or a sentence")
    return False


def text_of(hits: Sequence[tuple[float, Path | str]]) -> str:
    """The results as lines of rank, score and picture or sentence."""
    return "\n".join(f"{rank:>3}  {score:8.3f}  {found}" for rank, (score, found) in enumerate(hits, 1))
