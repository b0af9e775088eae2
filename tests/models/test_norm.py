import pytest
import torch
from torch import nn

from segnl.core.errors import ConfigError
from segnl.models.blocks.conv import PooledBatchNorm2d, ZeroInitBatchNorm
from segnl.models.norm import norm_note, num_groups_for, resolve_norm, use_group_norm
from segnl.models.segmenter import Segmenter, model_config, new_segmenter


def model_of(norm: str, **backbone: object) -> Segmenter:
    mapping = {
        "backbone": {"name": "resnet", "depth": 18, "width": 0.0625} | backbone,
        "head": {"name": "non_local", "channels": 8},
        "aux": {"channels": 8},
        "norm": norm,
    }
    return new_segmenter(model_config(mapping, file="test.yaml"), num_classes=5, seed=0)


def test_every_norm_but_group_has_the_same_names_values_and_evaluation() -> None:
    image = torch.randn(2, 3, 33, 41)
    plain = model_of("batch").eval()
    with torch.no_grad():
        for norm in ("auto", "sync", "frozen"):
            model = model_of(norm).eval()
            state = model.state_dict()
            assert list(plain.state_dict()) == list(state)
            assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
            assert torch.equal(plain(image).main, model(image).main)


def test_group_norm_keeps_the_names_of_its_weights_and_has_no_statistics() -> None:
    plain, group = model_of("batch").state_dict(), model_of("group").state_dict()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert list(group) == [name for name in plain if not name.endswith(statistics)]
    # a branch that began as nothing still does, and the rest of the network begins alike
    assert all(torch.equal(group[name], plain[name]) for name in group)
    ends = [value for name, value in group.items() if name.endswith(("bn2.weight", "context.norm.weight"))]
    assert len(ends) == 9
    assert not any(value.any() for value in ends)


def test_group_norm_is_its_formula() -> None:
    net = nn.Sequential(nn.BatchNorm2d(12, eps=1e-3)).double()
    use_group_norm(net)
    net.double()
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(12.0))
        net[0].bias.fill_(0.5)
    expected = torch.empty_like(x)
    for image in range(2):
        for first in range(0, 12, 2):  # 12 channels: 6 groups of 2
            part = x[image, first : first + 2]
            normed = (part - part.mean()) / (part.var(unbiased=False) + 1e-3).sqrt()
            scale = torch.arange(first, first + 2, dtype=torch.float64)
            expected[image, first : first + 2] = normed * scale[:, None, None] + 0.5
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (7, 1), (12, 6), (32, 16), (64, 32), (512, 32)])
def test_groups_divide_the_channels_and_hold_two(channels: int, groups: int) -> None:
    assert num_groups_for(channels) == groups


def test_group_norm_keeps_the_mark_for_gamma_lr_mult() -> None:
    assert sum(getattr(module, "opens_attention", False) for module in model_of("group").modules()) == 1


def test_group_norm_trains_on_one_image_with_a_pooled_branch() -> None:
    net = nn.Sequential(PooledBatchNorm2d(8), ZeroInitBatchNorm(8))
    use_group_norm(net)
    out = net.train()(torch.randn(1, 8, 1, 1))
    assert torch.isfinite(out).all()


def test_frozen_statistics_stay_while_gamma_and_beta_learn() -> None:
    model = model_of("frozen").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = model(torch.randn(2, 3, 33, 41))
    (out.main.sum() + out.aux["auxiliary"].sum()).backward()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.auxiliary.conv.norm.weight.grad.abs().sum() > 0
    assert model.dropout.training  # frozen is the norms' affair alone


def test_pretrained_weights_and_group_norm_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="no place for pretrained statistics"):
        model_of("group", weights="imagenet")


def test_auto_is_sync_on_several_processes_and_batch_on_one() -> None:
    assert [resolve_norm("auto", world=world) for world in (1, 4)] == ["batch", "sync"]
    assert resolve_norm("sync", world=1) == "batch"
    assert [resolve_norm(norm, world=4) for norm in ("batch", "group", "frozen")] == ["batch", "group", "frozen"]
    assert norm_note("auto", images=8, world=1) == "norm: batch (auto, 1 process), over 8 images"
    assert norm_note("auto", images=8, world=4) == "norm: sync (auto, 4 processes), over 8 images"
    assert norm_note("sync", images=8, world=1).startswith("norm: batch (sync on one process)")
    assert "few: consider model.norm=frozen" in norm_note("batch", images=8, world=4)
    assert norm_note("frozen", images=1, world=1) == "norm: frozen"
