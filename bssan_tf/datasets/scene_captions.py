"""Scenes in words: five captions of a scene, and which word says which object's colour or shape.

In: a `Scene` (what lies where). Out: `Caption`s, true sentences of at most 30 words about two or more objects; the
first one names all of them. `named` pairs count the caption's whitespace tokens from 0. Every token holds a letter, so
that stripping the punctuation shifts no position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bssan_tf.datasets.scene_pictures import SIDE, Scene, Thing

CAPTIONS = 5  # of each scene

# Other words for colours, shapes and sizes, beside the usual ones.
_COLOURS = {"red": ("scarlet",), "yellow": ("golden",), "purple": ("violet",)}
_SHAPES = {"circle": ("disc",), "square": ("box",), "cross": ("plus",), "diamond": ("rhombus",)}
_SYNONYMS = {**_COLOURS, **_SHAPES, "small": ("little", "tiny"), "large": ("big", "huge")}

# {a} {b} ... are objects, {at_b} the place of b in the picture, {a_from_b} the way from b to a.
_TEMPLATES = {
    2: (
        "{a} is {a_from_b} {b}",
        "{a} lies {a_from_b} {b}",
        "there is {a} {a_from_b} {b}",
        "{a_from_b} {b} there is {a}",
        "{a} {at_a} and {b} {at_b}",
        "we see {a} {at_a} and also {b}",
        "{a} {at_a} of the picture, with {b} {at_b}",
        "a picture of {a} and {b}",
        "{a} and {b} on a {texture} background",
    ),
    3: (
        "{a}, {b} and {c}",
        "a picture of {a}, {b} and {c}",
        "{a} is {a_from_b} {b}, and there is {c} {at_c}",
        "{a} {at_a}, {b} {at_b} and {c} {at_c}",
        "there are {a}, {b} and {c} on a {texture} background",
        "we see {a} {a_from_b} {b}, with {c} {at_c}",
    ),
    4: (
        "{a}, {b}, {c} and {d}",
        "four shapes are shown: {a}, {b}, {c} and {d}",
        "{a} and {b}, with {c} and {d}",
        "{a} is {a_from_b} {b}, and {c} is {c_from_d} {d}",
        "there are {a}, {b}, {c} and {d}",
    ),
}

_WAYS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "up": ("above", "over", "higher than"),
    "down": ("below", "under", "beneath"),
    "near": ("next to", "beside", "near"),
}
_PLACES = {
    ("left", "up"): ("at the top left", "in the upper left"),
    ("mid", "up"): ("at the top",),
    ("right", "up"): ("at the top right", "in the upper right"),
    ("left", "mid"): ("on the left",),
    ("mid", "mid"): ("in the middle", "in the centre"),
    ("right", "mid"): ("on the right",),
    ("left", "down"): ("at the bottom left", "in the lower left"),
    ("mid", "down"): ("at the bottom",),
    ("right", "down"): ("at the bottom right", "in the lower right"),
}
_NEAR = 85  # pixels between two centres that may be called near

_Token = tuple  # (word, index of the object whose colour or shape it says, or None)


class Caption(NamedTuple):
    """A sentence and its (word position, object index) pairs."""

    text: str
    named: tuple[tuple[int, int], ...]


def write_captions(scene: Scene) -> tuple[Caption, ...]:
    """Five captions of a scene, each of another template; the same scene always gets the same ones."""
    rng = np.random.default_rng((*scene.seed, 3))
    captions: dict[str, Caption] = {}  # by template
    for turn in range(CAPTIONS):
        objects = len(scene.things) if turn == 0 else int(rng.integers(2, len(scene.things) + 1))
        template = str(rng.choice([unused for unused in _TEMPLATES[objects] if unused not in captions]))
        captions[template] = _write(scene, template, objects, rng)
    return tuple(captions.values())


def _write(scene: Scene, template: str, objects: int, rng: np.random.Generator) -> Caption:
    """One caption that names `objects` of the scene's objects, in random order."""
    chosen = rng.permutation(len(scene.things))[:objects].tolist()
    # Among three or more objects one may go without its colour: the others still tell the scene.
    colourless = int(rng.choice(chosen)) if objects > 2 and rng.random() < 0.2 else None
    sizes_said = rng.random() < 0.6
    slots = {"texture": [(scene.texture, None)]}
    things = {letter: scene.things[index] for letter, index in zip("abcd", chosen)}
    for (letter, thing), index in zip(things.items(), chosen):
        slots[letter] = _noun_phrase(thing, index, index != colourless, sizes_said and rng.random() < 0.7, rng)
        slots[f"at_{letter}"] = _words(_place(thing, rng))
    for one, other in ("ab", "cd"):
        if other in things:
            slots[f"{one}_from_{other}"] = _words(_way(things[one], things[other], rng))
    tokens = _fill(template, slots)
    text = " ".join(word for word, _ in tokens)
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:] + "."
    named = tuple((position, index) for position, (_, index) in enumerate(tokens) if index is not None)
    return Caption(text, named)


def _fill(template: str, slots: dict[str, list[_Token]]) -> list[_Token]:
    """Put the slots' tokens into a template; a comma or colon stays at the word before it."""
    tokens: list[_Token] = []
    for piece in template.split():
        name, _, mark = piece.lstrip("{").partition("}")
        *head, (word, index) = slots[name] if piece.startswith("{") else [(piece, None)]
        tokens += [*head, (word + mark, index)]
    return tokens


def _noun_phrase(thing: Thing, index: int, coloured: bool, sized: bool, rng: np.random.Generator) -> list[_Token]:
    """An object in words, e.g. "a large red circle" or "an orange star"."""
    sized = sized and (thing.size != "medium" or rng.random() < 0.4)
    size = [(_say(thing.size, rng), None)] if sized else []
    colour = [(_say(thing.colour, rng), index)] if coloured else []
    tokens = [*size, *colour, (_say(thing.shape, rng), index)]
    return [("an" if tokens[0][0][0] in "aeiou" else "a", None), *tokens]


def _say(word: str, rng: np.random.Generator) -> str:
    """The usual word in two of three cases, else one of its synonyms."""
    return word if word not in _SYNONYMS or rng.random() < 2 / 3 else str(rng.choice(_SYNONYMS[word]))


def _words(text: str) -> list[_Token]:
    return [(word, None) for word in text.split()]


def _place(thing: Thing, rng: np.random.Generator) -> str:
    """Where an object lies in the picture, by thirds that are a little wider at the edges."""
    x, y = (coordinate / SIDE for coordinate in thing.centre)
    column = "left" if x < 0.38 else "right" if x > 0.62 else "mid"
    row = "up" if y < 0.38 else "down" if y > 0.62 else "mid"
    return str(rng.choice(_PLACES[column, row]))


def _way(one: Thing, other: Thing, rng: np.random.Generator) -> str:
    """How to get from `other` to `one`: the direction in which they are further apart, or just near."""
    x, y = np.subtract(one.centre, other.centre)
    if np.hypot(x, y) < _NEAR and rng.random() < 0.3:
        way = "near"
    elif abs(x) > abs(y):
        way = "left" if x < 0 else "right"
    else:
        way = "up" if y < 0 else "down"
    return str(rng.choice(_WAYS[way]))
