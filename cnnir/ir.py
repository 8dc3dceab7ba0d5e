"""The dataflow IR: Value, Node and Graph, with its verifier.

`Graph` holds an `nx.DiGraph` whose nodes are `Node` objects; an edge u -> v means "v uses u" and
carries no data. Operand order lives in `Node.operands`. Only `Graph` writes the DiGraph; reading
it (`graph.nx`) with any networkx algorithm is welcome. `printer.py` prints and `text.py` parses the
text form; the meaning of a graph is `evaluate.py`.

`verify` asserts: operands and edges agree; every operand, input and output belongs to the graph;
stored types are what `infer` says; param arrays have their stated types; there is no cycle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import networkx as nx
import numpy as np

from cnnir.errors import IRError, LimitError
from cnnir.ops.base import OPS, Op, complete_attributes
from cnnir.printer import graph_text
from cnnir.signature import Port, Signature
from cnnir.tensortype import DTYPES, TensorType


class Value:
    """One result of a node."""

    __slots__ = ("index", "name", "node", "type")
    __match_args__ = ("sole",)

    def __init__(self, node: Node, index: int, type: TensorType, name: str | None = None) -> None:
        self.node, self.index, self.type, self.name = node, index, type, name

    @property
    def sole(self) -> Node | None:
        """The node, when this is its only result: `Value(Node(...))` matches no other."""
        return self.node if len(self.node.results) == 1 else None

    def __repr__(self) -> str:
        return f"<{self.name or self.node.name}: {self.type}>"


_SERIALS = itertools.count()


class Node:
    """An op with operands and attributes, an input, or a param.

    `serial` is the same for a node and its copies in clones, and differs between all others.
    """

    __slots__ = ("attrs", "kind", "op", "operands", "results", "serial", "sources")
    __match_args__ = ("name", "operands")

    def __init__(
        self,
        kind: str,
        op: type[Op] | None = None,
        operands: tuple[Value | None, ...] = (),
        attrs: dict[str, Any] | None = None,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.op, self.operands = kind, op, operands
        self.attrs: dict[str, Any] = attrs or {}
        self.results: tuple[Value, ...] = ()
        self.sources = sources
        self.serial = next(_SERIALS)

    @property
    def name(self) -> str:
        """The op's name, or "input" or "param"."""
        return self.op.name if self.op else self.kind

    def __repr__(self) -> str:
        return f"<{self.name}({_types(self.operands)})>"


