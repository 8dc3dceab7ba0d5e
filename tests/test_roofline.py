"""What bounds a step: worked out by hand for a machine of round figures."""

import pytest

import cnnir
from cnnir.backends.base import Plan, Step
from cnnir.backends.llvm.bandwidth import read_rates
from cnnir.report.profile import kernel_rows, profile_rows
from cnnir.report.roofline import Level, Roofline
from cnnir.tensortype import TensorType

LEVELS = [Level("L2", 1000, 100.0), Level("L3", 10000, 50.0), Level("memory", float("inf"), 10.0)]
MACHINE = Roofline(200.0, LEVELS)


def step(flops: int, moved: int, constant: int = 0) -> Step:
    type = TensorType("f32", (1,))
    costs = {"flops": flops, "bytes": moved, "constant_bytes": constant}
    return Step("loops", "add", (), type, "plain", "", **costs)


def plan(*steps: Step, arena: int = 0, constants: int = 0) -> Plan:
    return Plan("cpu", list(steps), arena_bytes=arena, constant_bytes=constants)


@pytest.mark.parametrize(
    ("flops", "moved", "constant", "program", "seconds", "binds"),
    [
        (2000, 100, 0, 0, 10.0, "FMA"),
        (0, 1000, 0, 0, 10.0, "L2"),
        (0, 1001, 0, 0, 20.02, "L3"),
        (0, 20000, 0, 0, 2000.0, "memory"),
        # params by the size of the whole program, activations by that of the step's
        (0, 600, 500, 20000, 51.0, "memory"),
        (0, 600, 500, 2000, 11.0, "L3"),
        (0, 600, 500, 600, 6.0, "L2"),
        (3000, 600, 500, 2000, 15.0, "FMA"),
    ],
)
def test_the_bound(
    flops: int, moved: int, constant: int, program: int, seconds: float, binds: str
) -> None:
    work = step(flops, moved, constant)
    bound = MACHINE.bound(work, plan(work, arena=program // 2, constants=program - program // 2))
    assert bound.seconds == pytest.approx(seconds)
    assert bound.binds == binds


def test_rows_say_what_binds_and_how_near_it_is() -> None:
    first, second = step(2000, 100), step(0, 1000)
    rows = profile_rows(plan(first, second), [[20.0, 40.0], [21.0, 40.0], [19.0, 90.0]], MACHINE)
    assert [(row["step"], row["binds"]) for row in rows] == [(1, "L2"), (0, "FMA")]
    assert [row["of_bound"] for row in rows] == pytest.approx([0.25, 0.5])
    (kind,) = kernel_rows(rows)
    assert kind["of_bound"] == pytest.approx(20 / 60) and kind["binds"] == "FMA, L2"


def test_plans_tell_params_from_activations() -> None:
    graph = cnnir.parse(
        """\
graph @g(%x: f32[1,16,8,8]) {
  param @w : f32[32,16,3,3]
  param @b : f32[32]
  %y = conv(%x, @w, @b) {padding=(1, 1, 1, 1)} : f32[1,32,8,8]
  return %y
}"""
    )
    exe = cnnir.compile(graph, threads=1)
    conv = next(s for s in exe.plan.steps if s.op == "conv")
    assert conv.constant_bytes == 4 * (32 * 16 * 9 + 32)
    assert conv.bytes == conv.constant_bytes + 4 * (16 + 32) * 64
    assert all(s.constant_bytes == 0 for s in exe.plan.steps if s.kernel == "pack")
    exe.close()


def test_rates_are_measured_for_growing_levels() -> None:
    rates = read_rates(threads=2)
    assert list(rates)[-1] == "memory" and rates["memory"][0] == float("inf")
    sizes = [size for size, _ in rates.values()]
    assert sizes == sorted(sizes)
    assert all(rate > 1e8 for _, rate in rates.values())  # bytes, not gigabytes
