"""What a run of `benchmarks.recipe` is worth on the pictures that it held back: retrieval, pointing, the erase test.

    python -m benchmarks.held runs/recipe/SET-0 --class-names coco.txt --erase 100

`evaluate.py` refuses such a run, as the splits are others. Printed are rsum with one caption a picture (mean over
captions, as `benchmarks.recipe` has it) and with all of them, of the whole and of its parts, and the tables of
`evaluate.py --pointing boxes` and `--erase`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bssan_tf import cli
from bssan_tf.metrics.recall import retrieval_report, single_caption_report
from bssan_tf.runs.folder import find_run


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = cli.Parser(prog="python -m benchmarks.held", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run folder of benchmarks.recipe")
    parser.add_argument("--held", type=cli.count, default=500, metavar="N", help="as the study's (500)")
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="names of the boxes' classes; else no pointing"
    )
    parser.add_argument("--erase", type=cli.count, metavar="N", help="pictures of the erase test; without it none")
    cli.add_use_flags(parser)
    options = parser.parse_args(arguments)
    run = find_run(options.run)
    cli.load_tensorflow()
    for text in measured(run, options):
        print(f"{text}\n", flush=True)


def measured(run, options: argparse.Namespace):
    """Yield the texts, one for each kind of measurement; UserError as its parts."""
    from benchmarks.recipe import hold_back
    from bssan_tf.evaluation.erase_test import erase_test
    from bssan_tf.evaluation.photo_pointing import point_at_boxes
    from bssan_tf.evaluation.scores import Request
    from bssan_tf.runs.data import open_data
    from bssan_tf.scoring import score_matrices

    flags, progress = cli.moved_files(options), not options.quiet
    data = hold_back(open_data(run.load_config().moved(flags).data, progress), options.held)
    run.require_same_data(data.fingerprint)  # else --held is not the study's
    part, (model, tokenizer) = data.split("val"), run.load_model()
    given = {"memory_mb": options.memory, "progress": progress}
    matrices = score_matrices(model.scorer, data.features, tokenizer(part.captions), part.image_rows, **given)
    lines = [f"{run.name}: {len(part.image_ids)} held-back pictures, {len(part.captions)} captions"]
    for name, matrix in matrices.items():
        one, all_of = (
            report(matrix, part.image_of_caption)["rsum"] for report in (single_caption_report, retrieval_report)
        )
        lines.append(f"{name:6}  rsum {one:.1f} with one caption a picture, {all_of:.1f} with all")
    yield "\n".join(lines)
    if options.class_names:
        yield point_at_boxes(run, Request(split="val"), options.class_names, flags, progress, data)[1]
    if options.erase:
        yield erase_test(run, options.erase, "val", flags, progress, data)[1]


if __name__ == "__main__":
    cli.run(main)
