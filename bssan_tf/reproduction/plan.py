"""Which trainings the paper's tables and figures need, and by which commands.

In: what is asked for, presets, seeds, and the settings that all have. Out: trainings by (preset, row, seed). A
training that two rows share, as BSSAN itself and the point λ = 0.6 of Figure 9, is there once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import fields_of
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import RUNS, RunFolder

WHAT = ("table1", "table2", "table3", "figure5", "figure6", "figure7", "figure8", "figure9", "text")
TABLES = {"table2": "flickr30k", "table3": "coco"}  # whose printed rows stand beside ours

VARIANTS = {  # section V-A: the row's name in the paper, and its settings
    "w2r": ("BSSAN_w2r", {"variant": "w2r"}),
    "o2w": ("BSSAN_o2w", {"variant": "o2w"}),
    "no_reg": ("BSSAN_no_reg", {"variant": "no_reg"}),
    "bssan": ("BSSAN", {}),
}
TEXT = {  # what the text claims without a table (sections IV-A and IV-C)
    "w2r_cnn": ("BSSAN_w2r, CNN", {"variant": "w2r", "w2r_text": "cnn"}),
    "fc": ("BSSAN, fully connected", {"fuse": "fc"}),
}
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # Figure 9
DELTAS = (0.0, 0.001, 0.01, 0.1, 1.0)
NEEDED = {  # rows of each WHAT
    "table2": tuple(VARIANTS),
    "table3": tuple(VARIANTS),
    "figure5": ("bssan",),
    "figure6": tuple(VARIANTS),
    "figure7": ("bssan",),
    "figure8": ("bssan",),
    "text": ("w2r", "bssan", *TEXT),
}

Key = tuple  # (preset, row, seed)
Maker = Callable[[str, Mapping], tuple]  # a preset and settings to (flags of train.py, their config)


@dataclass(frozen=True)
class Training:
    """One run: its name, its flags of train.py, and the config that these make."""

    name: str
    flags: tuple[str, ...]
    config: Config

    @property
    def run(self) -> RunFolder:
        return RunFolder(RUNS / self.name)

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments behind `python`."""
        return ("train.py", "--name", self.name, *self.flags)


@dataclass(frozen=True)
class Plan:
    """What is made, and from which trainings."""

    what: tuple[str, ...]
    name: str  # of the reproduction, first part of its runs' names
    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    trainings: dict[Key, Training]
    search: bool = False  # every λ with every δ

    @property
    def folder(self) -> Path:
        return Path("reproduction") / self.name

    @property
    def leading(self) -> str:
        """The preset that figures and the text's claims are of."""
        return self.presets[0]

    def rows(self, what: str) -> Iterable[str]:
        """Rows that one of WHAT needs."""
        return (*points(self.search),) if what == "figure9" else NEEDED.get(what, ())

    def runs(self, row: str, preset: str | None = None) -> list[Training]:
        """The trainings of a row, one a seed."""
        return [self.trainings[preset or self.leading, row, seed] for seed in self.seeds]

    def baseline(self) -> Training | None:
        """The run on whose data the rows of CCA are measured, where a table has them."""
        tables = [one for one in self.what if one in TABLES]
        return self.runs("bssan")[0] if tables else None

    def measured(self) -> list[Training]:
        """Trainings that are measured; those of a grid search are judged by their validation."""
        rows = {row for what in self.what if not (self.search and what == "figure9") for row in self.rows(what)}
        return list(dict.fromkeys(training for key, training in self.trainings.items() if key[1] in rows))

    def distinct(self) -> list[Training]:
        """Each training once, in the order of the rows."""
        return list(dict.fromkeys(self.trainings.values()))


def points(search: bool = False) -> dict[str, tuple[float | None, float | None]]:
    """{row: (λ, δ)} of Figure 9, None where the preset's value stays; with `search` every λ with every δ."""
    if search:
        return {f"lambda{lam:g}-delta{delta:g}": (lam, delta) for lam in LAMBDAS for delta in DELTAS}
    return {f"lambda{lam:g}": (lam, None) for lam in LAMBDAS} | {f"delta{delta:g}": (None, delta) for delta in DELTAS}


