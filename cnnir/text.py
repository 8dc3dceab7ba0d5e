"""Reads the text form that `Graph.text` prints: `parse(str(g)).text() == str(g)`.

    graph  := "graph" "@"NAME "(" inputs ")" "{" param* node* return "}"
    inputs := ("%"NAME ":" type),*
    param  := "param" "@"NAME ":" type
    node   := "%"NAME,+ "=" OP "(" ref,* ")" ["{" (NAME "=" literal),* "}"] [body] ":" type,+
    body   := "body" "(" inputs ")" "{" node* "return" ref,+ "}"
    ref    := "%"NAME | "@"NAME | "none"
    return := "return" ref,+ ["as" literal] ["trim" literal] ["carry" literal]   comment := "//" ...

Param arrays are not in the text: they come from `params`, or are drawn at random.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np

from cnnir.errors import IRError, ParseError
from cnnir.ir import Graph, Value
from cnnir.tensortype import TensorType

_INPUT = re.compile(r"(%[\w.~]+): (\w+\[[\d,]*\])")
_REF = re.compile(r"[%@][\w.~]+|none")
_TYPE = re.compile(r"\w+\[[\d,]*\]")
_PARAM = re.compile(r"param (@[\w.~]+) : (\S+)")
_NODE = re.compile(
    r"(?P<results>%[^=]*) = (?P<op>\w+)\((?P<operands>[^()]*)\)(?: \{(?P<attrs>.*?)\})?"
    r"(?: body\((?P<inputs>.*)\) (?P<open>\{)| : (?P<types>.*))"
)
_RETURN = re.compile(
    rf"return (?P<refs>(?:{_REF.pattern})(?:, (?:{_REF.pattern}))*)"
    r"(?: as (?P<names>.*?))?(?: trim (?P<trims>\{[\d:(), ]*\}))?"
    r"(?: carry (?P<carried>\{[\d:, ]*\}))?"
)
_TRIM = re.compile(r"(\d+): \((\d+), (\d+)\)")
_CARRY = re.compile(r"(\d+): (\d+)")
_SPECIAL = {"inf": float("inf"), "nan": float("nan")}


def parse(text: str, params: dict[str, np.ndarray] | None = None, seed: int = 0) -> Graph:
    """The graph that `text` describes.

    `params` gives arrays by param name; those missing are drawn from a normal distribution with
    `seed` (integers from 0..7). Raises ParseError with the position and the line.
    """
    return _Reader(text, params or {}, np.random.default_rng(seed)).graph()


class _Reader:
    def __init__(self, text: str, params: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        numbered = enumerate(text.splitlines(), 1)
        stripped = ((number, line.split("//")[0].strip()) for number, line in numbered)
        self.lines = [(number, line) for number, line in stripped if line]
        self.position = 0
        self.params, self.rng = params, rng

    def graph(self) -> Graph:
        number, line = self._next()
        match = re.fullmatch(r"graph @([\w.~]+)\((.*)\) \{", line)
        if not match:
            raise ParseError("wanted `graph @name(inputs) {`", number, source=line)
        graph = Graph(match[1])
        names = self._inputs(graph, match[2])
        self._statements(graph, names)
        number, line = self._next()
        if line != "}" or self.position < len(self.lines):
            raise ParseError("wanted `}` and the end of the text", number, source=line)
        return graph

    def _next(self) -> tuple[int, str]:
        if self.position == len(self.lines):
            last = self.lines[-1][0] if self.lines else 1
            raise ParseError("the text ends too early", last)
        self.position += 1
        return self.lines[self.position - 1]

    def _inputs(self, graph: Graph, text: str) -> dict[str, Value | None]:
        names: dict[str, Value | None] = {"none": None}
        for name, type in _INPUT.findall(text):
            names[name] = graph.input(TensorType.parse(type), name[1:])
        return names

    def _statements(self, graph: Graph, names: dict[str, Value | None]) -> None:
        """Params and nodes up to and with the return."""
        while True:
            number, line = self._next()
            try:
                if line.startswith("return "):
                    self._return(graph, names, line)
                    return
                if match := _PARAM.fullmatch(line):
                    names[match[1]] = self._param(graph, match[1][1:], TensorType.parse(match[2]))
                elif match := _NODE.fullmatch(line):
                    self._node(graph, names, match)
                else:
                    raise IRError("wanted a param, a node or a return")
            except ParseError:
                raise
            except (IRError, SyntaxError, ValueError) as error:
                raise ParseError(str(error), number, source=line) from None

    def _param(self, graph: Graph, name: str, type: TensorType) -> Value:
        array = self.params.get(name)
        if array is None:
            if type.dtype[0] in "iub":
                array = self.rng.integers(0, 8, type.shape).astype(type.numpy)
            else:
                array = self.rng.standard_normal(type.shape).astype(type.numpy)
        if TensorType.of(array) != type:
            raise IRError(f"param {name}: written {type}, given {TensorType.of(array)}")
        return graph.param(name, array)

    def _node(self, graph: Graph, names: dict[str, Value | None], match: re.Match[str]) -> None:
        attrs = _attributes(match["attrs"] or "")
        types = match["types"]
        if match["open"]:
            body = Graph("body")
            self._statements(body, self._inputs(body, match["inputs"]))
            number, line = self._next()
            if not line.startswith("} : "):
                raise ParseError("wanted `} : types` after a body", number, source=line)
            attrs["body"], types = body, line[4:]
        operands = [self._look(names, ref) for ref in _REF.findall(match["operands"])]
        added = graph.add(match["op"], *operands, **attrs)
        results = added if isinstance(added, tuple) else (added,)
        if [str(v.type) for v in results] != _TYPE.findall(types):
            inferred = ", ".join(str(v.type) for v in results)
            raise IRError(f"written {types}, inferred {inferred}")
        for name, value in zip(match["results"].split(", "), results, strict=True):
            if name in names:
                raise IRError(f"{name} is defined twice")
            names[name] = value
            value.name = None if name[1:].isdigit() else name[1:]

    def _return(self, graph: Graph, names: dict[str, Value | None], line: str) -> None:
        match = _RETURN.fullmatch(line)
        if not match:
            raise IRError(
                "wanted `return refs as [names] trim {output: (length, axis)} "
                "carry {output: input}`"
            )
        written = match["names"]
        values = [self._look(names, ref) for ref in _REF.findall(match["refs"])]
        default = [(v and v.name) or f"output{i}" for i, v in enumerate(values)]
        output_names = ast.literal_eval(written) if written else default
        for value, name in zip(values, output_names, strict=True):
            if value is None:
                raise IRError("`none` cannot be returned")
            graph.output(value, name)
        for trim in _TRIM.findall(match["trims"] or ""):
            graph.trim(*map(int, trim))
        for carry in _CARRY.findall(match["carried"] or ""):
            graph.carry(*map(int, carry))

    @staticmethod
    def _look(names: dict[str, Value | None], ref: str) -> Value | None:
        if ref not in names:
            raise IRError(f"{ref} is not defined above")
        return names[ref]


def _attributes(text: str) -> dict[str, Any]:
    """`a=1, b=(2, inf)` as a dict of plain Python values."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(k.arg): _literal(k.value) for k in call.keywords}


def _literal(node: ast.expr) -> Any:
    """`ast.literal_eval` that also knows the names inf and nan."""
    match node:
        case ast.Name(id=name) if name in _SPECIAL:
            return _SPECIAL[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if name in _SPECIAL:
            return -_SPECIAL[name]
        case ast.Tuple(elts=elements):
            return tuple(_literal(e) for e in elements)
        case _:
            return ast.literal_eval(node)
