"""Import of models of mmsegmentation 0.x and 1.x.

In this order: read the config (mmseg_config.py, mmseg_heads.py), build the section `model` of a recipe and the network,
map our names to mmsegmentation's, load every tensor strictly (models/weights/strict.py), report what was left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from segnl.convert.imported import ImportedHead, ImportedModel, loaded
from segnl.convert.mmseg_config import Reader, backbone_section, class_name, input_section, require_bounded
from segnl.convert.mmseg_heads import KNOWN_HEADS, DecodeHead, decode_head
from segnl.core.config import JSONDict
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.weights.files import tensors_in
from segnl.models.weights.resnet import PLAIN_STEM
from segnl.models.weights.strict import renamed

_WHERE = "mmseg"
_MODELS = ("EncoderDecoder", "CascadeEncoderDecoder")
_KNOWN_KEYS = {
    "backbone", "decode_head", "auxiliary_head", "data_preprocessor",
    "type", "pretrained", "train_cfg", "test_cfg", "init_cfg", "neck", "num_stages",
}  # fmt: skip
_LEAF_NAMES = {"norm": "bn", "depthwise": "depthwise_conv", "pointwise": "pointwise_conv"}
"""Names of our innermost modules to mmsegmentation's."""
_SINGLE_CONV = {"num_convs": 1, "kernel": 3, "dilation": 1, "concat_input": False, "has_norm": True}
"""Settings of an FCNHead that our auxiliary head can represent."""


def from_mmseg(config: JSONDict, state: dict[str, Any]) -> ImportedModel | ImportedHead:
    """Builds a model of mmsegmentation, or one of its decode heads alone, from its weights, in eval mode.

    config: of type EncoderDecoder or CascadeEncoderDecoder (the result maps a normalised image `b 3 H W` to logits
    `b k H W`), or of a decode head (a list of stages c2..c5, unused ones None, to logits `b k h w`). state: its
    state_dict, also wrapped or with `module.` before every name. The result's `report` names what was left out.

    Raises ConfigError for what segnl cannot represent, CheckpointError for tensors that do not fit.
    """
    if not isinstance(config, Mapping) or not isinstance(state, Mapping):
        types = f"{type(config).__name__} and {type(state).__name__}"
        raise ConfigError(f"{_WHERE}: config and state are {types}; expected a dictionary each")
    config = config["model"] if "type" not in config and isinstance(config.get("model"), Mapping) else config
    require_bounded(config, _WHERE)
    name = class_name(config, _WHERE)
    tensors = tensors_in(state, _WHERE)
    if name in _MODELS:
        return _whole_model(config, tensors)
    if name not in (*KNOWN_HEADS.split(", "), "OCRHead"):
        known = f"{KNOWN_HEADS}, {', '.join(_MODELS)}"
        raise ConfigError(f"{_WHERE}.type: holds {name!r}; known heads and models: {known}")
    return _head_alone(decode_head(config, (0, 1, 2, 3), _WHERE), tensors)


def _head_alone(head: DecodeHead, tensors: Mapping[str, Tensor]) -> ImportedHead:
    stage_channels = [head.stage_channels.get(stage, 0) for stage in range(4)]
    untrained = partial(ImportedHead, head.section, stage_channels, head.num_classes, _WHERE)
    build = partial(untrained, dropout=head.dropout, batch_norm=head.batch_norm, align_corners=head.align_corners)
    prefix = "decode_head." if all(name.startswith("decode_head.") for name in tensors) else ""
    tensors, repeated = _without_tied(head, prefix, tensors)
    model = loaded(build, tensors, _their_name(head.names, prefix), _WHERE)
    model.report.left_out |= repeated
    return model


