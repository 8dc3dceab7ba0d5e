"""The value of an op or fused node at one index, as an expression.

A fused body is lowered by substituting element expressions into one another; every (value, index)
is computed once, and chains of elementwise ops are followed without recursion.
"""

from __future__ import annotations

from typing import Any

from cnnir.errors import IRError
from cnnir.ir import Graph, Node, Value
from cnnir.loops import expr as x
from cnnir.loops.algebra import Accessor, ElementAlgebra, buffer_accessor
from cnnir.loops.analysis import post_order
from cnnir.loops.expr import Expr
from cnnir.loops.statements import Buffer
from cnnir.ops.base import broadcast_index
from cnnir.tensortype import compute_dtype

Where = tuple[Expr, ...]


class Elements:
    """Element expressions of a node's results. `given` overrides values of a fused body."""

    def __init__(
        self,
        node: Node,
        m: ElementAlgebra,
        operands: list[Buffer | None],
        given: dict[Value, Expr] | None = None,
    ) -> None:
        self.node, self.m, self.given = node, m, given or {}
        self._memo: dict[tuple[Value, Where], Expr] = {}
        self._accessors: dict[Value, Accessor] = {}
        body = node.attrs.get("body")
        self.body = body if isinstance(body, Graph) else None
        inputs = self.body.inputs if self.body else node.operands
        self._operands = [None if b is None else buffer_accessor(m, b) for b in operands]
        for value, accessor in zip(inputs, self._operands, strict=True):
            if value is not None and accessor is not None:
                self._accessors[value] = accessor

    def at(self, where: Where) -> tuple[Expr, ...]:
        """The results at an index, in the types that they are computed in."""
        if self.body is None:
            return self._results(self.node, where)
        return tuple(self.value(v, where) for v in self.body.outputs)

    def value(self, value: Value, where: Where) -> Expr:
        """One value of a fused body, or an operand, at an index."""
        stack = [(value, where)]
        while stack:
            v, at = stack[-1]
            if (v, at) in self._memo:
                stack.pop()
                continue
            wanted = self._wanted(v, at)
            missing = [w for w in wanted if w not in self._memo]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            self._compute(v, at, [self._memo[w] for w in wanted])
        return self._memo[value, where]

    def _wanted(self, v: Value, at: Where) -> list[tuple[Value, Where]]:
        """What an elementwise op reads, which is known beforehand."""
        node = v.node
        if v in self.given or v in self._accessors or node.op is None or node.op.scalar is None:
            return []
        return [
            (o, tuple(map(x.index, broadcast_index(at, o.type.shape))))
            for o in node.operands
            if o is not None
        ]

    def _compute(self, v: Value, at: Where, operands: list[Expr]) -> None:
        node = v.node
        if v in self.given:
            self._memo[v, at] = self.given[v]
        elif v in self._accessors:
            self._memo[v, at] = self._accessors[v][at]
        elif node.kind == "param":
            self._memo[v, at] = self._constant(v)
        elif node.op is None:
            raise IRError(f"{node!r} is used, which the kernel is not given")
        elif node.op.scalar is not None:
            result = node.op.scalar(self.m, *operands, **node.attrs)
            self._memo[v, at] = _rounded(result, v)
        else:
            for value, result in zip(node.results, self._results(node, at), strict=True):
                self._memo[value, at] = _rounded(result, value)

    def _results(self, node: Node, at: Where) -> tuple[Expr, ...]:
        if node.op is None or node.op.element is None:
            raise IRError(f"{node!r} has no element definition; decompose it first")
        if self.body is None:
            operands = self._operands
        else:
            operands = [None if o is None else self._accessor(o) for o in node.operands]
        results = node.op.element(self.m, at, *operands, **node.attrs)
        results = results if isinstance(results, tuple) else (results,)
        kinds = [compute_dtype(v.type.dtype) for v in node.results]
        return tuple(x.typed(r, k) for r, k in zip(results, kinds, strict=True))

    def _accessor(self, value: Value) -> Accessor:
        if value not in self._accessors or value in self.given:

            def read(where: Where, inside: Expr, other: Any) -> Expr:
                if inside is x.TRUE:
                    return self.value(value, where)
                self.m.note(inside)
                return _guarded(self.value(value, where), inside, other)

            return Accessor(value.type.shape, value.type.dtype, read)
        return self._accessors[value]

    def _constant(self, v: Value) -> Expr:
        assert self.body is not None
        array = self.body.array(v)
        if array is None or array.size != 1:
            raise IRError(f"{v!r} in a fused body, wanted a single number")
        return x.const(array.reshape(-1)[0].item(), compute_dtype(v.type.dtype))


def _guarded(value: Expr, inside: Expr, other: Any) -> Expr:
    """A computed value where a condition holds; its loads must not run where it fails."""
    guarded: dict[Expr, Expr] = {}
    for e in post_order((value,)):
        args = tuple(guarded[a] for a in e.args)
        new = e if args == e.args else e.with_args(args)
        if isinstance(e, x.Load):
            condition = inside if len(args) == 1 else inside & args[1]
            new = x.load(e.buffer, args[0], condition, 0 if len(args) == 1 else args[2])
        guarded[e] = new
    return x.select(inside, guarded[value], x.typed(other, value.dtype))


def _rounded(result: Any, value: Value) -> Expr:
    """What of a result its type keeps; 16-bit floats stay f32 but lose bits."""
    dtype = value.type.dtype
    expr = x.typed(result, compute_dtype(dtype))
    if expr.dtype != compute_dtype(dtype):
        raise IRError(f"{value.node!r}: an element is {expr.dtype}, wanted {dtype}")
    return x.cast(expr, dtype) if dtype in ("f16", "bf16") else expr
