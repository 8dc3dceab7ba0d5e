"""The thread pool of the native runtime: many callers, workers that come late, forks and exits."""

from __future__ import annotations

import ctypes
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
from runtime_harness import TARGET, Chain, Loaded, inputs

import cnnir
from cnnir.backends.llvm import threads as pool_module
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import Call
from cnnir.backends.llvm.step_loop import ROWS
from cnnir.backends.llvm.threads import EPOCH, EPOCH_STEP, Pool, aligned, pool
from cnnir.errors import BackendError
from cnnir.ir import Graph
from cnnir.tensortype import TensorType


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with Chain(40, seed=1) as chain:
        yield chain


def python(code: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=timeout
    )


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


# ---- late workers


def test_workers_left_behind_do_no_harm(chain: Chain) -> None:
    """More threads than cores and short runs: most workers come to a job after it is over."""
    choose, contexts = random.Random(0), [chain.context(4) for _ in range(2)]
    xs = [inputs(seed) for seed in range(5)]
    wanted = [chain.expected(x) for x in xs]
    start = time.perf_counter()
    while time.perf_counter() - start < 1.5:
        n = choose.randrange(5)
        y = chain.run(xs[n], choose.choice(contexts), choose.choice((2, 3, 4, 4)))
        assert np.array_equal(y, wanted[n])
        if choose.random() < 0.05:
            time.sleep(choose.random() * 1e-3)


def test_epochs_wrap_around(chain: Chain) -> None:
    x, context = inputs(6), chain.context(4)
    wanted = chain.expected(x)
    for start in (2**64 - 3 * EPOCH_STEP, 2**63 - 3 * EPOCH_STEP):
        pool().quiesce()
        context._block[EPOCH : EPOCH + 8].view(np.uint64)[0] = start
        context._block[ROWS:].view(np.uint64)[:] = start
        for _ in range(8):
            assert np.array_equal(chain.run(x, context, 4), wanted)


def test_closing_right_after_a_run() -> None:
    """Code and contexts go while workers may have just heard of the job."""
    x, n = inputs(7), 0
    start = time.perf_counter()
    while time.perf_counter() - start < 2 or n < 5:
        with Chain(6, n) as fresh:
            context = fresh.context(4)
            for _ in range(n % 3 + 1):
                y = fresh.run(x, context, 4)
        context._block[:] = 255  # whoever still reads it, runs away
        assert np.array_equal(y, fresh.expected(x))
        n += 1


def test_two_programs_alternately(chain: Chain) -> None:
    x = inputs(8)
    with Chain(9, seed=5) as other:
        pairs = [(each, each.context(3), each.expected(x)) for each in (chain, other)]
        for _ in range(300):
            for each, context, wanted in pairs:
                assert np.array_equal(each.run(x, context, 3), wanted)
        pool().quiesce()
        assert np.array_equal(chain.run(x, pairs[0][1], 3), pairs[0][2])


def test_a_busy_neighbour_slows_but_does_not_stop(chain: Chain) -> None:
    """A spinning thread for each core, as other runtimes leave behind after their runs."""
    spin = "define void @spin(ptr %stop) {\nentry:\n  br label %loop\nloop:\n" + (
        "  %v = load atomic i32, ptr %stop monotonic, align 4\n  %on = icmp eq i32 %v, 0\n"
        "  br i1 %on, label %loop, label %done\ndone:\n  ret void\n}\n"
    )
    engine, stop = build([spin], ["spin"], TARGET), aligned(64)
    stop[:] = 0
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.address("spin"))
    spinners = [
        threading.Thread(target=function, args=(stop.ctypes.data,), daemon=True)
        for _ in range(TARGET.cores)
    ]
    for each in spinners:
        each.start()
    try:
        x, context = inputs(3), chain.context(2)
        wanted, start = chain.expected(x), time.perf_counter()
        for _ in range(30):
            assert np.array_equal(chain.run(x, context, 2), wanted)
        assert time.perf_counter() - start < 4
    finally:
        stop[:] = 1
        for each in spinners:
            each.join()
        engine.close()


def test_programs_that_are_dropped_free_their_code() -> None:
    graph = Graph("g")
    graph.output(graph.add("relu", graph.input(TensorType("f32", (8, 4096)), "x")), "y")
    x = np.random.default_rng(0).standard_normal((8, 4096), dtype=np.float32)
    for close in (True, False) * 5:
        executable = cnnir.compile(graph, threads=4, cache=False)
        for _ in range(3):
            np.testing.assert_array_equal(executable(x), np.maximum(x, 0))
        if close:
            executable.close()
        del executable


# ---- processes


FORK = """
import os, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside threads
from runtime_harness import Chain, inputs, pool
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
from runtime_harness import Chain, inputs
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
