"""Non-local means: the image filter from which the non-local block takes its equation (docs/non-local-means.md).

Source: A non-local algorithm for image denoising, Buades, Coll and Morel 2005 (CVPR).
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segnl.ops.arguments import accumulation_dtype, no_autocast
from segnl.ops.non_local import softmax_context

PatchKernel = Literal["uniform", "gaussian"]
Centre = Literal["self", "max", "none"]

BAND = 32_768
"""Pixels in a band of rows, about: what is computed for them at the same time stays in the cache."""
MAX_FLOAT32_EXPONENT = 512.0
"""Largest |patch|^2 / strength^2 for products in float32, whose largest measured error is 1e-5; beyond, float64."""


def non_local_means(
    image: Tensor,
    *,
    patch: int = 7,
    strength: float = 0.1,
    search: int | None = None,
    kernel: PatchKernel = "uniform",
    centre: Centre = "self",
) -> Tensor:
    """Replaces each pixel by the mean of all pixels, weighted by how alike the patches around them are.

    The weight of pixels i and j is exp(-distance / strength^2); the distance is the mean of the squared differences
    over the pixels and channels of their patches. Patches reach beyond the border into the image's reflection; pixels
    beyond the border are not averaged.

    image: `b c H W`, float32, float64, bfloat16 or float16, values 0..1. patch: side in pixels, odd. strength: in units
    of the image's values; the noise's standard deviation is a good start. search: side in pixels, odd, of the square
    around a pixel whose pixels it averages; None: the whole image. kernel: weights of a patch's pixels in the
    distance, equal or a Gaussian's, of standard deviation (patch - 1) / 4. centre: weight of the pixel itself; self: 1,
    as the formula says; max: the largest weight of the others; none: 0. For max and none, a pixel keeps its value where
    the others' weights are all 0 in floating point.

    Returns `b c H W` of the image's dtype, computed in float32 at least. Differentiable in the image. Memory grows with
    H W (times patch^2 c for the whole image), never with the number of pairs.

    Raises ValueError for an even patch or search, a patch larger than the image, or a strength that is not above 0.
    """
    _check(image, patch, strength, search, kernel, centre)
    with no_autocast(image):
        pixels = image.to(accumulation_dtype(image.dtype))
        profile = _profile(patch, kernel, pixels)
        # The filter commutes with adding a constant. Without the mean, sums and products round less.
        mean = pixels.mean(dim=(-2, -1), keepdim=True)
        centred = (pixels - mean).contiguous()
        if search is None and centre == "self":
            filtered = _whole_image(centred, profile, strength)
        else:
            height, width = image.shape[-2:]
            radius = max(height, width) if search is None else search // 2
            reach = min(radius, height - 1), min(radius, width - 1)
            filtered = _windowed(centred, profile, strength, reach, centre)
        result: Tensor = (filtered + mean).to(image.dtype)
        return result


def reference_non_local_means(
    image: Tensor, *, patch: int = 7, strength: float = 0.1, kernel: PatchKernel = "uniform"
) -> Tensor:
    """`non_local_means` over the whole image with all pairs of pixels: image `b c H W` -> `b c H W`."""
    profile = _profile(patch, kernel, image)
    patches = _patches(_reflected(image, patch // 2), profile)  # b n p
    weights = (-torch.cdist(patches, patches).square() / strength**2).softmax(dim=-1)  # b n n
    return torch.matmul(weights, image.flatten(2).mT).mT.reshape(image.shape)


def _check(image: Tensor, patch: int, strength: float, search: int | None, kernel: PatchKernel, centre: Centre) -> None:
    if image.dim() != 4 or 0 in image.shape or not image.is_floating_point():
        raise ValueError(f"image: {image.dtype} {tuple(image.shape)}; expected floating-point `b c H W`, not empty")
    for name, side in (("patch", patch), ("search", search)):
        if side is not None and (side < 1 or side % 2 == 0):
            raise ValueError(
                f"{name}: {side}; expected an odd number of pixels, such as {7 if name == 'patch' else 21}"
            )
    height, width = image.shape[-2:]
    if patch > min(height, width):
        raise ValueError(f"patch: {patch}; larger than the image of {height} x {width} pixels; choose a smaller one")
    if not (strength > 0 and math.isfinite(strength)):
        raise ValueError(f"strength: {strength}; expected a number above 0, such as 0.1, a tenth of the range 0..1")
    if kernel not in ("uniform", "gaussian"):
        raise ValueError(f"kernel: {kernel!r}; expected uniform or gaussian")
    if centre not in ("self", "max", "none"):
        raise ValueError(f"centre: {centre!r}; expected self, max or none")


def _profile(patch: int, kernel: PatchKernel, like: Tensor) -> Tensor:
    """Returns the weights of a patch's rows, and of its columns, `patch`; they sum to 1."""
    if kernel == "uniform" or patch == 1:
        return like.new_full((patch,), 1 / patch)
    offsets = torch.arange(patch, dtype=like.dtype, device=like.device) - patch // 2
    weights = torch.exp(-0.5 * (offsets * 4 / (patch - 1)).square())
    return weights / weights.sum()


