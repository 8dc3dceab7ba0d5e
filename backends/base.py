"""What every backend shares: the vocabulary of a plan, the Program it ends in, and input checks.

A backend is four stages: plan (kernel and layout of every node), place (buffers), emit (target
text), load (binary, constants, a Program). `Plan`, `Step` and `Buffer` describe the outcome of the
first two alike for every target, so that plans, profiles and reports look alike too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cnnir.backends.arrays import on_host
from cnnir.backends.state import State
from cnnir.errors import BackendError, InputError
from cnnir.ir import Graph
from cnnir.signature import Signature
from cnnir.tensortype import TensorType


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a value lives: `space` is arena, constant, input or output; `offset` is in bytes."""

    name: str
    type: TensorType
    layout: str
    space: str
    offset: int
    nbytes: int
    first: int = -1
    last: int = -1
    """First and last step that need its bytes, for what lies in the arena; -1 where that is not
    known. What lies inside another value (a part of a concatenation) has that one's."""


@dataclass(slots=True)
class Step:
    """One kernel call of a plan."""

    kernel: str
    """The kernel's kind, such as direct_conv, matmul or loops."""
    op: str
    """The node it computes, such as `conv + add + relu`."""
    sources: tuple[str, ...]
    """Names of the model's nodes that it stands for."""
    result: TensorType
    layout: str
    reason: str
    """Why this kernel, in words."""
    rejected: tuple[str, ...] = ()
    """Kernels that were considered, each with the reason against it."""
    items: int = 1
    """Independent work items that threads share."""
    flops: int = 0
    bytes: int = 0
    """Of all operands and results, each moved once."""
    constant_bytes: int = 0
    """Those among them that belong to params."""
    summary: str = ""
    """Tile sizes and the like."""
    serial: int = -1
    """Of the graph's node that it computes, or whose result it copies."""
    tail: int = -1
    """Of a second node, if it computes what that makes of the first one's result."""
    symbol: str = ""
    """The function that it calls, in `Program.texts`; empty where there is none."""


