"""mmsegmentation's configs as ours: every key is translated, known to concern training only, or refused."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import LAYERS, ResNetConfig, plan_stages

JSONDict = dict[str, Any]

_TRAINING_ONLY = {
    "init_cfg", "pretrained", "norm_eval", "with_cp", "frozen_stages", "zero_init_residual",
    "loss_decode", "ignore_index", "sampler", "threshold", "requires_grad",
}  # fmt: skip
_STRIDES = {(1, 2, 1, 1): 8, (1, 2, 2, 1): 16, (1, 2, 2, 2): 32}


class Reader:
    """Takes keys out of one mapping of a config; `finish` refuses those that nobody took."""

    def __init__(self, config: Any, where: str) -> None:
        if not isinstance(config, Mapping):
            raise ConfigError(f"{where}: holds {config!r}, expected keys and values")
        self.left = dict(config)
        self.where = where

    def take(self, key: str, default: Any) -> Any:
        """The value of `key`, or `default`; the key counts as read."""
        return self.left.pop(key, default)

    def need(self, key: str) -> Any:
        """The value of `key`; ConfigError where it is missing."""
        if key not in self.left:
            raise ConfigError(f"{self.where}.{key}: missing; give mmsegmentation's whole config")
        return self.left.pop(key)

    def only(self, key: str, default: Any, allowed: Sequence[Any]) -> None:
        """Refuses `key` where its value is none of `allowed`, the ones that we can represent."""
        value = self.left.pop(key, default)
        if value not in allowed:
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, which cannot be imported; known: {list(allowed)}")

    def number(self, key: str, default: float) -> float:
        """The value of `key`, or `default`; ConfigError where it is no number."""
        value = self.take(key, default)
        if not _is_number(value):
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, expected a number")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """The value of `key`, or `default` unless that is None; ConfigError where it is no integer of at least 1."""
        value: Any = self.need(key) if default is None else self.take(key, default)
        if not is_integer(value) or value < 1:
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, expected an integer of at least 1")
        return int(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """The value of `key`, or `default`; ConfigError where it is neither true nor false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, expected true or false")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The value of `key`, or `default`; ConfigError where it is no list of integers."""
        value = self.take(key, default)
        if not isinstance(value, (list, tuple)) or not all(map(is_integer, value)):
            raise ConfigError(f"{self.where}.{key}: holds {value!r}, expected a list of integers")
        return tuple(value)

    def finish(self) -> None:
        """Refuses keys that nobody took, unless they concern training only."""
        unknown = [key for key in self.left if key not in _TRAINING_ONLY]
        if unknown:
            raise ConfigError(f"{self.where}: {', '.join(unknown)}: unknown keys of mmsegmentation, cannot be imported")


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (is_integer(value) or isinstance(value, float)) and math.isfinite(value)


def kind_of(config: Any, where: str) -> str:
    """The `type` of a config, without mmseg's scope."""
    kind = config.get("type") if isinstance(config, Mapping) else None
    if not isinstance(kind, str):
        raise ConfigError(f"{where}.type: missing; expected the name of a class of mmsegmentation")
    return kind.removeprefix("mmseg.")


def batch_norm(norm_cfg: Any, where: str) -> JSONDict | None:
    """norm_cfg as our `batch_norm`, None where there is no norm."""
    if norm_cfg is None:
        return None
    reader = Reader(norm_cfg, where)
    reader.only("type", None, ["BN", "BN2d", "SyncBN"])
    found = {"eps": reader.number("eps", 1e-5), "momentum": reader.number("momentum", 0.1)}
    for key, is_fine, expected in (
        ("eps", found["eps"] > 0, "a number above 0"),
        ("momentum", 0 < found["momentum"] <= 1, "a number above 0, up to 1"),
    ):
        if not is_fine:
            raise ConfigError(f"{where}.{key}: holds {found[key]}, expected {expected}")
    reader.only("affine", True, [True])
    reader.only("track_running_stats", True, [True])
    reader.finish()
    return found


def leaky_slope(act_cfg: Any, where: str) -> float:
    """act_cfg as the slope of our activations: 0 for ReLU, 1 for none."""
    if act_cfg is None:
        return 1.0
    reader = Reader(act_cfg, where)
    kind = reader.need("type")
    reader.take("inplace", True)
    if kind not in ("ReLU", "LeakyReLU"):
        raise ConfigError(f"{where}.type: holds {kind!r}, which cannot be imported; known: ReLU, LeakyReLU, None")
    slope = reader.number("negative_slope", 0.01) if kind == "LeakyReLU" else 0.0
    if not 0.0 <= slope <= 1.0:
        raise ConfigError(f"{where}.negative_slope: holds {slope}, expected 0 to 1")
    reader.finish()
    return slope


def only_plain_convs(reader: Reader) -> None:
    """Refuses another convolution than torch's."""
    conv = reader.take("conv_cfg", None)
    if conv is not None and conv not in ({"type": "Conv2d"}, {"type": "Conv"}):
        raise ConfigError(f"{reader.where}.conv_cfg: holds {conv!r}, which cannot be imported; expected None")


