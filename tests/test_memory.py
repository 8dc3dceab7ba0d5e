"""Buffer planning: properties over random step lists, and the cases that have names."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnir.errors import IRError
from cnnir.memory import Access, Placement, conflicts, place


@st.composite
def plans(draw):
    """Random straight-line programs: sizes, steps, aliases, kept values."""
    count = draw(st.integers(1, 14))
    sizes = {v: draw(st.integers(0, 400)) for v in range(count)}
    aliases = {}
    for v in range(1, count):
        if draw(st.integers(0, 5)) == 0:
            aliases[v] = (draw(st.integers(0, v - 1)), draw(st.integers(0, 3)) * 64)
    steps = []
    for v in range(count):
        reads = draw(st.lists(st.integers(0, max(0, v - 1)), max_size=3)) if v else []
        steps.append(Access(tuple(reads), (v,), tuple((v, r) for r in reads)))
    keep = draw(st.lists(st.integers(0, count - 1), max_size=2))
    return steps, sizes, aliases, keep


def simulate(steps, sizes, placement, keep):
    """Run the program on real bytes: each holds the value that wrote it last."""
    owner: dict[int, int] = {}

    def check(v, written):
        if v in written:
            at = placement.offsets[v]
            assert all(owner[byte] == v for byte in range(at, at + sizes[v])), f"{v} is gone"

    written: set[int] = set()
    for step in steps:
        for v in step.reads:
            check(v, written)
        for v in step.writes:
            at = placement.offsets[v]
            owner |= dict.fromkeys(range(at, at + sizes[v]), v)
            written.add(v)
    for v in keep:
        check(v, written)


@settings(max_examples=300, deadline=None)
@given(plans())
def test_no_live_buffers_overlap(plan):
    steps, sizes, aliases, keep = plan
    result = place(steps, sizes, aliases=aliases, keep=keep)
    assert result.bound <= result.peak
    groups: dict[int, int] = {}
    for v, (root, shift) in result.roots.items():
        assert result.offsets[v] == result.offsets[root] + shift
        assert result.offsets[v] + sizes[v] <= result.peak
        end = result.offsets[v] + sizes[v]
        groups[root] = max(groups.get(root, 0), end)
    roots = sorted(groups)
    for i, a in enumerate(roots):
        assert result.offsets[a] % 64 == 0
        for b in roots[i + 1 :]:
            (first, last), (begin, end) = result.lives[a], result.lives[b]
            if last < begin or end < first:
                continue
            apart = groups[a] <= result.offsets[b] or groups[b] <= result.offsets[a]
            assert apart or groups[a] == result.offsets[a] or groups[b] == result.offsets[b]


@settings(max_examples=200, deadline=None)
@given(plans())
def test_values_survive_until_read(plan):
    steps, sizes, _, keep = plan
    result = place(steps, sizes, keep=keep)
    for v, operand in result.reused:
        assert result.offsets[v] == result.offsets[operand]
    simulate(steps, sizes, result, keep)


@settings(max_examples=200, deadline=None)
@given(plans())
def test_conflicts_order_every_pair_that_touches(plan):
    """Any two steps where one writes what the other touches are ordered by a chain of waits."""
    steps, sizes, _, keep = plan
    placement = place(steps, sizes, keep=keep)
    latest = conflicts(steps, sizes, placement)

    def bytes_of(values):
        at = placement.offsets
        return {b for v in values for b in range(at[v], at[v] + sizes[v])}

    for j, step in enumerate(steps):
        assert -1 <= latest[j] < j
        for i in range(j):
            earlier = steps[i]
            clash = bytes_of(earlier.writes) & bytes_of(step.reads + step.writes)
            clash |= bytes_of(earlier.reads) & bytes_of(step.writes)
            # waiting for a step means waiting for all before it: a barrier
            assert not clash or latest[j] >= i


def chain(count: int, size: int = 1000, reuse: bool = False) -> Placement:
    steps = [Access((), (0,))]
    for v in range(1, count):
        steps.append(Access((v - 1,), (v,), ((v, v - 1),) if reuse else ()))
    return place(steps, dict.fromkeys(range(count), size), keep=[count - 1])


def test_chain_needs_two_buffers_and_one_in_place():
    assert chain(20).peak == 2 * 1024
    result = chain(20, reuse=True)
    assert result.peak == 1024 and len(result.reused) == 19


def test_reuse_is_refused_where_the_operand_lives_on_or_is_shared():
    steps = [Access((), ("a",)), Access(("a",), ("b",), (("b", "a"),)), Access(("a", "b"), ("c",))]
    sizes = dict.fromkeys("abc", 64)
    assert place(steps, sizes, keep="c").reused == ()
    # two results of one step never take the same buffer, even when one is dead at once
    steps = [Access((), ("a",)), Access(("a",), ("b", "c"), (("b", "a"), ("c", "a")))]
    result = place(steps, sizes, keep="c")
    assert len(result.reused) == 1 and result.offsets["b"] != result.offsets["c"]
    # a view of the operand is read beside it
    steps = [Access((), ("a",)), Access(("a", "view"), ("b",), (("b", "a"),))]
    aliases = {"view": ("a", 0)}
    assert place(steps, {"a": 64, "b": 64, "view": 64}, aliases=aliases).reused == ()


def test_concat_in_place_and_reshape():
    steps = [
        Access(("x",), ("a",)),
        Access(("x",), ("b",)),
        Access(("c",), ("d",)),
        Access(("d_view",), ("e",)),
    ]
    sizes = {"a": 128, "b": 64, "c": 192, "d": 64, "d_view": 64, "e": 64}
    aliases = {"a": ("c", 0), "b": ("c", 128), "d_view": ("d", 0)}
    result = place(steps, sizes, aliases=aliases, keep=["e"])
    at = result.offsets
    assert (at["a"], at["b"], at["d_view"]) == (at["c"], at["c"] + 128, at["d"])
    assert result.lives["c"] == (0, 2) and result.peak == 256
    # the two branches write different places of one buffer: neither waits for the other
    assert conflicts(steps, sizes, result) == [-1, -1, 1, 2]


def test_chained_aliases_and_errors():
    sizes = {"a": 64, "b": 128, "c": 256}
    result = place([Access((), ("a",))], sizes, aliases={"a": ("b", 64), "b": ("c", 128)})
    assert result.roots["a"] == ("c", 192)
    with pytest.raises(IRError, match="inside itself"):
        place([], sizes, aliases={"a": ("b", 0), "b": ("a", 0)})
    with pytest.raises(IRError, match="no buffer"):
        place([], sizes, aliases={"a": ("z", 0)})


def test_values_elsewhere_order_steps_too():
    steps = [Access(("x",), ("out",)), Access(("y",), ("z",)), Access(("out",), ("w",))]
    sizes = {"z": 64, "w": 64}
    assert conflicts(steps, sizes, place(steps, sizes, keep="z")) == [-1, -1, 0]


def test_read_before_written_is_live_from_the_start_and_empty_plans():
    steps = [Access((), ("a",)), Access(("state", "a"), ("b",))]
    result = place(steps, dict.fromkeys(("a", "b", "state"), 64))
    assert result.lives["state"] == (0, 1)
    assert place([], {}).peak == 0


def test_large_plans_are_quick():
    """A thousand blocks with residual connections, placed at the lower bound."""
    steps, sizes = [Access((), (0,))], {0: 4096}
    for v in range(1, 2000):
        sizes[v] = 4096 + 64 * (v * 7919 % 61)
        steps.append(Access((v - 1, max(0, v - 3)), (v,)))
    start = time.perf_counter()
    result = place(steps, sizes, keep=[1999])
    conflicts(steps, sizes, result)
    assert time.perf_counter() - start < 10
    assert result.peak <= 1.25 * result.bound
