"""ONNX operators that only move elements: reshaping, slicing, joining, padding, repeating."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.ir import Value

Ints = Sequence[int]


@onnx_op("Reshape")
def reshape(b: Builder, x: Value, target: Value, *, allowzero: int = 0) -> Value:
    """x in a shape given by a constant; 0 copies a dimension, one -1 is worked out."""
    wanted = list(b.ints(target, "shape"))
    if any(d < -1 for d in wanted) or wanted.count(-1) > 1:
        b.reject(f"shape {wanted} has an invalid negative dimension, wanted at most one -1")
    if allowzero and 0 in wanted and -1 in wanted:
        b.reject(f"shape {wanted} has both 0 and -1 with allowzero=1")
    if not allowzero:
        for axis, d in enumerate(wanted):
            if d == 0 and axis >= x.type.rank:
                b.reject(f"shape {wanted} copies dimension {axis} of rank {x.type.rank}")
        wanted = [x.type.shape[axis] if d == 0 else d for axis, d in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(d for d in wanted if d != -1)
        if not known or x.type.size % known:
            b.reject(f"{x.type.size} elements do not divide into the shape {wanted}")
        wanted[wanted.index(-1)] = x.type.size // known
    if math.prod(wanted) != x.type.size:
        b.reject(f"{x.type.size} elements do not fit the shape {wanted}")
    return b.reshape(x, wanted)


@onnx_op("Flatten")
def flatten(b: Builder, x: Value, *, axis: int = 1) -> Value:
    """x as a matrix: the axes before `axis`, and the rest."""
    rank, shape = x.type.rank, x.type.shape
    b.require(-rank <= axis <= rank, f"axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return b.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@onnx_op("Squeeze")
def squeeze(b: Builder, x: Value, given: Value | None = None, *, axes: Ints | None = None) -> Value:
    """x without some of its axes of size 1; without all of them by default."""
    shape = x.type.shape
    axes = b.ints(given, "axes") if given is not None else axes
    dropped = (
        b.axes(axes, len(shape)) if axes is not None else [a for a, d in enumerate(shape) if d == 1]
    )
    if any(shape[a] != 1 for a in dropped):
        b.reject(f"axes {list(dropped)} of shape {list(shape)} are not all of size 1")
    return b.reshape(x, [d for a, d in enumerate(shape) if a not in dropped])


@onnx_op("Unsqueeze")
def unsqueeze(
    b: Builder, x: Value, given: Value | None = None, *, axes: Ints | None = None
) -> Value:
    """x with new axes of size 1."""
    axes = b.ints(given, "axes") if given is not None else axes
    if axes is None:
        b.reject("the required axes are missing")
    rank = x.type.rank + len(axes)
    new, old = set(b.axes(axes, rank)), iter(x.type.shape)
    return b.reshape(x, [1 if a in new else next(old) for a in range(rank)])


@onnx_op("Transpose")
def transpose(b: Builder, x: Value, *, perm: Ints | None = None) -> Value:
    """x with its axes permuted, reversed by default."""
    rank = x.type.rank
    perm = tuple(reversed(range(rank))) if perm is None else tuple(perm)
    if sorted(perm) != list(range(rank)):
        b.reject(f"perm {list(perm)} is not a permutation of the axes 0 to {rank - 1}")
    return b.transpose(x, perm)


@onnx_op("Concat")
def concat(b: Builder, *xs: Value, axis: int = 1) -> Value:
    """Values joined along an axis; before opset 4 it has a default."""
    axis = b.axis(axis, xs[0].type.rank)
    return xs[0] if len(xs) == 1 else b.add("concat", *xs, axis=axis)


@onnx_op("Split")
def split(
    b: Builder,
    x: Value,
    sizes: Value | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Ints | None = None,
) -> tuple[Value, ...]:
    """x cut into pieces along an axis: of given sizes, or as equal as can be."""
    axis, count = b.axis(axis, x.type.rank), len(b.outputs)
    size = x.type.shape[axis]
    parts = b.ints(sizes, "split") if sizes is not None else split
    if num_outputs is not None:
        b.require(parts is None, "both split and num_outputs are given")
        b.require(num_outputs == count, f"num_outputs is {num_outputs}, but {count} outputs")
    if parts is None:
        if num_outputs is None and size % count:
            b.reject(f"axis {axis} of size {size} does not split into {count} equal parts")
        chunk = -(-size // count)
        parts = [max(min(chunk, size - i * chunk), 0) for i in range(count)]
    if len(parts) != count or sum(parts) != size or any(p < 0 for p in parts):
        b.reject(
            f"split {list(parts)} must have {count} sizes, none negative, that add up to {size}"
        )
    starts = [sum(parts[:i]) for i in range(count)]
    return tuple(_part(b, x, axis, s, p) for s, p in zip(starts, parts, strict=True))


def _part(b: Builder, x: Value, axis: int, start: int, size: int) -> Value:
    if (start, size) == (0, x.type.shape[axis]):
        return x
    starts, sizes = [0] * x.type.rank, list(x.type.shape)
    starts[axis], sizes[axis] = start if size else 0, size
    return _slice(b, x, starts, sizes, [1] * x.type.rank)


def _slice(b: Builder, x: Value, starts: Ints, sizes: Ints, steps: Ints) -> Value:
    return b.add("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))


@onnx_op("Slice")
def slice_axes(
    b: Builder,
    x: Value,
    start: Value | None = None,
    end: Value | None = None,
    over: Value | None = None,
    step: Value | None = None,
    *,
    starts: Ints | None = None,
    ends: Ints | None = None,
    axes: Ints | None = None,
) -> Value:
    """x[start:end:step] along some axes: attributes before opset 10, then operands."""
    if start is not None and end is not None:
        starts, ends = b.ints(start, "starts"), b.ints(end, "ends")
        axes = None if over is None else b.ints(over, "axes")
    if starts is None or ends is None:
        b.reject("the required starts and ends are missing")
    steps = (1,) * len(starts) if step is None else b.ints(step, "steps")
    along = b.axes(tuple(range(len(starts))) if axes is None else axes, x.type.rank)
    if not len(starts) == len(ends) == len(along) == len(steps):
        lengths = (len(starts), len(ends), len(along), len(steps))
        b.reject(f"starts, ends, axes and steps have lengths {lengths}, wanted one length")
    first, sizes, strides = [0] * x.type.rank, list(x.type.shape), [1] * x.type.rank
    for axis, s, e, stride in zip(along, starts, ends, steps, strict=True):
        b.require(stride != 0, f"the step of axis {axis} is 0")
        numbers = range(*slice(s, e, stride).indices(sizes[axis]))
        first[axis], sizes[axis], strides[axis] = numbers.start, len(numbers), stride
    starts = [f if s else 0 for f, s in zip(first, sizes, strict=True)]
    clamped = [stride if s > 1 else 1 for stride, s in zip(strides, sizes, strict=True)]
    if tuple(sizes) == x.type.shape and all(s == 1 for s in clamped):
        return x
    return _slice(b, x, starts, sizes, clamped)


@onnx_op("Pad")
def pad(
    b: Builder,
    x: Value,
    amounts: Value | None = None,
    fill: Value | None = None,
    over: Value | None = None,
    *,
    mode: str = "constant",
    pads: Ints | None = None,
    value: float = 0.0,
) -> Value:
    """x with a border; negative amounts crop."""
    modes = ("constant", "reflect", "edge", "wrap") if b.opset >= 19 else (
        "constant", "reflect", "edge",
    )  # fmt: skip
    b.choice("mode", mode, modes)
    rank = x.type.rank
    given = b.ints(amounts, "pads") if amounts is not None else pads
    axes = tuple(range(rank)) if over is None else b.axes(b.ints(over, "axes"), rank)
    if given is None or len(given) != 2 * len(axes):
        b.reject(f"pads {given} must have {2 * len(axes)} entries, two for each axis")
    number: Any = value if fill is None else b.number(fill, "constant_value")
    begins, ends = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        begins[axis], ends[axis] = given[position], given[position + len(axes)]
    return padded(b, x, begins, ends, mode, number)


def padded(
    b: Builder, x: Value, begins: Ints, ends: Ints, mode: str = "constant", number: Any = 0
) -> Value:
    """x with borders of these sizes; where they are negative, cropped first."""
    starts = [max(-p, 0) for p in begins]
    sizes = [d - s - max(-e, 0) for d, s, e in zip(x.type.shape, starts, ends, strict=True)]
    if any(size < 0 for size in sizes):
        b.reject(f"pads {[*begins, *ends]} crop more than the shape {list(x.type.shape)} has")
    if tuple(sizes) != x.type.shape:
        x = _slice(b, x, starts, sizes, [1] * x.type.rank)
    amounts = tuple(max(p, 0) for p in (*begins, *ends))
    if not any(amounts):
        return x
    if x.type.dtype == "bool":
        number = bool(number)
    elif x.type.dtype[0] in "iu":
        number = int(number)
    return b.add("pad", x, padding=amounts, mode=mode, value=number)


@onnx_op("CenterCropPad")
def center_crop_pad(b: Builder, x: Value, target: Value, *, axes: Ints | None = None) -> Value:
    """x cropped or padded with zeros to a shape, around its centre."""
    rank, sizes = x.type.rank, b.ints(target, "shape")
    along = b.axes(tuple(range(rank)) if axes is None else axes, rank)
    b.require(len(sizes) == len(along), f"{len(sizes)} sizes for {len(along)} axes")
    begins, ends = [0] * rank, [0] * rank
    for axis, size in zip(along, sizes, strict=True):
        b.require(size >= 0, f"shape {list(sizes)} has a negative dimension")
        more = size - x.type.shape[axis]
        begins[axis] = more // 2 if more > 0 else -(-more // 2)
        ends[axis] = more - begins[axis]
    return padded(b, x, begins, ends)


@onnx_op("Expand")
def expand(b: Builder, x: Value, target: Value) -> Value:
    """x broadcast with a shape."""
    wanted = b.ints(target, "shape")
    if any(d < 0 for d in wanted):
        b.reject(f"shape {list(wanted)} has a negative dimension")
    rank = max(len(wanted), x.type.rank)
    own = (*(1,) * (rank - x.type.rank), *x.type.shape)
    shape = []
    for mine, theirs in zip(own, (*(1,) * (rank - len(wanted)), *wanted), strict=True):
        if mine != theirs and 1 not in (mine, theirs):
            b.reject(f"shapes {list(x.type.shape)} and {list(wanted)} do not broadcast")
        shape.append(theirs if mine == 1 else mine)
    return x if tuple(shape) == x.type.shape else b.add("expand", x, shape=tuple(shape))


@onnx_op("Tile")
def tile(b: Builder, x: Value, repeats: Value) -> Value:
    """x repeated along each axis."""
    counts = b.ints(repeats, "repeats")
    if len(counts) != x.type.rank or any(c < 0 for c in counts):
        b.reject(f"repeats {list(counts)} must have {x.type.rank} entries, none negative")
    return x if all(c == 1 for c in counts) else b.add("tile", x, repeats=counts)


@onnx_op("DepthToSpace")
def depth_to_space(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Blocks of channels to blocks of pixels."""
    n, c, h, w = _image(b, x, blocksize)
    k = blocksize
    if c % (k * k):
        b.reject(f"{c} channels do not divide by blocksize {k} squared")
    if b.choice("mode", mode, ("DCR", "CRD")) == "DCR":
        split, perm = (n, k, k, c // k // k, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, c // k // k, k, k, h, w), (0, 1, 4, 2, 5, 3)
    moved = b.transpose(b.reshape(x, split), perm)
    return b.reshape(moved, (n, c // k // k, h * k, w * k))


@onnx_op("SpaceToDepth")
def space_to_depth(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Blocks of pixels to blocks of channels."""
    n, c, h, w = _image(b, x, blocksize)
    k = blocksize
    if h % k or w % k:
        b.reject(f"height {h} and width {w} do not divide by blocksize {k}")
    order = {"DCR": (0, 3, 5, 1, 2, 4), "CRD": (0, 1, 3, 5, 2, 4)}
    perm = order[b.choice("mode", mode, tuple(order))]
    moved = b.transpose(b.reshape(x, (n, c, h // k, k, w // k, k)), perm)
    return b.reshape(moved, (n, c * k * k, h // k, w // k))


def _image(b: Builder, x: Value, blocksize: int) -> tuple[int, ...]:
    b.require(x.type.rank == 4, f"input has rank {x.type.rank}, wanted 4: [N,C,H,W]")
    b.require(blocksize >= 1, f"blocksize must be >= 1, got {blocksize}")
    return x.type.shape
