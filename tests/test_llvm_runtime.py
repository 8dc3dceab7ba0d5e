"""The native runtime: the step loop on any number of threads, and the thread pool."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnnir.backends.llvm import threads as pool_module
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import Call, Context, emit_run
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import Pool, aligned, pool
from cnnir.errors import BackendError
from cnnir.memory import Access, conflicts, place

TARGET = CpuTarget.host("")

# mix reads a second element of x, so that a step which starts too early gives other bits; total
# goes through scratch; fail reports bad data.
KERNELS = """
define void @mix(ptr %error, ptr %scratch, i64 %item, ptr %x, ptr %y) {
  %a = getelementptr i64, ptr %x, i64 %item
  %v = load i64, ptr %a
  %j = mul i64 %item, 7
  %j1 = add i64 %j, 1
  %j2 = and i64 %j1, 63
  %b = getelementptr i64, ptr %x, i64 %j2
  %w = load i64, ptr %b
  %v3 = mul i64 %v, 3
  %w5 = mul i64 %w, 5
  %s = add i64 %v3, %w5
  %t = add i64 %s, %item
  %c = getelementptr i64, ptr %y, i64 %item
  store i64 %t, ptr %c
  ret void
}
define void @total(ptr %error, ptr %scratch, i64 %item, ptr %x, ptr %y) {
entry:
  store i64 1, ptr %scratch
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %a = getelementptr i64, ptr %x, i64 %i
  %v = load i64, ptr %a
  %s = load i64, ptr %scratch
  %t = add i64 %s, %v
  store volatile i64 %t, ptr %scratch
  %c = getelementptr i64, ptr %y, i64 %i
  store i64 %t, ptr %c
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, 64
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @fail(ptr %error, ptr %scratch, i64 %item, ptr %x, ptr %y) {
  store i32 7, ptr %error
  ret void
}
"""


def mix(x: np.ndarray) -> np.ndarray:
    i = np.arange(64)
    return x * 3 + x[(i * 7 + 1) & 63] * 5 + i


def total(x: np.ndarray) -> np.ndarray:
    return 1 + np.cumsum(x)


class Loaded:
    """The code of calls and the contexts of its runs, closed as a program closes."""

    def __init__(self, calls: list[Call], arena: int = 0, constants: int = 0) -> None:
        self.code, self.arena, self.constants = emit_run(calls, TARGET), arena, constants
        self.engine = build([KERNELS, self.code.text], self.code.exports, TARGET)
        self.contexts: list[Context] = []

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pool().quiesce()
        self.engine.close()
        self.contexts.clear()

    def context(self, threads: int) -> Context:
        self.contexts.append(Context(self.code, threads, self.arena, self.constants))
        return self.contexts[-1]

    def call(self, context: Context, threads: int, name: str = "run") -> None:
        pool().run(self.engine.address(name), context.address, threads)

    def run(self, x: np.ndarray, context: Context, threads: int, name: str = "run") -> np.ndarray:
        y = np.zeros(64, np.int64)
        context.inputs[0], context.outputs[0] = x.ctypes.data, y.ctypes.data
        self.call(context, threads, name)
        return y


class Chain(Loaded):
    """A random program over 64-element i64 buffers, and numpy's answer."""

    def __init__(self, steps: int, seed: int) -> None:
        choose = random.Random(seed)
        self.operands = [choose.randrange(max(0, v - 3), v) for v in range(1, steps + 1)]
        self.kinds = [choose.choice(["mix", "mix", "total"]) for _ in range(steps)]
        accesses = [Access((o,), (v + 1,)) for v, o in enumerate(self.operands)]
        sizes = {v: 512 for v in range(1, steps)}  # 0 is the input, the last is the output
        placement = place(accesses, sizes)
        after = conflicts(accesses, sizes, placement)

        def where(v: int) -> tuple[str, int]:
            if v == 0:
                return ("input", 0)
            return ("output", 0) if v == steps else ("arena", placement.offsets[v])

        calls = [
            Call(kind, 64 if kind == "mix" else 1, 64, (where(o), where(v + 1)), after[v])
            for v, (kind, o) in enumerate(zip(self.kinds, self.operands, strict=True))
        ]
        super().__init__(calls, placement.peak)

    def expected(self, x: np.ndarray) -> np.ndarray:
        values = [x]
        for kind, operand in zip(self.kinds, self.operands, strict=True):
            values.append((mix if kind == "mix" else total)(values[operand]))
        return values[-1]


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(40, seed=1) as chain:
        yield chain


def inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**40), 2**40, 64)


