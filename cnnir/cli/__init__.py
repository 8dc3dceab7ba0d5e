"""The command line: a file a command; what commands share is in `application`.

`cnnir --help` lists the commands in the order of COMMANDS.
"""

from cnnir.cli import analyze, bench, compile, inspect, ops, run, why
from cnnir.cli.application import app

COMMANDS = (run, compile, bench, inspect, why, analyze, ops)


def main() -> None:
    """The entry point of the `cnnir` script: run the command that the arguments name."""
    app()
