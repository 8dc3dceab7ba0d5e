"""Reading constants in patterns: is a param one number everywhere, or one number a channel?"""

from __future__ import annotations

import numpy as np

from cnnir.ir import Graph, Value
from cnnir.tensortype import TensorType


def uniform(g: Graph, value: Value | None) -> float | int | bool | None:
    """The number that a param holds everywhere (0.0 and -0.0 differ); None when there is none."""
    array = g.array(value)
    if array is None or not array.size:
        return None
    first = array.flat[0]
    same = (array == first) & (np.signbit(array) == np.signbit(first) if first == 0 else True)
    return first.item() if np.all(same) else None


def along_axis(array: np.ndarray, type: TensorType, axis: int) -> np.ndarray | None:
    """An array that broadcasts to `type` as one f64 number for each index of `axis`.

    None where it differs along another axis, or holds NaN.
    """
    full = array.reshape((1,) * (type.rank - array.ndim) + array.shape)
    line = full[tuple(slice(None) if i == axis else slice(0, 1) for i in range(type.rank))]
    if not full.size or not np.all(full == line):
        return None
    return np.broadcast_to(line.reshape(-1).astype(np.float64), (type.shape[axis],))


def rounded(exact: np.ndarray, type: TensorType) -> np.ndarray | None:
    """f64 numbers in the element type of `type`; None when one is not finite there."""
    with np.errstate(all="ignore"):
        array = np.asarray(exact).astype(type.numpy)
    return array if np.all(np.isfinite(array)) else None
