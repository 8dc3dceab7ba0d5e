"""The command line: a file a command; what commands share is in `application`.

`cnnir --help` lists the commands in the order of COMMANDS.
"""

from cnnir.cli import analyze, bench, check, compile, diff, explain, inspect, ops, run, why
from cnnir.cli.application import app

COMMANDS = (run, check, compile, bench, inspect, why, diff, analyze, explain, ops)


def main() -> None:
    """The entry point of the `cnnir` script: run the command that the arguments name."""
    app()
