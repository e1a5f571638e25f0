"""Scenes as pictures: which shapes lie where, and the 224 x 224 pixels that show them.

In: a seed, a tuple of integers, of which `plan_scene` makes a `Scene`: all that a caption or a test may ask about.
`draw_scene` paints it and says which pixel belongs to which object; `detected_boxes` says what a detector might find.
"""

from __future__ import annotations

import colorsys
import io
import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bssan_tf.tools.boxes import iou

SIDE = 224  # width and height in pixels; not the input size of a backbone: with another one, scenes stay the same
COLOURS = {  # RGB
    "red": (214, 38, 40), "orange": (250, 130, 10), "yellow": (250, 222, 50), "green": (40, 158, 62),
    "blue": (34, 84, 222), "purple": (128, 36, 182), "white": (246, 246, 243), "black": (24, 24, 28),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "arrow")
SIZES = {"small": (44, 54), "medium": (60, 70), "large": (78, 90)}  # longer side of the box, pixels
TEXTURES = ("plain", "speckled", "striped", "checkered", "cloudy")

_MARGIN = 8  # pixels between a box and the picture's edge, and the room that a shadow needs
_GAP = 7  # pixels between two boxes
_CONTRAST = 88.0  # least RGB distance between the background's tone and each object's colour
_FINE = 4  # shapes are drawn this many times larger, then reduced (anti-aliasing)


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    colour: str
    shape: str
    size: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    angle: float  # its turn in degrees

    @property
    def label(self) -> str:
        """Size, colour and shape, e.g. "large red circle"."""
        return f"{self.size} {self.colour} {self.shape}"

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of the box's centre in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """A plan of one picture; all colours and all shapes differ, so that one word names at most one object."""

    seed: tuple[int, ...]
    things: tuple[Thing, ...]
    texture: str
    tone: tuple[float, float, float]

    @property
    def key(self) -> frozenset:
        """Its (colour, shape) pairs: two scenes with one key would be hard to tell apart by captions."""
        return frozenset((thing.colour, thing.shape) for thing in self.things)


def plan_scene(seed: tuple[int, ...], taken: Collection[frozenset] = ()) -> Scene:
    """Decide what one picture shows: 2 to 4 objects, apart from each other, on a muted background.

    `seed` are integers of 0 or more, `taken` keys that other scenes have already: this scene gets another one. The same
    seed and the same `taken` give the same scene.
    """
    rng = np.random.default_rng(seed)
    number = int(rng.integers(2, 5))
    for tries in itertools.count(1):
        colours = rng.choice(list(COLOURS), number, replace=False).tolist()
        shapes = rng.choice(SHAPES, number, replace=False).tolist()
        if frozenset(zip(colours, shapes)) not in taken:
            break
        if tries % 20 == 0:  # few pairs are left in a large corpus: there are more triples and fours
            number = min(number + 1, 4)
    while (things := _place(rng, colours, shapes)) is None:
        pass
    return Scene(tuple(seed), things, texture=str(rng.choice(TEXTURES)), tone=_tone(rng, things))


def draw_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Paint a plan: uint8 (224, 224, 3), RGB, and int8 (224, 224), each pixel's object, -1 for the background."""
    rng = np.random.default_rng((*scene.seed, 1))
    picture = _background(scene, rng)
    owner = np.full((SIDE, SIDE), -1, np.int8)
    for index, thing in enumerate(scene.things):
        _paint(picture, owner, index, thing, rng)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), owner


def scene_jpeg(scene: Scene) -> bytes:
    """The picture of a scene as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(draw_scene(scene)[0]).save(file, "JPEG", quality=90)
    return file.getvalue()


def detected_boxes(scene: Scene, number: int = 10) -> np.ndarray:
    """What a detector might say of this scene: shaken true boxes, and distractors of lower score.

    They are float32 (number, 6): x1, y1, x2, y2 in pixels, score, class (index into `SHAPES`), by falling score; rows
    that are not used are 0 ("no box").
    """
    rng = np.random.default_rng((*scene.seed, 2))
    true = np.array([thing.box for thing in scene.things])
    rows = []
    for thing in scene.things:
        box = np.clip(np.add(thing.box, np.clip(rng.normal(0, 2.5, 4), -6, 6)), 0, SIDE)
        rows.append((*box, rng.uniform(0.6, 0.99), SHAPES.index(thing.shape)))
    wanted = rng.integers(2, number - len(rows) + 1)
    while wanted > 0:
        width, height = rng.uniform(30, 90, 2)
        x, y = rng.uniform(0, SIDE - width), rng.uniform(0, SIDE - height)
        box = np.array([x, y, x + width, y + height])
        if iou(box[None], true).max() < 0.3:
            rows.append((*box, rng.uniform(0.05, 0.5), rng.integers(len(SHAPES))))
            wanted -= 1
    detections = np.zeros((number, 6), np.float32)
    detections[: len(rows)] = sorted(rows, key=lambda row: -row[4])
    return detections


def _place(rng: np.random.Generator, colours: list[str], shapes: list[str]) -> tuple[Thing, ...] | None:
    """Random sizes and places without overlap, or None where the last object found no room."""
    things: list[Thing] = []
    for colour, shape in zip(colours, shapes):
        size = str(rng.choice(list(SIZES)))
        angle = float(rng.uniform(-14, 14))
        width, height = _outline(shape, angle).max(0) * rng.uniform(*SIZES[size])
        for _ in range(40):
            x, y = rng.uniform(_MARGIN, [SIDE - _MARGIN - width, SIDE - _MARGIN - height])
            box = (float(x), float(y), float(x + width), float(y + height))
            if all(_apart(box, other.box) for other in things):
                things.append(Thing(colour, shape, size, box, angle))
                break
        else:
            return None
    return tuple(things)


def _apart(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] > other[2] + _GAP or other[0] > one[2] + _GAP or one[1] > other[3] + _GAP or other[1] > one[3] + _GAP


def _tone(rng: np.random.Generator, things: tuple[Thing, ...]) -> tuple[float, float, float]:
    """A muted RGB tone that differs clearly from every object's colour."""
    colours = np.array([COLOURS[thing.colour] for thing in things], float)
    while True:
        tone = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.04, 0.22), rng.uniform(0.45, 0.76))
        tone = tuple(255 * channel for channel in tone)
        if np.linalg.norm(colours - tone, axis=1).min() >= _CONTRAST:
            return tone


