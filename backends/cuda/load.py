"""The load stage: code and constants on a machine, and a Program that runs them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cnnir.backends.base import Plan, Program, checked_input, checked_inputs
from cnnir.backends.cuda.artifacts import FORMS, artifacts_of
from cnnir.backends.cuda.binding import BadIndex, Binding, Given, Loaded
from cnnir.backends.cuda.compiled import tell_resources
from cnnir.backends.cuda.emit import Emitted
from cnnir.backends.cuda.exchange import DeviceArray, foreign
from cnnir.backends.cuda.machine import Machine
from cnnir.backends.cuda.place import Places
from cnnir.backends.cuda.resident import Resident
from cnnir.backends.cuda.schedule import Schedule
from cnnir.backends.state import State
from cnnir.errors import BackendError, LimitError, RuntimeError, quoted
from cnnir.tensortype import TensorType


class CudaProgram(Program):
    """A graph of fixed shapes on a machine: weights and arena stay there between runs.

    A run copies the inputs to staging memory and to the machine, launches everything as one graph,
    and copies the outputs back. One run at a time; others wait. Programs do not wait for each
    other: each has a queue of its own. All memory goes with the program.
    """

    def __init__(
        self, schedule: Schedule, emitted: Emitted, places: Places, plan: Plan, machine: Machine
    ) -> None:
        self.plan, self.emitted = plan, emitted
        self.signature = schedule.graph.signature()
        self._schedule, self._places, self._machine = schedule, places, machine
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._bound: tuple[Callable[[], Resident | None], Binding] | None = None
        """The launches that were recorded last, and for which arrays of a state."""
        self._check_memory()
        started = time.perf_counter()
        launches = dict(pair for code in emitted.codes for pair in code.launches)
        binary = machine.load(emitted.texts, launches)
        plan.seconds["compile"] = time.perf_counter() - started
        started = time.perf_counter()
        constants = machine.allocate(places.constant_bytes)
        arena = machine.allocate(places.arena_bytes)
        for offset, array in places.constants:
            machine.upload(constants.address + offset, array)
        machine.wait()
        places.constants.clear()
        self._loaded = Loaded(
            machine, self.signature, schedule, emitted, places, binary.functions, constants, arena
        )
        plan.seconds["load"] = time.perf_counter() - started
        plan.buffers = places.buffers
        plan.arena_bytes, plan.constant_bytes = places.arena_bytes, places.constant_bytes
        plan.arena_bound, plan.code_bytes = places.arena_bound, binary.nbytes
        plan.notes += binary.notes
        tell_resources(plan, emitted.codes, binary.resources, schedule.target.arch)

    def checked(self, feeds: Mapping[str, Any]) -> list[Given]:
        def take(name: str, given: Any, type: TensorType) -> Given:
            found = foreign(name, given, type, self._machine)
            return found or checked_input(name, given, type)

        return checked_inputs(self.signature, feeds, take)

    def run(self, arrays: Sequence[Given]) -> list[np.ndarray]:
        with self._ran(arrays) as binding:
            return binding.results()

    def run_on_device(self, arrays: Sequence[Given]) -> list[DeviceArray]:
        with self._ran(arrays) as binding:
            return binding.device_results()

    def advance(self, arrays: Sequence[Given], state: State) -> list[np.ndarray]:
        with self._ran(arrays, state) as binding:
            return binding.results()

    def profile(self, arrays: Sequence[Given]) -> list[float]:
        with self._lock:
            binding = self._binding(None)
            binding.start(arrays)
            spans = [0.0] * len(self._schedule.calls)
            for task, seconds in zip(
                binding.tasks, self._machine.seconds(binding.tasks), strict=True
            ):
                spans[task.call] += seconds
            return spans

    def resident_seconds(self, repeats: int = 1) -> float:
        """Seconds of one run of all kernels on what is on the machine, without any copies."""
        with self._lock:
            run = self._binding(None).run
            run()
            self._machine.wait()
            started = time.perf_counter()
            for _ in range(repeats):
                run()
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
        return artifacts_of(self._schedule, self.emitted, self._places).files(form)

    def texts(self) -> dict[str, str]:
        return dict(self.emitted.texts)

    def close(self) -> None:
        with self._lock:
            self._bound = self._loaded = None
            self._machine.close()

    # ---- running

    @contextmanager
    def _ran(self, arrays: Sequence[Given], state: State | None = None) -> Iterator[Binding]:
        """A run on inputs that is under way, one at a time; says which node had a wrong index."""
        with self._lock:
            binding = self._binding(state)
            binding.start(arrays)
            binding.run()
            try:
                yield binding
            except BadIndex as wrong:
                raise self._failure(wrong) from None

    def _binding(self, state: State | None) -> Binding:
        """The launches for a state, recorded when it is not the one of the run before."""
        if self._loaded is None:
            raise BackendError("the program has been closed")
        there = None if state is None else self._resident(state)
        if self._bound is None or self._bound[0]() is not there:
            self._bound = None  # its memory goes first
            self._bound = (
                _nothing if there is None else weakref.ref(there),
                Binding(self._loaded, {} if there is None else self._homes(there)),
            )
        return self._bound[1]

    def _resident(self, state: State) -> Resident:
        """The arrays of a state on this machine, which this program is about to update."""
        found = state.there(
            self._machine.place,
            lambda: Resident(self._machine.another(), state.types),
            writes=bool(self.signature.carried),
        )
        assert isinstance(found, Resident)
        return found

    def _homes(self, there: Resident) -> dict[int, int]:
        """Input -> address, for the inputs that a state has."""
        names = [port.name for port in self.signature.inputs]
        return {k: there.addresses[n] for k, n in enumerate(names) if n in there.addresses}

    def _failure(self, wrong: BadIndex) -> RuntimeError:
        """What was wrong, by the failing step's index words and source nodes."""
        step = self._schedule.calls[wrong.call].step
        word = self.emitted.codes[wrong.call].errors[wrong.word]
        names = ", ".join(step.sources) or step.op
        return RuntimeError(f"node {names}: {word} out of range in {step.op}")

    def _check_memory(self) -> None:
        ports = (*self.signature.inputs, *self.signature.outputs)
        needed = self._places.arena_bytes + self._places.constant_bytes
        needed += sum(port.type.nbytes for port in ports)
        if needed > self._machine.memory:
            largest = max(self._places.buffers, key=lambda b: b.nbytes)
            raise LimitError(
                f"a run needs {needed} bytes, the device has {self._machine.memory}; the largest "
                f"buffer is {quoted(largest.name)}: {largest.type}, {largest.nbytes} bytes"
            )


def _nothing() -> None:
    """In place of a reference to a Resident, where there is none."""
