"""Reading mmsegmentation's configs: text to a mapping, then its backbone, norms, activations and input convention.

Every key of a config is translated, known to concern training only, or refused by name.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import LAYERS, ResNetConfig, plan_stages

_TRAINING_ONLY = {
    "init_cfg", "pretrained", "norm_eval", "with_cp", "frozen_stages", "zero_init_residual",
    "loss_decode", "ignore_index", "sampler", "threshold", "requires_grad",
}  # fmt: skip
_STRIDES = {(1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32}


# ---- text to mapping ----


def read_config_text(text: str, where: str) -> JSONDict:
    """Reads the top-level `name = value` lines of a flattened config without running it.

    Values are literals, dict(...) and earlier names; a line whose value needs running code is skipped.

    Raises ConfigError when the text is not Python.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as err:
        raise ConfigError(
            f"{where}: the config inside is not readable text ({err}); give mmsegmentation's config file"
        ) from err
    values: JSONDict = {}
    for line in module.body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            name = line.targets[0].id
            try:
                values[name] = _evaluate(line.value, values)
            except _NotLiteralError:
                values.pop(name, None)
    return values


class _NotLiteralError(Exception):
    """An expression whose value needs running code."""


def _evaluate(node: ast.expr, names: JSONDict) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() if node.id in names:
            return names[node.id]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_evaluate(element, names) for element in node.elts]
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            return dict(zip(keys, (_evaluate(value, names) for value in node.values), strict=True))
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(keyword.arg for keyword in node.keywords):
            return {str(keyword.arg): _evaluate(keyword.value, names) for keyword in node.keywords}
    raise _NotLiteralError


# ---- mapping to settings ----


