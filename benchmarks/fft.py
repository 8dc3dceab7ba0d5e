"""FFT convolution beside direct convolution and scipy, by kernel size; rows for results/fft.jsonl.

    python benchmarks/fft.py [--only WORD] [--threads T] [--seconds S] [--record]

Each case is a layer whose padding keeps the size. It is compiled twice, with FFT alone and with all
but FFT, for every kernel size. Both run in turn; then FFT in turn with scipy.signal's fftconvolve
and oaconvolve, after whom nobody finds anything in the caches. Least times. The crossover is the
kernel size from which on FFT is quicker, as predicted and as measured. The growth: signals of N
with kernels of N / 4 taps, where the time over N log2 N should stay as it is. Scipy computes on one
thread; needs the extra `mathematics`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, log2, nan, prod

import numpy as np
from results import append, context
from scipy import signal

import cnnir
from cnnir.backends.llvm import offers
from cnnir.backends.llvm.work import Found, Offer

SQUARE = (3, 5, 7, 9, 11, 13, 15, 21, 31, 47, 63)
TAPS = (9, 17, 25, 33, 41, 49, 63, 127, 255, 511, 1023)
SLOWEST = 0.25  # seconds of a run from which on a case is not repeated for larger kernels
GROWTH = tuple(2**k for k in range(10, 19))


@dataclass(frozen=True)
class Case:
    """A layer on one image of so many channels; `depthwise` or every channel to every filter."""

    channels: int
    sizes: tuple[int, ...]
    depthwise: bool = True
    taps: tuple[int, ...] = SQUARE

    @property
    def name(self) -> str:
        kind = "depthwise" if self.depthwise and self.channels > 1 else "all to all"
        how = f"{self.channels} channels, {kind}" if self.channels > 1 else "1 channel"
        return f"{len(self.sizes)}-D, {how}, {'x'.join(map(str, self.sizes))}"

    def graph(self, taps: int) -> cnnir.Graph:
        """The layer as a graph with random weights."""
        rank, c = len(self.sizes), self.channels
        x = f"f32[1,{c},{','.join(map(str, self.sizes))}]"
        w = f"f32[{c},{1 if self.depthwise else c},{','.join([str(taps)] * rank)}]"
        around = f"({', '.join([str(taps // 2)] * 2 * rank)})"
        attributes = f"padding={around}, groups={c if self.depthwise else 1}"
        return cnnir.parse(
            f"graph @layer(%x: {x}) {{\n  param @w : {w}\n"
            f"  %y = conv(%x, @w) {{{attributes}}} : {x}\n  return %y\n}}",
            seed=taps,
        )


CASES = (
    Case(1, (512, 512)),
    Case(128, (56, 56)),
    Case(32, (56, 56), depthwise=False),
    Case(1, (65536,), taps=TAPS),
    Case(64, (4096,), taps=TAPS),
)


@contextmanager
def offering(wanted: Callable[[Offer], bool]) -> Iterator[list[Offer]]:
    """Plans made inside have these offers alone; gives a list of all that there were."""
    maker, seen = offers._MAKERS["conv"], []

    def chosen(*arguments) -> Found:
        found, rejected = maker(*arguments)
        seen.extend(found)
        return [offer for offer in found if wanted(offer)], rejected

    offers._MAKERS["conv"] = chosen
    try:
        yield seen
    finally:
        offers._MAKERS["conv"] = maker


def compiled(graph: cnnir.Graph, fft: bool, threads: int) -> tuple[cnnir.Executable | None, float]:
    """The layer by FFT, or by the best of all else; and what that is predicted to take."""
    with offering(lambda offer: (offer.kind == "fft_conv") == fft) as seen:
        exe = cnnir.compile(graph, threads=threads)
    seconds = [offer.seconds for offer in seen if (offer.kind == "fft_conv") == fft]
    return (exe if seconds or not fft else None), min(seconds, default=nan)


def least(runners: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Of each runner the least time, in turn: seconds for all together, and three turns."""
    times = [inf] * len(runners)
    end, turns = time.perf_counter() + seconds, 0
    while turns < 3 or time.perf_counter() < end:
        for i, run in enumerate(runners):
            start = time.perf_counter()
            run()
            times[i] = min(times[i], time.perf_counter() - start)
        turns += 1
    return times


