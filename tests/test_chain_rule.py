"""The chain rule written out: formulas are evaluated and compared with differences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cnnir
from cnnir import nn
from cnnir.cli import app
from cnnir.mathematics.formulas import FORMULAS, Term, as_term
from cnnir.ops import OPS, Elementwise
from cnnir.ops.derivative import partials
from cnnir.tensortype import TensorType

SMOOTH = [
    "neg", "exp", "log", "sqrt", "reciprocal", "erf", "sin", "cos", "add", "sub", "mul", "div",
    "pow", "maximum", "minimum", "relu", "leaky_relu", "prelu", "elu", "selu", "sigmoid",
    "hard_sigmoid", "swish", "hard_swish", "tanh", "softplus", "mish", "gelu", "abs", "clip",
    "squared_error", "huber", "bce_with_logits", "kl_divergence",
]  # fmt: skip


def value(term: Any, **names: float) -> float:
    """The number that a formula's text stands for."""
    functions = {n: getattr(math, n) for n in ("exp", "log", "sqrt", "tanh", "sin", "cos", "erf")}
    functions |= {"max": max, "min": min, "abs": abs, "inf": math.inf, "is_nan": math.isnan}
    text = as_term(term).text.replace("^", "**")
    return float(eval(text, {"__builtins__": {}}, functions | names))


@pytest.mark.parametrize("name", SMOOTH)
def test_formulas_of_ops_and_of_their_derivatives(name: str) -> None:
    op: Any = OPS[name]
    assert issubclass(op, Elementwise)
    operands = ["x", "t", "s"][: max(op.required, 1)]
    attrs = {k: v for k, v in op.attributes.items() if isinstance(v, (int, float, str))}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        point = dict(zip(operands, rng.uniform(0.1, 0.9, len(operands)), strict=True))
        symbols = [Term(o, o) for o in operands]
        formula = op.scalar(FORMULAS, *symbols, **attrs)

        def exact(at: dict[str, float]) -> float:
            return float(op.evaluate(*(np.float64(at[o]) for o in operands), **attrs))

        assert value(formula, **point) == pytest.approx(exact(point), rel=1e-4, abs=1e-6)
        slopes = partials(op, FORMULAS, Term("y", "y"), symbols, attrs)
        for operand, slope in zip(operands, slopes, strict=True):
            ahead, behind = (point | {operand: point[operand] + e} for e in (1e-6, -1e-6))
            wanted = (exact(ahead) - exact(behind)) / 2e-6
            found = value(slope, **point, y=exact(point))
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4), (operand, slope)
        latex = as_term(formula).latex + "".join(as_term(s).latex for s in slopes)
        assert latex.count("{") == latex.count("}") and latex.count(r"\left") == latex.count(
            r"\right"
        )


def small_net() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.dense = nn.Dense(3)

        def forward(self, x: nn.Tensor, t: nn.Tensor) -> nn.Tensor:
            d = nn.sigmoid(self.dense(x)) - t
            return (d * d).sum()

    return Net().build((2, 4), (2, 3))


def test_every_step_back_is_shown() -> None:
    rule = cnnir.chain_rule(small_net())
    text = str(rule)
    for line in (
        "= matmul(x, dense.weight)    [dense]", "= 1 / (1 + exp(-y2))",
        "dy2           = dy3 * y3 * (1 - y3)", "ddense.weight = x' dy1",
        "ddense.bias   = dy2 summed over what was repeated", "dt            = -dy4",
        "dx            = dy1 dense.weight'", "dy4           = dy5 * y4 + dy5 * y4",
    ):  # fmt: skip
        assert line in text, text
    latex = rule.latex()
    assert r"\frac{\partial L}{\partial y_{2}} &= \frac{\partial L}{\partial y_{3}}" in latex
    assert latex.count(r"\begin{aligned}") == 2 == latex.count(r"\end{aligned}")


