"""The CUDA templates for products: shapes, tiles and schedules on the emulator, and resources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_harness import needs_compiler, needs_nvrtc
from gemm_harness import SCHEDULES, TEMPLATES, conv, tiles

from cnnir import compile
from cnnir.backends.cuda import build_on
from cnnir.backends.cuda.build import compiled
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.kernels.gemm import Gemm
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.kernels.gemm_tensor import rounded
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.templates import offers
from cnnir.errors import BackendError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.tensortype import TensorType

GOLDEN = Path(__file__).parent / "golden" / "cuda"
TOLERANCE = 3e-6
"""Of sums in f32, relative to the largest value; compared after rounding operands."""

SHAPES = {
    "first layer": conv(2, 3, (19, 17), 10, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    "first layer, padded": conv(1, 4, (11, 9), 9, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    "3x3": conv(1, 20, (11, 13), 36, (3, 3), padding=(1, 1, 1, 1)),
    "pairs of channels": conv(1, 6, (9, 9), 7, (3, 3), padding=(1, 1, 1, 1)),
    "1x1": conv(3, 24, (10, 7), 70),
    "lopsided": conv(1, 16, (12, 9), 24, (2, 5), padding=(0, 2, 1, 1), dilation=(3, 2)),
    "strided 1x1": conv(2, 8, (9, 9), 12, stride=(2, 3)),
    "groups": conv(1, 32, (8, 8), 48, (3, 3), padding=(1, 1, 1, 1), groups=4),
    "pairs of groups": conv(1, 20, (5, 5), 20, (3, 3), padding=(1, 1, 1, 1), groups=2),
    "deep": conv(1, 160, (5, 5), 33, (3, 3), padding=(1, 1, 1, 1)),
    "all padding": conv(1, 4, (2, 2), 8, (3, 3), padding=(4, 4, 4, 4), stride=(3, 3)),
}


SERVED = [(n, t) for n, work in SHAPES.items() for t in TEMPLATES if not t.reject(work.spec)]


@pytest.mark.parametrize(
    ("name", "template"), SERVED, ids=lambda v: v if isinstance(v, str) else v.kind
)
def test_shapes(name: str, template: Gemm):
    """Each shape with a tile and a schedule in turn, so that all meet all over the shapes."""
    needs_compiler()
    number = list(SHAPES).index(name)
    every = list(tiles(template, splits=1 + number % 3))
    tile = every[number % len(every)]
    work = SHAPES[name]
    code = work.code(template, tile)
    assert work.run(template, code, *SCHEDULES[number % 4]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.kind)
@pytest.mark.parametrize("splits", [1, 3])
def test_every_shape_with_every_tile(splits: int, template: Gemm):
    needs_compiler()
    for number, work in enumerate(SHAPES.values()):
        if template.reject(work.spec):
            continue
        for tile in tiles(template, splits):
            code = work.code(template, tile)
            assert work.run(template, code, *SCHEDULES[number % 4]) < TOLERANCE


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_90a"])
def test_resources(arch: str):
    """No tile spills, and a multiprocessor's registers and shared memory hold a block of each."""
    needs_nvrtc()
    texts, launches = {}, {}
    for template in (t for t in TEMPLATES if runs_on(t, arch)):
        for number, tile in enumerate(tiles(template, splits=2)):
            name = f"{template.kind}_{number}"
            code = SHAPES["lopsided"].code(template, tile, name)
            texts[name] = code.text
            launches |= dict(code.launches)
    used = compiled(texts, arch).resources
    assert used.keys() == launches.keys()
    for name, launch in launches.items():
        assert not used[name].spilled_bytes, name
        assert used[name].registers * launch.threads <= 65536, name
        most = 227 << 10 if name.startswith("wgmma") else 99 << 10
        assert launch.shared_bytes <= most and launch.threads <= 1024, name


def runs_on(template: Gemm, arch: str) -> bool:
    """Whether the architecture has the template's instructions."""
    return arch == "sm_90a" or not template.kind.startswith("wgmma")


# ---- faults that the emulator must find, under one schedule at least

