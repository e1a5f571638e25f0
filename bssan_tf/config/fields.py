"""What a setting is: a field of a config with its help, the values that make sense, and what it needs.

The settings themselves are in settings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import field
from pathlib import Path

SET, UNSET = "set", "unset"  # what `needs` can ask for beside named values
HUB, PRESET = "keras_hub:", "PRESET"  # a choice that ends in PRESET stands for every value that begins as it does

RULES: dict[str, Callable[[float], bool]] = {
    "above 0": lambda value: value > 0,
    "0 or more": lambda value: value >= 0,
    "between 0 and 1": lambda value: 0 <= value <= 1,
    "above 0 and below 1": lambda value: 0 < value < 1,
    "0 or more and below 1": lambda value: 0 <= value < 1,
    "0 or more and below 2^32": lambda value: 0 <= value < 2**32,
}


def setting(default, help: str, **told):
    """A field that is a flag of train.py.

    Args:
        default: the printed text's value, or what is off.
        help: a full phrase; flags.py adds the default.
        told: of
            rule, choices: a key of RULES; the allowed values.
            needs: {field: SET, UNSET, or the allowed values}, without which the setting has no effect.
            off: its value where what it needs is missing (`default`).
            flag: its name, where it is not the field's.
            metavar, const: as of argparse.
            improved: True for a part of the network that the paper does not have.
            moves: True for a file or folder that may lie elsewhere when the run is used again.
            others: True for what photos that are not the run's own may have otherwise.
            once: True for what one call does, and a run doesn't keep.
            older: its value in configs that do not have it, where that is not the default.
    """
    return field(default=default, metadata={"help": help, **told})


def is_choice(value, choices: Collection) -> bool:
    """Whether a value is one of a setting's choices."""
    open_ones = (choice[: -len(PRESET)] for choice in choices if str(choice).endswith(PRESET))
    return value in choices or any(str(value).startswith(start) and value != start for start in open_ones)


def hub_preset(value: str | None) -> str | None:
    """PRESET of a value `keras_hub:PRESET`; None for another."""
    return value[len(HUB) :] if value and value.startswith(HUB) else None


def is_preset_folder(preset: str) -> bool:
    """Whether a preset is a folder, not a name or an address that KerasHub knows."""
    return "://" not in preset and ("/" in preset or Path(preset).is_dir())


def file_setting(help: str):
    """A file of the user's, which may lie elsewhere when the run is used again; none by default."""
    return setting(None, help, metavar="FILE", moves=True)
