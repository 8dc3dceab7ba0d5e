"""Whether a run is shared among threads, on a machine where other programs want its cores as well.

A worker that another program pushes aside with an item in hand is fetched (see `rescue`), which
costs more than a short step takes. Where that keeps happening, a run may be quicker on the caller's
thread alone; a long one mostly gains from half a core all the same. So there runs of both kinds are
timed, and the quicker kind is taken until nobody has to be fetched any more. Results are the same
bits for every number of threads.
"""

from __future__ import annotations

from collections import deque
from statistics import median

RECENT = 4
"""The machine is crowded when a fetch comes so few shared runs after another."""
TRIAL = 16
"""While it is, every so many runs the kind that seems slower is tried."""
CALM = 2
"""So many shared runs in a row without a fetch end it."""
KNOWN = 3
"""Runs of a kind by whose median it is judged, the latest ones among others."""


class Crowd:
    """What the runs of one program have seen of others; advice, so it takes no lock."""

    def __init__(self) -> None:
        self.crowded = False
        self._latest: dict[bool, deque[float]] = {k: deque(maxlen=KNOWN) for k in (True, False)}
        """Seconds among others, of runs that were shared and that were not."""
        self._calm = RECENT  # shared runs since a worker had to be fetched
        self._runs = 0

    def share(self) -> bool:
        """Whether the next run should be shared."""
        if not self.crowded:
            return True
        shared, alone = self._latest[True], self._latest[False]
        if len(alone) < KNOWN or len(shared) < KNOWN:
            return len(shared) < len(alone)
        self._runs += 1
        return (median(shared) <= median(alone)) != (self._runs % TRIAL == 0)

    def took(self, shared: bool, seconds: float, fetched: bool) -> None:
        """A run is over; fetched: a worker had to be."""
        if self.crowded:
            self._latest[shared].append(seconds)
        if not shared:
            return
        if fetched:
            self.crowded = self.crowded or self._calm < RECENT
            self._calm = 0
            return
        self._calm += 1
        self.crowded = self.crowded and self._calm < CALM