def _outline(shape: str, angle: float) -> np.ndarray:
    """Corners of a shape turned by `angle` degrees: float (n, 2), from 0 to 1 along its longer side."""
    turn = np.deg2rad(angle)
    corners = _CORNERS[shape] @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners -= corners.min(0)
    return corners / corners.max()


def _ring(number: int) -> np.ndarray:
    """`number` points of the unit circle, the first at the top."""
    turns = 2 * np.pi * np.arange(number) / number
    return np.stack([np.sin(turns), -np.cos(turns)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    wave = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -wave], 1)


def _cross() -> np.ndarray:
    x, y = np.array([(-0.36, -1), (0.36, -1), (0.36, -0.36)]).T
    return np.concatenate([np.stack(quarter, 1) for quarter in ((x, y), (-y, x), (-x, -y), (y, -x))])


_CORNERS = {
    "circle": _ring(72),
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float),
    "triangle": np.array([(0, -1), (1.05, 0.8), (-1.05, 0.8)]),
    "star": _ring(10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None],
    "heart": _heart(),
    "cross": _cross(),
    "diamond": np.array([(0, -1), (0.74, 0), (0, 1), (-0.74, 0)]),
    "arrow": np.array([(-1, -0.36), (0.05, -0.36), (0.05, -0.9), (1, 0), (0.05, 0.9), (0.05, 0.36), (-1, 0.36)]),
}


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """float32 (224, 224, 3): the tone, lit from one side, with the texture on it."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    light = along * rng.uniform(14, 28)
    if scene.texture == "striped":
        light += 9 * np.clip(3 * np.sin(along * 2 * np.pi * rng.uniform(6, 13)), -1, 1)
    elif scene.texture == "checkered":
        across, waves = y * np.cos(turn) - x * np.sin(turn), 2 * np.pi * rng.uniform(3.5, 7)
        light += 8 * np.clip(8 * np.sin(along * waves) * np.sin(across * waves), -1, 1)
    elif scene.texture == "speckled":
        light += rng.normal(0, 11, (SIDE, SIDE))
    elif scene.texture == "cloudy":
        for cells, strength in ((5, 9.0), (11, 6.0), (24, 3.0)):
            blobs = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
            light += np.asarray(blobs.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    light += rng.normal(0, 2, (SIDE, SIDE))
    return (np.array(scene.tone, np.float32) + light[..., None]).astype(np.float32)


def _paint(picture: np.ndarray, owner: np.ndarray, index: int, thing: Thing, rng: np.random.Generator) -> None:
    """Put one object with its shadow, rim and shading into `picture`, and its index into `owner`."""
    x1, y1, x2, y2 = thing.box
    left, top = int(x1) - _MARGIN, int(y1) - _MARGIN
    right, bottom = min(int(x2) + _MARGIN + 1, SIDE), min(int(y2) + _MARGIN + 1, SIDE)
    size = (right - left) * _FINE, (bottom - top) * _FINE
    corners = (_outline(thing.shape, thing.angle) * max(x2 - x1, y2 - y1) + (x1 - left, y1 - top)) * _FINE
    corners = list(map(tuple, corners.tolist()))
    solid, rim = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(solid).polygon(corners, fill=255)
    ImageDraw.Draw(rim).line([*corners, *corners[:2]], fill=255, width=3 * _FINE, joint="curve")
    solid, rim = solid.reduce(_FINE), rim.reduce(_FINE)
    shadow = np.roll(np.asarray(solid.filter(ImageFilter.GaussianBlur(2.5))), (3, 2), (0, 1)) / 255.0
    cover, edge = np.asarray(solid)[..., None] / 255.0, np.asarray(rim)[..., None] / 255.0  # (h, w, 1)

    body = np.array(COLOURS[thing.colour]) + rng.uniform(-9, 9, 3)
    shade = np.linspace(1.06, 0.93, cover.shape[0])[:, None, None]
    filling = body * shade * (1 - 0.22 * edge) + rng.normal(0, 2, cover.shape)
    patch = picture[top:bottom, left:right]
    patch *= 1 - 0.28 * shadow[..., None]
    patch += cover * (filling - patch)
    owner[top:bottom, left:right][cover[..., 0] > 0.5] = index
