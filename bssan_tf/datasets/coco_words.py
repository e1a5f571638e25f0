"""Which words of a caption name one of COCO's 80 classes, and photos of COCO with that as their `Grounding`.

In: a folder in COCO's layout with captions and instances of the same photos. Out: a `Corpus` whose grounding has the
objects' boxes and, for each caption, the words that name an object's class.

A class has COCO's name and the `SYNONYMS`, each also in the plural and as a possessive ("mans", once punctuation is
gone). Of two words the last counts, the noun: "light" of "traffic light". Longer names go first: "hot dog" is no dog.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bssan_tf.datasets.coco import (
    PARTS,
    PHOTO_FOLDERS,
    coco_number,
    folders_of,
    read_annotations,
    read_instances,
)  # fmt: skip
from bssan_tf.datasets.corpus import Corpus, Grounding
from bssan_tf.datasets.files import first_file
from bssan_tf.datasets.photos import PhotoFolders
from bssan_tf.datasets.words import split_words
from bssan_tf.errors import UserError

logger = logging.getLogger(__name__)

# Names beside COCO's own, class -> names, those of several words with "_". The idea is that of CHAIR (Rohrbach et al.,
# EMNLP 2018), the choice ours: common words that mean the class in most captions (so no "glasses" or "board").
SYNONYMS = {
    "person": "people man men woman women boy girl child children kid baby toddler adult guy lady gentleman male female"
    " teenager crowd player batter pitcher catcher skier snowboarder surfer skateboarder skater rider biker cyclist"
    " bicyclist swimmer climber hiker runner worker officer policeman fireman soldier chef bride groom",
    "bicycle": "bike", "car": "automobile taxi cab van minivan suv jeep",
    "motorcycle": "motorbike motor_bike scooter moped",
    "airplane": "plane air_plane aeroplane aircraft jet jetliner airliner biplane", "bus": "minibus",
    "train": "locomotive", "truck": "pickup firetruck fire_engine lorry",
    "boat": "sailboat ship canoe kayak raft motorboat speedboat",
    "traffic light": "stoplight stop_light traffic_signal", "fire hydrant": "hydrant", "stop sign": "stopsign",
    "parking meter": "meter", "bird": "duck goose geese seagull gull pigeon parrot owl swan", "cat": "kitten kitty",
    "dog": "puppy", "horse": "pony foal", "sheep": "lamb ram ewe", "cow": "cattle calf calves bull",
    "backpack": "back_pack rucksack knapsack", "umbrella": "parasol", "handbag": "hand_bag purse",
    "tie": "necktie bowtie bow_tie", "suitcase": "luggage", "frisbee": "frisbie", "skis": "ski",
    "snowboard": "snow_board", "sports ball": "ball", "baseball bat": "bat", "baseball glove": "glove mitt",
    "skateboard": "skate_board", "surfboard": "surf_board", "tennis racket": "racket racquet",
    "wine glass": "wineglass", "cup": "mug", "knife": "knives", "donut": "doughnut", "hot dog": "hotdog",
    "cake": "cupcake", "couch": "sofa loveseat", "potted plant": "plant houseplant", "dining table": "table",
    "tv": "television", "mouse": "mice", "remote": "remote_control controller",
    "cell phone": "phone cellphone smartphone", "oven": "stove", "refrigerator": "fridge", "teddy bear": "teddy",
    "hair drier": "hairdryer hair_dryer",
}  # fmt: skip
LAYOUT = (
    "expected are captions_val2017.json and instances_val2017.json (or those of train2017, val2014, train2014) in it or"
    " in its annotations/, and the photos in val2017/ or images/"
)


class ClassWords:
    """The words that name classes; `labels` are the classes' names, such as "traffic light"."""

    def __init__(self, labels: Iterable[str]):
        self._label_of: dict[tuple[str, ...], str] = {}
        for label in labels:
            names = [label, *(name.replace("_", " ") for name in SYNONYMS.get(label, "").split())]
            for *first, noun in filter(None, (split_words(name) for name in names)):
                for form in (noun, f"{noun}s", plural(noun)):
                    self._label_of[(*first, form)] = label
        self._longest = max(map(len, self._label_of), default=0)

    def find(self, words: Sequence[str]) -> list[tuple[int, str]]:
        """(position of its last word, class) of each name in a caption, words as `split_words` gives them."""
        found, start = [], 0
        while start < len(words):
            ends = range(min(start + self._longest, len(words)), start, -1)
            end = next((end for end in ends if tuple(words[start:end]) in self._label_of), None)
            if end is not None:
                found.append((end - 1, self._label_of[tuple(words[start:end])]))
            start = end or start + 1
        return found


