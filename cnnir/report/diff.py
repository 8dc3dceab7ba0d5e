"""Two graphs side by side: which nodes they share, which differ, and by how much their values do.

Nodes are aligned in the order they run: by op, attributes and types, or, where the graphs are two
states of one, by being the same node. What lies between aligned nodes is paired by source nodes, a
fused node with the last of those that went into it; the rest was removed or added. Values are those
of one set of random inputs, in f64.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from cnnir.errors import Error
from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node, Value
from cnnir.report.table import Column, number, table
from cnnir.tensortype import DTYPES, is_float
from cnnir.verify import random_inputs, relative_difference


@dataclass(frozen=True, slots=True)
class Pair:
    """A node of one graph beside one of the other; None where there is none."""

    left: Node | None
    right: Node | None

    @property
    def status(self) -> str:
        """same, changed, removed or added."""
        if self.left is None or self.right is None:
            return "added" if self.left is None else "removed"
        return "same" if _signature(self.left) == _signature(self.right) else "changed"


def pairs(left: Graph, right: Graph) -> list[Pair]:
    """The op nodes of both graphs, aligned, in order."""
    a, b = ([n for n in g.order() if n.op is not None] for g in (left, right))
    kept = {n.serial for n in a} & {n.serial for n in b}

    def key(node: Node) -> Hashable:
        return node.serial if node.serial in kept else _signature(node)

    aligned = difflib.SequenceMatcher(None, [*map(key, a)], [*map(key, b)], autojunk=False)
    found: list[Pair] = []
    for tag, i, j, k, m in aligned.get_opcodes():
        if tag == "equal":
            found += [Pair(x, y) for x, y in zip(a[i:j], b[k:m], strict=True)]
        else:
            found += _paired(a[i:j], b[k:m])
    return found


def _paired(left: Sequence[Node], right: Sequence[Node]) -> Iterator[Pair]:
    """Nodes that do not align: each of the right with the one whose result it took over, if any."""
    start = 0
    for node in right:
        partner = _partner(left[start:], node)
        if partner is None:
            yield Pair(None, node)
            continue
        yield from (Pair(gone, None) for gone in left[start : start + partner])
        yield Pair(left[start + partner], node)
        start += partner + 1
    yield from (Pair(gone, None) for gone in left[start:])


def _partner(left: Sequence[Node], node: Node) -> int | None:
    """The last node of the same result type whose sources are all among this one's; or else one of
    the same op that shares a source."""
    types, sources = [v.type for v in node.results], {*node.sources}
    found = None
    for position, other in enumerate(left):
        own = {*other.sources}
        if own and own <= sources and [v.type for v in other.results] == types:
            found = position
    if found is not None:
        return found
    alike = (i for i, n in enumerate(left) if n.name == node.name and {*n.sources} & sources)
    return next(alike, None)


def _signature(node: Node) -> Hashable:
    """All that a node is, without names of values."""
    operands = tuple(v and str(v.type) for v in node.operands)
    attrs = tuple(
        (key, value.text(hints=False) if isinstance(value, Graph) else repr(value))
        for key, value in sorted(node.attrs.items())
    )
    return node.name, operands, attrs


# ---------------------------------------------------------------- values


def _values(graph: Graph, feeds: list[np.ndarray]) -> dict[Value, np.ndarray]:
    """All values of a graph in f64."""
    known: dict[Value, np.ndarray] = {}
    inputs = dict(zip(graph.inputs, feeds, strict=True))
    for node in graph.order():
        if node.op is None:
            value = node.results[0]
            array = inputs[value] if value in inputs else graph.params[node.attrs["ref"]]
            wide = DTYPES["f64"] if is_float(value.type.dtype) else array.dtype
            known[value] = array.astype(wide, copy=False)
        else:
            given = [None if v is None else known[v] for v in node.operands]
            known.update(zip(node.results, evaluate_node(node, given, "f64"), strict=True))
    return known


def _differences(left: Graph, right: Graph, found: Sequence[Pair]) -> dict[Pair, float]:
    """By how much the results of paired nodes differ, for inputs that both graphs take."""
    if [v.type for v in left.inputs] != [v.type for v in right.inputs]:
        return {}
    feeds = random_inputs(left)
    try:
        a, b = _values(left, feeds), _values(right, feeds)
    except Error:
        return {}  # random data is not for every model
    measured: dict[Pair, float] = {}
    for pair in found:
        if pair.left is None or pair.right is None:
            continue
        results = list(zip(pair.left.results, pair.right.results, strict=False))
        if all(x.type.shape == y.type.shape for x, y in results):
            measured[pair] = max(relative_difference(a[x], b[y]) for x, y in results)
    return measured


def _weights(left: Graph, right: Graph, pair: Pair) -> float | None:
    """By how much the params that both nodes read differ; None without any of equal shape."""
    if pair.left is None or pair.right is None:
        return None
    worst = None
    for x, y in zip(pair.left.operands, pair.right.operands, strict=False):
        a, b = left.array(x), right.array(y)
        if a is not None and b is not None and a.shape == b.shape:
            worst = max(worst or 0.0, 0.0 if a is b else relative_difference(a, b))
    return worst


# ---------------------------------------------------------------- rows


def diff_rows(left: Graph, right: Graph, values: bool = True) -> list[dict[str, Any]]:
    """A row a pair of nodes, in order; then one an output, paired by position."""
    found = pairs(left, right)
    measured = _differences(left, right, found) if values else {}
    names = [_names(g) for g in (left, right)]
    return [
        {
            "status": pair.status,
            "left": names[0].get(pair.left, "") if pair.left else "",
            "right": names[1].get(pair.right, "") if pair.right else "",
            "left_sources": list(pair.left.sources) if pair.left else [],
            "right_sources": list(pair.right.sources) if pair.right else [],
            "weights": _weights(left, right, pair),
            "difference": measured.get(pair),
        }
        for pair in found
    ]


def _names(graph: Graph) -> dict[Node, str]:
    """Each op node as its lines in the text of the graph."""
    lines, shown = graph.text().splitlines(), {}
    nodes = iter([n for n in graph.order() if n.op is not None])
    body: list[str] = []
    for line in lines[1:]:
        if body or line.startswith("  %"):
            body.append(line[2:])
            if (len(body) == 1 and line.endswith("{")) or line.startswith("    "):
                continue
            shown[next(nodes)] = "\n".join(body)
            body = []
    return shown


def diff_table(title: str, rows: Sequence[dict[str, Any]], context: int = 1) -> Table:
    """The rows that differ, each with a few before and after it; `...` stands for the others."""
    differing = {i for i, row in enumerate(rows) if differs(row)}
    near = {k for i in differing for k in range(i - context, i + context + 1)}
    shown: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        if index in near:
            shown.append(row)
        elif not shown or shown[-1].get("left") != "...":
            shown.append({"left": "...", "right": "..."})
    columns = [
        Column(
            "status", "", {"same": "", "changed": "~", "removed": "-", "added": "+"}.__getitem__
        ),
        Column("left", "left", wrap=True),
        Column("right", "right", wrap=True),
        number("weights", "weights", _small),
        number("difference", "values", _small),
    ]
    counts = {s: sum(row["status"] == s for row in rows) for s in ("changed", "removed", "added")}
    footer = ", ".join(f"{count} {status}" for status, count in counts.items())
    same = len(rows) - sum(counts.values())
    return table(title, columns, shown, f"{same} nodes the same, {footer}")


def differs(row: dict[str, Any]) -> bool:
    """Whether a row is more than two equal nodes with equal weights and, nearly, values."""
    return row["status"] != "same" or bool(row["weights"]) or (row["difference"] or 0.0) > 1e-6


def _small(value: float) -> str:
    return f"{value:.1e}" if value else "="
