"""Models of mmsegmentation 0.x and 1.x.

Their names are kept in one place: `DecodeHead.names` for heads, here for backbone and auxiliary head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segnl.convert.imported_model import ImportedHead, ImportedModel
from segnl.convert.mmseg_config import JSONDict, Reader, backbone_dict, input_dict, kind_of
from segnl.convert.mmseg_heads import DecodeHead, decode_head, ocr_head
from segnl.convert.mmseg_kinds import KINDS
from segnl.core.config import validate
from segnl.core.errors import CheckpointError, ConfigError
from segnl.models.find import HEADS
from segnl.models.segmenter import BatchNormConfig, Segmenter, model_config
from segnl.models.weights.backbone import PLAIN_STEM
from segnl.models.weights.files import tensors_in
from segnl.models.weights.strict import ImportReport, load_strict, renamed

_WHERE = "mmseg"
_AUXILIARY = "auxiliary_head."
_COARSE = "decode_head.0."
_WORDS = {"norm": "bn", "depthwise": "depthwise_conv", "pointwise": "pointwise_conv"}
"""Our names' last words to theirs."""
_MODELS = ("EncoderDecoder", "CascadeEncoderDecoder")
_IGNORED_SECTIONS = {"type", "pretrained", "train_cfg", "test_cfg", "init_cfg"}


