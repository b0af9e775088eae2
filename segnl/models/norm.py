"""Norms that fit the machine, put in the place of a built network's batch norms: no constructor knows of them.

Weights keep their names. Group norm has no running statistics, so it makes another network of the recipe; the others
differ in training alone and are the same in evaluation (docs/adr/0003-batch-norm.md).
"""

from typing import Literal

from torch import nn

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
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, BATCH_NORMS):
                group = _group_norm_for(module)
                group.train(module.training)
                setattr(parent, name, group)


def _group_norm_for(module: BATCH_NORMS) -> StartingGroupNorm:
    channels = module.num_features
    first_gamma = float(module.weight[0].detach())
    group = StartingGroupNorm(num_groups_for(channels), channels, eps=module.eps, first_gamma=first_gamma)
    if hasattr(module, "opens_attention"):
        group.opens_attention = module.opens_attention
    return group


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
