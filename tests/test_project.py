"""The project itself: packages, public names, what `import cnnir` loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cnnir

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_packages_are_the_folders_with_an_init() -> None:
    tool = PROJECT["tool"]["setuptools"]
    found = set()
    for package, folder in tool["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([package, *inner]))
    assert set(tool["packages"]) == found


def test_public_names_exist_and_are_documented() -> None:
    for name in cnnir.__all__:
        public = getattr(cnnir, name)
        assert name.startswith("__") or name == "OPS" or public.__doc__, f"{name} has no docstring"


def test_version_is_the_same_everywhere() -> None:
    assert cnnir.__version__ == PROJECT["project"]["version"]
    assert f"## {cnnir.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_import_loads_little() -> None:
    """Of others what graphs are made of, and of cnnir no frontend, backend, pass or report."""
    code = (
        "import sys; before = set(sys.modules); import cnnir; "
        "loaded = set(sys.modules) - before; "
        "print(*sorted({m.split('.')[0] for m in loaded} - set(sys.stdlib_module_names))); "
        "print(*sorted(m for m in loaded if m.startswith('cnnir.')))"
    )
    packages, parts = (set(line.split()) for line in python(code).stdout.splitlines())
    assert packages <= {"cnnir", "numpy", "networkx", "ml_dtypes"}
    lazy = ("frontends", "backends", "passes", "report", "cli", "training", "mathematics", "loops")
    assert parts and not [p for p in parts if p.split(".")[1] in lazy]


@pytest.mark.parametrize("folder", ["frontends", "backends"])
def test_folders_cannot_be_imported_by_their_bare_names(folder: str) -> None:
    result = python(f"import {folder}", cwd=ROOT)
    assert result.returncode == 1
    assert f"import cnnir.{folder}, not {folder}" in result.stderr
