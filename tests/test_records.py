"""Records of passes: every rewrite with its nodes and sources, sizes before and after, errors."""

from __future__ import annotations

import numpy as np
import pytest
from registries import declared

from cnnir.errors import PassError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph, Node, Value
from cnnir.passes import rule_pass
from cnnir.pipeline import optimise
from cnnir.records import GraphSize, difference
from cnnir.rewrite import rule
from cnnir.tensortype import TensorType
from cnnir.verify import random_inputs, relative_difference, widened

rng = np.random.default_rng(4)


def block() -> Graph:
    """relu(bn(conv(identity(x)))) + x, each node from a source of its own, and a dead one."""
    g = Graph("block")
    x = g.input(TensorType("f32", (2, 4, 7, 7)), "x")
    with g.provenance("same"):
        y = g.add("identity", x)
    with g.provenance("conv"):
        w = g.param("w", rng.standard_normal((4, 4, 3, 3)).astype(np.float32))
        y = g.add("conv", y, w, padding=(1, 1, 1, 1))
    with g.provenance("bn"):
        numbers = rng.uniform(0.5, 2, (4, 4)).astype(np.float32)
        y = g.add("batch_norm", y, *(g.param(f"n{i}", row) for i, row in enumerate(numbers)))
    with g.provenance("unused"):
        g.add("exp", y)
    with g.provenance("relu"):
        y = g.add("relu", y)
    with g.provenance("sum"):
        g.output(g.add("add", y, x), "y")
    return g


def serials(graph: Graph) -> set[int]:
    """Of the op nodes."""
    return {node.serial for node in graph.nx if node.op is not None}


def test_every_rewrite_is_recorded_with_what_went_and_what_came() -> None:
    g = block()
    before = serials(g)
    for record in optimise(g, snapshots=True):
        assert record.graph is not None
        after = serials(record.graph)
        gone = {s for r in record.rewrites for s in r.gone}
        made = {s for r in record.rewrites for s in r.made}
        assert before - after <= gone and after - before <= made
        assert gone.isdisjoint(after) and (record.rewrites or before == after)
        before = after


def test_rewrites_name_their_sources_and_say_why() -> None:
    records = {r.label: r for r in optimise(block())}
    first, scaled, shifted = records["batch_norm"].rewrites
    assert first.rule == "batch_norm_to_affine" and first.sources == ("bn",)
    assert first.kind == "reassociating" and "batch_norm(f32[2,4,7,7]" in first.node
    assert set(scaled.sources) == set(shifted.sources) == {"same", "conv", "bn"}
    assert set(first.made) & set(scaled.gone)
    assert records["batch_norm"].kinds == {"reassociating": 3}
    (dead,) = records["dead"].rewrites
    assert dead.sources == ("unused",) and not dead.made
    (fused,) = records["fuse"].rewrites
    assert set(fused.sources) == {"same", "conv", "bn", "relu", "sum"} and len(fused.made) == 1


def test_sizes_are_those_of_the_graph() -> None:
    g = block()
    record = optimise(g, "dead,batch_norm")[-1]
    assert record.before.nodes == 5 and record.after == GraphSize.of(g)
    size = 2 * 4 * 7 * 7
    assert record.before.flops - record.after.flops >= size
    assert record.before.bytes - record.after.bytes >= 2 * 4 * size  # one reading and writing less
    assert record.after.params == 4 * 4 * 3 * 3 + 4
    assert record.after.param_bytes == 4 * record.after.params


def test_a_source_whose_node_becomes_an_input_is_not_lost() -> None:
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    with g.provenance("first"):
        same = g.add("identity", x)
    with g.provenance("second"):
        g.output(g.add("exp", same), "y")
    with g.provenance("third"):
        g.output(g.add("identity", x), "z")
    optimise(g)
    found = {node.name: set(node.sources) for node in g.order()}
    assert found == {"input": {"third"}, "exp": {"first", "second"}} or found == {
        "input": {"first", "third"},
        "exp": {"second", "first"},
    }


def test_differences_of_text() -> None:
    g = block()
    before = g.text()
    records = optimise(g, "dead,batch_norm", snapshots=True)
    assert records[-1].text == g.text()
    changed = difference(before, g.text()).splitlines()
    assert any(line.startswith("-") and "batch_norm" in line for line in changed)
    assert difference(before, before) == ""


# ---------------------------------------------------------------- measured errors


def test_exact_and_reassociating_rewrites_measure_alike_in_f64() -> None:
    """Rounding of the new weights shows in f32, and not in the widened graph."""
    for graph, least, most in ((block(), 1e-9, 1e-6), (widened(block()), 0.0, 1e-14)):
        records = optimise(graph, verify=True)
        folded = next(r for r in records if r.name == "batch_norm")
        assert least <= max(folded.errors.values()) <= most
        (removed,) = next(r for r in records if r.name == "identity").rewrites
        assert removed.difference == 0


def test_widened_graphs_give_the_same_values() -> None:
    g = block()
    feeds = random_inputs(g)
    (a,), (b,) = evaluate(g, feeds, "f64"), evaluate(widened(g), [f.astype("f8") for f in feeds])
    np.testing.assert_allclose(a, b, rtol=1e-15)
    assert b.dtype == np.float64


def test_each_rewrite_is_measured_alone() -> None:
    """A large error of one rewrite is not seen again in those that follow it."""

    with declared():

        @rule("relu", kind="lossy")
        def roughly(g: Graph, node: Node) -> Value | None:
            """relu(x) => 1.01 relu(x)"""
            if any(user.name == "mul" for user, _ in g.users(node.results[0])):
                return None
            return g.add("mul", g.add("relu", *node.operands), g.constant(1.01))

        rule_pass("roughly", roughly)
        with pytest.raises(PassError, match=r"pass roughly changed output 'y'.*rule roughly"):
            optimise(block(), "dead,roughly", verify=True)
        records = optimise(block(), "roughly,inference", verify=True, tolerance=1.0)
    (rough,) = records[0].rewrites
    assert rough.difference == pytest.approx(0.01, rel=1e-5)
    later = [r.difference for record in records[1:] for r in record.rewrites]
    assert max(d for d in later if d is not None) < 1e-6


def test_relative_difference_is_over_the_largest_number() -> None:
    assert relative_difference(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == 0.25
    assert relative_difference(np.array([np.nan]), np.array([1.0])) == np.inf
    assert relative_difference(np.array([np.inf]), np.array([np.inf])) == 0
