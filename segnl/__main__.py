"""`python -m segnl ...` and the installed `segnl ...`."""

import sys

from segnl.cli import main


def run() -> int:
    """The entry point of the installed `segnl` script; the exit codes are those of `segnl.core.errors`."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
