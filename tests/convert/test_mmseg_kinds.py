"""Each kind of decode head of mmsegmentation: its own keys as our settings, and what is refused."""

from typing import Any

import pytest

from segnl.convert.mmseg_config import Reader
from segnl.convert.mmseg_kinds import KINDS, Kind, ocr
from segnl.core.errors import ConfigError

NEEDED = {
    "ANNHead": {"project_channels": 24},
    "DAHead": {"pam_channels": 12},
    "DepthwiseSeparableASPPHead": {"c1_in_channels": 256, "c1_channels": 48},
    "EMAHead": {"ema_channels": 20, "num_bases": 5, "num_stages": 2},
    "ISAHead": {"isa_channels": 24},
}


def kind_of(name: str, **keys: Any) -> Kind:
    return KINDS[name](Reader({"channels": 32} | NEEDED.get(name, {}) | keys, "mmseg"))


@pytest.mark.parametrize(
    ("name", "mapping"),
    [
        ("ASPPHead", {"name": "aspp", "dilations": [1, 6, 12, 18]}),
        ("PSPHead", {"name": "psp", "bins": [1, 2, 3, 6]}),
        ("DAHead", {"name": "da", "inner_channels": 12}),
        ("ISAHead", {"name": "isa", "inner_channels": 24, "group_hw": [8, 8]}),
        ("ANNHead", {"name": "ann", "inner_channels": 24, "bins": [1, 3, 6, 8]}),
    ],
)
def test_the_defaults_are_mmsegmentations(name: str, mapping: dict[str, Any]) -> None:
    assert kind_of(name).mapping == mapping


def test_a_shells_settings_stand_beside_the_blocks_own() -> None:
    shell = {"num_convs": 2, "kernel": 3, "dilation": 1, "concat_input": True}
    assert kind_of("CCHead").mapping == {"name": "rcca", "recurrence": 2} | shell
    pairs = {"pairwise": "embedded_gaussian", "reduction": 2, "use_scale": True}
    assert kind_of("NLHead").mapping == {"name": "non_local"} | pairs | shell
    assert kind_of("DNLHead").mapping == {"name": "dnl", "temperature": 0.05} | pairs | shell
    block = {"inner_channels": 8, "pooling": "attention", "fusion": "add"}
    assert kind_of("GCHead").mapping == {"name": "gc"} | block | shell


def test_a_ratio_of_channels_is_rounded_down_as_there() -> None:
    assert kind_of("GCHead", ratio=0.3).mapping["inner_channels"] == 9  # of 9.6


def test_both_fusions_are_one_setting_in_whatever_order_they_are_named() -> None:
    fusion = ("channel_add", "channel_mul")
    assert kind_of("GCHead", fusion_types=fusion).mapping["fusion"] == "both"


def test_deeplabv3plus_reads_the_backbones_first_map_unless_it_has_no_decoder() -> None:
    assert kind_of("DepthwiseSeparableASPPHead").low_channels == 256
    alone = kind_of("DepthwiseSeparableASPPHead", c1_in_channels=0, c1_channels=0)
    assert alone.low_channels == 0
    assert alone.mapping["low_stage"] is None


def test_ocr_stands_in_a_cascade_only() -> None:
    assert "OCRHead" not in KINDS
    assert ocr(Reader({"ocr_channels": 6}, "mmseg")).mapping == {"name": "ocr", "inner_channels": 6}


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
        ("ISAHead", {"down_factor": (2,)}, "mmseg.down_factor: holds [2], expected two integers"),
        ("DepthwiseSeparableASPPHead", {"c1_in_channels": True}, "mmseg: c1_in_channels True, c1_channels 48; exp"),
        ("DAHead", {"pam_channels": 0}, "mmseg.pam_channels: holds 0, expected an integer of at least 1"),
        ("ANNHead", {"query_scales": (1, 2)}, "mmseg.query_scales: holds (1, 2), which cannot be imported"),
        ("DepthwiseSeparableASPPHead", {"c1_in_channels": 0}, "mmseg: c1_in_channels 0, c1_channels 48; expected"),
    ],
)
def test_what_we_cannot_represent_is_refused_by_name(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        kind_of(name, **keys)
    assert str(refused.value).startswith(message)
