"""Honest times: several runners in turn (a b a b ...), so that a busy moment meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from cnnir.report.table import Column, duration, number, percent, table


@dataclass
class Timing:
    """The times of one runner, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle time."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The least time: what the machine does when nothing disturbs it."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the times, as a share of the median."""
        if len(self.seconds) < 4:
            return (max(self.seconds) - self.best) / 2 / self.median
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


def interleaved(
    runners: Mapping[str, Callable[[], object]],
    seconds: float = 3.0,
    least: int = 5,
    most: int = 1000,
    in_a_row: int = 1,
) -> dict[str, Timing]:
    """Time the runners in turn for about `seconds`, after two runs of each to warm up.

    At least `least` rounds are made, so that a slow model still gets a median. in_a_row: runs of a
    runner before the next has its turn, each timed by itself.
    """
    for runner in runners.values():
        runner()
        runner()
    timings = {name: Timing() for name in runners}
    end = time.perf_counter() + seconds
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        for name, runner in runners.items():
            for _ in range(in_a_row):
                start = time.perf_counter()
                runner()
                timings[name].seconds.append(time.perf_counter() - start)
    return timings


def timing_rows(timings: Mapping[str, Timing], flops: int) -> list[dict[str, Any]]:
    """A row a runner; `speed` is the first runner's speed over this one's, by medians."""
    first = next(iter(timings.values()))
    return [
        {
            "runner": name,
            "runs": len(timing.seconds),
            "median_s": timing.median,
            "min_s": timing.best,
            "spread": timing.spread,
            "gflops": flops / timing.best / 1e9,
            "speed": timing.median / first.median if timing is not first else None,
            "speed_min": timing.best / first.best if timing is not first else None,
        }
        for name, timing in timings.items()
    ]


def timing_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The times of `timing_rows`; the last columns say how often the first runner is as fast."""
    columns = [
        Column("runner", "runner"),
        number("runs", "runs"),
        number("median_s", "median", duration),
        number("min_s", "min", duration),
        number("spread", "spread", lambda s: f"±{percent(s)}"),
        number("gflops", "GFLOP/s", "{:.1f}".format),
    ]
    if len(rows) > 1:
        first = rows[0]["runner"]
        columns.append(number("speed", f"{first} is, by median", "{:.2f} x as fast".format))
        columns.append(number("speed_min", "by min", "{:.2f} x".format))
    return table(title, columns, rows)
