"""Modules, functions and blocks: what holds the lines of instructions, and their text."""

from __future__ import annotations

import re

from cnnir.backends.llvm.ir.kinds import FunctionType, PointerType
from cnnir.backends.llvm.ir.values import Argument, Value

_PLAIN = re.compile(r"[\w.$-]+")


class Module:
    """Functions, by name in `globals`; its text is what LLVM reads."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.globals: dict[str, Function] = {}
        self.weighs = False
        """Whether a branch says that it is seldom taken."""

    def __str__(self) -> str:
        parts = [f"; {self.name}", *(str(function) for function in self.globals.values())]
        if self.weighs:
            parts.append('!0 = !{!"branch_weights", i32 1, i32 99}')
        return "\n\n".join(parts) + "\n"

    def taken(self) -> str:
        """The text, after which the module is used up: its lines hold far more than their text,
        and each other, so that they would stay until the garbage collector comes by."""
        text = str(self)
        for function in self.globals.values():
            for block in function.blocks:
                block.lines.clear()
            function.blocks.clear()
        self.globals.clear()
        return text


class Function(Value):
    """A function of a module: declared, or defined once it has a block."""

    __slots__ = ("args", "attributes", "blocks", "count", "module", "result")

    def __init__(self, module: Module, signature: FunctionType, name: str) -> None:
        super().__init__(PointerType(), f"@{name}" if _PLAIN.fullmatch(name) else f'@"{name}"')
        assert name not in module.globals
        self.module, self.result = module, signature.result
        self.args = [Argument(kind, f"%a{n}") for n, kind in enumerate(signature.arguments)]
        self.attributes: set[str] = set()
        self.blocks: list[Block] = []
        self.count = 0
        """Values that have a name so far."""
        module.globals[name] = self

    def append_basic_block(self, name: str) -> Block:
        """A new last block."""
        label = f"{name}.{len(self.blocks)}" if self.blocks else name
        block = Block(self, label)
        self.blocks.append(block)
        return block

    def __str__(self) -> str:
        head = f"{self.result.text} {self.ref}"
        if not self.blocks:
            return f"declare {head}({', '.join([a.type.text for a in self.args])})"
        arguments = [" ".join([a.type.text, *a.attributes, a.ref]) for a in self.args]
        attributes = "".join([f" {name}" for name in sorted(self.attributes)])
        lines = [f"define {head}({', '.join(arguments)}){attributes} {{"]
        for block in self.blocks:
            lines.append(f"{block.label}:")
            lines += [f"  {line}" for line in block.lines]
            lines.append(f"  {block.terminator}")
        return "\n".join(lines) + "\n}"


class Block:
    """Instructions in a row, and where they end."""

    __slots__ = ("function", "label", "lines", "terminator")

    def __init__(self, function: Function, label: str) -> None:
        self.function, self.label = function, label
        self.lines: list[object] = []
        """What has the text of an instruction as its str."""
        self.terminator = ""
