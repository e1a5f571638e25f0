"""Graphs that are traced once for any shape."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf


def traced(function: Callable) -> Callable:
    """`function` as a graph whose tensors may have any sizes; one for each structure of its arguments and their ranks.

    `tf.function` makes a first graph for the very shapes of the first call, and another one later. The two can round
    differently, so that scores would depend on what was scored before them in the same process. `function` takes
    tensors, nested tuples and lists of them, or None, by position, and has no `if` or `for` over them: AutoGraph, which
    would rewrite them, takes a second of every start.
    """
    graphs: dict = {}

    @functools.wraps(function)
    def call(*arguments):
        flat = [None if x is None else tf.convert_to_tensor(x) for x in tf.nest.flatten(arguments)]
        tensors = [x for x in flat if x is not None]
        key = tuple(None if x is None else (x.dtype, len(x.shape)) for x in flat)
        if key not in graphs:

            def from_tensors(*tensors):
                left = iter(tensors)
                filled = [None if x is None else next(left) for x in flat]
                return function(*tf.nest.pack_sequence_as(arguments, filled))

            specs = [tf.TensorSpec([None] * len(x.shape), x.dtype) for x in tensors]
            graph = tf.function(from_tensors, input_signature=specs, autograph=False)
            graphs[key] = graph.get_concrete_function()
        return graphs[key](*tensors)

    return call
