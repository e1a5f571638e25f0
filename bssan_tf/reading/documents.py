"""Text, JSON and XML: UTF-8, of bounded size and depth, without lone surrogates or XML's entities."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from bssan_tf.errors import UserError
from bssan_tf.reading.files import file_size, refusing

MOST_BYTES = 2 << 30  # COCO's largest instances file has 0.45 GB
MOST_XML_BYTES = 16 << 20
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FIRST = 100  # bytes, among which UTF-16 without its mark has a NUL
KINDS = {dict: "an object", list: "a list", str: "text"}
# One escape of JSON after the other, so that an escaped backslash before a "u" is not taken for one; group 1: lone.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


def read_bytes(path: str | Path, remedy: str, source: str | None = None, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes; UserError otherwise."""
    source, size = source or str(path), file_size(path, remedy, source)
    if size > most:
        raise UserError(f"{source}: has {size} bytes, more than {most}; {remedy}")
    with refusing(source, "cannot be read", remedy):
        return Path(path).read_bytes()


def read_text(path: str | Path, remedy: str, source: str | None = None) -> str:
    """The text of a UTF-8 file, without a byte order mark; UserError that names the first line of another encoding."""
    content = read_bytes(path, remedy, source)
    if content.startswith(UTF16_MARKS) or b"\0" in content[:_FIRST]:
        seen = "is UTF-16" if content.startswith(UTF16_MARKS) else "has NUL bytes (perhaps UTF-16 without its mark)"
        raise UserError(f"{source or path}: {seen}, and UTF-8 is expected; convert it, or {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        problem = f"line {line} is not UTF-8 (byte 0x{byte:02x})"
        raise UserError(f"{source or path}: {problem}; {remedy}") from None


def read_json(path: str | Path, remedy: str, kind: type | tuple[type, ...] = dict, source: str | None = None) -> Any:
    """The value of a JSON file, which is of `kind`; UserError as of `parse_json`."""
    return parse_json(read_text(path, remedy, source), source or str(path), remedy, kind)


def parse_json(text: str, source: str, remedy: str, kind: type | tuple[type, ...] = dict) -> Any:
    """The value of JSON text; UserError: it is none, nested too deeply, not of `kind`, or no Unicode text is in it."""
    with refusing(source, "not valid JSON", remedy):
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            for escape in _ESCAPE.finditer(text):
                if escape[1]:
                    line = text.count("\n", 0, escape.start()) + 1
                    raise ValueError(f"line {line}: \\{escape[1]} is half of a character")
    if not isinstance(value, kind):
        wanted = " or ".join(KINDS.get(one, one.__name__) for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise UserError(f"{source}: is {_shown(value)}, not {wanted} of JSON; {remedy}")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return KINDS.get(type(value), text if len(text) <= 40 else f"{text[:40]} ...")


def parse_xml(path: str | Path, remedy: str, source: str | None = None) -> ElementTree.Element:
    """The root of an XML file; UserError: it is none, or declares entities, which may grow without bound."""
    content = read_bytes(path, remedy, source, MOST_XML_BYTES)
    with refusing(source or str(path), "not valid XML", remedy):
        builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
        parser.CharacterDataHandler = builder.data
        parser.EntityDeclHandler = _refuse_entity
        parser.Parse(content, True)
        return builder.close()


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"it declares the entity {name}")


def lines_of(text: str) -> list[str]:
    """The lines of a text, split at line ends only, and not at the Unicode characters that `splitlines` takes."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
