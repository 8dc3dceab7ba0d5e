"""The ONNX importer's walk: names, order, folding, symbolic dimensions, sub-graphs, functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import F32, imported, info, model, node, ops, refused, values

from cnnir import errors
from cnnir.frontends.onnx_import import load

X = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)


def test_names_and_provenance_are_kept():
    proto = model(
        [node("Add", ["x", "w"], ["t"], name="plus"), node("Relu", ["t"], name="")],
        constants={"w": np.ones((2, 3), np.float32)},
    )
    graph = imported(proto)
    assert graph.name == "test"
    assert [v.name for v in graph.inputs] == ["x"] and graph.output_names == ["y"]
    assert list(graph.params) == ["w"]
    add, relu = (n for n in graph.order() if n.kind == "op")
    assert (add.sources, relu.sources) == (("plus",), ("Relu_1",))
    assert add.results[0].name == "t" and relu.results[0].name == "y"


def test_sources_of_all_kinds(tmp_path):
    proto = model([node("Relu", ["x"])])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    texts = {str(load(s)) for s in (path, str(path), path.read_bytes(), proto)}
    assert len(texts) == 1


def test_the_model_given_is_not_changed():
    proto = model([node("Identity", ["w"], ["v"]), node("Add", ["x", "v"])], constants={"w": X})
    before = proto.SerializeToString()
    load(proto)
    assert proto.SerializeToString() == before


def test_identity_shares_a_param():
    proto = model(
        [node("Identity", ["w"], ["v"]), node("Add", ["x", "w"], ["a"]), node("Mul", ["a", "v"])],
        constants={"w": X},
    )
    graph = imported(proto)
    assert list(graph.params) == ["w"] and ops(graph) == ["add", "mul"]


def test_an_input_can_be_an_output_and_unused():
    proto = model([], [info("x"), info("z")], [info("x")])
    graph = imported(proto)
    assert [v.name for v in graph.inputs] == ["x", "z"]
    np.testing.assert_array_equal(values(proto, X, X)[0], X)


def test_initializers_that_are_inputs_are_params():
    proto = model([node("Add", ["x", "w"])], [info("x"), info("w")], constants={"w": X})
    proto.ir_version = 3
    graph = imported(proto)
    assert [v.name for v in graph.inputs] == ["x"]
    np.testing.assert_array_equal(values(proto, X)[0], X + X)
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 7
    refused(proto, "initializer 'w'", "[2, 3]", "declares [7,3]")


def test_unsorted_nodes_are_sorted():
    proto = model([node("Relu", ["t"]), node("Neg", ["x"], ["t"])])
    np.testing.assert_array_equal(values(proto, X)[0], np.maximum(-X, 0))


def test_dead_nodes_are_dropped_even_if_unsupported():
    proto = model([node("Relu", ["x"]), node("Det", ["x"], ["z"])])
    assert ops(imported(proto)) == ["relu"]


def test_a_long_chain_and_a_deep_diamond():
    names = ["x", *(f"t{i}" for i in range(4999)), "y"]
    chain = [node("Relu", [a], [b], name="") for a, b in itertools.pairwise(names)]
    assert len(ops(imported(model(chain)))) == 5000
    chain = [
        node("Add", [a, a], [b]) for a, b in zip(names[:200], [*names[1:200], "y"], strict=True)
    ]
    assert len(ops(imported(model(chain)))) == 200


# ---------------------------------------------------------------------- constants


def test_arithmetic_on_shapes_becomes_constant():
    proto = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Concat", ["n1", "rest"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"]),
        ],
        [info("x", (4, 3, 5))],
        constants={"zero": np.int64(0), "axes": np.array([0]), "rest": np.array([-1])},
    )
    graph = imported(proto)
    assert ops(graph) == ["reshape"] and not graph.params
    assert graph.outputs[0].type.shape == (4, 15)


def test_folded_constants_take_the_name_of_the_output():
    proto = model([node("Add", ["a", "a"], ["s"]), node("Mul", ["x", "s"])], constants={"a": X})
    graph = imported(proto)
    assert list(graph.params) == ["s"] and ops(graph) == ["mul"]
    np.testing.assert_array_equal(graph.params["s"], X + X)


def test_large_constants_stay_nodes():
    proto = model(
        [node("ConstantOfShape", ["n"], ["c"]), node("Add", ["x", "c"])],
        [info("x", (1, 1))],
        constants={"n": np.array([2048, 1024])},
    )
    assert ops(imported(proto)) == ["expand", "add"]


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(X)}, X),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, np.array([7, 8])),
    ],
)
def test_every_form_of_constant(attribute, expected):
    proto = model([node("Constant", [], **attribute)], [])
    (got,) = values(proto)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_sparse_constants_and_initializers():
    data = numpy_helper.from_array(np.array([5, 6], np.float32), "s")
    for indices in (np.array([1, 5]), np.array([[0, 1], [1, 2]])):
        sparse = helper.make_sparse_tensor(data, numpy_helper.from_array(indices, "i"), [2, 3])
        expected = np.array([[0, 5, 0], [0, 0, 6]], np.float32)
        proto = model([node("Constant", [], sparse_value=sparse)], [])
        np.testing.assert_array_equal(values(proto)[0], expected)
        proto = model([node("Add", ["x", "s"])], sparse_initializer=[sparse])
        np.testing.assert_array_equal(values(proto, X)[0], X + expected)


def test_what_must_be_constant_is_unsupported_at_run_time():
    proto = model([node("Reshape", ["x", "s"])], [info("x"), info("s", (1,), TensorProto.INT64)])
    refused(proto, "Reshape: shape given at run time", "'reshape'", error=errors.UnsupportedError)


# ---------------------------------------------------------------------- dimensions


def test_symbolic_dimensions():
    nodes = [node("Add", ["x", "z"])]
    proto = model(nodes, [info("x", ("n", "c", 4)), info("z", ("n", "c", 4))])
    graph = imported(proto, shapes={"x": (3, 5, 4)})
    assert [v.type.shape for v in graph.inputs] == [(3, 5, 4), (3, 5, 4)]
    message = refused(proto, "dimension 1 ('c') of input 'x'", error=errors.InputError)
    assert "shapes={'x'" in message
    clash = {"x": (3, 5, 4), "z": (2, 5, 4)}
    refused(proto, "'n' is 3", error=errors.InputError, shapes=clash)


def test_the_batch_is_one_unless_bound():
    for batch in ("n", None):
        proto = model([node("Relu", ["x"])], [info("x", (batch, 3))])
        assert imported(proto).inputs[0].type.shape == (1, 3)
        assert imported(proto, shapes={"x": [7, 3]}).inputs[0].type.shape == (7, 3)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"q": (1,)}, ("no input 'q'", "'x'")),
        ({"x": (2,)}, ("'x'", "rank 2")),
        ({"x": (2, 4)}, ("dimension 1 of input 'x' is 4", "3")),
        ({"x": (2, -3)}, ("'x'", ">= 0")),
        ({"x": (2, 3.0)}, ("'x'", "integers")),
    ],
)
def test_shapes_that_do_not_fit(shapes, words):
    proto = model([node("Relu", ["x"])])
    refused(proto, *words, error=errors.InputError, shapes=shapes)


def test_an_input_without_a_shape_needs_one():
    proto = model([node("Relu", ["x"])], [info("x", None)])
    refused(proto, "'x' has no shape", error=errors.InputError)
    assert imported(proto, shapes={"x": (4,)}).inputs[0].type.shape == (4,)


@pytest.mark.parametrize("where", ["value_info", "output"])
def test_declared_types_are_checked(where):
    for declared, words in (
        (info("t", (2, 4)), ("[2, 3]", "[2,4]")),
        (info("t", (2,)), ("[2, 3]", "[2]")),
        (info("t", (2, 3), TensorProto.INT8), ("f32[2,3]", "element type i8")),
    ):
        nodes = [node("Relu", ["x"], ["t"])]
        if where == "output":
            refused(model(nodes, outputs=[declared]), "'t'", *words)
        else:
            nodes.append(node("Neg", ["t"]))
            refused(model(nodes, value_info=[declared]), "'relu' (Relu)", "'t'", *words)
    proto = model([node("Relu", ["x"], ["t"])], outputs=[info("t", ("a", None))])
    assert imported(proto).outputs[0].type.shape == (2, 3)


# ---------------------------------------------------------------------- what is missing


def test_everything_unsupported_is_listed_at_once():
    proto = model(
        [
            node("Unique", ["x"], ["a"], name="u0"),
            node("Unique", ["a"], ["b"], name="u1"),
            node("FluxCapacitor", ["b"], ["c"], name="flux\nsecond line"),
            node("Det", ["c"], ["d"]),
            node("Add", ["d", "x"]),
        ]
    )
    with pytest.raises(errors.UnsupportedError) as caught:
        imported(proto)
    assert caught.value.items == (
        "Unique: the operator is not supported (2: 'u0', 'u1')",
        "FluxCapacitor: no such operator (1: 'flux\\nsecond line')",
        "Det: the operator is not supported (1: 'det')",
    )


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (TensorProto.STRING, "string"),
        (TensorProto.INT4, "int4"),
        (TensorProto.FLOAT8E5M2, "float8"),
    ],
)
def test_element_types_that_are_not_supported(kind, word):
    proto = model([node("Identity", ["x"])], [info("x", (2,), kind)])
    refused(proto, word, "input 'x'", error=errors.UnsupportedError)


def test_a_sequence_input_is_unsupported():
    value = helper.make_tensor_sequence_value_info("x", F32, None)
    proto = model([node("SequenceLength", ["x"])], [value])
    refused(proto, "sequence", "input 'x'", error=errors.UnsupportedError)


def test_unknown_domains_are_named():
    proto = model([node("Foo", ["x"], domain="com.example")])
    refused(proto, "'com.example' is not imported")
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    refused(proto, "com.example.Foo: no such operator", error=errors.UnsupportedError)


def test_an_output_that_is_not_supported_only_matters_when_used():
    nodes = [node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m"])]
    constants = {"s": np.ones(3, np.float32)}
    refused(
        model(nodes, opset=9, constants=constants),
        "training outputs",
        error=errors.UnsupportedError,
    )
