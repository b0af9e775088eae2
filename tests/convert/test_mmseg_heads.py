from typing import Any

import pytest

from segnl.convert.mmseg_heads import decode_head
from segnl.core.errors import ConfigError

FCN = {
    "type": "FCNHead",
    "in_channels": 48,
    "in_index": 3,
    "channels": 16,
    "num_classes": 7,
    "norm_cfg": {"type": "BN"},
}
ALL = (0, 1, 2, 3)


@pytest.mark.parametrize(("in_index", "stage"), [(3, 3), (-1, 3), (0, 0), ([2], 2)])
def test_an_index_counts_the_maps_of_the_backbone(in_index: Any, stage: int) -> None:
    assert decode_head(FCN | {"in_index": in_index}, ALL, "mmseg").section["in_stages"] == [stage]


def test_an_index_counts_only_the_maps_that_the_backbone_gives() -> None:
    assert decode_head(FCN | {"in_index": 1}, (1, 3), "mmseg").section["in_stages"] == [3]


def test_concatenated_stages_keep_their_order_and_channels() -> None:
    over = {"in_index": (3, 0), "in_channels": [48, 8], "input_transform": "resize_concat"}
    head = decode_head(FCN | over, ALL, "mmseg")
    assert head.section["in_stages"] == [3, 0]
    assert head.stage_channels == {3: 48, 0: 8}


def test_defaults_are_those_of_mmsegmentation() -> None:
    assert decode_head(FCN | {"type": "ASPPHead"}, ALL, "mmseg").section["dilations"] == [1, 6, 12, 18]
    assert decode_head(FCN | {"type": "CCHead"}, ALL, "mmseg").section["recurrence"] == 2
    nl = decode_head(FCN | {"type": "NLHead"}, ALL, "mmseg").section
    assert (nl["pairwise"], nl["reduction"], nl["use_scale"]) == ("embedded_gaussian", 2, True)
    head = decode_head({key: value for key, value in FCN.items() if key != "norm_cfg"}, ALL, "mmseg")
    assert head.section["has_norm"] is False
    assert (head.dropout, head.align_corners) == (0.1, False)


def test_align_corners_none_means_false() -> None:
    assert decode_head(FCN | {"align_corners": None}, ALL, "mmseg") == decode_head(FCN, ALL, "mmseg")
    assert decode_head(FCN | {"align_corners": True}, ALL, "mmseg").align_corners is True


def test_settings_of_the_loss_are_ignored() -> None:
    over = {"loss_decode": {"type": "CrossEntropyLoss"}, "ignore_index": 255, "sampler": None, "init_cfg": None}
    assert decode_head(FCN | over, ALL, "mmseg").section == decode_head(FCN, ALL, "mmseg").section


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"type": "SETRUPHead"}, "mmseg.type: holds 'SETRUPHead'; known heads: ANNHead, ASPPHead, CCHead, DAHead"),
        ({"kernel_size": 2}, "kernel_size: holds 2"),
        ({"in_index": 4}, "in_index: holds [4], but the backbone gives 4 maps"),
        ({"in_index": 3.0}, "in_index: holds [3.0], expected integers"),
        ({"in_channels": True}, "in_channels: holds [True], expected integers of at least 1"),
        ({"dropout_ratio": 1.0}, "dropout_ratio: holds 1.0, expected a number below 1"),
        ({"align_corners": "no"}, "align_corners: holds 'no', expected true or false"),
        ({"norm_cfg": {"type": "BN", "eps": 0}}, "norm_cfg.eps: holds 0, expected a number above 0"),
        ({"norm_cfg": {"type": "BN", "momentum": 2}}, "norm_cfg.momentum: holds 2, expected a number above 0, up to"),
        ({"type": "ANNHead", "project_channels": 8}, "in_index: holds [3], expected two numbers"),
        ({"in_index": [2, 3], "in_channels": [24, 48]}, "without an input_transform"),
        ({"in_index": [2, 3], "in_channels": [24, 48], "input_transform": "multiple_select"}, "input_transform: holds"),
        ({"in_channels": [24, 48]}, "in_channels: 2 numbers, but in_index has 1"),
        ({"num_classes": 2, "out_channels": 1}, "out_channels: holds 1"),
        ({"type": "NLHead", "mode": "sum"}, "mode: holds 'sum'"),
        ({"type": "NLHead", "num_convs": 1}, "num_convs: unknown keys"),
        ({"conv_cfg": {"type": "DCN"}}, "conv_cfg: holds"),
        ({"surprise": 1}, "surprise: unknown keys"),
        ({"num_classes": None}, "num_classes: holds None, expected an integer of at least 1"),
        ({"channels": 1.5}, "channels: holds 1.5, expected an integer of at least 1"),
        ({"in_channels": "x"}, "in_channels: holds ['x'], expected integers of at least 1"),
        ({"dropout_ratio": None}, "dropout_ratio: holds None, expected a number"),
        ({"dropout_ratio": 1.5}, "dropout_ratio: holds 1.5, expected a number below 1"),
        ({"norm_cfg": {"type": "BN", "momentum": None}}, "norm_cfg.momentum: holds None, expected a number"),
        ({"act_cfg": {"type": "LeakyReLU", "negative_slope": "x"}}, "negative_slope: holds 'x', expected a number"),
        ({"type": "ASPPHead", "dilations": 6}, "dilations: holds 6, expected a list of integers"),
    ],
)
def test_a_setting_that_cannot_be_represented_is_refused_by_name(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_head(FCN | over, ALL, "mmseg")
    assert message in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mmseg\.channels: missing"):
        decode_head({key: value for key, value in FCN.items() if key != "channels"}, ALL, "mmseg")


NEEDED = {
    "ANNHead": {"project_channels": 24, "in_index": [2, 3], "in_channels": [24, 48]},
    "DAHead": {"pam_channels": 12},
    "DepthwiseSeparableASPPHead": {"c1_in_channels": 256, "c1_channels": 48},
    "EMAHead": {"ema_channels": 20, "num_bases": 5, "num_stages": 2},
    "ISAHead": {"isa_channels": 24},
}


def translate(name: str, **keys: Any) -> dict[str, Any]:
    """The section `head` without what all heads have."""
    head = decode_head({**FCN, "type": name, "channels": 32} | NEEDED.get(name, {}) | keys, ALL, "mmseg")
    shared = ("in_stages", "channels", "has_norm", "leaky_slope")
    return {key: value for key, value in head.section.items() if key not in shared}


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("ASPPHead", {"name": "aspp", "dilations": [1, 6, 12, 18]}),
        ("PSPHead", {"name": "psp", "bins": [1, 2, 3, 6]}),
        ("DAHead", {"name": "da", "inner_channels": 12, "branch_dropout": 0.1}),
        ("ISAHead", {"name": "isa", "inner_channels": 24, "group_hw": [8, 8]}),
        ("ANNHead", {"name": "ann", "inner_channels": 24, "bins": [1, 3, 6, 8], "fusion_dropout": 0.1}),
    ],
)
def test_defaults_of_a_heads_own_keys_are_those_of_mmsegmentation(name: str, section: dict[str, Any]) -> None:
    assert translate(name) == section


