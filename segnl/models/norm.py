"""Norms that fit the machine, put in the place of a built network's batch norms: no constructor knows of them.

Weights keep their names. Group norm has no running statistics, so it makes another network of the recipe; the others
differ in training alone and are the same in evaluation (docs/adr/0003-batch-norm.md).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnl.core.distributed import ProcessGroup

Norm = Literal["auto", "batch", "sync", "group", "frozen"]
BATCH_NORMS = nn.modules.batchnorm._BatchNorm
MOST_GROUPS = 32  # Wu and He 2018, arXiv:1803.08494, section 4


class StartingGroupNorm(nn.GroupNorm):
    """Group norm whose gamma begins where the batch norm's did in whose place it stands: 1, or 0 at a branch's end."""

    def __init__(self, num_groups: int, channels: int, *, eps: float, first_gamma: float) -> None:
        self.first_gamma = first_gamma
        super().__init__(num_groups, channels, eps=eps)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.first_gamma)
        nn.init.zeros_(self.bias)


def num_groups_for(channels: int) -> int:
    """The most groups, up to 32, that divide the channels and hold two of them at least (one, where there is one).

    A group of one channel has a single value on a pooled map, which normalises to nothing.
    """
    return max(n for n in range(1, MOST_GROUPS + 1) if channels % n == 0 and (n == 1 or channels // n >= 2))


def use_group_norm(model: nn.Module) -> None:
    """Puts group norms in the places of all batch norms; `weight` and `bias` keep their names, statistics go."""
    _replace_batch_norms(model, _group_norm_for)


def _replace_batch_norms(model: nn.Module, make: Callable[[BATCH_NORMS], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, BATCH_NORMS):
                new = make(module)
                new.train(module.training)
                if hasattr(module, "opens_attention"):
                    new.opens_attention = module.opens_attention
                setattr(parent, name, new)


def _group_norm_for(module: BATCH_NORMS) -> StartingGroupNorm:
    channels = module.num_features
    first_gamma = float(module.weight[0].detach())
    return StartingGroupNorm(num_groups_for(channels), channels, eps=module.eps, first_gamma=first_gamma)


class _Total(torch.autograd.Function):
    """The sum over the ranks, of values and of their gradients alike: every rank's loss has a part in the whole."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return group.all_reduce_sum(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce_sum(grads[0].contiguous()), None


class RankBatchNorm(BATCH_NORMS):
    """Batch norm of any dimensions whose statistics are those of all ranks' images; torch's own refuses the CPU.

    Takes over the parameters and buffers of the norm in whose place it stands.
    """

    def __init__(self, norm: BATCH_NORMS, group: ProcessGroup) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.group = group
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, input: Tensor) -> Tensor:
        """input `b c *`, of the same shape on every rank or not."""
        if not self.training:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        others = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        num = input.numel() / input.shape[1]
        sums = torch.cat([input.sum(others, dtype=torch.float32), input.new_tensor([num], dtype=torch.float32)])
        sums = _Total.apply(sums, self.group)
        num_all = sums[-1].detach()
        mean = sums[:-1] / num_all  # c
        centred = input - mean.view(shape)  # two passes: the mean of squares less the squared mean would cancel
        var = _Total.apply(centred.square().sum(others, dtype=torch.float32), self.group) / num_all
        if self.track_running_stats:
            self._track(mean.detach(), var.detach() * num_all / (num_all - 1).clamp(min=1))
        gain = (var + self.eps).rsqrt() * self.weight
        return (centred * gain.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, *statistics: Tensor) -> None:
        for kept, new in zip((self.running_mean, self.running_var), statistics, strict=True):
            if kept is not None:
                kept.lerp_(new, self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronise(model: nn.Module, group: ProcessGroup, *, on_cuda: bool) -> None:
    """Lets every batch norm take its statistics over all ranks; parameters and buffers stay the same objects."""
    if on_cuda:
        _replace_batch_norms(model, nn.SyncBatchNorm.convert_sync_batchnorm)
    else:
        _replace_batch_norms(model, lambda norm: RankBatchNorm(norm, group))


def tell_ranks(model: nn.Module, group: ProcessGroup) -> None:
    """Lets every module that keeps statistics of its own (its `group` is a ProcessGroup) take them over all ranks."""
    for module in model.modules():
        if isinstance(getattr(module, "group", None), ProcessGroup):
            module.group = group  # type: ignore[assignment]  # no submodule


def freeze_statistics(model: nn.Module) -> None:
    """Lets every batch norm work as in evaluation: with its running statistics, which stay; gamma and beta learn."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()


def chosen_norm(wanted: Norm, *, world: int) -> Norm:
    """What `wanted` comes to on `world` processes: batch, sync, group or frozen.

    auto never changes what the network is in evaluation, so it chooses between batch and sync alone. sync on one
    process is batch norm.
    """
    if wanted in ("auto", "sync"):
        return "sync" if world > 1 else "batch"
    return wanted


def norm_note(wanted: Norm, *, images: int, world: int) -> str:
    """One line for the user: what norm is used and why. images: what a step's statistics are taken over, all ranks."""
    chosen = chosen_norm(wanted, world=world)
    seen = images if chosen == "sync" else images // world
    text = f"norm: {chosen}"
    if wanted == "auto":
        text += f" (auto, {world} process{'es' if world > 1 else ''})"
    elif wanted != chosen:
        text += f" ({wanted} on one process)"
    if chosen in ("batch", "sync"):
        text += f", over {seen} image{'s' if seen != 1 else ''}"
        if seen < 4:
            text += "; few: consider model.norm=frozen from pretrained weights, model.norm=group from scratch"
    return text
