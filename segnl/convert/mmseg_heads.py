"""mmsegmentation's decode heads: the settings of ours that they correspond to, and its names for our modules.

`_TRANSLATORS` has a function for each class of head. `_head` reads what all heads have: stages, norm, dropout ...
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from segnl.convert.mmseg_config import (
    Reader,
    batch_norm_section,
    class_name,
    is_count,
    is_integer,
    leaky_slope,
    require_plain_convs,
)
from segnl.core.config import JSONDict
from segnl.core.errors import ConfigError

Names = dict[str, str]
MAX_CHANNELS = 2**20
"""A larger number is a typing error, not a network."""


@dataclass(frozen=True)
class DecodeHead:
    """A decode head in our terms."""

    section: JSONDict
    """The section `head` of a recipe."""
    stage_channels: dict[int, int]
    """Channels of the stages that it reads, 0 = c2."""
    num_classes: int
    dropout: float
    align_corners: bool
    batch_norm: JSONDict | None
    names: Names
    """Prefixes of our names to mmsegmentation's."""
    tied: Names
    """Prefixes of tensors that repeat others (tied weights), to the prefixes of those."""


@dataclass(frozen=True)
class Translation:
    """A head's own keys in our terms."""

    settings: JSONDict
    names: Names
    takes_several: tuple[int, ...] = ()
    """Numbers of stages that a head may read separately, whatever its input_transform; none for other heads."""
    low_channels: int = 0
    """Channels of the backbone's first map, where the head reads that as its `low_stage`."""
    tied: Names = field(default_factory=dict)
    dropout_key: str | None = None
    """Setting of our head that repeats mmsegmentation's dropout_ratio."""


def decode_head(config: Any, out_indices: Sequence[int], where: str, *, in_cascade: bool = False) -> DecodeHead:
    """Translates a decode head's config. out_indices: the stage of each feature map that the head is given.

    in_cascade: allows OCRHead, which needs a coarse head before it.

    Raises ConfigError for an unknown head, with the known ones, and for settings that we cannot represent.
    """
    name = class_name(config, where)
    is_lone_ocr = name == "OCRHead" and not in_cascade
    if name not in _TRANSLATORS or is_lone_ocr:
        hint = " (OCRHead only as the second of a cascade of two)" * is_lone_ocr
        raise ConfigError(f"{where}.type: holds {name!r}{hint}; known heads: {KNOWN_HEADS}")
    reader = Reader(config, where)
    return _head(reader, _TRANSLATORS[name](reader), out_indices)


def _head(reader: Reader, own: Translation, out_indices: Sequence[int]) -> DecodeHead:
    where = reader.where
    reader.take("type")
    stages, channels = _stages(reader, out_indices, takes_several=own.takes_several)
    stage_channels = dict(zip(stages, channels, strict=True))
    require_plain_convs(reader)
    norm = batch_norm_section(reader.take("norm_cfg", None), f"{where}.norm_cfg")
    num_classes = reader.count("num_classes")
    dropout = max(0.0, reader.number("dropout_ratio", 0.1, lambda ratio: ratio < 1, "a number below 1"))
    reader.choice("out_channels", None, (None, num_classes))
    section = own.settings | {
        "in_stages": stages,
        "channels": reader.count("channels"),
        "has_norm": norm is not None,
        "leaky_slope": leaky_slope(reader.take("act_cfg", {"type": "ReLU"}), f"{where}.act_cfg"),
    }
    if own.low_channels:
        stage_channels.setdefault(out_indices[0], own.low_channels)
        section["low_stage"] = out_indices[0]
    if own.dropout_key is not None:
        section[own.dropout_key] = dropout
    align_corners = reader.checked(
        "align_corners", None, lambda value: value is None or isinstance(value, bool), "true or false"
    )
    reader.finish()
    names = own.names | {"classifier": "conv_seg"}
    return DecodeHead(section, stage_channels, num_classes, dropout, bool(align_corners), norm, names, own.tied)


