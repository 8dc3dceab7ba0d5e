"""Malformed ONNX models: each rule of the importer has a model that breaks it, and its message."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper
from onnx_models import info, model, node, refused

from cnnir import errors
from cnnir.frontends.onnx_import import load

LIMIT = errors.LimitError


# ---------------------------------------------------------------------- container and header


def test_bytes_that_are_no_model():
    good = model([node("Relu", ["x"])]).SerializeToString()
    refused(b"", "empty")
    for data in (b"\x89PNG" * 50, good[:-1], good[: len(good) // 2], good + b"\xff" * 9):
        refused(data, "do not parse")
    refused(b"\xa2\x06\x01a", "no graph")


def test_a_path_that_cannot_be_read(tmp_path):
    for path, word in ((tmp_path / "absent.onnx", "No such file"), (tmp_path, "directory")):
        with pytest.raises(errors.ModelError, match=word):
            load(path)


@pytest.mark.parametrize("version", [0, -3, 9999, 2**63 - 1])
def test_opset_versions(version):
    refused(model([node("Relu", ["x"])], opset=version), f"opset version {version}")


def test_opset_imports():
    proto = model([node("Relu", ["x"])])
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refused(proto, "more than once", "21 and 13")
    del proto.opset_import[:]
    refused(proto, "imports no opset")


@pytest.mark.parametrize("version", [0, 9999])
def test_ir_versions(version):
    proto = model([node("Relu", ["x"])])
    proto.ir_version = version
    refused(proto, "version")


# ---------------------------------------------------------------------- graph


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Relu", ["y"])], ("'relu' (Relu)", "cycle")),
        ([node("Neg", ["b"], ["a"]), node("Abs", ["a"], ["b"]), node("Relu", ["x"])], ("cycle",)),
        ([node("Add", ["x", "q"])], ("'add' (Add)", "'q' is not defined")),
        ([node("Relu", ["x"], ["z"])], ("output 'y'", "not defined")),
        ([node("Relu", ["x"], ["x"])], ("'x' is defined twice",)),
        ([node("Relu", ["x"]), node("Neg", ["x"])], ("'neg'", "'y' is defined twice")),
        ([node("Relu", ["x"], ["y", "y"])], ("'y' is defined twice",)),
        ([node("Relu", ["x"], [])], ("'relu' (Relu)", "no output")),
        ([node("Relu", ["x"], ["y", "z"])], ("2 outputs", "at most 1")),
        ([node("Add", ["x"])], ("1 inputs", "required input B")),
        ([node("Add", ["", "x"])], ("required input A is left out",)),
        ([node("Relu", ["x", "x"])], ("2 inputs", "at most 1")),
        ([node("Concat", ["x", ""], axis=0), node("Relu", ["x"], ["z"])], ("left out",)),
    ],
)
def test_nodes_that_do_not_connect(nodes, words):
    if nodes[0].op_type == "Concat":
        nodes[0].input.append("x")
    refused(model(nodes), *words)


def test_names_defined_twice():
    relu = [node("Relu", ["x"])]
    refused(model(relu, [info("x"), info("x")]), "graph input 'x' is defined twice")
    proto = model(relu, constants={"w": np.ones(2)})
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, "initializer 'w' is defined twice")
    refused(model(relu, constants={"y": np.ones(2)}), "'relu'", "'y' is defined twice")
    refused(model(relu, outputs=[info("y"), info("y")]), "output 'y' is listed twice")
    refused(model(relu, outputs=[]), "no output")


def test_messages_show_names_escaped():
    message = refused(model([node("Add", ["x", "\x1b[31mred\n"], name="a\0b")]), "not defined")
    assert message.isprintable() and "\\x1b[31mred\\n" in message and "a\\x00b" in message


def test_operators_of_other_opsets():
    refused(model([node("Gelu", ["x"])], opset=13), "'gelu' (Gelu)", "since opset 20", "opset 13")
    refused(model([node("Upsample", ["x", "x"])], opset=10), "deprecated since opset 10")


def test_nested_subgraphs_are_limited():
    proto = model([], outputs=[info("r")], constants={"c": np.array(True)})
    graph = proto.graph
    for _ in range(60):  # in place: the protobuf parser itself refuses such depths
        made = graph.node.add(op_type="If", input=["c"], output=["r"])
        for name in ("then_branch", "else_branch"):
            attribute = made.attribute.add(name=name, type=AttributeProto.GRAPH)
            attribute.g.output.add(name="r")
        attribute.g.node.add(op_type="Relu", input=["x"], output=["r"])
        graph = made.attribute[0].g
    graph.node.add(op_type="Relu", input=["x"], output=["r"])
    with pytest.raises(LIMIT, match="nested deeper"):
        load(proto)


# ---------------------------------------------------------------------- types


def test_declared_inputs():
    relu = [node("Relu", ["x"])]
    refused(model(relu, [info("x", (2, -1))]), "input 'x'", "negative dimension")
    refused(model(relu, [info("x", (2,), 999)]), "input 'x'", "element type 999")
    refused(model(relu, [onnx.ValueInfoProto(name="x")]), "input 'x' has no type")
    refused(model(relu, [info("x", (1,) * 65)]), "rank 65")
    refused(model(relu, [info("x", (2**40,))]), "exceeds max_bytes", error=LIMIT)


def test_element_types_of_operands():
    other = [info("x"), info("i", (2, 3), TensorProto.INT32)]
    refused(model([node("Add", ["x", "i"])], other), "input B", "i32, wanted f32")
    refused(model([node("Where", ["x", "x", "x"])]), "input condition", "f32, wanted bool")
    refused(model([node("Cast", ["x"], to=999)]), "'cast' (Cast)", "element type 999")
    refused(model([node("Cast", ["x"], to=0)]), "'cast' (Cast)", "undefined")


# ---------------------------------------------------------------------- attributes


def _with_attribute(op, attribute, **attributes):
    made = node(op, ["x"], **attributes)
    made.attribute.append(attribute)
    return model([made])


def test_attributes():
    refused(model([node("Relu", ["x"], frobnicate=1)]), "unknown attribute 'frobnicate'")
    refused(model([node("Elu", ["x"], alpha=1)]), "attribute 'alpha'", "INT", "FLOAT")
    refused(model([node("Elu", ["x"], alpha="a")]), "attribute 'alpha'", "STRING", "FLOAT")
    refused(model([node("Elu", ["x"], alpha=[1.0])]), "attribute 'alpha'", "FLOATS", "FLOAT")
    refused(model([node("Cast", ["x"])]), "required attribute to")
    twice = _with_attribute("Elu", helper.make_attribute("alpha", 1.0), alpha=2.0)
    refused(twice, "duplicate attribute 'alpha'")
    refers = AttributeProto(name="alpha", ref_attr_name="a", type=AttributeProto.FLOAT)
    refused(_with_attribute("Elu", refers), "'alpha' refers to 'a'", "outside of functions")
    mixed = AttributeProto(name="alpha", i=3, type=AttributeProto.FLOAT)
    refused(_with_attribute("Elu", mixed), "tagged FLOAT but holds INT")
    strange = AttributeProto(name="alpha", i=3)
    refused(_with_attribute("Elu", strange), "'alpha'", "INT", "FLOAT")
    text = AttributeProto(name="approximate", s=b"\xff\xfe", type=AttributeProto.STRING)
    refused(_with_attribute("Gelu", text), "not UTF-8")


@pytest.mark.parametrize(
    ("op", "attributes", "words"),
    [
        ("Gelu", {"approximate": "bogus"}, ("approximate", "bogus", "tanh")),
        ("Softmax", {"axis": 2}, ("axis 2", "rank 2")),
        ("Softmax", {"axis": -(2**63)}, ("axis -9223372036854775808",)),
        ("Transpose", {"perm": [0, 9]}, ("perm [0, 9]",)),
        ("Transpose", {"perm": [0, 0]}, ("perm [0, 0]",)),
        ("Flatten", {"axis": 3}, ("axis 3",)),
        ("Concat", {"axis": 7}, ("axis 7",)),
        ("Split", {"num_outputs": 2}, ("num_outputs", "1 outputs")),
        ("MaxPool", {"kernel_shape": [2, 2]}, ("rank 2",)),
        ("LRN", {"size": 0}, ("size",)),
        ("LpNormalization", {"p": 3}, ("p must be 1 or 2",)),
        ("DepthToSpace", {"blocksize": 2}, ("rank 2",)),
        ("Constant", {}, ("exactly one",)),
        ("ReduceSum", {"axes": [0]}, ("unknown attribute 'axes'",)),
        ("ArgMax", {"axis": 2}, ("axis 2",)),
        ("Einsum", {"equation": "ij->>k"}, ("equation",)),
        ("Einsum", {"equation": "ijk->i"}, ("'ijk' for rank 2",)),
        ("Einsum", {"equation": "ij.->i"}, ("'ij.'",)),
        ("Einsum", {"equation": "ij->k"}, ("output that is not among",)),
        ("Einsum", {"equation": "ij,jk->ik"}, ("2 terms for 1",)),
    ],
)
def test_attribute_values(op, attributes, words):
    inputs = [] if op == "Constant" else ["x"]
    refused(model([node(op, inputs, **attributes)]), f"({op})", *words)


CONV = {"w": np.ones((4, 3, 3, 3), np.float32)}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"strides": [0, 1]}, ("strides must be >= 1", "[0, 1]")),
        ({"strides": [1, -1]}, ("strides must be >= 1",)),
        ({"strides": [1, 1, 1]}, ("strides has 3 entries, wanted 2",)),
        ({"dilations": [0, 1]}, ("dilations must be >= 1",)),
        ({"dilations": [2**31, 1]}, ("kernel",)),
        ({"pads": [-1, 0, 0, 0]}, ("pads must be >= 0",)),
        ({"pads": [1, 1]}, ("pads has 2 entries, wanted 4",)),
        ({"group": 0}, ("group must be >= 1",)),
        ({"group": -1}, ("group must be >= 1",)),
        ({"group": 3}, ("group",)),
        ({"kernel_shape": [5, 5]}, ("kernel_shape [5, 5]", "[3, 3]")),
        ({"auto_pad": "SAME_SIDEWAYS"}, ("auto_pad", "SAME_SIDEWAYS")),
        ({"auto_pad": "SAME_UPPER", "pads": [1, 1, 1, 1]}, ("auto_pad", "exclude each other")),
    ],
)
def test_convolution_attributes(attributes, words):
    proto = model(
        [node("Conv", ["x", "w"], **attributes)], [info("x", (1, 3, 6, 6))], constants=CONV
    )
    refused(proto, "'conv' (Conv)", *words)


def test_convolution_operands():
    proto = model([node("Conv", ["x", "w"])], [info("x", (1, 5, 6, 6))], constants=CONV)
    refused(proto, "'conv' (Conv)", "channel")
    refused(model([node("Conv", ["x", "w"])], constants=CONV), "rank 2", "[N,C,...]")
    constants = CONV | {"b": np.ones(3, np.float32)}
    proto = model([node("Conv", ["x", "w", "b"])], [info("x", (1, 3, 6, 6))], constants=constants)
    refused(proto, "'conv' (Conv)", "b")
    huge = node("Conv", ["x", "w"], pads=[2**20] * 4)
    refused(model([huge], [info("x", (1, 3, 6, 6))], constants=CONV), "too large", error=LIMIT)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"output_padding": [2, 0]}, ("output_padding [2, 0]", "strides")),
        ({"output_shape": [-5, 6]}, ("output_shape must be >= 0",)),
        ({"output_padding": [0, 0, 0]}, ("output_padding has 3 entries",)),
    ],
)
def test_transposed_convolution_attributes(attributes, words):
    proto = model(
        [node("ConvTranspose", ["x", "w"], **attributes)],
        [info("x", (1, 4, 6, 6))],
        constants=CONV,
    )
    refused(proto, "(ConvTranspose)", *words)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"kernel_shape": [0, 2]}, ("kernel_shape must be >= 1",)),
        ({"kernel_shape": [2]}, ("kernel_shape has 1 entries",)),
        ({"kernel_shape": [2, 2], "strides": [0, 1]}, ("strides must be >= 1",)),
        ({"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}, ("pads", "less than the kernel")),
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_attributes(op, attributes, words):
    refused(model([node(op, ["x"], **attributes)], [info("x", (1, 3, 6, 6))]), f"({op})", *words)


I64 = np.int64


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "words"),
    [
        ("Reshape", [np.array([-2, 3])], {}, ("invalid negative dimension",)),
        ("Reshape", [np.array([-1, -1])], {}, ("at most one -1",)),
        ("Reshape", [np.array([4, -1])], {}, ("6 elements do not divide",)),
        ("Reshape", [np.array([4, 4])], {}, ("6 elements do not fit",)),
        ("Reshape", [np.array([2, 3, 0])], {}, ("copies dimension 2 of rank 2",)),
        ("Reshape", [np.array([0, -1])], {"allowzero": 1}, ("allowzero=1",)),
        ("Reshape", [np.array([[6]])], {}, ("shape has rank 2",)),
        ("Squeeze", [np.array([0])], {}, ("not all of size 1",)),
        ("Unsqueeze", [np.array([1, 1])], {}, ("duplicate",)),
        ("Unsqueeze", [np.array([4])], {}, ("axes 4 is out of range",)),
        ("Expand", [np.array([4, 3])], {}, ("do not broadcast",)),
        ("Expand", [np.array([-4, 3])], {}, ("negative",)),
        ("Tile", [np.array([1])], {}, ("repeats [1] must have 2 entries",)),
        ("Tile", [np.array([1, -1])], {}, ("none negative",)),
        ("Pad", [np.array([1, 1])], {}, ("pads", "4 entries")),
        ("Pad", [np.array([-2, 0, -1, 0])], {}, ("crop more than",)),
        ("Pad", [np.array([1, 0, 1, 0])], {"mode": "bogus"}, ("mode", "bogus")),
        ("Slice", [np.array([0]), np.array([1, 1])], {}, ("one length",)),
        ("Slice", [np.array([0]), np.array([1]), np.array([5])], {}, ("axes 5",)),
        ("Slice", [np.array([0]), np.array([9]), np.array([0]), np.array([0])], {}, ("step",)),
        ("Slice", [np.array([0, 0]), np.array([1, 1]), np.array([0, -2])], {}, ("duplicate",)),
        ("Split", [np.array([3, -1])], {"axis": 0}, ("split", "none negative")),
        ("ReduceSum", [np.array([2])], {}, ("axes 2",)),
        ("ReduceSum", [np.array([0, -2])], {}, ("duplicate",)),
        ("TopK", [np.array([4])], {}, ("k is 4, wanted 0 to 3",)),
        ("CumSum", [I64(2)], {}, ("axis 2",)),
        ("Gather", [np.array([2])], {}, ("indices",)),
        ("CenterCropPad", [np.array([4])], {}, ("1 sizes for 2 axes",)),
        ("Clip", [np.zeros(2, np.float32)], {}, ("bound", "[2]")),
        ("MatMul", [np.ones((2, 3), np.float32)], {}, ("inner dimensions 3 and 2",)),
        ("MatMul", [np.float32(3)], {}, ("B is a scalar",)),
        ("Gemm", [np.ones((4, 5), np.float32)], {}, ("inner dimensions 3 and 4",)),
        ("Gemm", [np.ones(3, np.float32)], {}, ("B has rank 1, wanted 2",)),
        ("PRelu", [np.ones((2, 2), np.float32)], {}, ("prelu",)),
        ("Add", [np.ones((4, 3), np.float32)], {}, ("do not broadcast",)),
        ("LayerNormalization", [np.ones(3, np.float32)], {"axis": 9}, ("axis 9",)),
        ("Resize", [], {}, ("either scales or sizes",)),
    ],
)
def test_operands(op, operands, attributes, words):
    names = [f"c{i}" for i in range(len(operands))]
    outputs = {"Split": ["y", "z"], "TopK": ["y", "z"]}.get(op, ["y"])
    made = node(op, ["x", *names], outputs, **attributes)
    if op == "Gather":  # all constant, so that the index is looked at
        made.input[0] = "k"
    constants = dict(zip(names, operands, strict=True)) | {"k": np.ones((2, 3), np.float32)}
    refused(model([made], constants=constants), f"({op})", *words)


@pytest.mark.parametrize(
    ("scales", "sizes", "words"),
    [
        ([-1, 1], None, ("scales must be positive",)),
        ([np.nan, 1], None, ("scales must be positive",)),
        ([1], None, ("scales has shape [1]",)),
        (None, [0, 3], ("sizes [0, 3]", ">= 1")),
        ([1, 2], [2, 3], ("not both",)),
    ],
)
def test_resize_operands(scales, sizes, words):
    constants = {}
    if scales is not None:
        constants["s"] = np.array(scales, np.float32)
    if sizes is not None:
        constants["z"] = np.array(sizes)
    names = ["x", "", "s" if "s" in constants else "", "z" if "z" in constants else ""]
    refused(model([node("Resize", names)], constants=constants), "(Resize)", *words)


@pytest.mark.parametrize(
    ("op", "operands", "error", "words"),
    [
        ("ConstantOfShape", [np.array([2**44])], LIMIT, ("too large",)),
        ("ConstantOfShape", [np.array([-1])], errors.ModelError, ("negative",)),
        ("Range", [I64(0), I64(5), I64(0)], errors.ModelError, ("delta is 0",)),
        ("Range", [I64(-(2**63)), I64(2**63 - 1), I64(1)], LIMIT, ("too large",)),
        ("OneHot", [np.array([1]), I64(-2), np.ones(2)], errors.ModelError, ("depth",)),
        ("OneHot", [np.array([1]), I64(3), np.ones(3)], errors.ModelError, ("values", "[3]")),
        ("Expand", [np.ones(1), np.array([2**40, 2**40])], LIMIT, ("too large",)),
    ],
)
def test_constants_that_cannot_be(op, operands, error, words):
    names = [f"c{i}" for i in range(len(operands))]
    constants = dict(zip(names, operands, strict=True))
    proto = model([node(op, names)], [], constants=constants)
    refused(proto, f"({op})", *words, error=error)


def test_the_limits_are_parameters():
    proto = model([node("Relu", ["x"])])
    refused(proto, "max_bytes=8", error=LIMIT, max_bytes=8)
    refused(proto, "1 nodes", "max_nodes=0", error=LIMIT, max_nodes=0)
