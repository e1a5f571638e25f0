"""What is in a graph of TensorFlow."""


def products(graph_def):
    """Names of the operations of a graph and its functions that multiply arrays of four or more axes, or unknown."""
    nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
    shapes = [(node.name, node.attr["_output_shapes"].list.shape[0]) for node in nodes if "MatMul" in node.op]
    assert shapes, "no product at all"
    return [name for name, shape in shapes if shape.unknown_rank or len(shape.dim) > 3]
