"""States on a device: what is copied there and back between steps, and when it comes home."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from cuda_harness import needs_compiler
from fake_driver import FakeDriver, fake_driver

import cnnir
from cnnir import nn
from cnnir.backends.base import Program
from cnnir.backends.state import State
from cnnir.training import SGD, Step

X, Y = np.random.default_rng(0).random((3, 8), np.float32), np.array([0, 2, 1])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    needs_compiler()
    return fake_driver(monkeypatch)


def stepped(target: str) -> tuple[nn.Module, Step]:
    net = nn.Sequential(nn.Dense(64), nn.ReLU(), nn.Dense(3)).build((3, 8), seed=1)
    optimizer = SGD(0.1, momentum=0.9)
    return net, Step(net, "cross_entropy", optimizer, target=target, precision="exact")


def test_weights_stay_on_the_device_between_steps(fake: FakeDriver) -> None:
    net, step = stepped("cuda")
    step([X], [Y])
    weights = sum(array.nbytes for array in net.params.values())
    step([X], [Y])
    fake.copied.clear()
    losses = [step([X], [Y])["loss"] for _ in range(3)]
    assert len(set(losses)) == 3
    assert fake.copied["HtoD"] < 3 * (X.nbytes + Y.nbytes + 64) < weights / 2
    assert fake.copied["DtoH"] < 3 * 128  # losses, and a word for errors of each kernel
    assert fake.copied["DtoD"] == 0


def test_weights_come_home_when_they_are_read_and_go_back_when_they_change(
    fake: FakeDriver,
) -> None:
    (theirs, cpu), (net, step) = stepped("cpu"), stepped("cuda")
    name = next(iter(net.params))
    for _ in range(2):
        cpu([X], [Y]), step([X], [Y])
    state = sum(type.nbytes for type in step.weights.types.values())
    fake.copied.clear()
    for key, array in theirs.params.items():
        np.testing.assert_allclose(net.params[key], array, rtol=1e-4, atol=1e-6)
    assert fake.copied["DtoH"] == state  # once, not once for each
    for one in (theirs, net):
        one.params[name] = np.zeros_like(one.params[name])
    assert step([X], [Y])["loss"] == pytest.approx(cpu([X], [Y])["loss"], rel=1e-4)
    np.testing.assert_allclose(net.params[name], theirs.params[name], rtol=1e-4, atol=1e-6)


def test_batches_of_several_sizes_and_evaluation_share_what_is_on_the_device(
    fake: FakeDriver,
) -> None:
    (_, cpu), (_, step) = stepped("cpu"), stepped("cuda")
    for n in (3, 2, 3):
        assert step([X[:n]], [Y[:n]])["loss"] == pytest.approx(cpu([X[:n]], [Y[:n]])["loss"], 1e-4)
    for one in (step, cpu):
        one.evaluate([X], [Y])
    fake.copied.clear()
    assert step.evaluate([X], [Y]) == pytest.approx(cpu.evaluate([X], [Y]), rel=1e-4)
    assert fake.copied["HtoD"] == X.nbytes + Y.nbytes


def test_everything_is_given_back(fake: FakeDriver) -> None:
    net, step = stepped("cuda")
    step([X], [Y])
    step.evaluate([X], [Y])
    assert fake.memory and fake.streams
    del step, net
    gc.collect()
    assert not fake.memory and not fake.streams and not fake.graphs and not fake.retained


STEP = """graph @g(%w: f32[6], %x: f32[6]) {
%v = add(%w, %x) : f32[6]
return %v carry {0: 0}
}"""


def program(target: str) -> Program:
    return cnnir.compile(cnnir.parse(STEP), target)._first.program


def test_a_state_moves_between_the_host_and_devices(fake: FakeDriver) -> None:
    """Programs of three memories update one state in turn."""
    state, ones = State.of({"w": np.zeros(6, "f4")}), np.ones(6, "f4")
    programs = [program(target) for target in ("cpu", "cuda", "cuda-emu", "reference")]
    for turn, one in enumerate([*programs, *programs[::-1], programs[1], programs[1]], 1):
        one.advance([ones], state)
        if turn % 3 == 0:
            np.testing.assert_array_equal(state.arrays["w"], np.full(6, turn))
    np.testing.assert_array_equal(state.arrays["w"], np.full(6, 10))
    state.write({"w": ones})
    programs[1].advance([ones], state)
    np.testing.assert_array_equal(state.arrays["w"], 2 * ones)


def test_a_run_of_a_program_with_states_leaves_them_alone(fake: FakeDriver) -> None:
    state, ones = State.of({"w": np.ones(6, "f4")}), np.ones(6, "f4")
    one = program("cuda")
    one.advance([ones], state)
    (result,) = one.run([5 * ones, ones])
    np.testing.assert_array_equal(result, 6 * ones)
    one.advance([ones], state)
    np.testing.assert_array_equal(state.arrays["w"], 3 * ones)
