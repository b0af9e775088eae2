"""Convolution, norm and activation, and layers with other initial values than torch's."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segnl.core.config import Config
from segnl.ops.arguments import is_exporting


class KaimingConv2d(nn.Conv2d):
    """Convolution with He's normal initialisation (He et al. 2015, arXiv:1502.01852), fan out, bias 0."""

    def reset_parameters(self) -> None:
        draw(self.weight, self.bias, "he")


class KaimingConv3d(nn.Conv3d):
    """Convolution over time, rows and columns, initialised as `KaimingConv2d`."""

    def reset_parameters(self) -> None:
        draw(self.weight, self.bias, "he")


class NormalInitConv2d(nn.Conv2d):
    """Convolution initialised with Normal(0, 0.01), bias 0: classifiers and the non-local projections."""

    def reset_parameters(self) -> None:
        draw(self.weight, self.bias, "small")


class ZeroConv2d(nn.Conv2d):
    """Convolution initialised with 0, so that the branch it ends starts as 0."""

    def reset_parameters(self) -> None:
        draw(self.weight, self.bias, "zero")


def draw(weight: Tensor, bias: Tensor | None, init: Literal["small", "he", "zero"]) -> None:
    """Draws the weight from Normal(0, 0.01) or He's normal distribution, or sets it to 0; sets the bias to 0."""
    if weight.is_meta:
        return  # normal_ would import sympy there, which takes two seconds
    if init == "he":
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(weight, std=0.01 if init == "small" else 0.0)
    if bias is not None:
        nn.init.zeros_(bias)


