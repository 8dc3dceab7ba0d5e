"""ONNX Einsum, as transposes, sums and matrix products of two operands at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.ir import Value

_EQUATION = re.compile(r"[a-zA-Z.,]*(->[a-zA-Z.]*)?")


@dataclass(frozen=True)
class _Term:
    """A value and a label for each of its axes. Axes of an ellipsis have the labels 0, 1, ..."""

    value: Value
    labels: tuple[str, ...]

    def size(self, label: str) -> int:
        return self.value.type.shape[self.labels.index(label)]


@onnx_op("Einsum")
def einsum(b: Builder, *xs: Value, equation: str) -> Value:
    """The sum of products that the equation names."""
    text = equation.replace(" ", "")
    b.require(bool(_EQUATION.fullmatch(text)), f"equation {equation!r} cannot be read")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    b.require(len(parts) == len(xs), f"equation {equation!r} has {len(parts)} terms for {len(xs)}")
    terms = [_labelled(b, x, part, equation) for x, part in zip(xs, parts, strict=True)]
    dots = sorted({label for term in terms for label in term.labels if label.isdigit()}, key=int)
    used = [label for term in terms for label in term.labels]
    if arrow:
        output = _split(b, right, dots, equation)
        if len(set(output)) != len(output) or not set(output) <= set(used):
            b.reject(f"equation {equation!r} has an output that is not among its terms")
    else:
        once = sorted(c for c in set(used) if not c.isdigit() and left.count(c) == 1)
        output = [*dots, *once]
    terms = [_diagonal(b, term) for term in terms]
    total = terms[0]
    for number, term in enumerate(terms[1:], 2):
        needed = {*output, *(label for rest in terms[number:] for label in rest.labels)}
        total = _product(b, _summed(b, total, needed | set(term.labels)), term, needed)
    total = _summed(b, total, set(output))
    return b.transpose(total.value, [total.labels.index(label) for label in output])


def _split(b: Builder, part: str, dots: Sequence[str], equation: str) -> list[str]:
    """The labels of one term, its ellipsis replaced."""
    before, ellipsis, after = part.partition("...")
    if "." in before + after:
        b.reject(f"equation {equation!r} has dots that are no ellipsis")
    return [*before, *(dots if ellipsis else ()), *after]


def _labelled(b: Builder, x: Value, part: str, equation: str) -> _Term:
    rank = x.type.rank
    free = rank - len(part.replace("...", ""))
    if free < 0 or (free and "..." not in part):
        b.reject(f"equation {equation!r} has the term {part!r} for rank {rank}")
    # counted from the last axis, as broadcasting does
    dots = [str(i) for i in range(64 - free, 64)]
    return _Term(x, tuple(_split(b, part, dots, equation)))


def _diagonal(b: Builder, term: _Term) -> _Term:
    """Each label once: of a repeated one, the diagonal."""
    for label in dict.fromkeys(term.labels):
        while term.labels.count(label) > 1:
            first = term.labels.index(label)
            second = term.labels.index(label, first + 1)
            shape, n = term.value.type.shape, term.value.type.shape[first]
            b.require(shape[second] == n, f"the sizes of label {label} are {n} and {shape[second]}")
            rest = [a for a in range(len(shape)) if a not in (first, second)]
            outer = tuple(shape[a] for a in rest)
            moved = b.transpose(term.value, [*rest, first, second])
            flat = b.reshape(moved, (*outer, n * n))
            none, ones = (0,) * len(outer), (1,) * len(outer)
            value = b.add("slice", flat, starts=(*none, 0), sizes=(*outer, n), steps=(*ones, n + 1))
            term = _Term(value, (*(term.labels[a] for a in rest), label))
    return term


def _summed(b: Builder, term: _Term, needed: set[str]) -> _Term:
    """The term without the axes that nothing needs."""
    axes = tuple(a for a, label in enumerate(term.labels) if label not in needed)
    if not axes:
        return term
    value = b.add("reduce_sum", term.value, axes=axes, keepdims=False)
    return _Term(value, tuple(label for label in term.labels if label in needed))


def _product(b: Builder, x: _Term, y: _Term, needed: set[str]) -> _Term:
    """Two terms multiplied; the labels they share and nothing else needs are summed over."""
    y = _summed(b, y, needed | set(x.labels))
    shared = [label for label in x.labels if label in y.labels]
    for label in shared:
        sizes = {x.size(label), y.size(label)} - ({1} if label.isdigit() else set())
        b.require(len(sizes) <= 1, f"the sizes of label {label} are {sorted(sizes)}")
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    rows = [label for label in x.labels if label not in shared]
    columns = [label for label in y.labels if label not in shared]
    left = _matrices(b, x, batch, rows, inner)
    right = _matrices(b, y, batch, inner, columns)
    product = b.add("matmul", left, right)
    shape = (
        *product.type.shape[: len(batch)], *(x.size(label) for label in rows),
        *(y.size(label) for label in columns),
    )  # fmt: skip
    return _Term(b.reshape(product, shape), (*batch, *rows, *columns))


def _matrices(
    b: Builder, term: _Term, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> Value:
    """The term as (batches of) matrices over these groups of labels."""
    order = [*batch, *rows, *columns]
    moved = b.transpose(term.value, [term.labels.index(label) for label in order])
    sizes = [[term.size(label) for label in group] for group in (batch, rows, columns)]
    return b.reshape(moved, (*sizes[0], math.prod(sizes[1]), math.prod(sizes[2])))
