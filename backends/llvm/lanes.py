"""Which nodes work lane by lane on blocks of channels, and which slices are made of blocks."""

from __future__ import annotations

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise


def first_block(node: Node, lanes: int) -> int | None:
    """The block of channels with which a slice begins; None for one that is not made of blocks.

    Behind its end there may be other channels in its last block, where pad lanes would be.
    """
    shape = _shape(node, 0)
    if len(shape) < 2 or any(step != 1 for step in node.attrs["steps"]):
        return None
    start, size = node.attrs["starts"][1], node.attrs["sizes"][1]
    others = all(node.attrs["sizes"][k] == shape[k] for k in range(len(shape)) if k != 1)
    return start // lanes if others and start % lanes == 0 and size else None


def channels_come_second(node: Node) -> bool:
    """Whether a transposition moves the last axis to the place of channels.

    What lay side by side then becomes lanes: a copy of vectors, where a row-major result would be
    gathered, and packed once more for any kernel that wants blocks.
    """
    return node.name == "transpose" and node.attrs["perm"][1] == len(node.attrs["perm"]) - 1


def keeps_lanes(node: Node, lanes: int) -> bool:
    """Whether every result channel comes from the same channel of the operands (or from all)."""
    body = node.attrs.get("body")
    inner = [n for n in body.order() if n.op] if isinstance(body, Graph) else [node]
    return all(_keeps_lanes(n, lanes) for n in inner)


def _keeps_lanes(node: Node, lanes: int) -> bool:
    assert node.op is not None
    attrs, rank = node.attrs, node.results[0].type.rank
    if issubclass(node.op, Elementwise) or node.name in _WINDOWS:
        return True
    match node.name:
        case "reduce_sum" | "reduce_mean" | "reduce_max" | "reduce_min" | "reduce_prod":
            return attrs["keepdims"] and min(attrs["axes"], default=2) >= 2
        case "resize":
            return _shape(node, 0)[:2] == node.results[0].type.shape[:2]
        case "pad":
            return not any(attrs["padding"][i] for i in (0, 1, rank, rank + 1))
        case "slice":
            return _shape(node, 0)[1] == node.results[0].type.shape[1] and attrs["steps"][1] == 1
        case "concat":
            sizes = [_shape(node, i)[1] for i in range(len(node.operands))]
            return attrs["axis"] != 1 or not any(size % lanes for size in sizes[:-1])
    return False


_WINDOWS = ("max_pool", "avg_pool", "lp_pool", "conv", "conv_transpose", "lrn")


def _shape(node: Node, position: int) -> tuple[int, ...]:
    return _operand(node, position).type.shape


def _operand(node: Node, position: int) -> Value:
    value = node.operands[position]
    assert value is not None
    return value
