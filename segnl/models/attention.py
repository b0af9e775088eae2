"""Attention weights of one position, computed without the matrix of all pairs."""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from segnl.models.blocks.attention_rows import AttentionRows
from segnl.models.heads.base import ContextHead


@torch.no_grad()
def attention_row(head: ContextHead, stages: Sequence[Tensor], pixel: tuple[int, int]) -> AttentionRows:
    """Returns the attention weights of position `pixel` (row, column) of the head's map for every hop.

    stages: c2..c5, `b c h w` each. RCCA also has `routing`, the row of the product of its hops' attention matrices: one
    hop reaches a cross, two hops the whole map.

    Raises ValueError for a head without attention, a head in training mode, or a pixel outside the map.
    """
    if head.training:
        raise ValueError(
            f"{type(head).__name__} is in training mode, where batch norm depends on the batch; call eval()"
        )
    h, w = head.gather(stages).shape[-2:]
    try:
        row, column = map(operator.index, pixel)
    except (TypeError, ValueError) as err:
        raise ValueError(f"pixel: {pixel!r}; expected (row, column), two integers") from err
    if not (0 <= row < h and 0 <= column < w):
        raise ValueError(f"pixel: {pixel}; expected (row, column) inside the map of {h} x {w}")
    return head.attend(stages, (row, column))
