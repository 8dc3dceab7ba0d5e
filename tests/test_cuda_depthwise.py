"""Convolutions of few channels a group: the CUDA template on the emulator, and its resources."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from cuda_harness import needs_compiler, needs_nvrtc
from gemm_harness import SCHEDULES, conv
from test_cuda_gemm import TOLERANCE

from cnnir import compile
from cnnir.backends.cuda.build import compiled
from cnnir.backends.cuda.kernels.depthwise import POSITIONS, Depthwise, Tile
from cnnir.backends.cuda.target import CudaTarget
from cnnir.errors import BackendError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.tensortype import TensorType

TEMPLATES = [Depthwise(storage) for storage in ("", "f16", "bf16")]

SHAPES = {
    "3x3": conv(2, 24, (9, 11), 24, (3, 3), padding=(1, 1, 1, 1), groups=24),
    "strided": conv(1, 16, (10, 9), 16, (3, 3), padding=(1, 0, 0, 1), stride=(2, 3), groups=16),
    "dilated": conv(1, 8, (12, 13), 8, (3, 5), padding=(2, 4, 2, 4), dilation=(2, 3), groups=8),
    "5x5": conv(1, 32, (7, 7), 32, (5, 5), padding=(2, 2, 2, 2), stride=(2, 2), groups=32),
    "7x7": conv(1, 4, (8, 6), 4, (7, 7), padding=(3, 3, 3, 3), groups=4),
    "few taps": conv(1, 8, (9, 9), 8, (1, 2), stride=(3, 4), groups=8),
    "odd channels": conv(1, 7, (6, 5), 7, (3, 3), padding=(1, 1, 1, 1), groups=7),
    "two filters a channel": conv(1, 12, (6, 5), 24, (3, 3), padding=(1, 1, 1, 1), groups=12),
    "16 filters a channel": conv(1, 2, (6, 5), 32, (3, 3), padding=(1, 1, 1, 1), groups=2),
    "groups of 4": conv(1, 16, (6, 7), 16, (3, 3), padding=(1, 1, 1, 1), groups=4),
    "groups of 3 to 5": conv(1, 6, (5, 5), 10, (3, 3), padding=(1, 1, 1, 1), groups=2),
    "groups of 16 to 4": conv(1, 32, (5, 5), 8, (3, 3), padding=(1, 1, 1, 1), groups=2),
    "all padding": conv(1, 4, (2, 2), 4, (3, 3), padding=(4, 4, 4, 4), stride=(3, 3), groups=4),
}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.storage or "f32")
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, template: Depthwise):
    needs_compiler()
    number, work = list(SHAPES).index(name), SHAPES[name]
    assert not template.reject(work.spec)
    channels = template.choose_channels(work.spec)
    for positions in (POSITIONS[number % 4], (3, 2)):
        code = work.code(template, Tile(channels, *positions))
        assert work.run(template, code, *SCHEDULES[0]) < TOLERANCE


def test_threads_take_16_bytes_where_channels_allow():
    pairs = {name: [t.choose_channels(w.spec) for t in TEMPLATES] for name, w in SHAPES.items()}
    assert pairs["3x3"] == [4, 8, 8] and pairs["odd channels"] == [1, 1, 1]
    assert pairs["groups of 4"] == [4, 8, 8] and pairs["16 filters a channel"] == [4, 8, 8]
    for name in ("3x3", "groups of 4"):
        template, work = TEMPLATES[1], SHAPES[name]
        text = work.code(template, Tile(8, 1, 4), storage="f16").text
        assert "READ = 8" in text and "cn_several<unsigned short, 8> k_epilogue" in text


def test_positions_of_a_thread():
    """Many where they fit in registers and there are many; a larger device wants more threads."""
    template = TEMPLATES[0]
    small, large = (
        conv(n, 64, (40, 40), 64, (3, 3), padding=(1, 1, 1, 1), groups=64).spec for n in (1, 64)
    )
    h100, little = CudaTarget("sm_90"), CudaTarget("sm_90", processors=1)
    assert template.choose(large, h100)[0] == Tile(4, 2, 4)
    assert template.choose(small, h100)[0] == Tile(4, 1, 1)
    assert template.choose(small, little)[0] == Tile(4, 2, 4)
    wide = conv(64, 64, (64, 64), 64, (7, 7), dilation=(4, 4), groups=64).spec
    assert template.choose(wide, h100)[0] != Tile(4, 2, 4)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_resources(arch: str):
    """Nothing spills of what is chosen."""
    needs_nvrtc()
    texts = {}
    for size, stride, template in product((3, 5, 7), (1, 2), TEMPLATES[:2]):
        groups = 64 if size > 3 else 32
        work = conv(
            32, 64, (40, 40), 64, (size, size), stride=(stride, stride), groups=groups,
            padding=(size // 2,) * 4,
        )  # fmt: skip
        name = f"depthwise_{size}{stride}{template.storage}_"
        tile, seconds = template.choose(work.spec, CudaTarget(arch))
        assert 0 < seconds < 1e-3
        texts[name] = work.code(template, tile, name).text
    used = compiled(texts, arch).resources
    assert used.keys() == texts.keys()
    assert not [name for name, needs in used.items() if needs.spilled_bytes]
    assert max(needs.registers for needs in used.values()) <= 255


FAULTS = {
    "columns outside": ("(unsigned)(left + q) < (unsigned)W", "true"),
    "rows outside": ("(unsigned)(top + r) < (unsigned)H", "true"),
    "rows behind the last": ("down + i >= OUT_H || ", ""),
    "columns behind the last": (" || right + j >= OUT_W", ""),
    "threads behind the last": ("if (index >= IMAGES", "if (false && index >= IMAGES"),
    "a pixel's neighbour": ("j * STRIDE_W + s * DILATION_W", "j + s * DILATION_W"),
    "misaligned reads": ("+ q * C + k)", "+ q * C + k + 1)"),
    "a row of the filter too few": ("u / DILATION_H >= KERNEL_H) continue", "u > 1) continue"),
    "the same filter for all": ("w + term * K + column", "w + term * K"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str):
    needs_compiler()
    template, work = TEMPLATES[0], SHAPES["strided" if "neighbour" in fault else "3x3"]
    code = work.code(template, Tile(4, 2, 4))
    right, wrong = FAULTS[fault]
    assert right in code.text
    broken = type(code)(code.text.replace(right, wrong, 1), code.launches)
    try:
        assert not work.run(template, broken) < TOLERANCE
    except (BackendError, AssertionError) as error:
        assert "assert not" not in str(error)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (conv(1, 32, (5, 5), 32, (3, 3), groups=2), "many channels"),
        (conv(1, 8, (5, 5), 8, (3, 3)), "many channels"),
        (conv(1, 80, (5, 5), 8, (3, 3), groups=2), "groups of 40 channels"),
        (conv(0, 8, (5, 5), 8, (3, 3), groups=8), "nothing"),
    ],
)
def test_what_is_rejected(work, reason: str):
    for template in TEMPLATES:
        assert reason in (template.reject(work.spec) or "")


@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 2e-6), ("f16", 2e-3)])
def test_an_inverted_residual(precision: str, tolerance: float):
    """A block of MobileNet: all of it in tuned kernels, the depthwise one with its relu6."""
    needs_compiler()
    rng = np.random.default_rng(3)
    g = Graph()

    def param(name: str, *shape: int):
        scale = max(1.0, np.prod(shape[1:])) ** 0.5
        return g.param(name, (rng.standard_normal(shape) / scale).astype(np.float32))

    x = g.input(TensorType("f32", (2, 16, 9, 7)), "x")
    y = g.add("clip", g.add("conv", x, param("a", 40, 16, 1, 1)), lo=0.0, hi=6.0)
    y = g.add("conv", y, param("b", 40, 1, 3, 3), param("c", 40), padding=(1, 1, 1, 1), groups=40)
    y = g.add("clip", y, lo=0.0, hi=6.0)
    y = g.add("conv", y, param("d", 16, 40, 1, 1))
    g.output(g.add("add", x, y))
    images = rng.standard_normal((2, 16, 9, 7)).astype(np.float32)
    executable = compile(g, "cuda-emu", cache=False, precision=precision)
    kernels = [step.kernel for step in executable.plan.steps]
    assert kernels.count("depthwise") == 1 and "loops" not in kernels
    want = evaluate(g, [images], "f64")[0]
    assert np.abs(executable(images) - want).max() <= tolerance * np.abs(want).max()
