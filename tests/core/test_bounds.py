"""Every number of every recipe and study has bounds: found by introspection, so that a new key needs them too."""

import importlib
import pkgutil
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

import segnl
from segnl.core.config import Config

WITHOUT = {
    "non_local",  # blocks, which the network compares with its own
    "palette",  # of a checkpoint, which the class table checks
    "file_ids",
    "seeds",  # a validator of their own
    "step",
}


def configs() -> list[type[Config]]:
    """All settings of the package."""
    for module in pkgutil.walk_packages(segnl.__path__, "segnl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Config]
    while waiting:
        children = [own for own in waiting.pop().__subclasses__() if own.__module__.startswith("segnl.")]
        found |= set(children)
        waiting += children
    return sorted(found, key=lambda own: (own.__module__, own.__name__))


def numbers(annotation: Any, metadata: Sequence[Any]) -> Iterator[list[Any]]:
    """Yields the constraints of every number in a field's type."""
    flat = [item for own in metadata for item in (own.metadata if isinstance(own, FieldInfo) else [own])]
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from numbers(inner, [*more, *flat])
    elif annotation in (int, float):
        yield flat
    elif get_origin(annotation) in (Union, types.UnionType):
        for own in get_args(annotation):
            yield from numbers(own, flat)
    elif get_origin(annotation) in (tuple, list, dict):
        for own in get_args(annotation):
            yield from numbers(own, [])


def keys() -> Iterator[tuple[str, list[Any]]]:
    for config in configs():
        for name, field in config.model_fields.items():
            for constraints in numbers(field.annotation, field.metadata):
                yield f"{config.__module__}.{config.__name__}.{name}", constraints


def test_every_number_of_every_recipe_has_a_lower_and_an_upper_bound():
    found = dict.fromkeys(key for key, _ in keys())
    assert len(found) > 80  # the introspection sees them
    without = [
        key
        for key, constraints in keys()
        if key.rpartition(".")[2] not in WITHOUT
        and not (
            any(isinstance(own, annotated_types.Ge | annotated_types.Gt) for own in constraints)
            and any(isinstance(own, annotated_types.Le | annotated_types.Lt) for own in constraints)
        )
    ]
    assert not without, f"give these a bound (core/config.py has types for it): {sorted(set(without))}"


@pytest.mark.parametrize("config", configs(), ids=lambda config: f"{config.__module__}.{config.__name__}")
def test_no_settings_take_nan_or_infinity(config):
    assert config.model_config["allow_inf_nan"] is False
