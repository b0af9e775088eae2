"""The heads without attention that today's papers compare with: linear, segformer_mlp, uper, dpt."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.convert import from_mmseg
from segnl.models.find import HEADS

CHANNELS = (3, 4, 5, 6)


def awake_head(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    head_class = HEADS.find(name)
    head = head_class(head_class.Config(**settings), CHANNELS, 3).double().eval()
    for key, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if key.endswith("var") else torch.randn_like(tensor) / 3)
    return head


def stages(b: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    sizes = ((13, 21), (7, 11), (4, 6), (4, 6))
    return [torch.randn(b, c, *hw, dtype=torch.float64) for c, hw in zip(CHANNELS, sizes, strict=True)]


def resized(x: Tensor, like: Tensor, *, align_corners: bool) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


@torch.no_grad()
def test_linear_is_a_batch_norm_and_nothing_else() -> None:
    head, maps = awake_head("linear"), stages()
    norm = head.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (maps[3] - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(head(maps).context, expected)
    assert head.out_channels == 6


@torch.no_grad()
def test_linear_of_four_stages_has_the_finest_one_s_size() -> None:
    head = awake_head("linear", in_stages=(0, 1, 2, 3))
    assert head(stages()).context.shape == (2, 18, 13, 21)


@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_segformer_mlp_joins_linear_maps_of_all_stages(align_corners: bool) -> None:
    head, maps = awake_head("segformer_mlp", channels=4), stages()
    head.align_corners = align_corners
    linear = []
    for x, layer in zip(maps, head.layers, strict=True):
        y = torch.einsum("dc,bchw->bdhw", layer.weight[:, :, 0, 0], x) + layer.bias[:, None, None]
        linear.append(resized(y, maps[0], align_corners=align_corners))
    joined = torch.einsum("dc,bchw->bdhw", head.join.conv.weight[:, :, 0, 0], torch.cat(linear[::-1], dim=1))
    torch.testing.assert_close(head(maps).context, head.join.norm(joined).relu())


@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_uper_adds_levels_from_coarse_to_fine(align_corners: bool) -> None:
    head, maps = awake_head("uper", channels=4), stages()
    head.align_corners = align_corners
    pooled = [maps[3]]
    for bins, level in zip((1, 2, 3, 6), head.pool_levels, strict=True):
        pooled.append(resized(level(F.adaptive_avg_pool2d(maps[3], bins)), maps[3], align_corners=align_corners))
    levels = [lateral(x) for lateral, x in zip(head.laterals, maps[:3], strict=True)]
    levels.append(head.pool_join(torch.cat(pooled, dim=1)))
    for index in (2, 1, 0):
        levels[index] = levels[index] + resized(levels[index + 1], levels[index], align_corners=align_corners)
    outputs = [*(conv(x) for conv, x in zip(head.levels, levels[:3], strict=True)), levels[3]]
    outputs = [resized(x, outputs[0], align_corners=align_corners) for x in outputs]
    torch.testing.assert_close(head(maps).context, head.join(torch.cat(outputs, dim=1)))


def unit(x: Tensor, module: Any) -> Tensor:
    """A residual convolution unit by hand."""
    out = x
    for conv in module.convs:
        out = conv.norm(F.conv2d(out.relu(), conv.conv.weight, conv.conv.bias, padding=1))
    return x + out


@torch.no_grad()
def test_dpt_fuses_levels_from_coarse_to_fine() -> None:
    head, maps = awake_head("dpt", channels=4), stages()
    before = [x.clone() for x in maps]
    levels = [F.conv2d(x, conv.weight, padding=1) for x, conv in zip(maps, head.inputs, strict=True)]
    fused = head.fusions[3].out(unit(levels[3], head.fusions[3].unit))
    for index in (2, 1, 0):
        fusion = head.fusions[index]
        x = resized(fused, levels[index], align_corners=False) + unit(levels[index], fusion.input_unit)
        fused = fusion.out(unit(x, fusion.unit))
    torch.testing.assert_close(head(maps).context, head.join(fused))
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))  # nothing is changed in place


class TheirUPerHead(nn.Module):
    """mmsegmentation's names of the modules of its UPerHead, with this test's own arithmetic."""

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()

        def conv(c: int, d: int, kernel: int) -> nn.Module:
            module = nn.Module()
            module.conv = nn.Conv2d(c, d, kernel, padding=kernel // 2, bias=False)
            module.bn = nn.BatchNorm2d(d)
            return module

        self.psp_modules = nn.ModuleList(nn.ModuleList([nn.Identity(), conv(channels[-1], width, 1)]) for _ in range(4))
        self.bottleneck = conv(channels[-1] + 4 * width, width, 3)
        self.lateral_convs = nn.ModuleList(conv(c, width, 1) for c in channels[:-1])
        self.fpn_convs = nn.ModuleList(conv(width, width, 3) for _ in channels[:-1])
        self.fpn_bottleneck = conv(len(channels) * width, width, 3)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)


@torch.no_grad()
def test_uper_takes_mmsegmentation_s_names() -> None:
    state = TheirUPerHead(CHANNELS, 4, 3).state_dict()
    config = {
        "type": "UPerHead",
        "in_channels": list(CHANNELS),
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
        "channels": 4,
        "num_classes": 3,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
    }
    head = from_mmseg(config, state)
    assert head([x.float() for x in stages()]).shape == (2, 3, 13, 21)
    torch.testing.assert_close(head.head.laterals[1].conv.weight, state["lateral_convs.1.conv.weight"])
