"""Components by name: a file of one of segnl's folders, or any module by its dotted name."""

import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic_core import CoreSchema, core_schema

from segnl.core.child_process import MODULE_FOLDER
from segnl.core.config import Config, config_error, error_at, parse, suggest
from segnl.core.errors import ConfigError


def is_dotted(name: str) -> bool:
    """Whether a component's name is that of a module outside of segnl, such as `mylab.heads.swirl`."""
    return "." in name and all(word.isidentifier() for word in name.split("."))


def _is_installed(package: str) -> bool:
    """Whether the import path has a package without the working folder, which is searched last and only if needed."""
    return MODULE_FOLDER not in os.environ or package in sys.modules or importlib.util.find_spec(package) is not None


@dataclass(frozen=True)
class Components:
    """One kind of component, such as heads.

    package: segnl's own components, a file each, such as "segnl.models.heads". attribute: the name to which a module's
    last line assigns its class, such as "HEAD". key: the recipe key that holds the name. base: class of all components.
    """

    package: str
    attribute: str
    key: str
    base: type

    def names(self) -> list[str]:
        """Returns the names of the package's components, without importing any."""
        package = importlib.import_module(self.package)
        names = {module.name for module in pkgutil.iter_modules(package.__path__)}
        return sorted(names - {"base", "find"})

    def find(self, name: str) -> Any:
        """Returns the class of a component of segnl, or of the module with a dotted name such as `mylab.heads.swirl`.

        Raises ConfigError for an unknown name, listing the known ones, for a module that cannot be imported, and for
        one without the attribute.
        """
        if not is_dotted(name) and name not in self.names():
            raise ConfigError(f"{self.key}: holds {name!r}{suggest(name, self.names())}")
        module = name if is_dotted(name) else f"{self.package}.{name}"
        if is_dotted(name) and not _is_installed(name.partition(".")[0]):
            sys.path.append(os.environ[MODULE_FOLDER])
        try:
            component = getattr(importlib.import_module(module), self.attribute, None)
        except ModuleNotFoundError as err:
            raise ConfigError(f"{self.key}: cannot import {module} ({err}); is its folder on PYTHONPATH?") from err
        except (Exception, SystemExit) as err:  # somebody's module may raise anything
            reason = (str(err).splitlines() or [""])[0]
            raise ConfigError(f"{self.key}: importing {module} raised {type(err).__name__}: {reason}") from err
        if not (isinstance(component, type) and issubclass(component, self.base)):
            raise ConfigError(
                f"{self.key}: module {name} has no {self.attribute}; its last line must be {self.attribute} = THE_CLASS"
            )
        return component

    def settings(self, section: Any) -> Any:
        """Returns a recipe's section as the settings of the component that it names; the validator of such a field."""
        if isinstance(section, Config):
            return section
        if not isinstance(section, Mapping):
            raise error_at((), f"holds {section!r}, expected keys and values such as 'name:'")
        name = section.get("name")
        if not isinstance(name, str):
            raise error_at(("name",), "missing; add it" if name is None else f"holds {name!r}, expected a word")
        try:
            component = self.find(name)
        except ConfigError as err:
            raise error_at(("name",), str(err).removeprefix(f"{self.key}: ")) from err
        return parse(getattr(component, "Config", component), section)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Lets a field be declared as `Annotated[HeadConfig, HEADS]`: the settings of any head, chosen by `name`."""
        return core_schema.no_info_plain_validator_function(self.settings)

    def find_listed(self, entries: Sequence[str | Mapping[str, Any]]) -> list[tuple[Any, Any]]:
        """Returns class and settings (its `Config`) of each entry of a list: a name, or a mapping with `name`.

        Raises ConfigError for an unknown name or setting, and for a name that stands twice.
        """
        listed: dict[str, tuple[Any, Any]] = {}
        for i, entry in enumerate(entries):
            section = {"name": entry} if isinstance(entry, str) else entry
            try:
                cfg = self.settings(section)
            except pydantic.ValidationError as err:
                raise config_error(err, section, file="recipe", at=f"{self.key}.{i}") from err
            if cfg.name in listed:
                raise ConfigError(f"recipe: {self.key}.{i}: {cfg.name} stands twice; name it once")
            listed[cfg.name] = self.find(cfg.name), cfg
        return list(listed.values())
