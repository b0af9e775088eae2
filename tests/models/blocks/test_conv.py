import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segnl.models.blocks.conv import (
    ConvNormAct,
    KaimingConv2d,
    NormalInitConv2d,
    Pointwise,
    PooledBatchNorm2d,
    SeparableConvNormAct,
    ZeroConv2d,
    ZeroInitBatchNorm,
    activate,
    apply_all,
    parallel_maps,
)


def test_he_convolutions_start_with_the_variance_of_the_fan_out() -> None:
    torch.manual_seed(0)
    assert KaimingConv2d(64, 128, 3).weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_normal_init_convolutions_start_with_std_0_01() -> None:
    torch.manual_seed(0)
    conv = NormalInitConv2d(64, 128, 3)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert conv.bias.abs().max() == 0


def test_a_zero_norm_starts_as_zero() -> None:
    assert ZeroInitBatchNorm(3)(torch.randn(2, 3, 4, 5)).abs().max() == 0


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2)])
def test_a_convolution_keeps_the_size(kernel: int, dilation: int) -> None:
    assert ConvNormAct(2, 3, kernel, dilation=dilation)(torch.randn(2, 2, 7, 11)).shape == (2, 3, 7, 11)


def test_a_zero_convolution_starts_as_zero() -> None:
    assert ZeroConv2d(2, 3, 1)(torch.randn(2, 2, 4, 5)).abs().max() == 0


def test_a_separable_convolution_is_depthwise_then_pointwise() -> None:
    torch.manual_seed(0)
    layer = SeparableConvNormAct(2, 3, 3, dilation=2, has_norm=False, leaky_slope=1.0)
    x = torch.zeros(1, 2, 7, 11)
    x[0, 1, 3, 4] = 1.0
    apart = layer.depthwise(x) - layer.depthwise(torch.zeros_like(x))
    assert apart[0, 0].abs().max() == 0
    rows, columns = apart[0, 1].nonzero().unbind(1)
    assert (set(rows.tolist()), set(columns.tolist())) == ({1, 3, 5}, {2, 4, 6})
    weight, bias = layer.pointwise.conv.weight[:, :, 0, 0], layer.pointwise.conv.bias
    expected = torch.einsum("dc,bchw->bdhw", weight, layer.depthwise(x)) + bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        ConvNormAct(2, 3, 4)


def test_a_convolution_has_a_bias_only_without_a_norm_or_when_asked() -> None:
    assert ConvNormAct(2, 3, 1).conv.bias is None
    assert ConvNormAct(2, 3, 1, has_norm=False).conv.bias is not None
    assert ConvNormAct(2, 3, 1, has_bias=True).conv.bias is not None


@pytest.mark.parametrize(("slope", "expected"), [(0.0, [0.0, 2.0]), (0.5, [-0.5, 2.0]), (1.0, [-1.0, 2.0])])
def test_the_slope_goes_from_relu_to_none(slope: float, expected: list[float]) -> None:
    assert activate(torch.tensor([-1.0, 2.0]), slope).tolist() == expected


def test_one_pooled_pixel_uses_and_keeps_the_running_statistics() -> None:
    norm = PooledBatchNorm2d(3).train()
    norm.running_mean.fill_(2.0)
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    out = norm(x)
    torch.testing.assert_close(out, (x - 2.0) / (1 + norm.eps) ** 0.5)
    assert norm.running_mean.tolist() == [2.0, 2.0, 2.0]
    assert norm.num_batches_tracked == 0
    out.sum().backward()


def test_two_pooled_pixels_are_normalised_like_everywhere() -> None:
    x = torch.randn(2, 3, 1, 1)
    assert torch.equal(PooledBatchNorm2d(3).train()(x), nn.BatchNorm2d(3).train()(x))


LAYOUTS = {
    "channels first": lambda x: x,
    "channels last": lambda x: x.mT.contiguous().mT,
    "cropped": lambda x: F.pad(x, (1, 2, 1, 0))[:, 1:, 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_pointwise_map_is_a_convolution_of_kernel_one(dims: int, b: int, layout: str) -> None:
    layer = Pointwise(4, 5, dims=dims).double()
    nn.init.normal_(layer.bias)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 5, 1).double()
    conv.load_state_dict(layer.state_dict())
    x = torch.randn(b, 4, *(3, 2, 7)[:dims], dtype=torch.float64, requires_grad=True)
    given = torch.randn_like(expected := conv(x))
    flat = LAYOUTS[layout](x.flatten(2))
    truth = torch.autograd.grad(expected, (x, conv.weight, conv.bias), given)
    for maps in (layer(flat).transpose(1, 2), layer.to_maps(flat.transpose(1, 2))):
        ours = maps.unflatten(2, x.shape[2:])
        torch.testing.assert_close(ours, expected)
        grads = torch.autograd.grad(ours, (x, layer.weight, layer.bias), given, retain_graph=True)
        torch.testing.assert_close(grads, truth)


def test_to_maps_writes_channels_first_and_its_gradient_rows() -> None:
    """What saves the copies: each side has the order it wants, for one image in the backward too."""
    layer, x = Pointwise(4, 5, dims=2), torch.randn(1, 4, 7, requires_grad=True)
    back = Pointwise(5, 4, dims=2)
    rows = layer(x)
    maps = back.to_maps(rows)
    assert rows.is_contiguous()
    assert maps.is_contiguous()
    to_x, to_rows = torch.autograd.grad(maps, (x, rows), torch.randn_like(maps))
    assert to_x.is_contiguous()
    assert to_rows.is_contiguous()


@pytest.mark.parametrize("b", [1, 2])
def test_layers_applied_in_one_product_equal_the_layers_one_by_one(b: int) -> None:
    layers = [Pointwise(4, 5, dims=2), Pointwise(4, 3, dims=2)]
    x = torch.randn(b, 4, 7)
    for rows, layer in zip(apply_all(layers, x), layers, strict=True):
        torch.testing.assert_close(rows, layer(x))
    with pytest.raises(ValueError, match="some have a bias and some have none"):
        apply_all([*layers, Pointwise(4, 5, dims=2, has_bias=False)], x)


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("has_bias", [True, False])
def test_followed_by_equals_both_maps_one_after_the_other(b: int, has_bias: bool) -> None:
    layer, into = Pointwise(4, 5, dims=2, has_bias=has_bias), torch.randn(1, 5)
    if has_bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(b, 4, 7)
    weight, bias = layer.followed_by(into)
    torch.testing.assert_close((weight @ x + bias)[:, 0], (layer(x) @ into.T)[..., 0])


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
