"""Convolutions at every boundary, as multiples of the time with zeros around the image.

    python benchmarks/boundaries.py [--threads 1] [--precision exact] [--seconds S] [--record]

The same layer with each boundary in turn, between two others as in a net, and the time of its own
step alone. `padded` is the way that a boundary would go otherwise: a step that makes a padded
copy, and the convolution of that. `products` is how many times as many products there are as
with zeros, where those of the border are left out: kernels that add one by one cannot take less.
With --record rows go to results/boundaries.jsonl.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
from results import append, context

import cnnir
from cnnir import Graph, TensorType
from cnnir.compile import Executable
from cnnir.ir import Value
from cnnir.ops.boundary import MODES

FIRST_LAYER = 4  # channels up to which nothing is in front
MEASURED = "measured"
WORDS = ("zero", *MODES, "padded")
COLUMNS = (*WORDS[1:], "products")


@dataclass(frozen=True)
class Layer:
    """A convolution to as many channels, with the padding that keeps the sizes."""

    name: str
    channels: int
    filters: int
    sizes: tuple[int, ...]
    kernel: int
    stride: int = 1
    groups: int = 1

    def graph(self, word: str) -> Graph:
        """The convolution between two that mix channels, as nets have it; behind a circular pad for
        `padded`."""
        rank, g = len(self.sizes), Graph()
        x = g.input(TensorType("f32", (1, self.channels, *self.sizes)), "x")
        if self.channels > FIRST_LAYER:
            x = g.add("relu", g.add("conv", x, _weights(g, self.channels, self.channels, rank, 1)))
        w = _weights(g, self.filters, self.channels // self.groups, rank, self.kernel)
        padding = (self.kernel // 2,) * (2 * rank)
        attrs: dict[str, object] = {"stride": (self.stride,) * rank, "groups": self.groups}
        with g.provenance(MEASURED):
            if word == "padded":
                half = (0, 0, *padding[:rank])
                x = g.add("pad", x, padding=half * 2, mode="wrap")
            else:
                attrs |= {"padding": padding, "boundary": () if word == "zero" else (word,) * rank}
            y = g.add("relu", g.add("conv", x, w, **attrs))
        g.output(g.add("conv", y, _weights(g, self.filters, self.filters, rank, 1)))
        return g

    def products(self) -> float:
        """Those of all taps and results, as a multiple of those that do not see padding."""
        around, ratio = self.kernel // 2, 1.0
        for size in self.sizes:
            starts = range(-around, size + around - self.kernel + 1, self.stride)
            seen = sum(min(start + self.kernel, size) - max(start, 0) for start in starts)
            ratio *= len(starts) * self.kernel / seen
        return ratio


def _weights(g: Graph, filters: int, channels: int, rank: int, size: int) -> Value:
    shape = (filters, channels, *(size,) * rank)
    return g.param("w", np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


LAYERS = (
    Layer("3x3 64>64 56x56", 64, 64, (56, 56), 3),
    Layer("3x3 128>128 28x28", 128, 128, (28, 28), 3),
    Layer("3x3 256>256 14x14", 256, 256, (14, 14), 3),
    Layer("3x3 128>128 7x7", 128, 128, (7, 7), 3),
    Layer("3x3/2 128>128 56x56", 128, 128, (56, 56), 3, 2),
    Layer("5x5 32>64 56x56", 32, 64, (56, 56), 5),
    Layer("7x7 3>32 224x224", 3, 32, (224, 224), 7),
    Layer("7x7/2 3>64 224x224", 3, 64, (224, 224), 7, 2),
    Layer("depthwise 3x3 64 56x56", 64, 64, (56, 56), 3, 1, 64),
    Layer("depthwise 7x7 64 56x56", 64, 64, (56, 56), 7, 1, 64),
    Layer("4 groups 5x5 96 28x28", 96, 96, (28, 28), 5, 1, 4),
    Layer("9 64>64 4096", 64, 64, (4096,), 9),
    Layer("3x3x3 16>32 24x24x24", 16, 32, (24, 24, 24), 3),
    Layer("15x15 1 512x512", 1, 1, (512, 512), 15),
    Layer("depthwise 15x15 64 56x56", 64, 64, (56, 56), 15, 1, 64),
    Layer("depthwise 31x31 8 128x128", 8, 8, (128, 128), 31, 1, 8),
)


def step_times(exe: Executable, x: np.ndarray) -> float:
    """Seconds of the convolution's step, and of a pad in front of it."""
    steps = zip(exe.plan.steps, exe.profile({"x": x}), strict=True)
    return sum(seconds for step, seconds in steps if MEASURED in step.sources)


def measure(layer: Layer, threads: int, precision: str, seconds: float) -> dict[str, object]:
    """The median time with zeros, and how many times that the others take."""
    x = np.random.default_rng(1).standard_normal((1, layer.channels, *layer.sizes), np.float32)
    options: dict[str, object] = {"threads": threads, "precision": precision}
    runs = {word: cnnir.compile(layer.graph(word), **options) for word in WORDS[:-1]}
    # without the pass that would make a boundary of it
    runs["padded"] = cnnir.compile(layer.graph("padded"), passes="fuse,dead", **options)
    times: dict[str, list[float]] = {word: [] for word in WORDS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for word, exe in runs.items():
            times[word] += [step_times(exe, x) for _ in range(3)]
    best = {word: median(found) for word, found in times.items()}
    kernel = next(s.kernel for s in runs["zero"].plan.steps if MEASURED in s.sources)
    row: dict[str, object] = {"layer": layer.name, "kernel": kernel, "threads": threads}
    row |= {"precision": precision, "zero_us": round(best["zero"] * 1e6, 1)}
    row |= {word: round(best[word] / best["zero"], 3) for word in WORDS[1:]}
    return row | {"products": round(layer.products(), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="layers whose name holds this word")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="default", choices=("default", "exact"))
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each layer")
    parser.add_argument("--record", action="store_true", help="append to results/boundaries.jsonl")
    options = parser.parse_args()
    machine = context()
    print(f"{'layer':26} {'kernel':13} {'zero':>9}  " + "  ".join(f"{w:>9}" for w in COLUMNS))
    for layer in LAYERS:
        if options.only not in layer.name:
            continue
        row = measure(layer, options.threads, options.precision, options.seconds)
        ratios = "  ".join(f"{row[w]:9.3f}" for w in COLUMNS)
        print(f"{layer.name:26} {row['kernel']:13} {row['zero_us']:6.1f} us  {ratios}", flush=True)
        if options.record:
            append("boundaries", row | machine)


if __name__ == "__main__":
    main()
