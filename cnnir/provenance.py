"""What became of a source node, and where a piece of the result came from: provenance both ways.

A source node is a node of the ONNX file, or a layer of a net in Python, by its name. `trails` leads
from each to the nodes of the optimised graph that carry its name, to the steps of the plan that
compute those, and to their functions in the target's text. `story` tells of one: the rewrites it
went through, what rules left it alone and why, the kernel it ended in. `sources_of` goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cnnir.backends.base import Plan, Step
from cnnir.errors import InputError, near, quoted
from cnnir.ir import Graph, Node
from cnnir.printer import graph_names
from cnnir.records import PassRecord
from cnnir.rewrite import Declined, Rewrite


@dataclass(frozen=True, slots=True)
class Trail:
    """One source node in one node of the optimised graph and one step: a row of the provenance."""

    source: str
    node: str = ""
    """What the text of the optimised graph calls the node's result, such as `%y`; or nothing."""
    op: str = ""
    """The op, such as `conv + relu`, or `param` for what was computed beforehand."""
    step: int | None = None
    """Number of the step in the plan; None where no code runs for it."""
    kernel: str = ""
    symbol: str = ""
    """The function in the target's text."""
    line: int = 0
    """Line of the function in its text, from 1; 0 where there is no text."""
    seconds: float | None = None
    """Of the step, where a profile was given; sources that share a step share its time."""
    note: str = ""
    """Why there is no node, or no step."""


@dataclass(slots=True)
class Story:
    """What became of one source node."""

    name: str
    imported: tuple[str, ...]
    """The nodes that it was imported as, with their operands' types."""
    rewrites: list[tuple[str, Rewrite]] = field(default_factory=list)
    """(label of the pass, what it did) in order."""
    declined: list[tuple[str, Declined]] = field(default_factory=list)
    """(label of the pass, what nearly matched, and the condition that stopped it)."""
    trails: list[Trail] = field(default_factory=list)
    steps: dict[int, Step] = field(default_factory=dict)
    """The steps it ended in, by number."""

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        yield f"{self.name} was imported as {', '.join(self.imported)}"
        if self.rewrites:
            yield "rewrites:"
        for label, rewrite in self.rewrites:
            others = [source for source in rewrite.sources if source != self.name]
            yield f"  {label}: {rewrite.rule} ({rewrite.kind}) replaced {rewrite.node}" + (
                f", with {', '.join(others)}" if others else ""
            )
            if rewrite.reason:
                yield f"    because: {rewrite.reason}"
        if self.declined:
            yield "left alone:"
        for label, declined in self.declined:
            yield f"  {label}: {declined.rule} at {declined.node}: {declined.reason}"
        yield "now:"
        for trail in self.trails:
            yield f"  {' = '.join(filter(None, (trail.node, trail.op)))}{_where(trail)}"
            if trail.step is not None:
                yield from _kernel(self.steps[trail.step])


def _where(trail: Trail) -> str:
    if trail.step is None:
        return f"{': ' if trail.op else ''}{trail.note}"
    place = f", function {trail.symbol}, line {trail.line}" if trail.symbol else ""
    took = "" if trail.seconds is None else f", {trail.seconds * 1e6:.1f} us"
    return f": step {trail.step}, kernel {trail.kernel}{place}{took}"


def _kernel(step: Step) -> Iterable[str]:
    yield f"    because: {step.reason}"
    for rejected in step.rejected:
        yield f"    not {rejected}"


# ---------------------------------------------------------------- from sources to code


def trails(
    imported: Graph,
    graph: Graph,
    plan: Plan,
    history: Sequence[PassRecord] = (),
    texts: Mapping[str, str] | None = None,
    seconds: Sequence[float] | None = None,
) -> list[Trail]:
    """Rows for every source node of the imported graph, in its order.

    graph: after the passes. texts: of the functions that steps name. seconds: of each step.
    """
    names = graph_names(graph)
    homes: dict[str, list[Node]] = {}
    for node in graph.order():
        for source in node.sources:
            homes.setdefault(source, []).append(node)
    steps: dict[int, list[int]] = {}
    for number, step in enumerate(plan.steps):
        for serial in {step.serial, step.tail} - {-1}:
            steps.setdefault(serial, []).append(number)
    lines = {symbol: _line(symbol, text) for symbol, text in (texts or {}).items()}

    def rows(source: str) -> Iterable[Trail]:
        nodes = homes.get(source, [])
        computed = [node for node in nodes if node.op is not None]
        if not nodes:
            yield Trail(source, note=_end(source, history))
        for node in computed or nodes:
            shown = names[node.results[0]]
            numbers = steps.get(node.serial, [])
            if not numbers:
                yield Trail(source, shown, op_of(node), note=_no_step(node))
            for number in numbers:
                step = plan.steps[number]
                took = None if seconds is None else seconds[number]
                line = lines.get(step.symbol, 0)
                yield Trail(
                    source, shown, step.op, number, step.kernel, step.symbol, line, took
                )  # fmt: skip

    return [row for source in source_names(imported) for row in rows(source)]


