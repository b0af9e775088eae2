"""Python processes that this one starts. Imports no torch."""

import os
import sys

IMPORT_PATH = "SEGNL_IMPORT_PATH"
"""Environment variable with the import path of the parent."""


def child_command(code: str) -> list[str]:
    """Returns the command that runs `code` in a new Python process, with the environment of `child_environment`.

    -P: Python would else put the working directory before the standard library, where any yaml.py would be imported.
    """
    path = f"import os, sys; sys.path[:] = os.environ[{IMPORT_PATH!r}].split(os.pathsep)"
    return [sys.executable, "-P", "-c", f"{path}; {code}"]


def child_environment() -> dict[str, str]:
    """Returns this process's environment with its import path, in the same order: a user's own head may be on it.

    Not as PYTHONPATH: Python would run a sitecustomize.py of the working directory from there, at its start.
    """
    return os.environ | {IMPORT_PATH: os.pathsep.join(folder for folder in sys.path if folder)}
