"""What an op is: one class, whose `infer` signature is its schema, and the registry of all ops.

Ops know tensor types and numpy; they know nothing of graphs, passes or backends (`decompose` and
`vjp` receive the graph they build into as an argument).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.derivative import elementwise_jvp, elementwise_vjp
from cnnir.tensortype import TensorType

OPS: dict[str, type[Op]] = {}


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one node: floating-point (or integer) operations, and bytes moved at least once."""

    flops: int = 0
    read: int = 0
    written: int = 0
    multiply_adds: int = 0
    """Products that are summed, as in convolutions; each is two of the `flops`."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.read + other.read,
            self.written + other.written,
            self.multiply_adds + other.multiply_adds,
        )

    def of_products(self, count: int) -> Cost:
        """The same bytes, with `count` multiply-adds as the work."""
        return Cost(2 * count, self.read, self.written, count)


class Op:
    """Base of all ops. Subclasses are never instantiated: their methods are plain functions.

    `infer(x, w, b=None, *, stride=())` declares operands (positional, optional ones default to
    None, `*xs` takes any number) and attributes (keyword-only, with defaults unless required).
    """

    name: ClassVar[str] = ""
    view: ClassVar[bool] = False
    """The result is the first operand's row-major buffer under another type."""

    operand_names: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[int] = 0
    variadic: ClassVar[bool] = False
    attributes: ClassVar[dict[str, Any]] = {}

    infer: ClassVar[Callable[..., Any]]
    evaluate: ClassVar[Callable[..., Any]]
    scalar: ClassVar[Callable[..., Any] | None] = None
    element: ClassVar[Callable[..., Any] | None] = None
    procedure: ClassVar[Callable[..., Any] | None] = None
    decompose: ClassVar[Callable[..., Any] | None] = None
    vjp: ClassVar[Callable[..., Any] | None] = None
    """vjp(g, node, *dys): the cotangents of the operands, from those of the results (None where
    there is none). None stands for 0, `Undefined` for what does not exist."""
    jvp: ClassVar[Callable[..., Any] | None] = None
    """jvp(g, node, *tangents): the tangents of the results; without it, the transpose of vjp."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if abstract:
            return
        if cls.name in OPS:
            other = OPS[cls.name].__module__
            raise IRError(f"op {cls.name!r} is defined twice: in {other} and in {cls.__module__}")
        parameters = list(inspect.signature(cls.infer).parameters.values())
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        cls.operand_names = tuple(p.name for p in positional)
        cls.required = sum(p.default is p.empty for p in positional)
        cls.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        cls.attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        OPS[cls.name] = cls

    @staticmethod
    def cost(node: Any) -> Cost:
        """One operation a result element; operands read once, results written once."""
        read = sum(v.type.nbytes for v in node.operands if v is not None)
        written = sum(v.type.nbytes for v in node.results)
        return Cost(sum(v.type.size for v in node.results), read, written)


def complete_attributes(op: type[Op], given: dict[str, Any]) -> dict[str, Any]:
    """All attributes of `op`, defaults filled in; IRError for unknown or missing ones."""
    if unknown := sorted(given.keys() - op.attributes.keys()):
        raise IRError(f"{op.name}: unknown attribute {unknown}; it has {sorted(op.attributes)}")
    full = {name: given.get(name, default) for name, default in op.attributes.items()}
    if missing := [k for k, v in full.items() if v is inspect.Parameter.empty]:
        raise IRError(f"{op.name}: missing attribute {missing}")
    return {name: _plain(op, name, value) for name, value in full.items()}


def _plain(op: type[Op], name: str, value: Any) -> Any:
    """Attributes are ints, floats, bools, strings, tuples, None, or a nested graph."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(op, name, v) for v in value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)) or hasattr(value, "outputs"):
        return value
    raise IRError(f"{op.name}: attribute {name} cannot hold a {type(value).__name__}")


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The numpy broadcast of shapes; IRError when they do not fit."""
    rank = max((len(s) for s in shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            listed = " and ".join(str(list(s)) for s in shapes)
            raise IRError(f"shapes {listed} do not broadcast, wanted equal dimensions or 1")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def broadcast_index(at: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Where an operand of `shape` is read for the result index `at`: 0 on broadcast axes."""
    own = at[len(at) - len(shape) :]
    return tuple(0 if size == 1 else i for i, size in zip(own, shape, strict=True))


class Elementwise(Op, abstract=True):
    """An op given by `scalar(m, x, ..., *, attributes)` on single elements, with broadcasting.

    Subclasses override `infer` when the result's element type differs from the operands', or to
    declare attributes. `evaluate`, `element` and derivatives follow from `scalar`; `derivative`
    says the partial derivatives where there is a better way, from the result y too.
    """

    derivative: ClassVar[Callable[..., Any] | None] = None
    """derivative(m, y, x, ..., *, attributes): the partial derivative by x, or a tuple of them."""
    vjp = staticmethod(elementwise_vjp)
    jvp = staticmethod(elementwise_jvp)

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract:
            scalar = cls.__dict__["scalar"]
            if "infer" not in cls.__dict__:
                cls.infer = _elementwise_infer(scalar)
            if "evaluate" not in cls.__dict__:
                cls.evaluate = staticmethod(_elementwise_evaluate(scalar))
            if "element" not in cls.__dict__:
                cls.element = staticmethod(_elementwise_element(scalar))
        super().__init_subclass__(abstract=abstract)


def _elementwise_infer(scalar: Callable[..., Any]) -> Callable[..., TensorType]:
    """All operands of one element type; the result has it and the broadcast shape."""

    def infer(*xs: TensorType, **attributes: Any) -> TensorType:
        if len({x.dtype for x in xs}) > 1:
            raise IRError(f"element types {[x.dtype for x in xs]} differ, wanted one")
        return TensorType(xs[0].dtype, broadcast_shapes(*(x.shape for x in xs)))

    parameters = list(inspect.signature(scalar).parameters.values())[1:]
    infer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return infer


def _elementwise_evaluate(scalar: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def evaluate(*xs: np.ndarray, **attributes: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(scalar(NUMPY, *map(np.asarray, xs), **attributes))

    return evaluate


def _elementwise_element(scalar: Callable[..., Any]) -> Callable[..., Any]:
    def element(m: Any, at: tuple[Any, ...], *xs: Any, **attributes: Any) -> Any:
        values = (x[broadcast_index(at, x.shape)] for x in xs)
        return scalar(m, *values, **attributes)

    return element
