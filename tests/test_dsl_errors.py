"""What the DSL says to the mistakes that one makes: the layer, the shapes, and the user's lines.

Whole texts are compared, since they are what a newcomer reads. `HERE` is this file as errors show
it; line numbers are found by a mark on the line.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir import IRError, nn

HERE = os.path.relpath(__file__)
LINES = Path(__file__).read_text("utf-8").splitlines()


def at(mark: str) -> str:
    """`file, line N: text` of the line that ends in `# mark`."""
    (number,) = [n for n, line in enumerate(LINES, 1) if line.endswith(f"# {mark}")]
    return f"{HERE}, line {number}: {LINES[number - 1].strip()}"


def said(function, *args, error: type[Exception] = IRError) -> str:
    """The message that a call is refused with."""
    with pytest.raises(error) as caught:
        function(*args)
    assert type(caught.value) is error
    return str(caught.value)


class Block(nn.Module):
    """A residual block that may be wrong."""

    def __init__(self, filters: int) -> None:
        self.conv = nn.Conv(filters, 3, padding=1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.relu(x + self.conv(x))  # the sum


def test_1_shapes_that_do_not_add() -> None:
    net = nn.Sequential(nn.Conv(4, 3), Block(8))  # two layers
    assert said(net.build, (1, 3, 10, 10)) == (
        "layer 'block1' (Block) on f32[1,4,8,8]: add(f32[1,4,8,8], f32[1,8,8,8]): "
        "shapes [1, 4, 8, 8] and [1, 8, 8, 8] do not broadcast, wanted equal dimensions or 1\n"
        f"  made at {at('two layers')}\n"
        f"  at {at('the sum')}"
    )


class Shared(nn.Module):
    """A convolution used on two things."""

    def __init__(self) -> None:
        self.filter = nn.Conv(4, 3, padding=1)  # the filter

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        y = self.filter(x)
        return self.filter(y)  # again


def test_2_wrong_channels() -> None:
    assert said(Shared().build, (1, 3, 8, 8)) == (
        "layer 'filter' (Conv) on f32[1,4,8,8]: its weight is f32[4,3,3,3] since its first use, "
        "this input wants f32[4,4,3,3]\n"
        f"  made at {at('the filter')}\n"
        f"  at {at('again')}"
    )


def test_3_the_batch_axis_is_missing() -> None:
    net = nn.Sequential(nn.Conv(4, 3))  # no batch
    assert said(net.build, (3, 8, 8)) == (
        "layer 'conv1' (Conv) on f32[3,8,8]: x has rank 3, wanted 4: [N, C, H, W] "
        "(is the batch axis missing?)\n"
        f"  made at {at('no batch')}"
    )


def test_4_flatten_is_missing() -> None:
    net = nn.Sequential(
        nn.Conv(4, 3),
        nn.Dense(10),  # not flat
    )
    assert said(net.build, (1, 3, 8, 8)) == (
        "layer 'dense1' (Dense) on f32[1,4,6,6]: x has rank 4, wanted a vector for each sample: "
        "nn.Flatten first\n"
        f"  made at {at('not flat')}"
    )


def test_5_the_image_is_too_small() -> None:
    net = nn.Sequential(
        nn.MaxPool(4),  # halves twice
        nn.Conv(4, 5),  # too wide
    )
    assert said(net.build, (1, 3, 12, 12)) == (
        "layer 'conv1' (Conv) on f32[1,3,3,3]: conv(f32[1,3,3,3], f32[4,3,5,5], f32[4]): a kernel "
        "of 5 with dilation 1 spans 5, more than the padded size 3 of spatial axis 0\n"
        f"  made at {at('too wide')}"
    )


def test_6_an_option_that_does_not_exist() -> None:
    def make() -> None:
        nn.Conv(4, 3, padding="sane")  # a typo

    assert said(make) == (
        f"Conv: padding is 'sane', wanted numbers, 'same' or 'valid'\n  at {at('a typo')}"
    )

    def other() -> None:
        nn.MaxPool(kernel_size=2)  # a word of another library

    assert said(other) == (
        "MaxPool: missing a required argument: 'kernel', it is written MaxPool(kernel, "
        "stride=None, padding=0, *, dilation=1, ceil_mode=False)\n"
        f"  at {at('a word of another library')}"
    )

    def misspelt() -> None:
        nn.Conv(8, 3, pading=1)  # one letter less

    assert said(misspelt) == (
        "Conv: got an unexpected keyword argument 'pading', it is written Conv(filters, kernel, "
        "stride=1, padding=0, *, dilation=1, groups=1, boundary='zero', flip=False, bias=True, "
        "init=he_normal, bias_init=zeros)\n"
        f"  at {at('one letter less')}"
    )


def test_7_weights_before_the_shapes_are_known() -> None:
    net = nn.Sequential(nn.Conv(4, 3))
    assert said(lambda: net.params["conv1.weight"]) == (
        "Sequential has no weights yet: their shapes follow from its input, wanted "
        "net.build(shape) first, such as net.build((1, 3, 32, 32))"
    )
    assert said(net.graph) == (
        "Sequential does not know the shapes of its inputs yet, wanted them once, such as "
        "net.build((1, 3, 32, 32))"
    )
    assert said(cnnir.compile, net) == said(net.graph)


def test_8_arrays_in_place_of_tensors() -> None:
    net = nn.Sequential(nn.Conv(4, 3)).build((1, 3, 8, 8))
    x = np.zeros((1, 3, 8, 8), np.float32)

    def call() -> None:
        net(x)  # an array

    assert said(call) == (
        "Sequential on ndarray: wanted a symbolic tensor; to run a net on arrays call "
        f"cnnir.compile(net)\n  at {at('an array')}"
    )


class Fresh(nn.Module):
    """Makes its layer anew each time."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.Conv(4, 3)(x)  # in forward


