"""The reference meaning of a graph: every node by its op's `evaluate`, in numpy.

This is the oracle that backends and passes are checked against. With `dtype="f64"` all floating
values are carried in f64 whatever their declared type, so that what remains of a difference is
rounding on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnir.errors import Error, InputError, RuntimeError
from cnnir.ir import Graph, Node, Value
from cnnir.tensortype import DTYPES, is_float

Feeds = Mapping[str, np.ndarray] | Sequence[np.ndarray]


def evaluate(graph: Graph, feeds: Feeds = (), dtype: str | None = None) -> list[np.ndarray]:
    """The outputs of `graph` for the inputs given by name or in order.

    They come as the graph has them: `trimmed` cuts them, as an Executable does, to their lengths.

    Raises InputError for missing or unknown inputs, RuntimeError (naming the node) for data that
    an op cannot work on.
    """
    values: dict[Value, np.ndarray] = {}
    for value, array in zip(graph.inputs, _in_order(graph, feeds), strict=True):
        values[value] = _carried(np.asarray(array), value.type.dtype, dtype)
    remaining = _use_counts(graph)
    for node in graph.order():
        if node.kind == "param":
            value = node.results[0]
            values[value] = _carried(graph.params[node.attrs["ref"]], value.type.dtype, dtype)
        elif node.op is not None:
            arrays = [None if v is None else values[v] for v in node.operands]
            values.update(zip(node.results, evaluate_node(node, arrays, dtype), strict=True))
            _forget(node, remaining, values)
    return [values[v] for v in graph.outputs]


def trimmed(graph: Graph, results: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Raw outputs by name, cut to the lengths that the graph gives them; those are left out."""
    return graph.signature().trimmed(results)


def evaluate_node(
    node: Node, arrays: Sequence[np.ndarray | None], dtype: str | None = None
) -> tuple[np.ndarray, ...]:
    """The results of one node for its operands' arrays, rounded once to the declared types."""
    assert node.op is not None
    wide = [a if a is None else _widened(a) for a in arrays]
    try:
        if isinstance(body := node.attrs.get("body"), Graph):
            results: Any = tuple(evaluate(body, [a for a in arrays if a is not None], dtype))
        else:
            with np.errstate(all="ignore"):
                results = node.op.evaluate(*wide, **_attributes(node, dtype))
    except Error as error:
        if node.sources and not isinstance(error, InputError):
            raise RuntimeError(f"node {', '.join(node.sources)}: {error}") from None
        raise
    results = results if isinstance(results, tuple) else (results,)
    return tuple(
        _carried(np.asarray(r), v.type.dtype, dtype)
        for r, v in zip(results, node.results, strict=True)
    )


def _attributes(node: Node, dtype: str | None) -> dict[str, Any]:
    """A cast to a float type must not round when everything is carried in f64."""
    if dtype and node.name == "cast" and is_float(node.attrs["dtype"]):
        return node.attrs | {"dtype": dtype}
    return node.attrs


def _in_order(graph: Graph, feeds: Feeds) -> list[np.ndarray]:
    if not isinstance(feeds, Mapping):
        if len(feeds) != len(graph.inputs):
            raise InputError(f"{len(feeds)} inputs given, wanted {len(graph.inputs)}")
        return list(feeds)
    names = [v.name or "" for v in graph.inputs]
    if set(names) != set(feeds):
        raise InputError(f"inputs {sorted(feeds)} given, wanted {sorted(names)}")
    return [feeds[name] for name in names]


def _widened(array: np.ndarray) -> np.ndarray:
    """16-bit floats are computed in f32."""
    wide = DTYPES["f32"] if array.dtype in (DTYPES["f16"], DTYPES["bf16"]) else array.dtype
    return array.astype(wide, copy=False)


def _carried(array: np.ndarray, declared: str, dtype: str | None) -> np.ndarray:
    """The array in its declared type, or in `dtype` where that is a float type."""
    carried = dtype if dtype and is_float(declared) else declared
    with np.errstate(all="ignore"):  # what overflows the type is infinite
        return array.astype(DTYPES[carried], copy=False)


def _use_counts(graph: Graph) -> dict[Value, int]:
    counts: dict[Value, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.order():
        for value in node.operands:
            if value is not None:
                counts[value] = counts.get(value, 0) + 1
    return counts


def _forget(node: Node, remaining: dict[Value, int], values: dict[Value, np.ndarray]) -> None:
    """Free what nothing needs any more, so that large models fit in memory."""
    for value in node.operands:
        if value is not None:
            remaining[value] -= 1
            if not remaining[value]:
                values.pop(value, None)
