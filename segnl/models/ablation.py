"""Ablations of trained attention at evaluation: does a network use its attention?

gamma0      sets the factor of the attention branch to 0: rcca's gamma, the weight of the last norm in non_local and dnl
            (of W_z without a norm). A norm's bias stays, since a constant does not depend on the image. rcca then
            computes exactly what `fcn` computes.
shuffled    permutes the keys and leaves the values in place: every position attends as strongly as before, to the
            wrong positions. The permutation is fixed for each number of positions.
window=R    attends only to positions at most R rows and R columns of the map away; 0 is the position itself. Sums that
            are divided by the number of positions (dot product, concatenation) are divided by those in the window.

In dnl, shuffled and window change the pairwise sum only. Inside the context manager, the blocks' `aggregate` is
replaced. A window costs rcca as much as its attention, non_local the scores of all pairs in the window, at most
MAX_WINDOW_SCORES at a time.
"""

from collections.abc import Iterator, Sequence
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
from segnl.ops.arguments import accumulation_dtype, no_autocast
from segnl.ops.criss_cross import criss_cross_context, near, reference_criss_cross_context

MAX_WINDOW_SCORES = 2**23
"""Scores of one image in memory at once: 32 MiB, and about three times that for softmax and mask."""

NO_ATTENTION = "only dnl, non_local and rcca have ablations"
"""Reason why a network without an attention block has no ablations."""

AttentionBlock = CrissCrossBlock | NonLocalBlock


@dataclass(frozen=True)
class Ablation:
    """Change of the attention. radius: of a window, in positions of the map."""

    kind: Literal["gamma0", "shuffled", "window"]
    radius: int = 0

    @property
    def name(self) -> str:
        """Name that `parse_ablation` reads."""
        return f"window={self.radius}" if self.kind == "window" else self.kind

    @property
    def slug(self) -> str:
        """Name for a folder."""
        return self.name.replace("=", "")

    @property
    def meaning(self) -> str:
        """Description for a table."""
        cells = f"{self.radius} cell{'' if self.radius == 1 else 's'}"
        return {
            "gamma0": "attention switched off",
            "shuffled": "keys shuffled over positions",
            "window": f"attention within {cells} of the map only" if self.radius else "attention to oneself only",
        }[self.kind]


def parse_ablation(text: str) -> Ablation:
    """Reads gamma0, shuffled or window=R. Raises ConfigError for any other text."""
    kind, _, radius = text.partition("=")
    if kind == "window" and radius.isdecimal() and len(radius) < 10:
        return Ablation("window", int(radius))
    if text == "gamma0":
        return Ablation("gamma0")
    if text == "shuffled":
        return Ablation("shuffled")
    raise ConfigError(f"ablation '{text[:40]}': unknown; expected gamma0, shuffled or window=R such as window=4")


def attention_blocks(model: nn.Module) -> list[AttentionBlock]:
    """Returns the attention blocks that ablations change."""
    return [module for module in model.modules() if isinstance(module, AttentionBlock)]


def unavailable_reason(model: nn.Module, ablation: Ablation) -> str | None:
    """Returns the reason why the network cannot be ablated so; None where it can."""
    blocks = attention_blocks(model)
    if not blocks:
        return NO_ATTENTION
    pooled = [block for block in blocks if isinstance(block, NonLocalBlock) and (block.subsample or block.dims != 2)]
    if ablation.kind != "gamma0" and getattr(model, "num_frames", 1) > 1:
        return "attention across the frames of data.frames can be switched off (gamma0) only"
    if ablation.kind == "window" and pooled:
        return "a window needs a map of keys that is not pooled; model.head.subsample is on"
    return None


@contextmanager
def ablated(model: nn.Module, ablation: Ablation) -> Iterator[None]:
    """Ablates the network's attention inside the context and restores it afterwards.

    Raises ConfigError for a network without an attention block, or a window in a block that pools its keys.
    """
    reason = unavailable_reason(model, ablation)
    if reason is not None:
        raise ConfigError(f"ablation {ablation.name}: {reason}")
    with ExitStack() as restore:
        for block in attention_blocks(model):
            if ablation.kind == "gamma0":
                scale = _branch_scale(block).detach()
                restore.callback(scale.copy_, scale.clone())
                scale.zero_()
            else:
                restore.callback(delattr, block, "aggregate")  # uncovers the class's own method
                aggregate = _aggregate_criss_cross if isinstance(block, CrissCrossBlock) else _aggregate_non_local
                block.aggregate = partial(aggregate, block, ablation)  # type: ignore[method-assign, arg-type]
        yield


