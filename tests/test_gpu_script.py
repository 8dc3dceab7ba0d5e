"""benchmarks/gpu.py is ready for a GPU: every section runs without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cuda_harness import needs_compiler

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.py"
LINES = {
    "wrappers": "wrapper multiply_bf16, error 0",
    "suite": "suite operators, passed",
    "nets": "net resnet50, precision exact",
    "sanitize": "sanitizer memcheck, dry, errors 0",
    "inference": "runner torch eager",
    "training": "net resnet50 step, batch 2, runner cnnir",
}


@pytest.mark.slow
@pytest.mark.parametrize("section", LINES)
def test_a_section_runs_dry(section: str) -> None:
    needs_compiler()
    pytest.importorskip("torch")
    command = [sys.executable, str(SCRIPT), section, "--dry", "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert LINES[section] in done.stdout


def test_a_section_that_there_is_not() -> None:
    command = [sys.executable, str(SCRIPT), "speed", "--dry"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no section speed; there are wrappers" in done.stderr
