"""Train BSSAN on photos and captions: `python train.py` for drawn scenes, `--data flickr30k` for real ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from bssan_tf import cli
from bssan_tf.config.presets import PRESETS, SIZES, preset
from bssan_tf.config.schema import (
    FEATURE_NORMS,
    HINGES,
    LOSSES,
    NEGATIVE_ATTENTION,
    NEGATIVE_SOURCES,
    OPTIMIZERS,
    SCHEDULES,
    VARIANTS,
    Config,
    flag_of,
)
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import RUNS, RunFolder, free_name

FIRST_STEPS = 300  # of --early-signs without a number


def build_parser() -> argparse.ArgumentParser:
    """The command line of train.py; every flag of a config field is None unless given."""
    parser = cli.Parser(prog="train.py", description=__doc__)
    parser.add_argument("--name", type=run_name, help="of the run, a folder in runs/ (data, preset and size)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run; takes new limits (--epochs, --minutes, --stop-patience) and moved data",
    )
    parser.add_argument("--devices", default="auto", help="auto, cpu, gpu, cpu:N, gpu:N (auto: all GPUs)")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only extract part I of N of the features; start N such processes, and then without --shard",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--preset", choices=PRESETS, help="paper: the printed text (improved)")
    parser.add_argument("--size", choices=SIZES, help="paper: Table I (tiny for scenes, else paper)")
    parser.add_argument("--variant", choices=VARIANTS, help="section V-A (full)")
    cli.add_data_flags(parser)
    _add_model_flags(parser)
    _add_training_flags(parser)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model (defaults: the preset's)")
    group.add_argument("--trained-embeddings", dest="E_trained", type=int, metavar="N", help="trained numbers a word")
    group.add_argument("--train-embeddings", action="store_true", default=None, help="fine-tune the GloVe vectors")
    group.add_argument("--region-norm", choices=FEATURE_NORMS, help="scale of the regions before Eq. 2")
    group.add_argument("--object-norm", choices=FEATURE_NORMS, help="scale of the objects before Eq. 10")
    group.add_argument("--fusion", type=int, metavar="N", help="size of (A u)∘(B t) beside [u ; t]; 0 for none")
    group.add_argument(
        "--cosine-attention",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="cosines in place of the products of Eq. 2 and 10",
    )
    group.add_argument(
        "--bilinear",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the sum of (A u)∘(B t) is a score beside the MLP's",
    )
    group.add_argument(
        "--weighted-lengths",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the lengths that the bilinear score divides by have learned weights, at a CCA's start deviations",
    )
    group.add_argument("--attention-scale", type=float, help="start of a learned factor on e; 0 for none")
    group.add_argument("--o2w-attention-scale", type=float, help="the same of O2W (as --attention-scale)")
    group.add_argument("--dropout", type=float, help="on the inputs of LSTM, MLP and bilinear score")
    group.add_argument("--word-dropout", type=float, help="share of the words that training does not see")
    group.add_argument("--lambda", dest="o2w_weight", type=float, help="λ, weight of O2W in loss and score")
    group.add_argument("--lstm", dest="H", type=int, metavar="H", help="LSTM size of W2R")
    group.add_argument("--bilstm", dest="S", type=int, metavar="S", help="Bi-LSTM size of O2W")


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training (defaults: the preset's)")
    _add_loss_flags(group)
    _add_step_flags(group)


def _add_loss_flags(group) -> None:
    """Of the losses and of the pairs that they compare."""
    group.add_argument("--loss", choices=LOSSES, help="Eq. 7, or a softmax over positive and negatives")
    group.add_argument("--margin", type=float, help="M of Eq. 7")
    group.add_argument("--hinge", choices=HINGES, help="what --loss hinge takes of a positive's negatives (mean)")
    group.add_argument("--l2", type=float, help="δ of Eq. 18")
    group.add_argument("--negative-attention", choices=NEGATIVE_ATTENTION, help="uniform: Eq. 8")
    group.add_argument("--mixed-share", type=float, help="share of the negatives under Eq. 8 with `mixed`")
    group.add_argument(
        "--uniform-positives", type=float, metavar="SHARE", help="share of the positives under Eq. 8, too (0)"
    )
    group.add_argument(
        "--negative-source",
        choices=NEGATIVE_SOURCES,
        help="captions at random, the next of the batch, or those of it with the highest O2W scores",
    )
    group.add_argument("--negatives", type=int, metavar="K", help="negatives for each positive")
    group.add_argument(
        "--all-pairs",
        type=float,
        metavar="WEIGHT",
        help="of a second loss: the bilinear scores of all pairs of the batch; 0 for none",
    )
    group.add_argument(
        "--pooled-pairs",
        type=float,
        metavar="WEIGHT",
        help="of a third loss: the same under even attention, that is of pooled words and regions or objects (0)",
    )


def _add_step_flags(group) -> None:
    """Of the optimizer, the batches, and the course of a run."""
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="sgd is the paper's")
    group.add_argument("--learning-rate", type=float, help="after the warm-up")
    group.add_argument("--o2w-rate", type=float, metavar="SHARE", help="of the rate, for O2W's own weights (1)")
    group.add_argument("--momentum", type=float, help="of sgd")
    group.add_argument("--clip-norm", type=float, help="largest norm of the gradient; 0 for none")
    group.add_argument("--weight-decay", type=float, help="of kernels, as in AdamW, times the learning rate (0)")
    group.add_argument("--ema", type=float, metavar="KEEP", help="take moving averages of the weights; 0.99, say (0)")
    group.add_argument("--warmup-steps", type=int, metavar="N", help="steps over which the rate rises from 0")
    group.add_argument(
        "--schedule", choices=SCHEDULES, help="the rate falls when rsum stays, or as a cosine over --epochs"
    )
    group.add_argument("--batch-size", type=int, metavar="B", help="pictures of a batch")
    group.add_argument(
        "--cca-start", action=argparse.BooleanOptionalAction, help="start from a CCA of words and pictures"
    )
    group.add_argument(
        "--glove-prior",
        type=float,
        metavar="VARIANCE",
        help="of what words of similar --glove vectors have in common in that CCA, in units of a word's own; 0: none",
    )
    group.add_argument("--group", type=int, metavar="N", help="similar pictures side by side in a batch; 1 for none")
    group.add_argument("--length-pool", type=int, metavar="N", help="batches sorted by length together; 1 for none")
    group.add_argument("--epochs", type=int, help="passes over the photos, each with one of its captions")
    group.add_argument("--steps-per-epoch", type=int, help="validate and save after so many steps instead")
    group.add_argument(
        "--minutes", type=float, help="end at the epoch that passes so much training time; 0 for no limit"
    )
    group.add_argument("--mixed-precision", action="store_true", default=None, help="train in bfloat16")
    group.add_argument("--validation-images", type=int, help="seeded part of the val split; 0 for all of it")
    group.add_argument("--validation-captions", type=int, help="of each of these pictures; 0 for all")
    group.add_argument("--plateau-patience", type=int, help="epochs without a better rsum before the rate falls")
    group.add_argument("--plateau-factor", type=float, help="by which the learning rate falls")
    group.add_argument("--stop-patience", type=int, help="epochs without a better rsum before training ends")
    group.add_argument(
        "--early-signs",
        type=int,
        nargs="?",
        const=FIRST_STEPS,
        metavar="STEPS",
        help=f"look for signs of collapse over the first {FIRST_STEPS} steps, or so many, and keep early_signs.csv",
    )
    group.add_argument("--seed", type=int, help="of weights, batches and dropout (0)")


def run_name(text: str) -> str:
    """A name that makes one folder in runs/, for argparse."""
    if Path(text).name != text or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text}: a run's name is one folder in {RUNS}/, without slashes")
    return text


NOT_CONFIG = ("name", "resume", "devices", "shard", "quiet", "preset", "size", "variant")
RESUME_LIMITS = ("epochs", "minutes", "stop_patience")


def given_fields(options: argparse.Namespace) -> dict:
    """The flags that were given, by config field."""
    return {name: value for name, value in vars(options).items() if name not in NOT_CONFIG and value is not None}


def resume(options: argparse.Namespace, run: RunFolder) -> dict:
    """Go on with a run; UserError if a flag was given that would make it another run."""
    given = given_fields(options)
    allowed = (*RESUME_LIMITS, *cli.DATA_FLAGS)
    others = {name for name in ("name", "preset", "size", "variant") if getattr(options, name)}
    others |= set(given) - set(allowed)
    if others:
        raise UserError(
            f"--resume {options.resume}: goes on with the run's own settings; leave out {flag_of(min(others))}"
        )
    from bssan_tf.training import run as training

    limits = {name: given.pop(name) for name in RESUME_LIMITS if name in given}
    return training.resume(run, options.devices, not options.quiet, given, **limits)


def extract(options: argparse.Namespace) -> None:
    """Extract a part of the features of a data set, and say what to do next."""
    from bssan_tf.runs.data import extract_part

    rows = extract_part(config_of(options).data, options.shard, not options.quiet)
    print(f"shard {options.shard}: {rows} pictures extracted; when all shards are, train without --shard")


def config_of(options: argparse.Namespace) -> Config:
    """The preset with the flags that were given; UserError if a value makes no sense.

    What a given flag leaves without use or ground is off unless it was given, too; given, it is refused.
    """
    given = given_fields(options)
    data, name, variant = given.get("data", "scenes"), options.preset or "improved", options.variant or "full"
    size = options.size or ("tiny" if data == "scenes" else "paper")
    config = preset(name, size, variant, data).replace(**given)
    needless = {}
    if variant == "w2r" or config.data.import_regions or config.data.import_objects:
        needless["object_context"] = False  # W2R sees no objects; imported ones have no classes
    if not config.model.bilinear:
        needless["weighted_lengths"] = False
    if not config.model.bilinear or config.training.negative_source == "random":
        needless["all_pairs"] = 0.0
    shared = {"mixed_share", "uniform_positives"} & given.keys()
    if name == "improved" and not shared and not config.replace(**{**needless, **given}).training.all_pairs:
        needless["negative_attention"] = "learned"  # Eq. 8 does no harm beside the loss of all pairs only
    config = config.replace(**{**needless, **given}).check()
    refuse_useless(given, config)
    return config


def refuse_useless(given: dict, config: Config) -> None:
    """UserError that names a given flag which the other settings leave without any effect."""
    training = config.training
    used = {
        "object_context": (config.model.variant != "w2r", "O2W, whose objects it is for"),
        "glove_prior": (training.cca_start, "--cca-start"),
        "mixed_share": (training.negative_attention == "mixed", "--negative-attention mixed"),
        "momentum": (training.optimizer == "sgd", "--optimizer sgd"),
        "plateau_patience": (training.schedule == "plateau", "--schedule plateau"),
        "plateau_factor": (training.schedule == "plateau", "--schedule plateau"),
        "train_embeddings": (bool(config.data.glove), "--glove FILE"),
    }
    for field, (has_effect, needed) in used.items():
        if given.get(field) and not has_effect:
            raise UserError(f"{flag_of(field)}: has no effect without {needed}; add that, or leave it out")


def start(options: argparse.Namespace) -> tuple[RunFolder, dict]:
    """Train a new run."""
    config = config_of(options)
    stem = f"{Path(config.data.data).resolve().name}-{config.preset}-{config.size}"
    run = RunFolder(RUNS / (options.name or free_name(stem)))
    from bssan_tf.training import run as training

    return run, training.train(config, run, options.devices, not options.quiet)


def main(arguments: list[str] | None = None) -> None:
    """Parse, train, say where the results are."""
    options = build_parser().parse_args(arguments)
    if options.shard:
        if options.resume:
            raise UserError(f"--shard {options.shard}: is for the data set's flags, not for --resume")
        extract(options)
        return
    if options.resume:
        run = cli.run_folder(options.resume)
        metrics = resume(options, run)
    else:
        run, metrics = start(options)
    from bssan_tf.evaluation.report import text_table

    title = f"{run.name}, epoch {metrics['best_epoch']}"
    print(text_table({**metrics, "run": title}, beside_paper=False))
    print(f"\nbest model: {run.best}   SavedModel: {run.export}   TensorBoard: tensorboard --logdir {run.logs}")
    print(f"evaluate:   python evaluate.py {run.path}")
    print(f'look:       python visualize.py PHOTO "CAPTION" --run {run.path}')


if __name__ == "__main__":
    cli.run(main)