def _branch_scale(block: AttentionBlock) -> Tensor:
    if isinstance(block, CrissCrossBlock):
        return block.gamma.scale
    weight: Tensor | None = getattr(block.norm, "weight", None)
    return block.w_z.weight if weight is None else weight


def permutation(num_positions: int, device: torch.device) -> Tensor:
    """Returns the fixed permutation of the positions, int64 `n`, the same on every machine."""
    generator = torch.Generator().manual_seed(seed_for("ablation", "shuffled", num_positions))
    return torch.randperm(num_positions, generator=generator).to(device)


def _aggregate_criss_cross(
    block: CrissCrossBlock, ablation: Ablation, x: Tensor, factor: Tensor | None = None
) -> Tensor:
    """Replaces the block's `aggregate` for shuffled keys or a window."""
    query, key, value = block.query_conv(x), block.key_conv(x), block.value_conv(x)
    if ablation.kind == "shuffled":
        order = permutation(key.shape[2] * key.shape[3], x.device)
        context = criss_cross_context(query, key.flatten(2).index_select(2, order).view(key.shape), value)
    else:
        with no_autocast(x):
            maps = (y.to(accumulation_dtype(value.dtype)) for y in (query, key, value))
            context = reference_criss_cross_context(*maps, radius=ablation.radius).to(value.dtype)
    return context if factor is None else factor * context


def _aggregate_non_local(block: NonLocalBlock, ablation: Ablation, x: Tensor) -> Tensor:
    query, key, g = block.embeddings(x)
    if ablation.kind == "shuffled":
        return block.weighted_sum(query, key.index_select(-1, permutation(key.shape[-1], x.device)), g)
    return _sum_in_window(block, ablation.radius, query, key, block.values(x), x.shape[2:])


def _band_rows(h: int, w: int, radius: int) -> int:
    """Returns the number of query rows in a band; a band of s rows has (s w) (min(h, s + 2 radius) w) scores."""
    max_row_pairs = MAX_WINDOW_SCORES // (w * w)  # query rows times key rows
    return max(1, int((radius**2 + max_row_pairs) ** 0.5) - radius, max_row_pairs // h)


def _sum_in_window(
    block: NonLocalBlock, radius: int, query: Tensor, key: Tensor, g: Tensor, hw: Sequence[int]
) -> Tensor:
    """Returns `b d n`, band by band of query rows; query, key and g as from `block.embeddings`."""
    (h, w), dtype = hw, accumulation_dtype(g.dtype)
    rows_near, columns_near = near(h, radius, g.device), near(w, radius, g.device)
    step = _band_rows(h, w, radius)
    context = g.new_empty(g.shape[0], h * w, g.shape[1], dtype=dtype)  # b n d
    with no_autocast(g):
        for image in range(len(g)):
            for top in range(0, h, step):
                bottom, low, high = min(h, top + step), max(0, top - radius), min(h, top + step + radius)
                in_window = rows_near[top:bottom, None, low:high, None] & columns_near[None, :, None, :]
                in_window = in_window.flatten(2).flatten(0, 1)  # query positions, key positions within reach
                queries, keys = slice(top * w, bottom * w), slice(low * w, high * w)
                q, k, v = (y.to(dtype) for y in (query[image, ..., queries], key[image, ..., keys], g[image, :, keys]))
                context[image, queries] = _weights(block, q, k, in_window) @ v.mT
    return context.mT.to(g.dtype)


def _weights(block: NonLocalBlock, query: Tensor, key: Tensor, in_window: Tensor) -> Tensor:
    """Returns weights `n m` for query `c n` and key `c m`, or their scores `n` and `m`; in_window: bool `n m`."""
    scores = (query[:, None] + key).relu() if block.pairwise == "concatenation" else query.mT @ key
    if block.pairwise in ("gaussian", "embedded_gaussian"):
        return (scores * block.scale).masked_fill(~in_window, -torch.inf).softmax(dim=-1)
    return scores.masked_fill(~in_window, 0) / in_window.sum(dim=-1, keepdim=True)