def test_the_derivatives_are_those_of_gradient() -> None:
    """The lines, followed with numpy by hand, give what `cnnir.gradient` gives."""
    net = small_net()
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 4)), rng.standard_normal((2, 3))
    graph = net.graph()
    slopes = cnnir.gradient(graph, wrt=["x", "dense.bias"], outputs=False)
    by_x, by_bias = cnnir.evaluate(slopes, [x, t], "f64")
    w, b = (np.asarray(net.params[f"dense.{n}"], np.float64) for n in ("weight", "bias"))
    y3 = 1 / (1 + np.exp(-(x @ w + b)))
    y4 = y3 - t
    dy2 = (y4 + y4) * y3 * (1 - y3)
    np.testing.assert_allclose(by_x, dy2 @ w.T)
    np.testing.assert_allclose(by_bias, dy2.sum(0))


def test_formulas_of_the_derived_graphs_are_right() -> None:
    """Of a net of single numbers every line can be worked out, up to the second derivative."""
    graph = cnnir.Graph("g")
    x, w = (graph.input(TensorType("f64", ()), name) for name in "xw")
    hidden = graph.add("sigmoid", graph.add("mul", x, graph.add("exp", w)))
    graph.output(graph.add("mul", graph.add("sin", hidden), graph.add("tanh", x)), "f")
    rule = cnnir.chain_rule(graph, second=True)
    at = {"x": 0.7, "w": -0.4, "tx": 1.3, "tw": -0.8, "dL": 1.0}
    for line in rule.lines:
        if line.forward is not None:
            at[line.name] = value(line.forward, **at)
    for line in reversed(rule.lines[:-1]):
        by_hand = sum(value(term, **at) for term in line.backward)
        at[f"d{line.name}"] = value(line.derived, **at)
        assert at[f"d{line.name}"] == pytest.approx(by_hand, rel=1e-12)
    for name, formula in rule.second:
        at[name.text] = value(formula, **at)
    feeds = {n: np.float64(at[n]) for n in ("x", "w")}
    moving = feeds | {f"tangent.{n}": np.float64(at[f"t{n}"]) for n in ("x", "w")}
    wanted = cnnir.evaluate(cnnir.hvp(graph, "f", ["x", "w"]), moving)
    found = [at[n] for n in ("L", "dx", "dw", "tdx", "tdw")]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)  # formulas show 6 digits of numbers
    latex = rule.latex()
    assert (
        latex.count(r"\begin{aligned}") == 3 and r"\dot{\frac{\partial L}{\partial x}} &=" in latex
    )


def test_the_graph_stands_beside_the_formulas() -> None:
    text = str(cnnir.chain_rule(small_net(), second=True))
    assert "ddense.weight = x' dy1" in text and "matmul(transpose(x), dy" in text
    lines = {line.split(" = ")[0].strip(): line.split(" = ")[1] for line in text.splitlines()
             if line.startswith("  t")}  # fmt: skip
    assert lines["ty1"] == "matmul(tx, dense.weight) + matmul(x, tdense.weight)"
    assert lines["ty4"] == "ty3 - tt" and "tdx" in lines and "tx" not in lines


def test_of_has_to_be_an_output() -> None:
    graph = cnnir.Graph("g")
    x = graph.input(TensorType("f32", (2,)), "x")
    graph.output(graph.add("exp", x), "a")
    graph.output(graph.add("sin", x), "b")
    with pytest.raises(cnnir.InputError, match="there is no output None; there is a, b"):
        cnnir.chain_rule(graph)
    assert "dx = dL * L" in " ".join(str(cnnir.chain_rule(graph, "a")).split())


def test_the_command(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    cnnir.save_onnx(nn.Sequential(nn.Conv(2, 3), nn.ReLU()).build((1, 1, 5, 5)), model)
    done = CliRunner().invoke(app, ["explain", str(model), "--json"])
    found = json.loads(done.stdout)
    assert [line["forward"] for line in found["lines"]][-1] == "max(y1, 0)"
    assert {"derived", "type"} <= set(found["lines"][0]) and found["second"] == {}
    done = CliRunner().invoke(app, ["explain", str(model), "--second", "--json"])
    assert "tdx" in json.loads(done.stdout)["second"]
    done = CliRunner().invoke(app, ["explain", str(model), "--latex"])
    assert r"\begin{aligned}" in done.stdout
