"""The process's one pool of native worker threads.

Sits on `engine` and `sync`; knows little of programs: what it runs has the signature
`void f(ptr context, i64 thread, i64 threads, i64 epoch)`, returns on thread 0 when all is done, and
returns on every other thread soon after that. The context has an i64 at byte EPOCH, which the pool
raises for each run on several threads, so that the threads of one run never take part in the next.

Workers are Python threads that call once into a jitted loop, where they hold no GIL, and come back
when the pool shuts down. Each has a slot of its own, so a job for two threads disturbs no third. A
run does not wait for workers to take its job up or to leave it: one that the system has put aside
may come to an old job late, or skip it. `quiesce` waits until none is inside any job.

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

from cnnir.backends.llvm.cores import keep_away, run_soon
from cnnir.backends.llvm.engine import Engine, build
from cnnir.backends.llvm.rescue import SLOT, rescue
from cnnir.backends.llvm.sync import ROUNDS, pause, wait_and_wake
from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError

NativeFunction: TypeAlias = Callable[..., Any]

EPOCH = 64
"""Where a context holds the epoch of its last run on several threads."""
EPOCH_STEP = 2**32
TEAM = 72
"""Where it holds the pool's memory, if workers keep off the caller's core, see `rescue`."""

MAX_THREADS = 256
# A worker spins this long for the next job before it sleeps. To wake it costs the caller some 15 us
# (idle virtual core): little in an inference of milliseconds, and those of microseconds come closer
# together. Spinning for 1 or 2 ms saves that after longer pauses, but burns a core for it, and
# beside a busy neighbour the worker has then used up its share of the core when the job comes.
IDLE_MICROSECONDS = 200
WAIT_MICROSECONDS = 25  # threads spin this long for each other inside a run; 15 to 150 are alike
_ANY_CORE = -2  # for `dispatch`: never mind where the caller is

# A slot a worker, in bytes: 0 sequence i32 (even; odd while fields change), 8 function (null: end),
# 16 context, 24 threads (0: nothing to do), 32 epoch, 40 spins, 64 sleepers i32, 68 inside i32, and
# what is told in `rescue`, which has slot 0 too. `inside` is raised before the fields are read, so
# whoever changes them and then sees it low knows that the worker is in no earlier job and will
# enter none.
_TEXT = """
define void @cnnir.work(ptr %pool, i64 %thread) nounwind {{
entry:
  %offset = mul i64 %thread, {slot}
  %slot = getelementptr i8, ptr %pool, i64 %offset
  %function.p = getelementptr i8, ptr %slot, i64 8
  %context.p = getelementptr i8, ptr %slot, i64 16
  %threads.p = getelementptr i8, ptr %slot, i64 24
  %epoch.p = getelementptr i8, ptr %slot, i64 32
  %spins.p = getelementptr i8, ptr %slot, i64 40
  %sleepers = getelementptr i8, ptr %slot, i64 64
  %inside = getelementptr i8, ptr %slot, i64 68
  %spins = load i64, ptr %spins.p
  br label %next
next:
  %seen = phi i32 [ 0, %entry ], [ %sequence, %leave ]
  call void @cnnir.wait(ptr %slot, i32 %seen, ptr %sleepers, i64 %spins)
  %out = atomicrmw xchg ptr %inside, i32 1 seq_cst
  br label %read
read:
  %sequence = load atomic i32, ptr %slot seq_cst, align 4
  %function = load atomic ptr, ptr %function.p monotonic, align 8
  %context = load atomic ptr, ptr %context.p monotonic, align 8
  %threads = load atomic i64, ptr %threads.p monotonic, align 8
  %epoch = load atomic i64, ptr %epoch.p monotonic, align 8
  fence acquire
  %again = load atomic i32, ptr %slot monotonic, align 4
  %still = icmp eq i32 %again, %sequence
  %low = and i32 %sequence, 1
  %even = icmp eq i32 %low, 0
  %whole = and i1 %still, %even
  br i1 %whole, label %look, label %retry
retry:
  %ignored = call i32 @sched_yield()
  br label %read
look:
  %nothing = icmp eq i64 %threads, 0
  br i1 %nothing, label %leave, label %order
order:
  %end = icmp eq ptr %function, null
  br i1 %end, label %done, label %job
job:
  call void %function(ptr %context, i64 %thread, i64 %threads, i64 %epoch)
  br label %leave
leave:
  store atomic i32 0, ptr %inside seq_cst, align 4
  call void @cnnir.return(ptr %pool, i64 %thread)
  br label %next
done:
  store atomic i32 0, ptr %inside seq_cst, align 4
  ret void
}}

