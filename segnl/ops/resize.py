"""Bilinear resizing: the only place of the package that calls F.interpolate.

`resize_rows` computes some rows of the result alone, so that nobody has to hold `b k H W`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype


def resize(x: Tensor, out_hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resizing of floating `b c h w` to `b c H W`, out_hw = (H, W), without antialiasing.

    align_corners: whether the corner pixels' centres (True) or their outer edges (False) coincide before and after.
    Returns x itself if it has that size already.

    Raises ValueError when x has another number of axes than four, is empty, or out_hw is not positive.
    """
    _check(x, out_hw)
    if tuple(x.shape[-2:]) == tuple(out_hw):
        return x
    return F.interpolate(x, size=out_hw, mode="bilinear", align_corners=align_corners)


def resize_rows(x: Tensor, out_hw: tuple[int, int], row_from: int, row_to: int, *, align_corners: bool) -> Tensor:
    """Rows [row_from, row_to) of `resize(x, out_hw)`, `b c rows W`, without computing the others.

    Equal to the slice of the whole up to the rounding of one interpolation.

    Raises ValueError when the rows do not lie in 0..H.
    """
    _check(x, out_hw)
    if not 0 <= row_from < row_to <= out_hw[0]:
        raise ValueError(f"row_from, row_to: {row_from}, {row_to}; expected 0 <= row_from < row_to <= {out_hw[0]}")
    if tuple(x.shape[-2:]) == tuple(out_hw):
        return x[:, :, row_from:row_to]
    above, below, weight = taps(x.shape[-2], out_hw[0], align_corners=align_corners)
    # Bounds of the rows touched, in Python's integers: a value read from a tensor would stop a trace or a fake tensor.
    scale = (x.shape[-2] - 1) / max(1, out_hw[0] - 1) if align_corners else x.shape[-2] / out_hw[0]
    first, last = max(0, int(row_from * scale) - 1), min(x.shape[-2] - 1, int(row_to * scale) + 1)
    # The source rows that these output rows touch, b c few w; half precision is rounded once, at the end.
    near = x[:, :, first : last + 1].to(accumulation_dtype(x.dtype))
    rows = slice(row_from, row_to)
    above, below = above[rows].to(x.device) - first, below[rows].to(x.device) - first
    share = weight[rows].to(near)[:, None]  # rows 1
    mixed = torch.lerp(near.index_select(2, above), near.index_select(2, below), share)  # b c rows w
    if mixed.shape[-1] != out_hw[1]:
        # The number of rows stays the same, so only the columns are interpolated.
        mixed = F.interpolate(mixed, (row_to - row_from, out_hw[1]), mode="bilinear", align_corners=align_corners)
    return mixed.to(x.dtype)


def taps(num_in: int, num_out: int, *, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns for each of num_out positions its two neighbours among num_in positions and the second one's share.

    int64 `num_out`, int64 `num_out`, float64 `num_out` in [0, 1), on the CPU. Beyond the border the outermost position
    is repeated.
    """
    index = torch.arange(num_out, dtype=torch.float64)
    if align_corners:
        place = index * ((num_in - 1) / (num_out - 1) if num_out > 1 else 0.0)
    else:
        place = ((index + 0.5) * (num_in / num_out) - 0.5).clamp(min=0)
    lower = place.floor().long().clamp(max=num_in - 1)
    upper = (lower + 1).clamp(max=num_in - 1)
    return lower, upper, place - lower


def taps_matrix(num_in: int, num_out: int, *, align_corners: bool) -> Tensor:
    """Returns `taps` as a matrix, float64 `num_out num_in` on the CPU: two shares in each row, which sum to 1."""
    lower, upper, share = taps(num_in, num_out, align_corners=align_corners)
    matrix, rows = torch.zeros(num_out, num_in, dtype=torch.float64), torch.arange(num_out)
    matrix[rows, lower] += 1 - share
    matrix[rows, upper] += share
    return matrix


def _check(x: Tensor, out_hw: tuple[int, int]) -> None:
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)}; expected `b c h w`, each at least 1")
    if len(out_hw) != 2 or min(out_hw) < 1:
        raise ValueError(f"out_hw: {tuple(out_hw)}; expected (H, W), each at least 1")
