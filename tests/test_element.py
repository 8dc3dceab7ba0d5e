"""`element` agrees with `evaluate`: run in Python, one result index at a time.

This needs neither the loop language nor a backend, so it tells a wrong definition of an op from
wrong code made of a right one. `procedure` cannot be run like this: its loops are recorded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import RELATIVE, Sample, case_id, cases

from cnnir.errors import RuntimeError
from cnnir.evaluate import evaluate_node
from cnnir.ops import OPS
from cnnir.ops.algebra import NumpyAlgebra
from cnnir.tensortype import DTYPES, TensorType, compute_dtype, is_float

CHECKED = 60
"""Result elements looked at in each sample."""


class Accessor:
    """An operand as `element` sees it; every load must be in range."""

    probed = False
    """Only the element type of an expression is wanted, by a reduction over nothing."""

    def __init__(self, array: np.ndarray) -> None:
        type = TensorType.of(array)
        self.shape, self.dtype = type.shape, type.dtype
        self.array = array.astype(DTYPES[compute_dtype(type.dtype)])

    def __getitem__(self, index: tuple[Any, ...] | Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        assert len(index) == len(self.shape)
        if Accessor.probed:
            return self.array.dtype.type(0)
        for i, extent in zip(index, self.shape, strict=True):
            assert 0 <= i < extent, f"load at {index} of {self.shape}"
        return self.array[tuple(int(i) for i in index)]

    def get(self, index: tuple[Any, ...], inside: Any, other: Any) -> Any:
        return self[index] if inside else self.array.dtype.type(other)


class Interpreted(NumpyAlgebra):
    """The algebra of `element` on numpy scalars."""

    STEPS: dict[str, Callable[..., Any]] = {
        "sum": np.add,
        "prod": np.multiply,
        "max": np.maximum,
        "min": np.minimum,
    }

    @staticmethod
    def all(*conditions: Any) -> bool:
        return all(conditions)

    @staticmethod
    def checked(i: Any, extent: int, what: str) -> Any:
        if not -extent <= i < extent:
            raise RuntimeError(f"{what} out of range")
        return i + extent if i < 0 else i

    def reduce(
        self, kind: str, extents: tuple[int, ...], body: Any, where: Any = None
    ) -> np.generic:
        result = None
        for index in indices(extents):
            if where is not None and not where(*index):
                continue
            value = body(*index)
            dtype = np.asarray(value).dtype
            result = value if result is None else self.STEPS[kind](result, value).astype(dtype)
        if result is not None:
            return result
        Accessor.probed = True
        try:
            dtype = np.asarray(body(*(np.int64(0) for _ in extents))).dtype
        finally:
            Accessor.probed = False
        return dtype.type(identity(kind, dtype))

    @staticmethod
    def fold(extents: tuple[int, ...], init: tuple[Any, ...], step: Any) -> tuple[Any, ...]:
        state = tuple(init)
        for index in indices(extents):
            after = step(index, state)
            before = [np.asarray(s).dtype for s in state]
            assert [np.asarray(s).dtype for s in after] == before, "a fold changes its types"
            state = tuple(after)
        return state


def indices(extents: tuple[int, ...]) -> Any:
    """All indices in row-major order, as the i64 that they are in generated code."""
    return itertools.product(*(map(np.int64, range(e)) for e in extents))


def identity(kind: str, dtype: np.dtype) -> float:
    """What a reduction over nothing gives."""
    if kind in ("sum", "prod"):
        return float(kind == "prod")
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if kind == "max" else np.iinfo(dtype).max
    return -np.inf if kind == "max" else np.inf


ELEMENTS = [case for case in cases() if OPS[case[0]].element is not None]


@pytest.mark.parametrize(("name", "sample"), ELEMENTS, ids=case_id)
def test_element_agrees_with_evaluate(name: str, sample: Sample) -> None:
    rng = np.random.default_rng(20)
    node, arrays = sample.node(name), sample.arrays(rng)
    wanted = evaluate_node(node, arrays)
    accessors = [None if a is None else Accessor(a) for a in arrays]
    everywhere = list(np.ndindex(wanted[0].shape))
    chosen = rng.permutation(len(everywhere))[:CHECKED]
    for position in chosen:
        at = tuple(np.int64(i) for i in everywhere[position])
        with np.errstate(all="ignore"):
            got = OPS[name].element(Interpreted(), at, *accessors, **node.attrs)
            got = got if isinstance(got, tuple) else (got,)
            for array, value in zip(wanted, got, strict=True):
                compare(np.asarray(value), array, everywhere[position])


def compare(got: np.ndarray, wanted: np.ndarray, at: tuple[int, ...]) -> None:
    """One element: of the computing type, and equal, or within rounding for floats."""
    dtype = TensorType.of(wanted).dtype
    assert TensorType.of(got) == TensorType(compute_dtype(dtype), ())
    if not is_float(dtype):
        assert got == wanted[at], f"at {at}"
        return
    numbers = wanted.astype(np.float64)
    largest = np.abs(numbers[np.isfinite(numbers)]).max(initial=1.0)
    tolerance = 4 * RELATIVE[dtype]
    rounded = got.astype(wanted.dtype).astype(np.float64)
    np.testing.assert_allclose(
        rounded, numbers[at], rtol=tolerance, atol=tolerance * min(largest, 1e6), err_msg=f"{at}"
    )
