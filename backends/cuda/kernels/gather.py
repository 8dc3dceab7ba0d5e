"""CUDA C that all products share: which elements of x a thread copies, and where results go.

The text knows the constants of `GemmSpec` and of a tile: BM rows, BN columns, BK terms, COPIES_X
rows a thread, ROW_STEP rows apart, each time VX channels from term `term_x` of the tile on; SPLITS
parts of every sum, TILES_K tiles of terms, TILES_A_SPLIT of them in a part; PIECE neighbouring sums
that a thread finishes at once. `{stored}` is what of them goes to y.
"""

from __future__ import annotations

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.operations import storage_type

ROWS = """\
  const int tile_n = blockIdx.x % TILES_N, tile_m = blockIdx.x / TILES_N;
  const int group = blockIdx.y % GROUPS, matrix = blockIdx.y / GROUPS;
  const int first = blockIdx.z * TILES_A_SPLIT;
  const int last = first + TILES_A_SPLIT < TILES_K ? first + TILES_A_SPLIT : TILES_K;
  if (!SHARED_X) x += (long long)matrix * (IMAGES * H * W * C);
  const int thread = threadIdx.x;
  const int row_x = thread / (BK / VX), term_x = thread % (BK / VX) * VX;
  int base[COPIES_X], top[COPIES_X], left[COPIES_X];
#pragma unroll
  for (int i = 0; i < COPIES_X; ++i) {
    const int row = tile_m * BM + row_x + i * ROW_STEP;
    const bool real = row < ROWS && row_x + i * ROW_STEP < BM;
    const int image = real ? row / (OUT_H * OUT_W) : 0, position = row % (OUT_H * OUT_W);
    const int y_top = real ? position / OUT_W * STRIDE_H - TOP : 0;
    left[i] = position % OUT_W * STRIDE_W - LEFT;
    base[i] = ((image * H + y_top) * W + left[i]) * C + group * CG;
    top[i] = real ? y_top : -(1 << 24);  // no tap of it is inside
  }
"""

TERM = """\
    const int term = tile * BK + term_x;
    const int tap = TAPS == 1 ? 0 : term / CG, channel = TAPS == 1 ? term : term % CG;
    const int down = tap / S * DILATION_H, right = tap % S * DILATION_W;
    const int step = (down * W + right) * C + channel;
"""

INSIDE = """\
term < DEPTH && (unsigned)(top[i] + down) < (unsigned)H &&
                          (unsigned)(left[i] + right) < (unsigned)W"""

RESULTS = """\
  auto finish = [&](int row, int in_group, const cn_several<float, PIECE>& sums) {{
    if (row >= ROWS || in_group >= KG) return;  // all of a piece is in the group, or nothing
    const int column = group * KG + in_group;
    if constexpr (SPLITS > 1) {{
      const long long part = ((long long)blockIdx.z * BATCH + matrix) * ROWS + row;
      cn_write((float*)scratch + part * K + column, sums);
    }} else {{
      const int of_all = {of_all};
      cn_write(y + (long long)of_all * K + column, {stored});
    }}
  }};
"""


def signature(epilogue: Epilogue, x: str, w: str) -> list[str]:
    """The parameters of all kernels of a product whose operands are stored as such types."""
    return [
        *("int* error", "unsigned char* scratch"),
        f"const {storage_type(x or 'f32')}* __restrict__ x",
        f"const {storage_type(w or 'f32')}* __restrict__ w",
        *epilogue.parameters,
        f"{storage_type(epilogue.stored)}* __restrict__ y",
    ]


def piece(spec: GemmSpec, epilogue: Epilogue, widest: int) -> int:
    """Neighbouring results that a thread stores at once: 16 bytes of them at most."""
    most = min(widest, epilogue.together)
    return next(n for n in (8, 4, 2, 1) if n <= most and spec.group_filters % n == 0)


def results(name: str, spec: GemmSpec, epilogue: Epilogue) -> str:
    """`finish(row, column in the group, sums)`."""
    of_all = row_of_all(spec, "row") if spec.phase else "matrix * ROWS + row"
    stored = epilogue.call(name, "sums", "of_all", "column")
    return RESULTS.format(of_all=of_all, stored=stored)


def row_of_all(spec: GemmSpec, row: str) -> str:
    """Which row of y a row of the product is."""
    if spec.phase is None:
        return row
    (height, width), (_, columns) = spec.out, spec.phase.sizes
    (first_i, first_j), (down, right) = spec.phase.first, spec.phase.stride
    image, i, j = f"{row} / {height * width}", f"{row} / {width} % {height}", f"{row} % {width}"
    i = f"({image} * {spec.phase.sizes[0]} + {i} * {down} + {first_i})"
    return f"{i} * {columns} + {j} * {right} + {first_j}"


def term_of_all(spec: GemmSpec, term: str) -> str:
    """Which term of w's a term of the product is."""
    if spec.phase is None:
        return term
    (tap_i, tap_j), (down, right) = spec.phase.tap, spec.phase.step
    columns, channels = max(1, spec.kernel[1]), spec.group_channels
    i = f"({tap_i} + {term} / {channels * columns} * {down})"
    tap = f"({i} * {spec.phase.kernel[1]} + {tap_j} + {term} / {channels} % {columns} * {right})"
    return f"{tap} * {channels} + {term} % {channels}"


def constants(values: dict[str, int]) -> str:
    """A declaration of constants."""
    return ",\n                ".join(f"{name} = {value}" for name, value in values.items())
