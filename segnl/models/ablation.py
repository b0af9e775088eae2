"""Ablations of trained attention, at evaluation alone: does the context do anything?

gamma0      the factor that lets attention act is 0: rcca's gamma, the weight of non_local's and dnl's last norm (of
            W_z where there is none). A norm's bias stays: a constant says nothing of the image. rcca is `fcn` then,
            bit for bit.
shuffled    the keys change places among one another, the values stay: every position attends to as much as before,
            but to the wrong places. The order is a fixed one for each number of positions.
window=R    only positions at most R rows and R columns of the map away are attended to; 0 is the position alone. Sums
            that are divided by the number of positions (dot product, concatenation) are divided by those in the window.

Of dnl's two sums the last two change the one over pairs. The blocks know nothing of this: for as long as the context
lasts, their `aggregate` is another function. A window costs rcca what attention does, non_local the scores of all pairs
in the window, WINDOW_NUMBERS of them at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segnl.core.errors import ConfigError
from segnl.core.seeds import seed_for
from segnl.models.blocks.criss_cross import CrissCrossBlock
from segnl.models.blocks.non_local import NonLocalBlock
from segnl.ops.arguments import accumulation_dtype
from segnl.ops.criss_cross import criss_cross_context
from segnl.ops.non_local import concatenation_context, dot_product_context, softmax_context

WINDOW_NUMBERS = 2**23
"""Scores held at once, of one image: 32 MiB, and about three times that on the way to weights."""

NOT_OF_THIS_HEAD = "only dnl, non_local and rcca have ablations"
"""Why a network whose attention cannot be broken, or that has none, has no ablation."""

AttentionBlock = CrissCrossBlock | NonLocalBlock
Aggregate = Callable[..., Tensor]  # x, and for criss-cross the factor; as the block's own


@dataclass(frozen=True)
class Ablation:
    """What is done to the attention. radius: of a window, in cells of the map."""

    kind: Literal["gamma0", "shuffled", "window"]
    radius: int = 0

    @property
    def name(self) -> str:
        """As `parse_ablation` reads it."""
        return f"window={self.radius}" if self.kind == "window" else self.kind

    @property
    def slug(self) -> str:
        """As a part of a folder's name."""
        return self.name.replace("=", "")

    @property
    def meaning(self) -> str:
        """In words, for a table."""
        cells = f"{self.radius} cell{'' if self.radius == 1 else 's'}"
        return {
            "gamma0": "attention switched off",
            "shuffled": "keys shuffled over positions",
            "window": f"attention within {cells} of the map only" if self.radius else "attention to oneself only",
        }[self.kind]


def parse_ablation(text: str) -> Ablation:
    """gamma0, shuffled or window=R. Raises ConfigError for anything else."""
    kind, equals, radius = text.partition("=")
    if kind == "window" and radius.isdecimal():
        return Ablation("window", int(radius))
    if kind == "gamma0" and not equals:
        return Ablation("gamma0")
    if kind == "shuffled" and not equals:
        return Ablation("shuffled")
    raise ConfigError(f"ablation '{text}': unknown; expected gamma0, shuffled or window=R such as window=4")


def attention_blocks(model: nn.Module) -> list[AttentionBlock]:
    """The blocks of a network whose attention can be broken."""
    return [module for module in model.modules() if isinstance(module, AttentionBlock)]


def why_not(model: nn.Module, ablation: Ablation) -> str | None:
    """Why the network has no such ablation; None where it has."""
    blocks = attention_blocks(model)
    if not blocks:
        return NOT_OF_THIS_HEAD
    pooled = [block for block in blocks if isinstance(block, NonLocalBlock) and (block.subsample or block.dims != 2)]
    if ablation.kind == "window" and pooled:
        return "a window needs a map of keys that is not pooled; model.head.subsample is on"
    return None


@contextmanager
def ablated(model: nn.Module, ablation: Ablation) -> Iterator[None]:
    """The network's attention is ablated inside the context, and as it was afterwards.

    Raises ConfigError where nothing in the network attends, or a window is asked of a block that pools its keys.
    """
    reason = why_not(model, ablation)
    if reason is not None:
        raise ConfigError(f"ablation {ablation.name}: {reason}")
    blocks = attention_blocks(model)
    with ExitStack() as changed:
        for block in blocks:
            if ablation.kind == "gamma0":
                changed.enter_context(_closed(_opening_weight(block)))
            else:
                changed.enter_context(_aggregating(block, _aggregate(block, ablation)))
        yield


def _opening_weight(block: AttentionBlock) -> Tensor:
    if isinstance(block, CrissCrossBlock):
        return block.gamma.scale
    weight: Tensor | None = getattr(block.norm, "weight", None)
    return block.w_z.weight if weight is None else weight


@contextmanager
def _closed(weight: Tensor) -> Iterator[None]:
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@contextmanager
def _aggregating(block: AttentionBlock, aggregate: Aggregate) -> Iterator[None]:
    block.aggregate = aggregate  # type: ignore[method-assign]  # hides the class's own until it is deleted
    try:
        yield
    finally:
        del block.aggregate