def from_mmseg(config: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """A model of mmsegmentation, or one of its decode heads alone, with its weights, in eval mode.

    config: of type EncoderDecoder or CascadeEncoderDecoder (the result maps a normalised image `b 3 H W` to logits
    `b k H W`), or of a decode head (a list of stages c2..c5, unused ones None, to logits `b k h w`). state: its
    state_dict, also wrapped or with `module.` before every name. The result's `report` names what was left out.

    Raises ConfigError for what we cannot represent, CheckpointError for tensors that do not fit.
    """
    if not isinstance(config, Mapping) or not isinstance(state, Mapping):
        kinds = f"{type(config).__name__} and {type(state).__name__}"
        raise ConfigError(f"{_WHERE}: config and state are {kinds}; expected a dictionary each")
    config = config["model"] if "type" not in config and isinstance(config.get("model"), Mapping) else config
    kind = kind_of(config, _WHERE)
    tensors = tensors_in(state, _WHERE)
    if kind in _MODELS:
        return _whole_model(config, tensors).eval()
    if kind not in KINDS and kind != "OCRHead":
        known = ", ".join([*KINDS, *_MODELS])
        raise ConfigError(f"{_WHERE}.type: holds {kind!r}; known heads and models: {known}")
    return _head_alone(decode_head(config, (0, 1, 2, 3), _WHERE), tensors).eval()


def _head_alone(head: DecodeHead, tensors: Mapping[str, Tensor]) -> ImportedHead:
    kind = HEADS.find(head.mapping["name"])
    cfg = validate(kind.Config, head.mapping, file=_WHERE, at="head")
    channels = [head.stage_channels.get(stage, 0) for stage in range(4)]
    norm = BatchNormConfig(**(head.batch_norm or {}))
    model = ImportedHead(
        kind(cfg, channels, head.num_classes), head.num_classes, head.dropout, norm, align_corners=head.align_corners
    )
    prefix = "decode_head." if all(name.startswith("decode_head.") for name in tensors) else ""
    kept, tied = _without_tied(head, prefix, tensors)
    model.report = load_strict(model, kept, _named(head.names, prefix), where=_WHERE)
    model.report.left_out |= tied
    return model


def _without_tied(
    head: DecodeHead, prefix: str, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, one of each that a state_dict there holds twice, and the others with the reason.

    Raises CheckpointError where two that are one module in mmsegmentation differ.
    """
    rename = renamed({prefix + theirs: prefix + original for theirs, original in head.tied.items()})
    kept, left_out = dict(tensors), {}
    for name, value in tensors.items():
        original = rename(name)
        if original == name:
            continue
        if original in tensors and not torch.equal(value, tensors[original]):
            raise CheckpointError(f"{_WHERE}: {name} differs from {original}; in mmsegmentation they are one")
        if original in tensors:
            left_out[name] = f"the same as {original}"
        kept[original] = kept.pop(name)
    return kept, left_out


def _whole_model(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> ImportedModel:
    unknown = (
        set(config)
        - _IGNORED_SECTIONS
        - {"backbone", "decode_head", "auxiliary_head", "neck", "data_preprocessor", "num_stages"}
    )
    if unknown or config.get("neck") is not None:
        raise ConfigError(f"{_WHERE}: {', '.join(sorted(unknown)) or 'neck'}: cannot be imported")
    for key in ("backbone", "decode_head"):
        if config.get(key) is None:
            raise ConfigError(f"{_WHERE}.{key}: missing; give mmsegmentation's whole config")
    report = ImportReport()
    backbone, norm, out_indices = backbone_dict(config["backbone"], f"{_WHERE}.backbone")
    head, head_prefix = _last_head(config["decode_head"], out_indices, norm, report)
    _check_norms(head.batch_norm, norm, report, f"{_WHERE}.{head_prefix.removesuffix('.')}")
    aux, aux_prefix, left_out = _auxiliary(config.get("auxiliary_head"), out_indices, head, norm)
    model: JSONDict = {
        "backbone": backbone,
        "head": head.mapping,
        "aux": aux,
        "align_corners": head.align_corners,
        "dropout": head.dropout,
        "input": input_dict(config.get("data_preprocessor"), f"{_WHERE}.data_preprocessor", report.notes),
        "batch_norm": norm,
    }
    cfg = model_config(model, file=_WHERE)
    segmenter = Segmenter(cfg, head.num_classes)
    given = {stage: segmenter.backbone.stage_channels[stage] for stage in head.stage_channels}
    if given != head.stage_channels:
        raise ConfigError(f"{_WHERE}.decode_head.in_channels: {head.stage_channels}, but the backbone gives {given}")
    names = {ours: head_prefix + theirs for ours, theirs in head.names.items()}
    if head.mapping["name"] == "ocr":
        names |= {"head.coarse.conv": f"{_COARSE}convs.0", "head.coarse.classifier": f"{_COARSE}conv_seg"}
    names |= {"auxiliary.conv": f"{aux_prefix}convs.0", "auxiliary.classifier": f"{aux_prefix}conv_seg"}
    if backbone["stem"]["kind"] == "plain":
        names |= {f"backbone.{ours}": f"backbone.{theirs}" for ours, theirs in PLAIN_STEM.items()}
    reason = "of an auxiliary head that we have no place for; no logit depends on it"
    report.left_out = {name: reason for name in tensors if name.startswith(left_out)}
    kept, tied = _without_tied(head, head_prefix, tensors)
    kept = {name: value for name, value in kept.items() if name not in report.left_out}
    report.left_out |= tied
    loaded = load_strict(segmenter, kept, _named(names), where=_WHERE)
    report.num_used, report.filled = loaded.num_used, loaded.filled
    _check_slide(config.get("test_cfg"), report)
    return ImportedModel(cfg, segmenter, report)


def _last_head(config: Any, out_indices: Sequence[int], norm: JSONDict, report: ImportReport) -> tuple[DecodeHead, str]:
    """The decode head and its prefix: the only one, or the OCRHead of a cascade, with the coarse head before it."""
    where = f"{_WHERE}.decode_head"
    if not isinstance(config, (list, tuple)):
        return decode_head(config, out_indices, where), "decode_head."
    if len(config) == 1:
        return decode_head(config[0], out_indices, f"{where}.0"), "decode_head.0."
    kinds = [kind_of(each, f"{where}.{index}") for index, each in enumerate(config)]
    if kinds != ["FCNHead", "OCRHead"]:
        held = ", ".join(kinds) or "none"
        raise ConfigError(f"{where}: holds {held}; known cascades: any one head, or FCNHead and then OCRHead")
    head = ocr_head(config[1], out_indices, f"{where}.1")
    coarse = decode_head(config[0], out_indices, f"{where}.0")
    _check_coarse(coarse, head, f"{where}.0")
    _check_norms(coarse.batch_norm, norm, report, f"{where}.0")
    weight = _loss_weight(config[0].get("loss_decode"), f"{where}.0")
    mapping = head.mapping | {"coarse": _auxiliary_section(coarse, weight)}
    return replace(head, mapping=mapping, stage_channels=coarse.stage_channels | head.stage_channels), "decode_head.1."


def _check_coarse(coarse: DecodeHead, head: DecodeHead, where: str) -> None:
    """Raises ConfigError where the head before OCRHead has another form than our coarse prediction."""
    ours = {"num_convs": 1, "kernel": 3, "dilation": 1, "concat_input": False, "has_norm": True}
    theirs = {"kernel": "kernel_size", "has_norm": "norm_cfg"}
    wrong = [f"{where}.{theirs.get(key, key)}" for key, value in ours.items() if coarse.mapping[key] != value]
    wrong += [f"{where}.input_transform"] if len(coarse.mapping["in_stages"]) != 1 else []
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: expected, before OCRHead, one 3x3 convolution with a norm, without concat_input, on "
            "one stage"
        )
    if coarse.num_classes != head.num_classes:
        raise ConfigError(f"{where}.num_classes: holds {coarse.num_classes}, but OCRHead has {head.num_classes}")


def _auxiliary(
    config: Any, out_indices: Sequence[int], head: DecodeHead, norm: JSONDict
) -> tuple[JSONDict | None, str, tuple[str, ...]]:
    """The first auxiliary head of our form (one convolution), its prefix, and the prefixes of those left out.

    They serve the loss alone: no logit depends on them.
    """
    if config is None:
        return None, _AUXILIARY, ()
    is_list = isinstance(config, (list, tuple))
    found: dict[str, JSONDict] = {}
    left_out = []
    for index, each in enumerate(config if is_list else [config]):
        prefix = f"{_AUXILIARY}{index}." if is_list else _AUXILIARY
        mapping = None if found else _auxiliary_dict(each, out_indices, head, norm)
        if mapping is None:
            left_out.append(prefix)
        else:
            found[prefix] = mapping
    prefix, mapping = next(iter(found.items()), (_AUXILIARY, None))
    return mapping, prefix, tuple(left_out)


def _auxiliary_dict(config: Any, out_indices: Sequence[int], head: DecodeHead, norm: JSONDict) -> JSONDict | None:
    """An auxiliary head as our `aux`, None where it has another form."""
    try:
        aux = decode_head(config, out_indices, _WHERE)
    except ConfigError:
        return None
    ours = {"name": "fcn", "num_convs": 1, "kernel": 3, "dilation": 1, "concat_input": False, "has_norm": True}
    fits = all(aux.mapping.get(key) == value for key, value in ours.items()) and len(aux.mapping["in_stages"]) == 1
    if not fits or aux.batch_norm != norm or aux.num_classes != head.num_classes:
        return None
    return _auxiliary_section(aux, _loss_weight(config.get("loss_decode"), f"{_WHERE}.auxiliary_head"))


def _auxiliary_section(head: DecodeHead, weight: float) -> JSONDict:
    return {
        "channels": head.mapping["channels"],
        "weight": weight,
        "stage": head.mapping["in_stages"][0],
        "dropout": head.dropout,
        "leaky_slope": head.mapping["leaky_slope"],
    }


def _loss_weight(losses: Any, where: str) -> float:
    """Of a head's one loss; of several, or none, the usual 0.4."""
    if not isinstance(losses, Mapping):
        return 0.4
    return Reader(losses, f"{where}.loss_decode").number("loss_weight", 1.0)


def _check_norms(of_head: JSONDict | None, of_backbone: JSONDict, report: ImportReport, where: str) -> None:
    """One eps holds for the whole model; momentum, which training alone reads, may differ and is said."""
    if of_head is None or of_head == of_backbone:
        return
    if of_head["eps"] != of_backbone["eps"]:
        raise ConfigError(
            f"{where}.norm_cfg.eps: holds {of_head['eps']}, the backbone's is {of_backbone['eps']}; "
            "a model with both cannot be imported"
        )
    note = (
        f"batch norm's momentum is the backbone's, {of_backbone['momentum']}, in the head too, where it was "
        f"{of_head['momentum']}; no logit depends on it"
    )
    if note not in report.notes:
        report.notes.append(note)


def _check_slide(test_cfg: Any, report: ImportReport) -> None:
    mode = test_cfg.get("mode", "whole") if isinstance(test_cfg, Mapping) else "whole"
    if mode != "whole":
        report.notes.append(f"test_cfg.mode is {mode}: set eval.mode, eval.window_hw and eval.stride_hw accordingly")


def _named(names: dict[str, str], prefix: str = "") -> Any:
    """From our names to theirs: modules by `names`, then the last words."""
    rename = renamed(names)

    def name_of(ours: str) -> str:
        theirs = prefix + rename(ours)
        for word, other in _WORDS.items():
            theirs = theirs.replace(f".{word}.", f".{other}.")
        return theirs

    return name_of
