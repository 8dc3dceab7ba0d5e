"""Arrays of other libraries as inputs, and outputs that stay in the memory of a device."""

from __future__ import annotations

import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_harness import needs_compiler
from fake_driver import FakeDriver, fake_driver

import cnnir
from cnnir.backends.arrays import CUDA, HOST
from cnnir.backends.cuda import dlpack
from cnnir.errors import BackendError, InputError
from cnnir.tensortype import TensorType

NET = """graph @g(%x: f32[2,3,4]) {
%y = tanh(%x) : f32[2,3,4]
%z = reduce_sum(%x) {axes=(0,), keepdims=False} : f32[3,4]
return %y, %z as ['y', 'z']
}"""
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("f4")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


def check(got: dict[str, Any]) -> None:
    np.testing.assert_allclose(np.asarray(got["y"]), np.tanh(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(got["z"]), X.sum(0), rtol=1e-5, atol=1e-5)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    needs_compiler()
    return fake_driver(monkeypatch)


class OnDevice:
    """Stands for an array of PyTorch or CuPy in the memory of the fake device."""

    def __init__(self, fake: FakeDriver, array: np.ndarray, number: int = 0) -> None:
        self.array = array
        fake.theirs.append(array.reshape(-1).view(np.uint8).copy())
        self.address = fake.theirs[-1].ctypes.data
        self.number, self.shape, self.asked = number, array.shape, None

    def __array__(self, *_: Any) -> np.ndarray:
        raise TypeError("it lies on a device")


class ByDlpack(OnDevice):
    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.number

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.asked = stream
        return dlpack.capsule(self.address, TensorType.of(self.array), (CUDA, self.number), self)


class ByInterface(OnDevice):
    strides: tuple[int, ...] | None = None
    mask = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.array.dtype.str, "data": (self.address, False),
            "version": 3, "strides": self.strides, "stream": 77, "mask": self.mask,
        }  # fmt: skip


# ---- in


@pytest.mark.parametrize("target", ["cpu", "cuda-emu", "reference"])
def test_tensors_of_the_host_serve_every_target(torch: Any, target: str) -> None:
    exe = cnnir.compile(cnnir.parse(NET), target, cache=False)
    check(exe.run({"x": torch.from_numpy(X)}))
    transposed = torch.from_numpy(np.ascontiguousarray(X.T)).permute(2, 1, 0)
    assert not transposed.is_contiguous()
    check(dict(zip("yz", exe(transposed), strict=True)))


def test_tensors_that_their_owner_does_not_give(torch: Any) -> None:
    exe = cnnir.compile(cnnir.parse(NET), "reference")
    with pytest.raises(InputError, match=r"'x' cannot be read by DLPack.*gradient"):
        exe(torch.zeros(2, 3, 4, requires_grad=True))
    with pytest.raises(InputError, match="'x': dtype float64, wanted float32"):
        exe(torch.zeros(2, 3, 4, dtype=torch.float64))
    with pytest.raises(InputError, match=r"'x': shape .2, 3., wanted"):
        exe(torch.zeros(2, 3))


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
@pytest.mark.parametrize("target", ["cpu", "cuda-emu"])
def test_what_lies_on_a_device_is_no_input_of_the_host(
    fake: FakeDriver, kind: type[OnDevice], target: str
) -> None:
    exe = cnnir.compile(cnnir.parse(NET), target, cache=False)
    with pytest.raises(InputError, match="'x' lies on CUDA device 0, wanted an array of the host"):
        exe(kind(fake, X))


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_what_lies_on_the_device_is_copied_there(fake: FakeDriver, kind: type[OnDevice]) -> None:
    exe = cnnir.compile(cnnir.parse(NET), "cuda", cache=False)
    given = kind(fake, X)
    check(exe.run({"x": given}))
    fake.copied.clear()
    check(exe.run({"x": given}))
    assert fake.copied["HtoD"] == 0 and fake.copied["DtoD"] == X.nbytes
    if kind is ByDlpack:
        assert given.asked in fake.streams  # its owner makes that stream wait
    else:
        assert fake.waited[-1][0] in fake.streams and fake.waited[-1][1] == 77