def test_fcn_style_heads_have_the_layouts_settings_and_their_own() -> None:
    layout = {"num_convs": 2, "kernel": 3, "dilation": 1, "concat_input": True}
    assert translate("CCHead") == {"name": "rcca", "recurrence": 2} | layout
    pairs = {"pairwise": "embedded_gaussian", "reduction": 2, "use_scale": True}
    assert translate("NLHead") == {"name": "non_local"} | pairs | layout
    assert translate("DNLHead") == {"name": "dnl", "temperature": 0.05} | pairs | layout
    block = {"inner_channels": 8, "pooling": "attention", "fusion": "add"}
    assert translate("GCHead") == {"name": "gc"} | block | layout


def test_a_ratio_of_channels_is_rounded_down() -> None:
    assert translate("GCHead", ratio=0.3)["inner_channels"] == 9  # of 9.6


def test_the_order_of_two_fusions_does_not_matter() -> None:
    fusion = ("channel_add", "channel_mul")
    assert translate("GCHead", fusion_types=fusion)["fusion"] == "both"


def test_deeplabv3plus_reads_the_backbones_first_map_unless_it_has_no_decoder() -> None:
    settings = FCN | {"type": "DepthwiseSeparableASPPHead", "in_index": -1, "c1_in_channels": 256, "c1_channels": 48}
    head = decode_head(settings, (1, 3), "mmseg")
    assert (head.section["low_stage"], head.section["low_channels"]) == (1, 48)
    assert head.stage_channels[1] == 256
    without = decode_head(settings | {"c1_in_channels": 0, "c1_channels": 0}, ALL, "mmseg")
    assert without.section["low_stage"] is None
    assert 0 not in without.stage_channels


def test_ocr_is_allowed_in_a_cascade_only() -> None:
    ocr = FCN | {"type": "OCRHead", "ocr_channels": 6}
    assert decode_head(ocr, ALL, "mmseg", in_cascade=True).section["inner_channels"] == 6
    with pytest.raises(ConfigError, match="OCRHead only as the second of a cascade"):
        decode_head(ocr, ALL, "mmseg")


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("FCNHead", {"kernel_size": 2}, "mmseg.kernel_size: holds 2, expected an odd number"),
        ("NLHead", {"mode": "sum"}, "mmseg.mode: holds 'sum'; known: embedded_gaussian, gaussian, dot_product, conc"),
        ("DNLHead", {"mode": "gaussian"}, "mmseg.mode: holds 'gaussian'; known: embedded_gaussian, dot_product"),
        ("GCHead", {"pooling_type": "max"}, "mmseg.pooling_type: holds 'max'; known: att, avg"),
        ("GCHead", {"fusion_types": ("sum",)}, "mmseg.fusion_types: holds ('sum',); known: channel_mul, channel_add"),
        ("GCHead", {"ratio": 0.01}, "mmseg.ratio: 0.01 of 32 channels are 0"),
        ("GCHead", {"ratio": 1e30}, "mmseg.ratio: 1e+30 of 32 channels are 3"),
        ("GCHead", {"fusion_types": (["channel_add"],)}, "mmseg.fusion_types: holds (['channel_add'],); known"),
        ("GCHead", {"channels": "32"}, "mmseg.channels: holds '32', expected an integer"),
        ("GCHead", {"concat_input": 1}, "mmseg.concat_input: holds 1, expected true or false"),
        ("ISAHead", {"down_factor": (2,)}, "mmseg.down_factor: holds (2,), expected two numbers above 0"),
        ("DepthwiseSeparableASPPHead", {"c1_in_channels": True}, "mmseg: c1_in_channels True, c1_channels 48; exp"),
        ("DAHead", {"pam_channels": 0}, "mmseg.pam_channels: holds 0, expected an integer of at least 1"),
        ("ANNHead", {"query_scales": (1, 2)}, "mmseg.query_scales: holds (1, 2); known: (1,), [1]"),
        ("DepthwiseSeparableASPPHead", {"c1_in_channels": 0}, "mmseg: c1_in_channels 0, c1_channels 48; expected"),
    ],
)
def test_a_heads_own_setting_is_refused_by_name(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        translate(name, **keys)
    assert str(refused.value).startswith(message)
