"""Files of weights: what is written comes back, what does not fit is refused, nothing is half."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_dsl_layers import randomised

from cnnir import InputError, ModelError, UnsupportedError, nn
from cnnir.frontends.atomic import replacing
from cnnir.frontends.dsl import weights

SUFFIXES = ("npz", "safetensors")


def small(filters: int = 3) -> nn.Module:
    """A net with a scalar, a vector and a matrix of weights."""

    class Net(nn.Module):
        def __init__(self) -> None:
            self.body = nn.Sequential(nn.Conv(filters, 3), nn.BatchNorm(), nn.Flatten())

        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return self.body(x) * self.param("scale", (), nn.ones)

    return randomised(Net().build((1, 2, 5, 5)))


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"weights.{request.param}"


def test_weights_come_back(path: Path) -> None:
    net = small()
    net.save(path)
    assert os.listdir(path.parent) == [path.name]
    other = small()
    other.initialise(9)
    assert other.load(path) is other
    for name, array in net.params.items():
        np.testing.assert_array_equal(other.params[name], array)
        assert not other.params[name].flags.writeable


MISFITS = """
  - scale is missing
  - body.conv1.weight is f32[4,2,3,3], the net has f32[3,2,3,3]
  - body.conv1.bias is f32[4], the net has f32[3]
  - body.batch_norm1.weight is missing
  - body.batch_norm1.bias is missing
  - body.batch_norm1.running_mean is f32[4], the net has f32[3]
  - body.batch_norm1.running_var is f32[4], the net has f32[3]
  - 'body.dense1.bias' is not a weight of the net
  - 'body.dense1.weight' is not a weight of the net"""


def test_all_that_does_not_fit_is_listed_and_nothing_changes(path: Path) -> None:
    wide = nn.Sequential(
        body=nn.Sequential(nn.Conv(4, 3), nn.BatchNorm(affine=False), nn.Flatten(), nn.Dense(1))
    )
    wide.build((1, 2, 5, 5)).save(path)
    net = small()
    before = dict(net.params)
    with pytest.raises(ModelError) as caught:
        net.load(path)
    assert str(caught.value) == f"the weights in '{path}' are not those of this net:{MISFITS}"
    assert all(net.params[name] is array for name, array in before.items())


def test_other_element_types(path: Path) -> None:
    net = nn.Dense(2).build("f64[1,3]")
    net.save(path)
    with pytest.raises(ModelError, match=r"weight is f64\[3,2\], the net has f32\[3,2\]"):
        nn.Dense(2).build((1, 3)).load(path)
    half = nn.Dense(2).build("bf16[1,3]")
    if path.suffix == ".npz":
        with pytest.raises(UnsupportedError) as caught:
            half.save(path)
        assert str(caught.value) == ("weight is bf16[3,2], which npz cannot hold; .safetensors can")
    else:
        half.save(path)
        again = nn.Dense(2).build("bf16[1,3]", seed=5).load(path)
        np.testing.assert_array_equal(again.params["weight"], half.params["weight"])


def test_files_that_are_not_weights(path: Path) -> None:
    net = small()
    with pytest.raises(InputError, match="there is no file"):
        net.load(path)
    for data in (b"", b"no", os.urandom(300), pickle.dumps({"scale": np.ones(())})):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="is not a"):
            net.load(path)


def test_pickles_in_an_npz_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, scale=np.array([{"a": 1}], object))
    with pytest.raises(ModelError, match="not an npz file of plain arrays"):
        small().load(path)


def test_suffixes_choose_the_format() -> None:
    with pytest.raises(InputError) as caught:
        small().save("weights.pt")
    assert str(caught.value) == "'weights.pt' ends in '.pt', wanted .npz or .safetensors"


def test_safetensors_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "package", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'cnnir\[safetensors\]', or use .npz"):
        small().save(tmp_path / "a.safetensors")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(str(path)) as file:
        file.write(b"new" * 1000)
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with replacing(str(path)) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]
