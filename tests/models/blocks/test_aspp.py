import pytest
import torch
from torch import nn

from segnl.models.blocks.aspp import parallel_maps


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("b", [1, 2])
def test_the_image_mean_comes_before_the_branches(b: int, layout: torch.memory_format) -> None:
    x = torch.randn(b, 3, 7, 11, dtype=torch.float64).to(memory_format=layout)
    pool, branches = nn.Conv2d(3, 4, 1).double(), [nn.Conv2d(3, 4, 1).double(), nn.Conv2d(3, 5, 3, padding=1).double()]
    maps = parallel_maps(x, pool, branches)
    assert maps.shape == (b, 13, 7, 11)
    for image in range(b):
        mean = sum(x[image, :, row, column] for row in range(7) for column in range(11)) / 77
        pooled = pool.weight[:, :, 0, 0] @ mean + pool.bias
        for row in range(7):
            for column in range(11):
                torch.testing.assert_close(maps[image, :4, row, column], pooled)
    torch.testing.assert_close(maps[:, 4:8], branches[0](x))
    torch.testing.assert_close(maps[:, 8:], branches[1](x))


def test_the_image_pool_sees_one_position() -> None:
    seen = []
    pool = nn.Identity()
    pool.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    parallel_maps(torch.randn(2, 3, 7, 11), pool, [nn.Identity()])
    assert seen == [(2, 3, 1, 1)]


def test_without_branches_only_the_mean_remains() -> None:
    x = torch.randn(1, 3, 7, 11)
    mean = x.mean(dim=(2, 3), keepdim=True)
    assert torch.equal(parallel_maps(x, nn.Identity(), iter(())), mean.expand(-1, -1, 7, 11))
