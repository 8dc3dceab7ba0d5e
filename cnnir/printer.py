"""Prints a graph as text: the canonical form that `text.parse` reads back.

Beneath `ir`, which calls it for `Graph.text`; it only reads what it is given.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any


def graph_text(graph: Any, hints: bool) -> str:
    """The text form of a Graph; without hints all names are numbers."""
    return "\n".join(_Printer(graph, hints).lines())


def graph_names(graph: Any) -> dict[Any, str]:
    """What the text form calls each value: `%y`, `@conv1.w`."""
    printer = _Printer(graph, hints=True)
    for _ in printer.lines():
        pass
    return printer.names


class _Printer:
    """Prints one graph: params in order of first use, then nodes in `order()`."""

    def __init__(self, graph: Any, hints: bool, indent: str = "") -> None:
        self.graph, self.hints, self.indent = graph, hints, indent
        self.names: dict[Any, str] = {}
        self.taken: set[str] = set()
        self.number = itertools.count()
        self.suffix: dict[str, int] = {}

    def lines(self) -> Iterator[str]:
        order = self.graph.order()
        name = _symbol(self.graph.name) if self.hints else "main"
        yield f"graph @{name}({self._header()}) {{"
        for number, node in enumerate(n for n in order if n.kind == "param"):
            shown = "@" + (_symbol(node.attrs["ref"]) if self.hints else str(number))
            self.names[node.results[0]] = shown
            yield f"  param {shown} : {node.results[0].type}"
        yield from self._body(order)

    def _header(self) -> str:
        return ", ".join(f"{self._define(v)}: {v.type}" for v in self.graph.inputs)

    def _body(self, order: list[Any]) -> Iterator[str]:
        pad = self.indent + "  "
        for node in order:
            if node.op is not None:
                yield from self._node(node, pad)
        outputs = ", ".join(self._reference(v) for v in self.graph.outputs)
        if self.indent:  # a body: its node's line closes it
            yield f"{pad}return {outputs}"
            return
        default = [(v.name or f"output{i}") for i, v in enumerate(self.graph.outputs)]
        named = self.hints and default != self.graph.output_names
        suffix = f" as {self.graph.output_names!r}" if named else ""
        suffix += f" trim {self.graph.trims!r}" if self.graph.trims else ""
        suffix += f" carry {self.graph.carried!r}" if self.graph.carried else ""
        yield f"{pad}return {outputs}{suffix}"
        yield "}"

    def _node(self, node: Any, pad: str) -> Iterator[str]:
        operands = ", ".join(self._reference(v) for v in node.operands)
        defaults = node.op.attributes if node.op else {}
        body = node.attrs.get("body")
        shown = {
            k: v
            for k, v in sorted(node.attrs.items())
            if not (k == "body" and hasattr(v, "order"))
            and not (k in defaults and type(defaults[k]) is type(v) and defaults[k] == v)
        }
        attrs = ", ".join(f"{k}={_literal(v)}" for k, v in shown.items())
        types = ", ".join(str(v.type) for v in node.results)
        results = ", ".join(self._define(v) for v in node.results)
        head = f"{pad}{results} = {node.name}({operands})" + (f" {{{attrs}}}" if attrs else "")
        if not hasattr(body, "order"):
            yield f"{head} : {types}"
            return
        inner = _Printer(body, self.hints, pad)
        yield f"{head} body({inner._header()}) {{"
        yield from inner._body(body.order())
        yield f"{pad}}} : {types}"

    def _reference(self, value: Any) -> str:
        return "none" if value is None else self.names[value]

    def _define(self, value: Any) -> str:
        name = base = _symbol(value.name) if self.hints and value.name else str(next(self.number))
        while name in self.taken:
            self.suffix[base] = self.suffix.get(base, 0) + 1
            name = f"{base}_{self.suffix[base]}"
        self.taken.add(name)
        self.names[value] = "%" + name
        return "%" + name


def _symbol(name: str) -> str:
    """A name as the text form may hold it: word characters, dots and tildes."""
    symbol = re.sub(r"[^\w.~]", "_", name, flags=re.ASCII) or "_"
    return f"v{symbol}" if symbol.isdigit() else symbol  # plain numbers are the unnamed values


def _literal(value: Any) -> str:
    """An attribute as `text.parse` reads it back; inf and nan are spelled as names."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)
