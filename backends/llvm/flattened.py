"""Images flattened for dense layers: where these can read blocks of channels, nothing is copied.

A row of a matrix product may be read in any order, if constant weights are packed in that order. So
a reshape from [N,C,*sizes] to [N,K] need not make rows where all who read it are such products.
"""

from __future__ import annotations

from cnnir.backends.fused import anchor_of, epilogue_inputs, outer_values
from cnnir.ir import Graph, Node, Value


def read_in_blocks(graph: Graph, node: Node) -> bool:
    """Whether a node flattens images, and all who read the result are dense layers."""
    if node.name != "reshape" or graph.is_output(node.results[0]):
        return False
    images, rows = node.operands[0], node.results[0]
    if images is None or images.type.rank < 3 or not rows.type.size:
        return False
    flat = (images.type.shape[0], rows.type.size // images.type.shape[0])
    return rows.type.shape == flat and all(_dense(graph, n, rows) for n in graph.nx.succ[node])


def _dense(graph: Graph, node: Node, rows: Value) -> bool:
    """Whether a node is a product of these rows and a constant matrix, which alone reads them."""
    anchor, outer = anchor_of(node), outer_values(node)
    operands = [outer.get(v) or v for v in anchor.operands if v is not None]
    if anchor.name != "matmul" or operands[0] is not rows:
        return False
    values = (*operands, *anchor.results, *node.results)
    if any(v.type.dtype != "f32" or not v.type.size for v in values):
        return False
    once = node.operands.count(rows) == 1
    alone = once and node.operands.index(rows) not in epilogue_inputs(node, anchor)
    weights = graph.array(operands[1])
    return alone and weights is not None and weights.ndim == 2
