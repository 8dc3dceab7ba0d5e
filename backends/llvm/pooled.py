"""Pools that the convolution before them can compute in its store, and why others cannot be.

Asked by the plan. Whether it pays, the templates' predictions say.
"""

from __future__ import annotations

from dataclasses import replace

from cnnir.backends.base import Step
from cnnir.backends.llvm.kernels.pooling import Pooling
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.backends.llvm.offers import Offer, Work, offers
from cnnir.ir import Node

POOLS = {"max_pool": "max", "avg_pool": "average"}


def pool_behind(work: Work) -> Node | None:
    """The pool that reads a convolution's result, if one does."""
    if work.anchor.name != "conv" or len(work.node.results) != 1:
        return None
    return next((n for n in work.graph.nx.succ[work.node] if n.name in POOLS), None)


def pooled(
    work: Work, pool: Node, apart: list[Offer], plain: bool, target: Target, lanes: int
) -> list[Offer] | str:
    """What computes a convolution and the pool behind it at once, best first; or why nothing does.

    apart: the offers for the convolution alone.
    """
    if reason := _obstacle(work, pool):
        return reason
    pooling = Pooling(POOLS[pool.name], tuple(pool.attrs["kernel"]))
    found, rejected = offers(replace(work, pool=pooling), plain, target, lanes)
    if not found:
        return "; ".join(rejected)
    alone, _ = offers(Work(work.graph, pool, pool, pool.operands), False, target, lanes)
    separate = apart[0].seconds + (alone[0].seconds if alone else 0.0)
    if found[0].seconds > separate:
        return f"predicted {found[0].seconds * 1e6:.0f} us, {separate * 1e6:.0f} us apart"
    return found


def _obstacle(work: Work, pool: Node) -> str | None:
    """What keeps every convolution from computing this pool, or None."""
    (result,) = work.node.results
    if len(work.graph.nx.succ[work.node]) > 1 or work.graph.is_output(result):
        return "something else reads the convolution's result too"
    window: tuple[int, ...] = tuple(pool.attrs["kernel"])
    stride = tuple(pool.attrs["stride"]) or (1,) * len(window)
    if any(step < side for step, side in zip(stride, window, strict=True)):
        return "windows overlap"
    if stride != window or any(step > 1 for step in pool.attrs["dilation"]):
        return "windows do not lie side by side"
    counts, sizes = pool.results[0].type.shape[2:], result.type.shape[2:]
    seen = (side * count for side, count in zip(window, counts, strict=True))
    if any(pool.attrs["padding"]) or any(a > b for a, b in zip(seen, sizes, strict=True)):
        return "windows reach over the edge"
    return None


def with_pool(step: Step, pool: Node) -> Step:
    """The step of a convolution, when it computes the pool behind it too."""
    assert pool.op is not None
    cost, between = pool.op.cost(pool), step.result
    step.op += f" + {pool.name}"
    step.sources = tuple(dict.fromkeys((*step.sources, *pool.sources)))
    step.result = pool.results[0].type
    step.flops += cost.flops
    step.bytes += step.result.nbytes - between.nbytes
    step.tail = pool.serial
    return step