def _aggregate(block: AttentionBlock, ablation: Ablation) -> Aggregate:
    if isinstance(block, CrissCrossBlock):
        if ablation.kind == "shuffled":
            return partial(_shuffled_criss_cross, block)
        return partial(_window_criss_cross, block, ablation.radius)
    if ablation.kind == "shuffled":
        return partial(_shuffled_non_local, block)
    return partial(_window_non_local, block, ablation.radius)


def shuffled_places(number: int, device: torch.device) -> Tensor:
    """The fixed order of so many positions, int64 `n`: the same on every machine."""
    generator = torch.Generator().manual_seed(seed_for("ablation", "shuffled", number))
    return torch.randperm(number, generator=generator).to(device)


def _shuffled_criss_cross(block: CrissCrossBlock, x: Tensor, factor: Tensor | None = None) -> Tensor:
    key = block.key_conv(x)
    places = shuffled_places(key.shape[2] * key.shape[3], x.device)
    key = key.flatten(2).index_select(2, places).view(key.shape)
    context = criss_cross_context(block.query_conv(x), key, block.value_conv(x))
    return context if factor is None else factor * context


def _shuffled_non_local(block: NonLocalBlock, x: Tensor) -> Tensor:
    if block.pairwise == "concatenation":
        theta_score, phi_score = block._scores(x)
        places = shuffled_places(phi_score.shape[1], x.device)
        return concatenation_context(theta_score, phi_score.index_select(1, places), block.values(x))
    theta, phi, g = block._embedded(x)
    phi = phi.index_select(2, shuffled_places(phi.shape[2], x.device))
    if block.pairwise == "dot_product":
        return dot_product_context(theta, phi, g)
    return softmax_context(theta, phi, g, scale=block.scale)


def _window_criss_cross(block: CrissCrossBlock, radius: int, x: Tensor, factor: Tensor | None = None) -> Tensor:
    query, key, value = block.query_conv(x), block.key_conv(x), block.value_conv(x)
    dtype, (h, w) = accumulation_dtype(value.dtype), x.shape[2:]
    with torch.autocast(x.device.type, enabled=False):
        q, k, v = query.to(dtype), key.to(dtype), value.to(dtype)
        in_row = _near(w, radius, x.device)  # w w
        in_column = _near(h, radius, x.device) & ~torch.eye(h, dtype=torch.bool, device=x.device)  # h h
        by_row = torch.einsum("bchw,bchj->bhwj", q, k).masked_fill(~in_row, -torch.inf)
        by_column = torch.einsum("bchw,bciw->bhwi", q, k).masked_fill(~in_column[:, None], -torch.inf)
        over_row, over_column = torch.cat([by_row, by_column], dim=-1).softmax(dim=-1).split([w, h], dim=-1)
        context = torch.einsum("bhwj,bdhj->bdhw", over_row, v) + torch.einsum("bhwi,bdiw->bdhw", over_column, v)
    return context.to(value.dtype) if factor is None else factor * context.to(value.dtype)


def _near(length: int, radius: int, device: torch.device) -> Tensor:
    """Whether two of `length` places in a row are at most `radius` apart, bool `length length`."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place).abs() <= radius


def _band_rows(h: int, w: int, radius: int) -> int:
    """How many rows may ask at once: a band of s rows has (s w) (min(h, s + 2 radius) w) scores."""
    at_once = WINDOW_NUMBERS // (w * w)  # rows asking times rows answering
    return max(1, int((radius**2 + at_once) ** 0.5) - radius, at_once // h)


def _window_non_local(block: NonLocalBlock, radius: int, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    g = block.values(x)  # b d n
    dtype = accumulation_dtype(g.dtype)
    asking, answering = block._scores(x) if block.pairwise == "concatenation" else block._embedded(x)[:2]
    rows_near, columns_near = _near(h, radius, x.device), _near(w, radius, x.device)
    step = _band_rows(h, w, radius)
    context = g.new_empty(g.shape[0], h * w, g.shape[1], dtype=dtype)  # b n d
    with torch.autocast(x.device.type, enabled=False):
        for image in range(x.shape[0]):
            for top in range(0, h, step):
                bottom, low, high = min(h, top + step), max(0, top - radius), min(h, top + step + radius)
                near = rows_near[top:bottom, None, low:high, None] & columns_near[None, :, None, :]
                near = near.flatten(2).flatten(0, 1)  # asked, answered: this band of rows and those within reach of it
                here, there = slice(top * w, bottom * w), slice(low * w, high * w)
                weights = _weights(
                    block, asking[image, ..., here].to(dtype), answering[image, ..., there].to(dtype), near
                )
                context[image, here] = weights @ g[image, :, there].to(dtype).mT
    return context.mT.to(g.dtype)


def _weights(block: NonLocalBlock, asking: Tensor, answering: Tensor, near: Tensor) -> Tensor:
    """asking `c n` and answering `c m`, or their scores `n` and `m`; near bool `n m`. Returns `n m`."""
    is_sum = block.pairwise == "concatenation"
    scores = (asking[:, None] + answering).relu() if is_sum else asking.mT @ answering
    if block.pairwise in ("gaussian", "embedded_gaussian"):
        return (scores * block.scale).masked_fill(~near, -torch.inf).softmax(dim=-1)
    return scores.masked_fill(~near, 0) / near.sum(dim=-1, keepdim=True)
