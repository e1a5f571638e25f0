"""Draw what a trained run looks at: the photo under each word's attention, the words under each object's."""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import find_run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("visualize").replace("python ", ""), description=__doc__)
    parser.add_argument("photo", type=Path, help="a picture file")
    parser.add_argument("caption", help="a sentence, in quotes")
    parser.add_argument("--run", help="run folder (default: the latest)")
    parser.add_argument(
        "-o",
        "--out",
        type=cli.png,
        help="PNG to write (default: the photo's name with -attention.png, here)",
    )
    cli.add_moved_flags(parser, "boxes", "detector_weights", "backbone_weights", "cache")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, draw, say where the picture is."""
    options = build_parser().parse_args(arguments)
    run = find_run(options.run)
    cli.load_tensorflow()
    from bssan_tf.drawing.figures import own_drawing
    from bssan_tf.matching.matcher import Matcher

    out = options.out or Path(f"{options.photo.stem}-attention.png")
    if out.exists() and not own_drawing(out):
        raise UserError(f"{out}: is a file of yours, not a drawing of this command; name another with -o")
    found = Matcher(run, cli.moved_files(options)).explain(options.photo, options.caption)
    found.draw(out)
    print("   ".join(f"{name} {value:.3f}" for name, value in found.scores.items()))
    print(out)
