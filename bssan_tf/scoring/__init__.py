"""Exact scores of many pictures with many captions, with as few operations as they need."""

from bssan_tf.scoring.matrix import check_score_file, score_matrices, score_matrix
from bssan_tf.scoring.scorer import FastScorer

__all__ = ["FastScorer", "check_score_file", "score_matrices", "score_matrix"]
