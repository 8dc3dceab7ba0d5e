"""The examples run, in their short form; what they claim of their long form is in their text."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_collapse_and_split(capsys: pytest.CaptureFixture[str]) -> None:
    """It checks its own results; here is what it has to show."""
    module = runpy.run_path(str(EXAMPLES / "collapse_and_split.py"))
    module["main"](short=True)
    shown = capsys.readouterr().out
    linear, blurred, low_rank, inception = shown.split("==== ")[1:]
    assert _kernels(linear) == ["3x3x11x11"]
    assert "16x1x7x1 in 16 groups, 16x1x1x7 in 16 groups" in ", ".join(_kernels(blurred))
    assert _kernels(low_rank) == ["4x16x3x1", "16x4x1x3"]
    thin = [k for k in _kernels(inception) if k.endswith(("7x1", "1x7"))]
    assert len(thin) == 6 and "7x7" not in " ".join(_kernels(inception))


def run_short(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Any:
    """What `main` of an example gives in its short form."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments, short=True)


def test_train_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert 0 < run_short("train_shapes", monkeypatch, tmp_path) <= 1
    names = ["answers", "curves", "maps", "projections", "receptive"]
    assert sorted(os.listdir(tmp_path)) == [f"{name}.png" for name in names]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run an example in its short form: what `main` gives, after a look at its one picture."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")

    def run(name: str, picture: str) -> Any:
        result = run_short(name, monkeypatch, tmp_path)
        assert os.listdir(tmp_path) == [picture]
        assert (tmp_path / picture).stat().st_size > 10_000
        return result

    return run


def test_fit_a_blur(shown: Callable[..., Any]) -> None:
    assert shown("fit_a_blur", "blur.png") < 1e-2


def test_learn_a_flow(shown: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("learn_a_flow", "flow.png") < 2
    assert "a moved field gives a moved result: True" in capsys.readouterr().out


def test_filters_on_an_image(shown: Callable[..., Any]) -> None:
    assert shown("filters_on_an_image", "filters.png") < 1e-6


def test_boundaries_compared(shown: Callable[..., Any]) -> None:
    off = shown("boundaries_compared", "boundaries.png")
    assert max(off["reflect"], off["replicate"]) < min(off["zero"], off["circular"]) / 2


def test_permuted_pixels(shown: Callable[..., Any]) -> None:
    accuracy = shown("permuted_pixels", "permuted.png")
    assert {net for net, _ in accuracy} == {"dense", "convolutional"}
    assert all(0.05 < share <= 1 for share in accuracy.values())


def test_fit_operators(shown: Callable[..., Any]) -> None:
    off = shown("fit_operators", "operators.png")
    assert all(of_its_kind < dense / 2 for of_its_kind, dense in off.values())


def test_smooth_filters(shown: Callable[..., Any]) -> None:
    off = shown("smooth_filters", "smooth.png")
    assert off["smooth ones"] < off["no regulariser"]


def test_count_connections(shown: Callable[..., Any]) -> None:
    assert shown("count_connections", "connections.png")["convolutional"] == (156, 117_600)


def test_inception_block(shown: Callable[..., Any]) -> None:
    counted = shown("inception_block", "inception.png")
    assert counted["1x7 and 7x1"] < counted["7x7"] / 2


def test_train_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    assert run_short("train_digits", monkeypatch, tmp_path) > 0.7
    pictures = ["activations.png", "curves.png", "filters.png", "maps.png"]
    assert sorted(os.listdir(tmp_path)) == sorted([*pictures, "digits.onnx"])


def test_fine_tune(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    assert min(run_short("fine_tune", monkeypatch, tmp_path)[3]) > 0.4
    assert sorted(os.listdir(tmp_path)) == ["digits.onnx", "tuned.png"]


def _kernels(section: str) -> list[str]:
    """What the last line of a table says."""
    (line,) = [line for line in section.splitlines() if line.startswith("with ")]
    return line.split(" ms ")[1].strip().split(", ")


def test_ask_networkx(capsys: pytest.CaptureFixture[str]) -> None:
    """ResNet-50: all but the four convolutions of shortcuts are on the longest path."""
    module = runpy.run_path(str(EXAMPLES / "ask_networkx.py"))
    module["main"](str(module["RESNET50"]))
    shown = capsys.readouterr().out
    assert "critical path: 170 nodes, 7.50 of 8.22 GFLOP" in shown
    assert "all data goes through 42 nodes" in shown and "reaches 52 of 53" in shown


def test_write_a_net(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "write_a_net.py", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "171,354 weights" in run.stdout
    assert "imports as the same graph: True" in run.stdout
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "weights.npz"]


def test_layers_as_matrices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert run_short("layers_as_matrices", monkeypatch, tmp_path) < 1e-3
    shown = capsys.readouterr().out
    assert "block circulant with circulant blocks (BCCB), symmetric" in shown
    assert "singular: it loses frequency" in shown
    names = ["deblurred.png", "eigenvalues.png", "matrices.png"]
    assert sorted(os.listdir(tmp_path)) == names
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)


def test_piecewise_affine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    computed, walked = run_short("piecewise_affine", monkeypatch, tmp_path)
    assert computed == walked > 5
    assert sorted(os.listdir(tmp_path)) == ["regions.png", "rows.png"]


def test_fft_crossover(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("scipy", reason="scipy is not installed")
    module = runpy.run_path(str(EXAMPLES / "fft_crossover.py"))
    assert module["main"](tmp_path, short=True) == 9
    shown = capsys.readouterr().out
    assert "3 x  3: fft_conv" not in shown and " 9 x  9: fft_conv" in shown
    assert "17 x 17: fft_conv" in shown and "         not depthwise: predicted" in shown
    assert (tmp_path / "crossover.png").stat().st_size > 20000
