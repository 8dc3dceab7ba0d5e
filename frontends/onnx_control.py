"""ONNX control flow without control: If inlined or as a choice, Loop of known length unrolled."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_scope import UNKNOWN
from cnnir.ir import Value

MOST_ITERATIONS = 256


@onnx_op("If")
def if_(
    b: Builder, condition: Value, *, then_branch: GraphProto, else_branch: GraphProto
) -> tuple[Any, ...]:
    """The branch that a constant condition takes, in place of the node.

    Ops are pure, so a condition that is known only at run time may choose between the results of
    both branches, where they have the same types.
    """
    b.require(condition.type.size == 1, f"condition is {condition.type}, wanted one element")
    b.require(not then_branch.input and not else_branch.input, "a branch has inputs, wanted none")
    if b.graph.array(condition) is not None:
        taken = then_branch if b.number(condition, "condition") else else_branch
        return _results(b, b.inline(taken, ()))
    first, second = (_results(b, b.inline(g, ())) for g in (then_branch, else_branch))
    return tuple(_chosen(b, condition, *pair) for pair in zip(first, second, strict=True))


def _chosen(b: Builder, condition: Value, x: Any, y: Any) -> Any:
    if x is UNKNOWN or y is UNKNOWN or x is y:
        return x if x is y else UNKNOWN
    if x.type != y.type:
        raise UnsupportedError(
            f"condition given at run time for branches of different types {x.type} and {y.type}"
        )
    return b.add("where", b.reshape(condition, ()), x, y)


def _results(b: Builder, results: list[Any]) -> tuple[Any, ...]:
    if len(results) != len(b.outputs):
        b.reject(f"{len(b.outputs)} outputs, but the sub-graph gives {len(results)}")
    return tuple(results)


@onnx_op("Loop")
def loop(
    b: Builder,
    trips: Value | None,
    condition: Value | None,
    *state: Value,
    body: GraphProto,
) -> tuple[Any, ...]:
    """The body repeated in place, where the number of times is known at import."""
    most = None if trips is None else b.whole(trips, "trip count")
    going: Any = condition if condition is not None else b.constant(np.array(True))
    count, lines, step = len(state), [], 0
    b.require(len(body.input) == count + 2, f"the body has {len(body.input)} inputs")
    b.require(len(body.output) >= count + 1, f"the body has {len(body.output)} outputs")
    while (most is None or step < most) and b.number(going, "condition"):
        if step == MOST_ITERATIONS:
            raise UnsupportedError(f"more than {MOST_ITERATIONS} iterations")
        results = b.inline(body, (b.constant(np.array(step, np.int64)), going, *state))
        if UNKNOWN in results:
            return (UNKNOWN,) * len(b.outputs)
        going, state = results[0], tuple(results[1 : count + 1])
        lines.append(results[count + 1 :])
        step += 1
    scans = len(body.output) - count - 1
    if scans and not lines:
        raise UnsupportedError("no iteration, so the results it collects have no known shape")
    return _results(b, [*state, *(_stacked(b, [line[i] for line in lines]) for i in range(scans))])


def _stacked(b: Builder, values: list[Value]) -> Value:
    """Values of one shape along a new first axis."""
    rows = [b.reshape(v, (1, *v.type.shape)) for v in values]
    return rows[0] if len(rows) == 1 else b.add("concat", *rows, axis=0)
