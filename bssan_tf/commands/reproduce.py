"""Make the paper's tables and figures: train what they need, measure it, and write one page with everything.

The settings of train.py are taken for all trainings. A killed call goes on when it is given again, and finished runs
are used again.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping

from bssan_tf import cli
from bssan_tf.commands import train
from bssan_tf.config.flags import add_flags, flags_for
from bssan_tf.config.presets import PRESETS, SIZES
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import SECTIONS, fields_of
from bssan_tf.errors import UserError
from bssan_tf.metrics.recall import PROTOCOLS
from bssan_tf.runs.folder import command_line
from bssan_tf.tools.files import PATTERNS

ON_SCENES = {"epochs": 6}  # where nothing else is asked for: the variants still differ then
OF_ROWS = ("variant", "seed", "w2r_text", "fuse")  # settings that the rows of a table set


def build_parser() -> argparse.ArgumentParser:
    """The command line; every setting is None unless given."""
    parser = cli.Parser(prog=cli.command("reproduce").replace("python ", ""), description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "what", nargs="+", metavar="WHAT", help="table1, table2, table3, figure5 to figure9, text (claims), or all"
    )
    parser.add_argument(
        "--preset",
        choices=(*PRESETS, "both"),
        default="both",
        help="settings to begin with; of both, figures and claims are of improved (default: both)",
    )
    parser.add_argument("--size", choices=SIZES, help="sizes of the layers (default: paper; on scenes: tiny)")
    parser.add_argument(
        "--seeds", type=lambda text: cli.count(text, 0), nargs="+", default=[0], metavar="N", help="(default: 0)"
    )
    parser.add_argument("--name", type=train.run_name, help="folder in reproduction/ (default: data set and size)")
    parser.add_argument(
        "--search",
        action="store_true",
        help="figure9: every λ with every δ, 20 to 30 more runs a seed, on the validation split",
    )
    parser.add_argument(
        "--photos", nargs="+", default=[], metavar="ID", help="up to four images of figures 5 to 8 (default: seeded)"
    )
    parser.add_argument(
        "--caption", type=cli.count, default=1, metavar="N", help="take the N-th caption of these images (default: 1)"
    )
    parser.add_argument("--devices", default="auto", help="of the trainings, as train.py takes it (default: auto)")
    group = parser.add_argument_group("measuring")
    group.add_argument("--measured-split", choices=("val", "dev", "test"), default="test", help="(default: test)")
    group.add_argument("--captions-per-image", type=cli.count, metavar="N", help="score only the first N captions")
    group.add_argument("--sample", type=cli.count, metavar="N", help="score only a seeded subset of N images")
    group.add_argument("--protocol", choices=PROTOCOLS, default="full", help="COCO's protocols (default: full)")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    for section in SECTIONS:
        told = [field for name, field in fields_of(section).items() if name not in OF_ROWS]
        add_flags(parser.add_argument_group(section), told, on_scenes=ON_SCENES)
    return parser


def given_settings(options: argparse.Namespace) -> dict:
    """The settings of all trainings, by field."""
    given = train.given_settings(options)
    return {**ON_SCENES, **given} if options.data in (None, "scenes") else given


def settings_maker(size: str | None) -> Callable[[str, Mapping[str, object]], tuple[list[str], Config]]:
    """What makes, of a preset with settings, flags of train.py and the config that it makes of them."""
    parser = train.build_parser()

    def made_of(preset: str, values: Mapping[str, object]) -> tuple[list[str], Config]:
        flags = ["--preset", preset, *(["--size", size] if size else []), *flags_for(values)]
        return flags, train.config_of(parser.parse_args(flags), tell=False)

    return made_of


def main(arguments: list[str] | None = None) -> None:
    """Parse, make everything, say where the page is."""
    options = build_parser().parse_args(arguments)
    from bssan_tf.reproduction.plan import check_what, make_plan

    what = check_what(options.what, options.search, options.photos)
    given, made_of = given_settings(options), settings_maker(options.size)
    presets, seeds = PRESETS if options.preset == "both" else (options.preset,), dict.fromkeys(options.seeds)
    _, config = made_of(presets[0], given)
    name = options.name or PATTERNS.sub("_", f"{train.data_name(config)}-{config.size}")
    plan = make_plan(what, name, presets, tuple(seeds), given, made_of)
    for training in plan.distinct():
        _check_name(training.name)
    cli.load_tensorflow()
    from bssan_tf.evaluation.scores import Request
    from bssan_tf.reproduction.page import reproduce

    request = Request(
        options.measured_split, options.captions_per_image, options.sample, options.protocol, pointing=False
    )
    shown, command = (options.photos, options.caption), shlex.join(command_line())
    print(reproduce(plan, request, *shown, options.devices, command, not options.quiet))


def _check_name(name: str) -> None:
    """UserError if a run of a plan can't be called so."""
    try:
        train.run_name(name)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{error}; give another --name") from None