; -1 when the job is done; if workers do not keep away from the caller's core yet, nothing is done
; and that core's number returned.
define i64 @cnnir.dispatch(ptr %pool, ptr %function, ptr %context, i64 %threads, i64 %avoided)
    nounwind {{
entry:
  %many = icmp sgt i64 %threads, 1
  br i1 %many, label %place, label %alone
alone:
  call void %function(ptr %context, i64 0, i64 1, i64 0)
  ret i64 -1
place:
  %core = call i64 @cnnir.core()
  %moved = icmp ne i64 %core, %avoided
  %care = icmp ne i64 %avoided, -2
  %refuse = and i1 %moved, %care
  %team = select i1 %care, ptr %pool, ptr null
  br i1 %refuse, label %refused, label %several
refused:
  ret i64 %core
several:
  %epoch.p = getelementptr i8, ptr %context, i64 {epoch}
  %last = load i64, ptr %epoch.p
  %epoch = add i64 %last, {step}
  store i64 %epoch, ptr %epoch.p
  %team.p = getelementptr i8, ptr %context, i64 {team}
  store ptr %team, ptr %team.p
  br label %hand
hand:
  %i = phi i64 [ 1, %several ], [ %i1, %hand ]
  %slot = call ptr @change(ptr %pool, i64 %i, ptr %function, ptr %context, i64 %threads, i64 %epoch)
  %sleepers = getelementptr i8, ptr %slot, i64 64
  call void @cnnir.wake(ptr %slot, ptr %sleepers)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %threads
  br i1 %more, label %hand, label %mine
mine:
  call void %function(ptr %context, i64 0, i64 %threads, i64 %epoch)
  ret i64 -1
}}

; Put a job into the slot of worker number %thread.
define internal ptr @change(ptr %pool, i64 %thread, ptr %function, ptr %context, i64 %threads,
    i64 %epoch) nounwind {{
  %offset = mul i64 %thread, {slot}
  %slot = getelementptr i8, ptr %pool, i64 %offset
  %function.p = getelementptr i8, ptr %slot, i64 8
  %context.p = getelementptr i8, ptr %slot, i64 16
  %threads.p = getelementptr i8, ptr %slot, i64 24
  %epoch.p = getelementptr i8, ptr %slot, i64 32
  %odd = atomicrmw add ptr %slot, i32 1 seq_cst
  fence release
  store atomic ptr %function, ptr %function.p monotonic, align 8
  store atomic ptr %context, ptr %context.p monotonic, align 8
  store atomic i64 %threads, ptr %threads.p monotonic, align 8
  store atomic i64 %epoch, ptr %epoch.p monotonic, align 8
  %even = atomicrmw add ptr %slot, i32 1 seq_cst
  ret ptr %slot
}}

define void @cnnir.end(ptr %pool, i64 %thread) nounwind {{
  %slot = call ptr @change(ptr %pool, i64 %thread, ptr null, ptr null, i64 1, i64 0)
  %sleepers = getelementptr i8, ptr %slot, i64 64
  call void @cnnir.wake(ptr %slot, ptr %sleepers)
  ret void
}}

; Take a job back: whoever has not taken it up never will.
define void @cnnir.withdraw(ptr %pool, i64 %thread) nounwind {{
  %slot = call ptr @change(ptr %pool, i64 %thread, ptr null, ptr null, i64 0, i64 0)
  ret void
}}

define i64 @cnnir.inside(ptr %pool, i64 %thread) nounwind {{
  %offset = mul i64 %thread, {slot}
  %slot = getelementptr i8, ptr %pool, i64 %offset
  %inside.p = getelementptr i8, ptr %slot, i64 68
  %inside = load atomic i32, ptr %inside.p seq_cst, align 4
  %wide = zext i32 %inside to i64
  ret i64 %wide
}}

