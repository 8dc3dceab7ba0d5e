"""Labels are looked at before a step: in it a wrong one would already have changed the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cnnir.errors import InputError
from cnnir.ir import Graph

LOSSES = ("cross_entropy", "nll_loss", "nll")


class LabelCheck:
    """What the losses of a graph demand of its inputs: input -> (classes, ignored label)."""

    def __init__(self, graph: Graph, inputs: Sequence[str]) -> None:
        self.wanted: dict[str, tuple[int, int | None]] = {}
        for node in graph.order():
            if node.name not in LOSSES:
                continue
            scores, labels = node.operands[:2]
            assert scores is not None and labels is not None
            if labels.node.kind == "input" and labels.name and labels.name in inputs:
                classes = scores.type.shape[1]
                self.wanted[labels.name] = classes, node.attrs["ignore_index"]

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """InputError for a label that is no class: which, and where."""
        for name, (classes, ignored) in self.wanted.items():
            labels = arrays[name]
            if not labels.size or (labels.min() >= 0 and labels.max() < classes):
                continue
            bad = (labels < 0) | (labels >= classes)
            if ignored is not None:
                bad &= labels != ignored
            if bad.any():
                where = tuple(int(i) for i in np.argwhere(bad)[0])
                place = where[0] if len(where) == 1 else where
                also = "" if ignored is None else f", or {ignored}, which is ignored"
                raise InputError(
                    f"label {labels[where]} of sample {place} is no class: the net gives "
                    f"{classes} scores, wanted labels from 0 to {classes - 1}{also}"
                )
