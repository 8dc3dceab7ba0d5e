"""The step loop of the native runtime, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_harness import TARGET, Chain, Loaded, inputs, mix, total

from cnnir.backends.llvm.program import Call, emit_run
from cnnir.backends.llvm.threads import aligned
from cnnir.errors import BackendError


@pytest.mark.parametrize("seed", range(4))
def test_every_number_of_threads_gives_the_same_bits(seed: int) -> None:
    chain = Chain(30, seed)
    x = inputs(seed)
    wanted = chain.expected(x)
    for threads in (1, 2, 3, 4):
        context = chain.context(threads)
        for name in ("run", "run_profiled"):
            for _ in range(50):
                np.testing.assert_array_equal(chain.run(x, context, threads, name), wanted)
        assert len(context.step_seconds()) == 30 and min(context.step_seconds()) >= 0
        assert chain.run(x, context, 1).tolist() == wanted.tolist()
        assert context.failures() == []
    chain.close()


def waits(*calls: tuple[int, int | None]) -> int:
    steps = [Call("k", items, 0, (), after) for items, after in calls]
    return emit_run(steps, TARGET).waits


def test_rows_wait_only_where_they_must() -> None:
    assert waits((4, None), (4, None), (4, None)) == 2
    assert waits((4, None), (4, -1), (4, 0)) == 1
    assert waits((1, None), (1, None), (1, None)) == 0  # a row of three calls
    assert waits((1, None), (1, -1), (1, None)) == 1  # the second may be on another thread
    assert waits((1, None), (1, None), (4, 0), (1, 1)) == 1
    assert waits((4, None), (1, None), (1, None), (4, None)) == 2
    assert waits((4, None), (1, -1), (1, None), (1, None)) == 1  # the third may need the first


def test_independent_singles_run_once_each() -> None:
    calls = [Call("mix", 64, 0, (("input", 0), ("arena", 0)))]
    calls += [Call("total", 1, 8, (("arena", 0), ("output", j)), 0) for j in range(5)]
    x, out = inputs(3), np.zeros((5, 64), np.int64)
    with Loaded(calls, 512) as loaded:
        for threads in (1, 2, 4):
            context = loaded.context(threads)
            context.inputs[0] = x.ctypes.data
            context.outputs[:] = [row.ctypes.data for row in out]
            out[:] = 0
            loaded.call(context, threads)
            np.testing.assert_array_equal(out, np.broadcast_to(total(mix(x)), (5, 64)))


def test_constants_empty_steps_and_failures() -> None:
    calls = [
        Call("mix", 64, 0, (("const", 512), ("output", 0))),
        Call("fail", 0, 0, (("arena", 0), ("arena", 0))),
        Call("fail", 3, 0, (("arena", 0), ("arena", 0))),
        Call("fail", 1, 0, (("arena", 0), ("arena", 0))),
        Call("fail", 1, 0, (("arena", 0), ("arena", 0))),
    ]
    constants, y = aligned(1024), np.zeros(64, np.int64)
    constants[512:] = inputs(5).view(np.uint8)
    with Loaded(calls, constants=constants.ctypes.data) as loaded:
        for threads in (1, 2):
            context = loaded.context(threads)
            for name in ("run", "run_profiled", "run"):
                context.outputs[0], y[:] = y.ctypes.data, 0
                loaded.call(context, threads, name)
                np.testing.assert_array_equal(y, mix(inputs(5)))
                assert context.failures() == [(2, 7), (3, 7), (4, 7)]
                assert context.failures() == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Call("a b", 1, 0, ()), "not a function name"),
        (Call("k", -1, 0, ()), "must not be negative"),
        (Call("k", 1, 0, (("heap", 0),)), "no pointer source"),
        (Call("k", 1, 0, (("arena", -8),)), "no pointer source"),
        (Call("k", 1, 0, (), after=0), "after=0, wanted -1 to -1"),
    ],
)
def test_malformed_calls(bad: Call, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        emit_run([bad], TARGET)


def test_no_steps_at_all() -> None:
    with Loaded([]) as loaded:
        for threads in (1, 2):
            loaded.call(loaded.context(threads), threads)
