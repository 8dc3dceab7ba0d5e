"""The process's one pool of native worker threads.

Sits on `engine` and `sync`; knows nothing of programs but the signature of what it runs,
`void f(ptr context, i64 thread, i64 threads)`. Workers are Python threads that call once into a
jitted loop, where they hold no GIL, and come back when the pool shuts down. Each has a slot of its
own, so a job for two threads disturbs no third. Idle workers sleep; they start when first needed.

If the pool is busy with another caller, a caller runs its job alone: programs give the same bits
for every number of threads, so this costs time only. A forked child starts with an empty pool.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from cnnir.backends.llvm.engine import Engine, build
from cnnir.backends.llvm.sync import ROUNDS, pause, wait_and_wake
from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError

NativeFunction: TypeAlias = Callable[..., Any]

MAX_THREADS = 256
IDLE_MICROSECONDS = 200  # a worker spins this long for the next job before it sleeps
WAIT_MICROSECONDS = 50  # threads spin this long for each other inside a run
_SLOT = 128

# Pool memory, in bytes: 0 pending i32 (workers still in the job), 64 its sleepers, then from 128 a
# slot a worker: 0 sequence i32 (a new value is a new job), 64 its sleepers, 8 function (null: end),
# 16 context, 24 threads, 32 spins.
_TEXT = """
define void @cnnir.work(ptr %pool, i64 %thread) nounwind {{
entry:
  %offset = mul i64 %thread, {slot}
  %slot = getelementptr i8, ptr %pool, i64 %offset
  %sleepers = getelementptr i8, ptr %slot, i64 64
  %function.p = getelementptr i8, ptr %slot, i64 8
  %context.p = getelementptr i8, ptr %slot, i64 16
  %threads.p = getelementptr i8, ptr %slot, i64 24
  %spins.p = getelementptr i8, ptr %slot, i64 32
  %spins = load i64, ptr %spins.p
  %resting = getelementptr i8, ptr %pool, i64 64
  br label %next
next:
  %seen = phi i32 [ 0, %entry ], [ %sequence, %job ], [ %sequence, %last ]
  call void @cnnir.wait(ptr %slot, i32 %seen, ptr %sleepers, i64 %spins)
  %sequence = load atomic i32, ptr %slot acquire, align 4
  %function = load ptr, ptr %function.p
  %end = icmp eq ptr %function, null
  br i1 %end, label %done, label %job
job:
  %context = load ptr, ptr %context.p
  %threads = load i64, ptr %threads.p
  call void %function(ptr %context, i64 %thread, i64 %threads)
  %before = atomicrmw sub ptr %pool, i32 1 seq_cst
  %final = icmp eq i32 %before, 1
  br i1 %final, label %last, label %next
last:
  call void @cnnir.wake(ptr %pool, ptr %resting)
  br label %next
done:
  ret void
}}

define void @cnnir.dispatch(ptr %pool, ptr %function, ptr %context, i64 %threads, i64 %spins)
    nounwind {{
entry:
  %many = icmp sgt i64 %threads, 1
  br i1 %many, label %publish, label %alone
alone:
  call void %function(ptr %context, i64 0, i64 1)
  ret void
publish:
  %workers = sub i64 %threads, 1
  %workers.32 = trunc i64 %workers to i32
  store atomic i32 %workers.32, ptr %pool seq_cst, align 4
  br label %hand
hand:
  %i = phi i64 [ 1, %publish ], [ %i1, %hand ]
  call void @cnnir.hand(ptr %pool, i64 %i, ptr %function, ptr %context, i64 %threads)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %threads
  br i1 %more, label %hand, label %mine
mine:
  call void %function(ptr %context, i64 0, i64 %threads)
  %sleepers = getelementptr i8, ptr %pool, i64 64
  br label %collect
collect:
  %pending = load atomic i32, ptr %pool acquire, align 4
  %zero = icmp eq i32 %pending, 0
  br i1 %zero, label %done, label %rest
rest:
  call void @cnnir.wait(ptr %pool, i32 %pending, ptr %sleepers, i64 %spins)
  br label %collect
done:
  ret void
}}

; Give worker number %thread a job, or the end with a null function.
define void @cnnir.hand(ptr %pool, i64 %thread, ptr %function, ptr %context, i64 %threads)
    nounwind {{
  %offset = mul i64 %thread, {slot}
  %slot = getelementptr i8, ptr %pool, i64 %offset
  %sleepers = getelementptr i8, ptr %slot, i64 64
  %function.p = getelementptr i8, ptr %slot, i64 8
  %context.p = getelementptr i8, ptr %slot, i64 16
  %threads.p = getelementptr i8, ptr %slot, i64 24
  store ptr %function, ptr %function.p
  store ptr %context, ptr %context.p
  store i64 %threads, ptr %threads.p
  %old = atomicrmw add ptr %slot, i32 1 seq_cst
  call void @cnnir.wake(ptr %slot, ptr %sleepers)
  ret void
}}

