"""Exact scores of many pictures with many captions, with as few operations as they need."""

from bssan_tf.scoring.matrix import score_matrices
from bssan_tf.scoring.scorer import FastScorer

__all__ = ["FastScorer", "score_matrices"]
