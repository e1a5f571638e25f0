"""Captions of the embedded data set: every word that they say of a scene is true, and they suffice to tell it."""

import re

import numpy as np
import pytest

from bssan_tf.datasets.scenes import load_scenes

# Written anew here, not taken from the module: what the words mean.
COLOUR = {
    **{word: word for word in ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")},
    "scarlet": "red",
    "golden": "yellow",
    "violet": "purple",
}
SHAPE = {
    **{word: word for word in ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "arrow")},
    **{"disc": "circle", "box": "square", "plus": "cross", "rhombus": "diamond"},
}
SIZE = {
    **{word: "small" for word in ("small", "little", "tiny")},
    **{word: "large" for word in ("large", "big", "huge")},
    "medium": "medium",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """200 test scenes, as in the default corpus, and a few others."""
    return load_scenes(tmp_path_factory.mktemp("scenes"), seed=3, sizes={"train": 60, "val": 20, "test": 200})


def words_of(caption: str) -> list:
    return re.sub(r"[^\w\s]", "", caption.lower()).split()


def statements(caption: str) -> list:
    """(colour or None, shape) of each object that a caption names, read from its words alone."""
    words = words_of(caption)
    return [(COLOUR.get(before), SHAPE[word]) for before, word in zip(["", *words], words) if word in SHAPE]


def test_named_positions_are_all_words_of_colour_and_shape_and_only_these(corpus):
    for number, (caption, named) in enumerate(zip(corpus.captions, corpus.grounding.named)):
        labels = corpus.grounding.labels[corpus.image_of_caption[number]]
        words, objects = words_of(caption), dict(named)
        assert len(objects) == len(named)
        for position, word in enumerate(words):
            meant = COLOUR.get(word) or SHAPE.get(word)
            assert (meant is not None) == (position in objects), caption
            if meant is not None:
                assert meant in labels[objects[position]].split()[1:], caption
        assert len(words) == len(caption.split()) <= 30
        assert "-" not in caption
        assert len(set(objects.values())) >= 2, caption
        if number % 5 == 0:
            assert set(objects.values()) == set(range(len(labels))), caption


def test_sizes_in_captions_are_true(corpus):
    said = 0
    for number, (caption, named) in enumerate(zip(corpus.captions, corpus.grounding.named)):
        labels = corpus.grounding.labels[corpus.image_of_caption[number]]
        words, objects = words_of(caption), dict(named)
        for position, word in enumerate(words):
            if word in SIZE:
                assert labels[objects[position + 1]].split()[0] == SIZE[word], caption
                said += 1
    assert said > 500


def test_directions_and_places_in_captions_are_true(corpus):
    way = re.compile(
        r"\b(left of|right of|above|over|higher than|below|under|beneath|next to|beside|near)\b(?! the pic)"
    )
    place = re.compile(r"\b(?:at|in|on) the ((?:(?:top|bottom|upper|lower|left|right) ?)+)\b(?! ?of an? )")
    axis = {"left": (0, -1), "right": (0, 1), "over": (1, -1), "higher": (1, -1), "above": (1, -1)}
    axis.update({"below": (1, 1), "under": (1, 1), "beneath": (1, 1)})
    axis.update({"top": (1, -1), "upper": (1, -1), "bottom": (1, 1), "lower": (1, 1)})
    ways = places = 0
    for number, (caption, named) in enumerate(zip(corpus.captions, corpus.grounding.named)):
        boxes = corpus.grounding.boxes[corpus.image_of_caption[number]]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        text = " ".join(words_of(caption))
        for found in way.finditer(text):
            position = len(text[: found.start()].split())
            before = [obj for word, obj in named if word < position]
            after = [obj for word, obj in named if word > position]
            one = before[-1] if before else next(obj for obj in after if obj != after[0])
            offset = centres[one] - centres[after[0]]
            key = found[1].split()[0]
            if key in axis:
                along, sign = axis[key]
                assert offset[along] * sign > 0, caption
                assert abs(offset[along]) >= abs(offset[1 - along]), caption
            else:
                assert np.hypot(*offset) * 224 < 86, caption
            ways += 1
        for found in place.finditer(text):
            position = len(text[: found.start()].split())
            obj = [obj for word, obj in named if word < position][-1]
            for word in found[1].split():
                along, sign = axis[word]
                assert (centres[obj][along] - 0.5) * sign > 0.1, caption
            places += 1
    assert ways > 200
    assert places > 200


def test_captions_differ_and_vary(corpus):
    for image in range(280):
        assert len(set(corpus.captions[5 * image : 5 * image + 5])) == 5
    assert len(set(corpus.captions)) > 0.98 * len(corpus.captions)
    words = {word for caption in corpus.captions for word in words_of(caption)}
    assert set(COLOUR) | set(SHAPE) | set(SIZE) < words
    assert 60 < len(words) < 120


def test_an_oracle_retrieves_both_ways(corpus):
    """Who knows the words finds the scene among 200 and a caption among 1,000; ties count against it."""
    test = corpus.split("test")
    known = [[tuple(label.split()[1:]) for label in corpus.grounding.labels[row]] for row in test.image_rows]
    score = np.zeros((200, 1000))
    for column, caption in enumerate(test.captions):
        for colour, shape in statements(caption):
            for row, things in enumerate(known):
                true = any(shape == s and colour in (None, c) for c, s in things)
                score[row, column] += 1 if true else -10
    owner = test.image_of_caption
    own = score[owner, np.arange(1000)]
    text_to_image = (score >= own).sum(0)  # rank, 1 is best
    image_to_text = []
    for row in range(200):
        best = score[row, owner == row].max()
        image_to_text.append(1 + (score[row, owner != row] >= best).sum())
    assert np.mean(text_to_image <= 10) >= 0.98
    assert np.mean(np.array(image_to_text) <= 10) >= 0.98
    assert np.mean(text_to_image == 1) >= 0.6
