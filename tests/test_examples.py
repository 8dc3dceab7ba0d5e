"""The examples that take a moment run as their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_write_a_net(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "write_a_net.py", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "171,354 weights" in run.stdout
    assert "imports as the same graph: True" in run.stdout
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "weights.npz"]
