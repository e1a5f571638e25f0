import numpy as np
import tensorflow as tf

from bssan_tf.scoring.tracing import traced


def test_one_graph_for_all_shapes():
    traces = []

    @traced
    def add(x, pair):
        traces.append(x.shape)
        a, b = pair
        return x + a if b is None else x + a * b

    for n in (2, 3, 5):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(add(x, (tf.ones(n), None)), x + 1)
    assert [shape.as_list() for shape in traces] == [[None]]
    np.testing.assert_array_equal(add(x, (tf.ones(5), tf.fill([5], 2.0))), x + 2)  # another structure
    np.testing.assert_array_equal(add(x[None], (tf.ones(5), None)), x[None] + 1)  # another rank
    assert len(traces) == 3