def plural(noun: str) -> str:
    """The regular plural: dogs, benches, ladies."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def load_grounded(root: Path, word_rule: str = "unicode") -> Corpus:
    """The photos of COCO that are in a folder and have captions and instances there.

    Of several parts (val2017, train2017, ...) that are there, the first of the validation ones is taken, else of train;
    it names the corpus' one split. `word_rule` is the run's. `grounding.labels` are the objects' classes. Crowds count
    as objects: where a crowd is, people are. An object without area inside its photo is left out. UserError if there is
    no such folder, no part with both files and a photo, a file is malformed, or no caption names an object.
    """
    if not root.is_dir():
        raise UserError(f"--pointing {root}: no such folder; {LAYOUT}")
    part, captions_file, instances_file = _part_of(root)
    captions = read_annotations(captions_file)
    labels, photos = read_instances(instances_file)
    files = PhotoFolders(root, PHOTO_FOLDERS).find(captions, dict.fromkeys(captions, folders_of(part)), coco_number)
    names = [name for name, texts in captions.items() if texts and name in photos and name in files]
    if not names:
        raise UserError(f"--pointing {root}: no photo of {captions_file.name} and {instances_file.name}; {LAYOUT}")
    if len(names) < len(captions):
        logger.warning("%s: %d of %d photos have captions, instances and a file", root, len(names), len(captions))

    class_words = ClassWords(labels)
    boxes, kinds, named = [], [], []
    for name in names:
        size, objects = photos[name]
        if not all(size):
            raise UserError(f"{instances_file}: {name} has no width and height; restore them, boxes are in pixels")
        corners = np.array([(x, y, x + w, y + h) for (x, y, w, h), _, _ in objects], np.float64).reshape(-1, 4)
        corners = np.clip(corners / np.tile(size, 2), 0, 1).astype(np.float32)
        real = (corners[:, :2] < corners[:, 2:]).all(axis=1)
        boxes.append(corners[real])
        kinds.append([labels[kind] for (_, kind, _), kept in zip(objects, real) if kept])
        for text in captions[name]:
            found = class_words.find(split_words(text, word_rule))
            named.append([(place, i) for place, label in found for i, kind in enumerate(kinds[-1]) if kind == label])
    if not any(named):
        raise UserError(f"--pointing {root}: no caption of {captions_file.name} names the class of an object there")
    return Corpus(
        name=root.resolve().name,
        image_ids=names,
        image_paths=[files[name] for name in names],
        captions=[text for name in names for text in captions[name]],
        image_of_caption=np.repeat(np.arange(len(names)), [len(captions[name]) for name in names]),
        splits={part: np.arange(len(names))},
        grounding=Grounding(boxes=tuple(boxes), labels=tuple(kinds), named=tuple(named)),
        official=False,
        split_lists="own",
    )


def _part_of(root: Path) -> tuple[str, Path, Path]:
    """A part that has captions and instances: its name and the two files."""
    for part in sorted(PARTS, key=lambda part: (part.startswith("train"), part.endswith("2014"))):
        names = (f"captions_{part}.json", f"instances_{part}.json")
        found = [first_file(root, f"annotations/{name}", name) for name in names]
        if all(found):
            return part, *found
    raise UserError(f"--pointing {root}: no captions and instances of the same photos; {LAYOUT}")