class Reader:
    """Keys of one mapping of a config, taken one by one; `finish` refuses those that are left."""

    def __init__(self, config: Any, where: str) -> None:
        if not isinstance(config, Mapping):
            raise ConfigError(f"{where}: holds {config!r}, expected keys and values")
        self.unread = dict(config)
        self.where = where

    def take(self, key: str, default: Any) -> Any:
        """Returns the value of `key`, or `default`, and marks the key as read."""
        return self.unread.pop(key, default)

    def need(self, key: str) -> Any:
        """Returns the value of `key`; ConfigError where it is missing."""
        if key not in self.unread:
            raise ConfigError(f"{self.where}.{key}: missing; give mmsegmentation's whole config")
        return self.unread.pop(key)

    def only(self, key: str, default: Any, allowed: Sequence[Any]) -> None:
        """Raises ConfigError where the value of `key` is none of `allowed`, those that segnl can represent."""
        value = self.take(key, default)
        if value not in allowed:
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, which cannot be imported; known: {list(allowed)}")

    def number(self, key: str, default: float) -> float:
        """Returns the value of `key`, or `default`; ConfigError where it is no finite number."""
        value = self.take(key, default)
        if not _is_number(value):
            raise self.error(key, value, "a number")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """Returns the value of `key`, or `default` unless that is None; ConfigError where it is no integer above 0."""
        value: Any = self.need(key) if default is None else self.take(key, default)
        if not is_integer(value) or value < 1:
            raise self.error(key, value, "an integer of at least 1")
        return int(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Returns the value of `key`, or `default`; ConfigError where it is neither true nor false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the value of `key`, or `default`; ConfigError where it is no list of integers."""
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)) or not all(map(is_integer, value)):
            raise self.error(key, value, "a list of integers")
        return tuple(value)

    def choice(self, key: str, default: Any, known: Sequence[Any]) -> Any:
        """Returns the value of `key`, or `default`; ConfigError with the known values where it is none of them."""
        value = self.take(key, default)
        if value not in known:
            raise ConfigError(f"{self.where}.{key}: holds {value!r}; known: {', '.join(map(str, known))}")
        return value

    def error(self, key: str, value: Any, expected: str) -> ConfigError:
        """Returns the error for a value of `key` that is not what is expected."""
        return ConfigError(f"{self.where}.{key}: holds {value!r}, expected {expected}")

    def finish(self) -> None:
        """Raises ConfigError for keys that are left, unless they concern training only."""
        unknown = [key for key in self.unread if key not in _TRAINING_ONLY]
        if unknown:
            raise ConfigError(f"{self.where}: {', '.join(unknown)}: unknown keys of mmsegmentation, cannot be imported")


def is_integer(value: Any) -> bool:
    """Returns True for integers, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (is_integer(value) or isinstance(value, float)) and math.isfinite(value)


def class_name(config: Any, where: str) -> str:
    """Returns the `type` of a config without mmseg's scope; ConfigError where there is none."""
    name = config.get("type") if isinstance(config, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{where}.type: missing; expected the name of a class of mmsegmentation")
    return name.removeprefix("mmseg.")


def batch_norm_section(norm_cfg: Any, where: str) -> JSONDict | None:
    """Translates norm_cfg to the section `batch_norm`; None where there is no norm."""
    if norm_cfg is None:
        return None
    reader = Reader(norm_cfg, where)
    reader.only("type", None, ["BN", "BN2d", "SyncBN"])
    eps, momentum = reader.number("eps", 1e-5), reader.number("momentum", 0.1)
    if eps <= 0:
        raise reader.error("eps", eps, "a number above 0")
    if not 0 < momentum <= 1:
        raise reader.error("momentum", momentum, "a number above 0, up to 1")
    reader.only("affine", True, [True])
    reader.only("track_running_stats", True, [True])
    reader.finish()
    return {"eps": eps, "momentum": momentum}


def leaky_slope(act_cfg: Any, where: str) -> float:
    """Translates act_cfg to the slope of segnl's activations: 0 for ReLU, 1 for none."""
    if act_cfg is None:
        return 1.0
    reader = Reader(act_cfg, where)
    name = reader.need("type")
    reader.take("inplace", True)
    if name not in ("ReLU", "LeakyReLU"):
        raise ConfigError(f"{where}.type: holds {name!r}, which cannot be imported; known: ReLU, LeakyReLU, None")
    slope = reader.number("negative_slope", 0.01) if name == "LeakyReLU" else 0.0
    if not 0.0 <= slope <= 1.0:
        raise reader.error("negative_slope", slope, "0 to 1")
    reader.finish()
    return slope


def require_plain_convs(reader: Reader) -> None:
    """Raises ConfigError for another convolution than torch's."""
    conv = reader.take("conv_cfg", None)
    if conv is not None and conv not in ({"type": "Conv2d"}, {"type": "Conv"}):
        raise ConfigError(f"{reader.where}.conv_cfg: holds {conv!r}, which cannot be imported; expected None")


def backbone_section(config: Any, where: str) -> tuple[JSONDict, JSONDict, tuple[int, ...]]:
    """Translates a backbone's config to the sections `backbone` and `batch_norm`; also returns its out_indices."""
    name = class_name(config, where)
    known = {"ResNet": {}, "ResNetV1c": {"deep_stem": True}, "ResNetV1d": {"deep_stem": True, "avg_down": True}}
    if name not in known:
        raise ConfigError(f"{where}.type: holds {name!r}; known: {', '.join(known)}")
    reader = Reader(config, where)
    reader.take("type", None)
    options = {key: reader.take(key, False) for key in ("deep_stem", "avg_down")} | known[name]
    reader.only("in_channels", 3, [3])
    reader.only("num_stages", 4, [4])
    for key in ("dcn", "plugins"):
        reader.only(key, None, [None])
    reader.take("stage_with_dcn", None)
    require_plain_convs(reader)
    norm = batch_norm_section(reader.take("norm_cfg", {"type": "BN"}), f"{where}.norm_cfg")
    if norm is None:
        raise ConfigError(f"{where}.norm_cfg: holds None, which cannot be imported; expected BN or SyncBN")
    style = reader.choice("style", "pytorch", ("pytorch", "caffe"))
    depth = reader.need("depth")
    if depth not in (18, 34, 50, 101, 152):
        raise ConfigError(f"{where}.depth: holds {depth!r}; known: 18, 34, 50, 101, 152")
    section: JSONDict = {
        "name": "resnet",
        "depth": depth,
        "stem": {"kind": "deep" if options["deep_stem"] else "plain", "channels": reader.count("stem_channels", 64)},
        "width": reader.count("base_channels", 64) / 64,
        "avg_down": options["avg_down"],
        "stride_conv": 1 if style == "caffe" else 2,
    }
    section |= _dilation_settings(reader, depth)
    out_indices = reader.integers("out_indices", (0, 1, 2, 3))
    if not out_indices or not all(index in range(4) for index in out_indices):
        raise reader.error("out_indices", out_indices, "numbers 0 to 3")
    reader.finish()
    return section, norm, tuple(sorted(set(out_indices)))


def _dilation_settings(reader: Reader, depth: int) -> JSONDict:
    """Translates strides and dilations. mmsegmentation's multi_grid replaces layer4's dilation; ours multiplies it."""
    strides = reader.integers("strides", (1, 2, 2, 2))
    per_stage = reader.integers("dilations", (1, 1, 1, 1))
    if reader.unread.get("multi_grid") is None:
        reader.take("multi_grid", None)
    multi_grid = reader.integers("multi_grid", ())
    contracts = bool(reader.take("contract_dilation", False))
    if strides not in _STRIDES:
        raise ConfigError(f"{reader.where}.strides: holds {strides}; known: {', '.join(map(str, _STRIDES))}")
    if len(per_stage) != 4 or min(per_stage) < 1:
        raise reader.error("dilations", per_stage, "four numbers of at least 1")
    settings: JSONDict = {"output_stride": _STRIDES[strides], "contract_dilation": contracts}
    default_plans = plan_stages(ResNetConfig.model_validate({"depth": depth, **settings}))
    exceptions: dict[str, list[int]] = {}
    for layer, plan, dilation in zip(LAYERS, default_plans, per_stage, strict=True):
        num_blocks = len(plan.dilations)
        dilations = [dilation // 2 if contracts and dilation > 1 else dilation, *[dilation] * (num_blocks - 1)]
        if layer == LAYERS[-1] and multi_grid:
            if len(multi_grid) < num_blocks:
                raise reader.error("multi_grid", list(multi_grid), f"{num_blocks} numbers")
            dilations = list(multi_grid[:num_blocks])
        if tuple(dilations) != plan.dilations:
            exceptions[layer] = dilations
    return settings | ({"dilations": exceptions} if exceptions else {})


def input_section(preprocessor: Any, where: str, notes: list[str]) -> JSONDict:
    """Translates data_preprocessor to the section `input`; without one, assumes ImageNet's convention with a note."""
    if preprocessor is None:
        notes.append("no data_preprocessor: mean and std of ImageNet in RGB are assumed")
        return {}
    if not isinstance(preprocessor, Mapping):
        raise ConfigError(f"{where}: holds {preprocessor!r}, expected keys and values")
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    swaps = bool(preprocessor.get("bgr_to_rgb", False)) or bool(preprocessor.get("rgb_to_bgr", False))
    # mmcv reads images as BGR, and either option swaps the channels.
    section: JSONDict = {"order": "rgb" if swaps else "bgr"}
    if mean is None or std is None:
        notes.append("data_preprocessor has no mean: pixels 0..255 go in as they are")
        return section | {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    for values in (mean, std):
        if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_number, values)):
            raise ConfigError(f"{where}: mean {mean}, std {std}; expected three numbers each")
    return section | {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
