"""A GPU: what is computed there is right, and how fast it is beside PyTorch.

    python benchmarks/gpu.py [wrappers suite nets sanitize inference training] [--seconds 540]
                             [--batches 1 32 128] [--precisions tf32 f16] [--record] [--dry]

Every section stands alone and ends within its part of --seconds; it says what it left out.

* wrappers: the functions around inline PTX give what the emulator says.
* suite: onnx's operator tests.
* nets: ResNet-50, MobileNetV2 and U-Net against PyTorch in f64, in every precision.
* sanitize: the wrappers and small nets again, under compute-sanitizer.
* inference: the three nets, resident data, beside PyTorch eager in channels_last and torch.compile.
* training: a step of ResNet-50 beside the same.

Rows go to benchmarks/results/gpu.jsonl with --record. --dry runs every section on the emulator,
with small nets and torch on the processor, and compiles for devices that are not here where NVRTC
is installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gpu_wrappers import cases, difference, result
from results import append, context

import cnnir
from cnnir.backends.cuda import build, build_on
from cnnir.backends.cuda.build import whole
from cnnir.backends.cuda.driver import Gpu
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.load import CudaProgram
from cnnir.backends.cuda.machine import Machine
from cnnir.backends.cuda.nvrtc import cubin
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.warpgroup import uses_warpgroups
from cnnir.errors import BackendError, UnsupportedError
from cnnir.ir import Graph
from cnnir.pipeline import optimise
from cnnir.training import SGD, Step

TESTS = Path(__file__).parents[1] / "tests"
TOLERANCES = {"exact": 1e-5, "tf32": 2e-3, "f16": 1e-2, "bf16": 8e-2}
"""The error that a net may have, relative to its largest output."""
ARCHS = ("sm_80", "sm_90", "sm_90a")
Row = dict[str, object]
Runner = Callable[[int], float]
"""Seconds of one run, the mean of so many."""


class Wrong(SystemExit):
    """A result that is not what it should be."""


@dataclass
class Run:
    """What the sections are given."""

    dry: bool
    small: bool
    batches: list[int]
    precisions: list[str]
    end: float = 0.0

    @property
    def target(self) -> str:
        """As in `cnnir.compile`."""
        return "cuda-emu" if self.dry else "cuda"

    @property
    def width(self) -> float:
        """Of nets."""
        return 1 / 16 if self.dry or self.small else 1

    @property
    def size(self) -> int:
        """Of images."""
        return 32 if self.dry or self.small else 224

    def machine(self) -> Machine:
        """A new one."""
        return Emulator() if self.dry else Gpu()

    def program(self, graph: Graph, precision: str) -> CudaProgram:
        """A graph after the passes, compiled for this run's device."""
        program = build_on(graph.clone(), self.machine(), precision)
        assert isinstance(program, CudaProgram)
        return program

    def over(self, what: str) -> bool:
        """Whether the time is over; then it says what was not done."""
        late = time.perf_counter() > self.end
        if late:
            print(f"  left out for want of time: {what}", flush=True)
        return late


# ---- what is computed is right


def wrappers(run: Run) -> Iterator[Row]:
    """Every function that is not plain C, beside the emulator's."""
    for case in cases("sm_90a" if run.dry else run.machine().target("exact").arch):
        theirs = result(Emulator(last_first=True, early=True), case)
        error = difference(case, result(run.machine(), case), theirs)
        if run.dry:
            _compiled(case.text)
        if not error <= case.tolerance:
            raise Wrong(f"{case.name} differs from the emulator by {error:.2e}")
        yield {"wrapper": case.name, "error": error}


def _compiled(text: str) -> None:
    """Machine code where NVRTC is installed."""
    for arch in ARCHS if not uses_warpgroups(text) else ("sm_90a",):
        try:
            cubin(whole(text), arch)
        except BackendError as error:
            if "needs" not in str(error):
                raise


