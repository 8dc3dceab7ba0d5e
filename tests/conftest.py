"""Options of the test run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnir.backends.cache import VARIABLE
from cnnir.backends.llvm import load, width


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite what the golden files expect; values are checked all the same",
    )


@pytest.fixture(autouse=True, scope="session")
def small_as_large() -> Iterator[None]:
    """Graphs of tests are small, and are to be compiled as large ones are.

    Their runs are shared among threads though they are too short for that, and their vectors are
    as wide as the machine's though most of the lanes pad. Programs like these are kept elsewhere.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)  # worker processes say 80; tables are to be whole
        if not os.environ.get(VARIABLE):
            patch.setenv(VARIABLE, str(Path.home() / ".cache" / "cnnir-tests"))
        patch.setattr(load, "SHARING_COST", -1.0)
        patch.setattr(width, "HALVING", ())
        yield
