"""What the benchmarks count and read, and whole runs of them on the smallest model."""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    alone,
    growth_chart,
    index_growth,
    operations,
    scoring,
    search,
    training,
    vector_indexes,
    workload,
)
from bssan_tf.config.settings import ModelConfig
from bssan_tf.errors import UserError
from bssan_tf.scoring.prefix_tree import PrefixTree

TABLE_1 = ModelConfig()


def test_one_pair_of_table_1():
    """Against sums by hand: products of a (m, k) by a (k, n) matrix are 2 m k n operations."""
    lstm = 2 * (512 + 300 + 1024) * 4 * 1024
    attention = 2 * 300 * 512 + 2 * 512 * 196 + 2 * 196 * 512
    mlp = 2 * (1024 * 1024 + 1024 * 512 + 512 * 128 + 128)
    assert operations.w2r_pair(TABLE_1, 30) == 30 * (lstm + attention) + mlp
    rows = 2 * ((4096 + 512) * 512 + 512 * 256 + 256 * 64 + 64)
    texts = 12 * 2 * 2 * (300 + 512) * 4 * 512
    pair = 10 * (2 * 4096 * 512 + 2 * 2 * 12 * 512 + rows)
    assert operations.o2w_pair(TABLE_1, 12) == texts + pair
    assert operations.o2w_pair(TABLE_1, 12, text=False) == pair


def test_a_tree_needs_what_its_nodes_need():
    tokens = np.array([[3, 4, 5], [3, 4, 6], [7, 0, 0], [3, 4, 5]], np.int32)
    word = 2 * 2 * 196 * 512 + 2 * 512 * 4096
    mlp = 2 * (1024 * 1024 + 1024 * 512 + 512 * 128 + 128)
    # words 3, 4, 5, 6, 7; nodes 3 4, 3 4 5, 3 4 6 behind the first words; three distinct captions
    assert operations.w2r_tree(TABLE_1, PrefixTree(tokens)) == 5 * word + 3 * 2 * 1024 * 4096 + 3 * mlp


def test_an_index_describes_only_what_is_new_or_has_changed(tmp_path):
    found = {name: described for name, (_, described) in index_growth.measure(tmp_path, 40).items()}
    assert found == {"first": 40, "nothing new": 0, "1 % new": 1, "1 % moved": 0, "1 % changed": 1, "1 % gone": 0}


