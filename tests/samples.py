"""Samples of every op: the operands and attributes that the tests over the registry run it on.

This file is the mechanism. The samples themselves are in `samples_scalar.py` (elementwise,
reductions, matmul, normalisation) and `samples_tensor.py` (conv, pool, shape, indexing, resize);
each calls `add` when imported, and every `samples_*.py` is imported at the end of this file, so
that `from samples import SAMPLES` sees all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node
from cnnir.tensortype import TensorType, is_float

SAMPLES: dict[str, list[Sample]] = {}
RELATIVE = {"f16": 2e-3, "bf16": 1.6e-2, "f32": 2e-6, "f64": 1e-12}
"""The tolerance that rounding in an element type asks for, relative to the largest number."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One way to call an op.

    An operand is a type such as "f32[2,3]" (filled with random numbers), an explicit array, or
    None for one that is left out. Random floats and ints are uniform in [low, high]; `ranges`
    overrides that for single operands, by position. Unsigned integers start at 0 at the lowest.
    """

    operands: tuple[str | np.ndarray | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    low: float = -3.0
    high: float = 3.0
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def types(self) -> tuple[TensorType | None, ...]:
        """The operand types."""
        return tuple(map(_type, self.operands))

    def arrays(self, rng: np.random.Generator) -> tuple[np.ndarray | None, ...]:
        """The operands; the same generator state gives the same numbers."""
        made: list[np.ndarray | None] = []
        for position, operand in enumerate(self.operands):
            if isinstance(operand, str):
                bounds = self.ranges.get(position, (self.low, self.high))
                made.append(random_array(TensorType.parse(operand), rng, *bounds))
            else:
                made.append(operand)
        return tuple(made)

    def graph(self, op: str, dtype: str | None = None) -> Graph:
        """A graph of the one node: present operands are inputs x0, x1 ..., results outputs.

        With `dtype`, floating operands have that element type instead of their own.
        """
        g = Graph(op)
        operands = []
        for position, type in enumerate(self.types):
            if type is not None and dtype and is_float(type.dtype):
                type = type.with_dtype(dtype)
            operands.append(type and g.input(type, f"x{position}"))
        results = g.add(op, *operands, **self.attrs)
        for value in results if isinstance(results, tuple) else (results,):
            g.output(value)
        return g

    def node(self, op: str) -> Node:
        """The node of `graph`."""
        return self.graph(op).outputs[0].node

    def __str__(self) -> str:
        operands = ", ".join("-" if t is None else str(t) for t in self.types)
        attrs = ", ".join(f"{k}={getattr(v, 'name', v)}" for k, v in self.attrs.items())
        return f"({operands}) {{{attrs}}}" if attrs else f"({operands})"


def _type(operand: str | np.ndarray | None) -> TensorType | None:
    if operand is None:
        return None
    return TensorType.parse(operand) if isinstance(operand, str) else TensorType.of(operand)


def random_array(
    type: TensorType, rng: np.random.Generator, low: float = -3.0, high: float = 3.0
) -> np.ndarray:
    """Uniform random elements in [low, high]; bools are fair coins."""
    if type.dtype == "bool":
        return np.asarray(rng.random(type.shape) < 0.5)
    if is_float(type.dtype):
        return np.asarray(rng.uniform(low, high, type.shape)).astype(type.numpy)
    lowest = max(int(low), int(np.iinfo(type.numpy).min))
    highest = min(int(high), int(np.iinfo(type.numpy).max))
    drawn = rng.integers(lowest, highest, type.shape, dtype=type.numpy, endpoint=True)
    return np.asarray(drawn, type.numpy)


def add(op: str, *samples: Sample) -> None:
    """Register samples of an op."""
    SAMPLES.setdefault(op, []).extend(samples)


def cases() -> list[Any]:
    """All (op name, sample) pairs in order, for `pytest.mark.parametrize`, with readable ids."""
    return [(name, sample) for name, samples in sorted(SAMPLES.items()) for sample in samples]


def case_id(part: Any) -> str:
    """The `ids=` function that goes with `cases`."""
    return str(part)


def run(name: str, sample: Sample, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The results of the op on the sample."""
    return evaluate_node(sample.node(name), sample.arrays(np.random.default_rng(seed)))


def compute(name: str, *arrays: Any, **attrs: Any) -> np.ndarray:
    """The sole result of an op on arrays."""
    return run(name, Sample(tuple(map(np.asarray, arrays)), attrs))[0]


def assert_close(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Equal specials, and finite numbers within `tolerance` of the largest of them."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    finite = np.abs(wanted[np.isfinite(wanted)])
    bound = tolerance * max(finite.max(initial=0.0), 1e-30)
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=bound)


# Last, because they import `Sample` and `add` from here.
for _family in sorted(Path(__file__).parent.glob("samples_*.py")):
    importlib.import_module(_family.stem)
