"""Tiles by measuring, with a clock that is given: who wins, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import needs_compiler

import cnnir
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda import build, build_on
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.load import CudaProgram
from cnnir.backends.cuda.machine import Machine, Task
from cnnir.backends.cuda.tuning import MOST
from cnnir.errors import BackendError
from cnnir.evaluate import evaluate

NET = """graph @g(%x: f32[1,16,9,9]) {
param @w : f32[24,16,3,3]
param @b : f32[24]
%c = conv(%x, @w, @b) {padding=(1, 1, 1, 1)} : f32[1,24,9,9]
%y = relu(%c) : f32[1,24,9,9]
return %y
}"""
X = np.random.default_rng(1).standard_normal((1, 16, 9, 9)).astype("f4")


class Clocked(Emulator):
    """An emulated device on which candidates take the seconds that are said."""

    binaries: DiskCache | None = None
    """What the compiler made for tests before."""

    def __init__(self, *said: float, name: str = "emulated") -> None:
        super().__init__(self.binaries)
        self.said, self.asked, self.name = said, 0, name

    def another(self) -> Machine:
        return self

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        self.asked += 1
        self.record(tasks)()  # they must be able to run
        parts = [sum(other.call == task.call for other in tasks) for task in tasks]
        return [self.said[task.call] / n for task, n in zip(tasks, parts, strict=True)]


@pytest.fixture(scope="module", autouse=True)
def _binaries(tmp_path_factory: pytest.TempPathFactory) -> None:
    Clocked.binaries = DiskCache.default(tmp_path_factory.mktemp("binaries"))


def tuned(machine: Machine, cache: DiskCache | None = None) -> CudaProgram:
    needs_compiler()
    program = build_on(cnnir.parse(NET, seed=3), machine, "exact", cache, tune=True)
    (got,) = program.run([X])
    (wanted,) = evaluate(cnnir.parse(NET, seed=3), [X], "f64")
    assert np.abs(got - wanted).max() < 2e-6 * np.abs(wanted).max()
    return program


def step_of(program: CudaProgram):
    (step,) = [s for s in program.plan.steps if s.kernel.startswith("gemm")]
    return step


def test_the_quickest_wins() -> None:
    tiles = []
    for winner in range(MOST):
        said = [4e-6] * MOST
        said[winner] = 3e-6
        step = step_of(tuned(Clocked(*said)))
        assert "tuned: 3.0 us, next 4.0 us" in step.reason
        tiles.append(step.summary)
    assert len(set(tiles)) == MOST
    untuned = build_on(cnnir.parse(NET, seed=3), Emulator(), "exact")
    assert step_of(untuned).summary == tiles[0] and "predicted" in step_of(untuned).reason


def test_what_was_measured_is_remembered(tmp_path: Path) -> None:
    first = Clocked(4, 3, 2, 1)
    cache = DiskCache.default(tmp_path)
    tile = step_of(tuned(first, cache)).summary
    again = Clocked(1, 2, 3, 4)
    step = step_of(tuned(again, cache))
    assert first.asked and not again.asked and step.summary == tile
    other = Clocked(1, 2, 3, 4, name="another device")
    assert step_of(tuned(other, cache)).summary != tile and other.asked


def test_a_record_that_makes_no_sense_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache.default(tmp_path)
    for record in (b"nonsense", b'[["a tile of another day", 1, 2]]', b"[1]"):
        monkeypatch.setattr(cache, "get", lambda key, record=record: record)
        machine = Clocked(4, 3, 2, 1)
        assert "tuned: 1000000.0 us" in step_of(tuned(machine, cache)).reason and machine.asked


def test_a_clock_that_runs() -> None:
    """What the emulator takes is of no use, but it is measured as on a device."""
    program = tuned(Emulator())
    assert "tuned: " in step_of(program).reason


def test_a_device_that_is_not_here_measures_nothing() -> None:
    with pytest.raises(BackendError, match="tune=True measures on a device; cuda:sm_90"):
        build(lambda: cnnir.parse(NET, seed=3), arch="sm_90", tune=True)
