"""The kernel language that code generators print: typed scalar expressions in explicit loops.

`lower(node, layouts, lanes)` makes a `Kernel` of an op or fused node. `expr.py` has expressions in
normal form, `analysis.py` reads and rewrites them, `algebra.py` is what op definitions are written
in, `kernel.py` has statements and buffers, `lower.py` builds the loops, `text.py` prints them.
"""

from cnnir.loops.algebra import ElementAlgebra
from cnnir.loops.kernel import Buffer, Kernel, Layout
from cnnir.loops.lower import lower
from cnnir.loops.text import kernel_text

__all__ = ["Buffer", "ElementAlgebra", "Kernel", "Layout", "kernel_text", "lower"]
