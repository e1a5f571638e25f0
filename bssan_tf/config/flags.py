"""Flags of a command line from the settings, each None unless it is given; the shown default is the presets'.

`python -m bssan_tf.config.flags` prints the settings as the table of docs/training.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from bssan_tf.config.fields import PRESET, is_choice
from bssan_tf.config.presets import preset
from bssan_tf.config.settings import SECTIONS, fields_of, flag_of

_TYPES = {"int": int, "float": float}


def add_flags(
    parser: argparse.ArgumentParser,
    fields: Iterable[dataclasses.Field],
    defaults: bool = True,
    on_scenes: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """A flag for each field that has a help; `defaults` shows what a new run takes without the flag.

    `on_scenes` are settings that the command has on scenes in place of the presets'.
    """
    for told in fields:
        if "help" not in told.metadata:
            continue
        options = {"dest": told.name, "default": None, "help": told.metadata["help"].replace("%", "%%")}
        if defaults and (shown := default_of(told.name, on_scenes)):
            options["help"] += f" ({shown})"
        if told.type == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            number = _TYPES.get(told.type.split(" | ")[0])
            options |= {"type": number, "metavar": "N" if number else None}
            options |= {name: told.metadata[name] for name in ("choices", "metavar", "const") if name in told.metadata}
            if any(str(choice).endswith(PRESET) for choice in options.get("choices", ())):
                choices = options.pop("choices")
                options |= {"type": _one_of(choices), "metavar": f"{{{','.join(choices)}}}"}
            if "const" in told.metadata:
                options["nargs"] = "?"
        parser.add_argument(flag_of(told.name), **options)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """One of choices of which some stand for many, for argparse."""

    def parse(text: str) -> str:
        if not is_choice(text, choices):
            raise argparse.ArgumentTypeError(f"{text!r}: must be one of {', '.join(choices)}")
        return text

    return parse


def flags_for(values: Mapping[str, object]) -> list[str]:
    """The flags that set these fields: the way back from what `add_flags` reads."""
    flags = []
    for name, value in values.items():
        flag = flag_of(name)
        flags += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, _text(value)]
    return flags


def _text(value) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def moving_fields() -> dict[str, dataclasses.Field]:
    """The settings that may be others when a run is used again: where files lie, how they are checked, objects."""
    reused = {"moves", "once", "others"}
    return {name: told for name, told in fields_of("data").items() if reused & told.metadata.keys()}


def default_of(name: str, on_scenes: Mapping[str, object] = MappingProxyType({})) -> str:
    """What a setting is in the presets: `default: X`, and where they differ, on scenes and in `paper`; "" for none."""
    photos, scenes = (
        preset("improved", "paper", data="flickr8k"),
        preset("improved", "tiny", data="scenes").replace(**on_scenes),
    )
    paper = preset("paper", "paper", data="flickr8k")
    value, others = _shown(photos[name]), {"on scenes": _shown(scenes[name]), "--preset paper": _shown(paper[name])}
    if name == "data":
        return f"default: {_shown(scenes[name])}"
    differing = [f"{where}: {other or 'none'}" for where, other in others.items() if other != value]
    return "; ".join([f"default: {value}", *differing]) if value or differing else ""


def _shown(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Every setting that is a flag, as Markdown: flag, what it does, default, on scenes, in `paper`."""
    lines = []
    for key in SECTIONS:
        lines += ["", f"**{key}**", "", "| flag | | default |", "|---|---|---|"]
        for name, told in fields_of(key).items():
            if "help" in told.metadata:
                choices = told.metadata.get("choices")
                text = told.metadata["help"] + (f" (`{'`, `'.join(choices)}`)" if choices else "")
                default = default_of(name).replace("default: ", "", 1)
                lines.append(f"| `{flag_of(name)}` | {text} | {default} |".replace("  |", " |"))
    return "\n".join(lines[1:])


if __name__ == "__main__":
    print(table())
