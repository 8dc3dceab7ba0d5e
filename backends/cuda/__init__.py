"""The CUDA backend, its first form: a graph as CUDA C text that NVRTC compiles.

`print_kernel` prints one kernel of the loop language, `print_graph` a whole graph; `PRELUDE` has
the functions that kernels call. Compiling and running are not here yet: the text is for reading,
and for whoever compiles it.
"""

from cnnir.backends.cuda.listing import Listing, listing, print_graph
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.printer import Launch, launch_of, print_kernel

__all__ = ["PRELUDE", "Launch", "Listing", "launch_of", "listing", "print_graph", "print_kernel"]
