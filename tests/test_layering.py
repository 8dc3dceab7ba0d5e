"""The layers of the house: a file imports only from lower numbers, and stays readable in length.

Reads the source with `ast`; imports nothing of cnnir. The numbers are those of
docs/architecture.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The longest matching prefix counts. A package's own files may import each other. Halves are for
# what the document has on one line although one of the two needs the other.
LEVELS = {
    "cnnir.errors": 0,
    "cnnir.tensortype": 0.5,
    "cnnir.signature": 1,
    "cnnir.ops": 1,
    "cnnir.printer": 1,
    "cnnir.ir": 2,
    "cnnir.text": 3,
    "cnnir.evaluate": 3,
    "cnnir.gradient": 3,
    "cnnir.hessian": 3.5,
    "cnnir.recompute": 2.5,
    "cnnir.rewrite": 3,
    "cnnir.records": 3.5,
    "cnnir.verify": 3.5,
    "cnnir.loops": 3,
    "cnnir.memory": 3,
    "cnnir.analysis": 3,
    "cnnir.backends.state": 2,
    "cnnir.backends.base": 3,
    "cnnir.backends.cache": 3,
    "cnnir.backends.pieces": 3,
    "cnnir.backends.fused": 3.5,
    "cnnir.backends.schedule": 3.5,
    "cnnir.backends.carry": 3.6,
    "cnnir.backends.planner": 3.7,
    "cnnir.backends.stored": 3.5,
    "cnnir.backends.arrays": 2,
    "cnnir.passes": 4,
    "cnnir.report": 4,
    "cnnir.provenance": 4,
    "cnnir.pipeline": 5,
    "cnnir.identity": 5,
    "cnnir.front": 5,
    "cnnir.reporting": 5,
    "cnnir.culprit": 5.5,
    "cnnir.compile": 6,
    "cnnir.mathematics": 6.5,
    "cnnir.training": 6.5,
    "cnnir.plots": 6.7,
    "cnnir": 7,
    "cnnir.cli": 7,
    "cnnir.frontends": 4,
    "cnnir.backends": 4,
    "cnnir.backends.reference": 4,
    "cnnir.backends.llvm": 4,
    "cnnir.backends.cuda": 4,
    "cnnir.backends.cuda.bindings": 3,
}
# Where modules are imported by name when they are first needed.
PLUGIN_POINTS = {
    "cnnir.identity",
    "cnnir.front",
    "cnnir.backends.llvm",
    *("cnnir", "cnnir.ops", "cnnir.compile", "cnnir.cli", "cnnir.pipeline"),
    "cnnir.reporting",
    "cnnir.backends.cuda.bindings",
    "cnnir.mathematics",
}
MAX_LINES = 400


def _modules() -> dict[str, Path]:
    """Every module of the package, by the name it is imported under."""
    folders = {"cnnir": "cnnir", "cnnir.frontends": "frontends", "cnnir.backends": "backends"}
    found = {}
    for package, folder in folders.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            dotted = ".".join([package, *(p for p in parts if p != "__init__")])
            found[dotted] = path
    return found


MODULES = _modules()


def _key(module: str) -> str:
    """The entry of LEVELS that a module falls under."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(prefix for prefix in prefixes if prefix in LEVELS)


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of cnnir that a module imports by a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else str(node.module)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.fixture(params=list(MODULES))
def module(request: pytest.FixtureRequest) -> tuple[str, ast.Module]:
    return request.param, ast.parse(MODULES[request.param].read_text("utf-8"))


def test_imports_only_from_lower_levels(module: tuple[str, ast.Module]) -> None:
    name, tree = module
    own = _key(name)
    for line, imported in _imports(tree):
        if imported.split(".")[0] != "cnnir":
            continue
        theirs = _key(imported)
        fine = LEVELS[theirs] < LEVELS[own] or theirs == own
        assert fine, f"{MODULES[name]}:{line}: {name} must not import {imported}"


def test_imports_stand_at_the_top(module: tuple[str, ast.Module]) -> None:
    """No import inside a function, except by importlib at a plugin point."""
    name, tree = module
    for function in _functions(tree):
        for node in ast.walk(function):
            where = f"{MODULES[name]}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, (ast.Import, ast.ImportFrom)), f"{where}: import inside"
    loads = "import_module" in MODULES[name].read_text("utf-8")
    assert not loads or _key(name) in PLUGIN_POINTS, f"{name} is not a plugin point"


def test_modules_say_what_they_are(module: tuple[str, ast.Module]) -> None:
    name, tree = module
    assert ast.get_docstring(tree), f"{name} has no docstring"


@pytest.mark.parametrize(
    "folder", ["cnnir", "frontends", "backends", "tests", "examples", "benchmarks"]
)
def test_files_are_a_sitting(folder: str) -> None:
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in (ROOT / folder).rglob("*.py")}
    too_long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_LINES}
    assert not too_long, f"files over {MAX_LINES} lines: {too_long}"


def test_most_functions_fit_a_screen() -> None:
    """At least 95 of 100 functions have under 45 lines, and none more than 80."""
    lengths = {
        f"{name}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for name, path in MODULES.items()
        for function in _functions(ast.parse(path.read_text("utf-8")))
    }
    long = {name: n for name, n in lengths.items() if n >= 45}
    assert len(long) <= 0.05 * len(lengths), long
    assert not {name: n for name, n in long.items() if n > 80}


def test_no_file_is_a_drawer() -> None:
    """A helper lives in the file that needs it; no file is named as a library is."""
    drawers = {"utils", "helpers", "common", "misc", "onnx", "types", "numpy", "networkx"}
    assert not [str(p) for p in MODULES.values() if p.stem in drawers]


def test_levels_name_what_exists() -> None:
    """Every entry but those of backends yet to come is a module or package."""
    known = {*MODULES, "cnnir.backends.cuda"}
    missing = [name for name in LEVELS if name not in known]
    assert not missing
