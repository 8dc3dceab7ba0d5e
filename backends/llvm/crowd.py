"""Whether a run is shared among threads, on a machine where other programs want its cores as well.

A worker that another program pushes aside with an item in hand is fetched (see `rescue`), which
costs more than a short step takes. Where that keeps happening, a run may be quicker on the caller's
thread alone; a long one mostly gains from half a core all the same. So runs of both kinds are timed
from the first fetch on, and the quicker kind is taken until nobody has to be fetched any more.
Results are the same bits for every number of threads.
"""

from __future__ import annotations

RECENT = 4
"""The machine is crowded when a fetch comes so few shared runs after another."""
TRIAL = 8
"""While it is, every so many runs the kind that seems slower is tried."""
CALM = 2
"""So many shared runs in a row without a fetch end it."""

_KEPT = 0.75  # of what was known of a kind of run, when another one has been timed


class Crowd:
    """What the runs of one program have seen of others; advice, so it takes no lock."""

    def __init__(self) -> None:
        self.crowded = False
        self._seconds: dict[bool, float] = {}  # of runs that are shared, and that are not
        self._calm = RECENT  # shared runs since a worker had to be fetched
        self._runs = 0

    def share(self) -> bool:
        """Whether the next run should be shared."""
        if not self.crowded:
            return True
        shared, alone = self._seconds[True], self._seconds.get(False)
        if alone is None:
            return False
        self._runs += 1
        return (shared <= alone) != (self._runs % TRIAL == 0)

    def took(self, shared: bool, seconds: float, fetched: bool) -> None:
        """A run is over; fetched: a worker had to be."""
        known = self._seconds.get(shared, seconds)
        self._seconds[shared] = _KEPT * known + (1 - _KEPT) * seconds
        if not shared:
            return
        if fetched:
            self.crowded = self.crowded or self._calm < RECENT
            self._calm = 0
            return
        self._calm += 1
        if self.crowded and self._calm >= CALM:
            self.crowded = False
            self._seconds.clear()
