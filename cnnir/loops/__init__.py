"""The kernel language that code generators print: typed scalar expressions in explicit loops.

`lower(node, layouts, lanes)` makes a `Kernel` of an op or fused node. `terms.py` has the kinds
of expressions, `expr.py` builds them in normal form, `analysis.py` reads and rewrites them,
`algebra.py` is what op definitions are written in, `statements.py` and `kernel.py` have the rest of
the language, `lower.py` builds the loops, `text.py` shows them.
"""

from cnnir.loops.algebra import ElementAlgebra
from cnnir.loops.kernel import Kernel
from cnnir.loops.lower import lower
from cnnir.loops.statements import Buffer, Layout

__all__ = ["Buffer", "ElementAlgebra", "Kernel", "Layout", "lower"]
