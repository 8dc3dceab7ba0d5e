"""Graph: building, editing, order, invariants; and the text form there and back."""

import networkx as nx
import numpy as np
import pytest

from cnnir.errors import InputError, IRError, ParseError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.tensortype import TensorType
from cnnir.text import parse

F = TensorType("f32", (2, 3))

BLOCK = """\
graph @block(%x: f32[2,3], %k: i64[2]) {
  param @w.a : f32[3]
  param @w.b : f32[2,3]
  %first = add(%x, @w.a) : f32[2,3]
  %0 = fused(%first, @w.b) body(%a: f32[2,3], %b: f32[2,3]) {
    %0 = mul(%a, %b) : f32[2,3]
    %1 = clip(%0) {hi=inf, lo=0.0} : f32[2,3]
    return %1
  } : f32[2,3]
  %v_best, %i_best = topk(%0) {axis=1, k=2} : f32[2,2], i64[2,2]
  %1 = gather(%v_best, %k) {axis=0} : f32[2,2]
  return %1, %i_best as ['y', 'strange name \\n']
}"""


def chain(length: int) -> Graph:
    g = Graph("chain")
    v = g.input(F, "x")
    for _ in range(length):
        v = g.add("relu", v)
    g.output(v, "y")
    return g


def test_text_is_a_fixed_point() -> None:
    g = parse(BLOCK)
    g.verify()
    assert str(g) == BLOCK
    canonical = g.text(hints=False)
    assert parse(canonical).text(hints=False) == canonical
    assert str(g.clone()) == BLOCK


def test_text_of_three_thousand_nodes_round_trips() -> None:
    text = str(chain(3000))
    assert str(parse(text)) == text


