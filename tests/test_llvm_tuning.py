"""compile(tune=True): candidates are measured once, the winner is taken, whichever it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir.backends.llvm import make, tuning
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.trial import Candidate, measured

NET = """\
graph @net(%x: f32[2,24,19,17]) {
  param @w : f32[40,24,3,3]
  param @b : f32[40]
  param @d : f32[40,1,3,3]
  param @p : f32[36,40,1,1]
  param @g : f32[36,12,3,3]
  param @m : f32[36,50]
  %a = conv(%x, @w, @b) {padding=(1, 1, 1, 1)} : f32[2,40,19,17]
  %r = relu(%a) : f32[2,40,19,17]
  %c = conv(%r, @d) {padding=(1, 1, 1, 1), groups=40} : f32[2,40,19,17]
  %s = add(%c, %a) : f32[2,40,19,17]
  %q = conv(%s, @p) : f32[2,36,19,17]
  %t = relu(%q) : f32[2,36,19,17]
  %h = conv(%t, @g) {padding=(1, 1, 1, 1), groups=3} : f32[2,36,19,17]
  %e = reduce_mean(%h) {axes=(2, 3)} : f32[2,36,1,1]
  %f = reshape(%e) {shape=(2, 36)} : f32[2,36]
  %y = matmul(%f, @m) : f32[2,50]
  return %h, %y as ['h', 'y']
}"""
"""A convolution that Winograd could serve, a depthwise one with an operand beside it, a pointwise
one, groups that are no whole blocks, a dense layer."""


@pytest.fixture(scope="module")
def net():
    return cnnir.parse(NET, seed=5)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((2, 24, 19, 17), dtype=np.float32)


@pytest.fixture(scope="module")
def wanted(net, x):
    return cnnir.evaluate(net, [x], dtype="f64")


@pytest.fixture
def asked(monkeypatch) -> list[list[Candidate]]:
    """The candidates of every problem that is measured; the last of each wins."""
    problems: list[list[Candidate]] = []

    def counted(candidates, *rest):
        problems.append(candidates)
        return [float(len(candidates) - n) for n in range(len(candidates))]

    monkeypatch.setattr(tuning, "measured", counted)
    return problems


def close(exe, x, wanted, tolerance=1e-4):
    for got, want in zip(exe(x), wanted, strict=True):
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def templates(exe):
    return [step for step in exe.plan.steps if step.kernel not in ("loops", "pack", "pool")]


def test_what_was_tuned_is_right_and_says_what_was_measured(net, x, wanted, tmp_path: Path) -> None:
    exe = cnnir.compile(net, tune=True, threads=2, cache=tmp_path)
    close(exe, x, wanted)
    assert len(templates(exe)) == 5
    for step in templates(exe):
        assert step.reason.startswith("tuned: ") and " us, next " in step.reason
        assert any("predicted" in line for line in step.rejected)
    alone = cnnir.compile(net, threads=1, cache=tmp_path)
    assert all("predicted" in step.reason for step in templates(alone))


def test_a_second_compilation_measures_nothing(net, x, wanted, tmp_path: Path, asked) -> None:
    first = cnnir.compile(net, tune=True, threads=1, cache=tmp_path)
    assert len(asked) == 5 and all(len(candidates) > 1 for candidates in asked)
    asked.clear()
    second = cnnir.compile(net, tune=True, threads=1, cache=tmp_path)
    assert not asked
    assert second.plan.text() == first.plan.text()
    np.testing.assert_array_equal(second(x)[1], first(x)[1])


@pytest.mark.parametrize(
    "changed",
    [{"threads": 2}, {"precision": "exact"}, {"features": "avx2"}, {"cache": False}],
    ids=["threads", "precision", "target", "no cache"],
)
def test_other_conditions_are_measured_anew(net, tmp_path: Path, asked, changed) -> None:
    if "features" in changed and not CpuTarget.host("").has("avx2"):
        pytest.skip("needs avx2")
    common = {"tune": True, "threads": 1, "cache": tmp_path}
    cnnir.compile(net, **common)
    asked.clear()
    cnnir.compile(net, **(common | changed))
    assert len(asked) == 5
    kinds = {c.kernel.kind for candidates in asked for c in candidates}
    assert ("winograd" in kinds) == ("precision" not in changed)


@pytest.mark.parametrize("place", [0, 1, 2, -1])
def test_whichever_wins_is_taken_and_right(net, x, wanted, monkeypatch, place: int) -> None:
    names = []

    def decided(candidates, *rest):
        winner = candidates[min(place, len(candidates) - 1)]
        names.append((winner.kernel.kind, repr(winner.kernel.offer.tiling)))
        return [0.5 if c is winner else 1.0 for c in candidates]

    scheduled, really = [], make.place

    def placed(schedule):
        scheduled.append(schedule.calls)
        return really(schedule)

    monkeypatch.setattr(tuning, "measured", decided)
    monkeypatch.setattr(make, "place", placed)
    exe = cnnir.compile(net, tune=True, threads=2, cache=False)
    taken = [call.kernel for call in scheduled[-1] if hasattr(call.kernel, "offer")]
    taken = [(k.kind, repr(k.offer.tiling)) for k in taken if k.kind != "pool"]
    assert taken == names
    close(exe, x, wanted)


@pytest.mark.parametrize(
    "record", [b"", b"junk", b"[]", b"[[1]]", b'{"a": 1}', b'[["direct_conv", "Tiling()", 1, 1]]']
)
def test_records_that_do_not_fit_are_ignored(
    net, tmp_path: Path, monkeypatch, asked, record: bytes
) -> None:
    with monkeypatch.context() as changed:

        def store(self, problem, times):
            self.cache.put(self._key(self.cache, problem), record)

        changed.setattr(tuning.Tuning, "_store", store)
        cnnir.compile(net, tune=True, threads=1, cache=tmp_path)
    asked.clear()
    cnnir.compile(net, tune=True, threads=1, cache=tmp_path)
    assert len(asked) == 5
    asked.clear()
    cnnir.compile(net, tune=True, threads=1, cache=tmp_path)
    assert not asked


@pytest.mark.parametrize("cold", [False, True])
def test_every_candidate_is_timed(net, monkeypatch, cold: bool) -> None:
    found = []

    def noted(candidates, graph, target, threads, cache, _):
        assert len({(c.kernel.kind, repr(c.kernel.offer.tiling)) for c in candidates}) == len(
            candidates
        )
        seconds = measured(candidates, graph, target, threads, cache, cold)
        found.append((len(candidates), seconds))
        return seconds

    monkeypatch.setattr(tuning, "measured", noted)
    cnnir.compile(net, tune=True, threads=2, cache=False)
    for count, seconds in found:
        assert len(seconds) == count
        assert all(0 < spent < 1 for spent in seconds)
