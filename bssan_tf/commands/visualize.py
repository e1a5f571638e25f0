"""Draw what a trained run looks at: the photo under each word's attention, the words under each object's.

As a PNG, or as an HTML page that answers to the pointer and the keyboard.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import find_run

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.Parser(prog=cli.command("visualize").replace("python ", ""), description=__doc__)
    parser.add_argument("photo", type=Path, help="a picture file")
    parser.add_argument("caption", help="a sentence, in quotes")
    parser.add_argument("--run", help="run folder (default: the latest)")
    parser.add_argument(
        "-o",
        "--out",
        type=cli.png_or_page,
        help="PNG, or page.html, to write (default: the photo's name with -attention.png, here)",
    )
    page = parser.add_argument_group("of a page")
    page.add_argument("--against", metavar="CAPTION", help="a second sentence, shown beside the first")
    page.add_argument(
        "--no-erase",
        action="store_true",
        help="leave the erase test out: of each word, how far the score falls where it looked, and elsewhere; a caption"
        " of 6 words needs 49 photos more, of 25 words 72: 16 and 22 seconds with VGG-16 on 2 cores",
    )
    cli.add_moved_flags(parser, "objects", "boxes", "detector_weights", "backbone_weights", "cache")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Parse, draw, say where the picture is."""
    options = build_parser().parse_args(arguments)
    out = options.out or Path(f"{options.photo.stem}-attention.png")
    as_page = out.suffix.lower() == ".html"
    for flag, given in (("--against", options.against is not None), ("--no-erase", options.no_erase)):
        if given and not as_page:
            raise UserError(f"{flag}: is of a page; name one with -o, as in -o {out.stem}.html")
    run = find_run(options.run, pretrained=True)
    cli.load_tensorflow()
    from bssan_tf.drawing.figures import refuse_others
    from bssan_tf.drawing.page import own_page
    from bssan_tf.matching.matcher import Matcher

    refuse_others(out, own_page if as_page else None)
    captions = [options.caption] if options.against is None else [options.caption, options.against]
    matcher = Matcher(run, cli.moved_files(options))
    if as_page and not options.no_erase:
        logger.info("the erase test scores some photos more; --no-erase leaves it out")
    found = matcher.explain_all(options.photo, captions, erase=as_page and not options.no_erase)
    if as_page:
        found[0].save_page(out, *found[1:])
    else:
        found[0].draw(out)
    for one in found:
        print("   ".join(f"{name} {value:.3f}" for name, value in one.scores.items()))
    print(out)
