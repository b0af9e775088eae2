"""Decode heads of mmsegmentation as ours: settings and names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from segnl.core.errors import ConfigError
from segnl.models.weights.mmseg_config import Reader, Tree, batch_norm, kind_of, leaky_slope, only_plain_convs


@dataclass(frozen=True)
class DecodeHead:
    """One decode head in our terms."""

    tree: Tree
    """The section `head` of a recipe."""
    stage_channels: dict[int, int]
    """Channels of the stages that it reads, 0 = c2."""
    num_classes: int
    dropout: float
    align_corners: bool
    batch_norm: Tree | None
    names: dict[str, str]
    """Prefixes of our names to mmsegmentation's."""


_SHELL_NAMES = {"head.shell.convs": "convs", "head.shell.conv_cat": "conv_cat"}
_BLOCK = "head.shell.context"


def _shell(reader: Reader, *, num_convs: int | None) -> Tree:
    tree: Tree = {
        "num_convs": reader.take("num_convs", 2) if num_convs is None else num_convs,
        "kernel": reader.take("kernel_size", 3),
        "dilation": reader.take("dilation", 1),
        "concat_input": reader.take("concat_input", True),
    }
    if not isinstance(tree["kernel"], int) or tree["kernel"] % 2 == 0:
        raise ConfigError(f"{reader.where}.kernel_size: holds {tree['kernel']!r}, expected an odd number")
    return tree


def _fcn(reader: Reader) -> tuple[Tree, dict[str, str]]:
    return {"name": "fcn"} | _shell(reader, num_convs=None), _SHELL_NAMES


def _aspp(reader: Reader) -> tuple[Tree, dict[str, str]]:
    tree = {"name": "aspp", "dilations": list(reader.integers("dilations", (1, 6, 12, 18)))}
    return tree, {"head.image_pool": "image_pool.1", "head.branches": "aspp_modules", "head.project": "bottleneck"}


def _nl(reader: Reader) -> tuple[Tree, dict[str, str]]:
    tree = {"name": "non_local", "reduction": reader.take("reduction", 2), "use_scale": reader.take("use_scale", True)}
    pairwise = tree["pairwise"] = reader.take("mode", "embedded_gaussian")
    if pairwise not in ("embedded_gaussian", "gaussian", "dot_product", "concatenation"):
        raise ConfigError(
            f"{reader.where}.mode: holds {pairwise!r}; known: embedded_gaussian, gaussian, dot_product, concatenation"
        )
    names = {f"{_BLOCK}.{each}": f"nl_block.{each}.conv" for each in ("g", "theta", "phi")}
    names |= {
        f"{_BLOCK}.score": "nl_block.concat_project.conv",
        f"{_BLOCK}.w_z": "nl_block.conv_out.conv",
        f"{_BLOCK}.norm": "nl_block.conv_out.bn",
    }
    return tree | _shell(reader, num_convs=2), _SHELL_NAMES | names


def _cc(reader: Reader) -> tuple[Tree, dict[str, str]]:
    tree = {"name": "rcca", "recurrence": reader.take("recurrence", 2)}
    return tree | _shell(reader, num_convs=2), _SHELL_NAMES | {_BLOCK: "cca"}


HEADS: dict[str, Callable[[Reader], tuple[Tree, dict[str, str]]]] = {
    "FCNHead": _fcn,
    "ASPPHead": _aspp,
    "NLHead": _nl,
    "CCHead": _cc,
}


def decode_head(config: Any, out_indices: Sequence[int], where: str) -> DecodeHead:
    """A decode head's config in our terms; out_indices: the stage of each feature map that it is given.

    Raises ConfigError for an unknown head, with the known ones, and for settings that we cannot represent.
    """
    kind = kind_of(config, where)
    if kind not in HEADS:
        raise ConfigError(f"{where}.type: holds {kind!r}; known heads: {', '.join(sorted(HEADS))}")
    reader = Reader(config, where)
    reader.take("type", None)
    tree, names = HEADS[kind](reader)
    stages, channels = _stages(reader, out_indices)
    only_plain_convs(reader)
    norm = batch_norm(reader.take("norm_cfg", None), f"{where}.norm_cfg")
    num_classes = reader.count("num_classes")
    dropout = max(0.0, reader.number("dropout_ratio", 0.1))
    if dropout > 1.0:
        raise ConfigError(f"{where}.dropout_ratio: holds {dropout}, expected at most 1")
    reader.only("out_channels", None, [None, num_classes])
    tree |= {
        "in_stages": list(stages),
        "channels": reader.count("channels"),
        "has_norm": norm is not None,
        "leaky_slope": leaky_slope(reader.take("act_cfg", {"type": "ReLU"}), f"{where}.act_cfg"),
    }
    head = DecodeHead(
        tree=tree,
        stage_channels=dict(zip(stages, channels, strict=True)),
        num_classes=num_classes,
        dropout=dropout,
        align_corners=bool(reader.take("align_corners", False)),
        batch_norm=norm,
        names=names | {"classifier": "conv_seg"},
    )
    reader.finish()
    return head


def _stages(reader: Reader, out_indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """The stages that a head reads (0 = c2) and their channels; a negative in_index counts from the last map given."""
    where = reader.where
    transform = reader.take("input_transform", None)
    indices, channels = reader.take("in_index", -1), reader.need("in_channels")
    is_list = isinstance(indices, (list, tuple))
    if transform not in (None, "resize_concat"):
        raise ConfigError(f"{where}.input_transform: holds {transform!r}; known: None, 'resize_concat'")
    if transform is None and is_list and len(indices) > 1:
        raise ConfigError(f"{where}.in_index: holds {indices!r} without an input_transform, expected one number")
    indices = list(indices) if is_list else [indices]
    channels = list(channels) if isinstance(channels, (list, tuple)) else [channels]
    if len(indices) != len(channels):
        raise ConfigError(f"{where}.in_channels: {len(channels)} numbers, but in_index has {len(indices)}")
    if not all(isinstance(each, int) and each > 0 for each in channels):
        raise ConfigError(f"{where}.in_channels: holds {channels}, expected integers of at least 1")
    count = len(out_indices)
    if not all(isinstance(index, int) and -count <= index < count for index in indices):
        raise ConfigError(f"{where}.in_index: holds {indices!r}, but the backbone gives {count} maps")
    return [out_indices[index] for index in indices], channels
