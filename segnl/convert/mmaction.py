"""Import of video classifiers of mmaction2 1.x: ResNet3d (I3D) and C2D with non-local blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segnl.convert.imported import ImportedClassifier, loaded, out_channels
from segnl.convert.mmseg_config import (
    Reader,
    batch_norm_section,
    input_section,
    is_integer,
    leaky_slope,
    require_bounded,
)
from segnl.core.config import JSONDict, validate
from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import DEPTHS
from segnl.models.blocks.non_local_layout import LAYERS
from segnl.models.weights.files import tensors_in
from segnl.models.weights.strict import renamed
from segnl.video.classifier import VideoClassifier, VideoConfig

_WHERE = "mmaction"
_CLASSIFIER = "cls_head.fc_cls"
_NORMS = ("BN3d", "BN", "BN2d", "SyncBN")


class _Reader(Reader):
    project = "mmaction2"
    training_only = Reader.training_only | {
        "train_cfg", "test_cfg", "pretrained2d", "torchvision_pretrain", "partial_bn", "zeros_init", "std",
        "in_channels", "loss_cls", "init_std", "average_clips", "topk", "multi_class", "label_smooth_eps",
        "format_shape", "blending", "non_blocking",
    }  # fmt: skip


def from_mmaction(config: JSONDict, state: Mapping[str, Any]) -> ImportedClassifier:
    """Builds a video classifier of mmaction2 from its weights, in eval mode: clip `b 3 t h w` to logits `b k`.

    config: of a Recognizer3D, or of its backbone alone (type ResNet3d, the default, or C2D). state: the recogniser's
    state_dict, also wrapped. The clip is normalised already where it is floating.

    Raises ConfigError for what segnl cannot represent, CheckpointError for tensors that do not fit.
    """
    if not isinstance(config, Mapping) or not isinstance(state, Mapping):
        types = f"{type(config).__name__} and {type(state).__name__}"
        raise ConfigError(f"{_WHERE}: config and state are {types}; expected a dictionary each")
    config = config["model"] if "backbone" not in config and isinstance(config.get("model"), Mapping) else config
    require_bounded(config, _WHERE)
    tensors = tensors_in(state, _WHERE)
    section: JSONDict = {"num_classes": out_channels(tensors, f"{_CLASSIFIER}.weight", _WHERE)}
    notes: list[str] = []
    backbone, where = config, _WHERE
    if "backbone" in config:
        backbone, where = config["backbone"], f"{_WHERE}.backbone"
        section |= _recognizer_section(config, section["num_classes"], notes)
    section |= _backbone_section(backbone, where)
    cfg = validate(VideoConfig, section, file=_WHERE)
    with torch.device("meta"):
        names = _names(ImportedClassifier(cfg))
    # All our kernels have a time axis; C2D's convolutions and the concatenation's score have none there.
    tensors = {name: value[:, :, None] if value.dim() == 4 else value for name, value in tensors.items()}
    model = loaded(lambda: ImportedClassifier(cfg), tensors, renamed(names), _WHERE)
    model.report.notes += notes
    return model


def _recognizer_section(config: Mapping[str, Any], num_classes: int, notes: list[str]) -> JSONDict:
    """Translates a Recognizer3D, but for its backbone."""
    reader = _reader(config, _WHERE, "Recognizer3D")
    reader.take("backbone")
    reader.choice("neck", None, (None,))
    head = _reader(reader.take("cls_head"), f"{_WHERE}.cls_head", "I3DHead")
    head.choice("spatial_type", "avg", ("avg",))
    head.choice("num_classes", num_classes, (num_classes,))
    dropout = head.number("dropout_ratio", 0.5, lambda ratio: 0 <= ratio < 1, "a number from 0 to below 1")
    head.finish()
    preprocessor = reader.take("data_preprocessor", None)
    reader.finish()
    where = f"{_WHERE}.data_preprocessor"
    if preprocessor is not None:
        keys = _reader(preprocessor, where, "ActionDataPreprocessor")
        preprocessor = {key: keys.take(key, None) for key in ("mean", "std")}
        # mmaction2 decodes videos as RGB; to_rgb would swap the channels.
        preprocessor["bgr_to_rgb"] = not keys.flag("to_rgb", default=False)
        keys.finish()
    return {"dropout": dropout, "input": input_section(preprocessor, where, notes)}


def _backbone_section(config: Any, where: str) -> JSONDict:
    """Translates the backbone to the sections `backbone` and `batch_norm`."""
    reader = _reader(config, where, "ResNet3d", "C2D")
    kind = str(config.get("type", "ResNet3d")).removeprefix("mmaction.")
    depth = reader.choice("depth", 50, tuple(DEPTHS))
    reader.choice("num_stages", 4, (4,))
    reader.choice("out_indices", (3,), ((3,), [3]))
    if leaky_slope(reader.take("act_cfg", {"type": "ReLU"}), f"{where}.act_cfg") != 0:
        raise ConfigError(f"{where}.act_cfg: expected ReLU")
    section: JSONDict = {
        "depth": depth,
        "in_channels": reader.count("in_channels", 3),
        "stride_conv": 1 if reader.choice("style", "pytorch", ("pytorch", "caffe")) == "caffe" else 2,
        "dilations": reader.four("dilations", (1, 1, 1, 1)),
    }
    if kind == "C2D":
        reader.choice("conv_cfg", None, (None, {"type": "Conv"}, {"type": "Conv2d"}))
        section |= {
            "strides": reader.four("strides", (1, 2, 2, 2)),
            "stem_kernel": [1, 7, 7],
            "stem_strides": [1, 2, 2],
            "pool_strides": [1, 2, 2],
            "is_pool_padded": False,
            "inflated": "none",
        }
    else:
        section |= _inflated_settings(reader, depth)
    norm = batch_norm_section(reader.take("norm_cfg", {"type": "BN3d"}), f"{where}.norm_cfg", _NORMS)
    if norm is None:
        raise ConfigError(f"{where}.norm_cfg: holds None, which cannot be imported; expected BN3d")
    reader.finish()
    return {"backbone": section, "batch_norm": norm}


def _inflated_settings(reader: Reader, depth: int) -> JSONDict:
    """Translates what a ResNet3d has and a C2D has not."""
    reader.choice("conv_cfg", {"type": "Conv3d"}, ({"type": "Conv3d"},))
    has_blocks = reader.unread.get("stage_blocks") is not None
    blocks = reader.four("stage_blocks", ()) if has_blocks else reader.take("stage_blocks", None)
    num_blocks = blocks or DEPTHS[depth][1]
    settings: JSONDict = {
        "blocks": blocks,
        "base_channels": reader.count("base_channels", 64),
        "strides": reader.four("spatial_strides", (1, 2, 2, 2)),
        "time_strides": reader.four("temporal_strides", (1, 1, 1, 1)),
        "stem_kernel": reader.integers("conv1_kernel", (3, 7, 7), lambda sizes: len(sizes) == 3, "three integers"),
        "has_pool": reader.flag("with_pool1", default=True),
        "has_time_pool": reader.flag("with_pool2", default=True),
        "inflated": _per_block(reader, "inflate", 1, num_blocks),
        "inflate_style": reader.choice("inflate_style", "3x1x1", ("3x1x1", "3x3x3")),
    }
    for ours, theirs in (("stem_strides", "conv1_stride"), ("pool_strides", "pool1_stride")):
        in_space, in_time = reader.count(f"{theirs}_s", 2), reader.count(f"{theirs}_t", 1)
        settings[ours] = [in_time, in_space, in_space]
    layout = _per_block(reader, "non_local", 0, num_blocks)
    settings["non_local"] = {
        name: [block for block, is_there in enumerate(blocks_there) if is_there]
        for name, blocks_there in zip(LAYERS, layout, strict=True)
    }
    block = _Reader(reader.take("non_local_cfg", {}), f"{reader.where}.non_local_cfg")
    block.choice("conv_cfg", {"type": "Conv3d"}, ({"type": "Conv3d"},))
    has_norm = batch_norm_section(block.take("norm_cfg", None), f"{block.where}.norm_cfg", _NORMS) is not None
    settings |= {
        "has_non_local_norm": has_norm,
        "non_local_block": {
            "pairwise": block.choice(
                "mode", "embedded_gaussian", ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
            ),
            "reduction": block.count("reduction", 2),
            "use_scale": block.flag("use_scale", default=True),
            "subsample": block.flag("sub_sample", default=False),
        },
    }
    block.finish()
    return settings


def _reader(config: Any, where: str, *types: str) -> _Reader:
    """Returns a reader of `config`; refuses another type than `types`, of which the first is the default."""
    reader = _Reader(config, where)
    name = str(reader.take("type", types[0])).removeprefix("mmaction.")
    if name not in types:
        raise ConfigError(f"{where}.type: holds {name!r}; known: {', '.join(types)}")
    return reader


def _per_block(reader: Reader, key: str, default: int, num_blocks: Sequence[int]) -> list[list[bool]]:
    """Returns a value for each block of each layer, given as one number, one for each layer, or one for each block."""
    value = reader.take(key, default)
    layers: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * len(num_blocks)
    if len(layers) == len(num_blocks):
        layers = [
            [layer] * count if is_integer(layer) else layer for layer, count in zip(layers, num_blocks, strict=True)
        ]
        lengths = [len(layer) if isinstance(layer, (list, tuple)) else 0 for layer in layers]
        if lengths == list(num_blocks) and all(number in (0, 1) for layer in layers for number in layer):
            return [[bool(number) for number in layer] for layer in layers]
    raise reader.error(key, value, f"0 or 1 for all blocks, for each layer, or for each of the {num_blocks} blocks")


def _names(model: VideoClassifier) -> dict[str, str]:
    """Returns the names of our modules, ours to mmaction2's."""
    names = {"backbone.stem.0": "backbone.conv1.conv", "backbone.stem.1": "backbone.conv1.bn"}
    names["classifier"] = _CLASSIFIER
    in_block = {"downsample.0": "downsample.conv", "downsample.1": "downsample.bn"}
    for number in (1, 2, 3):
        in_block |= {f"conv{number}": f"conv{number}.conv", f"bn{number}": f"conv{number}.bn"}
    for name, num_blocks in zip(LAYERS, model.cfg.backbone.num_blocks, strict=True):
        for block in (f"backbone.{name}.{index}" for index in range(num_blocks)):
            names |= {f"{block}.{ours}": f"{block}.{theirs}" for ours, theirs in in_block.items()}
    # With sub-sampling, g and phi are a convolution and a pooling there.
    pooled = ".0" if model.cfg.backbone.non_local_block.subsample else ""
    theirs_of = {"theta": "theta.conv", "w_z": "conv_out.conv", "norm": "conv_out.bn", "score": "concat_project.conv"}
    theirs_of |= {name: f"{name}{pooled}.conv" for name in ("g", "phi")}
    for place in model.backbone.non_local:
        ours, block = f"backbone.non_local.{place}", f"backbone.{place.replace('_', '.')}.non_local_block"
        names |= {f"{ours}.{name}": f"{block}.{theirs}" for name, theirs in theirs_of.items()}
    return names