@pytest.mark.parametrize("name", ["faiss, all", "faiss, all, 8 bits"])
def test_a_vector_index_is_measured_against_all_products(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    values = dict(zip(vector_indexes.COLUMNS, vector_indexes.measure(vector_indexes.LIBRARIES[name], 2000)))
    assert 0.97 < values["found"] <= 1
    assert values["file_mb"] > 2000 * 128 / 2**20
    assert values["query_ms"] > 0 < values["add_s"]


def options(path, ids=None):
    return argparse.Namespace(captions=path, list=ids)


def test_captions_of_a_token_file_and_of_plain_lines(tmp_path):
    (tmp_path / "token").write_text("a.jpg#0\tA dog.\nb.jpg#0\tA cat.\na.jpg#1\tOne dog.\n")
    (tmp_path / "ids").write_text("a.jpg\n")
    (tmp_path / "plain").write_text("A dog.\nA cat.\n")
    assert workload.read_captions(options(tmp_path / "token")) == ("A dog.", "A cat.", "One dog.")
    assert workload.read_captions(options(tmp_path / "token", tmp_path / "ids")) == ("A dog.", "One dog.")
    assert workload.read_captions(options(tmp_path / "plain")) == ("A dog.", "A cat.")
    with pytest.raises(UserError, match="none: No such file"):
        workload.read_captions(options(tmp_path / "none"))


def test_captions_of_scenes_by_default():
    captions = workload.read_captions(options(None))
    assert len(captions) == 2000
    assert len(set(captions)) > 1000


def test_drawn_features_are_mapped_and_sparse(tmp_path):
    config = workload.model_config(argparse.Namespace(preset="improved", size="tiny"))
    arrays = workload.draw_features(config, 3, Path(tmp_path))
    assert arrays["regions"].shape == (3, 196, 512)
    assert isinstance(arrays["regions"], np.memmap)
    assert 0.03 < (arrays["regions"] > 0).mean() < 0.12


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """Of a run on a few short captions; the rate of products is measured on smaller ones."""
    monkeypatch.setattr(workload, "gemm_rate", partial(workload.gemm_rate, rows=512, size=256, repeats=3))
    captions = [f"a {a} {b} {c}" for a in ("red", "blue") for b in ("dog", "cat") for c in map(str, range(16))]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    return ["--size", "tiny", "--captions", str(tmp_path / "captions.txt"), "--json", str(tmp_path / "numbers.json")]


def numbers(main, flags):
    """What a benchmark writes for these flags."""
    main(flags)
    return json.loads(Path(flags[flags.index("--json") + 1]).read_text())


@pytest.mark.large
def test_scoring_against_keras(flags, capsys):
    flags += ["--images", "2", "--naive-batches", "16", "32", "--checked", "48", "--only", "comparison"]
    found = numbers(scoring.main, flags)
    assert (found["captions"], found["distinct_words"], found["tokens"], found["tree_nodes"]) == (64, 21, 256, 71)
    assert found["ratio"] == pytest.approx(found["fast_pairs_per_s"] / found["naive_pairs_per_s"])
    assert found["naive_batch"] in (16, 32)
    assert 0 < found["max_abs_diff"] < 1e-4
    assert 0 < found["gemm_fraction"] < 1
    assert 0 < found["peak_mb"] < found["memory_budget_mb"] == 2048
    assert "max_abs_diff" in capsys.readouterr().out


def test_growth_of_scoring(flags, monkeypatch):
    def started(folder, options, tokens, vocabulary, images, **changes):
        (length,) = set((tokens != 0).sum(axis=1))
        return dict(zip("icln", map(float, (images, len(tokens), length, changes.get("H", 128)))))

    monkeypatch.setattr(alone, "start", started)
    rows = numbers(scoring.main, [*flags, "--images", "8", "--only", "growth"])["growth"]
    shapes = {
        name: [[row[letter] for letter in "icln"] for row in rows if name in row]
        for name in ("images", "captions", "length", "H")
    }
    assert shapes == {
        "images": [[2, 16, 4, 128], [4, 16, 4, 128], [8, 16, 4, 128]],
        "captions": [[2, 16, 4, 128], [2, 32, 4, 128], [2, 64, 4, 128]],
        "length": [[2, 12, 5, 128], [2, 6, 10, 128], [2, 3, 20, 128], [2, 2, 30, 128]],
        "H": [[2, 16, 4, 32], [2, 16, 4, 64], [2, 16, 4, 128]],
    }


def test_chart_of_growth(tmp_path):
    rows = [
        {name: n, "seconds": n / 2, "pairs_per_s": 10 / n, "peak_mb": 100 + n}
        for name in growth_chart.SERIES
        for n in (1, 2, 4)
    ]
    axes = growth_chart.growth_figure(rows, budget_mb=200).axes
    assert axes[0].lines[0].get_xydata().tolist() == [[1, 0.5], [2, 1], [4, 2]]  # seconds over pictures
    assert axes[2].lines[0].get_xydata().tolist() == [[1, 10], [2, 5], [4, 2.5]]  # pairs per second over words
    assert axes[4].lines[0].get_xydata().tolist() == [[1, 101], [2, 102], [4, 104]]
    (tmp_path / "n.json").write_text(json.dumps({"growth": rows, "memory_budget_mb": 200}))
    growth_chart.main([str(tmp_path / "n.json"), "-o", str(tmp_path / "growth.png")])
    assert (tmp_path / "growth.png").stat().st_size < 200_000
    (tmp_path / "n.json").write_text("{}")
    with pytest.raises(UserError, match="no growth in it"):
        growth_chart.main([str(tmp_path / "n.json")])


def test_ranking_of_two_stages():
    first, full = np.array([[5.0, 1.0, 4.0, 3.0, 2.0]]), np.array([[1.0, 9.0, 2.0, 3.0, 8.0]])
    order = np.argsort(-search.staged(first, full, 3), axis=1)
    np.testing.assert_array_equal(order, [[3, 2, 0, 4, 1]])  # 3, 2, 0 by the full score, the rest by the first
    np.testing.assert_array_equal(search.staged(first, full, 0), full)


@pytest.mark.large
def test_training_against_a_plain_loop(flags, capsys):
    found = numbers(training.main, [*flags, "--images", "16", "--batch-size", "8", "--steps", "2", "--rounds", "1"])
    assert found["batch_size"] == 8
    assert found["pairs_per_s"] > 0
    assert found["ratio"] == pytest.approx(found["pairs_per_s"] / found["straightforward_pairs_per_s"])
    assert 0 < found["gemm_fraction"] < 1
    assert 0 <= found["input_wait_fraction"] < 1
    assert "input_wait_fraction" in capsys.readouterr().out
