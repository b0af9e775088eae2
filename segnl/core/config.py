"""YAML files to frozen, checked settings. Imports no torch.

A component declares its settings in its own file, as a subclass of `Config`; `runs/recipe.py` composes them.
"""

import difflib
import json
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml
from pydantic import Field
from pydantic_core import PydanticCustomError

from segnl.core.errors import ConfigError, first_line
from segnl.core.files import read_bytes, utf8

JSONDict = dict[str, Any]
AnyConfig = TypeVar("AnyConfig", bound="Config")

# Bounds that no real setting reaches: a zero too many is an error and not a machine without memory (core/limits.py).
MAX_COUNT = 1_000_000_000
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
"""Steps, images: what allocates nothing by itself."""
SmallCount = Annotated[int, Field(ge=1, le=256)]
"""Layers, repetitions, dilations, passes."""
ChannelCount = Annotated[int, Field(ge=1, le=8192)]
SidePx = Annotated[int, Field(ge=1, le=32_768)]
"""Rows or columns of an image or a crop."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Levels, first values of weights: what allocates nothing. Every number has a bound (tests/core/test_bounds.py)."""
NumberAboveZero = Annotated[float, Field(gt=0, le=1e6)]
NumberFromZero = Annotated[float, Field(ge=0, le=1e6)]


SHIPPED = Path(__file__).parents[1] / "configs"
"""The recipes and studies that are installed with the package."""
MAX_BASES = 100
MAX_CHARACTERS = 1 << 18
"""Of a YAML document: reading more would take many seconds."""


class Config(pydantic.BaseModel):
    """Settings of one component: immutable, no unknown keys, no silent conversion (`"3"` is not 3, `true` is not 1).

    Numbers must be finite.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """SafeLoader without duplicate keys, aliases and tags, which reads 1e-3 as a number, `on` as text (YAML 1.2)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read here", self.get_mark())
        if self.peek_event().tag is not None:  # type: ignore[no-untyped-call]
            problem = "tags (!!python/... and the like) are not read here"
            raise yaml.constructor.ConstructorError(None, None, problem, self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 1e-3 is text, 010 is 8 and `on` is True; these patterns are YAML 1.2's.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # decimal always: 010 is ten


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes exactly the words that `_Loader` would not read as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Escapes line breaks of Unicode, which PyYAML writes as they are and reads as a space."""
        style = '"' if any(letter in data for letter in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def parse_yaml(text: str, where: str) -> Any:
    """Reads one YAML document; raises ConfigError in one line naming `where` and the line."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a subclass of SafeLoader
    except yaml.MarkedYAMLError as err:
        line = f" line {err.problem_mark.line + 1}" if err.problem_mark else ""
        problem = (err.problem or "not valid YAML").replace("\n", " ")
        raise ConfigError(f"{where}:{line} {problem}; correct the file") from err
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        raise ConfigError(f"{where}: not valid YAML ({first_line(err)}); correct the file") from err


def read_file(path: Path) -> JSONDict:
    """Reads a YAML file that must hold a mapping."""
    try:
        text = read_bytes(path).decode("utf-8")
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"{path.absolute()}: cannot be read ({reason}); give the path of a YAML file, or the name of a shipped one "
            "such as cityscapes/rcca_r50"
        ) from err
    mapping = parse_yaml(text, str(path))
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: holds {type(mapping).__name__}, expected keys and values such as 'model:'")
    return mapping


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> JSONDict:
    """Returns `base` overridden by `over`, key by key.

    A mapping with a `name` replaces the base's as a whole, so that ASPP's dilations do not leak into RCCA.
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "name" not in value:
            value = merge(old, value)
        out[key] = value
    return out


def find_config(path: Path) -> Path:
    """Returns `path`, or the shipped file of that name: `cityscapes/rcca_r50` or `configs/cityscapes/rcca_r50.yaml`."""
    if path.exists() or path.is_absolute():
        return path
    name = path.relative_to("configs") if path.parts[:1] == ("configs",) else path
    shipped = (SHIPPED / name, SHIPPED / name.with_name(f"{name.name}.yaml"))
    return next((file for file in shipped if file.is_file()), path)


def load_mapping(path: Path, overrides: Sequence[str] = ()) -> JSONDict:
    """Reads `path` over its `base:`, a file beside it that may have a base too, and applies `a.b=c` overrides."""
    return override(_over_its_base(find_config(path), ()), overrides)


def override(mapping: JSONDict, overrides: Sequence[str], *, text_keys: Collection[str] = ()) -> JSONDict:
    """Returns `mapping` with `a.b=c` overrides; text_keys: dotted keys whose values are text in any case."""
    for text in overrides:
        mapping = merge(mapping, parse_override(text, is_text=text.partition("=")[0].strip() in text_keys))
    return mapping


def _over_its_base(path: Path, readers: tuple[Path, ...]) -> JSONDict:
    """readers: the files on whose behalf this one is read."""
    if "\0" in str(path):
        raise ConfigError(f"base: {str(path)!r}: holds a null character; expected a file name such as _base.yaml")
    if path.resolve() in readers:
        raise ConfigError(f"{path}: base: leads back to this file; remove one of the bases")
    if len(readers) > MAX_BASES:
        raise ConfigError(f"{path}: base: more than {MAX_BASES} bases in a row; expected a few; join them")
    mapping = read_file(path)
    base_name = mapping.pop("base", None)
    if base_name is None:
        return mapping
    if not isinstance(base_name, str):
        raise ConfigError(f"{path}: base: holds {base_name!r}, expected a file name such as _base.yaml")
    return merge(_over_its_base(path.parent / base_name, (*readers, path.resolve())), mapping)


def parse_override(text: str, *, is_text: bool = False) -> JSONDict:
    """Converts `optim.lr=0.02` to {"optim": {"lr": 0.02}}.

    The value is YAML if it is a number, true, false or null, or begins with a bracket or a quote; text otherwise.
    is_text: it is text in any case, such as the path 2024.
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text}: expected KEY.KEY=VALUE, such as optim.lr=0.02")
    mapping: Any = value.strip()
    has_form = mapping[:1] in ("[", "{", "'", '"')
    if not is_text:
        try:
            parsed = parse_yaml(mapping, f"--set {dotted}")
            if has_form or not isinstance(parsed, str | dict | list):  # ` #` in a path begins no comment, `: ` no value
                mapping = parsed
        except ConfigError:
            if has_form:
                raise
    for key in reversed(keys):
        mapping = {key: mapping}
    return dict(mapping)


