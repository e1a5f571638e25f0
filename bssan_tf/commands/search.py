"""Search with a trained run: pictures for a sentence or like a picture, or sentences for a picture."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bssan_tf import cli
from bssan_tf.config.settings import RERANK
from bssan_tf.datasets.photos import SUFFIXES
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError
from bssan_tf.features.pictures import read_picture
from bssan_tf.runs.folder import PACKAGED, RunFolder, find_run

if TYPE_CHECKING:
    from bssan_tf.matching.indexes import Hit

logger = logging.getLogger(__name__)

DEFAULT = -1.0  # of --min-probability without a value: the run's own


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("search").replace("python ", ""), description=__doc__)
    parser.add_argument("query", nargs="?", help="a sentence in quotes, or a picture file to find sentences for")
    parser.add_argument("--like", metavar="PHOTO", help="find the pictures that are most like this one")
    parser.add_argument("--run", help="run folder (default: the latest)")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="pictures to search, with those of its subfolders (default: those of the run's test split)",
    )
    cli.add_split_flag(parser)
    parser.add_argument("--top", type=cli.count, metavar="N", default=10, help="results to show (default: 10)")
    parser.add_argument(
        "--rerank",
        type=lambda text: cli.count(text, least=0),
        metavar="N",
        default=RERANK,
        help=f"candidates that the whole model scores, chosen by a first stage; 0 for all (default: {RERANK})",
    )
    parser.add_argument(
        "--min-probability",
        type=cli.probability,
        nargs="?",
        const=DEFAULT,
        metavar="P",
        help="leave out pictures that are less probable; without P, as sure as to find nothing for four of five "
        "sentences whose picture is not there",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("-o", "--out", type=cli.png, help="PNG to write: a contact sheet of the pictures found")
    cli.add_use_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, search, print the results."""
    options = build_parser().parse_args(arguments)
    picture = check(options)
    run = find_run(options.run, pretrained=True, photos=bool(options.images))
    if run.path == PACKAGED and not (options.images or options.root):
        raise UserError("search: the pretrained run brings no photos; name a folder of yours by --images")
    if picture or options.like:
        read_picture(options.like or options.query)  # before anything slow
    if options.images:
        pictures_in(options.images, tell=False)
    if options.out:
        from bssan_tf.drawing.figures import refuse_others, save  # late: Matplotlib takes its time
        from bssan_tf.drawing.sheet import contact_sheet

        refuse_others(options.out)
    cli.load_tensorflow()
    from bssan_tf.matching.matcher import Matcher

    matcher = Matcher(run, cli.moved_files(options), options.memory, not options.quiet, of_own_data=True)
    split = options.split or "test"
    if picture:
        index = matcher.sentences_of_split(split)
    else:
        index = matcher.index(options.images) if options.images else matcher.index_of_split(split)
    least = options.min_probability
    if least == DEFAULT:
        least = index.calibration.threshold if index.calibration else 0.0  # then it is refused
    if options.like:
        hits = index.like(options.like, options.top)
    else:
        hits = index.search(options.query, options.top, options.rerank, *([] if least is None else [least]))
    if least is not None and not hits:
        logger.info("nothing is more probable than %.0f %% (--min-probability)", 100 * least)
        if options.out:
            logger.info("%s: not written, as there is nothing to show", options.out)
    print(json_of(options, run, hits, "sentence" if picture else "path") if options.json else text_of(hits))
    if options.out and hits:
        save(contact_sheet(f"like {options.like}" if options.like else f"“{options.query}”", hits), options.out)


def check(options: argparse.Namespace) -> bool:
    """Whether the query is a picture, for which sentences are to be found; UserError for flags that don't fit."""
    if options.images and options.split:
        raise UserError(f"--split {options.split}: --images is searched instead of a split; leave one out")
    if options.like is not None:
        cli.require_given("--like", options.like)
        if options.query is not None:
            raise UserError(f"--like {options.like}: is a query itself; leave it or {options.query!r} out")
        if options.min_probability is not None:
            raise UserError(f"--min-probability: is of pictures for a sentence; leave it or --like {options.like} out")
        return False
    if options.query is None:
        raise UserError("search: nothing to search for; give a sentence in quotes, a picture file, or --like PHOTO")
    picture = is_picture(options.query)
    if picture and options.images:
        remedy = f"for pictures like it give --like {options.query}"
        raise UserError(f"--images {options.images}: is searched by a sentence; {remedy}")
    if picture and options.min_probability is not None:
        raise UserError(f"--min-probability: is of pictures for a sentence; leave it or {options.query} out")
    if picture and options.out:
        raise UserError(f"-o {options.out}: shows pictures, but for {options.query} sentences are found; leave it out")
    return picture


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


def json_of(options: argparse.Namespace, run: RunFolder, hits: Sequence[Hit], kind: str) -> str:
    """The query, the run and the results as JSON; of each rank, score, probability if any, and its `kind`: path or
    sentence.
    """
    results = [{"rank": rank, **hit._asdict(), kind: str(hit.found)} for rank, hit in enumerate(hits, 1)]
    for one in results:
        del one["found"]
        if one["probability"] is None:
            del one["probability"]
    query = {"like": options.like} if options.like else {"query": options.query}
    return json.dumps({**query, "run": str(run.path), "results": results}, indent=2)


def text_of(hits: Sequence[Hit]) -> str:
    """The results as lines of rank, score, probability if any, and picture or sentence."""
    lines = []
    for rank, hit in enumerate(hits, 1):
        chance = "" if hit.probability is None else f"{100 * hit.probability:5.1f} %  "
        lines.append(f"{rank:>3}  {hit.score:8.3f}  {chance}{hit.found}")
    return "\n".join(lines)
