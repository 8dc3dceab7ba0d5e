"""Golden files: graphs before and after a pass, `golden/<pass>/<rule>.ir`.

    // CASE: what it shows
    // SET c = 0.5              (a param: a number or list; `positive` draws random ones > 0,
                                 `rank 2` kernels of so many vertical and horizontal filters,
                                 `blocks 2` kernels of so many diagonal blocks,
                                 `shuffled 2` the same with channels in another order)
    graph @m(...) { ... }
    // EXPECT: rule=2           (what fires, how often)
    graph @m(...) { ... }

A case that must stay as it is ends in `// UNCHANGED`, or `// UNCHANGED: reason` where the rule has
to decline for that reason. `// RUN: a,b` before the first case runs another pipeline than the
folder's name. `--update-golden` rewrites the graphs after EXPECT; it never turns UNCHANGED into
EXPECT, and values are checked in any case.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnnir.ir import Graph
from cnnir.tensortype import TensorType
from cnnir.text import parse

FOLDER = Path(__file__).parent / "golden"
NAMES = {"inf": np.inf, "sqrt": np.sqrt, "pi": np.pi, "outer": np.outer, "array": np.array}
"""What the expression of a SET may use."""


@dataclass
class Case:
    """One graph and what the pass makes of it."""

    file: Path
    title: str
    pipeline: str
    before: str
    settings: dict[str, str] = field(default_factory=dict)
    unchanged: bool = False
    reason: str = ""
    fired: dict[str, int] = field(default_factory=dict)
    after: str = ""

    def graph(self, dtype: str = "f32") -> Graph:
        """The graph before; with f64 instead of f32 when asked."""
        text = re.sub(r"\bf32\b", dtype, self.before)
        declared = re.findall(r"param @([\w.~]+) : (\S+)", text)
        arrays = {n: self._array(n, TensorType.parse(t)) for n, t in declared if n in self.settings}
        return parse(text, params=arrays, seed=7)

    def _array(self, name: str, type: TensorType) -> np.ndarray:
        setting = self.settings[name]
        if setting == "positive":
            array = np.random.default_rng(len(name)).uniform(0.5, 2.0, type.shape)
        elif setting.startswith("rank "):
            array = _of_rank(int(setting[5:]), type.shape)
        elif setting.startswith("blocks "):
            array = _in_blocks(int(setting[7:]), type.shape)
        elif setting.startswith("shuffled "):
            array = _shuffled(_in_blocks(int(setting[9:]), type.shape))
        else:
            array = np.broadcast_to(np.asarray(_number(setting)), type.shape)
        return array.astype(type.numpy)

    def text(self) -> str:
        """The case as it stands in its file."""
        lines = [f"// CASE: {self.title}"]
        lines += [f"// SET {name} = {value}" for name, value in self.settings.items()]
        lines.append(self.before)
        if self.unchanged:
            lines.append("// UNCHANGED" + (f": {self.reason}" if self.reason else ""))
        else:
            fired = ", ".join(f"{name}={times}" for name, times in sorted(self.fired.items()))
            lines += [f"// EXPECT: {fired}", self.after]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return f"{self.file.parent.name}/{self.file.stem}: {self.title}"


def _of_rank(rank: int, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel [O,C,*taps] whose first spatial axis comes through `rank` channels."""
    rng = np.random.default_rng(rank)
    first = rng.standard_normal((rank, shape[1], shape[2]))
    second = rng.standard_normal((shape[0], rank, *shape[3:]))
    return np.einsum("rcu,or...->ocu...", first, second)


def _in_blocks(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel [O,C,*taps] that is zero outside of diagonal blocks."""
    array = np.random.default_rng(count).standard_normal(shape)
    blocks = np.kron(np.eye(count), np.ones((shape[0] // count, shape[1] // count)))
    return array * blocks.reshape(*shape[:2], *[1] * (len(shape) - 2))


def _shuffled(array: np.ndarray) -> np.ndarray:
    """Its first two axes in another order."""
    rng = np.random.default_rng(len(array))
    return array[rng.permutation(array.shape[0])][:, rng.permutation(array.shape[1])]


def _number(text: str) -> object:
    expression = ast.parse(text, mode="eval")
    return eval(compile(expression, "SET", "eval"), NAMES)


def cases(file: Path) -> list[Case]:
    """The cases of one file."""
    head, *parts = re.split(r"^// CASE: ", file.read_text("utf-8"), flags=re.MULTILINE)
    run = re.search(r"^// RUN: (.*)$", head, re.MULTILINE)
    return [_case(file, run[1] if run else file.parent.name, part) for part in parts]


def _case(file: Path, pipeline: str, text: str) -> Case:
    title, rest = text.split("\n", 1)
    settings = dict(re.findall(r"^// SET ([\w.~]+) = (.*)$", rest, re.MULTILINE))
    rest = re.sub(r"^// SET .*\n", "", rest, flags=re.MULTILINE)
    before, mark, after = re.split(r"^// (EXPECT|UNCHANGED)", rest, maxsplit=1, flags=re.MULTILINE)
    said, _, graph = after.partition("\n")
    said = said.removeprefix(":").strip()
    case = Case(file, title, pipeline, before.strip(), settings, mark == "UNCHANGED")
    if case.unchanged:
        case.reason = said
    else:
        case.fired = {n: int(t) for n, t in re.findall(r"(\w+)=(\d+)", said)}
        case.after = graph.strip()
    return case


def write(file: Path, updated: list[Case]) -> None:
    """Write the cases of a file back."""
    default = updated[0].pipeline == file.parent.name
    head = "" if default else f"// RUN: {updated[0].pipeline}\n\n"
    file.write_text(head + "\n".join(case.text() for case in updated), "utf-8")


ALL = [case for file in sorted(FOLDER.rglob("*.ir")) for case in cases(file)]