def test_9_a_layer_made_in_forward() -> None:
    assert said(Fresh().build, (1, 3, 8, 8)) == (
        "layer 'conv1' (Conv) on f32[1,3,8,8]: it has weights but no place in the net, wanted it "
        "kept as an attribute of its net, or in a list or dict that is one\n"
        f"  made at {at('in forward')}"
    )


class Branching(nn.Module):
    """Decides by data that does not exist yet."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return x if x.mean() > 0 else -x  # a decision


def test_10_python_decisions_about_data() -> None:
    net = Branching()  # the net
    assert said(net.build, (1, 3)) == (
        "Branching on f32[1,3]: a symbolic tensor is neither true nor false, wanted "
        f"nn.where(condition, ...)\n  made at {at('the net')}\n  at {at('a decision')}"
    )


def test_11_a_class_where_a_layer_is_wanted() -> None:
    def make() -> None:
        nn.Sequential(nn.Conv(4, 3), nn.ReLU)  # a class

    assert said(make) == (
        f"Sequential: ReLU is a class, wanted a layer such as ReLU(...)\n  at {at('a class')}"
    )


class Kept(nn.Module):
    """Remembers a tensor from one trace to the next."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        self.last = getattr(self, "last", x)
        return x + self.last  # of another trace


def test_12_a_tensor_of_another_trace() -> None:
    net = Kept().build((1, 3))  # kept
    assert said(net.graph) == (
        "Kept on f32[1,3]: a tensor f32[1,3] of another trace, wanted one made in this call\n"
        f"  made at {at('kept')}\n  at {at('of another trace')}"
    )


def test_13_forward_gives_nothing() -> None:
    class Empty(nn.Module):
        def forward(self, x: nn.Tensor) -> None:
            nn.relu(x)

    net = Empty()
    assert said(net.build, (1, 3)) == ("forward of Empty gave NoneType as output, wanted a tensor")


