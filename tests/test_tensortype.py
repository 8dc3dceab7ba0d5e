"""TensorType: text both ways, sizes, and what it refuses."""

import numpy as np
import pytest

from cnnir.errors import IRError, LimitError
from cnnir.tensortype import DTYPES, TensorType, compute_dtype, is_float, is_int, short_dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1, 3, 8, 8), (7, 31)])
def test_text_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    type = TensorType(dtype, shape)
    assert TensorType.parse(str(type)) == type
    assert TensorType.of(np.zeros(shape, type.numpy)) == type


def test_sizes() -> None:
    type = TensorType("f16", (2, 3, 5))
    assert (type.rank, type.size, type.nbytes) == (3, 30, 60)
    assert TensorType("i64", ()).size == 1


def test_element_type_classes() -> None:
    assert [d for d in DTYPES if is_float(d)] == ["f16", "bf16", "f32", "f64"]
    assert not is_int("bool") and is_int("u8") and is_int("i64")
    assert [compute_dtype(d) for d in ("f16", "bf16", "f64", "i8")] == ["f32", "f32", "f64", "i8"]


def test_foreign_byte_order_has_the_same_name() -> None:
    assert short_dtype(np.dtype(">f4")) == "f32"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TensorType("f8", (1,)), "unknown element type 'f8'"),
        (lambda: TensorType("f32", (-1,)), "must be integers >= 0"),
        (lambda: TensorType("f32", (1.5,)), "must be integers >= 0"),  # type: ignore[arg-type]
        (lambda: TensorType("f32", (1,) * 65), "rank 65 exceeds"),
        (lambda: TensorType("f32", (1 << 40, 1 << 10)), "too large: the limit is"),
        (lambda: TensorType("f32", (1 << 62, 0)), "too large: the limit is"),
        (lambda: TensorType.parse("f32"), "is not a type"),
        (lambda: short_dtype(np.dtype("U3")), "no element type for numpy dtype"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises((IRError, LimitError), match=words):
        make()
