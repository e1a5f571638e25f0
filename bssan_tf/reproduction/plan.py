"""Which trainings the paper's tables and figures need, and by which commands.

In: what is asked for, presets, seeds, and the settings that all have. Out: trainings by (preset, row, seed). A training
that two rows share, as BSSAN itself and the point λ = 0.6 of Figure 9, is there once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bssan_tf.config.flags import moving_fields
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import fields_of, off_value
from bssan_tf.errors import UserError
from bssan_tf.runs.folder import RUNS, RunFolder

WHAT = ("table1", "table2", "table3", "figure5", "figure6", "figure7", "figure8", "figure9", "text")
SEARCH = "search"  # beside figure9: every λ with every δ
TABLES = {"table2": "flickr30k", "table3": "coco"}  # whose printed rows stand beside ours
SHOWN = ("figure5", "figure6", "figure7", "figure8")  # with photos

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
SYMBOLS = {"o2w_weight": "λ", "l2": "δ"}
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # Figure 9
DELTAS = (0.0, 0.001, 0.01, 0.1, 1.0)
POINTS = {f"lambda{lam:g}": {"o2w_weight": lam} for lam in LAMBDAS} | {
    f"delta{delta:g}": {"l2": delta} for delta in DELTAS
}
GRID = {
    f"lambda{lam:g}-delta{delta:g}": {"o2w_weight": lam, "l2": delta} for lam in LAMBDAS for delta in DELTAS
}  # fmt: skip
NEEDED = {  # rows of each WHAT
    "table2": tuple(VARIANTS),
    "table3": tuple(VARIANTS),
    "figure5": ("bssan",),
    "figure6": tuple(VARIANTS),
    "figure7": ("bssan",),
    "figure8": ("bssan",),
    "figure9": tuple(POINTS),
    "text": ("w2r", "w2r_cnn", "bssan", "fc"),
    SEARCH: tuple(GRID),
}
MEASURED = (*TABLES, "figure9", "text")  # the rest needs no retrieval figures; a search takes those of the validation

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


@dataclass(frozen=True)
class Plan:
    """What is made, and from which trainings."""

    what: tuple[str, ...]  # of WHAT and SEARCH
    name: str  # of the reproduction, first part of its runs' names
    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    trainings: dict[Key, Training]
    moved: Mapping[str, object]  # the given settings of where files lie

    @property
    def folder(self) -> Path:
        return Path("reproduction") / self.name

    @property
    def leading(self) -> str:
        """The preset that figures and the text's claims are of."""
        return self.presets[0]

    def runs(self, row: str, preset: str | None = None) -> list[Training]:
        """The trainings of a row, one a seed."""
        return [self.trainings[preset or self.leading, row, seed] for seed in self.seeds]

    def baseline(self) -> Training | None:
        """The run on whose data the rows of CCA are measured, where a table has them."""
        return self.runs("bssan")[0] if any(one in TABLES for one in self.what) else None

    def measured(self) -> list[Training]:
        """Trainings whose retrieval is measured."""
        rows = {row for what in self.what if what in MEASURED for row in NEEDED[what]}
        return list(dict.fromkeys(training for key, training in self.trainings.items() if key[1] in rows))

    def distinct(self) -> list[Training]:
        """Each training once, in the order of the rows."""
        return list(dict.fromkeys(self.trainings.values()))


def make_plan(
    what: Sequence[str],
    name: str,
    presets: Sequence[str],
    seeds: Sequence[int],
    given: Mapping[str, object],
    made_of: Maker,
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
    for preset in presets:
        made_of(preset, given)  # UserError for what makes no sense in any row
        asked = [one for one in what if preset == presets[0] or one in TABLES]
        needed = [row for one in asked for row in NEEDED.get(one, ())]
        for seed in seeds:
            for row in dict.fromkeys([*VARIANTS, *needed]):
                own = {**settings_of(row), "seed": seed}
                training = _training(f"{name}-{preset}-{row}-{seed}", preset, given, own, made_of)
                training = known.setdefault(_network(training.config), training)
                if row in needed:
                    trainings[preset, row, seed] = training
    moved = {key: value for key, value in given.items() if key in moving_fields()}
    return Plan(tuple(what), name, tuple(presets), tuple(seeds), trainings, moved)


def settings_of(row: str) -> dict:
    """The settings that make a row."""
    rows = {key: settings for key, (_, settings) in {**VARIANTS, **TEXT}.items()}
    return {**rows, **POINTS, **GRID}[row]


def _training(
    name: str, preset: str, given: Mapping[str, object], own: Mapping[str, object], made_of: Maker
) -> Training:
    """The training of a row with settings of its `own`; with a look at early signs where it may collapse."""
    _, bare = made_of(preset, own)
    row = {key: bare[key] for key in ("variant", "fuse", "w2r_text")}
    whole = bare.replace(**{**given, **row})
    kept = {key: value for key, value in given.items() if key not in own and not _idle(whole, key, value)}
    values = {**kept, **own}
    flags, config = made_of(preset, values)
    if sees_eq8(config) and "early_signs" not in given:
        flags, config = made_of(preset, {**values, "early_signs": 300})  # a collapse is told by its step
    return Training(name, tuple(flags), config)


def _idle(config: Config, key: str, value: object) -> bool:
    """Whether a given setting has no effect in a row."""
    told = fields_of()[key]
    return (bool(value) or value != off_value(told)) and config.missing_need(told) is not None


def sees_eq8(config: Config) -> bool:
    """Whether training has pairs under Eq. 8, so that it may collapse as docs/reproduction.md tells."""
    return config.training.negative_attention != "learned"


def _network(config: Config) -> Config:
    """A config that is the same where the training is: without L2 term, BSSAN is BSSAN_no_reg."""
    return config.replace(variant="full") if config.model.variant == "no_reg" else config


def check_what(what: Iterable[str], search: bool = False, photos: Sequence[str] = ()) -> tuple[str, ...]:
    """WHAT in its order, `all` spelt out, with SEARCH where it is asked for.

    UserError for an unknown one, or where `search` or `photos` have no effect.
    """
    for one in what:
        if one not in (*WHAT, "all"):
            raise UserError(f"{one}: must be one of {', '.join(WHAT)}, all")
    found = WHAT if "all" in what else tuple(one for one in WHAT if one in what)
    if search and "figure9" not in found:
        raise UserError("--search: is of figure9; name that, too, or leave it out")
    if photos and not set(found) & set(SHOWN):
        raise UserError(f"--photos {photos[0]}: is of {', '.join(SHOWN)}; name one of them, or leave it out")
    return (*found, SEARCH) if search else found
