"""A GPU: cnnir beside PyTorch on whole networks, run in turn in one process, on resident data.

    python benchmarks/gpu.py [resnet50 ...] [--batches 1 32] [--seconds 2] [--compiled] [--record]
    python benchmarks/gpu.py --dry

Networks are torchvision's with random weights. Every output is compared with PyTorch's in f64 on
the CPU first. Times are of the network alone, inputs and outputs on the device; `numpy` rows also
copy them. torch runs in channels_last, in f32 and in tf32; --compiled adds torch.compile. With
--record rows go to benchmarks/results/gpu.jsonl. --dry needs neither GPU nor PyTorch: it compiles
the light models of the onnx wheel for devices that are not here, and runs all of the measuring on
an emulated one.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from results import append, context

import cnnir
from cnnir.backends.cuda import build, build_on
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.load import CudaProgram
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.pipeline import optimise
from cnnir.tensortype import TensorType

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
DRY_MODELS = ("resnet50", "squeezenet", "shufflenet", "vgg19", "densenet121", "inception_v1")
PRECISIONS = {"exact": 1e-5, "tf32": 2e-3}
"""The error that each may have, relative to the largest value."""
ARCHS = ("sm_80", "sm_90", "sm_90a")

Runner = Callable[[int], float]
"""Seconds of one run, the mean of so many."""


def interleaved(runners: dict[str, Runner], seconds: float) -> dict[str, list[float]]:
    """Times of all runners in turn, each some milliseconds long."""
    repeats = {name: max(1, int(0.02 / max(run(3), 1e-6))) for name, run in runners.items()}
    times: dict[str, list[float]] = {name: [] for name in runners}
    end = time.perf_counter() + seconds * len(runners)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in runners.items():
            times[name].append(run(repeats[name]))
    return times


def rows(times: dict[str, list[float]], batch: int, flops: int) -> list[dict[str, object]]:
    """A row a runner."""
    return [
        {
            "runner": name,
            "batch": batch,
            "median_s": median(spans),
            "min_s": min(spans),
            "images_s": batch / median(spans),
            "tflops": flops / median(spans) / 1e12,
        }
        for name, spans in times.items()
    ]


def cnnir_runners(
    graph: Graph, x: np.ndarray, want: np.ndarray, made: Callable[[Graph, str], CudaProgram]
) -> tuple[dict[str, Runner], list[CudaProgram]]:
    """Resident and with numpy, in every precision; each is checked first."""
    runners: dict[str, Runner] = {}
    programs = []
    for precision, tolerance in PRECISIONS.items():
        program = made(graph.clone(), precision)
        (got,) = program.run([x])
        error = float(np.abs(got - want).max() / np.abs(want).max())
        print(f"  {program.plan.target} {precision}: error {error:.1e}", flush=True)
        if not error <= tolerance:
            raise SystemExit(f"wrong results: {error:.1e}, wanted {tolerance:.0e}")
        programs.append(program)
        runners[f"cnnir {precision}"] = program.resident_seconds

        def with_numpy(repeats: int, program: CudaProgram = program) -> float:
            started = time.perf_counter()
            for _ in range(repeats):
                program.run([x])
            return (time.perf_counter() - started) / repeats

        runners[f"cnnir {precision} numpy"] = with_numpy
    return runners, programs


def show_profile(program: CudaProgram, x: np.ndarray, most: int = 12) -> None:
    """The slowest steps of a program, with rates."""
    program.profile([x])
    spans = np.median([program.profile([x]) for _ in range(5)], axis=0)
    print(f"  {program.plan.target}, {1e6 * sum(spans):.0f} us in steps run one by one:")
    order = sorted(zip(spans, program.plan.steps, strict=True), key=lambda pair: -pair[0])
    for seconds, step in order[:most]:
        rates = f"{step.flops / seconds / 1e12:6.2f} TFLOP/s {step.bytes / seconds / 1e9:6.0f} GB/s"
        what = f"{step.kernel:10s} {step.op[:24]:24s} {step.result!s:22s}"
        print(f"  {1e6 * seconds:8.1f} us  {rates}  {what} {step.reason}, {step.summary}")


# ---- with PyTorch


def torch_runners(model: Any, x: np.ndarray, compiled: bool) -> dict[str, Runner]:
    """PyTorch on the GPU, in channels_last."""
    import torch

    given = torch.from_numpy(x).cuda().to(memory_format=torch.channels_last)
    net = model.float().cuda().to(memory_format=torch.channels_last)
    nets = {"eager": net}
    if compiled:
        nets["compiled"] = torch.compile(net, mode="max-autotune")

    def runner(forward: Any, tf32: bool) -> Runner:
        def run(repeats: int) -> float:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.cuda.synchronize()
            started = time.perf_counter()
            with torch.no_grad():
                for _ in range(repeats):
                    forward(given)
            torch.cuda.synchronize()
            return (time.perf_counter() - started) / repeats

        for _ in range(3):
            run(3)
        return run

    torch.backends.cudnn.benchmark = True
    return {
        f"torch {kind} {'tf32' if tf32 else 'f32'}": runner(forward, tf32)
        for kind, forward in nets.items()
        for tf32 in (False, True)
        if kind == "eager" or tf32
    }


def measure(name: str, batch: int, seconds: float, compiled: bool) -> list[dict[str, object]]:
    """Rows of one torchvision network."""
    import torch
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    with torch.no_grad():
        want = model.double()(torch.from_numpy(x).double()).numpy()
    file = io.BytesIO()
    torch.onnx.export(model.float(), (torch.from_numpy(x),), file, dynamo=False)
    graph = cnnir.load(file.getvalue())
    optimise(graph)
    print(f"{name} batch {batch} on {torch.cuda.get_device_name()}", flush=True)

    def made(graph: Graph, precision: str) -> CudaProgram:
        program = build(graph, precision=precision)
        assert isinstance(program, CudaProgram)
        return program

    mine, programs = cnnir_runners(graph, x, want, made)
    times = interleaved(mine | torch_runners(model, x, compiled), seconds)
    for program in programs:
        show_profile(program, x)
        program.close()
    facts = {"model": name, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    return [facts | row for row in rows(times, batch, programs[0].plan.flops)]


# ---- without anything


def small_net() -> Graph:
    """Convolutions and a matmul of 0.2 MFLOP."""
    rng = np.random.default_rng(1)
    g = Graph("small")

    def param(name: str, *shape: int) -> Any:
        scale = np.prod(shape[1:]) ** 0.5
        return g.param(name, (rng.standard_normal(shape) / scale).astype(np.float32))

    y = g.input(TensorType("f32", (2, 3, 16, 16)), "x")
    y = g.add("relu", g.add("conv", y, param("a", 16, 3, 3, 3), stride=(2, 2)))
    y = g.add("relu", g.add("conv", y, param("b", 16, 16, 3, 3), padding=(1, 1, 1, 1)))
    y = g.add("reduce_mean", y, axes=(2, 3), keepdims=True)
    g.output(g.add("matmul", g.add("reshape", y, shape=(2, 16)), param("c", 16, 10)))
    return g


def dry() -> list[dict[str, object]]:
    """Compile for every architecture, then measure where nothing is to be learned."""
    total = time.perf_counter()
    for model in DRY_MODELS:
        graph = cnnir.load(LIGHT / f"light_{model}.onnx")
        optimise(graph)
        for arch in ARCHS:
            for precision in PRECISIONS:
                plan = build(graph.clone(), arch=arch, precision=precision, cache=False).plan
                spills = [note for note in plan.notes if "spills" in note]
                kinds = f"{len(plan.steps)} steps, {plan.code_bytes // 1024} KiB"
                seconds = f"NVRTC {plan.seconds['compile']:5.1f} s"
                print(f"{model:14s} {arch:7s} {precision:6s} {seconds}  {kinds}", *spills)
    print(f"compiled in {time.perf_counter() - total:.0f} s")
    graph = small_net()
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    (want,) = evaluate(graph, [x], "f64")
    optimise(graph)

    def made(graph: Graph, precision: str) -> CudaProgram:
        return build_on(graph, Emulator(), precision)

    runners, programs = cnnir_runners(graph, x, want, made)
    times = interleaved(runners, 0.2)
    for program in programs:
        show_profile(program, x)
        program.close()
    facts = {"model": "small", "device": "emulated"}
    return [facts | row for row in rows(times, 2, programs[0].plan.flops)]


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="Networks on a GPU, beside PyTorch.")
    parser.add_argument("models", nargs="*", default=["resnet50"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="a runner")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--dry", action="store_true", help="without a GPU")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context()
    found = []
    if given.dry:
        found += dry()
    else:
        for name in given.models:
            for batch in given.batches:
                found += measure(name, batch, given.seconds, given.compiled)
    for row in found:
        print(
            f"{row['model']} batch {row['batch']:<4} {row['runner']:22s} "
            f"median {1e3 * row['median_s']:8.3f} ms  min {1e3 * row['min_s']:8.3f} ms  "
            f"{row['images_s']:9.1f} images/s  {row['tflops']:7.3f} TFLOP/s"
        )
        if given.record and not given.dry:
            append("gpu", facts | row)


if __name__ == "__main__":
    main()
