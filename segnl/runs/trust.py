"""Python modules that a checkpoint's recipe names. Imports no torch.

To import a module is to run its code, and a checkpoint may come from anybody: its checksum says nothing about who wrote
it. So a dotted name from a checkpoint is imported only if the user names the module too, or has imported it already.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segnl.core.components import is_dotted
from segnl.core.config import JSONDict
from segnl.core.errors import CheckpointError


def require_trusted_modules(recipe: JSONDict, trusted: Sequence[str], *, file: str) -> None:
    """Raises CheckpointError naming a module of `recipe` that the user did not name.

    trusted: names of modules, or of packages for all modules in them. file: the recipe's file, for the message.
    """
    unknown = untrusted_modules(recipe, trusted)
    if unknown:
        modules = f"modules {', '.join(unknown)}" if len(unknown) > 1 else f"module '{unknown[0]}'"
        raise CheckpointError(
            f"{file}: its recipe runs code of the Python {modules}; if you trust that code, "
            f"add{trust_options(unknown)} (docs/security.md)"
        )


def trust_options(modules: Sequence[str]) -> str:
    """Returns ` --trust-modules NAME` for each module."""
    return "".join(f" --trust-modules {name}" for name in modules)


def untrusted_modules(recipe: JSONDict, trusted: Sequence[str] = ()) -> list[str]:
    """Returns the modules that `recipe` names and that are neither trusted nor imported already, sorted."""
    return [
        name
        for name in dotted_names(recipe)
        if name not in sys.modules and not any(f"{name}.".startswith(f"{module}.") for module in trusted)
    ]


def dotted_names(recipe: JSONDict) -> list[str]:
    """Returns the modules that `recipe` names, sorted."""
    return sorted({name for name in _names(recipe) if is_dotted(name)})


def _names(value: Any, *, lists_name_components: bool = True) -> Iterator[str]:
    """Yields every text of a recipe where the name of a component may stand: the value of a key `name`, a key, and an
    entry of a list. In `data`, only the list `augment` names components; others may hold names of files.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            if key == "name" and isinstance(inner, str):
                yield inner
            is_of_components = key == "augment" or (lists_name_components and key != "data")
            yield from _names(inner, lists_name_components=is_of_components)
    elif isinstance(value, list | tuple):
        for inner in value:
            if isinstance(inner, str) and lists_name_components:
                yield inner
            yield from _names(inner, lists_name_components=lists_name_components)
