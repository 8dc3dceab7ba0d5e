"""What a model costs before its first result, and in memory: every figure from a fresh process.

    python benchmarks/startup.py model.onnx ... [--threads 1] [--repeats 3] [--peer] [--record]

Cold is with an empty cache, warm with what the cold start left; Python's bytecode and the files of
the model are in the page cache both times. Seconds are from the start of the process to its first
result. Memory is what the system says of the process (VmHWM is the peak, VmRSS and RssAnon the
level after the first result), less that of a process which did the same with a model of one Relu:
interpreter, imports, LLVM. What a model needs is its packed weights and its arena; the factors are
those to it. `--peer` adds rows of onnxruntime. With --record rows go to
benchmarks/results/startup.jsonl.
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

from onnx import TensorProto, helper, save
from results import append, context

MIB = float(1 << 20)

OURS = """
import json, sys, time
import numpy as np
import cnnir
exe = cnnir.compile(sys.argv[1], threads=int(sys.argv[2]))
feeds = {n: np.zeros(t.shape, t.numpy) for n, t in exe.inputs.items()}
exe.run(feeds)
done = time.time()
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
plan = exe.plan
print(json.dumps({
    "done": done,
    **{k: int(lines[k].split()[0]) * 1024 for k in ("VmHWM", "VmRSS", "RssAnon")},
    "weights_bytes": plan.constant_bytes, "arena_bytes": plan.arena_bytes,
    "arena_bound": plan.arena_bound, "stages_s": plan.seconds,
}))
"""

PEER = """
import json, sys, time
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {}
for port in session.get_inputs():
    shape = [d if isinstance(d, int) else 1 for d in port.shape]
    feeds[port.name] = np.zeros(shape, np.float32)
session.run(None, feeds)
done = time.time()
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "done": done, **{k: int(lines[k].split()[0]) * 1024 for k in ("VmHWM", "VmRSS", "RssAnon")},
}))
"""

Row = dict[str, float]


class Machine:
    """Fresh processes that share a folder of bytecode, and per model a folder of programs."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def fresh(self, program: str, path: Path, cache: str) -> Row:
        """What a process of its own tells, with the seconds until its first result."""
        command = [sys.executable, "-c", program, str(path), str(self.threads)]
        environment = self.environment | {"CNNIR_CACHE": str(self.folder / cache)}
        start = time.time()
        result = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        row: Row = json.loads(result.stdout)
        return {"first_result_s": row.pop("done") - start, **row}

    def clear(self, cache: str) -> None:
        """Make a cache an empty one."""
        for path in (self.folder / cache).glob("*"):
            path.unlink()


def relu(path: Path) -> Path:
    """A model that costs nothing."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def less(row: Row, base: Row) -> Row:
    """A row with the memory that a model of nothing takes subtracted, and factors of the need."""
    peak, level = (row[key] - base[key] for key in ("VmHWM", "VmRSS"))
    anonymous = row["RssAnon"] - base["RssAnon"]
    found = {"peak_bytes": peak, "resident_bytes": level, "anonymous_bytes": anonymous}
    if needed := row.get("weights_bytes", 0) + row.get("arena_bytes", 0):
        found["peak_factor"], found["resident_factor"] = peak / needed, level / needed
        found["arena_factor"] = row["arena_bytes"] / max(1.0, row["arena_bound"])
    return row | found


def measured(machine: Machine, path: Path, repeats: int, bases: dict[str, Row]) -> dict[str, Row]:
    """Rows of a cold start and of the quickest of some warm ones."""
    machine.clear("programs")
    rows = {"cold": machine.fresh(OURS, path, "programs")}
    warm = [machine.fresh(OURS, path, "programs") for _ in range(repeats)]
    rows["warm"] = min(warm, key=lambda row: row["first_result_s"])
    kept = (machine.folder / "programs").glob("*.cnnirprogram")
    rows["warm"]["disk_bytes"] = sum(p.stat().st_size for p in kept)
    if "onnxruntime" in bases:
        peer = [machine.fresh(PEER, path, "programs") for _ in range(repeats)]
        rows["onnxruntime"] = min(peer, key=lambda row: row["first_result_s"])
    return {start: less(row, bases[start]) for start, row in rows.items()}


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="First results and memory of whole models.")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    facts = context() | {"threads": given.threads}
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name), given.threads)
        nothing = relu(Path(name) / "relu.onnx")
        machine.fresh(OURS, nothing, "first")  # leaves bytecode
        bases = {start: machine.fresh(OURS, nothing, "nothing") for start in ("cold", "warm")}
        if given.peer:
            bases["onnxruntime"] = machine.fresh(PEER, nothing, "nothing")
        for path in given.models:
            for start, row in measured(machine, path, given.repeats, bases).items():
                show(path.stem, start, row)
                if given.record:
                    append("startup", facts | {"model": path.stem, "start": start, **row})


def show(model: str, start: str, row: Row) -> None:
    """A line for people."""
    line = f"{model:12s} {start:11s} first result {row['first_result_s']:6.2f} s, "
    line += f"peak {row['peak_bytes'] / MIB:7.1f}, resident {row['resident_bytes'] / MIB:7.1f}, "
    line += f"anonymous {row['anonymous_bytes'] / MIB:7.1f} MiB"
    if "weights_bytes" in row:
        needed = (row["weights_bytes"] + row["arena_bytes"]) / MIB
        line += f"; needed {needed:6.1f}: peak x{row['peak_factor']:.2f}, resident "
        line += f"x{row['resident_factor']:.2f}; arena x{row['arena_factor']:.3f} of its bound"
    print(line, flush=True)


if __name__ == "__main__":
    main()