@dataclass(slots=True)
class Plan:
    """What a program does: its steps in order, its buffers, and what it needs."""

    target: str
    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    arena_bytes: int = 0
    arena_bound: int = 0
    """Bytes that no placement of these buffers can do without, as so many live at once."""
    constant_bytes: int = 0
    code_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Compile time by stage."""
    notes: list[str] = field(default_factory=list)
    """Anything a user should know, such as a slow kernel that had to be taken."""
    serials: list[int] = field(default_factory=list)
    """Of the nodes of the graph that was built, in its order; steps name nodes by them."""

    def follow(self, graph: Graph) -> None:
        """Have the steps name the nodes of a graph that is the same as the one that was built."""
        now = [node.serial for node in graph.order()]
        twins = dict(zip(self.serials, now, strict=True))
        for step in self.steps:
            step.serial, step.tail = (twins.get(serial, -1) for serial in (step.serial, step.tail))
        self.serials = now

    @property
    def flops(self) -> int:
        """Operations of one run."""
        return sum(step.flops for step in self.steps)

    def text(self) -> str:
        """The plan as a table of plain text."""
        head = f"plan for {self.target}: {len(self.steps)} steps, {self.flops / 1e6:.1f} MFLOP, "
        head += f"arena {self.arena_bytes / 1024:.0f} KiB, "
        head += f"constants {self.constant_bytes / 1024:.0f} KiB"
        lines = [head]
        for number, step in enumerate(self.steps):
            lines.append(
                f"{number:4d} {step.kernel:12s} {step.op:40.40s} {step.result!s:24s} "
                f"{step.layout:10s} {step.items:5d} items  {step.summary}"
            )
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    __str__ = text


class Program(ABC):
    """A compiled graph of fixed shapes."""

    signature: Signature
    plan: Plan
    enter: Callable[..., Any] | None = None
    """A shorter way than `run`, where there is one: takes any arguments, and returns the output, or
    the tuple of several, or None if they are not such as it can take."""

    def checked(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The inputs in graph order, as a run takes them; InputError for what does not fit."""
        return checked_inputs(self.signature, feeds, checked_input)

    @abstractmethod
    def run(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """The outputs, freshly allocated, for checked inputs in graph order."""

    def run_on_device(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs of a run as arrays in the memory of the device that it ran on."""
        raise BackendError(f"target {self.plan.target} has no memory but the host's; out='numpy'")

    def keep(self) -> None:
        """Put it on disk, so that a build with the same identity finds it; where there is a way."""
        return

    def advance(self, arrays: Sequence[np.ndarray], state: State) -> list[np.ndarray]:
        """A run that takes inputs from a state and leaves there what the graph carries over.

        arrays: the checked inputs that have no array in the state. What comes out are the outputs
        that are not carried, freshly allocated. Runs on one state must not overlap in time.
        """
        results = self.run(merged(self.signature, arrays, state))
        for output, input in self.signature.carried.items():
            state.write({self.signature.inputs[input].name: results[output]})
        return [r for i, r in enumerate(results) if i not in self.signature.carried]

    def profile(self, arrays: Sequence[np.ndarray]) -> list[float]:
        """Seconds of each step of the plan in one run."""
        raise InputError(f"target {self.plan.target} has no per-step profile")

    forms: ClassVar[Mapping[str, str]] = {}
    """Form of the program's code that `artifacts` writes -> what it is."""

    def artifacts(self, form: str) -> dict[str, bytes]:
        """The code in one of `forms`: file name -> content."""
        listed = ", ".join(self.forms) or "none"
        raise BackendError(f"target {self.plan.target} has no form {form!r} of code, only {listed}")

    def texts(self) -> dict[str, str]:
        """The text in the target's language of each function that a step names."""
        return {}

    def close(self) -> None:
        """Free native code and memory; the program cannot run afterwards."""
        return


def merged(signature: Signature, arrays: Sequence[np.ndarray], state: State) -> list[np.ndarray]:
    """All inputs in graph order: those of the state, and the given ones between them."""
    given, kept = iter(arrays), state.arrays
    return [kept[v.name] if v.name in kept else next(given) for v in signature.inputs]


def split(signature: Signature, arrays: Sequence[np.ndarray]) -> tuple[State, list[np.ndarray]]:
    """All inputs in graph order as a state, of copies of what is carried, and the others."""
    carried = set(signature.carried.values())
    kept = {signature.inputs[i].name: arrays[i] for i in carried}
    return State.of(kept), [a for i, a in enumerate(arrays) if i not in carried]


def on_copies(program: Program, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All outputs of a program that computes the carried ones in place, as `run` gives them."""
    signature = program.signature
    state, given = split(signature, arrays)
    others = iter(program.advance(given, state))
    names = {output: signature.inputs[input].name for output, input in signature.carried.items()}
    return [
        state.arrays[names[i]] if i in names else next(others)
        for i in range(len(signature.outputs))
    ]


def checked_inputs(
    signature: Signature,
    feeds: Mapping[str, Any],
    take: Callable[[str, Any, TensorType], Any],
) -> list[Any]:
    """The inputs in order, each as `take` gives it: (name, what was given, type wanted).

    Raises InputError for missing or unknown names.
    """
    names = [port.name for port in signature.inputs]
    if missing := [n for n in names if n not in feeds]:
        raise InputError(f"missing inputs {missing}; the model takes {_listed(signature)}")
    if unknown := sorted(set(feeds) - set(names)):
        raise InputError(f"unknown inputs {unknown}; the model takes {_listed(signature)}")
    return [take(port.name, feeds[port.name], port.type) for port in signature.inputs]


def checked_input(name: str, given: Any, type: TensorType) -> np.ndarray:
    """One input as a contiguous, aligned array of the host, copied only where it is not.

    Raises InputError for another dtype or shape, and for arrays of a device.
    """
    array = on_host(name, given)
    if array.dtype != type.numpy and array.dtype.newbyteorder("=") != type.numpy:
        raise InputError(
            f"input {name!r}: dtype {array.dtype}, wanted {type.numpy.name}; nothing is converted "
            f"silently, use array.astype({type.numpy.name!r})"
        )
    if array.shape != type.shape:
        raise InputError(f"input {name!r}: shape {array.shape}, wanted {type.shape}")
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative:
        return array
    return np.require(array, dtype=type.numpy, requirements=["C", "A"])


def _listed(signature: Signature) -> str:
    return ", ".join(f"{port.name}: {port.type}" for port in signature.inputs) or "no inputs"