def python(code: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=timeout
    )


# ---- the step loop


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


# ---- the pool


def test_concurrent_callers_get_right_results(chain: Chain) -> None:
    wrong: list[int] = []

    def caller(number: int) -> None:
        x, context = inputs(number), chain.context(2)
        wanted = chain.expected(x)
        for _ in range(200):
            if not np.array_equal(chain.run(x, context, 2), wanted):
                wrong.append(number)

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(6)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(30)
    assert not wrong and not any(each.is_alive() for each in callers)


def test_oversubscription_degrades_gracefully(chain: Chain) -> None:
    threads = 4 * TARGET.cores + 3
    x, context = inputs(9), chain.context(threads)
    wanted = chain.expected(x)
    start = time.perf_counter()
    for _ in range(20):
        np.testing.assert_array_equal(chain.run(x, context, threads), wanted)
    assert time.perf_counter() - start < 10
    assert pool().workers >= threads - 1


def test_too_many_threads_are_refused(chain: Chain) -> None:
    with pytest.raises(BackendError, match="the limit is 256"):
        Pool().run(chain.engine.address("run"), 0, 1000)


def test_idle_workers_burn_no_core(chain: Chain) -> None:
    x, context = inputs(2), chain.context(4)
    chain.run(x, context, 4)
    time.sleep(0.05)  # longer than an idle worker spins
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.1
    np.testing.assert_array_equal(chain.run(x, context, 4), chain.expected(x))


def test_pool_ends_and_starts_again(chain: Chain) -> None:
    own = Pool()
    x, context = inputs(4), chain.context(3)
    y = np.zeros(64, np.int64)
    context.inputs[0], context.outputs[0] = x.ctypes.data, y.ctypes.data
    for _ in range(3):
        y[:] = 0
        own.run(chain.engine.address("run"), context.address, 3)
        np.testing.assert_array_equal(y, chain.expected(x))
        assert own.workers == 2
        own.shutdown()
        assert own.workers == 0


FORK = """
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside threads
from test_llvm_runtime import Chain, inputs, pool
chain = Chain(20, 1)
x, context = inputs(1), chain.context(2)
wanted = chain.expected(x)
assert (chain.run(x, context, 2) == wanted).all()
for generation in range(3):
    child = os.fork()
    if child == 0:
        assert pool().workers == 0
        for threads in (1, 2):
            fresh = chain.context(threads)
            assert (chain.run(x, fresh, threads) == wanted).all()
        fresh = Chain(10, 2)
        assert (fresh.run(x, fresh.context(2), 2) == fresh.expected(x)).all()
        chain.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (chain.run(x, context, 2) == wanted).all()
print("fine")
"""

EXIT_WHILE_BUSY = """
import threading, time
from test_llvm_runtime import Chain, inputs
chain = Chain(20, 1)
def forever():
    x, context = inputs(1), chain.context(2)
    while True:
        chain.run(x, context, 2)
for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_start_with_an_empty_pool() -> None:
    result = python(FORK)
    assert (result.returncode, result.stdout.strip()) == (0, "fine"), result.stderr


def test_exit_while_threads_run_is_clean() -> None:
    for _ in range(3):
        result = python(EXIT_WHILE_BUSY)
        assert (result.returncode, result.stdout.strip()) == (0, "fine"), result.stderr


def test_calls_cost_microseconds() -> None:
    """A generous bound: the figures are for benchmarks, this is against gross mistakes."""
    call = Call("mix", 1, 0, (("arena", 0), ("arena", 512)))
    with Loaded([call], 1024) as loaded:
        context = loaded.context(1)
        best = min(_timed(lambda: loaded.call(context, 1)) for _ in range(50))
    assert best < 100e-6
    assert pool_module.spins(50) >= 0


def _timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
