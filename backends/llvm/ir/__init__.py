"""LLVM IR, written as text while it is asked for: types, values, functions, and a builder.

Beneath everything of the backend that writes code; knows nothing of LLVM's library, which reads
the text in `engine`. An instruction becomes a line at once, and what is left of it is the name and
the type of its result, so that a kernel of thousands of instructions is written in milliseconds and
leaves nothing behind. Names follow `llvmlite.ir`, as far as there is a use for them.
"""

from __future__ import annotations

from cnnir.backends.llvm.ir.builder import Alloca, IRBuilder, PhiInstr
from cnnir.backends.llvm.ir.function import Block, Function, Module
from cnnir.backends.llvm.ir.kinds import (
    DoubleType,
    FloatType,
    FunctionType,
    HalfType,
    IntType,
    PointerType,
    Type,
    VectorType,
    VoidType,
)
from cnnir.backends.llvm.ir.values import Argument, Constant, Poison, Value

__all__ = [
    "Alloca",
    "Argument",
    "Block",
    "Constant",
    "DoubleType",
    "FloatType",
    "Function",
    "FunctionType",
    "HalfType",
    "IRBuilder",
    "IntType",
    "Module",
    "PhiInstr",
    "PointerType",
    "Poison",
    "Type",
    "Value",
    "VectorType",
    "VoidType",
]