def _reflected(image: Tensor, margin: int) -> Tensor:
    return F.pad(image, [margin] * 4, mode="reflect") if margin else image


def _patches(reflected: Tensor, profile: Tensor) -> Tensor:
    """Returns the patches `b n p` of an image with its margins; squared distances between them are the weighted means.

    p = c patch^2.
    """
    channels, side = reflected.shape[1], len(profile)
    root = (profile[:, None] * profile / channels).sqrt().flatten().repeat(channels)
    patches: Tensor = F.unfold(reflected, side).mT * root
    return patches


# exp(-|a_i - b_j|^2 / strength^2), normalised over j, is softmax_j of (2 a_i . b_j - |b_j|^2) / strength^2: |a_i|^2 is
# the same for all j. So with theta = [2 a, 1] and phi = [b, -|b|^2] the filter is a non-local block's weighted sum.
def _whole_image(image: Tensor, profile: Tensor, strength: float) -> Tensor:
    if image.dtype == torch.float32 and image.square().mean(dim=1).amax() > MAX_FLOAT32_EXPONENT * strength**2:
        return _whole_image(image.double(), profile.double(), strength).float()
    b, c, height, width = image.shape
    side = len(profile)
    reflected = _reflected(image, side // 2)
    band = max(1, BAND // width)
    phi = image.new_empty(b, height * width, side**2 * c + 1)
    for row in range(0, height, band):
        patches = _patches(reflected[:, :, row : row + band + side - 1], profile)
        positions = slice(row * width, (row + band) * width)
        phi[:, positions, :-1] = patches
        phi[:, positions, -1:] = -patches.square().sum(dim=-1, keepdim=True)
    g = image.flatten(2)
    bands = []
    for queries in phi.split(band * width, dim=1):
        theta = torch.cat([2 * queries[:, :, :-1], torch.ones_like(queries[:, :, -1:])], dim=2)  # b q p+1
        bands.append(softmax_context(theta.mT, phi.mT, g, scale=strength**-2))
    return torch.cat(bands, dim=2).reshape(image.shape)


def _windowed(image: Tensor, profile: Tensor, strength: float, reach: tuple[int, int], centre: Centre) -> Tensor:
    """Averages within `reach` rows and columns: one offset at a time, each pair of pixels once, as weights are mutual.

    Distances are direct differences, smoothed by the patch's kernel, so the work does not grow with the patch.
    """
    height, width = image.shape[-2:]
    margin = len(profile) // 2
    reflected, line = _reflected(image, margin), profile.tolist()
    total, context = torch.zeros_like(image[:, :1]), torch.zeros_like(image)
    highest = torch.zeros_like(total)
    offsets = [(0, right) for right in range(1, reach[1] + 1)]
    offsets += [(down, right) for down in range(1, reach[0] + 1) for right in range(-reach[1], reach[1] + 1)]
    band = max(1, BAND // width)
    for (down, right), top in product(offsets, range(0, height, band)):
        bottom = min(top + band, height - down)
        if bottom <= top:
            continue
        left = max(0, -right)
        num_rows, num_columns = bottom - top, width - abs(right)
        of_i, of_j = (
            reflected.narrow(2, row, num_rows + 2 * margin).narrow(3, column, num_columns + 2 * margin)
            for row, column in ((top, left), (top + down, left + right))
        )
        distances = _smoothed((of_i - of_j).square().mean(dim=1, keepdim=True), line)
        weights = torch.exp(distances / -(strength**2))
        i = ..., slice(top, bottom), slice(left, left + num_columns)
        j = ..., slice(top + down, bottom + down), slice(left + right, left + right + num_columns)
        for here, there in ((i, j), (j, i)):
            total[here] += weights
            context[here].addcmul_(weights, image[there])
            if centre == "max":
                highest[here] = torch.maximum(highest[here], weights)
    own = highest if centre == "max" else torch.full_like(total, float(centre == "self"))
    total, context = total + own, context + own * image
    return torch.where(total > 0, context / torch.where(total > 0, total, 1), image)


def _smoothed(planes: Tensor, profile: Sequence[float]) -> Tensor:
    """Convolves `b 1 h w` with the patch's kernel, without padding."""
    for axis in (2, 3):
        length = planes.shape[axis] - len(profile) + 1
        total = planes.narrow(axis, 0, length) * profile[0]
        for start, weight in enumerate(profile[1:], 1):
            total.add_(planes.narrow(axis, start, length), alpha=weight)
        planes = total
    return planes
