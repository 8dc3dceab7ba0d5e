"""Small native programs for tests of the runtime: random chains of kernels, and numpy's answer."""

from __future__ import annotations

import random

import numpy as np

from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import Call, Context, emit_run
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import pool
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


def inputs(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**40), 2**40, 64)
