"""The rule decorator and its driver: counts, provenance, declines, budget, errors.

The rules here are a user's: they are declared for this module alone, and work in the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import registries

from cnnir.errors import IRError, PassError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes import rule_pass
from cnnir.pipeline import optimise
from cnnir.rewrite import RULES, Rule, decline, rewrite, rule
from cnnir.tensortype import TensorType
from cnnir.text import parse

MINE: dict[str, Rule] = {}


def declare() -> None:
    """A user's op, a few rules, and a pass of one of them."""

    class Triple(Elementwise):
        """y = 3 x."""

        name = "triple"

        def scalar(m, x):
            return x * 3.0

    @rule("mul")
    def to_triple(g, node):
        """x * 3 => triple(x)"""
        match node:
            case Node("mul", (x, Value(Node("param")) as c)) if np.all(g.array(c) == 3):
                return g.add("triple", x)
            case Node("mul"):
                return decline(node, "the factor is not 3")

    @rule("add")
    def add_of_two(g, node):
        """x + x => 2 x"""
        match node:
            case Node(_, (x, y)) if x is y:
                return g.add("mul", x, g.constant(2.0))

    @rule("exp")
    def growing(g, node):
        """exp(x) => exp(-(-x)), and so on for ever"""
        return g.add("exp", g.add("neg", g.add("neg", node.operands[0])))

    @rule("exp")
    def wrong_type(g, node):
        """exp(x) => a number of another type"""
        return g.constant(1, "i64")

    @rule("exp")
    def wrong_attribute(g, node):
        """exp(x) => an error"""
        return g.add("clip", node.operands[0], floor=1)

    @rule("exp")
    def messy(g, node):
        """exp(x) => nothing, after all"""
        g.add("neg", node.operands[0])
        return None

    @rule("relu")
    def sole_relu(g, node):
        """relu(exp(x)) => exp(x)  [the exponential has no other use]"""
        match node:
            case Node(_, (Value(Node("exp")) as e,)):
                return e if g.sole_user(e) else decline(node, "exp is used elsewhere too")

    MINE.update(
        {name: RULES[name] for name in RULES if RULES[name].function.__module__ == __name__}
    )
    rule_pass("triples", RULES["to_triple"])


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    with registries.declared():
        declare()
        yield


def small() -> Graph:
    """y = exp(x) with a source."""
    g = Graph("m")
    with g.provenance("source"):
        g.output(g.add("exp", g.input(TensorType("f32", (3,)), "x")), "y")
    return g


# ---------------------------------------------------------------- a user's rule and op


TRIPLES = """\
graph @m(%x: f32[2,3]) {
  param @c : f32[]
  %0 = mul(%x, @c) : f32[2,3]
  %1 = relu(%0) : f32[2,3]
  %y = mul(%1, @c) : f32[2,3]
  return %y
}"""


def test_a_users_rule_and_op_in_the_pipeline() -> None:
    g = parse(TRIPLES, params={"c": np.float32(3)})
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    wanted = evaluate(g, [x])[0]
    (record,) = optimise(g, "triples", verify=True, snapshots=True)
    assert record.fired == {"to_triple": 2} and record.difference == 0
    assert [n.name for n in g.order() if n.op] == ["triple", "relu", "triple"]
    assert parse(str(g)).text() == str(g) == record.text
    np.testing.assert_allclose(evaluate(g, [x])[0], wanted, rtol=1e-6)
    optimise(g, "triples,fuse")
    assert [n.name for n in g.order() if n.op] == ["fused"]
    np.testing.assert_allclose(evaluate(g, [x])[0], wanted, rtol=1e-6)


def test_what_is_declined_is_recorded_with_the_reason() -> None:
    g = parse(TRIPLES, params={"c": np.float32(4)})
    before = str(g)
    (record,) = optimise(g, "triples")
    assert str(g) == before and record.fired == {}
    assert {(d.rule, d.reason) for d in record.declined} == {("to_triple", "the factor is not 3")}
    assert len(record.declined) == 2 and "mul(f32[2,3], f32[])" in record.declined[0].node


# ---------------------------------------------------------------- the driver


def test_new_nodes_are_seen_again_by_other_rules() -> None:
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    g.output(g.add("add", x, x), "y")
    outcome = rewrite(g, [MINE["add_of_two"], MINE["to_triple"]])
    assert outcome.fired == {"add_of_two": 1}
    assert [d.reason for d in outcome.declined] == ["the factor is not 3"]


def test_provenance_of_all_that_was_replaced_is_united() -> None:
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    with g.provenance("first"):
        e = g.add("exp", x)
    with g.provenance("second"):
        g.output(g.add("relu", e), "y")
    rewrite(g, [MINE["sole_relu"]])
    assert g.outputs[0].node.sources == ("first", "second")
    h = Graph("m")
    with h.provenance("a", "b"):
        value = h.input(TensorType("f32", (3,)), "x")
        h.output(h.add("add", value, value), "y")
    rewrite(h, [MINE["add_of_two"]])
    assert h.outputs[0].node.sources == ("a", "b")
    assert h.outputs[0].name is None or h.output_names == ["y"]


def test_a_use_that_dies_lets_another_rule_fire() -> None:
    """relu(e) waits until the dead-to-be use of e is gone."""
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    e = g.add("exp", x)
    kept = g.add("relu", e)
    g.output(kept, "y")
    g.add("neg", e)  # nothing needs it
    assert rewrite(g, [MINE["sole_relu"]]).fired == {"sole_relu": 1}
    assert len([n for n in g.nx if n.op]) == 1


def test_what_a_rule_built_in_vain_is_removed() -> None:
    g = small()
    assert rewrite(g, [MINE["messy"]]).fired == {}
    assert [n.name for n in g.nx if n.op] == ["exp"]
    g.verify()


def test_long_chains_do_not_recurse() -> None:
    g = Graph("m")
    value = g.input(TensorType("f32", (2,)), "x")
    for _ in range(3000):
        value = g.add("neg", value)
    g.output(value, "y")
    records = optimise(g, "identity")
    assert records[0].fired == {"twice_inverse": 1500}
    assert g.outputs[0] is g.inputs[0]


def test_a_rule_without_end_is_stopped_and_named() -> None:
    with pytest.raises(PassError, match=r"rule growing at .*exp.* from source: no end after 30"):
        rewrite(small(), [MINE["growing"]], budget=30)


def test_a_rule_that_fails_is_named() -> None:
    with pytest.raises(
        PassError, match=r"rule wrong_type at <exp\(f32\[3\]\)> from source: cannot"
    ):
        rewrite(small(), [MINE["wrong_type"]])
    with pytest.raises(PassError, match=r"rule wrong_attribute at .*unknown attribute"):
        rewrite(small(), [MINE["wrong_attribute"]])


def test_names_of_rules_and_passes_are_unique() -> None:
    with pytest.raises(IRError, match="two rules named 'growing'"):

        @rule("exp")
        def growing(g, node):
            """exp(x) => exp(x)"""

    with pytest.raises(PassError, match="pass 'triples' is declared in"):
        rule_pass("triples")
