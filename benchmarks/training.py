"""Training steps: cnnir beside torch, five each in turn in one process; a row a runner, as JSON.

    python benchmarks/training.py [lenet cnn resnet18 mobile] [--threads 1] [--seconds 5]
                                  [--compile] [--memory] [--record]

A step is forward, cross-entropy, backward and the update of SGD with momentum. torch runs eagerly,
eagerly with channels last, and with --compile through torch.compile too. With --memory the rows say
how far a process of its own, which makes some steps, grows beyond what it had with net and data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from results import append, context
from training_nets import NETS, torch_net

from cnnir.report import timing
from cnnir.training import SGD, Step

RATE, MOMENTUM = 0.01, 0.9
CLASSES = 10
IN_A_ROW = 5
"""Steps that a runner makes before the next has its turn: a training makes one after another."""


def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, the same for every runner."""
    shape, rng = NETS[name][1], np.random.default_rng(0)
    return rng.standard_normal(shape, dtype=np.float32), rng.integers(0, CLASSES, shape[0])


def ours(name: str, threads: int) -> Callable[[], float]:
    """A function that makes a step and gives the loss."""
    make, shape = NETS[name]
    x, labels = batch(name)
    step = Step(make().build(shape), "cross_entropy", SGD(RATE, momentum=MOMENTUM), threads=threads)
    step.compiled([x], [labels])
    return lambda: step([x], [labels])["loss"]


def torchs(name: str, threads: int, mode: str) -> Callable[[], float]:
    """The same by torch."""
    import torch

    torch.set_num_threads(threads)
    net = torch_net(name).train()
    x, labels = map(torch.tensor, batch(name))
    if mode != "eager":
        net, x = (v.to(memory_format=torch.channels_last) for v in (net, x))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    forward = torch.compile(net) if mode == "torch.compile" else net

    def run() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def runner(name: str, threads: int, mode: str) -> Callable[[], float]:
    return ours(name, threads) if mode == "cnnir" else torchs(name, threads, mode)


def measure(name: str, threads: int, seconds: float, modes: list[str]) -> list[dict[str, Any]]:
    """A row a runner."""
    runners = {mode: runner(name, threads, mode) for mode in modes}
    timings = timing.interleaved(runners, seconds, in_a_row=IN_A_ROW)
    best = {mode: t.best for mode, t in timings.items()}
    peers = [seconds for mode, seconds in best.items() if mode != "cnnir"]
    return [
        {
            "net": name,
            "batch": NETS[name][1][0],
            "threads": threads,
            "runner": mode,
            "best_ms": t.best * 1e3,
            "median_ms": t.median * 1e3,
            "ratio": min(peers) / best["cnnir"] if mode == "cnnir" and peers else None,
        }
        for mode, t in timings.items()
    ]


def peak_mb(name: str, mode: str) -> float:
    """How far a fresh process grows by making steps, in MB."""
    command = [sys.executable, __file__, name, "--peak-of", mode]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def resident() -> float:
    """Bytes of this process in memory now, in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def grown(name: str, mode: str) -> float:
    """MB that the steps of this process need beyond what imports and compiling have left."""
    import resource

    run = runner(name, 1, mode)
    before = resident()
    for _ in range(3):
        run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - before


def main() -> None:
    """Measure, print, and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(grown(options.nets[0], options.peak_of)))
        return
    modes = ["cnnir", "eager", "channels last"] + ["torch.compile"] * options.compile
    for name in options.nets:
        for row in measure(name, options.threads, options.seconds, modes):
            if options.memory:
                row["memory_mb"] = peak_mb(name, str(row["runner"]))
            print(json.dumps(row))
            if options.record:
                append("training", row | context())


if __name__ == "__main__":
    main()
