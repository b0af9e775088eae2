import pytest
import torch

from segnl.models.heads.aspp import ASPPConfig, ASPPHead

TORCHVISION = {"channels": 256, "project_kernel": 1, "project_dropout": 0.5, "has_last_conv": True}


def parameters(cfg: ASPPConfig, num_classes: int) -> int:
    head = ASPPHead(cfg, (256, 512, 1024, 2048), num_classes)
    return sum(each.numel() for each in head.parameters()) + head.out_channels * num_classes + num_classes


def test_the_default_has_mmsegmentations_42_million_parameters() -> None:
    assert round(parameters(ASPPConfig(), 19) / 1e6, 2) == 42.22


def test_the_narrow_shape_has_torchvisions_16_million_parameters() -> None:
    assert round(parameters(ASPPConfig(**TORCHVISION), 21) / 1e6, 1) == 16.1


def test_branches_come_after_the_image_mean() -> None:
    head = ASPPHead(ASPPConfig(channels=4, dilations=(1, 2)), (0, 0, 0, 6), 3).eval()
    x = torch.randn(2, 6, 7, 11)
    pooled = head.image_pool(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 7, 11)
    joined = torch.cat([pooled, head.branches[0](x), head.branches[1](x)], dim=1)
    torch.testing.assert_close(head([None, None, None, x]).context, head.project(joined))


def test_a_dilation_of_one_is_a_1x1_convolution() -> None:
    head = ASPPHead(ASPPConfig(channels=4), (0, 0, 0, 6), 3)
    assert [branch.conv.kernel_size for branch in head.branches] == [(1, 1), (3, 3), (3, 3), (3, 3)]
    assert [branch.conv.dilation[0] for branch in head.branches] == [1, 12, 24, 36]


def test_training_at_batch_one_pools_one_pixel_without_an_error() -> None:
    head = ASPPHead(ASPPConfig(channels=4), (0, 0, 0, 6), 3).train()
    context = head([None, None, None, torch.randn(1, 6, 7, 11)]).context
    context.sum().backward()
    assert head.image_pool.conv.weight.grad is not None


@pytest.mark.parametrize("is_training", [True, False])
def test_the_projections_dropout_acts_in_training_only(is_training: bool) -> None:
    head = ASPPHead(ASPPConfig(channels=4, project_dropout=0.5), (0, 0, 0, 6), 3).train(is_training)
    torch.manual_seed(0)
    context = head([None, None, None, torch.randn(2, 6, 7, 11)]).context
    dropped = head.project.norm.weight.abs().min() > 0 and (context == 0).float().mean() > 0.6
    assert bool(dropped) is is_training
