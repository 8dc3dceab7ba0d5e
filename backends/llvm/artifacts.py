"""What a program can be written out as: its LLVM IR, and what is compiled from that."""

from __future__ import annotations

from cnnir.backends.llvm.engine import render
from cnnir.backends.llvm.target import CpuTarget

FORMS = {
    "ll": "LLVM IR as it was written, a file a kernel, and run.ll, which calls them",
    "opt": "the same after LLVM has optimised it",
    "asm": "assembly",
    "obj": "object files",
}

_ENDINGS = {"ll": "ll", "opt": "opt.ll", "asm": "s", "obj": "o"}
_RENDERED = {"opt": "ir", "asm": "assembly", "obj": "object"}


def files(kernels: dict[str, str], run: str, target: CpuTarget, form: str) -> dict[str, bytes]:
    """File name -> content, for one of FORMS; kernels and run: the texts of all modules."""
    found = {}
    for name, text in {**kernels, "run": run}.items():
        provided = kernels if name == "run" else ()
        made = text.encode() if form == "ll" else render(text, target, _RENDERED[form],
                                                         provided=provided)  # fmt: skip
        found[f"{name}.{_ENDINGS[form]}"] = made
    return found
