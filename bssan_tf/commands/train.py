"""Train BSSAN on photos and captions: on drawn scenes without any flag, on your own with --data FOLDER."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.flags import add_flags, moving_fields
from bssan_tf.config.presets import PRESETS, SIZES, preset
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import SECTIONS, fields_of, flag_of
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import MOST_NAME, RUNS, RunFolder, find_run, free_name
from bssan_tf.tools.files import PATTERNS

logger = logging.getLogger(__name__)

RESUME_LIMITS = ("epochs", "minutes", "stop_patience")


def build_parser() -> argparse.ArgumentParser:
    """The command line; every setting is None unless given."""
    parser = cli.Parser(prog=cli.command("train").replace("python ", ""), description=__doc__)
    parser.add_argument(
        "--name", type=run_name, help="name of the run, a folder in runs/ (default: data set, preset and size)"
    )
    parser.add_argument("--preset", choices=PRESETS, help="settings to begin with (default: improved)")
    parser.add_argument(
        "--size", choices=SIZES, help="sizes of the layers; paper is Table I (default: paper; on scenes: tiny)"
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run; new limits (--epochs, --minutes, --stop-patience) and moved files may be given",
    )
    parser.add_argument(
        "--devices",
        default="auto",
        help="auto, cpu, gpu, cpu:N, gpu:N or workers (by TF_CONFIG or Slurm) (default: auto, all GPUs)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only extract part I of N of the features; start N such processes, and then one without --shard",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")
    for section in SECTIONS:
        add_flags(parser.add_argument_group(section), fields_of(section).values())
    return parser


def run_name(text: str) -> str:
    """A name that makes one folder in runs/, for argparse."""
    if text.strip() != text or not text or Path(text).name != text or text in (".", ".."):
        raise argparse.ArgumentTypeError(
            f"{text}: a run's name is one folder in {RUNS}/, without slashes or blanks at its ends"
        )
    if PATTERNS.search(text) or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!a}: a run's name may not have [ ] * ? \\ or unprintable characters")
    if len(os.fsencode(text)) > MOST_NAME:
        raise argparse.ArgumentTypeError(f"{text[:20]}...: a run's name may have {MOST_NAME} bytes at most")
    return text


def given_settings(options: argparse.Namespace) -> dict:
    """The settings that were given, by field."""
    known = fields_of()
    given = {name: value for name, value in vars(options).items() if name in known and value is not None}
    for name in given:
        cli.require_given(flag_of(name), given[name])
    return given


def config_of(options: argparse.Namespace, tell: bool = True) -> Config:
    """The preset with the settings that were given; what they leave without effect is off, and told so.

    UserError where a value makes no sense, or a given setting has no effect beside the others.
    """
    given = given_settings(options)
    data = given.get("data", "scenes")
    size = options.size or ("tiny" if data == "scenes" else "paper")
    config = preset(options.preset or "improved", size, given.get("variant", "full"), data).replace(**given)
    settled = config.settled(given)
    if tell and (off := [flag_of(name) for name in fields_of() if settled[name] != config[name]]):
        logger.info("off, as other flags leave it without effect: %s", ", ".join(off))
    config = settled.check()
    for name in given:
        config.require_effect(name, given[name])
    return config.resolved()


def data_name(config: Config) -> str:
    """The name of the data set, or of the folder that is one."""
    return Path(config.data.data).resolve().name


def resume(options: argparse.Namespace, run: RunFolder) -> dict | None:
    """Go on with a run; UserError if a flag was given that would make it another run."""
    given = given_settings(options)
    others = {name for name in ("name", "preset", "size") if getattr(options, name)}
    others |= given.keys() - moving_fields().keys() - set(RESUME_LIMITS)
    if others:
        what = "goes on with the run's own settings"
        raise UserError(f"--resume {options.resume}: {what}; leave out {flag_of(min(others))}")
    cli.load_tensorflow()
    from bssan_tf.training import run as training

    limits = {name: given.pop(name) for name in RESUME_LIMITS if name in given}
    return training.resume(run, options.devices, not options.quiet, given, **limits)


def main(arguments: list[str] | None = None) -> None:
    """Parse, train, say where the results are."""
    options = build_parser().parse_args(arguments)
    if options.shard is not None:
        if options.resume is not None:
            raise UserError(f"--shard {options.shard}: is for the data set's flags, not for --resume")
        cli.load_tensorflow()
        from bssan_tf.runs.data import extract_part

        rows = extract_part(config_of(options).data, options.shard, not options.quiet)
        print(f"shard {options.shard}: {rows} pictures extracted; when all shards are, train without --shard")
        return
    if options.resume is not None:
        cli.require_given("--resume", options.resume)
        run = find_run(options.resume)
        metrics = resume(options, run)
    else:
        config = config_of(options)
        if options.devices == "workers" and not options.name:
            raise UserError("--devices workers: needs --name NAME, the same on all of them")
        stem = f"{data_name(config)}-{config.preset}-{config.size}"
        run = RunFolder(RUNS / (options.name or free_name(stem)))
        cli.load_tensorflow()
        from bssan_tf.training import run as training

        metrics = training.train(config, run, options.devices, not options.quiet)
    if metrics is None:
        print(f"done; worker 0 has written {run.path}")
        return
    from bssan_tf.evaluation.report import text_table

    title = f"{run.name}, epoch {metrics['best_epoch']}"
    print(text_table({**metrics, "run": title}, beside_paper=False))
    if sure := metrics.get("calibration"):
        told = f"calibration error {sure['error']:.1f} % over the first ten, on validation pictures"
        print(f"\nprobabilities of hits (search.py): {told}")
    print(f"\nbest model: {run.best}   SavedModel: {run.export}   TensorBoard: tensorboard --logdir {run.logs}")
    print(f"evaluate:   {cli.to_type('evaluate')} {run.path}")
    print(f'look:       {cli.to_type("visualize")} PHOTO "CAPTION" --run {run.path}')
