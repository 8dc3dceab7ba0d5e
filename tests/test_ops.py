"""Every op of the registry on its samples: what `Op` promises, and its error messages.

Values against other sources are in a test file for each family. Backends are not run here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from samples import RELATIVE, SAMPLES, Sample, assert_close, case_id, cases

from cnnir import text
from cnnir.errors import IRError
from cnnir.evaluate import evaluate, evaluate_node
from cnnir.ir import Graph
from cnnir.ops import OPS
from cnnir.tensortype import TensorType, is_float

CASES = cases()

# ---------------------------------------------------------------- over the registry


def test_every_op_has_samples() -> None:
    assert set(SAMPLES) == set(OPS)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_declaration(op: Any) -> None:
    assert op.__doc__ and op.__doc__.strip()[0] != " ", "the docstring is the documentation"
    ways = [op.scalar, op.element, op.procedure, op.decompose]
    assert op.view or any(ways) or "body" in op.attributes, "no way to make code of it"


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_infer_agrees_with_evaluate(name: str, sample: Sample) -> None:
    node = sample.node(name)
    arrays = sample.arrays(np.random.default_rng(0))
    if not any(t and t.dtype in ("f16", "bf16") for t in sample.types) and name != "fused":
        # directly, because evaluate_node converts to the inferred element type
        with np.errstate(all="ignore"):
            direct = OPS[name].evaluate(*arrays, **node.attrs)
        direct = direct if isinstance(direct, tuple) else (direct,)
        for value, array in zip(node.results, direct, strict=True):
            if value.type.dtype not in ("f16", "bf16"):  # those come as f32 from a cast
                assert TensorType.of(np.asarray(array)) == value.type
    for value, array in zip(node.results, evaluate_node(node, arrays), strict=True):
        assert TensorType.of(array) == value.type


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_evaluate_leaves_operands_alone(name: str, sample: Sample) -> None:
    arrays = sample.arrays(np.random.default_rng(0))
    before = [None if a is None else a.copy() for a in arrays]
    evaluate_node(sample.node(name), arrays)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_cost(name: str, sample: Sample) -> None:
    node = sample.node(name)
    cost = node.op.cost(node)
    assert min(cost.flops, cost.read, cost.written) >= 0
    if all(v.type.size for v in (*node.operands, *node.results) if v is not None):
        assert cost.read > 0 and cost.written > 0
        assert cost.flops > 0 or node.op.scalar is None


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_text_round_trip(name: str, sample: Sample) -> None:
    graph = sample.graph(name)
    read = text.parse(str(graph))
    read.verify()
    assert str(read) == str(graph)
    before, after = graph.outputs[0].node, read.outputs[0].node
    if "body" not in before.attrs:
        assert after.attrs == before.attrs
    assert [v.type for v in after.results] == [v.type for v in before.results]


def decomposed(name: str, sample: Sample, dtype: str | None) -> Graph:
    """The graph of the sample with its node replaced by what it decomposes into."""
    whole = sample.graph(name, dtype)
    node = whole.outputs[0].node
    inputs = {v: whole.inputs.index(v) for v in node.operands if v is not None}
    parts = Graph("parts")
    given = [parts.input(v.type, v.name) for v in whole.inputs]
    operands = [None if v is None else given[inputs[v]] for v in node.operands]
    results = node.op.decompose(parts, *operands, **node.attrs)
    for value in results if isinstance(results, tuple) else (results,):
        parts.output(value, f"y{len(parts.outputs)}")
    parts.verify()
    assert [v.type for v in parts.outputs] == [v.type for v in whole.outputs]
    return parts


DECOMPOSED = [case for case in CASES if OPS[case[0]].decompose is not None]


@pytest.mark.parametrize(("name", "sample"), DECOMPOSED, ids=case_id)
def test_decompose_agrees_with_evaluate_in_f64(name: str, sample: Sample) -> None:
    parts = decomposed(name, sample, "f64")
    arrays = [a for a in sample.arrays(np.random.default_rng(1)) if a is not None]
    wide = [a.astype(np.float64) if is_float(TensorType.of(a).dtype) else a for a in arrays]
    whole = evaluate(sample.graph(name, "f64"), wide)
    for wanted, got in zip(whole, evaluate(parts, wide), strict=True):
        assert_close(got, wanted, 1e-9)


@pytest.mark.parametrize(("name", "sample"), DECOMPOSED, ids=case_id)
def test_decompose_in_its_own_type(name: str, sample: Sample) -> None:
    parts = decomposed(name, sample, None)
    arrays = [a for a in sample.arrays(np.random.default_rng(2)) if a is not None]
    whole = evaluate(sample.graph(name), arrays)
    for value, wanted, got in zip(parts.outputs, whole, evaluate(parts, arrays), strict=True):
        assert_close(got, wanted, 4 * RELATIVE[value.type.dtype])


# ---------------------------------------------------------------- errors

BAD: list[tuple[str, tuple[str, ...], dict[str, Any], str]] = [
    ("add", ("f32[2]", "f32[3]"), {}, "do not broadcast"),
    ("add", ("f32[2]", "f64[2]"), {}, "element types f32, f64 differ"),
    ("add", ("bool[2]", "bool[2]"), {}, "wanted float or int"),
    ("sigmoid", ("i32[2]",), {}, "element type is i32, wanted float"),
    ("logical_and", ("i8[2]", "i8[2]"), {}, "wanted bool"),
    ("bitwise_and", ("f32[2]", "f32[2]"), {}, "wanted int"),
    ("where", ("i8[2]", "f32[2]", "f32[2]"), {}, "condition is i8, wanted bool"),
    ("where", ("bool[2]", "f32[2]", "f64[2]"), {}, "differ"),
    ("mod", ("f32[2]", "f32[2]"), {}, "wanted int unless fmod=True"),
    ("mod", ("i32[2]", "i32[2]"), {"fmod": 1}, "wanted True or False"),
    ("pow", ("bool[2]", "f32[2]"), {}, "element type is bool"),
    ("gelu", ("f32[2]",), {"approximate": "erf"}, "wanted 'none' or 'tanh'"),
    ("leaky_relu", ("f32[2]",), {"alpha": "x"}, "wanted a number"),
    ("clip", ("f32[2]",), {"lo": "x"}, "wanted a number or None"),
    ("clip", ("f32[2]",), {"hi": math.nan}, "wanted a number or None"),
    ("clip", ("i32[2]",), {"hi": 0.5}, "wanted a whole number"),
    ("cast", ("f32[2]",), {"dtype": "f8"}, "unknown element type"),
    ("cast", ("f32[2]",), {}, "missing attribute"),
    ("reduce_sum", ("f32[2,3]",), {"axes": (2,)}, "wanted increasing axes from 0 to 1"),
    ("reduce_sum", ("f32[2,3]",), {"axes": (1, 0)}, "wanted increasing axes"),
    ("reduce_sum", ("f32[2,3]",), {"axes": (-1,)}, "wanted increasing axes"),
    ("reduce_sum", ("f32[2,3]",), {"axes": 1}, "wanted increasing axes"),
    ("reduce_sum", ("bool[2,3]",), {"axes": (1,)}, "wanted float or int"),
    ("argmax", ("f32[2,0]",), {"axis": 1}, "axis 1 is empty"),
    ("argmax", ("f32[2,3]",), {"axis": 2}, "wanted one from 0 to 1"),
    ("cumsum", ("f32[2]",), {"axis": -1}, "wanted one from 0 to 0"),
    ("matmul", ("f32[2,3]", "f32[2,3]"), {}, "3 columns meet 2 rows"),
    ("matmul", ("f32[3]", "f32[3,2]"), {}, "wanted at least 2"),
    ("matmul", ("f32[2,4,3]", "f32[3,3,4]"), {}, "do not broadcast"),
    ("softmax", ("i32[2,3]",), {"axis": 1}, "wanted float"),
    ("batch_norm", ("f32[2,3]", *["f32[2]"] * 4), {}, "scale is f32[2], wanted f32[3]"),
    ("batch_norm", ("f32[2,3]", *["f32[3]"] * 4), {"epsilon": -1.0}, "wanted a number >= 0"),
    ("layer_norm", ("f32[2,3]", "f32[2]"), {"axis": 1}, "do not broadcast"),
    ("layer_norm", ("f32[2,1]", "f32[2,3]"), {"axis": 1}, "wanted what broadcasts to f32[2,1]"),
    ("group_norm", ("f32[2,6]", "f32[6]", "f32[6]"), {"groups": 4}, "wanted a divisor of the 6"),
    ("lrn", ("f32[2,3]",), {"size": 0}, "wanted an integer >= 1"),
    ("lrn", ("f32[3]",), {"size": 1}, "wanted at least 2"),
]


@pytest.mark.parametrize(("name", "types", "attrs", "message"), BAD)
def test_errors_name_op_types_and_want(
    name: str, types: tuple[str, ...], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(IRError) as caught:
        Sample(types, attrs).graph(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
