"""`gradient` and `jvp` of whole graphs: values, names, what is built and what is not, errors."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_harness import check_derivatives
from gradient_nets import NETS, Net, lenet, normed

from cnnir import (
    OPS,
    Elementwise,
    GradientError,
    Graph,
    Op,
    TensorType,
    compile,
    evaluate,
    gradient,
    jvp,
    parse,
)
from cnnir.errors import RuntimeError
from cnnir.pipeline import optimise


def f64(*shape: int) -> TensorType:
    return TensorType("f64", shape)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("net", NETS)
def test_net_against_central_differences(net) -> None:
    graph, feeds = net(dtype="f64")
    check_derivatives(graph, feeds, ["x"])


@pytest.mark.parametrize("net", NETS)
def test_params_against_central_differences(net) -> None:
    graph, feeds = net(dtype="f64")
    step = gradient(graph)
    names = [n.removeprefix("grad.") for n in step.output_names[1:]]
    assert step.output_names[0] == "loss" and sorted(names) == sorted(graph.params)
    loss, *found = evaluate(step, feeds)
    assert loss == evaluate(graph, feeds)[0]
    rng = np.random.default_rng(5)
    directions = {n: rng.uniform(-1, 1, a.shape) for n, a in graph.params.items()}
    moved = []
    for sign in (1, -1):
        other = graph.clone()
        other.params = {n: a + sign * 1e-6 * directions[n] for n, a in graph.params.items()}
        moved.append(evaluate(other, feeds)[0])
    central = (moved[0] - moved[1]) / 2e-6
    ours = sum(np.sum(g * directions[n]) for n, g in zip(names, found, strict=True))
    assert abs(central - ours) <= 1e-6 * sum(np.abs(g).sum() for g in found)


@pytest.mark.parametrize("net", NETS)
def test_compiled_gradients_agree_with_evaluate(net) -> None:
    graph, feeds = net()
    step = gradient(graph, wrt=["x", *graph.params])
    wanted = evaluate(step, feeds, "f64")
    got = compile(step).run(feeds)
    largest = max(np.abs(w).max() for w in wanted)
    for name, value in zip(step.output_names, wanted, strict=True):
        bound = 1e-5 * max(np.abs(value).max(), 1e-3 * largest)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=bound, err_msg=name)


def test_passes_keep_the_values_of_a_gradient() -> None:
    graph, _ = lenet()
    step = gradient(graph, "loss", ["c1.w", "d2.b"])
    optimise(step, verify=True)


def test_gradient_of_gradient() -> None:
    graph, feeds = normed(dtype="f64")
    first = gradient(graph, "loss", ["x", "c0.w"], outputs=False)
    check_derivatives(first, feeds, ["x"])
    second = gradient(first, ["grad.c0.w"], ["x"], cotangents=True, outputs=False)
    assert second.output_names == ["grad.x"]
    assert evaluate(second, feeds | {"cotangent.grad.c0.w": np.ones((8, 4, 3, 3))})[0].any()


def test_hessian_of_a_quadratic_form() -> None:
    rng = np.random.default_rng(0)
    a, x = rng.standard_normal((4, 4)), rng.standard_normal((4, 1))
    g = Graph()
    v = g.input(f64(4, 1), "x")
    g.output(g.add("reduce_sum", g.add("mul", v, g.add("matmul", g.param("a", a), v)), axes=(0, 1)))
    slope = gradient(g, wrt="x", outputs=False)
    np.testing.assert_allclose(evaluate(slope, [x])[0], (a + a.T) @ x, rtol=1e-12)
    row = gradient(slope, wrt="x", cotangents=True, outputs=False)
    e = np.eye(4)[:, :1]
    got = evaluate(row, {"x": x, "cotangent.grad.x": e})[0]
    np.testing.assert_allclose(got, (a + a.T) @ e, rtol=1e-12)
    ahead = jvp(slope, "x", outputs=False)
    np.testing.assert_allclose(evaluate(ahead, {"x": x, "tangent.x": e})[0], got, rtol=1e-12)


def test_an_intermediate_value() -> None:
    g = Graph()
    x = g.input(f64(3), "x")
    square = g.add("mul", x, x, name="square")
    g.output(g.add("reduce_sum", g.add("exp", square), axes=(0,)), "y")
    d = gradient(g, "y", [square, x], outputs=False)
    at = np.array([0.1, -0.4, 1.0])
    by_square, by_x = evaluate(d, [at])
    np.testing.assert_allclose(by_square, np.exp(at**2))
    np.testing.assert_allclose(by_x, np.exp(at**2) * 2 * at)
    assert d.output_names == ["grad.square", "grad.x"]
    both = jvp(g, [square, x], "y", outputs=False)
    feeds = {"x": at, "tangent.square": np.ones(3), "tangent.x": np.ones(3)}
    np.testing.assert_allclose(evaluate(both, feeds)[0], [np.sum(by_square + by_x)])


def test_a_value_used_twice_and_an_operand_given_twice() -> None:
    g = Graph()
    x = g.input(f64(2, 2), "x")
    g.output(g.add("reduce_sum", g.add("matmul", x, x), axes=(0, 1), keepdims=False), "y")
    at = np.array([[1.0, 2.0], [3.0, 4.0]])
    (found,) = evaluate(gradient(g, wrt="x", outputs=False), [at])
    np.testing.assert_allclose(found, at.sum(1)[None] + at.sum(0)[:, None])
    check_derivatives(g, {"x": at})


# ---------------------------------------------------------------- what is built


def test_only_what_is_needed_is_built() -> None:
    graph, _ = lenet()
    whole = {n.name for n in gradient(graph).order()}
    head = gradient(graph, wrt=["d2.w", "d2.b"])
    assert "conv_weight_grad" in whole and "max_pool_grad" in whole
    assert not {n.name for n in head.order()} & {"conv_weight_grad", "max_pool_grad", "where"}
    # the last matrix and bias: transpose, matmul, a sum, and what cross-entropy needs
    extra = len(head.order()) - len(graph.order())
    assert extra < 20
    assert head.output_names == ["loss", "grad.d2.w", "grad.d2.b"]


def test_frozen_inputs_get_no_convolution() -> None:
    graph, _ = lenet()
    step = gradient(graph, wrt=["c1.w"])
    # c2's input gradient is a convolution, c1's is not needed
    convs = [n for n in step.order() if n.name in ("conv", "conv_transpose")]
    assert len(convs) == 2 + 1 + 1  # forward, through c2, through the average pool


def test_the_graph_is_left_alone_and_its_arrays_are_shared() -> None:
    graph, _ = lenet()
    before = graph.text()
    step = gradient(graph)
    assert graph.text() == before
    assert all(step.params[n] is a for n, a in graph.params.items())
    assert parse(step.text()).text() == step.text()


def test_provenance_is_that_of_the_forward_node() -> None:
    g = Graph()
    x = g.input(f64(1, 2, 5), "x")
    with g.provenance("conv1"):
        y = g.add("conv", x, g.param("w", np.ones((3, 2, 3))))
    g.output(g.add("reduce_sum", y, axes=(0, 1, 2), keepdims=False))
    sources = {n.sources for n in gradient(g).order() if n.name == "conv_weight_grad"}
    assert sources == {("conv1",)}


def test_what_does_not_matter_has_zeros() -> None:
    g = Graph()
    x, y = g.input(f64(2), "x"), g.input(f64(3), "y")
    g.output(g.add("reduce_sum", x, axes=(0,)), "s")
    (found,) = evaluate(gradient(g, wrt="y", outputs=False), {"x": np.ones(2), "y": np.ones(3)})
    np.testing.assert_array_equal(found, np.zeros(3))
    assert y.type == TensorType.of(found)


@pytest.mark.parametrize("op", ["floor", "ceil", "round", "sign"])
def test_steps_have_zero_gradients(op: str) -> None:
    g = Graph()
    x = g.input(f64(4), "x")
    g.output(g.add("reduce_sum", g.add("mul", g.add(op, x), x), axes=(0,)), "y")
    at = np.array([0.0, 0.3, -1.7, 2.0])
    (found,) = evaluate(gradient(g, wrt="x", outputs=False), [at])
    np.testing.assert_array_equal(found, OPS[op].evaluate(at))


def test_nothing_passes_through_integers() -> None:
    g = Graph()
    x = g.input(f64(4), "x")
    whole = g.add("cast", g.add("cast", x, dtype="i64"), dtype="f64")
    g.output(g.add("reduce_sum", g.add("add", whole, x), axes=(0,)), "y")
    (found,) = evaluate(gradient(g, wrt="x", outputs=False), [np.array([0.5, 1.5, 2.5, -3.5])])
    np.testing.assert_array_equal(found, np.ones(4))


def test_fused_nodes_are_taken_apart() -> None:
    graph, feeds = lenet()
    fused = graph.clone()
    optimise(fused)
    assert any(n.name == "fused" for n in fused.order())
    wanted = evaluate(gradient(graph, wrt="x"), feeds, "f64")
    for a, b in zip(evaluate(gradient(fused, wrt="x"), feeds, "f64"), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max())


def test_taken_names_are_numbered() -> None:
    graph, _ = lenet()
    once = gradient(graph, wrt="x")
    twice = gradient(once, "loss", "x")
    assert twice.output_names == ["loss", "grad.x", "grad.x~1"]


def test_half_precision_gradients_have_their_own_type() -> None:
    net = Net("half", 2, 3, 5, 5, dtype="f16")
    y = net.g.add("sigmoid", net.conv(net.x, "c", 4, 3))
    net.g.output(net.g.add("reduce_mean", y, axes=(0, 1, 2, 3), keepdims=False), "loss")
    step = gradient(net.g, wrt=["x", "c.w", "c.b"])
    assert {v.type.dtype for v in step.outputs} == {"f16"}
    feeds = {"x": net.rng.standard_normal((2, 3, 5, 5)).astype(np.float16)}
    for got, wanted in zip(evaluate(step, feeds), evaluate(step, feeds, "f64"), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.02, atol=0.01 * np.abs(wanted).max())


# ---------------------------------------------------------------- computing again


def deep(layers: int = 8) -> tuple[Graph, dict[str, np.ndarray]]:
    """Convolutions with smooth activations between them, which both need their operands."""
    net = Net("deep", 1, 8, 16, 16)
    x = net.x
    for k in range(layers):
        x = net.g.add("gelu", net.conv(x, f"c{k}", 8, 3, padding=1))
    net.g.output(net.g.add("reduce_mean", x, axes=(0, 1, 2, 3), keepdims=False), "loss")
    return net.g, {"x": net.rng.standard_normal((1, 8, 16, 16)).astype(np.float32)}


def test_recomputed_values_are_the_same_and_take_less_memory() -> None:
    graph, feeds = deep()
    checkpoints = {"c2.w", "c5.w"}

    def between(node) -> bool:
        return node.name == "gelu" or (
            node.name == "conv" and node.operands[1].name not in checkpoints
        )

    kept, again = gradient(graph), gradient(graph, recompute=between)
    for a, b in zip(evaluate(kept, feeds), evaluate(again, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    ops = [sum(n.name == "conv" for n in g.order()) for g in (kept, again)]
    assert ops[1] > ops[0]
    programs = [compile(g) for g in (kept, again)]
    results = [p.run(feeds) for p in programs]
    for name, a in results[0].items():
        np.testing.assert_allclose(results[1][name], a, rtol=0, atol=1e-5 * np.abs(a).max())
    assert programs[1].plan.arena_bytes < 0.6 * programs[0].plan.arena_bytes


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_any_choice_can_be_recomputed(net, every: int) -> None:
    graph, feeds = net(dtype="f64")
    nodes = iter(range(10**6))
    again = gradient(graph, recompute=lambda node: next(nodes) % every == 0)
    if every == 1:  # of the others there may be none that the way back uses
        assert any(n.name == "barrier" for n in again.order())
    for a, b in zip(evaluate(gradient(graph), feeds), evaluate(again, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------- ops of a user


@pytest.fixture
def own_ops():
    """Two ops of a user: one elementwise, one with a vjp of its own."""

    class Bump(Elementwise):
        """y = e^(-x^2) where |x| < 1, else x / 3."""

        name = "bump"

        def scalar(m, x, *, width=1.0):
            return m.select(m.abs(x) < width, m.exp(-(x * x)), x / 3.0)

    class Roll(Op):
        """x turned along its last axis."""

        name = "turn"

        def infer(x, *, shift):
            return x

        def evaluate(x, *, shift):
            return np.roll(x, shift, -1)

        def vjp(g, node, dy):
            return (g.add("turn", dy, shift=-node.attrs["shift"]),)

    class Broken(Op):
        """The identity, with a vjp that gives a wrong type."""

        name = "broken"

        def infer(x):
            return x

        def vjp(g, node, dy):
            return (g.add("reduce_sum", dy, axes=(0,)),)

    yield
    for name in ("bump", "turn", "broken"):
        del OPS[name]


def test_a_users_ops_are_differentiated(own_ops) -> None:
    g = Graph()
    x = g.input(f64(3, 7), "x")
    g.output(g.add("turn", g.add("bump", x, width=0.8), shift=2), "y")
    check_derivatives(g, {"x": np.random.default_rng(0).uniform(-2, 2, (3, 7))})


def test_a_wrong_vjp_is_found(own_ops) -> None:
    g = Graph()
    g.output(g.add("broken", g.input(f64(3), "x")), "y")
    with pytest.raises(GradientError, match=r"broken.*cotangent f64\[1\], wanted f64\[3\]"):
        gradient(g, wrt="x", cotangents=True)


# ---------------------------------------------------------------- errors


def test_errors_of_the_choice() -> None:
    graph, _ = lenet()
    for chosen, message in (
        ({"of": "los"}, "no output 'los'; there is loss"),
        ({"wrt": "c1.v"}, "no input or param 'c1.v'; there is c1.w"),
        ({"wrt": ["labels"]}, r"'labels' is i64\[3\]: only floats"),
    ):
        with pytest.raises(GradientError, match=message):
            gradient(graph, **chosen)  # type: ignore[arg-type]
    other, _ = lenet()
    with pytest.raises(GradientError, match="not a value that the outputs"):
        gradient(graph, wrt=other.inputs[0])
    graph.output(graph.outputs[0].node.operands[0], "logits")
    with pytest.raises(GradientError, match="2 outputs, loss, logits: wanted the name"):
        gradient(graph)
    with pytest.raises(GradientError, match=r"'logits', f32\[3,5\]: it is no single number"):
        gradient(graph, "logits")


def test_what_other_outputs_need_may_have_no_derivative() -> None:
    g = Graph()
    x, boxes = g.input(f64(1, 2, 5, 5), "x"), g.input(f64(3, 4), "boxes")
    members = g.constant(np.zeros(3, np.int64))
    regions = g.add("roi_align", x, boxes, members, mode="max", output_size=(2, 2))
    g.output(regions, "regions")
    g.output(g.add("reduce_sum", g.add("mul", x, x), axes=(0, 1, 2, 3), keepdims=False), "loss")
    assert gradient(g, "loss", "x").output_names == ["regions", "loss", "grad.x"]
    assert jvp(g, "x", "loss").output_names == ["regions", "loss", "tangent.loss"]
    with pytest.raises(GradientError, match="mode='avg' only"):
        jvp(g, "x")


def test_an_op_without_a_derivative_is_named_with_its_source() -> None:
    class Opaque(Op):
        """Known to nobody."""

        name = "opaque"

        def infer(x):
            return x

    try:
        g = Graph()
        with g.provenance("layer7"):
            y = g.add("opaque", g.input(f64(3), "x"))
        g.output(y, "y")
        with pytest.raises(GradientError, match=r"opaque\(f64\[3\]\).* from layer7.*no derivative"):
            gradient(g, wrt="x", cotangents=True)
    finally:
        del OPS["opaque"]


@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("label", [5, -1])
def test_a_label_out_of_range(target: str, label: int) -> None:
    graph, feeds = lenet()
    feeds["labels"][1] = label
    for made in (graph, gradient(graph, wrt="d2.w", outputs=False)):
        with pytest.raises(RuntimeError, match="labels"):
            compile(made, target).run(feeds)