def by_scipy(case: Case, x: np.ndarray, w: np.ndarray) -> list[Callable[[], np.ndarray]]:
    """The same layer by scipy: one channel after the other would be slower."""
    axes = tuple(range(2, 2 + len(case.sizes)))
    turned = np.flip(w, axes)
    if case.depthwise:
        turned = turned[:, 0][None]
        return [
            lambda f=f: f(x, turned, mode="same", axes=axes)
            for f in (signal.fftconvolve, signal.oaconvolve)
        ]
    images = np.broadcast_to(x, (*turned.shape[:2], *case.sizes))
    return [
        lambda f=f: f(images, turned, mode="same", axes=axes).sum(1)
        for f in (signal.fftconvolve, signal.oaconvolve)
    ]


def row(case: Case, taps: int, threads: int, seconds: float, direct: bool) -> dict[str, object]:
    """Times and predictions for a kernel size, in milliseconds."""
    graph = case.graph(taps)
    (w,) = graph.params.values()
    x = np.random.default_rng(taps).standard_normal((1, case.channels, *case.sizes), np.float32)
    ours: dict[str, Callable[[], object]] = {}
    predicted = {}
    for name, fft in (("direct", False), ("fft", True)):
        if fft or direct:
            exe, predicted[name] = compiled(case.graph(taps), fft, threads)
            if exe is not None:
                ours[name] = lambda exe=exe: exe(x)
    ms = dict(zip(ours, least(list(ours.values()), seconds / 2), strict=True))
    if "fft" in ours:
        runners = [ours["fft"], *by_scipy(case, x, np.array(w))]
        y, wanted = runners[0](), runners[1]()
        assert abs(y - wanted).max() < 1e-4 * abs(wanted).max()
        names = ("fft beside", "fftconvolve", "oaconvolve")
        ms |= zip(names, least(runners, seconds / 2), strict=True)
    return {
        "case": case.name,
        "taps": taps,
        "threads": threads,
        "ms": {name: round(t * 1e3, 4) for name, t in ms.items()},
        "predicted_ms": {name: round(t * 1e3, 4) for name, t in predicted.items()},
    }


def crossover(rows: Sequence[dict], figures: str) -> int | None:
    """The least kernel size from which on FFT is the quicker one."""
    found = None
    for each in reversed(rows):
        ms = each[figures]
        direct = ms.get("direct", inf)
        if ms.get("fft", inf) < (inf if direct != direct else direct):
            found = each["taps"]
        else:
            break
    return found


def shown(figures: dict[str, float], name: str) -> str:
    value = figures.get(name, nan)
    return f"{value:9.3f}" if value == value else "        -"


def by_kernel_size(case: Case, options: argparse.Namespace, machine: dict) -> None:
    """A table of times by kernel size, and the crossover."""
    print(f"\n{case.name}, {options.threads} thread(s), milliseconds (predicted)")
    print("   taps    direct (predicted)       fft (predicted)  beside: fftconvolve oaconvolve")
    rows, direct = [], True
    for taps in case.taps:
        made = row(case, taps, options.threads, options.seconds, direct)
        ms, predicted = made["ms"], made["predicted_ms"]
        direct = direct and ms.get("direct", 0) < SLOWEST * 1e3
        columns = [f"{shown(ms, n)} ({shown(predicted, n)})" for n in ("direct", "fft")]
        columns += [shown(ms, n) for n in ("fft beside", "fftconvolve", "oaconvolve")]
        print(f"{taps:7} {' '.join(columns)}", flush=True)
        rows.append(made)
        if options.record:
            append("fft", made | machine)
    predicted, measured = (crossover(rows, figures) for figures in ("predicted_ms", "ms"))
    print(f"FFT from {predicted} taps on by prediction, from {measured} as measured")


def growth(options: argparse.Namespace, machine: dict) -> None:
    """Signals of N and kernels of N / 4: the time over N log2 N."""
    print("\nN samples, N / 4 + 1 taps: milliseconds, picoseconds over N log2 N")
    for n in GROWTH:
        case = Case(1, (n,), taps=(n // 4 + 1,))
        made = row(case, case.taps[0], options.threads, options.seconds, False)
        work = prod(case.sizes) * log2(n)
        columns = [
            f"{name} {made['ms'][name]:9.3f} {made['ms'][name] * 1e9 / work:6.0f}"
            for name in ("fft beside", "fftconvolve")
            if name in made["ms"]
        ]
        print(f"{n:8}  {'   '.join(columns)}", flush=True)
        if options.record:
            append("fft", made | machine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this word; or growth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="time for each kernel size")
    parser.add_argument("--record", action="store_true", help="append to results/fft.jsonl")
    options = parser.parse_args()
    machine = context()
    for case in CASES:
        if options.only in case.name:
            by_kernel_size(case, options, machine)
    if options.only in "growth":
        growth(options, machine)


if __name__ == "__main__":
    main()
