"""Cheap elementwise chains are copied for each of their users, and others are left alone."""

from __future__ import annotations

import numpy as np
import pytest

import cnnir
from cnnir.passes.duplicate import Duplicate

CENTRED = """\
graph @centred(%x: f32[4,8,16,16], %m: f32[8,1,1], %s: f32[8,1,1]) {
  %h = tanh(%x) : f32[4,8,16,16]
  %0 = sub(%h, %m) : f32[4,8,16,16]
  %1 = mul(%0, %s) : f32[4,8,16,16]
  %2 = reduce_sum(%1) {axes=(0, 2, 3)} : f32[1,8,1,1]
  %3 = mul(%1, %1) : f32[4,8,16,16]
  %y = add(%h, %3) : f32[4,8,16,16]
  return %y, %2
}"""


def fired(text: str) -> tuple[cnnir.Graph, int]:
    g = cnnir.parse(text)
    outcome = Duplicate().run(g)
    g.verify()
    return g, outcome.fired.get("duplicate", 0)


def test_a_chain_is_copied_for_each_user() -> None:
    before = cnnir.parse(CENTRED)
    g, count = fired(CENTRED)
    assert count == 1
    assert sum(n.name == "sub" for n in g.order()) == 2
    rng = np.random.default_rng(0)
    feeds = {str(v.name): rng.standard_normal(v.type.shape) for v in g.inputs}
    wanted = cnnir.evaluate(before, feeds, dtype="f64")
    for got, want in zip(cnnir.evaluate(g, feeds, dtype="f64"), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_less_memory_is_needed() -> None:
    with_it = cnnir.compile(cnnir.parse(CENTRED), threads=1)
    without = cnnir.compile(cnnir.parse(CENTRED), threads=1, passes="inference,-duplicate")
    assert with_it.plan.arena_bytes < without.plan.arena_bytes
    assert len(with_it.plan.steps) < len(without.plan.steps)


@pytest.mark.parametrize(
    "old,new",
    [
        ("%1 = mul(%0, %s)", "%1 = div(%0, %s)"),  # not cheap
        ("%y = add(%h, %3)", "%y = add(%3, %3)"),  # the tanh is in memory for nobody else
        ("%0 = sub(%h, %m)", "%0 = sub(%h, %x)"),  # two large operands
        ("return %y, %2", "return %y, %2, %1"),  # stored all the same
        ("16", "2"),  # small
    ],
)
def test_others_are_left_alone(old: str, new: str) -> None:
    assert old in CENTRED
    assert fired(CENTRED.replace(old, new))[1] == 0


def test_a_user_that_wants_it_in_memory() -> None:
    text = CENTRED.replace("%3 = mul(%1, %1)", "%3 = softmax(%1) {axis=1}")
    assert fired(text)[1] == 0