def suite(run: Run) -> Iterator[Row]:
    """onnx's node tests, at each test's own tolerance; counts what the importer does not take."""
    sys.path.insert(0, str(TESTS))
    from onnx_suite import cases as operators  # which takes some seconds

    tests = [case for op in sorted(operators()) for case in operators()[op]]
    tests = tests[:: len(tests) // 12] if run.dry or run.small else tests
    passed, refused = 0, 0
    for number, case in enumerate(tests):
        if run.over(f"{len(tests) - number} of {len(tests)} operator tests"):
            break
        try:
            executable = cnnir.compile(case.model, run.target, precision="exact")
        except UnsupportedError:
            refused += 1
            continue
        feeds = dict(zip(executable.input_names, case.inputs, strict=True))
        got = executable.run(feeds).values()
        executable.close()
        for mine, wanted in zip(got, case.outputs, strict=True):
            try:
                np.testing.assert_allclose(mine, wanted, case.rtol, case.atol)
            except AssertionError as error:
                raise Wrong(f"{case.name}: {error}") from None
        passed += 1
    yield {"suite": "operators", "passed": passed, "unsupported": refused, "of": len(tests)}


def nets(run: Run) -> Iterator[Row]:
    """Whole nets against PyTorch in f64, in every precision."""
    import gpu_nets
    import torch

    for name in gpu_nets.NETS:
        net = gpu_nets.made(name, run.width)
        x = np.random.default_rng(0).standard_normal((1, 3, run.size, run.size), np.float32)
        graph = gpu_nets.graph_of(net, 1, run.size)
        optimise(graph)
        with torch.no_grad():
            wanted = net.double()(torch.from_numpy(x).double()).numpy()
        for precision, tolerance in TOLERANCES.items():
            if run.over(f"{name} {precision}"):
                return
            program = run.program(graph, precision)
            (got,) = program.run([x])
            program.close()
            error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
            yield {"net": name, "precision": precision, "error": error}
            if not error <= tolerance:
                raise Wrong(f"{name} {precision}: error {error:.1e}, wanted {tolerance:.0e}")
            if run.dry:
                _plans(graph, precision)


def _plans(graph: Graph, precision: str) -> None:
    """The net for devices that are not here, without spills; where NVRTC is installed."""
    for arch in ARCHS[::2]:
        CudaTarget(arch, precision)
        try:
            plan = build(graph.clone, arch=arch, precision=precision).plan
        except BackendError as error:
            if "needs" in str(error):
                return
            raise
        if spills := [note for note in plan.notes if "spills" in note]:
            raise Wrong(f"{arch} {precision}: {spills}")


def sanitize(run: Run) -> Iterator[Row]:
    """Small runs under each tool of compute-sanitizer; in a dry run without it."""
    found = shutil.which("compute-sanitizer")
    if found is None and not run.dry:
        raise SystemExit("compute-sanitizer is not here; it comes with the CUDA toolkit")
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        if run.over(tool):
            return
        left = run.end - time.perf_counter()
        checker = [] if run.dry else [str(found), "--tool", tool, "--error-exitcode", "9"]
        kind = "--dry" if run.dry else "--small"
        script = [sys.executable, __file__, "wrappers", "nets", kind, "--seconds", str(left)]
        done = subprocess.run([*checker, *script], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Wrong(f"{tool}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        yield {"sanitizer": tool if checker else f"{tool}, dry", "errors": 0}
        if run.dry:
            return  # the others would be the same


# ---- how fast it is


def inference(run: Run) -> Iterator[Row]:
    """Resident data, in turn in one process."""
    import gpu_nets
    import torch

    for name in gpu_nets.NETS:
        for batch in run.batches:
            net = gpu_nets.made(name, run.width)
            x = torch.randn(batch, 3, run.size, run.size)
            graph = gpu_nets.graph_of(net, batch, run.size)
            optimise(graph)
            for precision in run.precisions:
                if run.over(f"{name}, batch {batch}, {precision}"):
                    continue
                program = run.program(graph, precision)
                program.run([x.numpy()])
                runners = {"cnnir": program.resident_seconds}
                runners |= torch_runners(run, net, x, precision)
                facts = {"net": name, "batch": batch, "precision": precision}
                times = interleaved(runners, 0.1 if run.dry else 1.0)
                yield from rows(facts, times, program.plan.flops)
                show_profile(program, x.numpy())
                program.close()


def torch_runners(run: Run, net: Any, x: Any, precision: str) -> dict[str, Runner]:
    """PyTorch in channels_last: eager, and compiled where there is a GPU."""
    import torch

    device = "cpu" if run.dry else "cuda"
    types = {"f16": torch.float16, "bf16": torch.bfloat16}
    form = {"dtype": types.get(precision, torch.float32), "memory_format": torch.channels_last}
    mine, given = net.to(device, **form), x.to(device, **form)
    forwards = {"torch eager": mine}
    if not run.dry:
        torch.backends.cudnn.benchmark = True
        forwards["torch.compile"] = torch.compile(mine, mode="max-autotune")

    def runner(forward: Any) -> Runner:
        def timed(repeats: int) -> float:
            tf32 = precision != "exact"
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            with torch.no_grad():
                return seconds(lambda: forward(given), repeats, run.dry)

        timed(3)
        return timed

    return {kind: runner(forward) for kind, forward in forwards.items()}


def training(run: Run) -> Iterator[Row]:
    """A step of ResNet-50: forward, backward, update; the batch comes from the host in both."""
    import gpu_nets
    import torch

    batch, device = (2, "cpu") if run.dry or run.small else (128, "cuda")
    x = torch.randn(batch, 3, run.size, run.size)
    labels = torch.arange(batch) % gpu_nets.CLASSES
    net = gpu_nets.trainable(run.width, 1 if run.dry else 6).build(tuple(x.shape))
    step = Step(net, "cross_entropy", SGD(0.01, momentum=0.9), target=run.target)
    theirs = gpu_nets.resnet50(run.width).train()
    theirs = theirs.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)

    def torch_step() -> None:
        optimizer.zero_grad()
        given = x.to(device, memory_format=torch.channels_last)
        torch.nn.functional.cross_entropy(theirs(given), labels.to(device)).backward()
        optimizer.step()

    mine, wanted = (x.numpy(), labels.numpy()), [batch]
    losses = [step([mine[0]], [mine[1]])["loss"] for _ in wanted]
    if not np.isfinite(losses).all():
        raise Wrong(f"losses {losses}")
    runners = {
        "cnnir": lambda n: seconds(lambda: step([mine[0]], [mine[1]]), n, True),
        "torch eager": lambda n: seconds(torch_step, n, run.dry),
    }
    times = interleaved(runners, 0.1 if run.dry else 5.0)
    program = step.compiled([mine[0]], [mine[1]]).made.program
    yield from rows({"net": "resnet50 step", "batch": batch}, times, program.plan.flops)


def seconds(call: Callable[[], Any], repeats: int, alone: bool) -> float:
    """Mean seconds of a call. alone: it returns when its work is done; else the GPU is asked."""
    import torch

    wait = (lambda: None) if alone else torch.cuda.synchronize
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - started) / repeats


def interleaved(runners: dict[str, Runner], spent: float) -> dict[str, list[float]]:
    """Times of all runners in turn, each some milliseconds long."""
    repeats = {name: max(1, int(0.02 / max(run(1), 1e-6))) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    end = time.perf_counter() + spent * len(runners)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in runners.items():
            times[name].append(run(repeats[name]))
    return times


def rows(facts: Row, times: dict[str, list[float]], flops: int) -> Iterator[Row]:
    """A row a runner, with how much faster cnnir is."""
    mine = median(times["cnnir"])
    for name, spans in times.items():
        middle = median(spans)
        rates = {"images_s": int(str(facts["batch"])) / middle, "tflops": flops / middle / 1e12}
        yield facts | {"runner": name, "median_s": middle, "min_s": min(spans)} | rates | {
            "cnnir_is": middle / mine
        }  # fmt: skip


def show_profile(program: CudaProgram, x: np.ndarray, most: int = 8) -> None:
    """The slowest steps of a program, with rates."""
    spans = np.median([program.profile([x]) for _ in range(3)], axis=0)
    print(f"  {program.plan.target}, {1e6 * sum(spans):.0f} us in steps run one by one:")
    order = sorted(zip(spans, program.plan.steps, strict=True), key=lambda pair: -pair[0])
    for spent, step in order[:most]:
        rates = f"{step.flops / spent / 1e12:6.2f} TFLOP/s {step.bytes / spent / 1e9:6.0f} GB/s"
        what = f"{step.kernel:12s} {step.op[:24]:24s} {step.result}"
        print(f"  {1e6 * spent:8.1f} us  {rates}  {what}")


SECTIONS: dict[str, Callable[[Run], Iterator[Row]]] = {
    "wrappers": wrappers, "suite": suite, "nets": nets, "sanitize": sanitize,
    "inference": inference, "training": training,
}  # fmt: skip


def main() -> None:
    """Run the sections, print, append."""
    parser = argparse.ArgumentParser(description="Right results and speed on a GPU.")
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=540.0, help="for all sections together")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--precisions", nargs="+", default=["tf32", "f16"])
    parser.add_argument("--dry", action="store_true", help="without a GPU, on the emulator")
    parser.add_argument("--small", action="store_true", help="small nets, on the GPU")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    batches = given.batches or ([1, 2] if given.dry or given.small else [1, 32, 128])
    run = Run(given.dry, given.small, batches, given.precisions)
    facts, started = context(), time.perf_counter()
    for number, name in enumerate(given.sections):
        left = given.seconds - (time.perf_counter() - started)
        run.end = time.perf_counter() + left / (len(given.sections) - number)
        print(f"{name}, {left / (len(given.sections) - number):.0f} s", flush=True)
        for row in SECTIONS[name](run):
            shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            print("  " + ", ".join(shown), flush=True)
            if given.record and not given.dry:
                append("gpu", facts | {"section": name} | row)


if __name__ == "__main__":
    main()
