"""The kernel language: normal forms, conditions as bounds, and the loops that lowering makes."""

# ruff: noqa: E501  (kernels as they print)

from __future__ import annotations

import random
from typing import Any

import pytest
from loops_harness import layouts_of, node_of

from cnnir.backends.llvm.layout import Blocked, Padded, Plain
from cnnir.errors import IRError
from cnnir.ir import Graph
from cnnir.loops import Kernel, lower
from cnnir.loops import expr as x
from cnnir.loops.algebra import ElementAlgebra
from cnnir.loops.analysis import interior, limits, stride, substitute
from cnnir.loops.expr import Var
from cnnir.tensortype import TensorType

# ---- expressions


def value_of(e: Any, at: dict[Var, int]) -> int:
    """An index expression in numbers, without the code that simplified it."""
    if isinstance(e, x.Const):
        return int(e.value)
    if isinstance(e, Var):
        return at[e]
    if isinstance(e, x.Linear):
        terms = zip(e.args, e.coefficients, strict=True)
        return e.constant + sum(k * value_of(a, at) for a, k in terms)
    a, b = (value_of(arg, at) for arg in e.args)
    return a // b if e.op == "floordiv" else a % b


def test_blocks_and_lanes_of_a_channel_come_apart():
    block, lane = Var("block", 4), Var("lane", 16, lanes=True)
    channel = 16 * block + lane
    assert channel // 16 is block
    assert channel % 16 is lane
    assert (channel // 16) * 16 + channel % 16 is channel


def test_row_major_coordinates_of_a_flat_index_join_again():
    flat = Var("flat", 2 * 3 * 5 * 7)
    i, j, k, n = flat // 105, flat // 35 % 3, flat // 7 % 5, flat % 7
    assert ((i * 3 + j) * 5 + k) * 7 + n is flat
    assert i * 105 + j * 35 + k * 7 + n is flat


def test_equal_expressions_are_one_object():
    i, j = Var("i", 8), Var("j", 8)
    assert i + 2 * j + 1 is 1 + j + i + j
    assert (i + j) - j is i
    assert i * 4 // 4 is i and i * 0 is x.index(0)


@pytest.mark.parametrize("seed", range(40))
def test_index_arithmetic_keeps_its_value(seed: int):
    rng = random.Random(seed)
    variables = [Var(f"v{k}", rng.randint(1, 20), rng.randint(-6, 6)) for k in range(3)]
    known: list[tuple[Any, Any]] = [(v, lambda at, v=v: at[v]) for v in variables]
    for _ in range(14):
        (a, fa), (b, fb) = rng.choice(known), rng.choice(known)
        n = rng.randint(1, 12)
        known.append(
            rng.choice(
                [
                    (a + b, lambda at, fa=fa, fb=fb: fa(at) + fb(at)),
                    (a * n - b, lambda at, fa=fa, fb=fb, n=n: fa(at) * n - fb(at)),
                    (a // n, lambda at, fa=fa, n=n: fa(at) // n),
                    ((a + n) % n, lambda at, fa=fa, n=n: fa(at) % n),
                    (n * (a // n) + b, lambda at, fa=fa, fb=fb, n=n: fa(at) // n * n + fb(at)),
                ]
            )
        )
    for _ in range(50):
        at = {v: rng.randint(v.lo or 0, v.hi or 0) for v in variables}
        for e, wanted in known:
            assert value_of(e, at) == wanted(at)
            assert e.lo is None or e.lo <= wanted(at)
            assert e.hi is None or e.hi >= wanted(at)


def test_ranges_decide_comparisons():
    i = Var("i", 8)
    assert (i < 8) is x.TRUE and (i + 1 < 1) is x.FALSE and (i >= 0) is x.TRUE
    assert x.compare("eq", i, 9) is x.FALSE
    with pytest.raises(IRError, match="Python condition"):
        bool(i < 4)


def test_types_must_agree():
    a, b = x.Symbol("a", "f32"), x.Symbol("b", "f64")
    with pytest.raises(IRError, match="f32 and f64"):
        a + b
    with pytest.raises(IRError, match="wanted floats"):
        Var("i", 3) / 2
    with pytest.raises(IRError, match="positive int"):
        Var("i", 3) // 0


@pytest.mark.parametrize(("k", "shift", "below"), [(1, -1, 7), (2, -3, 9), (-2, 5, 3), (3, 4, 20)])
def test_a_linear_condition_bounds_its_variable(k: int, shift: int, below: int):
    var, other = Var("u", 12), Var("i", 5)
    condition = k * var + other + shift < below
    found = limits(condition, var)
    assert found is not None
    for i in range(5):
        start, stop = (
            None if e is None else value_of(substitute((e,), {other: x.index(i)})[0], {})
            for e in found
        )
        for u in range(-30, 30):
            inside = (start is None or u >= start) and (stop is None or u < stop)
            assert inside == (k * u + i + shift < below)


def test_the_inside_is_where_no_turn_fails():
    row, tap = Var("row", 10), Var("tap", 3)
    source = 2 * row + tap - 1
    assert interior([source >= 0, source < 18], row) == (1, 9)


def test_strides():
    i, lane = Var("i", 9), Var("lane", 16)
    assert stride(3 * lane + i, lane) == 3
    assert stride(i + 1, lane) == 0
    assert stride((lane + i) % 5, lane) is None


# ---- kernels as text


def text_of(op: str, *types: str, kind: str = "plain", lanes: int = 16, **attrs: Any) -> str:
    node = node_of(op, *types, **attrs)
    return str(lower(node, layouts_of(node, kind, lanes), lanes))


def test_a_plain_elementwise_kernel_is_one_loop():
    assert (
        text_of("add", "f32[2,3,5,7]", "f32[2,3,5,7]")
        == """\
kernel kernel(x0: f32[2,3,5,7] plain, x1: f32[2,3,5,7] plain, y0: f32[2,3,5,7] plain) for item in 1 {
  for i in 13 {
    vector lane in 16 {
      y0[(16 * i + lane)] = (x0[(16 * i + lane)] + x1[(16 * i + lane)])
    }
  }
  vector lane_1 in 2 {
    y0[(lane_1 + 208)] = (x0[(lane_1 + 208)] + x1[(lane_1 + 208)])
  }
}"""
    )


def test_broadcast_along_the_last_axes_merges_those():
    assert (
        text_of("add", "f32[3,5,5]", "f32[3,1,1]")
        == """\
kernel kernel(x0: f32[3,5,5] plain, x1: f32[3,1,1] plain, y0: f32[3,5,5] plain) for item in 1 {
  for i0 in 3 {
    vector lane in 16 {
      y0[(25 * i0 + lane)] = (x0[(25 * i0 + lane)] + x1[i0])
    }
    vector lane_1 in 9 {
      y0[(25 * i0 + lane_1 + 16)] = (x0[(25 * i0 + lane_1 + 16)] + x1[i0])
    }
  }
}"""
    )


def test_a_blocked_kernel_has_channels_as_lanes():
    node = node_of("add", "f32[1,32,6,6]", "f32[1,32,1,1]")
    layouts = [Blocked(16), Blocked(16), Blocked(16)]
    assert (
        str(lower(node, layouts, 16))
        == """\
kernel kernel(x0: f32[1,32,6,6] blocked16, x1: f32[1,32,1,1] blocked16, y0: f32[1,32,6,6] blocked16) for item in 1 {
  for cb in 2 {
    for i0 in 36 {
      vector lane in 16 {
        y0[(576 * cb + 16 * i0 + lane)] = (x0[(576 * cb + 16 * i0 + lane)] + x1[(16 * cb + lane)])
      }
    }
  }
}"""
    )


def test_padding_splits_a_window_into_border_and_inside():
    text = text_of("max_pool", "f32[1,16,9]", kind="blocked", kernel=(3,), padding=(1, 1))
    assert (
        text
        == """\
kernel kernel(x0: f32[1,16,9] blocked16, y0: f32[1,16,9] blocked16) for item in 1 {
  vector lane in 16 {
    y0[lane] = max(x0[lane], x0[(lane + 16)])
  }
  for i0 in 1 .. 8 {
    vector lane_1 in 16 {
      y0[(16 * i0 + lane_1)] = max(max(x0[(16 * i0 + lane_1 - 16)], x0[(16 * i0 + lane_1)]), x0[(16 * i0 + lane_1 + 16)])
    }
  }
  vector lane_2 in 16 {
    y0[(lane_2 + 128)] = max(x0[(lane_2 + 112)], x0[(lane_2 + 128)])
  }
}"""
    )


def test_a_sum_over_the_last_axis_has_lanes_inside():
    text = text_of("reduce_sum", "f32[3,40]", axes=(1,))
    assert "y0[i0] =" in text and "lane in 0 .. 16" in text and "lane in 0 .. 8" in text
    assert "vector" not in text


def test_a_cumulative_sum_is_serial():
    assert (
        text_of("cumsum", "f32[4,5]", axis=1)
        == """\
kernel kernel(x0: f32[4,5] plain, y0: f32[4,5] plain) for item in 1 {
  for r1 in 4 {
    v2 := 0.0
    for r3 in 5 {
      let t4 = v2
      v2 := (t4 + x0[(5 * r1 + r3)])
      let t5 = v2
      y0[(5 * r1 + r3)] = t5
    }
  }
}"""
    )


# ---- fused bodies, items, refusals


def fused(build: Any, *types: str) -> Any:
    """A fused node over a body."""
    body, g = Graph("body"), Graph()
    made = build(body, *(body.input(TensorType.parse(t), f"b{k}") for k, t in enumerate(types)))
    body.output(made, "y")
    inputs = [g.input(TensorType.parse(t), f"a{k}") for k, t in enumerate(types)]
    return g.add("fused", *inputs, body=body).node


def softmax(g: Graph, v: Any, axis: int = 1) -> Any:
    e = g.add("exp", g.add("sub", v, g.add("reduce_max", v, axes=(axis,))))
    return g.add("div", e, g.add("reduce_sum", e, axes=(axis,)))


def test_reductions_that_a_row_shares_are_computed_once_a_row():
    kernel = lower(fused(softmax, "f32[3,40]"), [Plain(), Plain()], 16)
    lines = str(kernel).splitlines()
    row = next(k for k, line in enumerate(lines) if "for i0 in 3" in line)
    loop = next(k for k, line in enumerate(lines) if "for i in 2" in line)
    assert any("max(" in line for line in lines[row:loop])
    assert any("sum(" in line for line in lines[row:loop])
    assert not any(" .. " in line for line in lines[loop:])  # no reduction is left inside


def test_a_chain_of_a_thousand_ops_lowers():
    def chain(g: Graph, v: Any) -> Any:
        for k in range(1000):
            v = g.add("relu" if k % 2 else "neg", v)
        return v

    assert lower(fused(chain, "f32[5,7]"), [Plain(), Plain()], 16).items == 1


def test_a_value_used_twice_at_each_of_many_levels_is_built_once():
    def doubling(g: Graph, v: Any) -> Any:
        for _ in range(60):
            v = g.add("add", v, v)
        return v

    kernel = lower(fused(doubling, "f32[16]"), [Plain(), Plain()], 16)
    assert len(str(kernel)) < 20000


def test_items_depend_on_shapes_and_cover_everything():
    def items(*shape: int) -> int:
        node = node_of("relu", TensorType("f32", shape))
        return lower(node, [Plain(), Plain()], 16).items

    assert items(3, 5) == 1
    assert 2 <= items(1, 64, 56, 56) <= 64
    assert items(0, 7) == 0


def test_a_parallel_loop_at_the_top_becomes_items():
    kernel = lower(node_of("cumsum", "f32[4096,64]", axis=1), [Plain(), Plain()], 16)
    assert kernel.items > 4


def test_pad_lanes_are_left_alone_where_reading_them_is_not_safe():
    node = node_of("add", "f32[1,20,3,3]", "f32[20,1,1]")
    safe = str(lower(node, [Blocked(16), Padded(16), Blocked(16)], 16))
    cut = str(lower(node, [Blocked(16), Plain(), Blocked(16)], 16))
    assert "vector lane in 4" not in safe and "in 4 {" in cut


def test_checked_words_become_codes():
    node = node_of("gather", "f32[4,5]", "i64[3]", axis=0)
    kernel: Kernel = lower(node, [Plain()] * 3, 16, first_code=7)
    assert kernel.first_code == 7 and len(kernel.errors) == 1


def test_refusals():
    with pytest.raises(IRError, match="decompose"):
        lower(node_of("softmax", "f32[3,4]", axis=1), [Plain(), Plain()], 16)
    with pytest.raises(IRError, match="1 layouts for 2 values"):
        lower(node_of("relu", "f32[3]"), [Plain()], 16)


def test_the_algebra_refuses_wrong_use():
    m = ElementAlgebra()
    with pytest.raises(IRError, match="wanted a float"):
        m.exp(x.Symbol("n", "i32"))
    with pytest.raises(IRError, match="its f32 state"):
        m.fold((4,), (x.const(0, "f32"),), lambda i, s: (i[0],))
