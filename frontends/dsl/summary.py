"""The table of a net's layers: what each gives, its weights, and its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

HEADINGS = ("layer", "written", "gives", "weights", "operations")
FIGURES = 3
"""How many columns from here on stand on the right."""


@dataclass(frozen=True)
class Row:
    """A layer; `operations` counts additions and multiplications of one run."""

    layer: str
    written: str
    gives: str
    weights: int
    operations: int

    def cells(self) -> tuple[str, ...]:
        """As they are printed."""
        figures = (f"{n:,}" if n else "" for n in (self.weights, self.operations))
        return (self.layer, self.written, self.gives, *figures)


@dataclass(frozen=True)
class Summary:
    """Rows of a net. Prints as plain text; rich shows it as a table."""

    title: str
    rows: Sequence[Row]
    weights: int
    trainable: int
    bytes: int
    operations: int

    @property
    def footer(self) -> str:
        """Totals in a sentence."""
        return (
            f"{self.weights:,} weights ({self.trainable:,} trainable, {self.bytes:,} bytes), "
            f"{self.operations:,} operations"
        )

    def __str__(self) -> str:
        lines = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        printed = [
            "  ".join(
                cell.rjust(width) if place >= FIGURES else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *printed, self.footer])

    def __rich__(self) -> Table:
        table = Table(
            title=self.title, caption=self.footer, box=box.SIMPLE_HEAD, title_justify="left",
            caption_justify="left", title_style="bold", pad_edge=False,
        )  # fmt: skip
        for place, heading in enumerate(HEADINGS):
            table.add_column(
                heading, justify="right" if place >= FIGURES else "left", overflow="fold"
            )
        for row in self.rows:
            table.add_row(*map(Text, row.cells()))
        return table


def summary(net: Any, traced: Any) -> Summary:
    """The rows of a traced net: layers that compute or have weights, in order of use."""
    operations: dict[str, int] = {}
    for node in traced.graph.order():
        if node.op is not None:
            for source in node.sources:
                operations[source] = operations.get(source, 0) + node.op.cost(node).flops
    rows = []
    for module, call in traced.calls.items():
        label = call.name or type(module).__name__
        own = sum(p.array.size for p in module._state.parameters.values())
        leaf = next(module.children(), None) is None
        if own or leaf or label in operations:
            shown = call.name or "(itself)"
            written = module._state.call + (f" x {call.count}" if call.count > 1 else "")
            rows.append(Row(shown, written, call.gave, own, operations.get(label, 0)))
    params = net.params
    trained = sum(params[name].size for name in traced.trainable)
    inputs = ", ".join(f"{v.name}: {v.type}" for v in traced.graph.inputs)
    size = sum(array.nbytes for array in params.values())
    total = sum(row.operations for row in rows)
    title = f"{type(net).__name__}({inputs})"
    return Summary(title, rows, params.count, trained, size, total)
