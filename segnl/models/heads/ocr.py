"""Object-contextual representations: attention from every position to one region per class of a coarse prediction.

Source: OCRNet, Yuan et al. 2020, arXiv:1909.11065.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segnl.core.config import ChannelCount
from segnl.models.blocks.auxiliary import AuxConfig, AuxiliaryHead
from segnl.models.blocks.conv import NormActConfig
from segnl.models.blocks.projected_attention import ProjectedAttention, projection
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput, channels_of
from segnl.ops.context import region_context


class OCRConfig(HeadConfig, NormActConfig):
    """Settings of the head. Its coarse prediction replaces the auxiliary head: recipes set `model.aux` to null."""

    name: str = "ocr"
    channels: ChannelCount = 512
    inner_channels: ChannelCount | None = None
    """Channels of queries, keys and values; null: half of `channels`."""
    coarse: AuxConfig = AuxConfig()
    """Coarse prediction, which evaluation needs too."""


class OCRHead(ContextHead):
    """Attention to class regions: means over positions, weighted by the softmax over positions of the coarse logits."""

    Config = OCRConfig
    needs_num_classes = True

    def __init__(self, cfg: OCRConfig, stage_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(cfg, stage_channels, num_classes)
        inner = cfg.inner_channels or max(1, cfg.channels // 2)
        self.coarse_stage = cfg.coarse.stage
        coarse_channels = channels_of(cfg.coarse.stage, stage_channels, key="coarse.stage")
        self.coarse = AuxiliaryHead(cfg.coarse, coarse_channels, num_classes)
        self.aux_weights = {"coarse": cfg.coarse.weight}
        self.reduce = cfg.conv(self.in_channels, cfg.channels, 3)
        self.attention = ProjectedAttention(
            projection(cfg, cfg.channels, inner, num_convs=2),
            projection(cfg, cfg.channels, inner, num_convs=2, is_pooled=True),
            projection(cfg, cfg.channels, inner, num_convs=1, is_pooled=True),
        )
        self.out = cfg.conv(inner, cfg.channels, 1)
        self.join = cfg.conv(2 * cfg.channels, cfg.channels, 1)
        self.out_channels = cfg.channels

    def forward(self, stages: Sequence[Tensor]) -> HeadOutput:
        """Maps stages c2..c5 to the context `b d h w` and the coarse logits."""
        x = self.reduce(self.concat_stages(stages))
        coarse = self.coarse(stages[self.coarse_stage])  # b k * *
        scores = self.resize_to(coarse, x)
        regions = region_context(scores.flatten(2), x.flatten(2))[..., None]  # b c k 1
        context = self.out(self.attention(x, regions))
        return HeadOutput(self.join(torch.cat([context, x], dim=1)), {"coarse": coarse})


HEAD = OCRHead
