"""What a model costs beside its kernels: start, memory, and the way of a call.

    python benchmarks/overheads.py model.onnx ... [--threads 1] [--record]

Start and memory are those of fresh processes, first with an empty cache (cold), then with what that
one left (warm): seconds from the start of the process to its first result, CPU seconds of all its
threads, and its resident and peak memory, beside the packed weights and the arena that the model
needs and the bytes that no arena can do without. The call's own cost is what a call takes longer
than the native code that it runs. With --record rows go to benchmarks/results/overheads.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import append, context

CALLS = 300
MIB = float(1 << 20)

CHILD = """
import json, resource, sys, time
import numpy as np
import cnnir

def least(call, times):
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best

path, threads, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
exe = cnnir.compile(path, threads=threads)
arrays = [np.zeros(v.shape, v.numpy) for v in exe.inputs.values()]
exe(*arrays)
done = time.time()
use = resource.getrusage(resource.RUSAGE_SELF)
pages = int(open("/proc/self/statm").read().split()[1])
program = exe._first.program
call = least(lambda: exe(*arrays), calls)
frame = program._acquire()
frame.fill(arrays)
alone = least(lambda: program._alone(frame.pointer), calls)
plan = exe.plan
print(json.dumps({
    "done": done, "cpu_s": use.ru_utime + use.ru_stime, "peak_bytes": use.ru_maxrss * 1024,
    "resident_bytes": pages * resource.getpagesize(), "weights_bytes": plan.constant_bytes,
    "arena_bytes": plan.arena_bytes, "arena_bound": plan.arena_bound,
    "call_s": call, "alone_s": alone, "compile_s": plan.seconds,
}))
"""


def fresh(path: Path, threads: int, calls: int, cache: str) -> dict[str, float]:
    """What a process of its own tells, with the seconds until its first result."""
    command = [sys.executable, "-c", CHILD, str(path), str(threads), str(calls)]
    start = time.time()
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"CNNIR_CACHE": cache}
    )
    row: dict[str, float] = json.loads(result.stdout)
    return {"first_result_s": row.pop("done") - start, **row}


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="Start, memory and calls of whole models.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context()
    for path in given.models:
        with tempfile.TemporaryDirectory() as cache:
            for start in ("cold", "warm", "warm"):
                calls = CALLS if path.stat().st_size < MIB else 3
                row = fresh(path, given.threads, calls, cache)
                if given.record:
                    append("overheads", facts | {"model": path.stem, "start": start, **row})
                needs = (row["weights_bytes"] + row["arena_bytes"]) / MIB
                bound = row["arena_bytes"] / max(1.0, row["arena_bound"])
                print(
                    f"{path.stem:14s} {start}: first result {row['first_result_s']:6.2f} s "
                    f"({row['cpu_s']:.2f} s CPU), resident {row['resident_bytes'] / MIB:7.1f}, "
                    f"peak {row['peak_bytes'] / MIB:7.1f}, needs {needs:6.1f} MiB, arena "
                    f"{bound:.3f} x its bound, call {row['call_s'] * 1e6:.1f} us, of which native "
                    f"{row['alone_s'] * 1e6:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
