"""The operations that the benchmarks count, and the captions that they read."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import operations, workload
from bssan_tf.config import ModelConfig
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
