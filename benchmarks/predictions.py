"""What the plan predicts for each candidate kernel of a model, beside what it takes.

    python benchmarks/predictions.py model.onnx ... [--threads 1] [--features avx2] [--record]

A row a candidate: those that `compile(..., tune=True)` would measure, which are measured here anew.
The last line of a model is what its distinct steps take with what is predicted to be quickest, and
with what is. With --record rows go to benchmarks/results/predictions.jsonl.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from results import append, context

import cnnir
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.plan import plan
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.tuning import Time, Tuning
from cnnir.backends.llvm.width import fitted
from cnnir.pipeline import optimise


class Fresh(Tuning):
    """A tuning that remembers nothing."""

    def _stored(self, problem: str) -> list[Time]:
        return []

    def _store(self, problem: str, times: Sequence[Time]) -> None:
        return


def problems(path: Path, threads: int, features: str | None) -> Iterator[tuple[str, list[Time]]]:
    """(kernel and result of the step, times of its candidates, the best predicted first)."""
    graph = cnnir.load(path)
    optimise(graph)
    target = CpuTarget.host(features) if features else fitted(graph, CpuTarget.host())
    tuning = Fresh(graph, target, threads, False, ObjectCache.default())
    plan(graph, target, threads, tuning=tuning)
    asked = dict(tuning.open)
    tuning.measure()
    for problem, candidates in asked.items():
        kernel = candidates[0].kernel
        times = sorted(tuning.known[problem], key=lambda time: time.predicted)
        yield f"{kernel.node.name} {kernel.node.results[0].type}", times


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="Predicted and measured times of candidates.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--features", help="such as avx2")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context() | {"threads": given.threads, "features": given.features}
    for path in given.models:
        chosen = best = 0.0
        for step, times in problems(path, given.threads, given.features):
            chosen += times[0].seconds
            best += min(time.seconds for time in times)
            print(f"{path.stem} {step}")
            for time in times:
                row = {"model": path.stem, "step": step, "kernel": time.kind}
                row |= {"tiling": time.tiling, "seconds": time.seconds, "predicted": time.predicted}
                if given.record:
                    append("predictions", facts | row)
                print(
                    f"  {time.kind:12s} {time.seconds * 1e6:9.1f} us, predicted "
                    f"{time.predicted * 1e6:9.1f}, {time.seconds / time.predicted:5.2f} times  "
                    f"{time.tiling}"
                )
        print(
            f"{path.stem}: distinct steps take {chosen * 1e3:.3f} ms as predicted, "
            f"{best * 1e3:.3f} ms tuned, {chosen / best:.3f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