declare i32 @clock_gettime(i32, ptr)

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
        text = _TEXT.format(slot=SLOT, epoch=EPOCH, team=TEAM, step=EPOCH_STEP, pause=pause_call)
        names = ("work", "dispatch", "end", "withdraw", "inside", "spin")
        self.engine: Engine = build(
            [text + wait_and_wake(target) + rescue(target)],
            [f"cnnir.{name}" for name in names],
            target,
            jobs=1,
        )
        word, count = ctypes.c_void_p, ctypes.c_int64
        self.work = self._function("work", None, word, count)
        self.dispatch = self._function("dispatch", count, word, word, word, count, count)
        self.end = self._function("end", None, word, count)
        self.withdraw = self._function("withdraw", None, word, count)
        self.inside = self._function("inside", count, word, count)
        spin = self._function("spin", None, word, count)
        self.cores = target.cores
        self.pause_seconds = self._time_of_pause(spin)

    def _function(self, name: str, result: type | None, *types: type) -> NativeFunction:
        return ctypes.CFUNCTYPE(result, *types)(self.engine.address(f"cnnir.{name}"))

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
    """Pauses that make a wait of this long; none when there are more threads than cores."""
    native = _functions()
    if threads > native.cores:
        return 0
    return int(microseconds * 1e-6 / native.pause_seconds)


class Pool:
    """Worker threads, started as jobs ask for them and kept.

    They keep off the core of the last caller who asked for no more threads than there are cores.
    """

    def __init__(self) -> None:
        # Reentrant, as a collected program may call `quiesce` in the middle of `run`.
        self._busy = threading.RLock()
        self._workers: list[threading.Thread] = []
        self._memory = aligned(SLOT * (MAX_THREADS + 1))
        self._memory[:] = 0
        self._avoided = -1  # the core that workers keep away from, the caller's

    @property
    def workers(self) -> int:
        """Threads the pool holds; the caller's own is not among them."""
        return len(self._workers)

    def run(self, function: int, context: int, threads: int) -> None:
        """Call `function(context, thread, threads, epoch)` on as many threads.

        The calling thread is number 0, and when it returns the job is done, though others may
        still be about to leave. If another caller has the pool, it runs alone.
        """
        native = _native or _functions()
        address = self._memory.ctypes.data
        if threads <= 1 or not self._busy.acquire(blocking=False):
            native.dispatch(address, function, context, 1, _ANY_CORE)
            return
        try:
            if len(self._workers) < threads - 1:
                self._grow(threads - 1)
            avoided = self._avoided if threads <= native.cores else _ANY_CORE
            core = native.dispatch(address, function, context, threads, avoided)
            if core >= 0:
                workers = [worker.native_id or 0 for worker in self._workers]
                self._memory[:SLOT] = keep_away(workers, core)
                self._avoided = core
                native.dispatch(address, function, context, threads, _ANY_CORE)
        finally:
            self._busy.release()

    def _grow(self, workers: int) -> None:
        if workers >= MAX_THREADS:
            raise BackendError(f"{workers + 1} threads asked for, the limit is {MAX_THREADS}")
        native = _functions()
        for number in range(len(self._workers) + 1, workers + 1):
            slot = self._memory[SLOT * number : SLOT * (number + 1)].view(np.int64)
            slot[:] = 0
            slot[5] = spins(IDLE_MICROSECONDS) // ROUNDS
            worker = threading.Thread(
                target=native.work,
                args=(self._memory.ctypes.data, number),
                name=f"cnnir-{number}",
                daemon=True,
            )
            worker.start()
            run_soon(worker.native_id or 0)
            slot.view(np.int32)[18] = worker.native_id or 0
            self._avoided = -1
            self._workers.append(worker)

    def quiesce(self) -> None:
        """Return when no worker is inside a job, nor will be before the next `run`.

        After that the code and contexts of runs that have returned may be freed.
        """
        with self._busy:
            if not self._workers:
                return
            native, address = _functions(), self._memory.ctypes.data
            numbers = range(1, len(self._workers) + 1)
            for number in numbers:
                native.withdraw(address, number)
            for number in numbers:
                nap = 20e-6
                while native.inside(address, number):
                    time.sleep(nap)
                    nap = min(2 * nap, 2e-3)

    def shutdown(self) -> None:
        """End the workers; a later run starts new ones."""
        if not self._busy.acquire(timeout=1.0):
            return  # a daemon thread is still running a job: it ends with the process
        try:
            for number in range(1, len(self._workers) + 1):
                _functions().end(self._memory.ctypes.data, number)
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