def backbone_dict(config: Any, where: str) -> tuple[JSONDict, JSONDict, tuple[int, ...]]:
    """A backbone's config as our `backbone` section, our `batch_norm`, and its out_indices."""
    kind = kind_of(config, where)
    known = {"ResNet": {}, "ResNetV1c": {"deep_stem": True}, "ResNetV1d": {"deep_stem": True, "avg_down": True}}
    if kind not in known:
        raise ConfigError(f"{where}.type: holds {kind!r}; known: {', '.join(known)}")
    reader = Reader(config, where)
    reader.take("type", None)
    options = {key: reader.take(key, False) for key in ("deep_stem", "avg_down")} | known[kind]
    reader.only("in_channels", 3, [3])
    reader.only("num_stages", 4, [4])
    for key in ("dcn", "plugins"):
        reader.only(key, None, [None])
    reader.take("stage_with_dcn", None)
    only_plain_convs(reader)
    norm = batch_norm(reader.take("norm_cfg", {"type": "BN"}), f"{where}.norm_cfg")
    if norm is None:
        raise ConfigError(f"{where}.norm_cfg: holds None, which cannot be imported; expected BN or SyncBN")
    style = reader.take("style", "pytorch")
    if style not in ("pytorch", "caffe"):
        raise ConfigError(f"{where}.style: holds {style!r}; known: pytorch, caffe")
    mapping: JSONDict = {
        "name": "resnet",
        "depth": reader.need("depth"),
        "stem": {"kind": "deep" if options["deep_stem"] else "plain", "channels": reader.count("stem_channels", 64)},
        "width": reader.count("base_channels", 64) / 64,
        "avg_down": options["avg_down"],
        "stride_conv": 1 if style == "caffe" else 2,
    }
    if mapping["depth"] not in (18, 34, 50, 101, 152):
        raise ConfigError(f"{where}.depth: holds {mapping['depth']!r}; known: 18, 34, 50, 101, 152")
    mapping |= _dilation_dict(reader, mapping["depth"])
    out_indices = reader.integers("out_indices", (0, 1, 2, 3))
    if not out_indices or not all(index in range(4) for index in out_indices):
        raise ConfigError(f"{where}.out_indices: holds {out_indices}, expected numbers 0 to 3")
    reader.finish()
    return mapping, norm, tuple(sorted(set(out_indices)))


def _dilation_dict(reader: Reader, depth: int) -> JSONDict:
    """Output stride and dilations; mmsegmentation's multi_grid replaces layer4's dilation, ours multiplies it."""
    strides = reader.integers("strides", (1, 2, 2, 2))
    per_stage = reader.integers("dilations", (1, 1, 1, 1))
    if reader.left.get("multi_grid") is None:
        reader.take("multi_grid", None)
    multi_grid = reader.integers("multi_grid", ())
    contracts = bool(reader.take("contract_dilation", False))
    if strides not in _STRIDES:
        raise ConfigError(f"{reader.where}.strides: holds {strides}; known: {', '.join(map(str, _STRIDES))}")
    if len(per_stage) != 4 or not all(each > 0 for each in per_stage):
        raise ConfigError(f"{reader.where}.dilations: holds {per_stage}, expected four numbers of at least 1")
    mapping: JSONDict = {"output_stride": _STRIDES[strides], "contract_dilation": contracts}
    derived = ResNetConfig(depth=depth, output_stride=_STRIDES[strides], contract_dilation=contracts)  # type: ignore[arg-type]
    written: dict[str, list[int]] = {}
    for layer, (name, count, plan) in enumerate(zip(LAYERS, derived.num_blocks, plan_stages(derived), strict=True)):
        dilation = per_stage[layer]
        dilations = [dilation // 2 if contracts and dilation > 1 else dilation, *[dilation] * (count - 1)]
        if layer == 3 and multi_grid:
            if len(multi_grid) < count:
                raise ConfigError(f"{reader.where}.multi_grid: holds {list(multi_grid)}, expected {count} numbers")
            dilations = list(multi_grid[:count])
        if tuple(dilations) != plan.dilations:
            written[name] = dilations
    return mapping | ({"dilations": written} if written else {})


def input_dict(preprocessor: Any, where: str, notes: list[str]) -> JSONDict:
    """data_preprocessor as our `input`; without one, ImageNet's convention, which is said."""
    if preprocessor is None:
        notes.append("no data_preprocessor: mean and std of ImageNet in RGB are assumed")
        return {}
    if not isinstance(preprocessor, Mapping):
        raise ConfigError(f"{where}: holds {preprocessor!r}, expected keys and values")
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    swaps = bool(preprocessor.get("bgr_to_rgb", False)) or bool(preprocessor.get("rgb_to_bgr", False))
    # mmcv reads images as BGR, and either option swaps the channels.
    mapping: JSONDict = {"order": "rgb" if swaps else "bgr"}
    if mean is None or std is None:
        notes.append("data_preprocessor has no mean: pixels 0..255 go in as they are")
        return mapping | {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    lists = [each for each in (mean, std) if isinstance(each, (list, tuple)) and all(map(_is_number, each))]
    if [len(each) for each in lists] != [3, 3]:
        raise ConfigError(f"{where}: mean {mean}, std {std}; expected three numbers each")
    return mapping | {"mean": [float(each) for each in mean], "std": [float(each) for each in std]}
