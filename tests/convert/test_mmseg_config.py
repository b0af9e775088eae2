from typing import Any

import pytest

from segnl.convert.mmseg_config import backbone_dict, batch_norm, input_dict, leaky_slope
from segnl.core.config import validate
from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import ResNetConfig, plan_stages

V1C = {
    "type": "ResNetV1c",
    "depth": 50,
    "num_stages": 4,
    "out_indices": (0, 1, 2, 3),
    "dilations": (1, 1, 2, 4),
    "strides": (1, 2, 1, 1),
    "norm_cfg": {"type": "SyncBN", "requires_grad": True},
    "norm_eval": False,
    "style": "pytorch",
    "contract_dilation": True,
}


def plans(config: dict[str, Any]) -> list[tuple[int, tuple[int, ...]]]:
    mapping, _, _ = backbone_dict(config, "mmseg")
    return [tuple(plan) for plan in plan_stages(validate(ResNetConfig, mapping, file="test"))]


def test_the_published_backbone_is_ours_by_default_keys() -> None:
    mapping, norm, out_indices = backbone_dict(V1C, "mmseg")
    assert mapping["stem"] == {"kind": "deep", "channels": 64}
    assert (mapping["depth"], mapping["width"], mapping["output_stride"]) == (50, 1.0, 8)
    assert "dilations" not in mapping
    assert norm == {"eps": 1e-5, "momentum": 0.1}
    assert out_indices == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("over", "layer3", "layer4"),
    [
        ({}, (1, 2, 2, 2, 2, 2), (2, 4, 4)),
        ({"contract_dilation": False}, (2,) * 6, (4, 4, 4)),
        ({"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), "multi_grid": (1, 2, 4)}, (1,) * 6, (1, 2, 4)),
        ({"dilations": (1, 1, 3, 5)}, (1, 3, 3, 3, 3, 3), (2, 5, 5)),
        ({"strides": (1, 2, 2, 2), "dilations": (1, 1, 2, 4)}, (1, 2, 2, 2, 2, 2), (2, 4, 4)),
    ],
)
def test_dilations_are_what_mmsegmentation_makes_of_its_keys(
    over: dict[str, Any], layer3: tuple[int, ...], layer4: tuple[int, ...]
) -> None:
    assert [dilations for _, dilations in plans(V1C | over)[2:]] == [layer3, layer4]


def test_kinds_of_resnet_differ_in_stem_and_shortcut() -> None:
    found = {}
    for kind in ("ResNet", "ResNetV1c", "ResNetV1d"):
        mapping, _, _ = backbone_dict({"type": kind, "depth": 18}, "mmseg")
        found[kind] = (mapping["stem"]["kind"], mapping["avg_down"], mapping["output_stride"])
    assert found == {
        "ResNet": ("plain", False, 32),
        "ResNetV1c": ("deep", False, 32),
        "ResNetV1d": ("deep", True, 32),
    }
    assert backbone_dict({"type": "ResNet", "depth": 50, "style": "caffe"}, "mmseg")[0]["stride_conv"] == 1


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"type": "HRNet"}, "mmseg.backbone.type: holds 'HRNet'; known: ResNet, ResNetV1c, ResNetV1d"),
        ({"depth": 51}, "depth: holds 51"),
        ({"strides": (1, 1, 1, 1)}, "strides: holds (1, 1, 1, 1); known: (1, 2, 1, 1)"),
        ({"dilations": (1, 1, 2)}, "expected four numbers"),
        ({"multi_grid": (1, 2)}, "multi_grid: holds [1, 2], expected 3 numbers"),
        ({"num_stages": 3}, "num_stages: holds 3"),
        ({"in_channels": 4}, "in_channels: holds 4"),
        ({"dcn": {"type": "DCN"}}, "dcn: holds"),
        ({"plugins": [{"cfg": {}}]}, "plugins: holds"),
        ({"conv_cfg": {"type": "ConvWS"}}, "conv_cfg: holds"),
        ({"style": "other"}, "style: holds 'other'"),
        ({"norm_cfg": {"type": "GN", "num_groups": 32}}, "norm_cfg.type: holds 'GN'"),
        ({"norm_cfg": None}, "norm_cfg: holds None"),
        ({"groups": 32}, "groups: unknown keys"),
        ({"out_indices": (4,)}, "out_indices: holds (4,)"),
    ],
)
def test_what_we_cannot_represent_is_refused_by_name(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backbone_dict(V1C | over, "mmseg.backbone")
    assert message in str(caught.value)


def test_activations_are_slopes() -> None:
    assert leaky_slope({"type": "ReLU", "inplace": True}, "act_cfg") == 0.0
    assert leaky_slope({"type": "LeakyReLU"}, "act_cfg") == 0.01
    assert leaky_slope({"type": "LeakyReLU", "negative_slope": 0.2}, "act_cfg") == 0.2
    assert leaky_slope(None, "act_cfg") == 1.0
    with pytest.raises(ConfigError, match=r"act_cfg\.type: holds 'GELU'"):
        leaky_slope({"type": "GELU"}, "act_cfg")


def test_batch_norms_keep_their_eps() -> None:
    assert batch_norm({"type": "BN", "eps": 1e-3, "momentum": 0.01}, "norm_cfg") == {"eps": 1e-3, "momentum": 0.01}
    assert batch_norm(None, "norm_cfg") is None


def test_the_input_convention_is_carried() -> None:
    notes: list[str] = []
    found = input_dict({"mean": [1, 2, 3], "std": [4, 5, 6], "bgr_to_rgb": True, "size": (8, 8)}, "where", notes)
    assert found == {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "order": "rgb"}
    assert input_dict({"mean": [1, 2, 3], "std": [4, 5, 6]}, "where", notes)["order"] == "bgr"
    assert not notes
    assert input_dict(None, "where", notes) == {}
    assert "ImageNet" in notes[0]
