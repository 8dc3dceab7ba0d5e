"""The load stage: an image becomes code in this process, and a Program that runs it."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from cnnir.backends.base import Program, Step, on_copies, split
from cnnir.backends.llvm.artifacts import FORMS, files
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.engine import Engine
from cnnir.backends.llvm.entry import Entry, possible
from cnnir.backends.llvm.frame import Frame
from cnnir.backends.llvm.image import Image
from cnnir.backends.llvm.program import Context
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import pool
from cnnir.backends.state import State
from cnnir.errors import BackendError, RuntimeError

SHARING_COST = 70e-6
"""Seconds, by estimate, that several threads must save for a run to be shared. Sharing takes 5 us
where the others spin for work, and 30 us or more where they have gone to sleep, as they mostly have
when such short runs come one at a time; and estimates are high by half (LeNet, 8 images, 56 us by
estimate: 41 instead of 61 us where workers spin, 74 to 117 where they sleep)."""

_FLOPS, _BYTES = 60e9, 40e9  # a second, on one core, of short runs


class LlvmProgram(Program):
    """Native code for one graph of fixed shapes.

    Every run uses a frame (arena, scratch, pointers) of its own; frames are kept for the next run,
    as many as ever ran at once.
    """

    def __init__(
        self,
        image: Image,
        target: CpuTarget,
        threads: int,
        cache: ObjectCache | None,
        keep: Callable[[], None] | None = None,
    ) -> None:
        self.signature, self.plan = image.signature, image.plan
        self.image, self.threads, self._target, self._keep = image, threads, target, keep
        self._engine = Engine(image.objects, image.code.exports, target)
        self._run, self._profiled = map(self._engine.address, ("run", "run_profiled"))
        alone = self._engine.address("run_alone")
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(alone)
        self._shared = saved_by_sharing(image.plan.steps, threads) > SHARING_COST
        self._idle: list[Frame] = []
        self._frames = 0
        self._closing = False
        self._returned = threading.Condition()
        entry = self._entry(alone, cache)
        self.enter = entry.enter if entry else None
        self._unload = weakref.finalize(self, _unload, self._engine, self._idle, image, entry)
        self._unload.atexit = False  # daemon threads may still be running it

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.signature.carried:
            return on_copies(self, arrays)
        frame = self._acquire()
        try:
            return self._call(None, arrays, frame)
        finally:
            self._release(frame)

    def advance(self, arrays: Sequence[np.ndarray], state: State) -> list[np.ndarray]:
        state.here()
        frame = self._acquire()
        try:
            return self._call(None, arrays, frame, state)
        finally:
            self._release(frame)

    def profile(self, arrays: Sequence[np.ndarray]) -> list[float]:
        state, given = split(self.signature, arrays)
        frame = self._acquire()
        try:
            self._call(self._profiled, given, frame, state)
            return frame.context.step_seconds()
        finally:
            self._release(frame)

    forms = FORMS

    def artifacts(self, form: str) -> dict[str, bytes]:
        if form not in FORMS:
            return super().artifacts(form)
        return files(self.texts(), self.image.code.text, self._target, form)

    def texts(self) -> dict[str, str]:
        return self.image.kernels()

    def keep(self) -> None:
        if self._keep is not None:
            self._keep()
            self._keep = None

    def close(self) -> None:
        with self._returned:
            self._closing = True
            frames: list[Frame] = []  # code must not go while someone runs in it, with a frame
            while len(frames) < self._frames:
                try:
                    frames.append(self._idle.pop())
                except IndexError:
                    self._returned.wait()
            self._unload()
            self._frames = 0

    def _call(
        self,
        function: int | None,
        arrays: Sequence[np.ndarray],
        frame: Frame,
        state: State | None = None,
    ) -> list[np.ndarray]:
        """A run, or what `function` makes of one."""
        frame.bind(state)
        kept = frame.fill(arrays)
        if function is not None or self._shared:
            threads = self.threads if self._shared else 1
            pool().run(function or self._run, frame.context.address, threads)
        else:
            self._alone(frame.pointer)
        if frame.context.failed:
            raise self._failure(frame.context.failures())
        return frame.results(kept)

    def _entry(self, alone: int, cache: ObjectCache | None) -> Entry | None:
        """A short way in, for runs on the caller's thread."""
        if self._shared or self.signature.carried or not possible():
            return None
        frame = self._frame()
        if not frame.small:
            return None
        types = [port.type for port in self.signature.inputs]
        return Entry(frame, alone, types, cache, seconds(self.plan.steps))

    def _frame(self) -> Frame:
        constants, arena = self.image.constants.ctypes.data, self.plan.arena_bytes
        return Frame(self.signature, Context(self.image.code, self.threads, arena, constants))

    def _failure(self, failures: list[tuple[int, int]]) -> RuntimeError:
        """What was wrong, by the step's index words and source nodes."""
        number, code = failures[0]
        step, word = self.plan.steps[number], self.image.errors[number][code - 1]
        names = ", ".join(step.sources) or step.op
        return RuntimeError(f"node {names}: {word} out of range in {step.op}")

    # Lists are safe to share between threads, and quicker than a lock: whoever takes a frame out
    # has it alone. Only making one, and closing, is done under the lock.

    def _acquire(self) -> Frame:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_frame()

    def _new_frame(self) -> Frame:
        with self._returned:
            if self._closing:
                raise BackendError("the program has been closed")
            self._frames += 1
        try:
            return self._frame()
        except BaseException:
            with self._returned:
                self._frames -= 1
                self._returned.notify_all()
            raise

    def _release(self, frame: Frame) -> None:
        self._idle.append(frame)
        if self._closing:
            with self._returned:
                self._returned.notify_all()


def seconds(steps: Sequence[Step]) -> float:
    """Of a short run on one core, by estimate."""
    return sum(max(step.flops / _FLOPS, step.bytes / _BYTES) for step in steps)


def saved_by_sharing(steps: Sequence[Step], threads: int) -> float:
    """Seconds, by estimate, that several threads save in a run by sharing the items of steps."""
    saved = 0.0
    for step in steps:
        share = 1 - 1 / max(1, min(threads, step.items))
        saved += share * max(step.flops / _FLOPS, step.bytes / _BYTES)
    return saved


def _unload(engine: Engine, frames: list[Frame], image: Image, entry: Entry | None) -> None:
    """Free a program's code and memory; takes all of it, so that nothing goes before."""
    if entry:
        entry.close()
    pool().quiesce()
    engine.close()
    frames.clear()
    image.constants = np.empty(0, np.uint8)