FAULTS = {
    "gemm_fma": {
        "no barrier after the first tile": ("  __syncthreads();\n#pragma", "#pragma"),
        "no barrier in the loop": ("put(buffer ^ 1);\n    __syncthreads();", "put(buffer ^ 1);"),
        "the buffer being read is filled": ("put(buffer ^ 1)", "put(buffer)"),
        "rows that are none": ("row >= ROWS || ", ""),
        "pixels outside": ("(unsigned)(left[i] + right) < (unsigned)W", "true"),
        "columns behind the last": (" || in_group >= KG", ""),
        "a bias of other columns": ("(bias + column)", "(bias)"),
    },
    "gemm_tf32": {"operands that are not rounded": ("a[i][e] = cn_tf32(a[i][e])", "a[i][e] += 0")},
    "gemm_f16": {
        "no barrier in the loop": ("    __syncthreads(); ", "    "),
        "a wait too short": ("cn_wait_groups<STAGES - 2>", "cn_wait_groups<STAGES - 1>"),
        "no end of a group": ("    cn_end_group();\n  }\n  int", "  }\n  int"),
        "a stage that is being read is filled": ("filled = STAGES - 1", "filled = 0"),
        "rows permuted otherwise": ("lane % 16, 2 * k", "lane % 16, 1 ^ 2 * k"),
        "rows that are not permuted": ("chunk ^ (row & 7)", "chunk"),
        "pixels outside": ("(unsigned)(top[i] + down) < (unsigned)H", "true"),
        "half a warp multiplies": ("    cn_multiply_", "    if (lane < 16) cn_multiply_"),
        "a misaligned row": ("place(column, 2 * k", "2 + place(column, 2 * k"),
        "rows that are none": ("row >= ROWS || ", ""),
        "the wrong operands": ("cn_multiply_f16", "cn_multiply_bf16"),
        "sums over tiles that are read": ("  __syncthreads();  // nobody", "  // nobody"),
        "sums that are taken too early": ("    __syncwarp();\n#pragma", "#pragma"),
        "sums that are replaced too early": ("    __syncwarp();\n  }\n}", "  }\n}"),
    },
    "wgmma_f16": {
        "no barrier in the loop": ("    __syncthreads();  // it", "    // it"),
        "a wait too short": ("cn_wait_groups<AHEAD - 1>", "cn_wait_groups<AHEAD>"),
        "copies that are not shown": ("    cn_show_copies();\n", ""),
        "copies shown too late": (
            "    cn_show_copies();\n    __syncthreads(); ",
            "    __syncthreads(); cn_show_copies();",
        ),
        "a wait for products too short": ("cn_wait_products<1>", "cn_wait_products<2>"),
        "no wait for the last products": ("  cn_wait_products<0>();\n", ""),
        "products that nobody ends": ("    cn_end_products();\n", ""),
        "products that nobody begins": ("    cn_begin_products();\n", ""),
        "a stage that is being multiplied is filled": ("AHEAD = STAGES - 2", "AHEAD = STAGES - 1"),
        "rows that are not permuted": ("chunk ^ (row & 7)", "chunk"),
        "the rows of another warpgroup": (" + warp / 4 * 64 * ROW", ""),
        "half a warpgroup multiplies": ("      cn_products_", "      if (warp < 2) cn_products_"),
        "rows that differ by warp": ("cn_rows(ws + 32 * k)", "cn_rows(ws + 32 * (k ^ warp & 1))"),
        "the wrong operands": ("cn_products_f16", "cn_products_bf16"),
        "rows that are none": ("row >= ROWS || ", ""),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, faults in FAULTS.items() for fault in faults]
)
def test_faults_are_found(kind: str, fault: str):
    needs_compiler()
    template = next(t for t in TEMPLATES if t.kind == kind)
    work = SHAPES["3x3"]
    if "of other columns" in fault or "sums over tiles" in fault:
        work = SHAPES["1x1"]  # one tile of terms, several of columns
    elif "behind" in fault:
        work = conv(1, 8, (5, 5), 20)
    elif kind == "wgmma_f16":  # more tiles of terms than stages, rows for two warpgroups
        work = conv(1, 48, (13, 11), 40, (3, 3), padding=(1, 1, 1, 1))
    rows = 128 if kind == "wgmma_f16" else 64
    tile = next(t for t in tiles(template) if (t.bm, t.bn) == (rows, 64))
    code = work.code(template, tile)
    right, wrong = FAULTS[kind][fault]
    assert right in code.text
    broken = type(code)(code.text.replace(right, wrong, 1), code.launches, code.scratch_bytes)
    found = []
    for schedule in SCHEDULES:
        try:
            found.append(not work.run(template, broken, *schedule) < TOLERANCE)
        except (BackendError, AssertionError):
            found.append(True)
    assert any(found)


@pytest.mark.parametrize("name", ["3x3", "pairs of channels", "1x1"])
def test_results_of_16_bits(name: str):
    """Sums are rounded once, when they are stored, split or not."""
    needs_compiler()
    template, work = TEMPLATES[2], SHAPES[name]
    for splits in (1, 2):
        tile = list(tiles(template, splits))[2]
        code = work.code(template, tile, storage="f16")
        assert "cn_to_f16" in code.text
        assert work.run(template, code, storage="f16") < 2.0**-11