class Graph:
    """A pure dataflow graph with named inputs, params and outputs."""

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.nx: nx.DiGraph[Node] = nx.DiGraph()
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self.trims: dict[int, tuple[int, int]] = {}
        """Output -> (the output that says how much of it counts, along which axis)."""
        self.carried: dict[int, int] = {}
        """Output -> the input that it is in the next run: what a training step updates."""
        self.params: dict[str, np.ndarray] = {}
        self._counters: dict[str, int] = {}
        self._sources: tuple[str, ...] = ()

    def input(self, type: TensorType, name: str) -> Value:
        """Declare an input; names are unique among the inputs."""
        if any(v.name == name for v in self.inputs):
            raise IRError(f"there are two inputs named {name!r}")
        value = self._leaf("input", type, name, {})
        self.inputs.append(value)
        return value

    def param(self, name: str, array: np.ndarray) -> Value:
        """A named tensor that the graph owns; a taken name gets a number appended."""
        array = np.asarray(array)
        fresh = self._fresh(name)
        self.params[fresh] = array
        return self._leaf("param", TensorType.of(array), fresh, {"ref": fresh})

    def constant(self, value: Any, dtype: str | None = None) -> Value:
        """A param with a name of its own making; numbers without a dtype become f32 or i64."""
        if dtype is None and not isinstance(value, (np.ndarray, np.generic)):
            whole = np.asarray(value).dtype.kind
            dtype = {"f": "f32", "i": "i64", "b": "bool"}[whole]
        return self.param("c", np.asarray(value, DTYPES[dtype] if dtype else None))

    def add(
        self, op: str | type[Op], *operands: Value | None, name: str | None = None, **attrs: Any
    ) -> Any:
        """Append a node; its result Value, or a tuple of them where the op has several."""
        if isinstance(op, str):
            if op not in OPS:
                raise IRError(f"there is no op {op!r}")
            op = OPS[op]
        while operands and operands[-1] is None:
            operands = operands[:-1]
        attrs = complete_attributes(op, attrs)
        types = self._infer(op, operands, attrs)
        node = Node("op", op, tuple(operands), attrs, self._sources)
        node.results = tuple(Value(node, i, t, name) for i, t in enumerate(types))
        for value in operands:
            if value is not None and value.node not in self.nx:
                raise IRError(f"{op.name}: operand {value!r} belongs to another graph")
        self.nx.add_node(node)
        self.nx.add_edges_from((v.node, node) for v in operands if v is not None)
        return node.results[0] if len(node.results) == 1 else node.results

    def output(
        self, value: Value, name: str | None = None, length: Value | None = None, axis: int = 0
    ) -> None:
        """Declare a result of the graph; names are unique among the outputs.

        With `length`, an i64[], only so many entries along `axis` are the result: what is known
        only at run time. The length becomes an output too; an Executable trims by it and keeps it
        to itself.
        """
        name = name or value.name or f"output{len(self.outputs)}"
        if name in self.output_names:
            raise IRError(f"there are two outputs named {name!r}")
        self.outputs.append(value)
        self.output_names.append(name)
        if length is not None:
            position, label = len(self.outputs), f"{name} length"
            while label in self.output_names:
                label += "~"
            self.output(length, label)
            self.trim(position - 1, position, axis)

    def trim(self, output: int, length: int, axis: int) -> None:
        """Of an output only as many entries along `axis` count as the output `length` says."""
        self._check_trim(output, length, axis)
        self.trims[output] = (length, axis)

    def _check_trim(self, output: int, length: int, axis: int) -> None:
        if not (0 <= output < len(self.outputs) and 0 <= length < len(self.outputs)):
            raise IRError(f"output {output} with length {length}: there is no such output")
        cut, count = self.outputs[output].type, self.outputs[length].type
        if count != TensorType("i64", ()) or not 0 <= axis < cut.rank:
            name = self.output_names[output]
            raise IRError(f"output {name!r}: length {count} along axis {axis} of {cut}")

    def carry(self, output: int, input: int) -> None:
        """The next run takes this output as that input: a state, kept between runs.

        The graph stays a pure function. Programs may keep states to themselves and compute such an
        output in the place of its input (`Program.advance`).
        """
        self._check_carry(output, input)
        if input in self.carried.values():
            raise IRError(f"two outputs are carried to input {self.inputs[input].name!r}")
        self.carried[output] = input

    def _check_carry(self, output: int, input: int) -> None:
        if not (0 <= output < len(self.outputs) and 0 <= input < len(self.inputs)):
            raise IRError(f"output {output} carried to input {input}: there is no such pair")
        made, taken = self.outputs[output].type, self.inputs[input].type
        if made != taken:
            names = f"output {self.output_names[output]!r}", f"input {self.inputs[input].name!r}"
            raise IRError(f"{names[0]}, {made}, carried to {names[1]}, {taken}: wanted one type")

    @contextmanager
    def provenance(self, *sources: str) -> Iterator[None]:
        """Nodes added inside come from these source nodes (ONNX nodes, DSL layers)."""
        before, self._sources = self._sources, tuple(dict.fromkeys(sources))
        try:
            yield
        finally:
            self._sources = before

    def _leaf(self, kind: str, type: TensorType, name: str, attrs: dict[str, Any]) -> Value:
        node = Node(kind, attrs=attrs, sources=self._sources)
        node.results = (Value(node, 0, type, name),)
        self.nx.add_node(node)
        return node.results[0]

    def _fresh(self, name: str) -> str:
        """`name`, or `name~1`, `name~2` ...; a counter per base name keeps this linear."""
        base = name.partition("~")[0]
        while name in self.params:
            self._counters[base] = self._counters.get(base, 0) + 1
            name = f"{base}~{self._counters[base]}"
        return name

    @staticmethod
    def _infer(
        op: type[Op], operands: Sequence[Value | None], attrs: dict[str, Any]
    ) -> tuple[TensorType, ...]:
        given, most = len(operands), len(op.operand_names)
        if given < op.required or (given > most and not op.variadic):
            raise IRError(f"{op.name}: {given} operands, wanted {', '.join(op.operand_names)}")
        if any(v is None for v in operands[: op.required]):
            raise IRError(f"{op.name}: a required operand is missing")
        try:
            types = op.infer(*(v and v.type for v in operands), **attrs)
        except (IRError, LimitError) as error:
            raise type(error)(f"{op.name}({_types(operands)}): {error}") from None
        return types if isinstance(types, tuple) else (types,)

    # ------------------------------------------------------------------ reading

    def array(self, value: Value | None) -> np.ndarray | None:
        """The array of a param, None for any other value."""
        if value is None or value.node.kind != "param":
            return None
        return self.params[value.node.attrs["ref"]]

    def signature(self) -> Signature:
        """What the graph takes and gives."""
        inputs = tuple(Port(v.name or "", v.type) for v in self.inputs)
        outputs = zip(self.output_names, self.outputs, strict=True)
        ports = tuple(Port(n, v.type) for n, v in outputs)
        return Signature(inputs, ports, dict(self.trims), dict(self.carried))

    def take(self, value: Value) -> np.ndarray:
        """The array of a param, which the graph no longer has: for who uses the graph up."""
        return self.params.pop(value.node.attrs["ref"])

    def users(self, value: Value) -> list[tuple[Node, int]]:
        """Every use of a value as (node, operand position); outputs are not uses."""
        return [
            (user, position)
            for user in self.nx.succ[value.node]
            for position, operand in enumerate(user.operands)
            if operand is value
        ]

    def is_output(self, value: Value) -> bool:
        """Whether the value is a result of the graph."""
        return any(v is value for v in self.outputs)

    def sole_user(self, value: Value) -> bool:
        """Whether exactly one operand position uses the value, and it is no output."""
        return len(self.users(value)) == 1 and not self.is_output(value)

    def order(self) -> list[Node]:
        """Live nodes, operands first: depth-first post-order from the outputs.

        It depends on structure alone, not on editing history. Inputs come first, used or not.
        """
        done: list[Node] = [v.node for v in self.inputs]
        seen = set(done)
        stack = [(v.node, False) for v in reversed(self.outputs)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                done.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((v.node, False) for v in reversed(node.operands) if v is not None)
        return done

    # ------------------------------------------------------------------ changing

    def replace(self, old: Value, new: Value) -> None:
        """Make every user of `old`, and every output that it is, take `new` instead."""
        if old.type != new.type:
            raise IRError(f"cannot replace a value of type {old.type} by one of type {new.type}")
        if old is new:
            return
        for user in {user for user, _ in self.users(old)}:
            self.set_operands(user, tuple(new if v is old else v for v in user.operands))
        if self.is_output(old):
            self.outputs = [new if v is old else v for v in self.outputs]
        if new.name is None and new.node.kind == "op":
            new.name = old.name

    def set_operands(self, node: Node, operands: tuple[Value | None, ...]) -> None:
        """Give a node other operands of the same types, keeping the edges right."""
        for before, after in zip(node.operands, operands, strict=True):
            if (before and before.type) != (after and after.type):
                raise IRError(f"{node.name}: operand {before!r} cannot become {after!r}")
        previous = {v.node for v in node.operands if v is not None}
        current = {v.node for v in operands if v is not None}
        node.operands = operands
        self.nx.remove_edges_from((n, node) for n in previous - current)
        self.nx.add_edges_from((n, node) for n in current - previous)

    def sweep(self) -> int:
        """Remove nodes that no output needs (inputs stay); how many op nodes went."""
        return sum(n.kind == "op" for n in self.prune(self.nx))

    def prune(self, roots: Iterable[Node]) -> list[Node]:
        """Remove those of `roots` that nothing uses, and all that only they used; what went."""
        kept = {v.node for v in (*self.inputs, *self.outputs)}
        stack, gone = list(roots), []
        while stack:
            node = stack.pop()
            if node in self.nx and node not in kept and not self.nx.succ[node]:
                stack.extend(self.nx.pred[node])
                self.nx.remove_node(node)
                if node.kind == "param":
                    del self.params[node.attrs["ref"]]
                gone.append(node)
        return gone

    def clone(self) -> Graph:
        """An independent copy; param arrays are shared (nobody writes to them)."""
        copy = Graph(self.name)
        copy._counters = dict(self._counters)
        new: dict[Value, Value] = {}
        for node in self.order():
            twin = Node(node.kind, node.op, (), dict(node.attrs), node.sources)
            twin.serial = node.serial
            twin.operands = tuple(v and new[v] for v in node.operands)
            twin.results = tuple(Value(twin, v.index, v.type, v.name) for v in node.results)
            new.update(zip(node.results, twin.results, strict=True))
            copy.nx.add_node(twin)
            copy.nx.add_edges_from((v.node, twin) for v in twin.operands if v is not None)
            if node.kind == "param":
                copy.params[node.attrs["ref"]] = self.params[node.attrs["ref"]]
        copy.inputs = [new[v] for v in self.inputs]
        copy.outputs = [new[v] for v in self.outputs]
        copy.output_names = list(self.output_names)
        copy.trims, copy.carried = dict(self.trims), dict(self.carried)
        return copy

    def verify(self) -> None:
        """Raise IRError where an invariant of the module docstring is broken."""
        for node in self.nx:
            if {v.node for v in node.operands if v is not None} != set(self.nx.pred[node]):
                raise IRError(f"{node!r}: edges disagree with operands")
            if node.kind == "param":
                array = self.params.get(node.attrs["ref"])
                if array is None or TensorType.of(array) != node.results[0].type:
                    raise IRError(f"param {node.attrs['ref']!r}: array and type disagree")
            if node.op is not None:
                types = self._infer(node.op, node.operands, node.attrs)
                if types != tuple(v.type for v in node.results):
                    raise IRError(f"{node!r}: stored types differ from inferred {list(types)}")
                if isinstance(body := node.attrs.get("body"), Graph):
                    body.verify()
        for value in (*self.inputs, *self.outputs):
            if value.node not in self.nx:
                raise IRError(f"{value!r} is not in the graph")
        if len(self.outputs) != len(self.output_names):
            raise IRError("outputs and output names differ in number")
        for output, (length, axis) in self.trims.items():
            self._check_trim(output, length, axis)
        for output, input in self.carried.items():
            self._check_carry(output, input)
        if not nx.is_directed_acyclic_graph(self.nx):
            raise IRError("the graph has a cycle")

    def text(self, hints: bool = True) -> str:
        """The text form; without hints all names are numbers, which makes it canonical."""
        return graph_text(self, hints)

    __str__ = text


def _types(values: Sequence[Value | None]) -> str:
    return ", ".join("none" if v is None else str(v.type) for v in values)
