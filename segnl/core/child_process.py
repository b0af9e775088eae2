"""Python processes that this one starts. Imports no torch."""

import os
import sys


def child_command(code: str) -> list[str]:
    """Returns the command that runs `code` in a new Python process.

    -P: Python would else put the working directory before the standard library, where any yaml.py would be imported.
    """
    return [sys.executable, "-P", "-c", code]


def child_environment() -> dict[str, str]:
    """Returns this process's environment with its import path, in the same order: a user's own head may be on it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
