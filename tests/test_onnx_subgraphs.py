"""If, Loop and model-local functions, which the importer all replaces by what they do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import imported, info, model, node, ops, refused, values

from cnnir import errors

X = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)


def _branch(name: str, *nodes: object) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_empty_tensor_value_info("r")])


def _if(condition: str) -> onnx.NodeProto:
    then = _branch("then", node("Relu", ["x"], ["r"]))
    other = _branch("else", node("Neg", ["h"], ["r"]))
    return node("If", [condition], then_branch=then, else_branch=other)


@pytest.mark.parametrize("taken", [True, False])
def test_if_with_a_constant_condition(taken):
    proto = model([node("Abs", ["x"], ["h"]), _if("c")], constants={"c": np.array(taken)})
    graph = imported(proto)
    assert ops(graph) == (["relu"] if taken else ["abs", "neg"])
    assert graph.outputs[0].node.sources == ("if/relu" if taken else "if/neg", "if")


def test_if_with_a_condition_at_run_time_chooses():
    condition = info("c", (), TensorProto.BOOL)
    proto = model([node("Abs", ["x"], ["h"]), _if("c")], [info("x"), condition])
    for taken in (True, False):
        expected = np.maximum(X, 0) if taken else -np.abs(X)
        np.testing.assert_array_equal(values(proto, X, np.array(taken))[0], expected)


def test_if_branches_of_different_types_are_unsupported():
    other = _branch("else", node("Flatten", ["x"], ["r"], axis=0))
    chosen = node(
        "If", ["c"], then_branch=_branch("then", node("Relu", ["x"], ["r"])), else_branch=other
    )
    proto = model([chosen], [info("x"), info("c", (), TensorProto.BOOL)])
    refused(proto, "If: condition given at run time", "f32[1,6]", error=errors.UnsupportedError)


def test_a_loop_of_known_length_is_unrolled():
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["still"]),
            node("Add", ["state", "state"], ["next"]),
            node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [info("i", (), TensorProto.INT64), info("going", (), TensorProto.BOOL), info("state")],
        [info("still", (), TensorProto.BOOL), info("next"), info("seen")],
    )
    nodes = [node("Loop", ["n", "", "x"], ["last", "y"], body=body)]
    for count in (1, 3):
        proto = model(nodes, constants={"n": np.int64(count)})
        expected = np.stack([X * 2 ** (i + 1) for i in range(count)])
        np.testing.assert_array_equal(values(proto, X)[0], expected)
    proto = model(nodes, constants={"n": np.int64(2**62)})
    refused(proto, "Loop: more than 256 iterations", error=errors.UnsupportedError)


def _with_functions(nodes, *functions, **arguments):
    proto = model(nodes, **arguments)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.functions.extend(functions)
    return proto


def _function(name, inputs, outputs, nodes, attributes=(), **more):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, outputs, nodes, opsets, attributes, **more)


def test_functions_are_inlined():
    leaky = node("LeakyRelu", ["a"], ["b"])
    reference = onnx.AttributeProto(
        name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT
    )
    leaky.attribute.append(reference)
    inner = _function("Inner", ["a"], ["b"], [leaky], ["slope"])
    call = node("Inner", ["p"], ["q"], domain="local")
    call.attribute.append(
        onnx.AttributeProto(name="slope", ref_attr_name="s", type=onnx.AttributeProto.FLOAT)
    )
    default = [helper.make_attribute("s", 0.5)]
    outer = _function("Outer", ["p"], ["q"], [call], attribute_protos=default)
    for given, slope in (({}, 0.5), ({"s": 0.25}, 0.25)):
        proto = _with_functions([node("Outer", ["x"], domain="local", **given)], inner, outer)
        np.testing.assert_array_equal(values(proto, X)[0], np.where(X > 0, X, X * slope))
    assert imported(proto).outputs[0].node.sources == (
        "outer/inner/leakyrelu",
        "outer/inner",
        "outer",
    )


def test_a_function_does_not_see_the_names_outside():
    function = _function("F", ["a"], ["b"], [node("Add", ["a", "x"], ["b"])])
    proto = _with_functions([node("F", ["x"], domain="local")], function)
    refused(proto, "'f/add' (Add)", "'x' is not defined")


def test_an_optional_function_input_may_be_left_out():
    body = [node("Clip", ["a", "low", "high"], ["b"])]
    function = _function("F", ["a", "low", "high"], ["b"], body)
    proto = _with_functions(
        [node("F", ["x", "", "zero"], domain="local")], function, constants={"zero": np.float32(0)}
    )
    np.testing.assert_array_equal(values(proto, X)[0], np.minimum(X, 0))


def test_functions_that_call_themselves():
    one = _function("F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="local")])
    refused(_with_functions([node("F", ["x"], domain="local")], one), "'F' is recursive")
    one = _function("F", ["a"], ["b"], [node("G", ["a"], ["b"], domain="local")])
    two = _function("G", ["a"], ["b"], [node("F", ["a"], ["b"], domain="local")])
    refused(_with_functions([node("F", ["x"], domain="local")], one, two), "is recursive")
    refused(_with_functions([node("Relu", ["x"])], one, one), "function 'F' is defined twice")


def test_a_function_bomb_is_counted_before_it_goes_off():
    def level(i):
        if i == 40:
            return _function(f"F{i}", ["a"], ["b"], [node("Relu", ["a"], ["b"])])
        calls = [
            node(f"F{i + 1}", ["a"], ["t"], domain="local"),
            node(f"F{i + 1}", ["t"], ["b"], domain="local"),
        ]
        return _function(f"F{i}", ["a"], ["b"], calls)

    proto = _with_functions([node("F0", ["x"], domain="local")], *map(level, range(41)))
    refused(proto, "functions expanded", "max_nodes=200000", error=errors.LimitError)


def test_calls_that_do_not_fit_their_function():
    function = _function("F", ["a"], ["b"], [node("Relu", ["a"], ["b"])])
    proto = _with_functions([node("F", ["x", "x"], domain="local")], function)
    refused(proto, "'f' (F)", "2 inputs given, the function has 1")
    proto = _with_functions([node("F", ["x"], ["y", "z"], domain="local")], function)
    refused(proto, "2 outputs given, the function has 1")
    proto = _with_functions([node("F", ["x"], domain="local", q=1)], function)
    refused(proto, "unknown attribute 'q'")
