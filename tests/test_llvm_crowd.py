"""Whether runs are shared beside other programs: what is decided, and what it is decided by."""

from __future__ import annotations

import sys

import pytest
from runtime_harness import TARGET

from cnnir.backends.llvm.crowd import CALM, KNOWN, RECENT, TRIAL, Crowd
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import Call, Context, emit_run
from cnnir.backends.llvm.threads import pool


def simulated(crowd: Crowd, runs: int, shared: float, alone: float, fetched: bool) -> list[bool]:
    """Which of so many runs are shared, where they take so long and workers (don't) get stuck."""
    chosen = []
    for _ in range(runs):
        share = crowd.share()
        crowd.took(share, shared if share else alone, fetched and share)
        chosen.append(share)
    return chosen


def test_runs_are_shared_where_nobody_is_fetched() -> None:
    assert all(simulated(Crowd(), 100, shared=3.0, alone=1.0, fetched=False))


def test_one_fetch_is_no_crowd() -> None:
    crowd = Crowd()
    for _ in range(10):
        crowd.took(crowd.share(), 9.0, fetched=True)
        assert all(simulated(crowd, RECENT, shared=1.0, alone=2.0, fetched=False))


def test_short_runs_leave_a_crowd_and_come_back() -> None:
    crowd = Crowd()
    chosen = simulated(crowd, 100, shared=9.0, alone=6.0, fetched=True)
    assert chosen.count(True) <= 2 + KNOWN + 100 // TRIAL
    later = simulated(crowd, 3 * TRIAL, shared=3.0, alone=6.0, fetched=False)
    assert all(later[-TRIAL + CALM :]) and not crowd.crowded


def test_long_runs_gain_from_half_a_core() -> None:
    chosen = simulated(Crowd(), 100, shared=40.0, alone=57.0, fetched=True)
    assert chosen.count(False) <= KNOWN + 100 // TRIAL


def test_a_slow_first_run_is_not_held_against_threads() -> None:
    """It touches its memory for the first time, among others or not."""
    crowd = Crowd()
    crowd.took(crowd.share(), 900.0, fetched=True)
    chosen = simulated(crowd, 100, shared=29.0, alone=42.0, fetched=True)
    assert chosen.count(False) <= KNOWN + 100 // TRIAL


def test_what_is_known_is_known_in_the_next_crowd() -> None:
    crowd = Crowd()
    simulated(crowd, 50, shared=29.0, alone=42.0, fetched=True)
    simulated(crowd, 2 * TRIAL, shared=28.0, alone=42.0, fetched=False)
    assert not crowd.crowded
    again = simulated(crowd, TRIAL - 1, shared=29.0, alone=42.0, fetched=True)
    assert again.count(False) <= 1


NAP = """
declare i32 @usleep(i32)
define void @nap(ptr %error, ptr %scratch, i64 %item) {
  %last = trunc i64 %item to i32
  %longer = mul i32 %last, MORE
  %time = add i32 %longer, FIRST
  %slept = call i32 @usleep(i32 %time)
  ret void
}
"""


def napping(naps: tuple[int, int]) -> set[bool]:
    """What runs tell whose two items nap for so many microseconds: who takes which is chance."""
    text = NAP.replace("MORE", str(naps[1] - naps[0])).replace("FIRST", str(naps[0]))
    code = emit_run([Call("nap", 2, 0, ())], TARGET)
    engine = build([text, code.text], code.exports, TARGET)
    try:
        context = Context(code, 2, 0, 0)
        run = engine.address("run")
        pool().run(run, context.address, 2)  # workers learn where the caller is
        told = {pool().run(run, context.address, 2) for _ in range(3)}
        assert pool().run(run, context.address, 1) is False
        return told
    finally:
        pool().quiesce()
        engine.close()


@pytest.mark.skipif(sys.platform != "linux", reason="nobody is fetched elsewhere")
@pytest.mark.skipif(TARGET.cores < 2, reason="workers keep to no core of their own")
def test_a_worker_that_makes_no_progress_is_told_of() -> None:
    """Who naps for long may be the worker, or the caller."""
    told: set[bool] = set()
    for naps in 8 * [(20_000, 80_000), (80_000, 20_000)]:
        told |= napping(naps)
        if len(told) == 2:
            break
    assert told == {True, False}
