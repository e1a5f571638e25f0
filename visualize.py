"""Draw what a trained run looks at: the photo under each word's attention, the words under each object's."""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli


def build_parser() -> argparse.ArgumentParser:
    """The command line of visualize.py."""
    parser = cli.Parser(prog="visualize.py", description=__doc__)
    parser.add_argument("photo", help="a picture file")
    parser.add_argument("caption", help="a sentence, in quotes")
    parser.add_argument("--run", help="run folder (the latest)")
    parser.add_argument("-o", "--out", type=cli.png, help="PNG to write (the photo's name with -attention.png, here)")
    parser.add_argument("--boxes", metavar="FILE", help=".npz with boxes of this photo; see the README")
    parser.add_argument("--detector-weights", metavar="FILE", help="where the run's detector has moved to")
    parser.add_argument("--backbone-weights", metavar="FILE", help="where the run's weights have moved to")
    parser.add_argument("--cache", help="where the run's cache has moved to")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, draw, say where the picture is."""
    options = build_parser().parse_args(arguments)
    run = cli.run_folder(options.run)
    from bssan_tf.drawing.attention import explain

    photo = Path(options.photo)
    names = ("boxes", "detector_weights", "backbone_weights", "cache")
    moved = {name: getattr(options, name) for name in names if getattr(options, name)}
    out = options.out or Path(f"{photo.stem}-attention.png")
    scores = explain(run, photo, options.caption, out, moved)
    print("   ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    print(out)


if __name__ == "__main__":
    cli.run(main)
