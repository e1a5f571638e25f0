"""Regularised CCA: the baseline, and what a model starts from."""
