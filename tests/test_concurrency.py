"""Models compiled in several Python threads at once are the models they would be alone."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import cnnir

NET = """\
graph @net(%x: f32[1,{channels},9,7]) {{
  param @w : f32[21,{channels},3,3]
  param @s : f32[1,21,1,1]
  %a = conv(%x, @w) {{padding=(1, 1, 1, 1)}} : f32[1,21,9,7]
  %b = mul(%a, @s) : f32[1,21,9,7]
  %c = softmax(%b) {{axis=1}} : f32[1,21,9,7]
  %y = gather(%c, %k) {{axis=2}} : f32[1,21,2,7]
  return %y
}}"""


def net(channels: int) -> cnnir.Graph:
    text = NET.format(channels=channels).replace("9,7]) {", "9,7], %k: i64[2]) {", 1)
    return cnnir.parse(text, seed=channels)


def test_compiling_at_once_gives_the_same_bits_as_compiling_alone() -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 3, 5, 16, 17, 20]
    feeds = [
        {"x": rng.standard_normal((1, c, 9, 7)).astype(np.float32), "k": np.array([0, -1])}
        for c in sizes
    ]
    alone = [cnnir.compile(net(c), cache=False).run(f) for c, f in zip(sizes, feeds, strict=True)]
    results: list[dict[str, np.ndarray] | None] = [None] * len(sizes)

    def work(k: int) -> None:
        results[k] = cnnir.compile(net(sizes[k]), cache=False).run(feeds[k])

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(sizes))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for got, want in zip(results, alone, strict=True):
        assert got is not None and np.array_equal(got["y"], want["y"])


@pytest.mark.parametrize("index", [9, -10, 2**40, -(2**62)])
def test_an_index_out_of_range_raises_and_names_itself(index: int) -> None:
    exe = cnnir.compile(net(3))
    x = np.zeros((1, 3, 9, 7), np.float32)
    with pytest.raises(cnnir.RuntimeError, match="indices out of range in gather"):
        exe.run({"x": x, "k": np.array([0, index])})
    assert np.isfinite(exe.run({"x": x, "k": np.array([0, 8])})["y"]).all()


@pytest.fixture
def busy() -> Iterator[None]:
    """Every core has another program on it that never sleeps."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.usefixtures("busy")
def test_runs_beside_busy_programs_give_the_same_bits() -> None:
    """Workers lose their cores in the middle of items, and are fetched to finish them."""
    graph = cnnir.parse(
        "graph @deep(%x: f32[1,32,40,40]) {\n  param @w : f32[32,32,3,3]\n"
        + "".join(
            f"  %{k + 1} = conv(%{k or 'x'}, @w) {{padding=(1, 1, 1, 1)}} : f32[1,32,40,40]\n"
            for k in range(12)
        )
        + "  return %12\n}",
        seed=1,
    )
    x = np.random.default_rng(2).standard_normal((1, 32, 40, 40)).astype(np.float32)
    alone = cnnir.compile(graph, threads=1)(x)
    exe = cnnir.compile(graph, threads=3)
    shared = cnnir.compile(graph, threads=2)
    for _ in range(12):
        assert np.array_equal(exe(x), alone, equal_nan=True)
        assert np.array_equal(shared(x), alone, equal_nan=True)
