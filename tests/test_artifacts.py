"""Code written to files: every form of every target; registers and occupancy."""

from __future__ import annotations

import json
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from cuda_harness import needs_compiler, needs_nvrtc
from typer.testing import CliRunner

import cnnir
from cnnir import nn
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.nvrtc import Resources
from cnnir.backends.cuda.occupancy import occupancy
from cnnir.cli import app


def net() -> nn.Module:
    """Two kernels of each backend."""
    return nn.Sequential(nn.Conv(8, 3), nn.ReLU(), nn.MaxPool(2)).build((1, 3, 9, 9))


def test_cpu_code(tmp_path: Path) -> None:
    exe = cnnir.compile(net())
    files = {path.name: path for path in exe.emit(tmp_path / "new", "ll", "opt", "asm", "obj")}
    symbols = {step.symbol for step in exe.plan.steps}
    assert {
        f"{name}.{end}" for name in (*symbols, "run") for end in ("ll", "opt.ll", "s", "o")
    } == (set(files))
    for name in symbols:
        module = llvm.parse_assembly(files[f"{name}.ll"].read_text(), llvm.create_context())
        module.verify()
        assert name in files[f"{name}.s"].read_text()
        assert name.encode() in files[f"{name}.o"].read_bytes()
    assert exe.emit(tmp_path)[0].suffix == ".ll"
    with pytest.raises(cnnir.BackendError, match="no form 'ptx' of code, only ll, opt, asm, obj"):
        exe.emit(tmp_path, "ptx")


def test_device_code(tmp_path: Path) -> None:
    needs_nvrtc()
    exe = cnnir.compile(net(), "cuda:sm_90a", cache=False)
    files = exe.emit(tmp_path, "cu", "ptx", "cubin", "launch", "resources")
    text = (tmp_path / "model.cu").read_text()
    launches = json.loads((tmp_path / "launch.json").read_text())
    used = json.loads((tmp_path / "resources.json").read_text())
    assert [row["step"] for row in launches] == list(range(len(exe.plan.steps)))
    assert ["conv1", "relu1"] in [row["nodes"] for row in launches]
    for row in launches:
        function = row["function"]
        assert f"{function}(" in text and f".visible .entry {function}(" in (
            next(p for p in files if p.name == f"{function}.ptx").read_text()
        )
        assert 0 < used[function]["registers"] <= 255 and used[function]["spilled_bytes"] == 0
        assert 0 < used[function]["occupancy"] <= 1
        assert f"{used[function]['registers']} registers" in exe.plan.steps[row["step"]].summary
    assert all(p.read_bytes()[:4] == b"\x7fELF" for p in files if p.suffix == ".cubin")


def test_machine_code_to_read(tmp_path: Path) -> None:
    needs_nvrtc()
    exe = cnnir.compile(net(), "cuda:sm_80", cache=False)
    try:
        files = exe.emit(tmp_path, "sass")
    except cnnir.BackendError as error:
        assert "pip install 'cuda-toolkit[nvdisasm]" in str(error)
        pytest.skip("nvdisasm is not installed")
    assert all(" EXIT" in path.read_text() for path in files) and files


def test_emulated_code_has_no_machine_code(tmp_path: Path) -> None:
    needs_compiler()
    exe = cnnir.compile(net(), "cuda-emu")
    assert [path.name for path in exe.emit(tmp_path, "cu", "launch")] == ["model.cu", "launch.json"]
    with pytest.raises(cnnir.BackendError, match="target cuda-emu has no form 'cubin'"):
        exe.emit(tmp_path, "cubin")


@pytest.mark.parametrize(
    ("arch", "threads", "shared", "registers", "blocks", "share", "bound"),
    [
        ("sm_90a", 256, 0, 32, 8, 1.0, "warps"),
        ("sm_90", 256, 0, 128, 2, 0.25, "registers"),
        ("sm_80", 256, 0, 33, 6, 0.75, "registers"),  # 40 registers a thread are given out
        ("sm_90", 128, 100 << 10, 32, 2, 0.125, "shared memory"),
        ("sm_80", 32, 0, 16, 32, 0.5, "blocks"),
        ("sm_89", 1024, 0, 64, 1, 2 / 3, "warps"),
    ],
)
def test_occupancy(
    arch: str, threads: int, shared: int, registers: int, blocks: int, share: float, bound: str
) -> None:
    launch = Launch((1, 1, 1), (threads, 1, 1), shared)
    found = occupancy(launch, Resources(registers, 0), arch)
    assert found is not None
    assert (found.blocks, found.bound) == (blocks, bound) and found.share == pytest.approx(share)
    assert occupancy(launch, Resources(registers, 0), "sm_999") is None


def test_the_command(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    cnnir.save_onnx(net(), model)
    folder = tmp_path / "code"
    line = ["compile", str(model), "--emit", "ll,asm", "-o", str(folder), "--json"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0
    assert sorted(json.loads(done.stdout)["files"]) == sorted(map(str, folder.iterdir()))
    wrong = CliRunner().invoke(app, ["compile", str(model), "--emit", "cubin", "-o", str(folder)])
    assert wrong.exit_code == 1
