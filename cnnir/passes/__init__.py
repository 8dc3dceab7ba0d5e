"""The passes: a file each, and here the one list of what runs, in order.

To add one, declare a subclass of `Pass` (or call `rule_pass`) and name it in a pipeline. Passes
know graphs, ops and the evaluator; running, verifying and timing them is `pipeline.py`'s.
"""

from cnnir.passes.algebra import Algebra
from cnnir.passes.base import PASSES, Pass, RulePass, rule_pass
from cnnir.passes.batch_norm import BatchNorm
from cnnir.passes.canonical import Canonical
from cnnir.passes.collapse import Collapse
from cnnir.passes.commute import Commute
from cnnir.passes.cse import Cse
from cnnir.passes.dead import Dead
from cnnir.passes.decompose import Decompose
from cnnir.passes.duplicate import Duplicate
from cnnir.passes.fold import Fold
from cnnir.passes.fuse import Fuse
from cnnir.passes.grouped import Grouped
from cnnir.passes.identity import Identity
from cnnir.passes.pad import Pad
from cnnir.passes.parallel import Parallel
from cnnir.passes.recognise import Recognise
from cnnir.passes.reshape_transpose import ReshapeTranspose
from cnnir.passes.separable import Separable
from cnnir.passes.siblings import Siblings
from cnnir.passes.transposed import Transposed

PIPELINES: dict[str, tuple[Pass, ...]] = {
    "inference": (
        Dead(),
        Fold(),
        Canonical(),
        Identity(),
        ReshapeTranspose(),
        Cse(),
        Recognise(),
        BatchNorm(),
        Pad(),
        Algebra(),
        Commute(),
        Parallel(),
        Collapse(),
        Transposed(),
        Grouped(),
        Separable(),
        Decompose(),
        Fold(),  # what the parts of a decomposed op made of its params
        Identity(),
        Cse(),
        Siblings(),
        Duplicate(),
        Fuse(),
        Dead(),
    ),
    "none": (),
}
"""Named lists of passes. `inference` is what `compile` runs by default."""

SHIPPED = dict(PIPELINES)
"""The pipelines as they come with cnnir, whatever is added to the others or changed in them."""

ALIASES = {"affine": "collapse"}
"""Other names of passes, in the text of pipelines."""

__all__ = ["ALIASES", "PASSES", "PIPELINES", "Pass", "RulePass", "rule_pass"]
