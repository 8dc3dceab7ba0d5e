"""Rows to tables: the one place that knows how our tables look. Also how figures are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column: the row's key, its heading, how a value is written, and where it stands."""

    key: str
    heading: str
    write: Callable[[Any], str] = str
    right: bool = False
    wrap: bool = False


def number(key: str, heading: str, write: Callable[[Any], str] = str) -> Column:
    """A column of figures, which stand on the right."""
    return Column(key, heading, write, right=True)


def table(
    title: str,
    columns: Iterable[Column],
    rows: Iterable[Row],
    footer: str = "",
    dense: bool = False,
) -> Table:
    """A table; values that are None are left blank. `dense` is for one of many columns."""
    columns = list(columns)
    shown = Table(
        title=title or None,
        caption=footer or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0) if dense else (0, 1),
    )
    for column in columns:
        shown.add_column(
            column.heading,
            justify="right" if column.right else "left",
            no_wrap=not column.wrap,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for row in rows:
        cells = (row.get(c.key) for c in columns)
        written = ("" if v is None else c.write(v) for c, v in zip(columns, cells, strict=True))
        # names of nodes come from model files: as Text, brackets in them are no markup
        shown.add_row(*map(Text, written))
    return shown


def size(count: float) -> str:
    """Bytes for people: `812 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def scaled(count: float, unit: str = "") -> str:
    """A count for people: `53 FLOP`, `4.10 GFLOP`."""
    for prefix in ("", "k", "M", "G"):
        if abs(count) < 1000 or prefix == "G":
            written = f"{count:.2f}" if prefix else f"{count:.0f}"
            return f"{written} {prefix}{unit}".rstrip()
        count /= 1000
    raise AssertionError("unreachable")


def short(count: float) -> str:
    """A count in three digits: `53`, `9.47 k`, `118 M`, `15.5 G`."""
    for prefix in ("", "k", "M", "G"):
        if abs(count) < 999.5 or prefix == "G":
            digits = 0 if not prefix or abs(count) >= 99.95 else 1 if abs(count) >= 9.995 else 2
            return f"{count:.{digits}f} {prefix}".rstrip()
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """A time for people: `12.3 us`, `4.56 ms`, `1.20 s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def percent(share: float) -> str:
    """A share of one as `93.1 %`."""
    return f"{share * 100:.1f} %"
