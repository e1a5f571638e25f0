"""Measure a trained run: recall at 1, 5, 10 and the median rank in both directions, beside the paper's table.

With --pointing, measure whether attention looks at the right place in photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.settings import flag_of
from bssan_tf.errors import UserError
from bssan_tf.metrics.recall import PROTOCOLS
from bssan_tf.runs.folder import find_run

RETRIEVAL_ONLY = ("split", "captions_per_image", "sample", "protocol", "baseline", "parts", "out")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("evaluate").replace("python ", ""), description=__doc__)
    parser.add_argument("run", nargs="?", help="run folder (default: the latest)")
    cli.add_split_flag(parser)
    parser.add_argument(
        "--captions-per-image", type=cli.count, metavar="N", help="score only the first N captions of a picture"
    )
    parser.add_argument("--sample", type=cli.count, metavar="N", help="score only a seeded subset of N pictures")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="COCO's protocols (default: full)")
    parser.add_argument(
        "--baseline",
        choices=("cca",),
        help="add rows of a regularised CCA, fitted on the train split: CCA, on pooled regions and bags of words, and "
        "CCA+, with score normalisation and a GloVe prior; for runs with objects in context, also of these objects",
    )
    parser.add_argument("--parts", action="store_true", default=None, help="add rows of W2R and O2W alone")
    parser.add_argument(
        "--pointing",
        type=Path,
        metavar="FOLDER",
        help="measure attention instead of retrieval, on photos, captions and instances in COCO's layout",
    )
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the figures to a file, too")
    parser.add_argument(
        "--out",
        type=cli.scores_file,
        metavar="FILE",
        help="keep the scores in FILE.npy, with --parts also in FILE.w2r.npy and FILE.o2w.npy; a killed call goes on",
    )
    cli.add_use_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, evaluate, print the table."""
    options = build_parser().parse_args(arguments)
    for name in RETRIEVAL_ONLY if options.pointing else ():
        if (value := getattr(options, name)) is not None:
            shown = "" if value is True else f" {value}"
            raise UserError(f"{flag_of(name)}{shown}: has no effect with --pointing; leave it out")
    run, flags, progress = find_run(options.run), cli.moved_files(options), not options.quiet
    cli.load_tensorflow()
    from bssan_tf.metrics.output import require_replaceable, write_report

    if options.json:
        require_replaceable(options.json)

    if options.pointing:
        from bssan_tf.evaluation.coco_pointing import point_at_photos

        value, text = point_at_photos(run, options.pointing, flags, progress)
    else:
        from bssan_tf.evaluation.retrieval import evaluate
        from bssan_tf.evaluation.scores import Request

        fields = {name: name for name in RETRIEVAL_ONLY} | {"sample": "images", "memory": "memory_mb"}
        asked = {field: value for name, field in fields.items() if (value := getattr(options, name)) is not None}
        value, text = evaluate(run, Request(**asked), flags, progress)
    print(text)
    if options.json:
        write_report(options.json, value)
        print(f"\nnumbers: {options.json}")