def test_names_from_outside_become_symbols() -> None:
    g = Graph("a b{}")
    x = g.input(F, "x) {\n evil")
    y = g.add("relu", x, name="12")
    g.output(g.add("relu", y, name="%s/../\u202e"), "out")
    assert str(parse(str(g))) == str(g)
    assert g.output_names == ["out"] and parse(str(g)).output_names == ["out"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "ends too early"),
        ("graph x", "wanted `graph @name"),
        ("graph @g(%x: f32[1]) {\n  %y = relu(%z) : f32[1]\n", "line 2.*%z is not defined"),
        ("graph @g(%x: f32[1]) {\n  %y = relu(%x) : f32[2]\n", "written f32\\[2\\], inferred"),
        ("graph @g(%x: f32[1]) {\n  %y = nothing(%x) : f32[1]\n", "there is no op 'nothing'"),
        ("graph @g(%x: f32[1]) {\n  %y = relu(%x) {a=1} : f32[1]\n", "unknown attribute"),
        ("graph @g(%x: f32[1]) {\n  %x = relu(%x) : f32[1]\n", "%x is defined twice"),
        ("graph @g(%x: f32[1]) {\n  what is this\n", "wanted a param, a node or a return"),
        ("graph @g(%x: f32[1]) {\n  return %x\n}\nmore", "wanted `}` and the end"),
    ],
)
def test_parse_errors_name_the_line(text: str, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        parse(text)


def test_one_edge_serves_two_uses_of_one_value() -> None:
    g = Graph()
    x = g.input(F, "x")
    y = g.add("mul", x, x)
    g.output(y)
    assert g.nx.number_of_edges() == 1 and len(g.users(x)) == 2 and not g.sole_user(x)
    z = g.add("relu", x)
    g.replace(x, g.input(F, "other"))
    assert g.users(x) == [] and z.node.operands[0] is g.inputs[1]
    g.verify()


def test_order_depends_on_structure_not_on_history() -> None:
    g = Graph()
    x = g.input(F, "x")
    late, early = g.add("neg", x), g.add("relu", x)
    g.output(g.add("add", early, late))
    names = [n.name for n in g.order()]
    assert names == ["input", "relu", "neg", "add"]
    assert set(g.order()) == set(nx.topological_sort(g.nx))


def test_deep_graphs_do_not_recurse() -> None:
    g = chain(20_000)
    g.clone().verify()
    assert len(g.order()) == 20_001


def test_sweep_takes_dead_nodes_and_their_params() -> None:
    g = chain(2)
    g.add("add", g.outputs[0], g.param("w", np.ones(3, np.float32)))
    assert g.sweep() == 1 and g.params == {} and len(g.nx) == 3


def test_params_get_fresh_names() -> None:
    g = Graph()
    names = [g.param("w", np.zeros(1)).name for _ in range(3)]
    assert names == ["w", "w~1", "w~2"] and list(g.params) == names


def test_provenance_marks_what_is_added_inside() -> None:
    g = Graph()
    x = g.input(F, "x")
    with g.provenance("conv1", "bn1", "conv1"):
        y = g.add("relu", x)
    assert y.node.sources == ("conv1", "bn1") and g.add("relu", y).node.sources == ()


def test_clone_is_independent() -> None:
    g = chain(3)
    copy = g.clone()
    copy.replace(copy.outputs[0], copy.inputs[0])
    copy.sweep()
    assert len(g.nx) == 4 and len(copy.nx) == 1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda g, x: g.add("add", x), "add: 1 operands, wanted x, y"),
        (lambda g, x: g.add("relu", None), "relu: 0 operands"),
        (lambda g, x: g.add("add", None, x), "required operand is missing"),
        (lambda g, x: g.add("transpose", x), "missing attribute"),
        (lambda g, x: g.add("clip", x, lo=np.zeros(2)), "cannot hold a ndarray"),
        (lambda g, x: g.add("add", x, Graph().input(F, "y")), "belongs to another graph"),
        (lambda g, x: g.input(F, "x"), "two inputs named 'x'"),
        (lambda g, x: (g.output(x, "y"), g.output(x, "y")), "two outputs named 'y'"),
        (lambda g, x: g.replace(x, g.constant(1.0)), "cannot replace"),
        (lambda g, x: g.add("add", x, g.constant(1)), r"add\(f32\[2,3\], i64\[\]\): element types"),
    ],
)
def test_building_errors(build, words: str) -> None:
    g = Graph()
    with pytest.raises(IRError, match=words):
        build(g, g.input(F, "x"))


def test_verify_finds_broken_invariants() -> None:
    g = chain(2)
    g.outputs[0].type = TensorType("f32", (9,))
    with pytest.raises(IRError, match="stored types differ"):
        g.verify()
    g = chain(2)
    g.nx.remove_edge(g.inputs[0].node, g.order()[1])
    with pytest.raises(IRError, match="edges disagree"):
        g.verify()
    g = Graph()
    g.output(g.param("w", np.ones(3, np.float32)), "y")
    g.params["w"] = np.ones(4, np.float32)
    with pytest.raises(IRError, match="array and type disagree"):
        g.verify()


def test_evaluate_in_f64_keeps_what_f32_rounds() -> None:
    g = parse("graph @g(%x: f32[1]) {\n  %y = cast(%x) {dtype='f32'} : f32[1]\n  return %y\n}")
    third = np.array([1 / 3])
    assert evaluate(g, [third], dtype="f64")[0] == third
    assert evaluate(g, [third])[0] == np.float32(1 / 3)


def test_evaluate_names_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"inputs \['z'\] given, wanted \['x'\]"):
        evaluate(chain(1), {"z": np.zeros((2, 3), np.float32)})


def test_a_body_is_evaluated_like_the_ops_in_it() -> None:
    g = parse(BLOCK, seed=3)
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal((2, 3)).astype(np.float32), np.array([1, 0])
    y, index = evaluate(g, {"x": x, "k": k})
    middle = np.maximum((x + g.params["w.a"]) * g.params["w.b"], 0)
    order = np.argsort(-middle, axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(y, np.take_along_axis(middle, order, 1)[[1, 0]])
