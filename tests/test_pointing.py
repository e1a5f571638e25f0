"""Pointing accuracy with hand-made attention: two images, three captions, a 2 x 2 grid."""

from pathlib import Path

import numpy as np
import pytest

from bssan_tf.datasets.corpus import Corpus, Grounding
from bssan_tf.evaluation.pointing import Case, find_cases, object_cases, pointing, word_cases
from bssan_tf.features.store import Features
from bssan_tf.tools.boxes import iou

LEFT, RIGHT, TOP_LEFT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5)
# Image 0 has two objects, left and right; image 1 (of another split) none of interest; image 2 one, at the
# top left.
GROUNDING = Grounding(
    boxes=(np.array([LEFT, RIGHT]), np.array([LEFT]), np.array([TOP_LEFT])),
    labels=(("red circle", "blue star"), ("green ring",), ("red star",)),
    named=(((1, 0), (2, 0), (5, 1)), ((0, 0),), ((0, 0), (1, 0)), ((0, 0), (3, 0))),
)
CORPUS = Corpus(
    name="toy",
    image_ids=("a", "b", "c"),
    image_paths=tuple(Path(name) for name in "abc"),
    captions=("a red circle near some stars", "green", "red star", "red x y star"),
    image_of_caption=np.array([0, 1, 2, 2]),
    splits={"train": np.array([1]), "test": np.array([2, 0])},
    grounding=GROUNDING,
)
FEATURES = Features(
    image_ids=CORPUS.image_ids,
    regions=np.arange(3, dtype=np.float16).reshape(3, 1, 1).repeat(4, axis=1),
    objects=np.zeros((3, 3, 1), np.float16),
    boxes=np.array([[RIGHT, LEFT, TOP_LEFT], [LEFT, LEFT, LEFT], [TOP_LEFT, (0.6, 0.6, 1, 1), TOP_LEFT]], np.float32),
    valid=np.array([[True, True, False], [True] * 3, [True, True, False]]),
    grid=(2, 2),
)
L = 8


def tokenizer(captions):
    return np.stack([np.pad(np.full(n, 2, np.int32), (0, L - n)) for n in (len(text.split()) for text in captions)])


def peaks(shape, *places):
    """Zeros with ones at the given places."""
    weights = np.zeros(shape, np.float32)
    for place in places:
        weights[place] = 1
    return weights


def scorer(inputs):
    """Hand-made attention. Cells 0 1 / 2 3: left = 0 and 2, right = 1 and 3."""
    alpha, beta = [], []
    length = inputs["tokens"].shape[1]
    for regions, tokens in zip(inputs["regions"], inputs["tokens"]):
        image, words = int(regions[0, 0]), int((tokens != 0).sum())
        if image == 0:  # word 1 at the left: right; word 2 at the right: wrong; word 5 at the right: right
            alpha.append(peaks((length, 4), (1, 2), (2, 1), (5, 3)))
            beta.append(peaks((3, length), (0, 5), (1, 3), (2, 1)))  # RIGHT to 5: right; LEFT to 3: wrong
        else:
            assert image == 2
            second = [(1, 2)] if words == 2 else [(3, 0)]  # below the box: wrong; at the top left: right
            alpha.append(peaks((length, 4), (0, 0), *second))
            beta.append(peaks((3, length), (0, words - 1), (1, 0)))  # TOP_LEFT to the last word: right
    return {"alpha": np.array(alpha), "beta": np.array(beta)}


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_both_directions_by_hand(batch_size):
    result = pointing(scorer, FEATURES, CORPUS.split("test"), GROUNDING, tokenizer, batch_size)
    # Words: caption 0: right, wrong, right; caption 2: right, wrong; caption 3: right, right.
    assert result["n_words"] == 7
    assert result["w2r"] == pytest.approx(100 * 5 / 7)
    # Chance: two of four cells for image 0 (three words), one of four for image 2 (four words).
    assert result["w2r_chance"] == pytest.approx(100 * (3 * 0.5 + 4 * 0.25) / 7)
    # The picture's centre lies on an edge or a corner of all of the boxes.
    assert result["w2r_centre"] == 100
    assert result["w2r_tied"] == 0
    # Objects: caption 0: two; captions 2 and 3: one each; the second box of image 2 meets no true one.
    assert result["n_objects"] == 4
    assert result["o2w"] == pytest.approx(100 * 3 / 4)
    # Naming words: one of six (right), two of six (left), two of two, two of four.
    assert result["o2w_chance"] == pytest.approx(100 * (1 / 6 + 2 / 6 + 1 + 1 / 2) / 4)


def test_variants_without_one_attention():
    def w2r_only(inputs):
        return {"alpha": scorer(inputs)["alpha"]}

    result = pointing(w2r_only, FEATURES, CORPUS.split("test"), GROUNDING, tokenizer)
    assert result["w2r"] == pytest.approx(100 * 5 / 7)
    assert (result["o2w"], result["o2w_chance"], result["n_objects"]) == (None, None, 0)


