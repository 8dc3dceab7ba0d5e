"""Several executables on one device, several callers of one, and what is left when they go."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cuda_harness import needs_compiler
from fake_driver import FakeDriver, fake_driver

import cnnir

NET = """graph @g(%x: f32[4,64]) {
%t = transpose(%x) {perm=(1, 0)} : f32[64,4]
%m = matmul(%x, %t) : f32[4,4]
%y = OP(%m) : f32[4,4]
return %y as ['y']
}"""
INPUTS = np.random.default_rng(0).standard_normal((12, 4, 64)).astype("f4") / 8
MEANING = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    needs_compiler()
    return fake_driver(monkeypatch)


def made(op: str, target: str) -> cnnir.Executable:
    graph = cnnir.parse(NET.replace("OP", op))
    return cnnir.compile(graph, target, precision="exact", cache=False)


def check(executable: cnnir.Executable, op: str, x: np.ndarray) -> None:
    wanted = MEANING[op](x.astype("f8") @ x.T)
    np.testing.assert_allclose(executable(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["cuda-emu", "cuda"])
def test_callers_and_executables_do_not_disturb_each_other(target: str, request: Any) -> None:
    """Four threads, two executables, each run with other values."""
    needs_compiler()
    if target == "cuda":
        request.getfixturevalue("fake")
    executables = {op: made(op, target) for op in MEANING}
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(check, executables[op], op, x) for x in INPUTS for op in executables]
        for job in jobs:
            job.result()


def test_each_executable_has_a_stream_of_its_own(fake: FakeDriver) -> None:
    first, second = made("tanh", "cuda"), made("relu", "cuda")
    assert len(fake.streams) == 2 and fake.retained == 2
    second.close()
    assert len(fake.streams) == 1
    check(first, "tanh", INPUTS[0])


def test_an_executable_that_dies_leaves_nothing_behind(fake: FakeDriver) -> None:
    executable = made("tanh", "cuda")
    check(executable, "tanh", INPUTS[0])
    executable.profile({"x": INPUTS[0]})
    assert fake.memory and fake.graphs
    del executable
    gc.collect()
    assert not (fake.memory or fake.graphs or fake.streams or fake.retained)


def test_closing_twice_is_closing_once(fake: FakeDriver) -> None:
    executable = made("tanh", "cuda")
    executable.close()
    assert not fake.memory and not fake.streams
    executable.close()
    with pytest.raises(cnnir.BackendError, match="has been closed"):
        executable(INPUTS[0])
