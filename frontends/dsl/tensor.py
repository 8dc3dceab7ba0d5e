"""The symbolic tensor: a value of the graph that is being traced, with Python's operators.

Every function and layer builds its nodes through `op`, so shapes are inferred and checked at once.
A tensor has a type and no data; run a net by compiling it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.indexing import indexed
from cnnir.ir import Graph, Value
from cnnir.ops import Op
from cnnir.tensortype import TensorType, is_float

Axes = int | Sequence[int] | None


class Tensor:
    """A value of a traced graph. Operators and methods add nodes and give new tensors.

    Operators broadcast as numpy does. Numbers and arrays beside a tensor take its element type.
    """

    __slots__ = ("trace", "value")
    __array_ufunc__ = None  # so that array + tensor comes here and not to numpy

    def __init__(self, trace: Any, value: Value) -> None:
        self.trace, self.value = trace, value

    @property
    def type(self) -> TensorType:
        """Element type and shape."""
        return self.value.type

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.value.type.shape

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.value.type.rank

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.value.type.size

    @property
    def dtype(self) -> str:
        """The element type, such as "f32"."""
        return self.value.type.dtype

    @property
    def graph(self) -> Graph:
        """The graph that is being built."""
        return self.trace.graph

    def __repr__(self) -> str:
        return f"<tensor {self.type}>"

    def __bool__(self) -> bool:
        raise IRError(
            "a symbolic tensor is neither true nor false, wanted nn.where(condition, ...)"
        )

    def __float__(self) -> float:
        raise IRError("a symbolic tensor is no number yet, wanted operators on tensors")

    __int__ = __float__

    def __iter__(self) -> Any:
        raise IRError("a symbolic tensor cannot be iterated over, wanted slices such as x[:, :3]")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise IRError("a symbolic tensor has no data, wanted a compiled net to run on arrays")

    # ------------------------------------------------------------------ operators

    def __add__(self, other: Any) -> Tensor:
        return op("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return op("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return op("sub", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return op("sub", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return op("mul", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return op("mul", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return op("div", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return op("div", other, self)

    def __pow__(self, other: Any) -> Tensor:
        return op("pow", self, other)

    def __matmul__(self, other: Any) -> Tensor:
        return op("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return op("matmul", other, self)

    def __neg__(self) -> Tensor:
        return op("neg", self)

    def __abs__(self) -> Tensor:
        return op("abs", self)

    def __lt__(self, other: Any) -> Tensor:
        return op("less", self, other)

    def __le__(self, other: Any) -> Tensor:
        return op("less_equal", self, other)

    def __gt__(self, other: Any) -> Tensor:
        return op("less", other, self)

    def __ge__(self, other: Any) -> Tensor:
        return op("less_equal", other, self)

    def __getitem__(self, index: Any) -> Tensor:
        """Slices, numbers, `...` and None, as in numpy."""
        starts, sizes, steps, shape = indexed(self.shape, index)
        y = self
        if sizes != self.shape or any(s != 1 for s in steps):
            y = op("slice", self, starts=starts, sizes=sizes, steps=steps)
        return y.reshape(*shape)

    # ------------------------------------------------------------------ methods

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape; one -1 is worked out."""
        if shape.count(-1) == 1:
            rest = math.prod(d for d in shape if d != -1)
            if not rest or self.size % rest:
                raise IRError(f"{self.size} elements do not divide into the shape {list(shape)}")
            shape = tuple(self.size // rest if d == -1 else d for d in shape)
        return self if shape == self.shape else op("reshape", self, shape=shape)

    def transpose(self, *perm: int) -> Tensor:
        """Axes in another order: axis a of the result is axis perm[a]; reversed by default."""
        order = perm or tuple(reversed(range(self.rank)))
        return self if order == tuple(range(self.rank)) else op("transpose", self, perm=order)

    def astype(self, dtype: str) -> Tensor:
        """The same numbers in another element type."""
        return self if dtype == self.dtype else op("cast", self, dtype=dtype)

    def sum(self, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """The sum over axes; over all of them by default."""
        return self._reduced("reduce_sum", axes, keepdims)

    def mean(self, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """The mean over axes; over all of them by default."""
        return self._reduced("reduce_mean", axes, keepdims)

    def max(self, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """The maximum over axes; over all of them by default."""
        return self._reduced("reduce_max", axes, keepdims)

    def min(self, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """The minimum over axes; over all of them by default."""
        return self._reduced("reduce_min", axes, keepdims)

    def _reduced(self, kind: str, axes: Axes, keepdims: bool) -> Tensor:
        over = tuple(range(self.rank)) if axes is None else positive_axes(axes, self.rank)
        return op(kind, self, axes=over, keepdims=keepdims) if over else self


def positive_axes(axes: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, increasing; IRError where one does not exist."""
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in given:
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise IRError(f"there is no axis {axis}, wanted {-rank} to {rank - 1}")
    return tuple(sorted(axis % rank for axis in given))


def op(kind: str | type[Op], *operands: Any, **attributes: Any) -> Any:
    """Any op of the registry on tensors, user-defined ones too: its result, or a tuple of them.

    Numbers and arrays among the operands become constants of the first tensor's element type; an
    operand that is left out is None.
    """
    first = next((x for x in operands if isinstance(x, Tensor)), None)
    if first is None:
        name = kind if isinstance(kind, str) else kind.name
        raise IRError(
            f"{name}: no symbolic tensor among the operands; to run a net on arrays compile it"
        )
    return first.trace.add(kind, operands, attributes, first)


def as_array(value: Any, dtype: str) -> np.ndarray:
    """A number or an array in an element type; IRError where that would lose fractions."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and TensorType.of(array).dtype != "bf16":
        raise IRError(f"{value!r} is neither a tensor nor a number nor an array of numbers")
    wanted = TensorType(dtype, ()).numpy
    if not is_float(dtype) and not np.array_equal(array, array.astype(wanted)):
        raise IRError(f"{value!r} is not exact in {dtype}, the element type of the tensor")
    return array.astype(wanted)
