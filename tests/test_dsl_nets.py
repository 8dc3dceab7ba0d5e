"""Nets of cnnir.nn as wholes: names, sharing, weights, seeds, modes, summaries, compiling."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from dsl_nets import NETS, Burgers, ResidualBlock, lenet, resnet
from rich.console import Console
from samples import assert_close
from test_dsl_layers import randomised

import cnnir
from cnnir import InputError, IRError, nn
from cnnir.evaluate import evaluate


@pytest.mark.parametrize("name", NETS)
def test_nets_compile(name: str) -> None:
    make, shape = NETS[name]
    net = randomised(make().build(shape))
    graph = net.graph()
    graph.verify()
    assert cnnir.parse(str(graph)).text() == str(graph)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for precision, error in (("default", 1e-4), ("exact", 1e-5)):
        exe = cnnir.compile(net, threads=1, precision=precision)
        assert_close(exe(x), evaluate(graph, [x], dtype="f64")[0], error)
        exe.close()


def test_resnet_block_against_torch() -> None:
    torch = pytest.importorskip("torch")
    shape = (2, 4, 7, 7)
    net = randomised(ResidualBlock(6, 2).build(shape))
    p = {k: torch.tensor(v, dtype=torch.float64) for k, v in net.params.items()}
    f = torch.nn.functional

    def norm(x, name):
        running = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        return f.batch_norm(x, *running, p[f"{name}.weight"], p[f"{name}.bias"])

    x = np.random.default_rng(0).standard_normal(shape)
    t = torch.tensor(x)
    y = norm(f.conv2d(t, p["conv1.weight"], stride=2, padding=1), "norm1").relu()
    y = norm(f.conv2d(y, p["conv2.weight"], padding=1), "norm2")
    short = norm(f.conv2d(t, p["shortcut.conv.weight"], stride=2), "shortcut.norm")
    got = evaluate(net.graph(), [x], dtype="f64")[0]
    assert_close(got, (y + short).relu().numpy(), 1e-9)


def test_a_new_batch_size_is_compiled_when_it_comes() -> None:
    net = lenet().build((1, 1, 28, 28))
    exe = cnnir.compile(net)
    x = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)
    many = exe(x)
    assert many.shape == (3, 10)
    assert_close(many[1:2], exe(x[1:2]), 1e-6)
    assert net.graph().inputs[0].type.shape == (1, 1, 28, 28)  # still those of `build`
    exe.close()


# ---------------------------------------------------------------- names


def test_nodes_carry_the_names_of_their_layers() -> None:
    graph = resnet().graph((1, 3, 8, 8))
    sources = [s for node in graph.order() if node.op for s in node.sources]
    assert sources[:3] == ["stem.conv1", "stem.batch_norm1", "stem.relu1"]
    assert {"stage2.residual_block1.shortcut.norm", "stage1.residual_block2", "head"} <= {*sources}
    assert {n.name for n in graph.order() if n.sources == ("stage1.residual_block2",)} == {
        "add", "relu",
    }  # fmt: skip
    assert list(graph.params)[:2] == ["stem.conv1.weight", "stem.batch_norm1.weight"]
    assert "%stem.conv1 = conv(%x, @stem.conv1.weight)" in str(graph)


def test_names_of_attributes_lists_dicts_and_functions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.one = nn.Conv(2, 1)
            self.some = [nn.Conv(2, 1), nn.Conv(2, 1)]
            self.by_name = {"left": nn.Conv(2, 1)}
            self.tail = nn.Sequential(nn.relu, nn.Conv(2, 1), lambda x: 2.0 * x, last=nn.Conv(3, 1))

        def forward(self, x: nn.Tensor) -> nn.Tensor:
            for layer in (self.one, *self.some, self.by_name["left"]):
                x = layer(x)
            return self.tail(x)

    net = Net().build((1, 2, 3, 3))
    assert [n for n in net.params if n.endswith("weight")] == [
        "one.weight", "some.0.weight", "some.1.weight", "by_name.left.weight",
        "tail.conv1.weight", "tail.last.weight",
    ]  # fmt: skip
    assert [m.kind for m in net.tail.order] == ["relu", "conv", "function", "conv"]
    assert net.tail["conv1"] is net.tail[1] and len(net.tail[1:]) == 3


def test_branches_are_counted_or_have_names() -> None:
    net = nn.Branches(nn.Conv(2, 1), nn.ReLU(), wide=nn.Conv(3, 3, padding=1)).build((1, 4, 5, 5))
    assert list(net.params) == ["branch1.weight", "branch1.bias", "wide.weight", "wide.bias"]
    assert net.graph().outputs[0].type.shape == (1, 2 + 4 + 3, 5, 5)


def test_inputs_and_outputs_have_the_names_of_forward() -> None:
    class Two(nn.Module):
        def forward(self, image: nn.Tensor, mask: nn.Tensor) -> dict[str, nn.Tensor]:
            return {"kept": image * mask, "left": nn.where(mask > 0.5, image, 0.0)}

    shapes = {"mask": (1, 1, 4, 4), "image": (1, 3, 4, 4)}
    graph = Two().graph(shapes)
    assert [(v.name, v.type.shape) for v in graph.inputs] == [
        ("image", (1, 3, 4, 4)), ("mask", (1, 1, 4, 4)),
    ]  # fmt: skip
    assert graph.output_names == ["kept", "left"]
    exe = cnnir.compile(Two(), shapes=shapes)
    assert exe.input_names == ["image", "mask"]
    exe.close()
    assert Two().graph("f64[1,3,4,4]", "f64[1]").outputs[0].type.dtype == "f64"


# ---------------------------------------------------------------- sharing and weights


def test_a_layer_used_twice_is_one_set_of_weights() -> None:
    shared = nn.Conv(4, 3, padding=1)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    graph = net.graph((1, 4, 5, 5))
    assert list(net.params) == ["conv1.weight", "conv1.bias"] == list(graph.params)
    convolutions = [n for n in graph.order() if n.name == "conv"]
    assert len(convolutions) == 2 and convolutions[0].operands[1] is convolutions[1].operands[1]
    assert "Conv(4, 3, padding=1) x 2" in str(net.summary())
    net.params["conv1.weight"] = np.zeros((4, 4, 3, 3))
    net.params["conv1.bias"] = [1, -2, 3, -4]
    x = np.ones((1, 4, 5, 5), np.float32)
    got = evaluate(net.graph(), [x])[0]
    np.testing.assert_array_equal(got[0, :, 2, 2], [1, -2, 3, -4])


def test_recurrence_shares_its_stencil() -> None:
    graph = Burgers(5).graph((1, 1, 8))
    assert sum(n.name == "conv" for n in graph.order()) == 5
    assert [n for n in graph.params if not n.startswith("c")] == ["rate", "stencil.weight"]


def test_seeds_reproduce_weights() -> None:
    shape = (1, 3, 8, 8)
    first, same, other = (resnet().build(shape, seed=s) for s in (3, 3, 4))
    for name, array in first.params.items():
        np.testing.assert_array_equal(array, same.params[name])
    drawn = [n for n in first.params if n.endswith("weight") and "norm" not in n]
    assert drawn and all((first.params[n] != other.params[n]).all() for n in drawn)
    other.initialise(3)
    np.testing.assert_array_equal(other.params[drawn[0]], first.params[drawn[0]])
    # a weight's numbers depend on its own name alone
    longer = nn.Sequential(nn.Conv(2, 1), nn.Conv(4, 3)).build((1, 3, 8, 8), seed=3)
    shorter = nn.Sequential(nn.Conv(2, 1), nn.Conv(4, 3), nn.ReLU()).build((1, 3, 8, 8), seed=3)
    np.testing.assert_array_equal(longer.params["conv2.weight"], shorter.params["conv2.weight"])


def test_assigned_weights_reach_new_graphs_and_leave_old_ones() -> None:
    net = nn.Sequential(nn.Dense(2)).build((1, 3))
    old = net.graph()
    net.params["dense1.weight"] = np.full((3, 2), 2.0)
    assert net.params["dense1.weight"].dtype == np.float32
    assert (net.graph().params["dense1.weight"] == 2).all()
    assert not (old.params["dense1.weight"] == 2).any()
    with pytest.raises(ValueError, match="read-only"):
        net.params["dense1.weight"][0, 0] = 1
    with pytest.raises(InputError, match=r"is f32\[3,2\], an array \[2, 3\] is given"):
        net.params["dense1.weight"] = np.zeros((2, 3))
    with pytest.raises(InputError, match=r"'dense1.weight' is f32\[3,2\], complex128 is given"):
        net.params["dense1.weight"] = np.zeros((3, 2), complex)
    with pytest.raises(KeyError) as caught:
        net.params["dense1.wieght"]
    assert str(caught.value) == (
        "there is no parameter 'dense1.wieght'; close ones are dense1.weight, dense1.bias"
    )
    assert "dense1.bias" in net.params and "dense2.bias" not in net.params
    assert net.params.count == 8


def test_a_trace_that_fails_leaves_no_weights_behind() -> None:
    net = lenet()
    with pytest.raises(IRError, match="more than the padded size"):
        net.build((1, 1, 4, 4))
    net.build((1, 3, 28, 28))
    assert net.params["conv1.weight"].shape == (6, 3, 5, 5)


def test_freezing_a_part_keeps_it_from_training() -> None:
    net = resnet().build((2, 3, 8, 8))
    net["stem"].freeze()
    net["stage1"].freeze()
    traced = net.trace(training=True)
    assert not [n for n in (*traced.trainable, *traced.updates) if n[:6] in ("stem.c", "stage1")]
    assert "stage2.residual_block1.conv1.weight" in traced.trainable
    assert "stage2.residual_block1.norm1.running_mean" in traced.updates
    assert set(traced.params) <= set(net.params)


# ---------------------------------------------------------------- parts of other nets


def test_a_slice_of_a_net_keeps_names_and_weights() -> None:
    net = resnet().build((1, 3, 8, 8))
    body = net[:-1]
    assert [name for name, _ in body.children()] == ["stem", "stage1", "stage2", "pool"]
    tuned = nn.Sequential(body=body, head=nn.Dense(3)).build((1, 3, 8, 8))
    name = "stage1.residual_block1.conv1.weight"
    assert tuned.params[f"body.{name}"] is net.params[name]
    body.freeze()
    assert tuned.trace(training=True).trainable == ["head.weight", "head.bias"]


def test_an_imported_net_with_a_new_head(tmp_path: Path) -> None:
    net = randomised(resnet().build((1, 3, 8, 8)))
    cnnir.save_onnx(net, tmp_path / "net.onnx", batch="N")
    body = nn.Imported(tmp_path / "net.onnx", until="pool")
    tuned = nn.Sequential(body=body, head=nn.Dense(3)).build((2, 3, 8, 8))  # another batch
    assert not [n for n in tuned.params if n.startswith("body.head")]
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    wanted = evaluate(net[:-1].graph(x.shape), [x])[0] @ tuned.params["head.weight"]
    np.testing.assert_allclose(evaluate(tuned.graph(), [x])[0], wanted, rtol=1e-5, atol=1e-5)
    traced = tuned.trace(training=True)
    assert {"body.stem.conv1.weight", "body.stem.batch_norm1.bias"} <= set(traced.trainable)
    assert not [n for n in traced.trainable if "running" in n] and not traced.updates
    sources = {s for n in traced.graph.order() if n.op for s in n.sources}
    assert {"body.stem.conv1", "body.pool", "head"} <= sources
    body.freeze()
    assert tuned.trace(training=True).trainable == ["head.weight", "head.bias"]


def test_a_graph_as_a_layer_and_what_does_not_fit() -> None:
    graph = lenet().graph((1, 1, 28, 28))
    net = nn.Imported(graph)
    assert net.graph((1, 1, 28, 28)).text(hints=False) == graph.text(hints=False)
    with pytest.raises(IRError, match=r"'x' is f32\[1,1,28,28\] in the graph"):
        net.graph((2, 1, 28, 28))
    with pytest.raises(IRError, match="there is no 'dens1' in the graph; close ones are dense1"):
        nn.Imported(graph, until="dens1")
    with pytest.raises(IRError, match="2 inputs given, the graph takes x"):
        nn.Function(lambda x: net(x, x)).graph((1, 1, 28, 28))


# ---------------------------------------------------------------- looking at it


SUMMARY = """\
Sequential(x: f32[1,2,5,5])
layer        written                 gives         weights  operations
conv1        Conv(4, 3, bias=False)  f32[1,4,3,3]       72       1,296
batch_norm1  BatchNorm()             f32[1,4,3,3]       16          72
relu1        ReLU()                  f32[1,4,3,3]                   36
dropout1     Dropout()               f32[1,4,3,3]
flatten1     Flatten()               f32[1,36]
dense1       Dense(2)                f32[1,2]           74         146
162 weights (154 trainable, 648 bytes), 1,550 operations"""


def test_summary_in_plain_text() -> None:
    net = nn.Sequential(
        nn.Conv(4, 3, bias=False), nn.BatchNorm(), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Dense(2),
    )  # fmt: skip
    assert str(net.summary((1, 2, 5, 5))) == SUMMARY


def test_layers_print_as_they_were_written() -> None:
    block = nn.Residual(nn.Conv(3, 1, init=nn.zeros), nn.relu, shortcut=nn.Conv(3, 1))
    assert repr(block) == "Residual(..., relu, shortcut=...)"
    assert repr(nn.Sequential(nn.ReLU(), nn.ReLU(), last=nn.Conv(3, (1, 2), padding="same"))) == (
        "Sequential(..., last=...)"
    )
    assert repr(block.body[0]) == "Conv(3, 1, init=zeros)"
    assert [m.kind for m in (nn.PReLU(), nn.BatchNorm(), nn.GELU(), nn.SeparableConv(2, 3))] == [
        "prelu", "batch_norm", "gelu", "separable_conv",
    ]  # fmt: skip


def test_summary_as_a_rich_table() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(lenet().summary((1, 1, 28, 28)))
    text = console.export_text()
    assert "Conv(6, 5, padding=2)" in text and "61,706 weights" in text


def test_sketching_checks_shapes_as_one_writes() -> None:
    x = nn.symbol((1, 3, 32, 32))
    y = nn.Conv(8, 3)(x)
    assert y.shape == (1, 8, 30, 30) and repr(y) == "<tensor f32[1,8,30,30]>"
    assert nn.max_pool(y, 2)[:, :4].shape == (1, 4, 15, 15)
    assert y.graph is x.graph


# ---------------------------------------------------------------- operators on tensors


def test_operators_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.5, 2, (2, 3, 4)), rng.uniform(0.5, 2, (3, 1))
    table = rng.uniform(0.5, 2, (4, 2))
    written = [
        lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b,
        lambda a, b: a**b, lambda a, b: -a, lambda a, b: abs(b - a), lambda a, b: 2 - a,
        lambda a, b: 1 / a, lambda a, b: 3 + a * 2, lambda a, b: a**2, lambda a, b: a @ table,
        lambda a, b: table[:, :1].T * a, lambda a, b: a > b, lambda a, b: a <= b,
        lambda a, b: a < 1.0, lambda a, b: a >= 1, lambda a, b: a[0], lambda a, b: a[:, 1:],
        lambda a, b: a[..., ::-1], lambda a, b: a[:, None, -1, ::2], lambda a, b: a[1, 2, 3],
        lambda a, b: a[:, 2:1], lambda a, b: a[..., None], lambda a, b: a[:, :, 3:0:-2],
        lambda a, b: a.sum(), lambda a, b: a.mean(1), lambda a, b: a.max((0, -1)),
        lambda a, b: a.reshape(4, -1), lambda a, b: a.transpose(2, 0, 1), lambda a, b: a.min(),
    ]  # fmt: skip

    class All(nn.Module):
        def forward(self, a: nn.Tensor, b: nn.Tensor) -> list[nn.Tensor]:
            return [function(a, b) for function in written]

    graph = All().graph("f64[2,3,4]", "f64[3,1]")
    for number, got in enumerate(evaluate(graph, [a, b])):
        with np.errstate(all="ignore"):
            wanted = written[number](a, b)
        assert got.shape == np.shape(wanted), number
        np.testing.assert_allclose(got, wanted, rtol=1e-14, err_msg=str(number))


def test_functions_are_those_of_numpy() -> None:
    a = np.random.default_rng(0).uniform(-2, 2, (2, 3))
    pairs = [
        (nn.exp, np.exp), (nn.sin, np.sin), (nn.cos, np.cos), (nn.floor, np.floor),
        (nn.ceil, np.ceil), (nn.round, np.round), (nn.sign, np.sign),
        (lambda x: nn.log(abs(x)), lambda x: np.log(np.abs(x))),
        (lambda x: nn.sqrt(abs(x)), lambda x: np.sqrt(np.abs(x))),
        (lambda x: nn.maximum(x, 0.5), lambda x: np.maximum(x, 0.5)),
        (lambda x: nn.minimum(0.5, x), lambda x: np.minimum(0.5, x)),
        (lambda x: nn.clip(x, -1, 0.5), lambda x: np.clip(x, -1, 0.5)),
        (lambda x: nn.where(x > 0, x, -1), lambda x: np.where(x > 0, x, -1)),
        (lambda x: nn.stack([x, 2 * x]), lambda x: np.stack([x, 2 * x], 1)),
        (lambda x: nn.concat([x, x], 0), lambda x: np.concatenate([x, x], 0)),
        (lambda x: nn.equal(x, x).astype("f64"), np.ones_like),
    ]  # fmt: skip
    for ours, theirs in pairs:
        graph = nn.Function(ours).graph("f64[2,3]")
        np.testing.assert_allclose(evaluate(graph, [a])[0], theirs(a), rtol=1e-14)
