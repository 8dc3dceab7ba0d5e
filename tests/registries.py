"""Ops, rules and passes that a test declares for itself, and takes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cnnir.ops import OPS
from cnnir.passes import PASSES
from cnnir.rewrite import RULES


@contextmanager
def declared() -> Iterator[None]:
    """What is declared inside is gone afterwards."""
    registries: list[dict] = [OPS, PASSES, RULES]
    before = [set(registry) for registry in registries]
    try:
        yield
    finally:
        for registry, names in zip(registries, before, strict=True):
            for name in set(registry) - names:
                del registry[name]
