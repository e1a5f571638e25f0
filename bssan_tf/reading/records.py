"""JSON objects -> the fields of a dataclass, each of the type that its annotation tells."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

MOST_INTEGER = 2**63 - 1


def typed_fields(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some fields of a dataclass, lists as tuples; TypeError or ValueError names the field otherwise.

    Annotations are int, float, bool, str, each perhaps "| None", and tuple[X, ...] or tuple[X, X]. Numbers are finite
    and below 2^63.
    """
    types = {told.name: told.type for told in dataclasses.fields(kind)}
    if not isinstance(raw, Mapping):
        raise TypeError(f"{raw!r:.40} in place of fields")
    if unknown := sorted(set(raw) - set(types)):
        raise TypeError(f"it has an unknown field {unknown[0]!r:.40}")
    return {name: _typed(value, types[name], name) for name, value in raw.items()}


def _typed(value: Any, annotation: str, name: str) -> Any:
    wanted, _, optional = annotation.partition(" | ")
    if value is None and optional == "None":
        return None
    if inner := re.fullmatch(r"tuple\[(.*)\]", wanted):
        items = inner[1].split(", ")
        if isinstance(value, (list, tuple)) and (items[-1] == "..." or len(items) == len(value)):
            return tuple(_typed(one, items[0], name) for one in value)
    elif wanted in ("bool", "str") and type(value).__name__ == wanted:
        return value
    elif (type(value) is int and wanted in ("int", "float")) or (type(value) is float and wanted == "float"):
        if not math.isfinite(value) or abs(value) > MOST_INTEGER:
            raise ValueError(f"{name} is out of range")
        return value
    raise TypeError(f"{name} is {value!r:.40}, not {annotation}")