def source_names(graph: Graph) -> list[str]:
    """The source nodes of a graph, in order."""
    return list(dict.fromkeys(source for node in graph.order() for source in node.sources))


def op_of(node: Node) -> str:
    """`conv + relu` for a fused node, the op's name for another."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return node.name
    return " + ".join(inner.name for inner in body.order() if inner.op is not None)


def _no_step(node: Node) -> str:
    if node.op is None:
        return "computed before the run" if node.kind == "param" else "the input itself"
    return "no code of its own: other names for bytes, written in place, or left to what reads it"


def _end(source: str, history: Sequence[PassRecord]) -> str:
    """What happened to a source that no node carries any more."""
    for record in reversed(history):
        for rewrite in reversed(record.rewrites):
            if source in rewrite.sources:
                return f"removed by {record.label}: {rewrite.rule} at {rewrite.node}"
    return "nothing needs it"


def _line(symbol: str, text: str) -> int:
    """Where a function begins, from 1; 0 where it does not."""
    for number, line in enumerate(text.splitlines(), 1):
        if symbol in line and line.startswith(("define", "extern", "__global__")):
            return number
    return 0


# ---------------------------------------------------------------- one source node, and back


def story(
    source: str, imported: Graph, history: Sequence[PassRecord], plan: Plan, rows: Sequence[Trail]
) -> Story:
    """What became of a source node of the imported graph. rows: of `trails`."""
    nodes = [n for n in imported.order() if source in n.sources and n.op is not None]
    told = Story(source, tuple(repr(n)[1:-1] for n in nodes) or ("a constant",))
    for record in history:
        told.rewrites += [(record.label, r) for r in record.rewrites if source in r.sources]
        told.declined += [(record.label, d) for d in record.declined if source in d.sources]
    told.trails = [row for row in rows if row.source == source]
    told.trails = told.trails or [Trail(source, note=_end(source, history))]
    told.steps = {r.step: plan.steps[r.step] for r in told.trails if r.step is not None}
    return told


def source_of(graph: Graph, name: str) -> str | None:
    """The source node of that name, or the one that makes the tensor of that name."""
    names = source_names(graph)
    if name in names:
        return name
    for node in graph.order():
        if node.sources and any(value.name == name for value in node.results):
            return node.sources[0]
    for value, output in zip(graph.outputs, graph.output_names, strict=True):
        if output == name and value.node.sources:
            return value.node.sources[0]
    return None


def sources_of(place: str | int, graph: Graph, plan: Plan) -> tuple[str, ...]:
    """The source nodes behind a step (its number), a value of the graph's text, or a function."""
    if isinstance(place, int):
        if not 0 <= place < len(plan.steps):
            raise InputError(f"there is no step {place}, there are {len(plan.steps)}")
        return plan.steps[place].sources
    functions: dict[str, list[str]] = {}
    for step in plan.steps:
        functions.setdefault(step.symbol, []).extend(step.sources)
    if place and place in functions:
        return tuple(dict.fromkeys(functions[place]))
    values = {shown: value.node.sources for value, shown in graph_names(graph).items()}
    for shown in (place, f"%{place}", f"@{place}"):
        if shown in values:
            return values[shown]
    hint = near(place, [*values, *functions])
    raise InputError(f"there is no value or function {quoted(place)}{hint}")


# ---------------------------------------------------------------- a part of a graph


def cut(graph: Graph, name: str) -> Graph:
    """A copy with one output: the value of that name, or the last result of that source node."""
    copy = graph.clone()
    values = dict(zip(copy.output_names, copy.outputs, strict=True))
    for node in copy.order():
        values |= {value.name: value for value in node.results if value.name}
    if name not in values:
        made = [node for node in copy.order() if name in node.sources and node.op is not None]
        if not made:
            sources = source_names(graph)
            raise InputError(f"there is no tensor {quoted(name)}{near(name, [*values, *sources])}")
        values[name] = made[-1].results[0]
    copy.outputs.clear()
    copy.output_names.clear()
    copy.trims.clear()
    copy.output(values[name], name)
    copy.sweep()
    return copy
