"""Configs of mmengine, which are Python text, read without running them."""

import ast
from typing import Any

from segnl.core.errors import ConfigError


def read_config_text(text: str, where: str) -> dict[str, Any]:
    """The top-level `name = value` lines of a flattened config; values of literals, dict(...) and earlier names.

    Lines of another kind, or whose value needs running code, are passed over; what they would have set is missing then.

    Raises ConfigError when the text is not Python.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as err:
        raise ConfigError(
            f"{where}: the config inside is not readable text ({err}); give mmsegmentation's config file"
        ) from err
    names: dict[str, Any] = {}
    for line in module.body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            try:
                names[line.targets[0].id] = _value(line.value, names)
            except _NotPlainError:
                names.pop(line.targets[0].id, None)
    return names


class _NotPlainError(Exception):
    """The expression is none of those that are read here."""


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_value(each, names) for each in node.elts]
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            return dict(zip(keys, (_value(each, names) for each in node.values), strict=True))
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(each.arg for each in node.keywords):
            return {str(each.arg): _value(each.value, names) for each in node.keywords}
    raise _NotPlainError