@pytest.mark.parametrize("template", [*TEMPLATES[:3], TEMPLATES[4]], ids=lambda t: t.kind)
def test_golden_text(template: Gemm, request: pytest.FixtureRequest):
    code = SHAPES["3x3"].code(template, next(tiles(template, splits=2)), template.kind)
    file = GOLDEN / f"{template.kind}.cu"
    if request.config.getoption("--update-golden"):
        file.write_text(code.text, "utf-8")
    assert code.text == file.read_text("utf-8")


# ---- plans


def product_graph(*types: str, **attrs: object) -> Graph:
    """y = relu(x @ w + r) of inputs."""
    g = Graph()
    x, w = (g.input(TensorType.parse(t), f"i{k}") for k, t in enumerate(types))
    y = g.add("matmul", x, w)
    g.output(g.add("relu", g.add("add", y, g.input(y.type, "r"))))
    return g


@pytest.mark.parametrize(
    "types",
    [
        ("f32[37,50]", "f32[50,70]"),
        ("f32[3,17,20]", "f32[3,20,9]"),
        ("f32[2,5,17,8]", "f32[8,12]"),
        ("f32[17,8]", "f32[4,8,6]"),
    ],
)
@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 2e-6), ("tf32", 2e-3)])
def test_matmul_of_inputs_with_an_epilogue(
    types: tuple[str, str], precision: str, tolerance: float
):
    """Tensor cores read the second operand by rows of whole chunks of 16 bytes."""
    needs_compiler()
    g = product_graph(*types)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in g.inputs]
    executable = compile(g, "cuda-emu", cache=False, precision=precision)
    chunks = g.inputs[1].type.shape[-2] % 4 == 0
    wanted = ["pack", "gemm_tf32"] if precision == "tf32" and chunks else ["gemm_fma"]
    assert [step.kernel for step in executable.plan.steps] == wanted
    want = evaluate(g, [a.astype(np.float64) for a in arrays], "f64")[0]
    assert np.abs(executable(*arrays) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("exact", 2e-6), ("tf32", 2e-3), ("bf16", 2e-2)]
)
@pytest.mark.parametrize(
    ("x", "w", "attrs"),
    [
        ("f32[2,3,9,8]", "f32[16,3,3,3]", {"padding": (1, 1, 1, 1), "stride": (2, 1)}),
        ("f32[1,16,7,6]", "f32[24,16,3,3]", {"dilation": (1, 2)}),
        ("f32[1,16,20]", "f32[8,16,5]", {}),
        ("f32[1,6,5,5]", "f32[7,6,1,1]", {}),
    ],
)
def test_weights_of_run_time(x: str, w: str, attrs: dict, precision: str, tolerance: float):
    """As training has them: a step inside the graph puts them in the order of the template."""
    needs_compiler()
    g = Graph()
    y = g.add("conv", *(g.input(TensorType.parse(t), n) for t, n in ((x, "x"), (w, "w"))), **attrs)
    g.output(g.add("relu", y))
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in g.inputs]
    executable = compile(g, "cuda-emu", cache=False, precision=precision)
    kernels = [step.kernel for step in executable.plan.steps]
    assert kernels.count("gemm_fma" if precision == "exact" else f"gemm_{precision}") == 1
    assert "loops" not in kernels
    for _ in range(2):
        want = evaluate(g, [a.astype(np.float64) for a in arrays], "f64")[0]
        assert np.abs(executable(*arrays) - want).max() <= tolerance * np.abs(want).max()
        arrays[1] = -arrays[1]


def residual_net() -> Graph:
    """Three convolutions, a residual and a fully connected layer; one convolution is depthwise."""
    rng = np.random.default_rng(2)
    g = Graph()

    def param(name: str, *shape: int):
        scale = max(1.0, np.prod(shape[1:])) ** 0.5
        return g.param(name, (rng.standard_normal(shape) / scale).astype(np.float32))

    x = g.input(TensorType("f32", (2, 3, 12, 10)), "x")
    y = g.add("relu", g.add("conv", x, param("a", 24, 3, 3, 3), padding=(1, 1, 1, 1)))
    z = g.add("relu", g.add("conv", y, param("f", 24, 24, 1, 1)))
    z = g.add("conv", z, param("b", 24, 24, 3, 3), param("c", 24), padding=(1, 1, 1, 1))
    y = g.add("relu", g.add("add", z, y))
    y = g.add("conv", y, param("d", 24, 1, 3, 3), padding=(1, 1, 1, 1), groups=24)
    y = g.add("reduce_mean", y, axes=(2, 3), keepdims=True)
    g.output(g.add("matmul", g.add("reshape", y, shape=(2, 24)), param("e", 24, 7)))
    return g


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("exact", 2e-6), ("tf32", 2e-3), ("f16", 2e-3), ("bf16", 2e-2)]
)
def test_a_net_keeps_channels_last(precision: str, tolerance: float):
    needs_compiler()
    g = residual_net()
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 10)).astype(np.float32)
    executable = compile(g, "cuda-emu", cache=False, precision=precision)
    steps = executable.plan.steps
    kind = "gemm_fma" if precision == "exact" else f"gemm_{precision}"
    short = f" {precision}" if precision in ("f16", "bf16") else ""
    kernels = [step.kernel for step in steps]
    assert kernels == ["pack", kind, kind, kind, "depthwise", "loops", kind]
    assert [step.layout for step in steps] == [f"channels last{short}"] * 6 + ["plain"]
    assert "add" in steps[3].op and "relu" in steps[3].op
    want = evaluate(g, [x], "f64")[0]
    assert np.abs(executable(x) - want).max() <= tolerance * np.abs(want).max()
    assert any("groups of 1 to 1" in reason for reason in steps[4].rejected)


