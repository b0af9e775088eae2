"""Decode heads of mmsegmentation as ours: settings and names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segnl.convert.mmseg_config import (
    JSONDict,
    Reader,
    batch_norm,
    is_integer,
    kind_of,
    leaky_slope,
    only_plain_convs,
)
from segnl.convert.mmseg_kinds import KINDS, Kind, ocr
from segnl.core.errors import ConfigError


@dataclass(frozen=True)
class DecodeHead:
    """One decode head in our terms."""

    mapping: JSONDict
    """The section `head` of a recipe."""
    stage_channels: dict[int, int]
    """Channels of the stages that it reads, 0 = c2."""
    num_classes: int
    dropout: float
    align_corners: bool
    batch_norm: JSONDict | None
    names: dict[str, str]
    """Prefixes of our names to mmsegmentation's."""
    tied: dict[str, str]
    """Prefixes of its tensors that repeat others, to those."""


def decode_head(config: Any, out_indices: Sequence[int], where: str) -> DecodeHead:
    """A decode head's config in our terms; out_indices: the stage of each feature map that it is given.

    Raises ConfigError for an unknown head, with the known ones, and for settings that we cannot represent.
    """
    name = kind_of(config, where)
    if name not in KINDS:
        hint = " (OCRHead only as the second of a cascade of two)" if name == "OCRHead" else ""
        raise ConfigError(f"{where}.type: holds {name!r}{hint}; known heads: {', '.join(KINDS)}")
    reader = Reader(config, where)
    return _head(reader, KINDS[name](reader), out_indices)


def ocr_head(config: Any, out_indices: Sequence[int], where: str) -> DecodeHead:
    """An OCRHead's config in our terms, without the coarse head that stands before it."""
    reader = Reader(config, where)
    return _head(reader, ocr(reader), out_indices)


def _head(reader: Reader, kind: Kind, out_indices: Sequence[int]) -> DecodeHead:
    where = reader.where
    reader.take("type", None)
    stages, channels = _stages(reader, kind, out_indices)
    stage_channels = dict(zip(stages, channels, strict=True))
    if kind.low_channels:
        stage_channels.setdefault(out_indices[0], kind.low_channels)
    only_plain_convs(reader)
    norm = batch_norm(reader.take("norm_cfg", None), f"{where}.norm_cfg")
    num_classes = reader.count("num_classes")
    dropout = max(0.0, reader.number("dropout_ratio", 0.1))
    if dropout >= 1.0:
        raise ConfigError(f"{where}.dropout_ratio: holds {dropout}, expected a number below 1")
    reader.only("out_channels", None, [None, num_classes])
    mapping = kind.mapping | {
        "in_stages": list(stages),
        "channels": reader.count("channels"),
        "has_norm": norm is not None,
        "leaky_slope": leaky_slope(reader.take("act_cfg", {"type": "ReLU"}), f"{where}.act_cfg"),
    }
    if reader.left.get("align_corners") is None:  # as F.interpolate takes it
        reader.take("align_corners", None)
    if kind.dropout_key is not None:
        mapping[kind.dropout_key] = dropout
    if kind.low_channels:
        mapping["low_stage"] = out_indices[0]
    head = DecodeHead(
        mapping=mapping,
        stage_channels=stage_channels,
        num_classes=num_classes,
        dropout=dropout,
        align_corners=reader.flag("align_corners", default=False),
        batch_norm=norm,
        names=kind.names | {"classifier": "conv_seg"},
        tied=kind.tied,
    )
    reader.finish()
    return head


def _stages(reader: Reader, kind: Kind, out_indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """The stages that a head reads (0 = c2) and their channels; a negative in_index counts from the last map given."""
    transform = None if kind.takes_several else reader.take("input_transform", None)
    indices, channels = _indices(reader, transform, is_list_expected=kind.takes_several or transform is not None)
    count = len(out_indices)
    if not all(is_integer(index) for index in indices):
        raise ConfigError(f"{reader.where}.in_index: holds {indices!r}, expected integers")
    if not all(-count <= index < count for index in indices):
        raise ConfigError(f"{reader.where}.in_index: holds {indices!r}, but the backbone gives {count} maps")
    if kind.takes_several and len(indices) != 2:
        raise ConfigError(f"{reader.where}.in_index: holds {indices!r}, expected two numbers")
    return [out_indices[index] for index in indices], channels


def _indices(reader: Reader, transform: Any, *, is_list_expected: bool) -> tuple[list[int], list[int]]:
    where = reader.where
    indices, channels = reader.take("in_index", -1), reader.need("in_channels")
    is_list = isinstance(indices, (list, tuple))
    if transform not in (None, "resize_concat"):
        raise ConfigError(f"{where}.input_transform: holds {transform!r}; known: None, 'resize_concat'")
    if not is_list_expected and is_list and len(indices) > 1:
        raise ConfigError(f"{where}.in_index: holds {indices!r} without an input_transform, expected one number")
    indices = list(indices) if is_list else [indices]
    channels = list(channels) if isinstance(channels, (list, tuple)) else [channels]
    if len(indices) != len(channels):
        raise ConfigError(f"{where}.in_channels: {len(channels)} numbers, but in_index has {len(indices)}")
    if not all(is_integer(each) and each > 0 for each in channels):
        raise ConfigError(f"{where}.in_channels: holds {channels}, expected integers of at least 1")
    return indices, channels
