"""What was compiled for a device that is not here is found again, as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_harness import needs_nvrtc

import cnnir
from cnnir import nn
from cnnir.backends.cache import DiskCache

FORMS = ("cu", "ptx", "cubin", "launch", "resources")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two kernels, and its program in the folder beside it."""
    needs_nvrtc()
    folder = tmp_path_factory.mktemp("remembered")
    net = nn.Sequential(nn.Conv(8, 3), nn.ReLU(), nn.MaxPool(2)).build((1, 3, 9, 9))
    cnnir.save_onnx(net, folder / "net.onnx")
    compiled(folder / "net.onnx")
    return folder / "net.onnx"


def compiled(source: object, target: str = "cuda:sm_80", **options: object) -> cnnir.Executable:
    cache = source.with_name("cache") if isinstance(source, Path) else None
    return cnnir.compile(source, target, **{"cache": cache, **options})


def recalled(executable: cnnir.Executable) -> bool:
    return "recall" in executable.plan.seconds


def test_a_model_met_again_is_not_compiled_again(model: Path, tmp_path: Path) -> None:
    first, again = compiled(model, cache=tmp_path), compiled(model)
    assert recalled(again) and not recalled(first)
    assert str(again.plan) == str(first.plan) and again.inputs == first.inputs
    for form in FORMS:
        one, two = tmp_path / f"{form} 1", tmp_path / f"{form} 2"
        names = [path.name for path in first.emit(one, form)]
        assert names == [path.name for path in again.emit(two, form)]
        assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert "max_pool" in str(again.graph) and again.why("conv1") is not None
    with pytest.raises(cnnir.BackendError, match="was compiled for cuda:sm_80 only"):
        again(np.zeros((1, 3, 9, 9), np.float32))


@pytest.mark.parametrize(
    ("target", "options"),
    [("cuda:sm_90a", {}), ("cuda:sm_80", {"precision": "exact"}), ("cuda:sm_80", {"cache": False})],
)
def test_what_is_another_program(model: Path, target: str, options: dict) -> None:
    assert not recalled(compiled(model, target, **options))


def test_the_default_precision_is_the_one_that_it_stands_for(model: Path) -> None:
    assert recalled(compiled(model, precision="tf32"))


def test_a_record_that_is_none_is_made_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = DiskCache.get

    def damaged(cache: DiskCache, key: str) -> bytes | None:
        found = get(cache, key)
        return found if found is None or found[:1] == b"{" else b"nonsense"  # cubins begin so

    monkeypatch.setattr(DiskCache, "get", damaged)
    assert not recalled(compiled(model))


def test_graphs_are_not_kept(tmp_path: Path) -> None:
    needs_nvrtc()
    graph = cnnir.parse("graph @g(%x: f32[4]) {\n%y = relu(%x) : f32[4]\nreturn %y\n}")
    for _ in range(2):
        assert not recalled(compiled(graph, cache=tmp_path))
