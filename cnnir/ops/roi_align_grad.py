"""The gradient of roi_align by the images: every sample of a bin is traced back."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import Undefined
from cnnir.ops.gather import valid_indices
from cnnir.ops.reduce import unravel
from cnnir.ops.roi_align import RoiAlign, bin_sample, roi_bins
from cnnir.tensortype import compute_dtype


class RoiAlignGrad(Op):
    """The cotangent of x in roi_align(x, rois, batch_indices) with mode avg; x has this shape.

    Every element of dy is added to those around the samples of its bin, times their weights and
    divided by the number of samples. The other attributes are those of roi_align.
    """

    name = "roi_align_grad"

    def infer(
        dy,
        rois,
        batch_indices,
        *,
        shape,
        output_size=(1, 1),
        sampling_ratio=0,
        spatial_scale=1.0,
        coordinates="half_pixel",
    ):
        x = dy.with_shape(shape)
        attrs = {"output_size": output_size, "sampling_ratio": sampling_ratio}
        attrs |= {"spatial_scale": spatial_scale, "coordinates": coordinates}
        if (y := RoiAlign.infer(x, rois, batch_indices, **attrs)) != dy:
            raise IRError(f"dy is {dy}, wanted the result of roi_align, {y}")
        return x

    def evaluate(
        dy,
        rois,
        batch_indices,
        *,
        shape,
        output_size,
        sampling_ratio,
        spatial_scale,
        coordinates,
    ):
        dx = np.zeros(shape, dy.dtype)
        members = valid_indices(batch_indices, shape[0], "batch_indices")
        given = (output_size, sampling_ratio, spatial_scale, coordinates)
        for r, member in enumerate(members if dy.size else ()):
            matrices = []  # [bins, extent]: the mean of the samples on an axis
            bins = roi_bins(NUMPY, [rois[r, k] for k in range(4)], shape, given)
            for (start, size, samples, _), count, extent in zip(
                bins, output_size, shape[2:], strict=True
            ):
                out, i = np.divmod(np.arange(count * int(samples)), max(int(samples), 1))
                a, wa, b, wb = bin_sample(NUMPY, start, size, np.asarray(samples), out, i, extent)
                matrix = np.zeros((count, extent), dy.dtype)
                for j, w in ((a, wa), (b, wb)):
                    np.add.at(matrix, (out, j), w / dy.dtype.type(max(int(samples), 1)))
                matrices.append(matrix)
            dx[member] += np.einsum("cij,ih,jw->chw", dy[r], *matrices)
        return dx

    def procedure(
        m,
        outs,
        dy,
        rois,
        batch_indices,
        *,
        shape,
        output_size,
        sampling_ratio,
        spatial_scale,
        coordinates,
    ):
        (n, channels, *sizes), out = shape, outs[0]
        given = (output_size, sampling_ratio, spatial_scale, coordinates)
        dtype = compute_dtype(dy.dtype)
        with m.loop(channels, parallel=True) as c:
            with m.loop(n) as k, m.loop(sizes[0] * sizes[1]) as i:
                m.store(out, (k, c, *unravel(i, tuple(sizes))), m.const(0, dtype))
            with m.loop(dy.shape[0]) as r, m.loop(output_size[0]) as i, m.loop(output_size[1]) as j:
                index = m.cast(batch_indices[(r,)], "i64")
                member = m.checked(index, n, "batch_indices")
                axes = roi_bins(m, [rois[(r, k)] for k in range(4)], shape, given)
                (_, _, high, most), (_, _, wide, widest) = axes
                count = (
                    m.max(m.cast(m.max(high, 1) * m.max(wide, 1), dtype), 1.0)
                    if not sampling_ratio
                    else m.const(sampling_ratio**2, dtype)
                )
                value = dy[(r, c, i, j)] / count
                with m.loop(most) as u, m.loop(widest) as v, m.when(m.all(u < high, v < wide)):
                    rows, columns = (
                        bin_sample(m, start, size, samples, o, t, extent)
                        for (start, size, samples, _), o, t, extent in zip(
                            axes, (i, j), (u, v), sizes, strict=True
                        )
                    )
                    for a in (0, 2):
                        for b in (0, 2):
                            place = (member, c, rows[a], columns[b])
                            part = value * (rows[a + 1] * columns[b + 1])
                            m.store(out, place, out[place] + part)

    def vjp(g, node, dx):
        (_, rois, members), attrs = node.operands, dict(node.attrs)
        del attrs["shape"]
        back = g.add("roi_align", dx, rois, members, mode="avg", **attrs)
        return back, Undefined("roi_align has no derivative by the regions"), None

    @staticmethod
    def cost(node: Any) -> Cost:
        """As that of roi_align."""
        moved, samples = Op.cost(node), node.attrs["sampling_ratio"] or 2
        return Cost(8 * samples**2 * node.operands[0].type.size, moved.read, moved.written)
