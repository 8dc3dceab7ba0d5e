"""FFT convolution: the kernel over shapes, borders and widths, and when it is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import LANES, TARGETS, Guarded, packed_in_place, padded_bias, run_kernel
from kernel_references import conv_reference

import cnnir
import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm import target
from cnnir.backends.llvm.kernels import fft_conv
from cnnir.backends.llvm.kernels.fft_tiling import Geometry, Tiling
from cnnir.backends.llvm.kernels.spec import ConvSpec, Target

TOLERANCE = 1e-6


def fft_error(spec: ConvSpec, tiling: Tiling | None = None) -> float:
    """The largest error of the kernel, relative to the largest result."""
    rng = np.random.default_rng(7)
    tiling = tiling or fft_conv.choose(spec, TARGETS[spec.lanes])
    x = rng.standard_normal((spec.batch, spec.channels, *spec.sizes), dtype=np.float32)
    shape = (spec.filters, spec.channels // spec.groups, *spec.kernel)
    w = rng.standard_normal(shape, dtype=np.float32)
    packed = packed_in_place(fft_conv, w, spec, tiling)
    operands, bias = [Guarded(x.shape, x), Guarded(packed.shape, packed)], None
    if spec.bias:
        bias, buffer = padded_bias(rng, spec.filters, spec.lanes)
        operands.append(buffer)
    code = fft_conv.emit(ir.Module(), "kernel", spec, tiling)
    wanted = conv_reference(x, w, bias, spec)
    y = Guarded(wanted.shape)
    run_kernel(code, operands, y)
    return abs(y.array - wanted).max() / abs(wanted).max()


def spec_of(channels, filters, sizes, kernel, padding, groups=1, dilation=1, batch=1, **more):
    """Stride 1, the same padding on all sides unless it is a tuple."""
    rank = len(sizes)
    around = padding if isinstance(padding, tuple) else (padding,) * 2 * rank
    fields = (sizes, kernel, (1,) * rank, (dilation,) * rank, around, groups)
    return ConvSpec(batch, channels, filters, *fields, **{"plain": True, **more})


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    "case",
    [
        ((1, 1, (17, 31), (31, 5), 15), {"bias": True}),
        ((3, 3, (31, 33), (7, 9), (3, 2, 4, 1), 3), {"batch": 2}),
        ((4, 6, (33, 17), (3, 7), 4, 2, 3), {"bias": True}),
        ((2, 3, (1, 97), (1, 63), (0, 31, 0, 31)), {}),
        ((2, 4, (97,), (17,), (16, 3), 2, 2), {"batch": 2, "bias": True}),
        ((5, 3, (31,), (31,), 15), {}),
    ],
    ids=str,
)
def test_fft_convolution_agrees_with_the_definition(case, lanes: int) -> None:
    spec = spec_of(*case[0], **case[1], lanes=lanes)
    assert fft_conv.reject(spec) is None
    assert fft_error(spec) < TOLERANCE


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tile", [(16, 16), (16, 32), (48, 48), None])
@pytest.mark.parametrize(
    "words",
    [
        ("circular",) * 2,
        ("reflect",) * 2,
        ("replicate", "zero"),
        ("zero", "circular"),
        ("reflect",),
    ],
    ids="-".join,
)
def test_what_lies_beyond_the_border(words, tile, lanes: int) -> None:
    """Of several tiles, of one, and with as much padding as image; rows narrower than a vector."""
    sizes, kernel = ((29, 11), (9, 7)) if len(words) == 2 else ((97,), (31,))
    most = [9 if word == "reflect" else 11 for word in words]
    padding = tuple(min(p, limit) for p, limit in zip((4, 3, 8, 11), most * 2, strict=False))
    spec = spec_of(2, 2, sizes, kernel, padding[: 2 * len(words)], bias=True, lanes=lanes)
    spec = replace(spec, boundary=words)
    assert fft_conv.reject(spec) is None
    chosen = None if tile is None or tile[0] % lanes or tile[1] % lanes else Tiling(*tile, 1)
    assert fft_error(spec, chosen) < TOLERANCE


@pytest.mark.parametrize(
    "tile", [(16, 16), (8, 40), (40, 24), (24, 64), (9, 21), (36, 25), (6, 14), (21, 70)]
)
@pytest.mark.parametrize("chunk", [1, 3])
def test_every_fft_tiling_computes_the_same(tile: tuple[int, int], chunk: int) -> None:
    """Tiles with results at their ends only, tiles larger than the image, wrapped ones; sides that
    are no multiple of the lanes, and less than them."""
    spec = spec_of(2, 6, (29, 23), (9, 7), (4, 0, 2, 5), bias=True, lanes=8)
    assert fft_error(spec, Tiling(*tile, chunk)) < TOLERANCE


@pytest.mark.parametrize("tile", [(8, 8), (16, 24)])
def test_a_long_signal_is_cut_into_tiles(tile: tuple[int, int]) -> None:
    spec = spec_of(2, 2, (1000,), (33,), 7, 2, lanes=8)
    tiling = Tiling(*tile, 1)
    assert Geometry(spec, tiling).tiles > 1
    assert fft_error(spec, tiling) < TOLERANCE


def test_one_tile_wraps_around_onto_padding() -> None:
    """A tile of 48 pixels does where results see 61: the others are zeros."""
    spec = spec_of(1, 1, (31, 31), (31, 31), 15, lanes=8)
    tiling = Tiling(24, 48, 1)
    assert [(cut.results, cut.tiles) for cut in Geometry(spec, tiling).cuts] == [(31, 1)] * 2
    assert fft_error(spec, tiling) < TOLERANCE
    unpadded = Geometry(spec_of(1, 1, (61, 61), (31, 31), 0, lanes=8), tiling)
    assert [(cut.results, cut.tiles) for cut in unpadded.cuts] == [(16, 2)] * 2


SHORT = {
    # second axis: size, taps, padding on both sides, dilation; columns of the tile
    "same": (17, 9, (4, 4), 1, 24),
    "one pixel": (17, 9, (4, 3), 1, 24),
    "as far as it goes": (31, 17, (16, 16), 1, 48),
    "dilated": (33, 5, (7, 6), 3, 40),
    "all behind": (16, 9, (0, 8), 1, 16),
    "no multiple of the lanes": (29, 9, (4, 4), 1, 35),
}


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("word", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("name", SHORT)
def test_a_tile_may_be_too_short_for_its_last_results(name: str, word: str, lanes: int) -> None:
    """Along the second axis; any boundary along the first one."""
    size, taps, (begin, end), dilation, columns = SHORT[name]
    for other, shape in (("zero", (1, 1, 1)), ("reflect", (6, 4, 2)), (word, (3, 3, 3))):
        channels, filters, groups = shape
        spec = ConvSpec(
            2, channels, filters, (21, size), (7, taps), (1, 1), (2, dilation),
            (3, begin, 4, end), groups, plain=True, bias=True, lanes=lanes,
            boundary=(other, word),
        )  # fmt: skip
        assert fft_conv.reject(spec) is None
        g = Geometry(spec, Tiling(30, columns, 1))
        seen = g.axes[1].span(g.axes[1].out)
        fits = columns >= seen or (word == "circular" and columns == size)
        assert g.cuts[1].tiles == 1 and g.short == (0 if fits else seen - columns)
        assert fft_error(spec, g.tiling) < TOLERANCE


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("other", ["zero", "circular", "replicate"])
@pytest.mark.parametrize("first", [True, False])
def test_a_circular_image_is_a_tile_of_its_own_size(first: bool, other: str, lanes: int) -> None:
    """Along either axis, without any margin, and with as many taps as pixels; not where results
    are more than pixels."""
    for taps, begin, end in ((31, 15, 15), (32, 0, 31), (3, 1, 1), (5, 5, 1)):
        axes = [(32, taps, (begin, end), "circular"), (19, 5, (1, 2), other)]
        sizes, kernel, padding, words = zip(*(axes if first else axes[::-1]), strict=True)
        around = (padding[0][0], padding[1][0], padding[0][1], padding[1][1])
        spec = spec_of(
            4, 4, sizes, kernel, around, 2, batch=2, bias=True, lanes=lanes, boundary=words
        )
        exact = Geometry(spec, Tiling(16, 27, 2) if first else Tiling(12, 32, 2))
        fits, axis = taps != 5, 0 if first else 1
        assert (exact.cuts[axis].tiles == 1) == fits
        assert (exact.rows == 17) == (first and fits)
        assert fft_error(spec, exact.tiling) < TOLERANCE
        chosen = Geometry(spec, fft_conv.choose(spec, TARGETS[lanes]))
        assert taps < 31 or chosen.sides[axis] == 32


def test_only_a_circle_of_its_size_wraps_around_the_first_axis() -> None:
    for size, word in ((32, "zero"), (32, "reflect"), (30, "circular"), (44, "circular")):
        spec = spec_of(1, 1, (size, 19), (31, 5), (15, 2, 15, 2), boundary=(word, word), lanes=4)
        rows = 22 if size == 44 else 16
        assert Geometry(spec, Tiling(rows, 24, 1)).rows == rows
        assert fft_error(spec) < TOLERANCE


def test_borders_need_no_larger_tile_than_zeros() -> None:
    """31x31 on 128x128: 144 columns do for zeros, reflected and replicated pixels; 128 on a circle.
    A short axis, a first one, and one that is cut in tiles have no results to correct."""
    zeros = spec_of(8, 8, (128, 128), (31, 31), 15, 8)
    columns = {}
    for word in ("zero", "circular", "reflect", "replicate"):
        spec = replace(zeros, boundary=(word, word))
        g = Geometry(spec, fft_conv.choose(spec, TARGETS[16]))
        columns[word] = g.tiling.columns, g.short
    assert columns == {
        "zero": (144, 0), "circular": (128, 0), "reflect": (144, 14), "replicate": (144, 14),
    }  # fmt: skip
    first = replace(zeros, boundary=("reflect", "zero"))
    assert Geometry(first, Tiling(72, 144, 1)).short == 0
    assert Geometry(first, Tiling(72, 144, 1)).cuts[0].tiles == 2
    tiles = replace(zeros, boundary=("zero", "reflect"))
    assert Geometry(tiles, Tiling(72, 80, 1)).short == 0
    line = spec_of(1, 1, (128,), (31,), 15, boundary=("reflect",))
    assert (
        Geometry(line, Tiling(4, 18, 1)).short == 0 and Geometry(line, Tiling(4, 18, 1)).tiles > 1
    )


def test_a_kernel_much_larger_than_its_image() -> None:
    """17 pixels, 61 taps: a tile of 48 would do for what is not zero, but holds no kernel."""
    spec = spec_of(1, 1, (17, 17), (61, 61), 30, lanes=8)
    assert Geometry(spec, Tiling(24, 64, 1)).cuts[0].tiles == 0
    assert fft_error(spec) < TOLERANCE


def test_half_the_lanes_where_they_waste_less() -> None:
    """72 rows of 36 complex values are 48 lanes of 16, or 40 of 8."""
    halving = Target(fmas=1, halved=16)
    wasteful = spec_of(8, 8, (56, 56), (15, 15), 7, 8, boundary=("reflect", "reflect"))
    for threads in (1, 2, 5):
        assert fft_conv.fitted(wasteful, replace(halving, threads=threads)).lanes == 8
    assert fft_conv.fitted(wasteful, Target()) == wasteful
    narrow = replace(wasteful, lanes=8)
    assert fft_conv.fitted(narrow, halving) == narrow
    zeros = replace(wasteful, boundary=())  # 64 by 64: whole vectors either way
    assert fft_conv.fitted(zeros, halving) == zeros


def test_threads_do_not_decide_how_fft_rounds() -> None:
    for sizes, kernel in (((56, 56), (31, 31)), ((4000,), (500,))):
        spec = spec_of(16, 64, sizes, kernel, 15)
        tilings = [fft_conv.choose(spec, Target(threads=threads)) for threads in (1, 2, 5, 16)]
        assert len({(tiling.rows, tiling.columns) for tiling in tilings}) == 1
        assert len({tiling.chunk for tiling in tilings}) > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": (2, 1)}, "stride (2, 1)"),
        ({"plain": False}, "not row-major"),
        ({"kernel": (3, 3)}, "9 taps, too few"),
        ({"sizes": (1, 1)}, "an empty result"),
        ({"sizes": (1500, 1500), "kernel": (3, 1200)}, "no tile fits the kernel"),
        ({"channels": 1024, "filters": 1024}, "the memory for its weights"),
        ({"padding": (0, 32, 0, 0), "boundary": ("zero", "circular")}, "goes round circular more"),
        ({"sizes": (9, 9, 9), "kernel": (5, 5, 5)}, "3 spatial axes"),
    ],
)
def test_fft_convolution_says_what_it_does_not_take(changes, words: str) -> None:
    spec = spec_of(1, 1, (31, 31), (9, 9), 0)
    assert fft_conv.reject(spec) is None
    assert words in fft_conv.reject(replace(spec, **changes))


# ---- in a graph


def layer(channels: int, filters: int, size: int, k: int, more: str = "", groups: int = 1) -> str:
    shape = f"1,{filters},{size},{size}"
    attributes = f"padding=({', '.join([str(k // 2)] * 4)}), groups={groups}{more}"
    return f"""\
