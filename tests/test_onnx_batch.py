"""ONNX files for any batch size: `save_onnx(..., batch="N")`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from dsl_layers import CASES
from dsl_nets import NETS
from samples import assert_close
from test_dsl_layers import net_and_input, randomised
from test_onnx_export import canonical, runtime

import cnnir
from cnnir import nn
from cnnir.errors import UnsupportedError
from cnnir.evaluate import evaluate
from cnnir.frontends.onnx_export import export
from cnnir.frontends.onnx_import import load


@pytest.mark.parametrize("name", NETS)
def test_a_file_for_any_batch_size(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    net, path = randomised(make().build(shape)), tmp_path / "net.onnx"
    cnnir.save_onnx(net, path, batch="N")
    onnx.checker.check_model(path, full_check=True)
    graph = net.graph()
    again = cnnir.load(path, {v.name: v.type.shape for v in graph.inputs})
    assert canonical(again, graph) == graph.text(hints=False)
    x = np.random.default_rng(1).standard_normal((5, *shape[1:])).astype(np.float32)
    graph = net.graph(x.shape)
    key = str(graph.inputs[0].name)
    wanted = evaluate(graph, [x], dtype="f64")[0]
    assert_close(runtime(str(path), {key: x})[0], wanted, 1e-5)
    again = cnnir.load(path, {key: x.shape})
    assert canonical(again, graph) == graph.text(hints=False)


def test_layers_for_any_batch_size() -> None:
    for case in CASES:
        net, _ = net_and_input(case)
        model = export(net.graph(), batch="N")
        larger = (7, *case.shape[1:])
        again = load(model, {"x": larger})
        graph = net.graph(larger)
        assert canonical(again, graph) == graph.text(hints=False), case


ALONE = [
    (lambda x: x.reshape(3, -1),
     "node 'Function' (Reshape): 30 elements do not fit the shape [3, 4]"),
    (lambda x: x + np.ones((2, 6)),
     "node 'Function' (Add): add(f32[5,6], f32[2,6]): shapes [5, 6] and [2, 6] do not broadcast, "
     "wanted equal dimensions or 1"),
    (lambda x: x.mean(0), "output 'output' f32[6] becomes f32[6] for a batch of 5"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reason"), ALONE)
def test_what_is_for_one_batch_alone_is_refused(function, reason: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        export(nn.Function(function).graph((2, 6)), batch="N")
    wanted = f"the graph is for a batch of 2 alone, wanted batch=None: {reason}"
    assert str(caught.value) == wanted


def test_inputs_without_a_batch_in_common_are_refused() -> None:
    class Sum(nn.Module):
        def forward(self, x: nn.Tensor, y: nn.Tensor) -> nn.Tensor:
            return x + y

    both = Sum()
    assert export(both.graph((2, 3), (2, 1)), batch="N").graph.input[1].name == "y"
    with pytest.raises(UnsupportedError) as caught:
        export(both.graph((2, 3), (1, 3)), batch="N")
    assert str(caught.value) == "the inputs have no batch in common: [1, 2]"
