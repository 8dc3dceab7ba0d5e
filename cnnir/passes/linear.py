"""Nodes that are linear in their first operand with known weights, read and built for the passes.

A `Linear` is a convolution, or an average pool read as one. Its shift is one number a channel
(a bias), or a map [1,O,*sizes] where it differs from position to position: that is what a bias
becomes when a padded convolution follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import OPS
from cnnir.passes.constants import rounded
from cnnir.passes.paying import prospect, work
from cnnir.passes.windows import Ints, Window, border_reason, composed, composed_kernel
from cnnir.tensortype import TensorType

COMPUTED = ("f32", "f64")
"""Element types in which layers may be composed; 16-bit ones are rounded in between, as trained."""


def weights(g: Graph, value: Value | None) -> np.ndarray | None:
    """The array of a param of finite floats in f64; None for anything else."""
    array = g.array(value)
    if array is None or value is None or value.type.dtype not in COMPUTED:
        return None
    return array.astype(np.float64) if np.all(np.isfinite(array)) else None


def is_constant(value: Value | None) -> bool:
    """Whether a value is a param of floats that may be composed; an empty one is left alone."""
    if value is None or value.node.kind != "param":
        return False
    return value.type.dtype in COMPUTED and value.type.size > 0


def window_of(node: Node) -> Window | None:
    """The window of a conv with constant weights, or of an avg_pool that is one; None if neither.

    The pool divides by the same number everywhere: it counts its padding, or has none, and no
    window runs over the end.
    """
    attrs = node.attrs
    match node:
        case Node("conv", (_, Value() as w, *bias)) if is_constant(w):
            if bias and not is_constant(bias[0]):
                return None
            names = ("stride", "dilation", "padding", "groups", "boundary")
            return Window.of(w.type.shape[2:], *(attrs[name] for name in names))
        case Node("avg_pool", (Value() as x,)) if x.type.dtype in COMPUTED:
            given = (attrs["stride"], attrs["dilation"], attrs["padding"], x.type.shape[1])
            window = Window.of(attrs["kernel"], *given)
            if any(window.padding) and not attrs["count_include_pad"]:
                return None
            fits = window.sizes(x.type.shape[2:]) == node.results[0].type.shape[2:]
            return window if fits else None
    return None


@dataclass(frozen=True)
class Shape:
    """A linear layer without its numbers: enough to say what it costs."""

    window: Window
    x: TensorType
    filters: int
    bias: bool = False
    map: bool = False

    @classmethod
    def of(cls, node: Node) -> Shape | None:
        """Of a conv or avg_pool; None where it is not linear with known weights."""
        window, x = window_of(node), node.operands[0]
        if window is None or x is None:
            return None
        return cls(window, x.type, node.results[0].type.shape[1], len(node.operands) > 2)

    def then(self, second: Shape) -> Shape | str:
        """The two as one, or why that is not exact."""
        if reason := border_reason(self.window, second.window, self.x.shape[2:]):
            return reason
        differs = self.map or (self.bias and second.window.zeros)
        bias = (self.bias or second.bias) and not differs
        return Shape(composed(self.window, second.window), self.x, second.filters, bias, differs)

    @property
    def kernel_shape(self) -> Ints:
        """[O, C/groups, *taps]."""
        window = self.window
        return (self.filters, self.x.shape[1] // window.groups, *window.kernel)

    def work(self) -> float:
        """As a convolution, with the addition of a map where there is one."""
        w = self.x.with_shape(self.kernel_shape)
        b = self.x.with_shape((self.filters,)) if self.bias else None
        cost, y = prospect("conv", self.x, w, b, **self.window.attrs())
        # the addition is done where the sums are; what it costs is to read the map
        return work(cost) + (y.size + 8.0 * y.nbytes / max(1, y.shape[0]) if self.map else 0.0)


@dataclass(frozen=True)
class Linear:
    """A linear layer with its numbers, in f64."""

    window: Window
    w: np.ndarray
    shift: np.ndarray | None = None
    """[O], or a map [1,O,*sizes]."""

    @classmethod
    def of(cls, g: Graph, node: Node) -> Linear | None:
        """Of a conv or avg_pool; None where it is not linear with known finite weights."""
        window = window_of(node)
        if window is None:
            return None
        if node.name == "avg_pool":
            taps = np.prod(window.kernel)
            return cls(window, np.full((window.groups, 1, *window.kernel), 1.0 / taps))
        w, *bias = (weights(g, v) for v in node.operands[1:])
        if w is None or any(b is None for b in bias):
            return None
        return cls(window, w, bias[0] if bias else None)

    def then(self, second: Linear, sizes: Ints) -> Linear:
        """The two as one, for an operand of these spatial sizes; `Shape.then` must allow it."""
        w = composed_kernel(self.w, self.window, second.w, second.window)
        window = composed(self.window, second.window)
        if self.shift is None:
            return Linear(window, w, second.shift)
        return Linear(window, w, _shifted(self, second, self.window.sizes(sizes)))

    def build(self, g: Graph, x: Value, name: str = "w") -> Value | None:
        """The layer on x as nodes; None where a number is not finite in the element type."""
        made = [rounded(self.w, x.type)]
        if self.shift is not None:
            made.append(rounded(self.shift, x.type))
        if any(a is None for a in made):
            return None
        w, *shift = made
        kernel = g.param(name, np.asarray(w))
        if not shift or shift[0] is None:
            return g.add("conv", x, kernel, **self.window.attrs())
        if shift[0].ndim == 1:
            return g.add("conv", x, kernel, g.param(f"{name}.b", shift[0]), **self.window.attrs())
        y = g.add("conv", x, kernel, **self.window.attrs())
        return g.add("add", y, g.param(f"{name}.map", shift[0]))


def _shifted(first: Linear, second: Linear, sizes: Ints) -> np.ndarray:
    """What the second layer makes of the shift of the first, and its own shift."""
    assert first.shift is not None
    if first.shift.ndim == 1 and not second.window.zeros:
        taps = tuple(range(2, second.w.ndim))
        groups = second.window.groups
        sums = second.w.sum(taps).reshape(groups, -1, second.w.shape[1])
        line = (sums @ first.shift.reshape(groups, -1, 1)).reshape(-1)
        return line if second.shift is None else line + second.shift
    channels, rank = first.shift.size, second.window.rank
    if first.shift.ndim == 1:
        field = np.broadcast_to(
            first.shift.reshape(1, channels, *(1,) * rank), (1, channels, *sizes)
        )
    else:
        field = first.shift
    attrs = second.window.attrs()
    shift = second.shift
    if shift is None or shift.ndim == 1:
        return OPS["conv"].evaluate(np.ascontiguousarray(field), second.w, shift, **attrs)
    return OPS["conv"].evaluate(field, second.w, None, **attrs) + shift
