"""`python -m cnnir.cli` is `cnnir`."""

from cnnir.cli import main

main()
