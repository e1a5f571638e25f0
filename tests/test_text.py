"""Tokenizer against Keras' own layer and hand-worked ids; GloVe files against a plain parse."""

import gzip
import json
import logging
import os
import random
import string
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bssan_tf.datasets import Corpus, load_corpus
from bssan_tf.datasets.text import PAD, UNKNOWN, Tokenizer, load_glove
from bssan_tf.datasets.words import split_words
from bssan_tf.errors import UserError

TRAIN = ["A dog runs, a dog sits.", "The cat runs!", "a bird"]


def test_vocabulary_is_by_frequency_then_alphabet():
    tokenizer = Tokenizer.fit(TRAIN, length=4)
    # a 3, dog 2, runs 2, then once each: bird, cat, sits, the
    assert tokenizer.words == ("", "[UNK]", "a", "dog", "runs", "bird", "cat", "sits", "the")
    assert tuple(tokenizer.layer.get_vocabulary()) == tokenizer.words
    assert Tokenizer.fit(reversed(TRAIN), length=4).words == tokenizer.words


def test_a_sentence_of_a_user(caplog):
    tokenizer = Tokenizer.fit(["a dog", "a dog runs"], length=5)
    np.testing.assert_array_equal(tokenizer.read_sentence("A dog!", "--search"), [[2, 3, 0, 0, 0]])
    assert not caplog.records
    np.testing.assert_array_equal(tokenizer.read_sentence("zyx dog", "--search"), [[1, 3, 0, 0, 0]])
    assert "one unknown word: zyx" in caplog.text
    with pytest.raises(UserError, match=r"--search '\?!': has no word; give a sentence"):
        tokenizer.read_sentence("?!", "--search")


def test_tokens_are_cut_padded_and_unknown(caplog):
    tokenizer = Tokenizer.fit(TRAIN, length=4)
    with caplog.at_level(logging.WARNING):
        tokens = tokenizer(["The CAT, runs.", "a dog sits on a bird", "zebra a", "?! ...", ""])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(
        tokens,
        [[8, 6, 4, PAD], [2, 3, 7, UNKNOWN], [UNKNOWN, 2, PAD, PAD], [PAD] * 4, [PAD] * 4],
    )
    assert [r.getMessage() for r in caplog.records] == ["2 of 5 captions have no words; the first: '?! ...'"]
    assert tokenizer.words_of("A dog sits, on a Zebra") == ["a", "dog", "sits", "on"]
    assert tokenizer.words_of("?!") == []


def test_no_warning_and_no_captions(caplog):
    tokenizer = Tokenizer.fit(TRAIN)
    assert tokenizer(["a"]).shape == (1, 30)
    assert tokenizer([]).shape == (0, 30)
    assert not caplog.records


def test_words_are_split_as_keras_splits_them():
    """Every ASCII character, and random text with white space and letters outside ASCII."""
    rng = random.Random(0)
    alphabet = string.printable + "éÉßİ\u00a0\u2028\u3000–“ñ犬🐕\x1c\x85"
    captions = [f"x{chr(i)}Y z" for i in range(1, 128)]
    captions += ["".join(rng.choices(alphabet, k=40)) for _ in range(300)]
    layer = tf.keras.layers.TextVectorization(output_mode="int", ragged=True)
    layer.adapt(captions)
    names = layer.get_vocabulary()
    expected = [[names[i] for i in row] for row in layer(captions).to_list()]
    assert [split_words(caption, "ascii") for caption in captions] == expected


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Žena BĚŽÍ, ÉTÉ.", "žena běží été"),
        ("一只狗在奔跑。", "一 只 狗 在 奔 跑"),
        ("犬が走る、ball-ボール！", "犬 が 走 る ball ボ ー ル"),
        ("หมาวิ่ง", "ห ม า วิ่ ง"),
        ("개가 달린다.", "개가 달린다"),  # Korean has blanks
        ("\u201cDon\u2019t stop\u201d\u2014now\u3000or", "dont stop now or"),
        ("T-shirt, a.b", "tshirt ab"),
        ("。！…", ""),
    ],
)
def test_words_of_every_script(caption, words):
    assert split_words(caption) == words.split()