graph @g(%x: f32[1,{channels},{size},{size}], %r: f32[{shape}]) {{
  param @w : f32[{filters},{channels // groups},{k},{k}]
  param @b : f32[{filters}]
  %0 = conv(%x, @w, @b) {{{attributes}}} : f32[{shape}]
  %1 = add(%0, %r) : f32[{shape}]
  %y = relu(%1) : f32[{shape}]
  return %y
}}"""


def run(graph: cnnir.Graph, **options):
    """(kernels, results, results in f64, reasons of the convolution)."""
    rng = np.random.default_rng(6)
    inputs = [rng.standard_normal(v.type.shape, dtype=np.float32) for v in graph.inputs]
    exe = cnnir.compile(graph, **options)
    wanted = cnnir.evaluate(graph, inputs, dtype="f64")[0]
    steps = exe.plan.steps
    (step,) = [step for step in steps if "conv" in step.op]
    return step, exe(*inputs), wanted


@pytest.mark.parametrize("features", ["", "avx2", "sse2"])
@pytest.mark.parametrize("shape", [(1, 1, 97, 31), (20, 20, 17, 13, "", 20), (6, 4, 31, 17)])
def test_large_kernels_are_served_by_fft(shape, features: str) -> None:
    """With a bias and a residual in the store; the same bits on two threads as on one."""
    served_by_fft(layer(*shape), features)


@pytest.mark.parametrize("features", ["", "avx2", "sse2"])
@pytest.mark.parametrize("word", ["circular", "reflect", "replicate"])
def test_one_tile_serves_a_bordered_image(word: str, features: str) -> None:
    """Results that are corrected have a bias, a residual and two threads like all others."""
    for words in ((word, word), ("zero", word), (word, "zero")):
        boundary = ", boundary=('{}', '{}')".format(*words)
        served_by_fft(layer(5, 5, 48, 19, boundary, groups=5), features)


def test_half_the_lanes_among_whole_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of 16 channels before it in blocks of 16; a bias, a residual and a relu behind."""
    host = target.CpuTarget.host("")
    if host.lanes < 16:
        pytest.skip("needs AVX-512")
    monkeypatch.setattr(target, "HALVING", (host.cpu,))
    text = layer(16, 16, 56, 15, ", boundary=('reflect', 'replicate')", groups=16)
    before = "  %z = conv(%x, @v) {padding=(1, 1, 1, 1)} : f32[1,16,56,56]\n  %0 = conv(%z,"
    text = text.replace("  param @w", "  param @v : f32[16,16,3,3]\n  param @w", 1)
    graph = cnnir.parse(text.replace("  %0 = conv(%x,", before), seed=5)
    rng = np.random.default_rng(6)
    inputs = [rng.standard_normal(v.type.shape, dtype=np.float32) for v in graph.inputs]
    exe = cnnir.compile(graph)
    (summary,) = [step.summary for step in exe.plan.steps if step.kernel == "fft_conv"]
    assert "on 8 lanes" in summary and "16 lanes" in exe.plan.target
    wanted = cnnir.evaluate(graph, inputs, dtype="f64")[0]
    assert abs(exe(*inputs) - wanted).max() < 1e-5 * abs(wanted).max()


def served_by_fft(text: str, features: str) -> None:
    """Compiled right, with the same bits on two threads as on one."""
    graph = cnnir.parse(text, seed=5)
    results = []
    for threads in (1, 2):
        step, found, wanted = run(graph, threads=threads, features=features or None)
        assert step.kernel == "fft_conv" and "predicted" in step.reason and step.rejected
        assert abs(found - wanted).max() < TOLERANCE * abs(wanted).max()
        results.append(found)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            layer(1, 1, 97, 31),
            {"precision": "exact"},
            "fft_conv: it rounds differently, and precis",
        ),
        (layer(64, 64, 28, 3), {}, "fft_conv: 9 taps, too few"),
        (layer(128, 128, 9, 5), {}, "fft_conv: predicted"),
        (layer(1, 1, 7, 5), {}, "fft_conv: 0.00 MFLOP, too few to gain from"),
    ],
)
def test_fft_does_not_serve(text: str, options, words: str) -> None:
    step, found, wanted = run(cnnir.parse(text, seed=5), **options)
    assert step.kernel != "fft_conv"
    assert any(reason.startswith(words) for reason in step.rejected), step.rejected
    assert abs(found - wanted).max() < 1e-5 * abs(wanted).max()
