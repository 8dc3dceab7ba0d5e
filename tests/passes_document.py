"""docs/passes.md, made from the passes, their rules and the golden files."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import golden

from cnnir.passes import PASSES, PIPELINES, Pass, RulePass
from cnnir.rewrite import Rule

FILE = Path(__file__).parents[1] / "docs" / "passes.md"

HEAD = """\
# The passes

What every pass does: its formulas, its conditions, and a graph before and after it. This page is
made from the docstrings of [cnnir/passes](../cnnir/passes) and the golden files of
[tests/golden](../tests/golden) by `pytest tests/test_passes_document.py --update-golden`; the same
test fails where it is out of date.

A rule says what it does to the values. **exact**: the same bits. **reassociating**: the same in
real numbers, rounded otherwise. **lossy**: other values, within a tolerance that has to be asked
for; no pipeline has one by itself. New weights are computed in f64 and rounded once; the old ones
are never changed.

Rules that could make a graph slower ask for the work first: operations, and two more for every byte
read or written ([cnnir/passes/paying.py](../cnnir/passes/paying.py)). What fired, and what was left
alone and why, is in `exe.history` and `cnnir inspect model.onnx --json`.

**A pipeline is text**, on the command line (`--passes`) and in `cnnir.compile(model, passes=...)`:
`inference` is the default, `inference,-fuse` is that without a pass,
`fold,collapse(max_cost=1.0),separable(tolerance=1e-3)` names passes and gives them options
(`affine` is another name of `collapse`). How to write a rule of your own:
[add-a-rule.md](add-a-rule.md). What the linear algebra here is good for, with times:
[examples/collapse_and_split.py](../examples/collapse_and_split.py). How to look at what passes
did, and to verify it: [inspect.md](inspect.md).

**Borders.** A convolution of a convolution is one convolution inside of the image. At its border
it is one only if what pads the result between the two is what the inner layer would give there.
Zeros are, when the inner layer has no bias and reads nothing but zeros from beyond its border: then
a 1x1 may go under a padded 3x3. A bias is not a zero: it becomes a map of constants, which is a
bias for every position. A padded 3x3 on a 3x3 stays two layers.
"""


def text() -> str:
    """The whole document."""
    return "\n".join([HEAD, *_pipeline(), *(line for name in _names() for line in _section(name))])


def _names() -> list[str]:
    """Passes in the order of the default pipeline, then any others of ours."""
    ours = [name for name, kind in PASSES.items() if kind.__module__.startswith("cnnir.")]
    return list(dict.fromkeys([*(p.name for p in PIPELINES["inference"]), *sorted(ours)]))


def _pipeline() -> Iterator[str]:
    yield "## The default pipeline\n"
    order = " → ".join(f"[{p.name}](#{p.name})" for p in PIPELINES["inference"])
    yield f"{order}\n"


def _section(name: str) -> Iterator[str]:
    kind = PASSES[name]
    yield f"## {name}\n"
    yield inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "") + "\n"
    yield from _options(kind)
    if issubclass(kind, RulePass):
        for rule in kind.rules:
            yield from _rule(name, rule)
    else:
        yield f"```text\n{inspect.cleandoc(kind.__doc__ or '')}\n```\n"
        yield from _shown(name, None)


def _options(kind: type[Pass]) -> Iterator[str]:
    source = inspect.getsource(kind)
    for option in fields(kind):  # type: ignore[arg-type]
        default = getattr(kind, option.name)
        after = source.split(f"    {option.name}:", 1)[1].split('"""')[1]
        yield f"Option `{option.name}`, {default!r} by default: {' '.join(after.split())}\n"


def _rule(name: str, rule: Rule) -> Iterator[str]:
    yield f"### {rule.name}\n"
    yield f"{rule.kind}, on {', '.join(rule.ops) or 'any op'}\n"
    yield f"```text\n{rule.doc}\n```\n"
    yield from _shown(name, rule.name)


def _shown(name: str, rule: str | None) -> Iterator[str]:
    """The first case of its golden file that fires, and reasons to stay away."""
    own = [c for c in golden.ALL if c.file.parent.name == name]
    fires = [c for c in own if c.fired and c.file.stem == (rule or c.file.stem)]
    case = next(iter(fires or [c for c in own if rule in c.fired]), None)
    if case is not None:
        yield f"Before and after ({case.title}):\n"
        yield f"```text\n{case.before}\n\n{case.after}\n```\n"
    stays = [c for c in own if c.reason and (rule is None or c.file.stem == rule)]
    if stays:
        listed = "; ".join(f"{c.title} ({c.reason})" for c in stays)
        yield f"It stays away from: {listed}.\n"
