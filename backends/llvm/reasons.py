"""Why the plan takes one template and not another, in words."""

from __future__ import annotations

from cnnir.backends.llvm.tuning import Time
from cnnir.backends.llvm.work import Offer


def by_prediction(found: list[Offer]) -> tuple[str, list[str]]:
    """Why the first offer was taken, and not the others."""
    slower = [f"{o.kind}: predicted {o.seconds * 1e6:.0f} us" for o in found[1:]]
    return f"predicted {found[0].seconds * 1e6:.0f} us on one core", slower


def by_measuring(times: list[Time]) -> tuple[str, list[str]]:
    """The same for what was measured; nothing yet where it is still to be."""
    if not times:
        return "to be measured", []
    best, *others = times
    following = f", next {others[0]}" if others else ""
    slower = [
        f"{time.kind} {time.tiling}: {time.seconds * 1e6:.0f} us, "
        f"predicted {time.predicted * 1e6:.0f} us"
        for time in others
    ]
    return f"tuned: {best.seconds * 1e6:.0f} us{following}", slower
