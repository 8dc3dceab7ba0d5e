"""Latency of two threads on two cores, alone and with one core taken by another program.

    python benchmarks/busy.py model.onnx ... [--threads 2] [--seconds 3] [--record]

The other program is an endless loop in a process of its own, which the system may move as it likes.
Each runner has the machine for some seconds, one after another, since a runner whose workers spin
after a run would be one more busy program for the next. Medians and 90th percentiles; `slower` is
the median beside the busy program over the median alone. With --record rows go to
benchmarks/results/busy.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from results import append, context

import cnnir
from cnnir.verify import random_inputs

Feeds = dict[str, np.ndarray]
Run = Callable[[], object]

PAUSE = 0.1  # seconds between runners, so that spinning workers go to sleep


def ours(path: Path, threads: int, feeds: Feeds) -> Run:
    exe = cnnir.compile(path, threads=threads)
    return lambda: exe.run(feeds)


def onnxruntime(path: Path, threads: int, feeds: Feeds) -> Run:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino(path: Path, threads: int, feeds: Feeds) -> Run:
    import openvino as runtime

    core = runtime.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    how = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    how["INFERENCE_PRECISION_HINT"] = "f32"
    request = core.compile_model(model, "CPU", how).create_infer_request()
    return lambda: request.infer(feeds)


RUNNERS = {"cnnir": ours, "onnxruntime": onnxruntime, "openvino": openvino}


@contextmanager
def busy_program() -> Iterator[None]:
    """A process that takes a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait()


def times(run: Run, seconds: float) -> list[float]:
    run()
    run()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    time.sleep(PAUSE)
    return found


def measure(path: Path, threads: int, seconds: float) -> Iterator[dict[str, object]]:
    graph = cnnir.load(path)
    names = [str(v.name) for v in graph.inputs]
    feeds = dict(zip(names, random_inputs(graph), strict=True))
    runs = {name: make(path, threads, feeds) for name, make in RUNNERS.items()}
    alone = {name: times(run, seconds) for name, run in runs.items()}
    with busy_program():
        beside = {name: times(run, seconds) for name, run in runs.items()}
    for name in runs:
        row: dict[str, object] = {"model": path.stem, "threads": threads, "runner": name}
        for where, found in (("alone", alone[name]), ("busy", beside[name])):
            row[f"{where}_ms"] = 1e3 * statistics.median(found)
            row[f"{where}_p90_ms"] = 1e3 * statistics.quantiles(found, n=10)[-1]
        row["slower"] = statistics.median(beside[name]) / statistics.median(alone[name])
        yield row


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="Latency beside a busy program.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context()
    for path in given.models:
        for row in measure(path, given.threads, given.seconds):
            if given.record:
                append("busy", facts | row)
            print(
                f"{row['model']:14s} {row['runner']:12s} alone {row['alone_ms']:7.2f} ms, p90 "
                f"{row['alone_p90_ms']:7.2f}; busy {row['busy_ms']:7.2f}, p90 "
                f"{row['busy_p90_ms']:7.2f}; {row['slower']:.2f} times slower",
                flush=True,
            )


if __name__ == "__main__":
    main()
