"""Options of the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
    as wide as the machine's though most of the lanes pad.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "SHARING_COST", -1.0)
        patch.setattr(width, "HALVING", ())
        yield
