from typing import Any

import pytest

from segnl.convert.mmseg_config import (
    Reader,
    backbone_section,
    batch_norm_section,
    input_section,
    leaky_slope,
    read_config_text,
    require_bounded,
)
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
    section, _, _ = backbone_section(config, "mmseg")
    return [tuple(plan) for plan in plan_stages(validate(ResNetConfig, section, file="test"))]


def test_the_published_backbone_needs_no_dilations_written_out() -> None:
    section, norm, out_indices = backbone_section(V1C, "mmseg")
    assert section["stem"] == {"kind": "deep", "channels": 64}
    assert (section["depth"], section["width"], section["output_stride"]) == (50, 1.0, 8)
    assert "dilations" not in section
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
def test_dilations_are_those_of_mmsegmentation(
    over: dict[str, Any], layer3: tuple[int, ...], layer4: tuple[int, ...]
) -> None:
    assert [dilations for _, dilations in plans(V1C | over)[2:]] == [layer3, layer4]


def test_kinds_of_resnet_differ_in_stem_and_shortcut() -> None:
    settings = {}
    for name in ("ResNet", "ResNetV1c", "ResNetV1d"):
        section, _, _ = backbone_section({"type": name, "depth": 18}, "mmseg")
        settings[name] = (section["stem"]["kind"], section["avg_down"], section["output_stride"])
    assert settings == {
        "ResNet": ("plain", False, 32),
        "ResNetV1c": ("deep", False, 32),
        "ResNetV1d": ("deep", True, 32),
    }
    assert backbone_section({"type": "ResNet", "depth": 50, "style": "caffe"}, "mmseg")[0]["stride_conv"] == 1


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"type": "HRNet"}, "mmseg.backbone.type: holds 'HRNet'; known: ResNet, ResNetV1c, ResNetV1d"),
        ({"depth": 51}, "depth: holds 51"),
        ({"strides": (1, 1, 1, 1)}, "strides: holds (1, 1, 1, 1), expected one of (1, 2, 1, 1)"),
        ({"dilations": (1, 1, 2)}, "expected four integers"),
        ({"multi_grid": (1, 2)}, "multi_grid: holds (1, 2), expected 3 numbers"),
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
def test_a_setting_that_cannot_be_represented_is_refused_by_name(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backbone_section(V1C | over, "mmseg.backbone")
    assert message in str(caught.value)


def test_activations_become_slopes() -> None:
    assert leaky_slope({"type": "ReLU", "inplace": True}, "act_cfg") == 0.0
    assert leaky_slope({"type": "LeakyReLU"}, "act_cfg") == 0.01
    assert leaky_slope({"type": "LeakyReLU", "negative_slope": 0.2}, "act_cfg") == 0.2
    assert leaky_slope(None, "act_cfg") == 1.0
    with pytest.raises(ConfigError, match=r"act_cfg\.type: holds 'GELU'"):
        leaky_slope({"type": "GELU"}, "act_cfg")


def test_batch_norms_keep_their_eps() -> None:
    assert batch_norm_section({"type": "BN", "eps": 1e-3, "momentum": 0.01}, "norm_cfg") == {
        "eps": 1e-3,
        "momentum": 0.01,
    }
    assert batch_norm_section(None, "norm_cfg") is None


def test_the_input_convention_is_translated() -> None:
    notes: list[str] = []
    section = input_section({"mean": [1, 2, 3], "std": [4, 5, 6], "bgr_to_rgb": True, "size": (8, 8)}, "where", notes)
    assert section == {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "order": "rgb"}
    assert input_section({"mean": [1, 2, 3], "std": [4, 5, 6]}, "where", notes)["order"] == "bgr"
    assert not notes
    assert input_section(None, "where", notes) == {}
    assert "ImageNet" in notes[0]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"type": "MyPreprocessor"}, r"\.type: holds 'MyPreprocessor'; known: SegDataPreProcessor"),
        ({"gamma": 2.2, "normalize": False}, ": gamma, normalize: unknown keys"),
        ({"test_cfg": {"size_divisor": 32}}, r"\.test_cfg: holds"),
        ({"bgr_to_rgb": "False"}, r"\.bgr_to_rgb: holds 'False', expected true or false"),
        ({"bgr_to_rgb": True, "rgb_to_bgr": True}, r"\.rgb_to_bgr: holds True, expected false"),
        ({"std": None}, r": mean \(1, 2, 3\), std None; expected three numbers each"),
        ({"mean": None}, r": mean None, std \[4, 5, 6\]; expected three numbers each"),
    ],
)
def test_a_key_of_data_preprocessor_that_is_not_read_is_refused(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^where{message}"):
        input_section({"mean": (1, 2, 3), "std": [4, 5, 6], **over}, "where", [])


TEXT = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
crop_size = (512, 1024)
model = dict(
    type='EncoderDecoder',
    backbone=dict(norm_cfg=norm_cfg, dilations=(1, 1, 2, 4), shift=-1.5),
    decode_head={'type': 'CCHead', 'in_index': 3})
work_dir = './runs'
"""


def test_a_flattened_config_is_read_without_running_it() -> None:
    config = read_config_text(TEXT, "file")
    assert config["model"]["backbone"] == {
        "norm_cfg": {"type": "SyncBN", "requires_grad": True},
        "dilations": (1, 1, 2, 4),
        "shift": -1.5,
    }
    assert config["model"]["decode_head"] == {"type": "CCHead", "in_index": 3}


def test_a_value_that_needs_running_code_is_skipped() -> None:
    config = read_config_text("a = 1\nb = __import__('os').getcwd()\na = open('x')\nc = [1, a]", "file")
    assert config == {}


@pytest.mark.parametrize(
    "line",
    [
        "model['backbone']['shift'] = 2",
        "norm_cfg.update(eps=1)",
        "old = model.pop('decode_head')",
        "others = [crop_size, open(norm_cfg)]",
        "others = same.pop('decode_head')",
        "other = (model := {})",
        "model |= {'type': 'Other'}",
        "model: dict = {}",
        "other = model = {}",
        "model, other = {}, 1",
        "del model",
        "if True: model = {}",
        "for model in []: pass",
        "from other import model",
        "_base_ = ['./other.py']",
        "model = {**model}",
        "data_preprocessor = {'mean': 3 * [0]}",
        "img_norm_cfg = dict(mean=open('x'))",
    ],
)
def test_a_line_that_may_change_what_is_read_is_refused_with_its_number(line: str) -> None:
    text = f'"""A config."""\n{TEXT}same = [model][0]\n{line}\nload_from = None\n'
    number = text.split("\n").index(line) + 1
    with pytest.raises(ConfigError) as caught:
        read_config_text(text, "file")
    assert str(caught.value).startswith(f"file: line {number}: {line!r} is not run")


def test_text_that_is_not_python_is_refused() -> None:
    with pytest.raises(ConfigError, match="not readable"):
        read_config_text("model = dict(", "file")


@pytest.mark.timeout(20)
def test_names_that_repeat_one_another_cannot_grow_without_bound() -> None:
    lines = ["a0 = [1, 2]", *(f"a{n} = [a{n - 1}, a{n - 1}]" for n in range(1, 20)), "model = dict(type=a19)"]
    config = read_config_text("\n".join(lines), "file")
    with pytest.raises(ConfigError, match=r"^file\.model\.type[.01]*: more than 10,000 values"):
        require_bounded(config, "file")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("member", ["{(NAME, 1): 2}", "{(NAME, 1)}"])
def test_names_in_keys_and_sets_are_not_read(member: str) -> None:
    lines = ["a0 = (1, 2)", *(f"a{n} = (a{n - 1}, a{n - 1})" for n in range(1, 60))]
    assert "b" not in read_config_text("\n".join([*lines, f"b = {member}".replace("NAME", "a59")]), "file")


NESTED = "\n".join(["x0 = 1", *(f"x{n} = [x{n - 1}]" for n in range(1, 3000))])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{1: 2, 'type': 'EncoderDecoder'}", "model: a key that is no word"),
        ("dict(decode_head={(1, 2): 3})", "model.decode_head: a key that is no word"),
        ("dict(depth=1" + "0" * 400 + ")", "model.depth: an integer of 1329 bits"),
        ("dict(depth=0x" + "f" * 5000 + ")", "model.depth: an integer of 20000 bits"),
        ("dict(depth=x2999)", "0: nested more than 32 deep"),
        ("dict(mode='" + "x" * 1001 + "')", "model.mode: a text of more than 1,000 characters"),
        (f"'{'x' * 2**20}'", "file: a config of 1,"),
    ],
)
def test_a_config_of_no_network_is_one_line(model: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_bounded(read_config_text(f"{NESTED}\nmodel = {model}", "file"), "file")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_long_value_is_quoted_in_part() -> None:
    with pytest.raises(ConfigError) as caught:
        Reader({"depth": list(range(900))}, "file").count("depth")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["-" * 100_000 + "1", "(" * 100_000, "[" * 50_000 + "]" * 50_000])
def test_deeply_nested_text_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file: the config inside is not readable text [^\n]*$"):
        read_config_text(f"model = {text}", "file")
