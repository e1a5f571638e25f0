"""Measure a trained run: recall at 1, 5, 10 and the median rank in both directions, beside the paper's table.

With two runs, compare the second with the first; with --ensemble, measure the mean of the scores of two or more. With
--pointing, measure whether attention looks at the right place in photos; with --erase, whether scores hang on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.settings import BANK, flag_of
from bssan_tf.errors import UserError
from bssan_tf.metrics.hubs import CORRECTIONS
from bssan_tf.metrics.recall import PROTOCOLS
from bssan_tf.runs.folder import RunFolder, find_run

HUB = ("hub", "bank", "transductive")
PICTURES = ("split", "captions_per_image", "sample")  # which are measured
RETRIEVAL_ONLY = (*PICTURES, "protocol", "baseline", *HUB, "parts", "out")
BOXES = "boxes"
OF_ONE_RUN = ("baseline", "parts", "pointing", "erase", *HUB)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("evaluate").replace("python ", ""), description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folder, or several (default: the latest)")
    parser.add_argument("--ensemble", action="store_true", help="measure the mean of the runs' scores")
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
    parser.add_argument(
        "--hub",
        choices=tuple(CORRECTIONS),
        help="add rows of scores that are corrected for hubs by a bank of training captions and pictures",
    )
    parser.add_argument(
        "--bank", type=cli.count, metavar="N", help=f"captions and pictures of the bank, N of each (default: {BANK})"
    )
    parser.add_argument(
        "--transductive",
        action="store_true",
        default=None,
        help="take the measured queries themselves as the bank; the row says so",
    )
    parser.add_argument("--parts", action="store_true", default=None, help="add rows of W2R and O2W alone")
    parser.add_argument(
        "--pointing",
        metavar=f"FOLDER|{BOXES}",
        help="measure attention instead of retrieval, on photos, captions and instances in COCO's layout; or on the "
        "run's own pictures, where the boxes of its detector count as the truth",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help=f"with --pointing {BOXES}: the names of the boxes' classes, one a line, if their file has none",
    )
    parser.add_argument(
        "--erase",
        type=cli.count,
        metavar="N",
        help="measure, in N pictures of the split, how far scores fall where the square at which a word looked is grey",
    )
    parser.add_argument("--json", type=cli.writable, metavar="FILE", help="write the figures to a file, too")
    parser.add_argument(
        "--out",
        type=cli.scores_file,
        metavar="FILE",
        help="keep the scores in FILE.npy, and the row of each caption's image in FILE.owners.txt; with --parts also "
        "in FILE.w2r.npy and FILE.o2w.npy, with --hub its bank's in FILE.bank-captions.npy and FILE.bank-pictures.npy, "
        "of several runs in FILE.1.npy, FILE.2.npy and so on; a killed call goes on",
    )
    cli.add_use_flags(parser)
    return parser


def require_hub_flags_that_fit(options: argparse.Namespace) -> None:
    """UserError for --bank or --transductive without --hub, and for both."""
    if options.hub is None and (options.bank or options.transductive):
        given = f"--bank {options.bank}" if options.bank else "--transductive"
        raise UserError(f"{given}: has no effect without --hub; add it, or leave this out")
    if options.bank and options.transductive:
        raise UserError(f"--bank {options.bank}: with --transductive, the split itself is the bank; leave one out")


def main(arguments: list[str] | None = None) -> None:
    """Parse, evaluate, print the table."""
    options = build_parser().parse_args(arguments)
    cli.require_given("--pointing", options.pointing)
    own = options.pointing == BOXES
    fixed = tuple(name for name in RETRIEVAL_ONLY if not (own and name in PICTURES)) if options.pointing else ()
    _require_effect(options, "--pointing", fixed)
    _require_effect(options, f"anything but --pointing {BOXES}", () if own else ("class_names",))
    others = ("pointing", *(name for name in RETRIEVAL_ONLY if name != "split"))
    _require_effect(options, "--erase", others if options.erase else ())
    _require_effect(options, "several runs", OF_ONE_RUN if len(options.runs) > 1 else ())
    if options.ensemble and len(options.runs) < 2:
        raise UserError("--ensemble: is of two runs or more; name them")
    if len(options.runs) > 2 and not options.ensemble:
        raise UserError(f"{options.runs[2]}: two runs are compared, no more; leave it out, or add --ensemble")
    require_hub_flags_that_fit(options)
    flags, progress = cli.moved_files(options), not options.quiet
    if own and flags.get("objects") == "grid":
        raise UserError(f"--objects grid: --pointing {BOXES} measures by the run's own boxes; leave one out")
    runs = [find_run(name) for name in options.runs or [None]]
    cli.load_tensorflow()
    from bssan_tf.metrics.output import require_replaceable, write_report

    if options.json:
        require_replaceable(options.json)

    value, text = _measured(options, runs, flags, progress)
    print(text)
    if options.json:
        write_report(options.json, value)
        print(f"\nnumbers: {options.json}")


def _measured(options: argparse.Namespace, runs: list[RunFolder], flags: dict, progress: bool) -> tuple[dict, str]:
    """What was asked for, as JSON value and as text."""
    from bssan_tf.evaluation.comparison import compare, ensemble
    from bssan_tf.evaluation.photo_pointing import point_at_boxes, point_at_photos
    from bssan_tf.evaluation.retrieval import evaluate
    from bssan_tf.evaluation.scores import Request

    if options.erase:
        from bssan_tf.evaluation.erase_test import erase_test

        return erase_test(runs[0], options.erase, options.split or "test", flags, progress)
    if options.pointing and options.pointing != BOXES:
        return point_at_photos(runs[0], Path(options.pointing), flags, progress)
    fields = {name: name for name in RETRIEVAL_ONLY} | {"sample": "images", "memory": "memory_mb"}
    asked = {field: value for name, field in fields.items() if (value := getattr(options, name)) is not None}
    request = Request(**asked)
    if options.pointing:
        return point_at_boxes(runs[0], request, options.class_names, flags, progress)
    if len(runs) > 1:
        return (ensemble if options.ensemble else compare)(runs, request, flags, progress)
    return evaluate(runs[0], request, flags, progress)


def _require_effect(options: argparse.Namespace, beside: str, names: Iterable[str]) -> None:
    """UserError if one of these flags was given, which has no effect beside what was asked for."""
    for name in names:
        if (value := getattr(options, name)) is not None:
            shown = "" if value is True else f" {value}"
            raise UserError(f"{flag_of(name)}{shown}: has no effect with {beside}; leave it out")
