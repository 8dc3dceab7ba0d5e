"""How far results are from those of a reference in f64, by default and with precision="exact".

    python benchmarks/accuracy.py model.onnx ... [--features avx2] [--batch 1] [--record]

The reference is `cnnir.evaluate` in f64 on the graph as imported, before any pass; the input is
random, of standard deviation 1. The error is the largest difference over the largest result, of the
worst output. The last column is the budget: 1e-4 by default, 2e-6 where precision is exact. With
--record rows go to benchmarks/results/accuracy.jsonl. A reference takes seconds to minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from results import append, context

import cnnir
from cnnir.cli.arguments import batched
from cnnir.verify import random_inputs

BUDGETS = {"default": 1e-4, "exact": 2e-6}


def errors(path: Path, batch: int, features: str | None) -> dict[str, float]:
    """The error of each precision."""
    graph = cnnir.load(path)
    if graph.inputs[0].type.shape[0] != batch:
        graph = cnnir.load(path, batched(graph, batch))
    arrays = random_inputs(graph)
    feeds = dict(zip([str(v.name) for v in graph.inputs], arrays, strict=True))
    wanted = cnnir.evaluate(graph, arrays, dtype="f64")
    found = {}
    for precision in BUDGETS:
        exe = cnnir.compile(graph, precision=precision, features=features)
        got = exe.run(feeds).values()
        found[precision] = max(
            float(np.abs(y - want).max() / max(np.abs(want).max(), 1e-300))
            for y, want in zip(got, wanted, strict=True)
        )
        exe.close()
    return found


def main() -> None:
    """Compare, print, append; exit code 1 where a budget is exceeded."""
    parser = argparse.ArgumentParser(description="Errors against a reference in f64.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--features", help="such as avx2; the host's without")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context() | {"features": given.features, "batch": given.batch}
    worst = 0.0
    for path in given.models:
        for precision, error in errors(path, given.batch, given.features).items():
            budget = BUDGETS[precision]
            worst = max(worst, error / budget)
            if given.record:
                append(
                    "accuracy",
                    facts | {"model": path.stem, "precision": precision} | {"error": error},
                )
            verdict = "ok" if error <= budget else "TOO FAR"
            print(
                f"{path.stem:14s} {precision:8s} {error:.2e} of {budget:.0e}  {verdict}", flush=True
            )
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
