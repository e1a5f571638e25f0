"""A whole run's settings: which values are taken together, their JSON, and which of them this version can use.

The result is saved as `config.json` in the run folder and read back to an equal object. No TensorFlow here, so that
`--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bssan_tf.config import fields, settings
from bssan_tf.config.settings import DataConfig, ModelConfig, TrainingConfig, fields_of, flag_of, off_value
from bssan_tf.errors import UserError
from bssan_tf.reading.documents import parse_json, read_text
from bssan_tf.reading.files import refusing
from bssan_tf.reading.records import typed_fields

logger = logging.getLogger(__name__)

REMEDY = "train the run anew"
FORMATS = (2, 3)  # of config.json: the Keras that trains; either reads both. Format 1 had no number
SHOWN_VALUES = {"bool": "", "int": " N", "float": " N", "str | None": " FILE"}  # behind a flag that must be set


def rule_breaks(rule: str | None, value) -> bool:
    """Whether a value is none that a rule of RULES allows."""
    return rule is not None and value is not None and not fields.RULES[rule](value)


# sections are looked up when they are needed, so that a field is told in settings.py alone
@dataclass(frozen=True)
class Config:
    """A whole run."""

    preset: str = "paper"
    size: str = "paper"
    data: DataConfig = field(default_factory=lambda: settings.SECTIONS["data"]())
    model: ModelConfig = field(default_factory=lambda: settings.SECTIONS["model"]())
    training: TrainingConfig = field(default_factory=lambda: settings.SECTIONS["training"]())

    def __getitem__(self, name: str):
        """The value of a field, in whichever section it is."""
        return getattr(next(s for s in self.sections() if hasattr(s, name)), name)

    def sections(self) -> tuple:
        return self.data, self.model, self.training

    def replace(self, **values) -> Config:
        """A copy in which each named field, of whichever section, is replaced; TypeError for an unknown name."""
        changed = {}
        for key, section in zip(settings.SECTIONS, self.sections()):
            own = {f.name: values.pop(f.name) for f in dataclasses.fields(section) if f.name in values}
            changed[key] = dataclasses.replace(section, **own)
        if values:
            raise TypeError(f"no config section has a field {sorted(values)[0]!r}")
        return dataclasses.replace(self, **changed)

    def resolved(self) -> Config:
        """A copy that names the backbone and the source of the objects, which the data set decides where no flag does.

        UserError: a source of objects without its file, or a file that the source does not use.
        """
        data, scenes = self.data, self.data.data == "scenes"
        detected = "faster_rcnn" if data.detector_weights or scenes else "grid"
        objects = data.objects or ("boxes" if data.boxes else detected)
        if objects == "boxes" and not (data.boxes or scenes):
            raise UserError("--objects boxes: no boxes given; add --boxes FILE.npz, or use --objects grid")
        if objects == "faster_rcnn" and not (data.detector_weights or scenes):
            raise UserError(
                "--objects faster_rcnn: no weights given; import the public checkpoint or train a detector, and name"
                " its file by --detector-weights FILE, or give the boxes of any detector by --boxes FILE.npz"
            )
        for name, wanted in (("detector_weights", "faster_rcnn"), ("boxes", "boxes")):
            if (file := getattr(data, name)) and objects != wanted:
                raise UserError(f"{flag_of(name)} {file}: is not used with --objects {objects}; leave it out")
        return self.replace(backbone=data.backbone or ("slim" if scenes else "vgg19"), objects=objects)

    def moved(self, flags: Mapping[str, str] | None) -> Config:
        """A copy, `resolved`, with the given fields of DataConfig; `root` also moves a folder that --data named.

        UserError as `resolved`; objects that are described otherwise than the run's, so that its model can't take them.
        """
        flags = dict(flags or {})
        if "root" in flags and self.data.data not in settings.DATASETS:
            flags["data"] = flags.pop("root")
        own, objects = self.data.objects, flags.get("objects")
        if objects and own and (objects == "faster_rcnn") != (own == "faster_rcnn"):
            raise UserError(f"--objects {objects}: the run's are {own}, which are described otherwise; leave it out")
        if objects and objects != own:
            flags = {"boxes": None, **flags}  # the run's own file is not meant
        elif fields.hub_preset(own) and flags.get("boxes"):
            flags["objects"] = "boxes"
        return self.replace(**flags).resolved()

    def check(self) -> Config:
        """Return self if every value makes sense; UserError naming the flag and its value otherwise."""
        for name, told in fields_of().items():
            value, choices, rule = self[name], told.metadata.get("choices"), told.metadata.get("rule")
            if isinstance(value, (int, float)) and not abs(value) < settings.MOST and not rule_breaks(rule, value):
                raise UserError(f"{flag_of(name)} {value!s:.20}: must be a number below 2^32")
            if choices and value is not None and not fields.is_choice(value, choices):
                raise UserError(f"{flag_of(name)} {value}: must be one of {', '.join(choices)}")
            if rule_breaks(rule, value):
                raise UserError(f"{flag_of(name)} {value}: must be {rule}")
            if value != off_value(told):
                self.require_effect(name, value)
        training = self.training
        if training.negative_source == "batch" and training.negatives >= training.batch_size:
            raise UserError(f"{flag_of('negatives')} {training.negatives}: must be below --batch-size")
        return self

    def require_effect(self, name: str, value) -> None:
        """UserError that names a given setting which the other settings leave without any effect."""
        told = fields_of()[name]
        if (value or value != off_value(told)) and (problem := self.missing_need(told)):
            shown = "" if isinstance(value, bool) else f" {value}"
            raise UserError(f"{flag_of(name)}{shown}: has no effect {problem}, or leave it out")

    def missing_need(self, told: dataclasses.Field) -> str | None:
        """Why a field has no effect beside the others, and the remedy; None if it has one."""
        for name, wanted in told.metadata.get("needs", {}).items():
            value, flag = self[name], flag_of(name)
            if wanted == fields.UNSET and value:
                return f"with {flag}; leave that out"
            if wanted == fields.SET and not value:
                return f"without {flag}{SHOWN_VALUES.get(fields_of()[name].type, ' VALUE')}; add that"
            if wanted not in (fields.SET, fields.UNSET) and value not in wanted:
                return f"with {flag} {value}; give {' or '.join(wanted)}"
        return None

    def settled(self, given: Collection[str]) -> Config:
        """A copy in which what lacks what it needs is off, unless it was given."""
        config = self
        for name, told in fields_of().items():
            if name not in given and config.missing_need(told):
                config = config.replace(**{name: off_value(told)})
        return config

    def to_json(self) -> str:
        """The config as JSON text, fields in their order, but for those of one call."""
        value = {"format": _keras(), **dataclasses.asdict(self)}
        for key in settings.SECTIONS:
            value[key] = {name: kept for name, kept in value[key].items() if not _of_one_call(key, name)}
        return json.dumps(value, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str = "config.json") -> Config:
        """Read back what `to_json` wrote; settings that it does not have yet take their defaults, with a word.

        UserError, which names `source`, if the text is not such a config, or of another format.
        """
        raw, sections, absent = parse_json(text, source, REMEDY), {}, []
        with refusing(source, "not a config of this version of bssan_tf", REMEDY):
            if (saved_by := raw.get("format", 1)) not in FORMATS:
                raise ValueError(f"its format is {saved_by}, this version's are {' and '.join(map(str, FORMATS))}")
            for key, section in settings.SECTIONS.items():
                own = {
                    name: kept for name, kept in typed_fields(section, raw[key]).items() if not _of_one_call(key, name)
                }
                missing = {name: told for name, told in fields_of(key).items() if name not in own}
                missing = {name: told.metadata.get("older", told.default) for name, told in missing.items()}
                sections[key] = section(**own, **missing)
                absent += [f"{name} {value}" for name, value in missing.items() if not _of_one_call(key, name)]
            for name in ("w2r_mlp", "o2w_mlp"):
                if not all(0 < width < settings.MOST for width in getattr(sections["model"], name)):
                    raise ValueError(f"{name} has a layer without dimensions")
            config = cls(**typed_fields(cls, {name: raw[name] for name in ("preset", "size")}), **sections)
        try:
            config.check()
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        if saved_by != _keras():
            _tell_other_keras(source, saved_by)
        if absent:
            logger.info("%s: does not know all settings; taken are %s", source, ", ".join(absent))
        return config

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config file; UserError if it is absent or not one."""
        return cls.from_json(read_text(path, "is this a run folder?"), str(path))


def _keras() -> int:
    return int(version("keras").split(".")[0])


@functools.cache  # once a process, however often the file is read
def _tell_other_keras(source: str, saved_by: int) -> None:
    logger.info("%s: of Keras %s, this is Keras %s: scores are the same to 1e-4", source, saved_by, _keras())


def _of_one_call(section: str, name: str) -> bool:
    return "once" in getattr(fields_of(section).get(name), "metadata", ())
