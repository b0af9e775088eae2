"""Reading mmsegmentation's configs: text to a mapping, then its backbone, norms, activations and input convention.

Every key of a config is translated, known to concern training only, or refused by name.
"""

import ast
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import LAYERS, ResNetConfig, plan_stages

MAX_TEXT, MAX_VALUES, MAX_DEPTH, MAX_WORD, MAX_BITS = 2**20, 10_000, 32, 1000, 32
"""Bounds far above any network's config, which holds a few hundred values; names that repeat one another make billions.
"""
_READ_NAMES = ("model", "data_preprocessor", "img_norm_cfg")
"""Names of a config whose values an import reads."""
_STRIDES: dict[tuple[int, ...], int] = {(1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32}


# ---- text to mapping ----


def read_config_text(text: str, where: str) -> JSONDict:
    """Reads the top-level `name = value` lines of a flattened config without running it.

    Values are literals, dict(...) and earlier names; a line whose value needs running code is skipped.

    Raises ConfigError when the text is not Python or too long for a config, and for a line that may change what is
    read: `_base_`, any other statement, a call with an earlier name, code as a value of `_READ_NAMES`.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{where}: a config of {len(text):,} characters; expected {MAX_TEXT:,} at most")
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:  # the last: too many nested signs
        raise ConfigError(
            f"{where}: the config inside is not readable text ({err}); give mmsegmentation's config file"
        ) from err
    values: JSONDict = {}
    names: set[str] = set()
    for line in module.body:
        match line:
            case ast.Expr(ast.Constant()):  # a docstring
                continue
            case ast.Assign([ast.Name(name)], value) if name != "_base_" and not _may_change(names, value):
                names.add(name)
                try:
                    values[name] = ast.literal_eval(_AsLiterals(values).visit(value))
                    continue
                except (ValueError, TypeError, RecursionError, MemoryError):  # its value needs running code
                    values.pop(name, None)
                    if name not in _READ_NAMES:
                        continue
        source = (ast.get_source_segment(text, line) or "").split("\n")[0][:60]
        raise ConfigError(
            f"{where}: line {line.lineno}: {source!r} is not run, and may change the model; give the flattened config, "
            "as the project's print_config.py writes it"
        )
    return values


def _may_change(names: Collection[str], value: ast.expr) -> bool:
    """Returns True where `value` has `:=`, or one of the names and a call that is no dict(...)."""
    nodes = [*ast.walk(value)]
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return any(isinstance(node, ast.NamedExpr) for node in nodes) or (
        any(not isinstance(func, ast.Name) or func.id != "dict" for func in called)
        and any(isinstance(node, ast.Name) and node.id in names for node in nodes)
    )


def require_bounded(config: Mapping[Any, Any], where: str) -> None:
    """Raises ConfigError for a config beyond the bounds above, or with a key that is no word."""
    pending: list[tuple[str, Any]] = [(where, config)]
    num_values = 0
    while pending:
        place, value = pending.pop()
        inner: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, Mapping) else []
        if isinstance(value, (list, tuple, set)):
            inner = [(str(index), member) for index, member in enumerate(value)]
        num_values += len(inner)
        num_bits = value.bit_length() if isinstance(value, int) else 0
        problems = {
            f"more than {MAX_VALUES:,} values": num_values > MAX_VALUES,
            f"nested more than {MAX_DEPTH} deep": place.count(".") > MAX_DEPTH,
            "a key that is no word": not all(isinstance(key, str) and len(key) <= MAX_WORD for key, _ in inner),
            f"a text of more than {MAX_WORD:,} characters": isinstance(value, (str, bytes)) and len(value) > MAX_WORD,
            f"an integer of {num_bits} bits": num_bits > MAX_BITS,
        }
        if problem := next((text for text, applies in problems.items() if applies), None):
            raise ConfigError(f"{place}: {problem}; expected the config of a network")
        pending += [(f"{place}.{key}", member) for key, member in inner]


class _AsLiterals(ast.NodeTransformer):
    """Replaces earlier names by their values, and dict(a=1) by {"a": 1}."""

    def __init__(self, values: JSONDict) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.values[node.id]) if node.id in self.values else node

    def visit_Set(self, node: ast.Set) -> ast.expr:
        return node  # without names: a set hashes its members, and these would be of any size

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        return ast.Dict(node.keys, [self.visit(value) for value in node.values])  # keys are hashed too

    def visit_Call(self, node: ast.Call) -> ast.expr:
        is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        if not is_dict or not all(keyword.arg for keyword in node.keywords):
            return node
        keys: list[ast.expr | None] = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [self.visit(keyword.value) for keyword in node.keywords])


# ---- mapping to settings ----


_NEEDED: Any = object()
"""The default of a key that must be there."""


class Reader:
    """Keys of one mapping of a config, taken one by one; `finish` refuses those that are left.

    Every method that takes a key raises ConfigError, naming the key, where it has no default and is missing, or where
    its value is another than the method describes.
    """

    project = "mmsegmentation"
    training_only = frozenset({
        "init_cfg", "pretrained", "norm_eval", "with_cp", "frozen_stages", "zero_init_residual",
        "loss_decode", "ignore_index", "sampler", "threshold", "requires_grad",
    })  # fmt: skip
    """Keys that concern training only."""

    def __init__(self, config: Any, where: str) -> None:
        if not isinstance(config, Mapping):
            raise ConfigError(f"{where}: holds {_quoted(config)}, expected keys and values")
        self.unread = dict(config)
        self.where = where

    def take(self, key: str, default: Any = _NEEDED) -> Any:
        """Returns the value of `key`, or `default`, and marks the key as read."""
        if default is _NEEDED and key not in self.unread:
            raise ConfigError(f"{self.where}.{key}: missing; give {self.project}'s whole config")
        return self.unread.pop(key, default)

    def checked(self, key: str, default: Any, is_valid: Callable[[Any], bool], expected: str) -> Any:
        """Returns the value of `key`, which `is_valid` accepts."""
        value = self.take(key, default)
        if not is_valid(value):
            raise self.error(key, value, expected)
        return value

    def choice(self, key: str, default: Any, known: Sequence[Any]) -> Any:
        """Returns the value of `key`, one of the known values."""
        value = self.take(key, default)
        if value not in known:
            raise ConfigError(f"{self.where}.{key}: holds {_quoted(value)}; known: {', '.join(map(str, known))}")
        return value

    def number(
        self, key: str, default: float, is_valid: Callable[[float], bool] = lambda _: True, expected: str = "a number"
    ) -> float:
        """Returns the value of `key`, a finite number that `is_valid` accepts."""
        return float(self.checked(key, default, lambda value: _is_number(value) and is_valid(value), expected))

    def count(self, key: str, default: int = _NEEDED) -> int:
        """Returns the value of `key`, an integer above 0."""
        return int(self.checked(key, default, is_count, "an integer of at least 1"))

    def flag(self, key: str, *, default: bool) -> bool:
        """Returns the value of `key`, true or false."""
        return bool(self.checked(key, default, lambda value: isinstance(value, bool), "true or false"))

    def integers(
        self,
        key: str,
        default: tuple[int, ...],
        is_valid: Callable[[Sequence[int]], bool] = lambda _: True,
        expected: str = "a list of integers",
    ) -> list[int]:
        """Returns the value of `key`, a list of integers that `is_valid` accepts."""
        return list(self.checked(key, default, lambda value: _are_integers(value) and is_valid(value), expected))

    def four(self, key: str, default: tuple[int, ...]) -> list[int]:
        """Returns the value of `key`, four integers of 1 to 256: a list of as many blocks may be built."""
        expected = "four integers of 1 to 256"
        return self.integers(key, default, lambda own: len(own) == 4 and 1 <= min(own) <= max(own) <= 256, expected)

    def error(self, key: str, value: Any, expected: str) -> ConfigError:
        """Returns the error for a value of `key` that is not what is expected."""
        return ConfigError(f"{self.where}.{key}: holds {_quoted(value)}, expected {expected}")

    def finish(self) -> None:
        """Raises ConfigError for keys that are left, unless they concern training only."""
        unknown = [key for key in self.unread if key not in self.training_only]
        if unknown:
            raise ConfigError(f"{self.where}: {', '.join(unknown)}: unknown keys of {self.project}, cannot be imported")


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def is_integer(value: Any) -> bool:
    """Returns True for integers, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Returns True for integers of at least 1."""
    return is_integer(value) and value >= 1


def _are_integers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_integer, value))


def _is_number(value: Any) -> bool:
    return (is_integer(value) or isinstance(value, float)) and math.isfinite(value)


def class_name(config: Any, where: str) -> str:
    """Returns the `type` of a config without mmseg's scope; ConfigError where there is none."""
    name = config.get("type") if isinstance(config, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{where}.type: missing; expected the name of a class of mmsegmentation")
    return name.removeprefix("mmseg.")


def batch_norm_section(norm_cfg: Any, where: str, types: Sequence[str] = ("BN", "BN2d", "SyncBN")) -> JSONDict | None:
    """Translates norm_cfg to the section `batch_norm`; None where there is no norm. types: those of norms."""
    if norm_cfg is None:
        return None
    reader = Reader(norm_cfg, where)
    reader.choice("type", None, types)
    eps = reader.number("eps", 1e-5, lambda eps: eps > 0, "a number above 0")
    momentum = reader.number("momentum", 0.1, lambda momentum: 0 < momentum <= 1, "a number above 0, up to 1")
    for key in ("affine", "track_running_stats"):
        reader.choice(key, True, (True,))
    reader.finish()
    return {"eps": eps, "momentum": momentum}


def leaky_slope(act_cfg: Any, where: str) -> float:
    """Translates act_cfg to the slope of segnl's activations: 0 for ReLU, 1 for none."""
    if act_cfg is None:
        return 1.0
    reader = Reader(act_cfg, where)
    name = reader.choice("type", _NEEDED, ("ReLU", "LeakyReLU"))
    reader.take("inplace", True)
    slope = 0.0
    if name == "LeakyReLU":
        slope = reader.number("negative_slope", 0.01, lambda slope: 0 <= slope <= 1, "a number from 0 to 1")
    reader.finish()
    return slope


def require_plain_convs(reader: Reader) -> None:
    """Raises ConfigError for another convolution than torch's."""
    reader.choice("conv_cfg", None, (None, {"type": "Conv2d"}, {"type": "Conv"}))


def backbone_section(config: Any, where: str) -> tuple[JSONDict, JSONDict, tuple[int, ...]]:
    """Translates a backbone's config to the sections `backbone` and `batch_norm`; also returns its out_indices."""
    name = class_name(config, where)
    known = {"ResNet": {}, "ResNetV1c": {"deep_stem": True}, "ResNetV1d": {"deep_stem": True, "avg_down": True}}
    if name not in known:
        raise ConfigError(f"{where}.type: holds {name!r}; known: {', '.join(known)}")
    reader = Reader(config, where)
    reader.take("type")
    options = {key: reader.take(key, False) for key in ("deep_stem", "avg_down")} | known[name]
    reader.choice("in_channels", 3, (3,))
    reader.choice("num_stages", 4, (4,))
    for key in ("dcn", "plugins"):
        reader.choice(key, None, (None,))
    reader.take("stage_with_dcn", None)
    require_plain_convs(reader)
    norm = batch_norm_section(reader.take("norm_cfg", {"type": "BN"}), f"{where}.norm_cfg")
    if norm is None:
        raise ConfigError(f"{where}.norm_cfg: holds None, which cannot be imported; expected BN or SyncBN")
    style = reader.choice("style", "pytorch", ("pytorch", "caffe"))
    depth = reader.choice("depth", _NEEDED, (18, 34, 50, 101, 152))
    section: JSONDict = {
        "name": "resnet",
        "depth": depth,
        "stem": {"kind": "deep" if options["deep_stem"] else "plain", "channels": reader.count("stem_channels", 64)},
        "width": reader.count("base_channels", 64) / 64,
        "avg_down": options["avg_down"],
        "stride_conv": 1 if style == "caffe" else 2,
    }
    section |= _dilation_settings(reader, depth)
    all_maps = (0, 1, 2, 3)
    maps = reader.integers("out_indices", all_maps, lambda own: set() < {*own} <= {*all_maps}, "numbers 0 to 3")
    reader.finish()
    return section, norm, tuple(sorted({*maps}))


def _dilation_settings(reader: Reader, depth: int) -> JSONDict:
    """Translates strides and dilations. mmsegmentation's multi_grid replaces layer4's dilation; ours multiplies it."""
    strides = reader.integers(
        "strides", (1, 2, 2, 2), lambda strides: tuple(strides) in _STRIDES, f"one of {', '.join(map(str, _STRIDES))}"
    )
    per_stage = reader.four("dilations", (1, 1, 1, 1))
    multi_grid = reader.checked(
        "multi_grid", None, lambda value: value is None or _are_integers(value), "a list of integers"
    )
    contracts = bool(reader.take("contract_dilation", False))
    settings: JSONDict = {"output_stride": _STRIDES[tuple(strides)], "contract_dilation": contracts}
    default_plans = plan_stages(ResNetConfig.model_validate({"depth": depth, **settings}))
    exceptions: dict[str, list[int]] = {}
    for layer, plan, dilation in zip(LAYERS, default_plans, per_stage, strict=True):
        num_blocks = len(plan.dilations)
        dilations = [dilation // 2 if contracts and dilation > 1 else dilation, *[dilation] * (num_blocks - 1)]
        if layer == LAYERS[-1] and multi_grid:
            if len(multi_grid) < num_blocks:
                raise reader.error("multi_grid", multi_grid, f"{num_blocks} numbers")
            dilations = list(multi_grid[:num_blocks])
        if tuple(dilations) != plan.dilations:
            exceptions[layer] = dilations
    return settings | ({"dilations": exceptions} if exceptions else {})


def input_section(preprocessor: Any, where: str, notes: list[str]) -> JSONDict:
    """Translates data_preprocessor to the section `input`; without one, assumes ImageNet's convention with a note."""
    if preprocessor is None:
        notes.append("no data_preprocessor: mean and std of ImageNet in RGB are assumed")
        return {}
    reader = Reader(preprocessor, where)
    own = "SegDataPreProcessor"
    reader.choice("type", own, (own, f"mmseg.{own}"))
    for key in ("size", "size_divisor", "pad_val", "seg_pad_val", "batch_augments"):  # these concern training only
        reader.take(key, None)
    reader.choice("test_cfg", None, (None, {}))  # it pads images
    swaps = [reader.flag(key, default=False) for key in ("bgr_to_rgb", "rgb_to_bgr")]
    if all(swaps):
        raise reader.error("rgb_to_bgr", True, "false, as bgr_to_rgb is true")
    mean, std = reader.take("mean", None), reader.take("std", None)
    reader.finish()
    # mmcv reads images as BGR, and either option swaps the channels.
    section: JSONDict = {"order": "rgb" if any(swaps) else "bgr"}
    if mean is None and std is None:
        notes.append("data_preprocessor has no mean and std: pixels 0..255 go in as they are")
        return section | {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    for values in (mean, std):
        if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_number, values)):
            raise ConfigError(f"{where}: mean {mean}, std {std}; expected three numbers each")
    return section | {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
