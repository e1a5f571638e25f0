"""Measure a trained run: recall at 1, 5, 10 and the median rank in both directions, beside the paper's table.

With --search, find pictures for a sentence, or sentences for a picture. With --pointing, measure whether attention
looks at the right place in photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.schema import flag_of
from bssan_tf.errors import UserError
from bssan_tf.metrics import PROTOCOLS


def build_parser() -> argparse.ArgumentParser:
    """The command line of evaluate.py."""
    parser = cli.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("run", nargs="?", help="run folder (the latest)")
    parser.add_argument("--split", choices=("train", "val", "dev", "test"), help="(test)")
    parser.add_argument("--captions-per-image", type=cli.count, metavar="N", help="only the first N of a picture")
    parser.add_argument("--sample", type=cli.count, metavar="N", help="only a seeded subset of N pictures")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="COCO's protocols (full)")
    parser.add_argument(
        "--baseline",
        choices=("cca",),
        help="add a regularised CCA on the regions, and a second on the objects of runs that have them in context, "
        "each in two rows: plain, and WEIGHTED with all that the start of the preset has (weighted lengths, and the "
        "run's GloVe vectors if any), so that only the rest counts as learned",
    )
    parser.add_argument("--parts", action="store_true", default=None, help="add W2R and O2W alone")
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the numbers to a file, too")
    parser.add_argument("--memory", type=cli.count, default=2048, metavar="MB", help="for scoring (2048)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the scores, .npy; a killed call goes on")
    parser.add_argument("--search", metavar="QUERY", help="a sentence, or a picture file: rank the split for it")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures to search instead of the split")
    parser.add_argument("--top", type=cli.count, metavar="N", help="results to show (10)")
    parser.add_argument("--rerank", type=cli.count_or_none, metavar="N", help="candidates scored in full; 0: all (100)")
    parser.add_argument("--pointing", type=Path, metavar="FOLDER", help="photos, captions and instances of COCO")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    cli.add_data_flags(parser, moved_only=True)
    return parser


# The flags that each use has; without --search and --pointing it is to measure retrieval.
FLAGS = {
    "measure": ("split", "captions_per_image", "sample", "protocol", "baseline", "parts", "json", "out"),
    "search": ("split", "images", "top", "rerank"),
    "pointing": ("json",),
}


def check_use(options: argparse.Namespace) -> None:
    """UserError if a flag was given that is without effect beside the others."""
    if options.search is not None and options.pointing:
        raise UserError(f"--pointing {options.pointing}: has no effect with --search; leave one out")
    use = "search" if options.search is not None else "pointing" if options.pointing else "measure"
    for name in dict.fromkeys(name for names in FLAGS.values() for name in names):
        if (value := getattr(options, name)) is not None and name not in FLAGS[use]:
            why = "is for --search" if use == "measure" else f"has no effect with --{use}"
            raise UserError(f"{flag_of(name)} {value}: {why}; leave it out")
    if options.images and options.split:
        raise UserError(f"--split {options.split}: --images is searched instead of a split; leave one out")


def given(options: argparse.Namespace, **names: str) -> dict:
    """The flags that were given, by parameter name: the others keep the functions' defaults."""
    values = {parameter: getattr(options, name) for parameter, name in names.items()}
    return {parameter: value for parameter, value in values.items() if value is not None}


def main(arguments: list[str] | None = None) -> None:
    """Parse, evaluate, print the table."""
    options = build_parser().parse_args(arguments)
    check_use(options)
    run = cli.run_folder(options.run)
    if options.search is not None:
        from bssan_tf.evaluation.search import search, text_of

        moved = cli.given_data_flags(options)
        chosen = given(options, folder="images", split="split", top="top", rerank="rerank")
        shared = {"data_flags": moved, "memory_mb": options.memory, "progress": not options.quiet}
        found = search(run, options.search, **chosen, **shared)
        print(text_of(found))
        return
    from bssan_tf.evaluation.report import write_report

    if options.pointing:
        from bssan_tf.evaluation.coco_pointing import point_at_photos

        value, text = point_at_photos(run, options.pointing, cli.given_data_flags(options), not options.quiet)
    else:
        from bssan_tf.evaluation.retrieval import Request, evaluate

        names = ("split", "captions_per_image", "protocol", "parts", "baseline", "out")
        asked = given(options, **{name: name for name in names}, images="sample", memory_mb="memory")
        value, text = evaluate(run, Request(**asked), cli.given_data_flags(options), not options.quiet)
    print(text)
    if options.json:
        write_report(options.json, value)
        print(f"\nnumbers: {options.json}")


if __name__ == "__main__":
    cli.run(main)