def _stages(
    reader: Reader, out_indices: Sequence[int], *, takes_several: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Returns the stages that a head reads (0 = c2), and their channels. Negative indices count from the last map."""
    transform = None if takes_several else reader.choice("input_transform", None, (None, "resize_concat"))
    indices, channels = (
        list(value) if isinstance(value, (list, tuple)) else [value]
        for value in (reader.take("in_index", -1), reader.take("in_channels"))
    )
    if transform is None and not takes_several and len(indices) > 1:
        raise ConfigError(f"{reader.where}.in_index: holds {indices!r} without an input_transform, expected one number")
    if len(indices) != len(channels):
        raise ConfigError(f"{reader.where}.in_channels: {len(channels)} numbers, but in_index has {len(indices)}")
    if not all(map(is_count, channels)):
        raise reader.error("in_channels", channels, "integers of at least 1")
    if not all(map(is_integer, indices)):
        raise reader.error("in_index", indices, "integers")
    num_maps = len(out_indices)
    if not all(-num_maps <= index < num_maps for index in indices):
        raise ConfigError(f"{reader.where}.in_index: holds {indices!r}, but the backbone gives {num_maps} maps")
    if takes_several and len(indices) not in takes_several:
        raise reader.error("in_index", indices, "two numbers" if takes_several == (2,) else "two to four numbers")
    return [out_indices[index] for index in indices], channels


# ---- heads with the FCN-style layout of heads/base.py, whose module is called `shell` in our state_dicts ----

_LAYOUT_NAMES = {"head.shell.convs": "convs", "head.shell.conv_cat": "conv_cat"}
_BLOCK = "head.shell.context"


def _layout_settings(reader: Reader) -> JSONDict:
    return {
        "num_convs": 2,
        "kernel": reader.checked("kernel_size", 3, lambda size: is_integer(size) and size % 2 == 1, "an odd number"),
        "dilation": reader.take("dilation", 1),
        "concat_input": reader.flag("concat_input", default=True),
    }


def _fcn(reader: Reader) -> Translation:
    settings = {"name": "fcn"} | _layout_settings(reader) | {"num_convs": reader.take("num_convs", 2)}
    return Translation(settings, _LAYOUT_NAMES)


def _cc(reader: Reader) -> Translation:
    settings = {"name": "rcca", "recurrence": reader.take("recurrence", 2)} | _layout_settings(reader)
    return Translation(settings, _LAYOUT_NAMES | {_BLOCK: "cca"})


def _non_local_settings(reader: Reader, known: tuple[str, ...]) -> JSONDict:
    return {
        "reduction": reader.take("reduction", 2),
        "use_scale": reader.flag("use_scale", default=True),
        "pairwise": reader.choice("mode", "embedded_gaussian", known),
    } | _layout_settings(reader)


def _non_local_names(block: str) -> Names:
    names = {f"{_BLOCK}.{name}": f"{block}.{name}.conv" for name in ("g", "theta", "phi")}
    return names | {f"{_BLOCK}.w_z": f"{block}.conv_out.conv", f"{_BLOCK}.norm": f"{block}.conv_out.bn"}


def _nl(reader: Reader) -> Translation:
    known = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
    names = _non_local_names("nl_block") | {f"{_BLOCK}.score": "nl_block.concat_project.conv"}
    return Translation({"name": "non_local"} | _non_local_settings(reader, known), _LAYOUT_NAMES | names)


def _dnl(reader: Reader) -> Translation:
    settings = {"name": "dnl", "temperature": reader.number("temperature", 0.05)}
    settings |= _non_local_settings(reader, ("embedded_gaussian", "dot_product"))
    names = _non_local_names("dnl_block") | {f"{_BLOCK}.unary": "dnl_block.conv_mask"}
    return Translation(settings, _LAYOUT_NAMES | names)


def _gc(reader: Reader) -> Translation:
    ratio, channels = reader.number("ratio", 1 / 4), reader.count("channels")
    reader.unread["channels"] = channels  # `_head` reads it again
    pooling = reader.choice("pooling_type", "att", ("att", "avg"))
    fusion = reader.take("fusion_types", ("channel_add",))
    known = {"channel_mul": "multiply", "channel_add": "add"}
    if not isinstance(fusion, (list, tuple)) or not fusion or not all(name in list(known) for name in fusion):
        raise ConfigError(f"{reader.where}.fusion_types: holds {fusion!r}; known: {', '.join(known)}")
    if not 1 <= channels * ratio <= MAX_CHANNELS:
        raise ConfigError(
            f"{reader.where}.ratio: {ratio} of {channels} channels are {channels * ratio}; expected 1 to {MAX_CHANNELS}"
        )
    settings = {
        "name": "gc",
        "inner_channels": int(channels * ratio),
        "pooling": "attention" if pooling == "att" else "mean",
        "fusion": "both" if len(set(fusion)) == 2 else known[fusion[0]],
    }
    names = {f"{_BLOCK}.{ours}": f"gc_block.{theirs}_conv" for theirs, ours in known.items()}
    names |= {f"{_BLOCK}.unary": "gc_block.conv_mask"}
    return Translation(settings | _layout_settings(reader), _LAYOUT_NAMES | names)


# ---- pyramids ----

_ASPP_NAMES = {"head.image_pool": "image_pool.1", "head.branches": "aspp_modules", "head.project": "bottleneck"}


def _aspp(reader: Reader) -> Translation:
    return Translation({"name": "aspp", "dilations": reader.integers("dilations", (1, 6, 12, 18))}, _ASPP_NAMES)


def _separable_aspp(reader: Reader) -> Translation:
    in_channels, channels = (reader.take(key) for key in ("c1_in_channels", "c1_channels"))
    if not (is_count(in_channels) and is_count(channels)) and (in_channels, channels) != (0, 0):
        numbers = f"c1_in_channels {in_channels!r}, c1_channels {channels!r}"
        raise ConfigError(f"{reader.where}: {numbers}; expected integers above 0, or 0 twice")
    settings: JSONDict = {"name": "deeplabv3plus", "dilations": reader.integers("dilations", (1, 6, 12, 18))}
    settings |= {"low_channels": channels} if channels else {"low_stage": None}
    names = _ASPP_NAMES | {"head.low": "c1_bottleneck", "head.decode": "sep_bottleneck"}
    return Translation(settings, names, low_channels=in_channels)


def _psp(reader: Reader) -> Translation:
    bins = reader.integers("pool_scales", (1, 2, 3, 6))
    names = {f"head.levels.{index}": f"psp_modules.{index}.1" for index in range(len(bins))}
    return Translation({"name": "psp", "bins": bins}, names | {"head.join": "bottleneck"})


def _uper(reader: Reader) -> Translation:
    bins, finer = reader.integers("pool_scales", (1, 2, 3, 6)), range(3)
    names = {f"head.pool_levels.{index}": f"psp_modules.{index}.1" for index in range(len(bins))}
    names |= {f"head.laterals.{index}": f"lateral_convs.{index}" for index in finer}
    names |= {f"head.levels.{index}": f"fpn_convs.{index}" for index in finer}
    names |= {"head.pool_join": "bottleneck", "head.join": "fpn_bottleneck"}
    return Translation({"name": "uper", "bins": bins}, names, takes_several=(2, 3, 4))


# ---- attention between positions, groups, grids, bases and regions ----


def _projections(ours: str, theirs: str, *, num_convs: int, value: str = "value") -> Names:
    """Returns the names of a ProjectedAttention's convolutions.

    num_convs: of query and key; mmsegmentation does not number a single one. value: our name of the value's.
    """
    number = ".0" if num_convs == 1 else ""
    names = {f"{ours}.{name}{number}": f"{theirs}.{name}_project" for name in ("query", "key")}
    return names | {f"{ours}.{value}": f"{theirs}.value_project"}


def _da(reader: Reader) -> Translation:
    names: Names = {}
    for branch, prefix in (("position", "pam"), ("channel", "cam")):
        names |= {
            f"head.{branch}.0": f"{prefix}_in_conv",
            f"head.{branch}.1.gamma": f"{prefix}.gamma",
            f"head.{branch}.2": f"{prefix}_out_conv",
            f"head.classifiers.{branch}": f"{prefix}_conv_seg",
        }
    names |= {f"head.position.1.attention.{name}": f"pam.{name}_project" for name in ("query", "key", "value")}
    settings = {"name": "da", "inner_channels": reader.count("pam_channels")}
    return Translation(settings, names, dropout_key="branch_dropout")


def _isa(reader: Reader) -> Translation:
    group_hw = reader.integers("down_factor", (8, 8), lambda hw: len(hw) == 2 and min(hw) > 0, "two numbers above 0")
    names = {"head.reduce": "in_conv", "head.join": "out_conv"}
    for ours, theirs in (("head.long_range", "global_relation"), ("head.short_range", "local_relation")):
        names |= _projections(f"{ours}.attention", theirs, num_convs=2) | {f"{ours}.out": f"{theirs}.output_project"}
    settings = {"name": "isa", "inner_channels": reader.count("isa_channels"), "group_hw": group_hw}
    return Translation(settings, names)


def _ema(reader: Reader) -> Translation:
    settings = {
        "name": "ema",
        "inner_channels": reader.count("ema_channels"),
        "num_bases": reader.count("num_bases"),
        "num_steps": reader.count("num_stages"),
        "momentum": reader.number("momentum", 0.1),
        "concat_input": reader.flag("concat_input", default=True),
    }
    names = {
        "head.reduce": "ema_in_conv",
        "head.before": "ema_mid_conv.conv",
        "head.rebuild": "ema_module",
        "head.after": "ema_out_conv",
        "head.narrow": "bottleneck",
        "head.conv_cat": "conv_cat",
    }
    return Translation(settings, names)


def _ann(reader: Reader) -> Translation:
    reader.choice("query_scales", (1,), ((1,), [1]))
    settings = {
        "name": "ann",
        "inner_channels": reader.count("project_channels"),
        "bins": reader.integers("key_pool_scales", (1, 3, 6, 8)),
    }
    names = {"head.reduce": "bottleneck"}
    for ours, theirs in (("head.fusion", "fusion"), ("head.itself", "context")):
        names |= _projections(f"{ours}.attention", f"{theirs}.stages.0", num_convs=1)
        names |= {f"{ours}.out": f"{theirs}.stages.0.out_project", f"{ours}.join": f"{theirs}.bottleneck"}
    tied = {"context.stages.0.key_project": "context.stages.0.query_project"}
    return Translation(settings, names, takes_several=(2,), tied=tied, dropout_key="fusion_dropout")


def _ocr(reader: Reader) -> Translation:
    reader.choice("scale", 1, (1,))
    block = "object_context_block"
    names = {"head.reduce": "bottleneck", "head.out": f"{block}.out_project", "head.join": f"{block}.bottleneck"}
    names |= _projections("head.attention", block, num_convs=2, value="value.0")
    return Translation({"name": "ocr", "inner_channels": reader.count("ocr_channels")}, names)


_TRANSLATORS: dict[str, Callable[[Reader], Translation]] = {
    "ANNHead": _ann,
    "ASPPHead": _aspp,
    "CCHead": _cc,
    "DAHead": _da,
    "DNLHead": _dnl,
    "DepthwiseSeparableASPPHead": _separable_aspp,
    "EMAHead": _ema,
    "FCNHead": _fcn,
    "GCHead": _gc,
    "ISAHead": _isa,
    "NLHead": _nl,
    "OCRHead": _ocr,
    "PSPHead": _psp,
    "UPerHead": _uper,
}
KNOWN_HEADS = ", ".join(name for name in _TRANSLATORS if name != "OCRHead")
