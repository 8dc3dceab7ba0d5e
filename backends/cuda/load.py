"""The load stage: code and constants on a machine, and a Program that runs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from cnnir.backends.base import Plan, Program
from cnnir.backends.cuda.artifacts import FORMS, Artifacts
from cnnir.backends.cuda.compiled import tell_resources
from cnnir.backends.cuda.emit import Emitted
from cnnir.backends.cuda.machine import Machine, Task
from cnnir.backends.cuda.place import ALIGN, Places
from cnnir.backends.cuda.schedule import Schedule
from cnnir.errors import BackendError, LimitError, RuntimeError, quoted


class CudaProgram(Program):
    """A graph of fixed shapes on a machine: weights and arena stay there between runs.

    A run copies the inputs to staging memory and to the machine, launches everything as one graph,
    and copies the outputs back. One run at a time; others wait.
    """

    def __init__(
        self, schedule: Schedule, emitted: Emitted, places: Places, plan: Plan, machine: Machine
    ) -> None:
        self.plan, self.emitted = plan, emitted
        self.signature = schedule.graph.signature()
        self._schedule, self._places, self._machine = schedule, places, machine
        self._lock, self._closed = threading.Lock(), False
        self._check_memory()
        started = time.perf_counter()
        launches = dict(pair for code in emitted.codes for pair in code.launches)
        self._binary = machine.load(emitted.texts, launches)
        plan.seconds["compile"] = time.perf_counter() - started
        started = time.perf_counter()
        self._constants = machine.allocate(places.constant_bytes)
        self._arena = machine.allocate(places.arena_bytes)
        self._fill_constants()
        self._tasks = list(self._made_tasks())
        self._run = machine.record(self._tasks)
        self._checks = any(code.errors for code in emitted.codes)
        self._staging = self._made_staging()
        machine.wait()
        plan.seconds["load"] = time.perf_counter() - started
        self._describe()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            self._check_open()
            self._start(arrays)
            self._run()
            return self._finish()

    def profile(self, arrays: Sequence[np.ndarray]) -> list[float]:
        with self._lock:
            self._check_open()
            self._start(arrays)
            spans = [0.0] * len(self._schedule.calls)
            for task, seconds in zip(self._tasks, self._machine.seconds(self._tasks), strict=True):
                spans[task.call] += seconds
            return spans

    def resident_seconds(self, repeats: int = 1) -> float:
        """Seconds of one run of all kernels on what is on the machine, without any copies."""
        with self._lock:
            self._check_open()
            self._run()
            self._machine.wait()
            started = time.perf_counter()
            for _ in range(repeats):
                self._run()
            self._machine.wait()
            return (time.perf_counter() - started) / repeats

    @property
    def forms(self) -> dict[str, str]:  # type: ignore[override]
        """What it can be written out as: emulated kernels have no machine code of a device."""
        emulated = self._schedule.target.emulated
        return {k: what for k, what in FORMS.items() if not emulated or k in ("cu", "launch")}

    def artifacts(self, form: str) -> dict[str, bytes]:
        if form not in self.forms:
            return super().artifacts(form)
        return Artifacts(self._schedule, self.emitted, self._places, None).files(form)

    def texts(self) -> dict[str, str]:
        return dict(self.emitted.texts)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._machine.free(self._arena)
                self._machine.free(self._constants)
                self._machine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the program has been closed")

    def _check_memory(self) -> None:
        needed = self._places.arena_bytes + self._places.constant_bytes
        if needed > self._machine.memory:
            largest = max(self._places.buffers, key=lambda b: b.nbytes)
            raise LimitError(
                f"a run needs {needed} bytes, the device has {self._machine.memory}; the largest "
                f"buffer is {quoted(largest.name)}: {largest.type}, {largest.nbytes} bytes"
            )

    # ---- loading

    def _fill_constants(self) -> None:
        for offset, array in self._places.constants:
            self._machine.upload(self._constants + offset, array)
        self._machine.wait()
        self._places.constants.clear()

    def _made_tasks(self) -> list[Task]:
        places, tasks = self._places, []
        bases = {"constant": self._constants, "arena": self._arena}
        for number, (call, code) in enumerate(
            zip(self._schedule.calls, self.emitted.codes, strict=True)
        ):
            pointers = [places.sources[p] for p in (*call.reads, *call.writes)]
            arguments = (
                self._arena + 4 * number,
                self._arena + places.scratch[number],
                *(bases[space] + offset for space, offset in pointers),
            )
            for name, launch in code.launches:
                function = self._binary.functions[name]
                tasks.append(Task(function, launch, arguments, number))
        return tasks

    def _made_staging(self) -> dict[str, list[np.ndarray]]:
        """Arrays in memory that is copied quickly: the inputs, the outputs, the error words."""
        ports = self.signature
        inputs = [(port.type.numpy, port.type.shape) for port in ports.inputs]
        outputs = [(port.type.numpy, port.type.shape) for port in ports.outputs]
        words = (np.dtype(np.int32), (len(self._schedule.calls),))
        arrays = []
        kinds = [*inputs, *outputs, words]
        sizes = [dtype.itemsize * int(np.prod(shape)) for dtype, shape in kinds]
        block = self._machine.staging(sum(n + -n % ALIGN for n in sizes))
        at = 0
        for (dtype, shape), size in zip(kinds, sizes, strict=True):
            arrays.append(block[at : at + size].view(dtype).reshape(shape))
            at += size + -size % ALIGN
        n = len(inputs)
        return {"inputs": arrays[:n], "outputs": arrays[n:-1], "errors": arrays[-1:]}

    def _describe(self) -> None:
        """Complete the plan with what placing and compiling told."""
        plan, places = self.plan, self._places
        plan.buffers = places.buffers
        plan.arena_bytes, plan.constant_bytes = places.arena_bytes, places.constant_bytes
        plan.code_bytes = self._binary.nbytes
        plan.notes += self._binary.notes
        tell_resources(plan, self.emitted.codes, self._binary.resources, self._schedule.target.arch)

    # ---- running

    def _start(self, arrays: Sequence[np.ndarray]) -> None:
        machine = self._machine
        for array, staged, offset in zip(
            arrays, self._staging["inputs"], self._places.inputs, strict=True
        ):
            np.copyto(staged, array)
            machine.upload(self._arena + offset, staged)
        if self._checks:
            machine.clear(self._arena, self._places.error_bytes)

    def _finish(self) -> list[np.ndarray]:
        machine = self._machine
        for staged, offset in zip(self._staging["outputs"], self._places.outputs, strict=True):
            machine.download(staged, self._arena + offset)
        (errors,) = self._staging["errors"]
        if self._checks:
            machine.download(errors, self._arena)
        machine.wait()
        if self._checks and errors.any():
            raise self._failure(errors)
        return [staged.copy() for staged in self._staging["outputs"]]

    def _failure(self, errors: np.ndarray) -> RuntimeError:
        """What was wrong, by the first failing step's index words and source nodes."""
        number = int(np.flatnonzero(errors)[0])
        step = self._schedule.calls[number].step
        word = self.emitted.codes[number].errors[int(errors[number]) - 1]
        names = ", ".join(step.sources) or step.op
        return RuntimeError(f"node {names}: {word} out of range in {step.op}")