def _whole_model(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ImportedModel:
    unknown = sorted(set(config) - _KNOWN_KEYS)
    if unknown or config.get("neck") is not None:
        raise ConfigError(f"{_WHERE}: {', '.join(unknown) or 'neck'}: cannot be imported")
    for key in ("backbone", "decode_head"):
        if config.get(key) is None:
            raise ConfigError(f"{_WHERE}.{key}: missing; give mmsegmentation's whole config")
    notes: list[str] = []
    backbone, norm, out_indices = backbone_section(config["backbone"], f"{_WHERE}.backbone")
    head, head_prefix = _last_head(config["decode_head"], out_indices, norm, notes)
    _check_norms(head.batch_norm, norm, notes, f"{_WHERE}.{head_prefix.removesuffix('.')}")
    aux, aux_prefix, unused_prefixes = _auxiliary(config.get("auxiliary_head"), out_indices, head, norm)
    section: JSONDict = {
        "backbone": backbone,
        "head": head.section,
        "aux": aux,
        "align_corners": head.align_corners,
        "dropout": head.dropout,
        "input": input_section(config.get("data_preprocessor"), f"{_WHERE}.data_preprocessor", notes),
        "batch_norm": norm,
    }
    names = {ours: head_prefix + theirs for ours, theirs in head.names.items()}
    if head.section["name"] == "ocr":
        names |= _single_conv_names("head.coarse", "decode_head.0.")
    names |= _single_conv_names("auxiliary", aux_prefix)
    if backbone["stem"]["kind"] == "plain":
        names |= {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in PLAIN_STEM.items()}
    reason = "of an auxiliary head that we have no place for; no logit depends on it"
    unused = {name: reason for name in tensors if name.startswith(unused_prefixes)}
    used, repeated = _without_tied(head, head_prefix, {k: v for k, v in tensors.items() if k not in unused})

    def build() -> ImportedModel:
        model = ImportedModel(section, head.num_classes, _WHERE)
        stage_channels = {stage: model.segmenter.backbone.stage_channels[stage] for stage in head.stage_channels}
        if stage_channels != head.stage_channels:
            raise ConfigError(
                f"{_WHERE}.decode_head.in_channels: {head.stage_channels}, but the backbone gives {stage_channels}"
            )
        return model

    model = loaded(build, used, _their_name(names), _WHERE)
    model.report.left_out = unused | repeated
    model.report.notes = notes
    test_cfg = config.get("test_cfg")
    mode = test_cfg.get("mode", "whole") if isinstance(test_cfg, Mapping) else "whole"
    if mode != "whole":
        notes.append(f"test_cfg.mode is {mode}: set eval.mode, eval.window_hw and eval.stride_hw accordingly")
    return model


# ---- config to recipe ----


def _last_head(config: Any, out_indices: Sequence[int], norm: JSONDict, notes: list[str]) -> tuple[DecodeHead, str]:
    """Returns the decode head and its prefix: the only one, or a cascade's OCRHead that holds the coarse head."""
    where = f"{_WHERE}.decode_head"
    if not isinstance(config, (list, tuple)):
        return decode_head(config, out_indices, where), "decode_head."
    if len(config) == 1:
        return decode_head(config[0], out_indices, f"{where}.0"), "decode_head.0."
    classes = [class_name(head, f"{where}.{index}") for index, head in enumerate(config)]
    if classes != ["FCNHead", "OCRHead"]:
        raise ConfigError(
            f"{where}: holds {', '.join(classes) or 'none'}; known cascades: any one head, or FCNHead and then OCRHead"
        )
    head = decode_head(config[1], out_indices, f"{where}.1", in_cascade=True)
    coarse = decode_head(config[0], out_indices, f"{where}.0")
    if wrong := _keys_of_no_single_conv(coarse):
        keys = ", ".join(f"{where}.0.{key}" for key in wrong)
        raise ConfigError(f"{keys}: expected, before OCRHead, one 3x3 convolution with a norm on one stage")
    if coarse.num_classes != head.num_classes:
        raise ConfigError(f"{where}.0.num_classes: holds {coarse.num_classes}, but OCRHead has {head.num_classes}")
    _check_norms(coarse.batch_norm, norm, notes, f"{where}.0")
    weight = _loss_weight(config[0].get("loss_decode"), f"{where}.0")
    section = head.section | {"coarse": _auxiliary_section(coarse, weight)}
    return replace(head, section=section, stage_channels=coarse.stage_channels | head.stage_channels), "decode_head.1."


def _auxiliary(
    config: Any, out_indices: Sequence[int], head: DecodeHead, norm: JSONDict
) -> tuple[JSONDict | None, str, tuple[str, ...]]:
    """Returns the section `aux`, the prefix of its tensors, and the prefixes of auxiliary heads that are left out.

    Takes the first auxiliary head that is a single convolution. Auxiliary heads serve the loss alone: no logit depends
    on them.
    """
    if isinstance(config, (list, tuple)):
        configs = {f"auxiliary_head.{index}.": entry for index, entry in enumerate(config)}
    else:
        configs = {} if config is None else {"auxiliary_head.": config}
    for prefix, entry in configs.items():
        try:
            aux = decode_head(entry, out_indices, _WHERE)
        except ConfigError:
            continue
        is_single_conv = aux.section["name"] == "fcn" and not _keys_of_no_single_conv(aux)
        if is_single_conv and aux.batch_norm == norm and aux.num_classes == head.num_classes:
            weight = _loss_weight(entry.get("loss_decode"), f"{_WHERE}.auxiliary_head")
            return _auxiliary_section(aux, weight), prefix, tuple(unused for unused in configs if unused != prefix)
    return None, "auxiliary_head.", tuple(configs)


def _keys_of_no_single_conv(head: DecodeHead) -> list[str]:
    """Returns the keys of an FCNHead that keep it from being our auxiliary head: one 3x3 convolution on one stage."""
    theirs = {"kernel": "kernel_size", "has_norm": "norm_cfg"}
    wrong = [theirs.get(key, key) for key, value in _SINGLE_CONV.items() if head.section[key] != value]
    return wrong + ["input_transform"] * (len(head.section["in_stages"]) != 1)


def _auxiliary_section(head: DecodeHead, weight: float) -> JSONDict:
    return {
        "channels": head.section["channels"],
        "weight": weight,
        "stage": head.section["in_stages"][0],
        "dropout": head.dropout,
        "leaky_slope": head.section["leaky_slope"],
    }


def _loss_weight(losses: Any, where: str) -> float:
    """Returns the weight of a head's only loss; 0.4, the usual value, where it has none or several."""
    if not isinstance(losses, Mapping):
        return 0.4
    return Reader(losses, f"{where}.loss_decode").number("loss_weight", 1.0)


def _check_norms(of_head: JSONDict | None, of_backbone: JSONDict, notes: list[str], where: str) -> None:
    """Raises ConfigError for two different eps; notes a different momentum, which only training reads."""
    if of_head is None or of_head == of_backbone:
        return
    if of_head["eps"] != of_backbone["eps"]:
        eps = f"holds {of_head['eps']}, the backbone's is {of_backbone['eps']}"
        raise ConfigError(f"{where}.norm_cfg.eps: {eps}; a model with both cannot be imported")
    note = (
        f"batch norm's momentum is the backbone's, {of_backbone['momentum']}, in the head too, where it was "
        f"{of_head['momentum']}; no logit depends on it"
    )
    if note not in notes:
        notes.append(note)


# ---- names and tensors ----


def _single_conv_names(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.conv": f"{theirs}convs.0", f"{ours}.classifier": f"{theirs}conv_seg"}


def _their_name(names: dict[str, str], prefix: str = "") -> Callable[[str], str]:
    """Returns the function from our names to mmsegmentation's: modules by `names`, then the innermost modules."""
    rename = renamed(names)

    def their_name(ours: str) -> str:
        theirs = prefix + rename(ours)
        for our_leaf, their_leaf in _LEAF_NAMES.items():
            theirs = theirs.replace(f".{our_leaf}.", f".{their_leaf}.")
        return theirs

    return their_name


def _without_tied(
    head: DecodeHead, prefix: str, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors with tied weights only once, and the names of the repetitions with the reason.

    Raises CheckpointError where tied weights differ.
    """
    rename = renamed({prefix + theirs: prefix + original for theirs, original in head.tied.items()})
    unique, repeated = {}, {}
    for name, value in tensors.items():
        original = rename(name)
        if original == name or original not in tensors:
            unique[original] = value
        elif torch.equal(value, tensors[original]):
            repeated[name] = f"the same as {original}"
        else:
            raise CheckpointError(f"{_WHERE}: {name} differs from {original}; in mmsegmentation they are one")
    return unique, repeated
