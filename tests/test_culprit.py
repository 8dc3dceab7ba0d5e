"""A wrong rule is found, named, and shown on a few nodes; right ones are left in peace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dsl_nets
import numpy as np
import onnxruntime
import pytest
import registries
from linear_graphs import linear_graph

import cnnir
from cnnir.culprit import find, shrink
from cnnir.errors import PassError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph, Node, Value
from cnnir.passes import PIPELINES, Pass, rule_pass
from cnnir.pipeline import optimise, parse_pipeline
from cnnir.rewrite import Outcome, rule


@pytest.fixture(autouse=True)
def planted() -> Iterator[None]:
    """Wrong rules and passes of many kinds."""
    with registries.declared():

        @rule("max_pool")
        def right_one(g: Graph, node: Node) -> None:
            """max_pool(x) => nothing at all"""

        @rule("conv", kind="reassociating")
        def forgets_bias(g: Graph, node: Node) -> Value | None:
            """conv(x, w, b) => conv(x, w)  [wrong: where the stride is 2]"""
            if len(node.operands) < 3 or node.attrs["stride"] != (2, 2):
                return None
            return g.add("conv", *node.operands[:2], **node.attrs)

        @rule("relu")
        def raises(g: Graph, node: Node) -> Value | None:
            """relu(x) => an error behind an add"""
            if node.operands[0].node.name == "add":
                return g.add("clip", node.operands[0], nonsense=1)
            return None

        @dataclass(frozen=True)
        class Sneaky(Pass):
            """Wrong without a rewrite on record: swaps the operands of the last matmul's add."""

            name = "sneaky"

            def run(self, g: Graph) -> Outcome:
                for node in g.order():
                    if node.name == "relu":
                        g.replace(node.results[0], g.add("neg", g.add("relu", *node.operands)))
                        return Outcome()
                return Outcome()

        rule_pass("planted", right_one, forgets_bias)
        rule_pass("raising", raises)
        yield


def residual() -> Graph:
    """A ResNet with random statistics, so its convolutions get biases when they are folded."""
    graph = dsl_nets.resnet().graph({"x": (1, 3, 16, 16)})
    rng = np.random.default_rng(6)
    for name, array in graph.params.items():
        if array.ndim == 1:
            graph.params[name] = rng.uniform(0.5, 1.5, array.shape).astype(array.dtype)
    return graph


def nodes(graph: Graph) -> list[str]:
    return [node.name for node in graph.order() if node.op is not None]


def test_a_planted_rule_is_found_named_and_shrunk(tmp_path: Path) -> None:
    graph = residual()
    before = graph.text()
    first, last = PIPELINES["inference"][:10], PIPELINES["inference"][10:]
    culprit = find(graph, [*first, *parse_pipeline("planted"), *last])
    assert culprit is not None and culprit.label == "planted"
    assert culprit.rewrite is not None and culprit.rewrite.rule == "forgets_bias"
    assert any("stage2" in source for source in culprit.rewrite.sources)
    assert nodes(culprit.graph) == ["conv"] and graph.text() == before
    assert culprit.difference > 1e-3
    assert "rule forgets_bias of pass planted at <conv(" in culprit.text()

    # what is saved shows the difference anywhere
    files = culprit.save(str(tmp_path / "small"), cnnir.save_onnx)
    assert files == [str(tmp_path / "small.onnx"), str(tmp_path / "small.npz")]
    session = onnxruntime.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    with np.load(files[1]) as saved:
        (y,) = session.run(None, {i.name: saved[i.name] for i in session.get_inputs()})
        np.testing.assert_allclose(y, saved["wanted.y0"], rtol=1e-4, atol=1e-4)
        assert np.abs(saved["got.y0"] - saved["wanted.y0"]).max() > 1e-3


def test_the_default_pipeline_has_no_culprit() -> None:
    assert find(residual()) is None
    for seed in range(5):
        assert find(linear_graph(seed), tolerance=1e-9) is None


def test_a_pass_without_records_is_found_by_its_outputs() -> None:
    culprit = find(residual(), "batch_norm,sneaky,fuse")
    assert culprit is not None and culprit.label == "sneaky" and culprit.rewrite is None
    assert nodes(culprit.graph) == ["relu"] and "pass sneaky changes values" in culprit.text()


def test_a_rule_that_raises_is_shrunk_too() -> None:
    with pytest.raises(PassError, match="rule raises"):
        optimise(residual(), "raising")
    culprit = find(residual(), "batch_norm,raising")
    assert culprit is not None and culprit.label == "raising" and "nonsense" in culprit.error
    assert len(nodes(culprit.graph)) == 2 and "fails:" in culprit.text()


def test_shrinking_keeps_what_is_needed() -> None:
    """Two nodes far apart that must both stay: everything between them does, nothing else."""
    g = Graph("m")
    x = g.input(cnnir.TensorType("f32", (3,)), "x")
    y = g.add("exp", x)
    for _ in range(12):
        y = g.add("neg", y)
    y = g.add("add", y, g.add("tanh", g.add("sigmoid", x)))
    g.output(g.add("relu", y), "y")
    g.output(g.add("floor", x), "z")

    def fails(h: Graph) -> bool:
        return {"exp", "add"} <= set(nodes(h))

    small = shrink(g, fails)
    assert sorted(set(nodes(small))) == ["add", "exp", "neg"] and len(nodes(small)) == 14
    small.verify()
    assert len(evaluate(small, [np.zeros(3, "f4") for _ in small.inputs])) == 1