def test_few_rows_are_split_and_give_the_same_bits_again():
    needs_compiler()
    target = CudaTarget("sm_90")
    spec = conv(1, 512, (7, 7), 512, (3, 3), padding=(1, 1, 1, 1)).spec
    for template in TEMPLATES:
        tile, seconds = template.choose(spec, target)
        assert tile.splits > 1 and 0 < seconds < 1e-3
        many, _ = template.choose(
            conv(64, 64, (56, 56), 256, (3, 3), padding=(1, 1, 1, 1)).spec, target
        )
        assert many.splits == 1 and many.bm == 128 <= many.bn


def test_rounding_to_tf32():
    step = 2.0**-10
    given = np.array([1 + step / 2, 1 + step / 2.01, -1 - step / 2, np.inf, np.nan, 0], np.float32)
    wanted = np.array([1 + step, 1, -1 - step, np.inf, np.nan, 0], np.float32)
    np.testing.assert_array_equal(rounded(given), wanted)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (GemmSpec(0, 4, (5, 5), 4, (5, 5)), "nothing"),
        (GemmSpec(1 << 20, 4096, (1, 1), 4, (1, 1)), "32 bits count in x"),
        (GemmSpec(1, 8, (5, 5), 8, (5, 5), groups=8), "groups of 1 to 1"),
        (GemmSpec(1, 8, (1, 1), 8, (1, 1), batch=70000), "more groups than a grid"),
    ],
)
def test_what_is_rejected(spec: GemmSpec, reason: str):
    assert reason in (spec.reject() or "")
    assert all(template.reject(spec) == spec.reject() for template in TEMPLATES)


def test_warpgroups_are_for_large_tiles_of_sm_90a():
    large = conv(32, 256, (28, 28), 256, (3, 3), padding=(1, 1, 1, 1))
    small = conv(1, 32, (5, 5), 32)
    for work, arch, kind in (
        (large, "sm_90a", "wgmma_f16"),
        (large, "sm_90", "gemm_f16"),
        (small, "sm_90a", "gemm_f16"),
    ):
        g = Graph()
        x, w, _ = (v.type for v in work.node.operands)
        weights = g.param("w", np.ones(w.shape, np.float32))
        y = g.add("conv", g.input(x, "x"), weights, **work.node.attrs)
        g.output(y)
        found, _ = offers(g, y.node, CudaTarget(arch, "f16"))
        assert found[0].kind == kind and len(found) == 1 + (arch == "sm_90a")


def test_a_net_on_warpgroups():
    needs_compiler()
    rng = np.random.default_rng(7)
    g = Graph()
    x = g.input(TensorType("f32", (1, 16, 20, 20)), "x")
    a, b = (rng.standard_normal((128, c, k, k)) / k / c**0.5 for c, k in ((16, 3), (128, 1)))
    y = g.add("conv", x, g.param("a", a.astype(np.float32)), padding=(1, 1, 1, 1))
    z = g.add("conv", g.add("relu", y), g.param("b", b.astype(np.float32)))
    g.output(g.add("tanh", g.add("add", y, z)))
    program = build_on(g, Emulator(arch="sm_90a"), "f16")
    assert [step.kernel for step in program.plan.steps].count("wgmma_f16") == 2
    images = rng.standard_normal((1, 16, 20, 20)).astype(np.float32)
    want = evaluate(g, [images.astype(np.float64)], "f64")[0]
    assert np.abs(program.run([images])[0] - want).max() <= 2e-3 * np.abs(want).max()


def test_odd_channels_of_16_bits_are_rejected():
    odd = conv(1, 5, (4, 4), 8).spec
    assert [bool(t.reject(odd)) for t in TEMPLATES] == [False, False, True, True, True, True]