def test_arrays_of_the_device_that_do_not_fit(fake: FakeDriver) -> None:
    exe = cnnir.compile(cnnir.parse(NET), "cuda", cache=False)
    with pytest.raises(InputError, match="'x' lies on CUDA device 1, the model on 0"):
        exe(ByDlpack(fake, X, number=1))
    for kind in (ByDlpack, ByInterface):
        with pytest.raises(InputError, match="'x': dtype float64, wanted float32"):
            exe(kind(fake, X.astype("f8")))
        with pytest.raises(InputError, match=r"'x': shape .3, 2, 4., wanted .2, 3, 4."):
            exe(kind(fake, X.reshape(3, 2, 4)))
    strided = ByInterface(fake, X)
    strided.strides = (16, 32, 4)
    with pytest.raises(InputError, match=r"'x' has strides .4, 8, 1., wanted row-major order"):
        exe(strided)
    strided.strides = (48, 16, 4)
    check(dict(zip("yz", exe(strided), strict=True)))
    strided.mask = object()
    with pytest.raises(InputError, match="'x' has a mask"):
        exe(strided)


# ---- out


def test_outputs_stay_on_the_device(fake: FakeDriver) -> None:
    exe = cnnir.compile(cnnir.parse(NET), "cuda", cache=False)
    exe.run({"x": X})
    fake.copied.clear()
    got = exe.run({"x": X}, out="device")
    assert fake.copied["DtoH"] == 0 and fake.copied["DtoD"] == 4 * (24 + 12)
    y, held = got["y"], len(fake.memory)
    assert y.shape == (2, 3, 4) and y.__dlpack_device__() == (CUDA, 0)
    interface = y.__cuda_array_interface__
    assert interface["shape"] == (2, 3, 4) and interface["typestr"] == "<f4"
    assert fake._holds(interface["data"][0], 4 * 24) and interface["stream"] is None
    check(got)
    z, again = exe.run({"x": y}, out="device")["y"], np.tanh(np.tanh(X))  # one model into the next
    np.testing.assert_allclose(np.asarray(z), again, rtol=1e-5, atol=1e-6)
    exe.close()
    check(got)  # they outlive the program
    del got, y, z
    gc.collect()
    assert len(fake.memory) < held


def test_outputs_are_taken_over_without_a_copy(torch: Any) -> None:
    """On the emulated device, whose memory torch and numpy can read."""
    needs_compiler()
    exe = cnnir.compile(cnnir.parse(NET), "cuda-emu", cache=False)
    got = exe.run({"x": X}, out="device")
    assert got["y"].__dlpack_device__() == (HOST, 0)
    assert not hasattr(got["y"], "__cuda_array_interface__")
    tensor, array = torch.from_dlpack(got["y"]), np.from_dlpack(got["y"])
    assert tensor.data_ptr() == array.ctypes.data
    held = len(dlpack._lent)
    check({"y": tensor.numpy(), "z": got["z"]})
    again = exe.run({"x": got["y"]})["y"]
    exe.close()
    del got, exe
    gc.collect()
    np.testing.assert_allclose(array, np.tanh(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again, np.tanh(np.tanh(X)), rtol=1e-5, atol=1e-6)
    del tensor, array
    gc.collect()
    assert len(dlpack._lent) == held - 2


def test_where_there_is_no_device() -> None:
    exe = cnnir.compile(cnnir.parse(NET))
    with pytest.raises(BackendError, match=r"target cpu.* has no memory but the host's"):
        exe.run({"x": X}, out="device")
    with pytest.raises(InputError, match="out='torch', wanted 'numpy' or 'device'"):
        exe.run({"x": X}, out="torch")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i64", "u8", "bool"])
def test_capsules_say_what_is_in_them(torch: Any, dtype: str) -> None:
    type = TensorType(dtype, (2, 1, 3))
    array = np.arange(6).reshape(2, 1, 3).astype(type.numpy)
    made = dlpack.capsule(array.ctypes.data, type, (HOST, 0), array)
    described = dlpack.read(made)
    assert (described.dtype, described.shape) == (array.dtype, array.shape)
    assert described.strides == (3, 3, 1) and described.address == array.ctypes.data
    tensor = torch.utils.dlpack.from_dlpack(made)
    wide = tensor.to(torch.float64) if dtype != "bool" else tensor
    np.testing.assert_array_equal(wide.numpy(), array.astype(wide.numpy().dtype))
    held = len(dlpack._lent)
    dlpack.capsule(array.ctypes.data, type, (HOST, 0), array)  # which nobody takes
    assert len(dlpack._lent) == held


def test_an_element_type_that_dlpack_does_not_have() -> None:
    type = TensorType("f32", (2,))
    with pytest.raises(BufferError, match="no element type"):
        dlpack._code(np.dtype(ml_dtypes.float8_e5m2))
    assert dlpack._code(type.numpy) == (2, 32)