def validate(schema: type[AnyConfig], mapping: Any, *, file: str, at: str = "") -> AnyConfig:
    """Returns `mapping` as an instance of `schema`.

    Raises ConfigError for the first error, in one line with its dotted path below `at`.
    """
    if not isinstance(mapping, dict):
        raise ConfigError(f"{file}: {at or 'the file'}: holds {mapping!r}, expected keys and values")
    try:
        return parse(schema, mapping)
    except pydantic.ValidationError as err:
        raise config_error(err, mapping, file=file, at=at) from err
    except (TypeError, ValueError) as err:
        raise ConfigError(f"{file}: {at or 'the file'}: {err}; expected plain YAML values") from err


def config_error(err: pydantic.ValidationError, content: Any, *, file: str, at: str = "") -> ConfigError:
    """Returns the first of pydantic's errors in `content` as one line with its dotted path below `at`."""
    # An unknown key comes first: it is usually the misspelling of the one reported missing.
    errors = sorted(err.errors(include_url=False), key=lambda error: error["type"] != "segnl")
    first, place = errors[0], error_place(errors[0], content)
    dotted = ".".join([*([at] if at else []), *place])
    # A value that may be of several kinds has an error for each.
    reasons = list(dict.fromkeys(str(error["msg"]) for error in errors if error_place(error, content) == place))
    error = ConfigError(f"{file}: {_explain(first, dotted, ' or '.join(reasons))}")
    if first["type"] in ("string_type", "path_type") and not isinstance(first["input"], list | dict):
        error.text_key = dotted
    return error


def error_place(error: Any, content: Any) -> list[str]:
    """Returns the keys that lead to one of pydantic's errors, without the kinds of a union that pydantic adds."""
    keys = []
    for key in error["loc"]:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            continue
        keys.append(str(key))
    last = str(error["loc"][-1]) if error["loc"] else ""
    return [*keys, last] if error["type"] in ("missing", "segnl") and keys[-1:] != [last] else keys


def parse(schema: type[AnyConfig], mapping: Mapping[str, Any]) -> AnyConfig:
    """Returns `mapping` as an instance of `schema`, for a pydantic validator: raises pydantic.ValidationError."""
    document = json.dumps(mapping)  # first: it refuses values that hold themselves
    for location, text in _texts(mapping):
        if "\0" in text:
            raise error_at(location, "holds a NUL; give plain text")
        if utf8(text) != text:  # a file's name in another encoding
            raise error_at(location, "holds bytes that are not UTF-8; rename the file, or give a symbolic link to it")
    try:
        # In strict JSON mode a list may become a tuple and a string a Path, and nothing else converts.
        return schema.model_validate_json(document)
    except pydantic.ValidationError as err:
        for location in (error["loc"] for error in err.errors() if error["type"] == "extra_forbidden"):
            hint = suggest(str(location[-1]), _keys_beside(schema, location))
            raise error_at(location, f"unknown key{hint}") from err
        raise


def _texts(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yields every text of a setting with its place."""
    if isinstance(value, str):
        yield location, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, own in items:
        yield from _texts(own, (*location, key))


def error_at(location: tuple[str | int, ...], message: str) -> pydantic.ValidationError:
    """Returns an error of the setting at `location`, below the value that a pydantic validator was given."""
    error = PydanticCustomError("segnl", "{message}", {"message": message})
    return pydantic.ValidationError.from_exception_data("settings", [{"type": error, "loc": location, "input": None}])


def _explain(error: Any, dotted: str, reasons: str) -> str:
    if error["type"] == "segnl":
        return f"{dotted}: {error['msg']}"
    if error["type"] == "missing":
        return f"{dotted}: missing; add it"
    reason = reasons.removeprefix("Value error, ").replace("or Input should be", "or").replace("\n", " ")
    reason = reason.replace("a valid array", "a list").replace("an object", "keys and values")  # YAML's words
    if error["type"] == "value_error" and isinstance(error["input"], dict):  # keys at odds, which it names
        return f"{dotted}: {reason}"
    return f"{dotted}: holds {json.dumps(error['input'], default=str)}; {reason[0].lower()}{reason[1:]}"


def _keys_beside(schema: type[Config], location: Sequence[str | int]) -> list[str]:
    """Returns the known keys at the place of an unknown one."""
    for key in location[:-1]:
        field = schema.model_fields.get(str(key))
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        schema = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)), schema)
    return list(schema.model_fields)


def suggest(word: str, known: Sequence[str], *, otherwise: str = "") -> str:
    """Returns `; did you mean 'recurrence'?`, or what to do `otherwise`: by default, the list of known words."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; {otherwise or 'known: ' + ', '.join(sorted(known))}"


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Returns plain YAML in the order given, readable by `read_file`."""
    text = yaml.dump(
        json.loads(json.dumps(mapping)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return str(text)