class Clash(nn.Module):
    """Gives a weight the name that constants have."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return 2.0 * x + self.param("constant", (3,))  # a name


def test_a_name_that_is_taken() -> None:
    net = Clash()  # taken
    assert said(net.build, (1, 3)) == (
        "Clash on f32[1,3]: its constant would be constant, as something else is called already\n"
        f"  made at {at('taken')}\n  at {at('a name')}"
    )


def test_14_concat_of_unequal_maps() -> None:
    net = nn.Branches(nn.Conv(4, 3), nn.Conv(4, 5))  # unequal
    assert said(net.build, (1, 3, 8, 8)) == (
        "Branches on f32[1,3,8,8]: concat(f32[1,4,6,6], f32[1,4,4,4]): operands f32[1,4,6,6] and "
        "f32[1,4,4,4] differ in more than axis 1, wanted all other dimensions equal\n"
        f"  made at {at('unequal')}"
    )


def test_sketches_point_at_their_line() -> None:
    x = nn.symbol((1, 3, 8, 8))

    def write() -> None:
        nn.relu(x) + nn.symbol((1, 3, 8, 8))  # two sketches

    assert said(write) == (
        "a tensor f32[1,3,8,8] of another trace, wanted one made in this call\n"
        f"  at {at('two sketches')}"
    )
    y = nn.Conv(4, 3)(x)

    def grow() -> None:
        y + x  # sizes differ

    assert said(grow).endswith(f"wanted equal dimensions or 1\n  at {at('sizes differ')}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv(0, 3), "filters is 0, wanted a number >= 1"),
        (lambda: nn.Conv(4, (3, 0)), "kernel is (3, 0), wanted a number >= 1 or 2 of them"),
        (lambda: nn.Conv(4, 3, (1, 2, 3)), "stride is (1, 2, 3), wanted a number >= 1 or 2"),
        (lambda: nn.Conv(4, 3, padding=-1), "padding is -1, wanted a number, 2 numbers or pairs"),
        (lambda: nn.Conv(4, 3, groups=3), "4 filters in 3 groups, wanted a multiple of them"),
        (lambda: nn.Conv(4, 3, boundary="loop"), "boundary is 'loop', wanted zero, circular"),
        (lambda: nn.Dropout(1.0), "rate is 1.0, wanted a number from 0 to below 1"),
        (lambda: nn.BatchNorm(momentum=2), "momentum is 2, wanted a number from 0 to 1"),
        (lambda: nn.BatchNorm(epsilon=-1), "epsilon is -1, wanted a number >= 0"),
        (lambda: nn.GroupNorm(0), "groups is 0, wanted a number >= 1"),
        (lambda: nn.Sequential(3), "3 is no layer, wanted a module or a function of tensors"),
        (lambda: nn.Sequential(nn.ReLU(), relu1=nn.ReLU()), "two layers named 'relu1'"),
        (lambda: nn.Branches(), "no branches, wanted at least one"),
        (lambda: nn.Branches(nn.ReLU(), branch1=nn.ReLU()), "two branches named 'branch1'"),
        (lambda: nn.Function(3), "wanted a function of tensors"),
        (lambda: nn.ReLU().build("f33[1]"), "unknown element type 'f33'"),
        (lambda: nn.ReLU().build(7), "7 is no shape, wanted sizes such as (1, 3, 32, 32)"),
        (lambda: nn.ReLU().build((1,), (2,)), "2 shapes are given, wanted one for each"),
        (lambda: nn.ReLU().build({"y": (1,)}), "there is no input 'y', there are ['x']"),
        (lambda: nn.Sequential(nn.ReLU())["conv1"], "there is no layer 'conv1', there are relu1"),
        (lambda: nn.Dense(3, init=lambda *_: np.ones(2)).build((1, 3)), "weight gave [2], wanted"),
        (lambda: nn.PixelShuffle(2).build((1, 6, 4, 4)), "6 channels, wanted a multiple of 2"),
        (lambda: nn.Upsample(mode="area").build((1, 1, 4, 4)), "mode is 'area', wanted nearest"),
        (lambda: nn.BatchNorm().trace((1, 3), training=True), "1 value a channel has no variance"),
        (lambda: nn.Softmax(3).build((1, 3)), "there is no axis 3, wanted -2 to 1"),
        (lambda: nn.Function(lambda x: x[:, 5]).build((1, 3)), "index 5 of axis 1 is out of range"),
        (lambda: nn.Function(lambda x: x["a"]).build((1, 3)), "index 'a' of axis 0, wanted a"),
        (lambda: nn.Function(lambda x: x[..., ...]).build((1, 3)), "`...` is given twice"),
        (lambda: nn.Function(lambda x: x + "a").build((1, 3)), "is neither a tensor nor a number"),
        (lambda: nn.Function(lambda x: x * 0.5).build("i64[3]"), "0.5 is not exact in i64"),
        (lambda: nn.Function(lambda x: [*x]).build((1, 3)), "cannot be iterated over"),
        (lambda: nn.Module().build((1, 3)), "it has no forward(self, x), wanted one"),
    ],
)  # fmt: skip
def test_other_mistakes(make, words: str) -> None:
    assert words in said(make)


def test_a_tensor_is_no_number() -> None:
    net = nn.Function(lambda x: x * float(x.sum()))
    with pytest.raises(IRError, match="a symbolic tensor is no number yet"):
        net.build((1, 3))


def test_sizes_in_place_of_a_shape() -> None:
    with pytest.raises(IRError, match=r"wanted one for each, such as \(1, 1, 8, 8\)"):
        nn.ReLU().build(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "wanted"), [("Conv2d", "Conv"), ("MaxPool3d", "MaxPool"), ("Linear", "Dense")]
)
def test_names_of_other_libraries_lead_here(name: str, wanted: str) -> None:
    with pytest.raises(AttributeError, match=rf"'{name}', wanted nn\.{wanted}$"):
        getattr(nn, name)
    with pytest.raises(AttributeError, match=r"no attribute 'Nonsense2d'$"):
        _ = nn.Nonsense2d
