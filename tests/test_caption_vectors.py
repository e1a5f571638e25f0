"""Word vectors from captions without photos: counted pairs against loops, readers, and what must not leak into them."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from bssan_tf.config.presets import preset
from bssan_tf.datasets import caption_vectors as module
from bssan_tf.datasets.caption_vectors import LENGTH, caption_vectors, read_corpus, without
from bssan_tf.datasets.corpus import Corpus
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.errors import UserError
from bssan_tf.training.run import word_vectors

IMAGES = [
    ["A dog runs.", "The dog, in snow!"],
    ["A dog in the snow", "A dog runs", "Snow."],
    ["A man runs"],
    ["A man in the snow", "a man"],
]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "DIMENSIONS", 3)
    monkeypatch.setattr(module, "_PAIRS", 10)  # several blocks


def information(images, words):
    """PPMI by its definition: probabilities of (word of one caption, word of another of the same image)."""
    pairs = []
    for captions in images:
        split = [re.findall(r"\w+", caption.lower()) for caption in captions]
        sets = [[word for word in words if word in found] for found in split]
        for i, one in enumerate(sets):
            for j, other in enumerate(sets):
                if i != j or len(sets) == 1:
                    pairs += [(a, b) for a in one for b in other]
    n = len(pairs)
    found = np.zeros((len(words), len(words)))
    for i, a in enumerate(words):
        for j, b in enumerate(words):
            both = sum(pair == (a, b) for pair in pairs) / n
            apart = sum(p[0] == a for p in pairs) * sum(p[0] == b for p in pairs) / n**2
            found[i, j] = max(0, np.log(both / apart)) if both else 0
    return found


@pytest.mark.usefixtures("small")
def test_vectors_are_the_largest_eigenvectors_of_the_information():
    words = ["a", "dog", "snow", "in", "man", "runs", "the"]  # in three captions or more
    values, vectors = np.linalg.eigh(information(IMAGES, words))
    expected = vectors[:, ::-1][:, :3] * np.sqrt(values[::-1][:3])
    expected -= expected.mean(axis=0)
    expected *= LENGTH / np.sqrt(np.mean(np.sum(expected**2, axis=1)))
    found = caption_vectors(IMAGES, ["", "[UNK]", "zyx", *words], progress=False)
    assert found.dtype == np.float32
    assert not found[:3].any()
    np.testing.assert_allclose(found[3:] @ found[3:].T, expected @ expected.T, atol=1e-3)  # whatever the signs


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_vectors():
    words = ["dog", "snow"]
    one, other = (caption_vectors(IMAGES, words, progress=False) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_too_few_words_are_refused():
    with pytest.raises(UserError, match="--text-corpus: only 7 words are in 3 captions or more"):
        caption_vectors(IMAGES, ["dog"])


FILES = {
    "captions.token": "1.jpg#0\ta dog\n1.jpg#1\ta cat\n2.jpg#0\ta man\n",
    "captions.csv": "image,caption\n1.jpg,a dog\n1.jpg,a cat\n2.jpg,a man\n",
    "results.csv": "image_name| comment_number| comment\n1.jpg| 0| a dog\n1.jpg| 1| a cat\n2.jpg| 0| a man\n",
    "captions.json": json.dumps(
        {
            "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
            "annotations": [
                {"image_id": image, "caption": text, "id": k}
                for k, (image, text) in enumerate([(1, "a dog"), (1, "a cat"), (2, "a man")])
            ],
        }
    ),
    "dataset.json": json.dumps(
        {
            "images": [
                {"filename": name, "split": "train", "sentences": [{"raw": text} for text in texts]}
                for name, texts in (("1.jpg", ["a dog", "a cat"]), ("2.jpg", ["a man"]))
            ]
        }
    ),
    "captions.txt": "image,caption\n1.jpg,a dog\n1.jpg,a cat\n2.jpg,a man\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_captions(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    expected = {f"{name}/1.jpg": ["a dog", "a cat"], f"{name}/2.jpg": ["a man"]}
    assert read_corpus(tmp_path / name) == expected
    (tmp_path / "plain.txt").write_text("a bird, flying\n\na boat\n")
    plain = {"plain.txt/line 1": ["a bird, flying"], "plain.txt/line 3": ["a boat"]}
    assert read_corpus(tmp_path / "plain.txt") == plain
    (tmp_path / "photo.jpg").write_text("no captions")
    (tmp_path / "instances.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"bbox": [1, 2]}]}))
    assert read_corpus(tmp_path) == expected  # a list of photos in a text file is none of captions


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "no such file; give a file of captions"), ("\n", "has no captions; give")],
)
def test_a_corpus_that_is_none(tmp_path, content, told):
    path = tmp_path / "texts.txt"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"--text-corpus .*texts\.txt: {told}"):
        read_corpus(path)


def test_images_that_are_measured_on_are_left_out():
    corpus = {
        "f/1000268201.jpg": ["a girl"],
        "f/2000268201.jpg": ["a boy"],
        "c/COCO_val2014_000000397133.jpg": ["a cook"],
        "c/other.jpg": ["A dog, running!", "a dog"],
        "c/Mine.png": ["a cat"],
        "p/line 100,026": ["a bird"],
    }
    names = ["1000268201_693b08cb0e.jpg", "000000397133.jpg", "mine.jpg", "100026.jpg"]
    assert list(without(corpus, names, ["a dog running"])) == ["f/2000268201.jpg", "p/line 100,026"]


@pytest.mark.usefixtures("small")
def test_a_run_reads_its_training_captions_and_none_of_its_other_ones(tmp_path, monkeypatch):
    seen = []
    made = np.ones((9, 3))
    monkeypatch.setattr("bssan_tf.training.run.caption_vectors", lambda images, *_: seen.extend(images) or made)
    lines = ("11111111.jpg#0\ta cat", "3.jpg#0\ta bird", "4.jpg#0\tA dog of test.", "5.jpg#0\ta pig of train")
    (tmp_path / "texts.token").write_text("\n".join(lines))
    ids = ("11111111_ab.jpg", "2.jpg", "5.jpg")
    captions = ("a cat of val", "a dog of test", "a pig of train", "pigs")
    corpus = Corpus("pets", ids, ids, captions, [0, 1, 2, 2], {"val": [0], "train": [2]})  # 2.jpg is in no split
    data = SimpleNamespace(corpus=corpus, split=corpus.split)
    config = preset("improved", data="flickr8k").replace(text_corpus=str(tmp_path / "texts.token"))
    tokenizer = Tokenizer.fit(["a pig of train"])
    assert word_vectors(config, data, tokenizer, progress=False).shape == (9, 3)
    assert [list(texts) for texts in seen] == [["a bird"], ["a pig of train", "pigs"]]
    assert word_vectors(config.replace(text_corpus=None), data, tokenizer) is None
