"""Python processes that this one starts. Imports no torch."""

import json
import os
import sys

IMPORT_PATH = "SEGNL_IMPORT_PATH"
"""Environment variable with the import path of the parent, as JSON: a folder's name may hold a colon."""
MODULE_FOLDER = "SEGNL_MODULE_FOLDER"
"""Environment variable that child processes inherit: the command line's working folder. Only a dotted name puts it on
the import path: any package that is not installed, which a library tries to import, would else be taken from there."""


def child_command(code: str) -> list[str]:
    """Returns the command that runs `code` in a new Python process, with the environment of `child_environment`.

    -P: Python would else put the working directory before the standard library, where any yaml.py would be imported.
    """
    path = f"import json, os, sys; sys.path[:] = json.loads(os.environ[{IMPORT_PATH!r}])"
    return [sys.executable, "-P", "-c", f"{path}; {code}"]


def child_environment() -> dict[str, str]:
    """Returns this process's environment with its import path, in the same order: a user's own head may be on it.

    Standard streams are UTF-8, whatever those of the user's terminal are.

    Not as PYTHONPATH: Python would run a sitecustomize.py of the working directory from there, at its start.
    """
    own = {IMPORT_PATH: json.dumps([folder for folder in sys.path if folder])}
    return os.environ | own | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