def test_words_are_the_same_inside_of_a_graph():
    """Each character up to Yi, random text, and what stands on other letters; new letters differ by ICU's version."""
    rng = random.Random(0)
    alphabet = "aB\u0130\u03a3\u03c3\u00c9\u00df\u2019\u201c\u2014\u3002\u3099犬がาำิ่ツﾞ ,." + string.ascii_letters
    captions = [f"x{chr(i)}Y z" for i in range(1, 0xA000) if chr(i) != "\u2c2f"]
    captions += ["".join(rng.choices(alphabet, k=30)) for _ in range(300)]
    tokenizer = Tokenizer.fit(captions, length=30)
    np.testing.assert_array_equal(tokenizer.layer(tf.constant(captions)).numpy(), tokenizer(captions))
    assert tokenizer.words[tokenizer(["xΣY z"])[0, 0]] == "xσy"


def test_what_is_not_read_is_told(caplog):
    tokenizer = Tokenizer.fit(["a dog runs"], length=4)
    with caplog.at_level(logging.INFO):
        tokenizer.log_unread(["a dog runs a dog cat", "a dog a dog a cat"], ["a dog", "a " * 9, "a dog runs"])
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 captions have more than 4 words (the longest 9); what follows is cut; --caption-length N reads more",
        "0.0 % of the validation tokens are unknown words",
    ]
    caplog.clear()
    tokenizer.log_unread(["a dog sits", "a cat"], what="test")
    assert "40.0 % of the test tokens are none of the 3 words of the training captions; the likely cause: few" in (
        caplog.text
    )
    caplog.clear()
    tokenizer.log_unread(["개가달린다", "a"])
    assert "50.0 % of the validation tokens are none" in caplog.text
    assert "without blanks between their words" in caplog.text


def test_it_is_told_before_features_are_extracted(caplog):
    from bssan_tf.config.presets import preset
    from bssan_tf.training.checks import check_corpus

    captions = [f"{'very ' * 40}long {i}" for i in range(40)]
    corpus = Corpus(
        "x", [f"{i}" for i in range(40)], [Path()] * 40, captions, range(40), {"train": range(35), "val": range(35, 40)}
    )
    check_corpus(corpus, preset("paper", "tiny", data="folder").replace(batch_size=16))
    assert "40 of 40 captions have more than 30 words (the longest 42)" in caplog.text


def test_layer_works_inside_a_graph_and_agrees():
    tokenizer = Tokenizer.fit(TRAIN, length=5)
    captions = ["A dog sat.", "the É bird", ""]
    in_graph = tf.function(tokenizer.layer, input_signature=[tf.TensorSpec([None], tf.string)])
    np.testing.assert_array_equal(in_graph(tf.constant(captions)).numpy(), tokenizer(captions))


def test_more_captions_than_one_piece():
    tokenizer = Tokenizer(["a", "b"], length=2)
    captions = ["a", "b a"] * 5000
    np.testing.assert_array_equal(tokenizer(captions), [[2, 0], [3, 2]] * 5000)


def test_save_and_load(tmp_path):
    tokenizer = Tokenizer.fit([*TRAIN, "un café été"], length=7)
    tokenizer.save(tmp_path / "vocabulary.txt")
    lines = (tmp_path / "vocabulary.txt").read_bytes().decode("utf-8").split("\n")
    assert lines[:2] == ["a", "dog"]
    assert lines[-1] == ""
    loaded = Tokenizer.load(tmp_path / "vocabulary.txt", length=7)
    assert (loaded.words, loaded.length) == (tokenizer.words, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\na\n", "words: a word occurs twice"),
        (b"a\n\nb\n", "words: '' is not a lower-case word"),
        (b"a\ntwo words\n", "'two words' is not a lower-case word"),
        (b"a\nB\n", "'B' is not a lower-case word"),
        (b"caf\xe9\n", "utf-8"),
        (b"", "is not a lower-case word"),
    ],
)
def test_bad_vocabulary_file(tmp_path, content, message):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    start = "vocabulary.txt: not a vocabulary of one word a line"
    with pytest.raises(UserError, match=rf"{start} \(.*{message}"):
        Tokenizer.load(path)