class ZeroInitBatchNorm(nn.BatchNorm2d):
    """Batch norm of `b c *` whose gamma starts at 0, so that the branch it ends starts as 0."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts any number of axes."""


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of an image-pooled map, which at batch size 1 has one value a channel.

    One value has no variance, and torch raises an error for it in training. For it this norm uses its running
    statistics and does not update them (docs/adr/0006-batch-norm-on-a-pooled-pixel.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[-2] * input.shape[-1] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def activate(x: Tensor, leaky_slope: float) -> Tensor:
    """Applies leaky ReLU in place; slope 0 is ReLU, slope 1 is the identity."""
    if leaky_slope == 0.0:
        return F.relu(x, inplace=True)
    if leaky_slope == 1.0:
        return x
    return F.leaky_relu(x, leaky_slope, inplace=True)


class NormActConfig(Config):
    """Settings of the norm and activation after a head's convolutions."""

    has_norm: bool = True
    leaky_slope: float = Field(0.0, ge=0.0, le=1.0)
    """Slope of the activations below 0: 0 is ReLU, 1 is none; CCNet's own head has 0.01."""

    @property
    def conv(self) -> "partial[ConvNormAct]":
        """Builds a `ConvNormAct` with these settings: cfg.conv(in_channels, out_channels, kernel, ...)."""
        return partial(ConvNormAct, has_norm=self.has_norm, leaky_slope=self.leaky_slope)


class ConvNormAct(nn.Module):
    """Convolution that keeps the map's size, batch norm, activation: modules `conv` and `norm`.

    kernel: odd. leaky_slope: 0 for ReLU, 1 for no activation. has_bias: adds a bias in addition to the norm; without
    the norm there always is one. is_depthwise: convolves each channel separately. is_pooled: for 1x1 maps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        dilation: int = 1,
        is_depthwise: bool = False,
        has_norm: bool = True,
        has_bias: bool = False,
        is_pooled: bool = False,
        leaky_slope: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel: {kernel}; expected an odd number, an even one would change the map's size")
        self.conv = KaimingConv2d(
            in_channels,
            out_channels,
            kernel,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            groups=in_channels if is_depthwise else 1,
            bias=has_bias or not has_norm,
        )
        norm = PooledBatchNorm2d if is_pooled else nn.BatchNorm2d
        self.norm = norm(out_channels) if has_norm else nn.Identity()
        self.leaky_slope = leaky_slope

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to `b d h w`."""
        return activate(self.norm(self.conv(x)), self.leaky_slope)


class SeparableConvNormAct(nn.Module):
    """Depthwise convolution, then a 1x1 convolution: modules `depthwise` and `pointwise`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        dilation: int = 1,
        has_norm: bool = True,
        leaky_slope: float = 0.0,
    ) -> None:
        super().__init__()
        conv = partial(ConvNormAct, has_norm=has_norm, leaky_slope=leaky_slope)
        self.depthwise = conv(in_channels, in_channels, kernel, dilation=dilation, is_depthwise=True)
        self.pointwise = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c h w` to `b d h w`."""
        return self.pointwise(self.depthwise(x))


class Pointwise(nn.Module):
    """Convolution of kernel 1 that maps `b c n` to `b n d`; its weight has a convolution's shape, `d c 1 ..`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dims: int,
        has_bias: bool = True,
        init: Literal["small", "he", "zero"] = "small",
    ) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *[1] * dims))
        self.bias = nn.Parameter(torch.empty(out_channels)) if has_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws Normal(0, 0.01) or He's normal values, or sets zeros; bias 0."""
        draw(self.weight, self.bias, self.init)

    @property
    def matrix(self) -> Tensor:
        """Weight as a matrix `d c`."""
        return self.weight.flatten(1)

    def followed_by(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Returns weight `1 c` and bias `1` of the linear map that applies this layer and then `matrix`, `1 d`."""
        return matrix @ self.matrix, matrix.new_zeros(1) if self.bias is None else matrix @ self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps x `b c n` to `b n d`."""
        return to_rows(x, self.matrix, self.bias)

    def to_maps(self, rows: Tensor) -> Tensor:
        """Maps rows `b n c` to `b d n`."""
        return to_maps(rows, self.matrix, self.bias)


# Maps have channels first; the operators need rows, with channels last. A matrix product reads and writes both orders
# at the same speed, so the change is free inside a product; as a copy it took a third of the criss-cross block's time.
# torch's backward keeps the order only for products of two dimensions, hence the case of batch size 1.


def to_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns weight . x + bias at every position as rows `b n d`; x `b c n`, weight `d c`, bias `d` or None."""
    if x.stride(1) == 1 or is_exporting():
        return F.linear(x.transpose(1, 2), weight, bias)
    if x.shape[0] > 1:
        rows = torch.bmm(x.transpose(1, 2), weight.t().expand(x.shape[0], -1, -1))
        return rows if bias is None else rows + bias
    positions = x.flatten(0, 1).t()  # n c
    rows = positions @ weight.t() if bias is None else torch.addmm(bias, positions, weight.t())
    return rows[None]


def to_maps(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns weight . row + bias at every position as maps `b d n`; rows `b n c`, weight `d c`, bias `d` or None."""
    if is_exporting():
        return F.linear(rows, weight, bias).transpose(1, 2)
    if rows.shape[0] > 1:
        maps = torch.bmm(weight.expand(rows.shape[0], -1, -1), rows.transpose(1, 2))
    else:
        maps = torch.mm(weight, rows.flatten(0, 1).t())[None]
    return maps if bias is None else maps + bias[:, None]


def apply_all(layers: Sequence[Pointwise], x: Tensor) -> tuple[Tensor, ...]:
    """Applies each layer to x `b c n` in one matrix product; returns slices `b n d` of its result."""
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    if len(biases) not in (0, len(layers)):
        raise ValueError("layers: some have a bias and some have none; expected all or none")
    rows = to_rows(x, torch.cat([layer.matrix for layer in layers]), torch.cat(biases) if biases else None)
    return rows.split([layer.matrix.shape[0] for layer in layers], dim=-1)


def parallel_maps(x: Tensor, image_pool: nn.Module, branches: Iterable[nn.Module]) -> Tensor:
    """Concatenates the image mean and every branch of x `b c h w`: `b (1 + branches)*d h w`, the mean first."""
    # A mean instead of AdaptiveAvgPool, for exported graphs and deterministic CUDA. Upsampled from 1x1 it is constant.
    pooled = image_pool(x.mean(dim=(2, 3), keepdim=True))  # b d 1 1
    return torch.cat([pooled.expand(-1, -1, *x.shape[-2:]), *(branch(x) for branch in branches)], dim=1)
