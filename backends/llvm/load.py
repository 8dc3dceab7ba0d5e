"""The load stage: modules become code in this process, and a Program that runs it."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Sequence

import numpy as np

from cnnir.backends.base import Plan, Program
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.emit import Emitted, emit
from cnnir.backends.llvm.engine import Engine, build
from cnnir.backends.llvm.place import Places, place
from cnnir.backends.llvm.program import SLACK, Context
from cnnir.backends.llvm.schedule import Schedule
from cnnir.backends.llvm.threads import aligned, pool
from cnnir.backends.schedule import EXPRESSIONS
from cnnir.errors import BackendError, RuntimeError

PAGE = 4096


class LlvmProgram(Program):
    """Native code for one graph of fixed shapes.

    Every run uses a context (arena, scratch, pointers) of its own; contexts are kept for the next
    run, as many as ever ran at once.
    """

    def __init__(
        self, schedule: Schedule, threads: int, cache: ObjectCache | None, plan: Plan
    ) -> None:
        started = time.perf_counter()
        self.graph, self.plan, self.threads = schedule.graph, plan, threads
        self._schedule = schedule
        self._places: Places = place(schedule)
        plan.seconds["place"] = time.perf_counter() - started
        started = time.perf_counter()
        self.code: Emitted = emit(schedule, self._places)
        plan.seconds["emit"] = time.perf_counter() - started
        self._engine = build(self.code.modules, self.code.run.exports, schedule.target, cache)
        self._run = self._engine.address("run")
        self._free: list[Context] = []
        self._idle = threading.Condition()
        self._running = 0
        self._unload = weakref.finalize(self, _unload, self._engine, self._free, self._places)
        self._unload.atexit = False  # daemon threads may still be running it
        self._describe()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        context = self._acquire()
        try:
            return self._call(self._run, arrays, context)
        finally:
            self._release(context)

    def profile(self, arrays: Sequence[np.ndarray]) -> list[float]:
        context = self._acquire()
        try:
            self._call(self._engine.address("run_profiled"), arrays, context)
            return context.step_seconds()
        finally:
            self._release(context)

    def close(self) -> None:
        with self._idle:  # code must not go while someone runs in it
            self._idle.wait_for(lambda: self._running == 0)
            self._unload()

    def _call(
        self, function: int, arrays: Sequence[np.ndarray], context: Context
    ) -> list[np.ndarray]:
        inputs = [_readable(a) for a in arrays]
        outputs = [_fresh(v.type.shape, v.type.numpy) for v in self.graph.outputs]
        for position, array in enumerate(inputs[: len(context.inputs)]):
            context.inputs[position] = array.ctypes.data
        for position, array in enumerate(outputs):
            context.outputs[position] = array.ctypes.data
        pool().run(function, context.address, self.threads)
        if failures := context.failures():
            raise self._failure(failures)
        return outputs

    def _failure(self, failures: list[tuple[int, int]]) -> RuntimeError:
        """What was wrong, by the step's index words and source nodes."""
        step, code = failures[0]
        call = self._schedule.calls[step]
        with EXPRESSIONS:
            word = call.kernel.error(code)
        names = ", ".join(call.step.sources) or call.step.op
        return RuntimeError(f"node {names}: {word} out of range in {call.step.op}")

    def _acquire(self) -> Context:
        with self._idle:
            if self._engine.closed:
                raise BackendError("the program has been closed")
            self._running += 1
            if self._free:
                return self._free.pop()
        return Context(
            self.code.run,
            self.threads,
            self._places.arena_bytes,
            self._places.constants.ctypes.data,
        )

    def _release(self, context: Context) -> None:
        with self._idle:
            self._running -= 1
            self._free.append(context)
            self._idle.notify_all()

    def _describe(self) -> None:
        """Complete the plan with what placing and compiling told."""
        places, report = self._places, self._engine.report
        self.plan.buffers = places.buffers
        self.plan.arena_bytes = places.arena_bytes
        self.plan.constant_bytes = places.constants.nbytes
        self.plan.code_bytes = report.code_bytes
        self.plan.seconds["compile"] = report.seconds
        self.plan.notes += report.notes


def _unload(engine: Engine, contexts: list[Context], places: Places) -> None:
    """Free a program's code and memory; takes all of it, so that nothing goes before."""
    pool().quiesce()
    engine.close()
    contexts.clear()
    del places


def _readable(array: np.ndarray) -> np.ndarray:
    """The array, or a copy, such that the slack behind its end may be read.

    Kernels read whole vectors and may run over the end by less than SLACK bytes. That is safe
    where those bytes share a page with the last one; otherwise the array is copied.
    """
    end = array.ctypes.data + array.nbytes
    if array.nbytes and 0 < end % PAGE <= PAGE - SLACK:
        return array
    copy = _fresh(array.shape, array.dtype)
    copy[...] = array
    return copy


def _fresh(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array on a cache line, with slack behind it."""
    nbytes = math.prod(shape) * dtype.itemsize
    return aligned(nbytes + SLACK)[:nbytes].view(dtype).reshape(shape)
