from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from segnl.models.heads.psp import PSPConfig, PSPHead


def awake_head(**settings: Any) -> PSPHead:
    torch.manual_seed(0)
    cfg = PSPConfig(channels=4, leaky_slope=0.5, **settings)  # nothing is cut off on the way
    head = PSPHead(cfg, (0, 0, 0, 6), 3).double().eval()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) / 3)
    return head


def stages(b: int, h: int = 7, w: int = 11) -> list[Any]:
    return [None, None, None, torch.randn(b, 6, h, w, dtype=torch.float64)]


def published(head: PSPHead, x: Tensor, *, align_corners: bool) -> Tensor:
    """Pool, 1x1 convolution, resize: level by level with torch's own pooling and resizing."""
    maps = [x]
    for bins, level in zip(head.bins, head.levels, strict=True):
        grid = level(F.adaptive_avg_pool2d(x, bins))
        maps.append(F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=align_corners))
    return head.join(torch.cat(maps, dim=1))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("b", "h", "w"), [(2, 7, 11), (1, 7, 11), (1, 3, 5)])  # the last has fewer rows than bins
@torch.no_grad()
def test_the_context_joins_the_stage_and_its_pooled_levels(b: int, h: int, w: int, align_corners: bool) -> None:
    head, maps = awake_head(), stages(b, h, w)
    head.align_corners = align_corners
    torch.testing.assert_close(head(maps).context, published(head, maps[3], align_corners=align_corners))


@torch.no_grad()
def test_a_level_of_one_bin_is_constant_over_the_map() -> None:
    head, maps = awake_head(bins=(1, 6)), stages(2)
    head.join = nn.Identity()
    joined = head(maps).context
    assert torch.equal(joined[:, :6], maps[3])
    torch.testing.assert_close(joined[:, 6:10], joined[:, 6:10, :1, :1].expand(-1, -1, 7, 11))
    assert joined[:, 10:].flatten(2).std(dim=2).max() > 0.01


def test_batch_size_one_does_not_update_the_one_bin_levels_statistics() -> None:
    head = awake_head().train()
    before = [level.norm.running_mean.clone() for level in head.levels]
    head(stages(1))
    has_moved = [not torch.equal(b, level.norm.running_mean) for b, level in zip(before, head.levels, strict=True)]
    assert has_moved == [False, True, True, True]


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = PSPHead(PSPConfig(), (256, 512, 1024, 2048), 19)
    levels = 4 * (2048 * 512 + 2 * 512)
    join = (2048 + 4 * 512) * 512 * 9 + 2 * 512
    assert sum(each.numel() for each in head.parameters()) == levels + join
    assert head.out_channels == 512


@pytest.mark.parametrize("bins", [(), (0,), (1, -2)])
def test_bins_must_be_positive_and_at_least_one(bins: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="bins"):
        PSPConfig(bins=bins)
