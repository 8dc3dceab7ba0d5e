"""Second derivatives as graphs: products of the Hessian with a direction.

The Hessian itself is as large as the square of the weights, but its product with a direction v is
the derivative of the gradient along v: forward mode over reverse mode, at a small multiple of what
the gradient costs.

Source: B. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6, 1994.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnir.gradient import gradient, jvp
from cnnir.ir import Graph


def hvp(
    graph: Graph,
    of: str | None = None,
    wrt: str | Sequence[str] | None = None,
    *,
    outputs: bool = True,
) -> Graph:
    """A graph that also computes the Hessian of `of` by `wrt`, times a direction.

    of: the name of an output that is a single number; None is the sole one. wrt: names of inputs
        and params; None is every param of a float type. Each gets an input `tangent.NAME` of its
        type, a part of the direction, and an output `hvp.NAME`: of the Hessian of all of `wrt`
        together the rows of NAME, times the direction.
    outputs: whether the outputs of `graph`, and the gradients `grad.NAME`, stay outputs before the
        products.

    Raises GradientError as `gradient` does, also for ops without a second derivative.
    """
    names = [wrt] if isinstance(wrt, str) else wrt
    slopes = gradient(graph, of, names, outputs=False)
    found = [name.removeprefix("grad.") for name in slopes.output_names]
    if outputs:
        slopes = gradient(graph, of, found)
    curved = jvp(slopes, found, slopes.output_names[-len(found) :], outputs=outputs)
    curved.output_names[-len(found) :] = [f"hvp.{name}" for name in found]
    return curved
