"""Imports of optional packages, where they are used. Imports no torch."""

import importlib
from typing import Any

from segnl.core.errors import MachineError


def import_extra(module: str, extra: str, missing: str) -> Any:
    """Imports a module of an optional extra. missing: the sentence about what is not installed.

    Raises MachineError with this sentence and the extra where the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise MachineError(f"{missing}; pip install 'segnl[{extra}]', or in a checkout ./run.sh extra {extra}") from err
