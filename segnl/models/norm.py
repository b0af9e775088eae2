"""Normalisation layers: replaces the batch norms of a built network by synchronised, group or frozen ones.

Parameters keep their names. Group norm has no running statistics, so it changes the network; the other choices differ
only in training and are equal in evaluation (docs/adr/0003-batch-norm.md).
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.core.distributed import ProcessGroup

Norm = Literal["auto", "batch", "sync", "group", "frozen"]
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
MOST_GROUPS = 32  # Wu and He 2018, arXiv:1803.08494, section 4


class InitialGammaGroupNorm(nn.GroupNorm):
    """Group norm whose gamma starts where the replaced batch norm's gamma starts: 1, or 0 at the end of a branch."""

    def __init__(self, num_groups: int, channels: int, *, eps: float, initial_gamma: float) -> None:
        self.initial_gamma = initial_gamma
        super().__init__(num_groups, channels, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.initial_gamma)
        nn.init.zeros_(self.bias)


def num_groups_for(channels: int) -> int:
    """Returns the largest number of groups, up to 32, that divides the channels into groups of at least two.

    A group of one channel has a single value on a pooled map, which would be normalised to 0. A single channel is one
    group.
    """
    return max(n for n in range(1, MOST_GROUPS + 1) if channels % n == 0 and (n == 1 or channels // n >= 2))


def use_group_norm(model: nn.Module) -> None:
    """Replaces all batch norms by group norms; `weight` and `bias` keep their names, running statistics are dropped."""

    def group_norm(norm: BatchNorm) -> InitialGammaGroupNorm:
        channels, weight = norm.num_features, norm.weight
        initial_gamma = 1.0 if weight.is_meta else float(weight[0].detach())
        return InitialGammaGroupNorm(num_groups_for(channels), channels, eps=norm.eps, initial_gamma=initial_gamma)

    _replace_batch_norms(model, group_norm)


def batch_norms(model: nn.Module) -> Iterator[BatchNorm]:
    """Yields every batch norm of `model`, of any number of dimensions."""
    return (module for module in model.modules() if isinstance(module, BatchNorm))


def _replace_batch_norms(model: nn.Module, make: Callable[[BatchNorm], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, BatchNorm):
                new = make(module)
                new.train(module.training)
                if hasattr(module, "opens_attention"):
                    new.opens_attention = module.opens_attention
                setattr(parent, name, new)


class _AllReduceSum(torch.autograd.Function):
    """Sum over the ranks, of the values in forward and of their gradients in backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.all_reduce_sum(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce_sum(grad_outputs[0].contiguous()), None


class RankBatchNorm(nn.BatchNorm2d):
    """Batch norm of `b c *` with statistics over all ranks, on the CPU, where nn.SyncBatchNorm does not run.

    Takes over the parameters and buffers of the norm that it replaces.
    """

    def __init__(self, norm: BatchNorm, group: ProcessGroup) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.group = group
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, input: Tensor) -> Tensor:
        """Normalises input `b c *`, whose shape may differ between ranks."""
        if not self.training:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = input.numel() / input.shape[1]
        sums = torch.cat([input.sum(axes, dtype=torch.float32), input.new_tensor([count], dtype=torch.float32)])
        sums = _AllReduceSum.apply(sums, self.group)
        total_count = sums[-1].detach()
        mean = sums[:-1] / total_count  # c
        centred = input - mean.view(shape)  # two passes: E[x^2] - E[x]^2 would lose precision
        var = _AllReduceSum.apply(centred.square().sum(axes, dtype=torch.float32), self.group) / total_count
        if self.track_running_stats:
            self._track(mean.detach(), var.detach() * total_count / (total_count - 1).clamp(min=1))
        gain = (var + self.eps).rsqrt() * self.weight
        return (centred * gain.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, *statistics: Tensor) -> None:
        for running, batch in zip((self.running_mean, self.running_var), statistics, strict=True):
            if running is not None:
                running.lerp_(batch, self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronise(model: nn.Module, group: ProcessGroup, *, on_cuda: bool) -> None:
    """Replaces all batch norms by ones with statistics over all ranks; parameters and buffers stay the same objects."""
    if on_cuda:
        _replace_batch_norms(model, nn.SyncBatchNorm.convert_sync_batchnorm)
    else:
        _replace_batch_norms(model, lambda norm: RankBatchNorm(norm, group))


def set_process_group(model: nn.Module, group: ProcessGroup) -> None:
    """Sets `group` in every module that has such an attribute, so that its statistics are taken over all ranks."""
    for module in model.modules():
        if isinstance(getattr(module, "group", None), ProcessGroup):
            module.group = group  # type: ignore[assignment]  # no submodule


def freeze_statistics(model: nn.Module) -> None:
    """Puts every batch norm into evaluation mode: running statistics stay fixed, gamma and beta still learn."""
    for norm in batch_norms(model):
        norm.eval()


def resolve_norm(setting: Norm, *, world: int) -> Norm:
    """Returns the norm that `model.norm` means on `world` processes: batch, sync, group or frozen.

    auto chooses between batch and sync only, which are equal in evaluation. sync on one process is batch norm.
    """
    if setting in ("auto", "sync"):
        return "sync" if world > 1 else "batch"
    return setting


def norm_note(setting: Norm, *, images: int, world: int) -> str:
    """Returns one line for the user: the norm in use and the reason. images: of a forward pass, on all ranks."""
    norm = resolve_norm(setting, world=world)
    norm_images = images if norm == "sync" else images // world
    text = f"norm: {norm}"
    if setting == "auto":
        text += f" (auto, {world} process{'es' if world > 1 else ''})"
    elif setting != norm:
        text += f" ({setting} on one process)"
    if norm in ("batch", "sync"):
        text += f", over {norm_images} image{'s' if norm_images != 1 else ''}"
        if norm_images < 4:
            text += "; few: consider model.norm=frozen from pretrained weights, model.norm=group from scratch"
    return text