def test_features_without_grid_or_boxes():
    bare = Features(FEATURES.image_ids, FEATURES.regions, FEATURES.objects, valid=FEATURES.valid)
    result = pointing(scorer, bare, CORPUS.split("test"), GROUNDING, tokenizer)
    assert (result["w2r"], result["o2w"], result["n_words"], result["n_objects"]) == (None, None, 0, 0)


def test_a_keras_model_gets_only_its_inputs():
    class Model:
        def __init__(self):
            self.input = {"regions": None, "tokens": None}

        def __call__(self, inputs):
            assert set(inputs) == {"regions", "tokens"}
            return {"alpha": scorer(inputs)["alpha"]}

    assert pointing(Model(), FEATURES, CORPUS.split("test"), GROUNDING, tokenizer)["n_words"] == 7


def test_words_that_were_cut_off_do_not_count():
    def short(captions):
        return tokenizer(captions)[:, :2]

    result = pointing(scorer_of_two_words, FEATURES, CORPUS.split("test"), GROUNDING, short)
    assert result["n_words"] == 4  # caption 0: position 1; caption 2: both; caption 3: position 0


def scorer_of_two_words(inputs):
    assert inputs["tokens"].shape[1] == 2
    n = len(inputs["tokens"])
    return {"alpha": np.ones((n, 2, 4), np.float32), "beta": np.ones((n, 3, 2), np.float32)}


def test_word_that_names_two_objects():
    boxes = np.array([TOP_LEFT, (0.5, 0.5, 1.0, 1.0)])
    alpha = peaks((3, 4), (0, 3), (1, 1), (2, 0))
    cases = word_cases(alpha, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)], boxes, (2, 2))
    assert cases == [
        *(Case(0, 1, 0.5, False, 0.0, True), Case(0, 0, 0.5, False, 0.0, True)),
        Case(1, 0, 0.25, False, 0.0, True),
    ]


def test_cells_run_row_by_row_on_a_wide_grid():
    # 2 rows x 4 columns; the box is the third column of the second row, cell 6.
    box = np.array([(0.5, 0.5, 0.75, 1.0)])
    assert word_cases(peaks((1, 8), (0, 6)), [(0, 0)], box, (2, 4)) == [Case(0, 1, 1 / 8, False, 0.0, True)]
    assert word_cases(peaks((1, 8), (0, 5)), [(0, 0)], box, (2, 4)) == [Case(0, 0, 1 / 8, False, 0.0, True)]


def test_cells_that_share_the_peak_count_by_their_share():
    alpha = np.array([[0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
    cases = word_cases(alpha, [(0, 0), (1, 0)], np.array([(0.6, 0.0, 1.0, 1.0)]), (2, 2))  # the right column
    tilted = -(0.1 * np.log(0.1) + 0.9 * np.log(0.3)) / np.log(4)
    assert cases == [
        Case(0, pytest.approx(2 / 3), 0.5, True, pytest.approx(tilted), False),
        Case(0, 0.5, 0.5, True, pytest.approx(1), False),
    ]
    (case,) = object_cases(np.array([[0.4, 0.4, 0.2, 0.4]]), [(0, 0)], np.array([LEFT]), np.array([LEFT]), 3)
    spread = -(0.8 * np.log(0.4) + 0.2 * np.log(0.2)) / np.log(3)
    assert case == Case(0, 0.5, pytest.approx(1 / 3), True, pytest.approx(spread))  # the fourth word is padding


def test_words_that_the_model_does_not_know_are_left_out_and_counted():
    def forgetful(captions):
        tokens = tokenizer(captions)
        tokens[:, 1] = 1
        return tokens

    found = find_cases(scorer, FEATURES, CORPUS.split("test"), GROUNDING, forgetful)
    assert found.unknown == 2  # word 1 of captions 0 and 2
    assert [(row, case.thing) for row, case in found.words] == [(2, 0), (2, 0), (2, 0), (0, 0), (0, 1)]
    assert len(found.objects) == 4


def test_box_is_matched_to_the_object_it_overlaps_most():
    boxes = np.array([(0.0, 0, 0.5, 1), (0.1, 0, 0.5, 1)])
    detected = np.array([(0.12, 0.0, 0.5, 1.0)])
    spread = pytest.approx(-(0.2 * np.log2(0.2) + 0.8 * np.log2(0.8)))
    assert object_cases(np.array([[0.2, 0.8]]), [(0, 0), (1, 1)], boxes, detected, 2) == [
        Case(1, 1, 0.5, False, spread)
    ]
    assert object_cases(np.array([[0.8, 0.2]]), [(0, 0), (1, 1)], boxes, detected, 2) == [
        Case(1, 0, 0.5, False, spread)
    ]
    assert object_cases(np.zeros((0, 2)), [(0, 0)], boxes, np.zeros((0, 4)), 2) == []
    assert object_cases(np.ones((1, 2)), [], np.zeros((0, 4)), detected, 2) == []


def test_iou_by_hand():
    a = np.array([[0, 0, 2, 2], [0, 0, 1, 1]])
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    np.testing.assert_allclose(iou(a, b), [[1 / 7, 1, 0], [0, 1 / 4, 0]])