define void @cnnir.spin(ptr %word, i64 %count) nounwind {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %v = load atomic i32, ptr %word acquire, align 4
  {pause}
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def aligned(nbytes: int, alignment: int = 64) -> np.ndarray:
    """Uninitialised bytes that start on a multiple of `alignment`."""
    raw = np.empty(nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes]


class _Native:
    """The jitted functions of the pool, compiled once a process (and inherited by forks)."""

    def __init__(self) -> None:
        target = CpuTarget.host("")
        pause_call, _ = pause(target)
        text = _TEXT.format(slot=_SLOT, pause=pause_call) + wait_and_wake(target)
        names = ("cnnir.work", "cnnir.dispatch", "cnnir.hand", "cnnir.spin")
        self.engine: Engine = build([text], names, target, jobs=1)
        word, count = ctypes.c_void_p, ctypes.c_int64
        self.work = self._function("cnnir.work", word, count)
        self.dispatch = self._function("cnnir.dispatch", word, word, word, count, count)
        self.hand = self._function("cnnir.hand", word, count, word, word, count)
        spin = self._function("cnnir.spin", word, count)
        self.cores = target.cores
        self.pause_seconds = self._time_of_pause(spin)

    def _function(self, name: str, *types: type) -> NativeFunction:
        return ctypes.CFUNCTYPE(None, *types)(self.engine.address(name))

    @staticmethod
    def _time_of_pause(spin: NativeFunction) -> float:
        """Pauses take from 4 to 140 cycles on different processors, so they are measured."""
        word, times = aligned(64), []
        for _ in range(3):
            start = time.perf_counter()
            spin(word.ctypes.data, 1000)
            times.append(time.perf_counter() - start)
        return max(min(times) / 1000, 1e-9)


_native: _Native | None = None
_native_lock = threading.Lock()


def _functions() -> _Native:
    global _native
    if _native is None:
        with _native_lock:
            if _native is None:
                _native = _Native()
    return _native


def spins(microseconds: float, threads: int = 1) -> int:
    """Pauses a round that make a wait of this long; none when there are more threads than cores."""
    native = _functions()
    if threads > native.cores:
        return 0
    return int(microseconds * 1e-6 / native.pause_seconds / ROUNDS)


class Pool:
    """Worker threads, started as jobs ask for them and kept."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._memory = aligned(_SLOT * (MAX_THREADS + 1))
        self._memory[:] = 0

    @property
    def workers(self) -> int:
        """Threads the pool holds; the caller's own is not among them."""
        return len(self._workers)

    def run(self, function: int, context: int, threads: int) -> None:
        """Call `function(context, thread, threads)` on as many threads; return when all have.

        The calling thread is number 0. If another caller has the pool, it runs alone.
        """
        native = _native or _functions()
        address = self._memory.ctypes.data
        if threads <= 1 or not self._busy.acquire(blocking=False):
            native.dispatch(address, function, context, 1, 0)
            return
        try:
            if len(self._workers) < threads - 1:
                self._grow(threads - 1)
            patience = spins(WAIT_MICROSECONDS, threads)
            native.dispatch(address, function, context, threads, patience)
        finally:
            self._busy.release()

    def _grow(self, workers: int) -> None:
        if workers >= MAX_THREADS:
            raise BackendError(f"{workers + 1} threads asked for, the limit is {MAX_THREADS}")
        native = _functions()
        for number in range(len(self._workers) + 1, workers + 1):
            slot = self._memory[_SLOT * number : _SLOT * (number + 1)].view(np.int64)
            slot[:] = 0
            slot[4] = spins(IDLE_MICROSECONDS)
            worker = threading.Thread(
                target=native.work,
                args=(self._memory.ctypes.data, number),
                name=f"cnnir-{number}",
                daemon=True,
            )
            worker.start()
            self._workers.append(worker)

    def shutdown(self) -> None:
        """End the workers; a later run starts new ones."""
        if not self._busy.acquire(timeout=1.0):
            return  # a daemon thread is still running a job: it ends with the process
        try:
            for number in range(1, len(self._workers) + 1):
                _functions().hand(self._memory.ctypes.data, number, None, None, 0)
            for worker in self._workers:
                worker.join()
            self._workers.clear()
        finally:
            self._busy.release()


_pool = Pool()


def pool() -> Pool:
    """The pool of this process."""
    return _pool


def _after_fork() -> None:
    global _pool, _native_lock
    _pool, _native_lock = Pool(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.shutdown())
