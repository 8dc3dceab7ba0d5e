"""What the kernel templates must compute, in plain numpy and f64, from the specs alone."""

from __future__ import annotations

import numpy as np

MODES = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}


def conv_reference(x, w, bias, spec):
    rank = len(spec.sizes)
    x = x.astype(np.float64)
    for axis, word in enumerate(spec.boundary or ("zero",) * rank):
        pads = [(0, 0)] * x.ndim
        pads[2 + axis] = (spec.padding[axis], spec.padding[rank + axis])
        x = np.pad(x, pads, MODES[word])
    x = x.reshape(spec.batch, spec.groups, -1, *x.shape[2:])
    w = w.reshape(spec.groups, -1, *w.shape[1:]).astype(np.float64)
    y = 0.0
    for tap in np.ndindex(*spec.kernel):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec.dilation, spec.out_sizes, spec.stride, strict=True)
        )
        taps = w[(..., *tap)]
        y = y + np.einsum("goc,ngc...->ngo...", taps, x[(slice(None),) * 3 + window])
    y = y.reshape(spec.batch, spec.filters, *spec.out_sizes)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def transpose_reference(x, w, bias, spec):
    y = np.zeros((spec.batch, spec.filters, *spec.out_sizes))
    for tap in np.ndindex(*spec.kernel):
        places = tuple(slice(t, None, k) for t, k in zip(tap, spec.kernel, strict=True))
        part = np.einsum("co,nc...->no...", w[(..., *tap)].astype(np.float64), x)
        y[(slice(None), slice(None), *places)] = part
    return y if bias is None else y + bias.reshape(-1, *[1] * len(spec.sizes))


def pool_reference(x, spec):
    rank = len(spec.sizes)
    y = np.empty((spec.batch, spec.channels, *spec.out_sizes))
    for at in np.ndindex(*spec.out_sizes):
        seen, counted = [], 0
        for tap in np.ndindex(*spec.kernel):
            i = [
                a * s + t * d - p
                for a, s, t, d, p in zip(
                    at, spec.stride, tap, spec.dilation, spec.padding, strict=False
                )
            ]
            if all(0 <= j < n for j, n in zip(i, spec.sizes, strict=True)):
                seen.append(x[(slice(None), slice(None), *i)].astype(np.float64))
            ends = [n + p for n, p in zip(spec.sizes, spec.padding[rank:], strict=True)]
            counted += all(
                -p <= j < e for j, p, e in zip(i, spec.padding[:rank], ends, strict=True)
            )
        if spec.kind == "max":
            value = np.max(seen, axis=0) if seen else -np.inf
        else:
            divisor = counted if spec.count_padding else len(seen)
            value = sum(seen) / divisor if divisor else np.nan
        y[(slice(None), slice(None), *at)] = value
    return y