def settings_of(row: str, search: bool = False) -> dict:
    """The settings that make a row."""
    if row in VARIANTS or row in TEXT:
        return {**VARIANTS, **TEXT}[row][1]
    lam, delta = points(search)[row]
    return {name: value for name, value in (("o2w_weight", lam), ("l2", delta)) if value is not None}


def make_plan(
    what: Sequence[str],
    name: str,
    presets: Sequence[str],
    seeds: Sequence[int],
    given: Mapping[str, object],
    made_of: Maker,
    search: bool = False,
) -> Plan:
    """The plan of a reproduction; UserError as `made_of`.

    Tables 2 and 3 are of every preset; the figures and the text's claims of the first one only.

    Args:
        given: settings of all trainings. Those that a row leaves without effect, as λ where one layer fuses both
            networks, are left out in it.
        made_of: flags of train.py, and the config of them, of a preset with settings.
    """
    trainings: dict[Key, Training] = {}
    known: dict[Config, Training] = {}
    empty = Plan(tuple(what), name, tuple(presets), tuple(seeds), {}, search)
    for preset in presets:
        made_of(preset, given)  # UserError for what makes no sense in any row
        asked = what if preset == presets[0] else [one for one in what if one in TABLES]
        needed = {row for one in asked for row in empty.rows(one)}
        for seed in seeds:
            for row in dict.fromkeys([*VARIANTS, *(row for one in asked for row in empty.rows(one))]):
                own = {**settings_of(row, search), "seed": seed}
                training = _training(f"{name}-{preset}-{row}-{seed}", preset, given, own, made_of)
                training = known.setdefault(_network(training.config), training)
                if row in needed:
                    trainings[preset, row, seed] = training
    return dataclasses.replace(empty, trainings=trainings)


def _training(
    name: str, preset: str, given: Mapping[str, object], own: Mapping[str, object], made_of: Maker
) -> Training:
    """The training of a row with settings of its `own`; with a look at early signs where it may collapse."""
    _, bare = made_of(preset, own)
    kept = {key: value for key, value in given.items() if key not in own and not _idle(bare, given, key)}
    values = {**kept, **own}
    flags, config = made_of(preset, values)
    if sees_eq8(config):
        flags, config = made_of(preset, {**values, "early_signs": 300})  # a collapse is told by its step
    return Training(name, tuple(flags), config)


def _idle(bare: Config, given: Mapping[str, object], key: str) -> bool:
    """Whether a given setting has no effect in a row."""
    told = fields_of()[key]
    return bool(given[key]) and bare.replace(**{**given, **_own(bare)}).missing_need(told) is not None


def _own(bare: Config) -> dict:
    """What rows set: these settings stay as the row has them."""
    return {name: bare[name] for name in ("variant", "fuse", "w2r_text")}


def sees_eq8(config: Config) -> bool:
    """Whether training has pairs under Eq. 8, so that it may collapse as docs/reproduction.md tells."""
    return config.training.negative_attention != "learned"


def _network(config: Config) -> Config:
    """A config that is the same where the training is: without L2 term, BSSAN is BSSAN_no_reg."""
    return config.replace(variant="full") if config.model.variant == "no_reg" else config


def require_settings(plan: Plan) -> None:
    """UserError if one of the runs is there already, but of other flags."""
    for training in plan.distinct():
        if training.run.config_file.exists():
            training.run.require_settings(training.config, "give another --name")


def check_what(what: Sequence[str]) -> tuple[str, ...]:
    """WHAT in its order, `all` spelt out; UserError for an unknown one."""
    for one in what:
        if one not in (*WHAT, "all"):
            raise UserError(f"{one}: must be one of {', '.join(WHAT)}, all")
    return WHAT if "all" in what else tuple(one for one in WHAT if one in what)
