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
    assert decode_head(FCN | {"in_index": in_index}, ALL, "mmseg").mapping["in_stages"] == [stage]


def test_an_index_counts_only_the_maps_that_the_backbone_gives() -> None:
    assert decode_head(FCN | {"in_index": 1}, (1, 3), "mmseg").mapping["in_stages"] == [3]


def test_concatenated_stages_keep_their_order_and_channels() -> None:
    over = {"in_index": (3, 0), "in_channels": [48, 8], "input_transform": "resize_concat"}
    head = decode_head(FCN | over, ALL, "mmseg")
    assert head.mapping["in_stages"] == [3, 0]
    assert head.stage_channels == {3: 48, 0: 8}


def test_the_defaults_are_mmsegmentations() -> None:
    assert decode_head(FCN | {"type": "ASPPHead"}, ALL, "mmseg").mapping["dilations"] == [1, 6, 12, 18]
    assert decode_head(FCN | {"type": "CCHead"}, ALL, "mmseg").mapping["recurrence"] == 2
    nl = decode_head(FCN | {"type": "NLHead"}, ALL, "mmseg").mapping
    assert (nl["pairwise"], nl["reduction"], nl["use_scale"]) == ("embedded_gaussian", 2, True)
    head = decode_head({key: value for key, value in FCN.items() if key != "norm_cfg"}, ALL, "mmseg")
    assert head.mapping["has_norm"] is False
    assert (head.dropout, head.align_corners) == (0.1, False)


def test_no_align_corners_is_false_however_it_is_said() -> None:
    assert decode_head(FCN | {"align_corners": None}, ALL, "mmseg") == decode_head(FCN, ALL, "mmseg")
    assert decode_head(FCN | {"align_corners": True}, ALL, "mmseg").align_corners is True


def test_settings_of_the_loss_are_passed_over() -> None:
    over = {"loss_decode": {"type": "CrossEntropyLoss"}, "ignore_index": 255, "sampler": None, "init_cfg": None}
    assert decode_head(FCN | over, ALL, "mmseg").mapping == decode_head(FCN, ALL, "mmseg").mapping


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"type": "UPerHead"}, "mmseg.type: holds 'UPerHead'; known heads: ANNHead, ASPPHead, CCHead, DAHead"),
        ({"kernel_size": 2}, "kernel_size: holds 2"),
        ({"in_index": 4}, "in_index: holds [4], but the backbone gives 4 maps"),
        ({"in_index": 3.0}, "in_index: holds [3.0], expected integers"),
        ({"in_channels": True}, "in_channels: holds [True], expected integers of at least 1"),
        ({"dropout_ratio": 1.0}, "dropout_ratio: holds 1.0, expected a number below 1"),
        ({"align_corners": "no"}, "align_corners: holds 'no', expected true or false"),
        ({"norm_cfg": {"type": "BN", "eps": 0}}, "norm_cfg.eps: holds 0.0, expected a number above 0"),
        ({"norm_cfg": {"type": "BN", "momentum": 2}}, "norm_cfg.momentum: holds 2.0, expected a number above 0, up to"),
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
def test_what_we_cannot_represent_is_refused_by_name(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_head(FCN | over, ALL, "mmseg")
    assert message in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mmseg\.channels: missing"):
        decode_head({key: value for key, value in FCN.items() if key != "channels"}, ALL, "mmseg")
