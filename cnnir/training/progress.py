"""What is shown while a training runs: a bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnnir.errors import InputError
from cnnir.training.history import Row, row_text

CHOICES = ("auto", "bar", "lines", "none")


class Show:
    """Shows nothing; the base of what does."""

    def begin(self, epoch: int, epochs: int, batches: int | None) -> None:
        """An epoch, counted from 1, begins."""

    def step(self, batch: int, row: Row) -> None:
        """So many batches are done, with these means."""

    def end(self, row: Row) -> None:
        """An epoch is over."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines(Show):
    """A line an epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def end(self, row: Row) -> None:
        self.console.print(row_text(row), highlight=False, soft_wrap=True)


class Bar(Lines):
    """A bar of the batches of an epoch, and a line above it for each that is over."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self.stack = ExitStack()
        self.stack.enter_context(self.progress)
        self.task = self.progress.add_task("", total=None, numbers="")

    def begin(self, epoch: int, epochs: int, batches: int | None) -> None:
        self.progress.reset(
            self.task, description=f"epoch {epoch}/{epochs}", total=batches, numbers=""
        )

    def step(self, batch: int, row: Row) -> None:
        numbers = "  ".join(f"{name} {number:.4g}" for name, number in row.items())
        self.progress.update(self.task, completed=batch, numbers=numbers)

    def close(self) -> None:
        self.stack.close()


def shown(how: str, console: Console | None = None) -> Show:
    """One of CHOICES; auto is a bar in a terminal and lines elsewhere."""
    if how not in CHOICES:
        raise InputError(f"show is {how!r}, wanted one of {', '.join(CHOICES)}")
    console = console or Console()
    if how == "auto":
        how = "bar" if console.is_terminal else "lines"
    return {"bar": Bar, "lines": Lines}[how](console) if how != "none" else Show()