def test_vocabulary_file_absent(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary.txt: can't be read .*; is the run complete"):
        Tokenizer.load(tmp_path / "vocabulary.txt")


def test_captions_without_words():
    with pytest.raises(UserError, match=r"captions: no train caption has a word"):
        Tokenizer.fit(["...", ""])
    with pytest.raises(ValueError, match="the vocabulary is empty"):
        Tokenizer([])


WORDS = ("", "[UNK]", "dog", "cat", "sofa", "at")
GLOVE = "the 1 1\ndog 0.5 -2\nat name@domain.com 7 7\n. . . 3 3\ncat 1.5e0 4\ndog 9 9\nat 1 1\n"


def test_glove_by_hand(tmp_path, caplog):
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE)
    counts = np.array([100, 3, 6, 2, 4, 5])  # padding does not count; 3 unknown, dog 6, cat 2, sofa 4, at 5
    with caplog.at_level(logging.INFO):
        matrix, coverage = load_glove(path, WORDS, counts)
    with gzip.open(tmp_path / "glove.txt.gz", "wb") as file:
        file.write(GLOVE.encode())
    np.testing.assert_array_equal(load_glove(tmp_path / "glove.txt.gz", WORDS)[0], matrix)
    assert matrix.dtype == np.float32
    mean = [1.0, 1.0]  # of dog (0.5, -2), cat (1.5, 4), at (1, 1)
    np.testing.assert_array_equal(matrix, [[0, 0], mean, [0.5, -2], [1.5, 4], mean, [1, 1]])
    assert (coverage.found, coverage.total, coverage.missing) == (3, 4, ("sofa",))
    assert coverage.token_share == pytest.approx(13 / 20)
    assert "2-d vectors for 3 of 4 words (75.0%), 65.0% of the caption tokens" in caplog.text
    assert "share one; the most frequent: sofa" in caplog.text
    assert load_glove(path, WORDS)[1].token_share is None


@pytest.mark.parametrize(
    "text", ["2 3\ndog 1 2 3\ncat 4 5 6\n", "dog 1 2 3 \r\ncat 4 5 6\r\n\n", "dog 1 2 3\ncat 4 5 6"]
)
def test_glove_header_line_ends_and_any_dimension(tmp_path, text):
    path = tmp_path / "glove.txt"
    path.write_bytes(text.encode())
    matrix, coverage = load_glove(path, ("", "[UNK]", "cat", "dog"))
    np.testing.assert_array_equal(matrix[2:], [[4, 5, 6], [1, 2, 3]])
    assert coverage.missing == ()


def test_glove_words_outside_ascii(tmp_path):
    (tmp_path / "glove.txt").write_bytes("caf\u00e9 1 2\n\u00a0 3 4\nx\u2028y 5 6\n".encode())
    matrix, _ = load_glove(tmp_path / "glove.txt", ("", "[UNK]", "café"))
    np.testing.assert_array_equal(matrix[2], [1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2\ndog 1\n", ":2: 'dog 1'... is not a token and 2 numbers"),
        ("the 1 2\nzebra 1\n", ":2: "),  # lines of other words are counted, too: a cut-off download
        ("the 1 2\ndog 1 x\n", ":2: "),
        ("the 1 2\ndog 1 nan\n", ":2: "),
        ("the 1 2\ndog 1 2 3\n", ":2: "),
        ("the 1 2\ndog  1 2\n", ":2: "),
        ("PK\x03\x04 junk\n", ": is a zip archive; unpack it"),
        ("2 3\ndog \x00\x01\x02 \n", ": is word2vec's binary format; convert it"),
        ("\ndog\n", ":2: 'dog'... is not a token and its numbers"),
        ("zebra 1 2\n", ": has none of the 4 words"),
        ("", ": has none of the 4 words"),
    ],
)
def test_malformed_glove(tmp_path, text, message):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"glove.txt{message}"):
        load_glove(path, WORDS)


def test_a_compressed_glove_file_that_is_cut(tmp_path):
    (tmp_path / "glove.gz").write_bytes(gzip.compress(GLOVE.encode())[:-12])
    with pytest.raises(UserError, match=r"glove.gz: can't be read \(.*; give a GloVe text file"):
        load_glove(tmp_path / "glove.gz", WORDS)


def test_glove_absent(tmp_path):
    for path in (tmp_path / "glove.txt", tmp_path):
        with pytest.raises(UserError, match=r"(no such file|is a folder); give a GloVe text file"):
            load_glove(path, WORDS)


