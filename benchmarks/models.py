"""Whole models: cnnir beside onnxruntime, run in turn in one process, on the same inputs.

    python benchmarks/models.py [model.onnx ...] [--batch 1] [--threads 1] [--seconds 5] [--record]

Without files it takes the light models that ship in the onnx wheel, with random weights in place of
their constants: those are of rank one, and the passes would split every layer. With --record every
row is appended as JSON, with the commit and the machine, to benchmarks/results/models.jsonl.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime
from results import append, context

import cnnir
from cnnir.cli.arguments import batched
from cnnir.report import cost, timing
from cnnir.verify import random_inputs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from compile_resnet50 import with_weights

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_MODELS = ("resnet50", "squeezenet", "densenet121", "vgg19")


def measure(path: Path, batch: int, threads: int, seconds: float) -> list[dict[str, object]]:
    """A row a runner; raises cnnir.Error for a model that cnnir does not take."""
    graph = cnnir.load(path)
    if graph.inputs[0].type.shape[0] != batch:
        graph = cnnir.load(path, batched(graph, batch))
    names = [str(v.name) for v in graph.inputs]
    feeds = dict(zip(names, random_inputs(graph), strict=True))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    exe = cnnir.compile(graph, threads=threads)
    try:
        runners = {
            "cnnir": lambda: exe.run(feeds),
            "onnxruntime": lambda: session.run(None, feeds),
        }
        timings = timing.interleaved(runners, seconds)
        rows = timing.timing_rows(timings, cost.summary(graph)["flops"])
        return [{"model": path.stem, "batch": batch, "threads": threads, **row} for row in rows]
    finally:
        exe.close()


def light_models(folder: Path) -> list[Path]:
    """The wheel's light models, written to a folder with random weights."""
    paths = []
    for name in LIGHT_MODELS:
        paths.append(folder / f"{name}.onnx")
        onnx.save(with_weights(onnx.load(LIGHT / f"light_{name}.onnx")), paths[-1])
    return paths


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="Whole models beside onnxruntime.")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context()
    folder = tempfile.TemporaryDirectory()
    for path in given.models or light_models(Path(folder.name)):
        for row in measure(path, given.batch, given.threads, given.seconds):
            if given.record:
                append("models", facts | row)
            median, best = 1e3 * float(str(row["median_s"])), 1e3 * float(str(row["min_s"]))
            ratio = row["speed_min"] and f"cnnir is {row['speed_min']:.2f} x as fast"
            times = f"median {median:9.3f} ms  min {best:9.3f} ms"
            print(f"{row['model']:24s} {row['runner']:12s} {times}  {ratio or ''}", flush=True)


if __name__ == "__main__":
    main()