@pytest.mark.parametrize("progress", [True, False])
def test_a_large_glove_file_has_a_bar_unless_it_is_not_wanted(tmp_path, monkeypatch, capsys, progress):
    monkeypatch.setattr("bssan_tf.datasets.text._LARGE", 0)
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE)
    load_glove(path, WORDS, progress=progress)
    assert ("GloVe" in capsys.readouterr().err) is progress


def test_glove_is_read_as_a_stream(tmp_path):
    """A file of 12 MB of which two words are needed takes no more than 1 MB of memory."""
    path = tmp_path / "glove.txt"
    numbers = " 0.12345" * 300
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"word{i}{numbers}\n" for i in range(5000))
    tracemalloc.start()
    matrix, coverage = load_glove(path, ("", "[UNK]", "word7", "word4999"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (matrix.shape, coverage.found) == ((4, 300), 2)
    assert path.stat().st_size > 12e6
    assert peak < 1e6


def test_real_captions_and_glove(shared_data):
    corpus = load_corpus("flickr8k", root=shared_data / "flickr8k", allow_partial=True)
    train, val = corpus.split("train"), corpus.split("val")
    tokenizer = Tokenizer.fit(train.captions)
    counts = Counter(word for caption in train.captions for word in split_words(caption))
    assert list(tokenizer.words[2:]) == [w for w, _ in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    tokens = tokenizer(train.captions)
    assert (tokens[:, 0] > UNKNOWN).all()  # every train word is known, every caption has one
    assert (tokenizer(val.captions) == UNKNOWN).any()  # words that only val has are not
    words = [tokenizer.words[i] for i in tokens[123] if i]
    assert words == tokenizer.words_of(train.captions[123])

    path = shared_data / "glove" / "glove.6B.50d.txt"
    matrix, coverage = load_glove(path, tokenizer.words, np.bincount(tokens.ravel(), minlength=len(tokenizer.words)))
    lines = [line.split(" ") for line in path.read_text(encoding="utf-8").split("\n") if line]
    table = {line[0]: np.array(line[1:], np.float32) for line in lines}
    known = [word in table for word in tokenizer.words]
    assert coverage.found == sum(known)
    assert coverage.missing == tuple(w for w, k in zip(tokenizer.words[2:], known[2:]) if not k)
    np.testing.assert_array_equal(matrix[known], [table[w] for w in tokenizer.words if w in table])
    others = matrix[1:][~np.array(known[1:])]
    assert len(np.unique(others, axis=0)) == 1
    np.testing.assert_allclose(others[0], np.mean([table[w] for w in tokenizer.words if w in table], 0), atol=1e-5)
    assert not matrix[PAD].any()
    in_table = sum(counts[w] for w in counts if w in table) / sum(counts.values())
    assert coverage.token_share == pytest.approx(in_table, abs=1e-3)  # a few captions are cut to 30 tokens
    assert coverage.token_share > 0.99


@pytest.mark.large
def test_words_are_the_same_under_a_turkish_locale(project):
    """TensorFlow lowers capitals by the process's locale."""
    code = """
from bssan_tf.datasets.text import Tokenizer
tokenizer, texts = Tokenizer.fit(["title istanbul i", "İzmir ılık"]), ["TITLE ISTANBUL I", "İZMİR ILIK Ilık"]
print([tokenizer.layer(texts).numpy()[:, :3].tolist(), tokenizer(texts).tolist()])
"""
    environment = {**os.environ, "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    graph, python = json.loads(done.stdout.strip().splitlines()[-1])
    assert graph == [row[:3] for row in python]
    assert 1 not in graph[0]


def test_a_glove_file_with_a_mark_of_utf_8(tmp_path):
    (tmp_path / "g.txt").write_bytes(b"\xef\xbb\xbfdog 1.0 2.0\ncat 3.0 4.0\n")
    matrix, coverage = load_glove(tmp_path / "g.txt", ["", "[UNK]", "dog", "cat"], progress=False)
    assert coverage.found == 2
    np.testing.assert_array_equal(matrix[2], [1, 2])


def test_a_sentence_that_is_cut_is_told(caplog):
    tokenizer = Tokenizer.fit(["a dog runs"], 2)
    assert tokenizer.read_sentence("a dog runs", "query").shape == (1, 2)
    assert "query: the first 2 of its 3 words are read" in caplog.text
