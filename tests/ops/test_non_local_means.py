import math

import pytest
import torch
from torch import Tensor

from segnl.ops import non_local_means as module
from segnl.ops.non_local_means import non_local_means, reference_non_local_means


def noisy(channels: int, height: int, width: int, batch: int = 1, noise: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    steps = (torch.arange(width) // 3 % 2).expand(batch, channels, height, width)
    return steps * 0.5 + 0.2 + noise * torch.randn(batch, channels, height, width, generator=generator).double()


def oracle(
    image: Tensor, patch: int, strength: float, search: int | None = None, kernel: str = "uniform", centre: str = "self"
) -> Tensor:
    """The paper's formula for one pixel after another; image `c H W`."""
    channels, height, width = image.shape
    half = patch // 2
    rows, columns = (
        [
            position if 0 <= position < size else -position if position < 0 else 2 * size - 2 - position
            for position in axis
        ]
        for size, axis in ((height, range(-half, height + half)), (width, range(-half, width + half)))
    )
    extended = image[:, rows][:, :, columns]
    offsets = torch.arange(patch, dtype=torch.float64) - half
    sigma = (patch - 1) / 4
    line = torch.exp(-(offsets**2) / (2 * sigma**2)) if kernel == "gaussian" else torch.ones(patch).double()
    area = line[:, None] * line[None] / line.sum() ** 2
    pixels = [(y, x) for y in range(height) for x in range(width)]
    patches = torch.stack([extended[:, y : y + patch, x : x + patch] for y, x in pixels])  # n c p p
    out = torch.empty_like(image)
    for i, (y, x) in enumerate(pixels):
        distances = ((patches[i] - patches) ** 2 * area).sum(dim=(1, 2, 3)) / channels
        weights = torch.exp(-distances / strength**2)
        for j, (v, u) in enumerate(pixels):
            if search is not None and max(abs(v - y), abs(u - x)) > search // 2:
                weights[j] = 0
        weights[i] = 0
        weights[i] = {"self": 1.0, "max": weights.max().item(), "none": 0.0}[centre]
        out[:, y, x] = image.flatten(1) @ weights / weights.sum() if weights.sum() > 0 else image[:, y, x]
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", ["uniform", "gaussian"])
@pytest.mark.parametrize("search", [None, 5, 21])
def test_the_filter_equals_a_loop_over_pixels(channels: int, kernel: str, search: int | None) -> None:
    image = noisy(channels, 7, 11)
    out = non_local_means(image, patch=5, strength=0.15, search=search, kernel=kernel)
    torch.testing.assert_close(out[0], oracle(image[0], 5, 0.15, search, kernel))


@pytest.mark.parametrize("centre", ["max", "none"])
@pytest.mark.parametrize("search", [None, 5])
def test_the_pixels_own_weight_may_be_the_others_largest_or_zero(centre: str, search: int | None) -> None:
    image = noisy(1, 6, 9)
    out = non_local_means(image, patch=3, strength=0.1, search=search, centre=centre)
    torch.testing.assert_close(out[0], oracle(image[0], 3, 0.1, search, centre=centre))


def test_a_window_as_large_as_the_image_is_the_whole_image() -> None:
    image = noisy(3, 7, 12, batch=2)
    torch.testing.assert_close(non_local_means(image, search=23), non_local_means(image))


@pytest.mark.parametrize("patch", [1, 7])
def test_images_as_small_as_the_patch_are_filtered(patch: int) -> None:
    image = noisy(1, patch, 9)
    torch.testing.assert_close(non_local_means(image, patch=patch)[0], oracle(image[0], patch, 0.1))


@pytest.mark.parametrize("strength", [0.3, 0.05, 0.01, 0.002])
@pytest.mark.parametrize("search", [None, 9])
def test_float32_stays_exact_where_strength_is_small(strength: float, search: int | None) -> None:
    image = (noisy(1, 31, 37) + 50).float()  # far from 0, where squared lengths would swallow the distances
    expected = non_local_means(image.double() - 50, strength=strength, search=search)
    # Values around 50 have 4e-6 between neighbours in float32; weights e^-20 have a relative error of 20 * 6e-8.
    torch.testing.assert_close(
        non_local_means(image, strength=strength, search=search).double() - 50, expected, atol=3e-5, rtol=0
    )


def test_products_of_small_strengths_are_taken_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noisy(1, 31, 37, noise=0.003).float()
    expected = reference_non_local_means(image.double(), strength=0.003)

    def error() -> float:
        return float((non_local_means(image, strength=0.003) - expected).abs().max())

    in_float64 = error()
    monkeypatch.setattr(module, "MAX_FLOAT32_EXPONENT", math.inf)
    in_float32 = error()
    assert in_float64 < 2e-7, (in_float64, in_float32)  # the result is rounded to float32
    assert in_float32 > 2 * in_float64, (in_float64, in_float32)


def test_whole_image_equals_all_pairs() -> None:
    image = noisy(1, 41, 53)
    error = (non_local_means(image.float()).double() - reference_non_local_means(image)).abs().max()
    assert error < 1e-5  # float32: weights of 2,173 terms, exponents of some tens


@pytest.mark.parametrize("search", [None, 5])
def test_gradient_of_the_image(search: int | None) -> None:
    image = noisy(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: non_local_means(x, patch=3, strength=0.3, search=search), image, fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("search", [None, 5])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, search: int | None) -> None:
    image = noisy(1, 9, 11).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = non_local_means(image, search=search)
    assert out.dtype == dtype
    assert torch.equal(out, non_local_means(image.float(), search=search).to(dtype))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 4}, r"patch: 4; expected an odd number"),
        ({"patch": 0}, r"patch: 0; expected an odd number"),
        ({"search": 20}, r"search: 20; expected an odd number"),
        ({"patch": 11}, r"patch: 11; larger than the image of 9 x 13 pixels"),
        ({"strength": 0}, r"strength: 0; expected a number above 0"),
        ({"strength": math.nan}, r"strength: nan; expected"),
        ({"kernel": "box"}, r"kernel: 'box'; expected uniform or gaussian"),
        ({"centre": "one"}, r"centre: 'one'; expected self, max or none"),
    ],
)
def test_bad_settings_are_one_line(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        non_local_means(noisy(1, 9, 13), **settings)


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 9, 9), torch.zeros(1, 3, 9, 9, dtype=torch.uint8), torch.zeros(1, 3, 0, 9)]
)
def test_other_tensors_than_maps_of_floats_are_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image: .*expected floating-point `b c H W`, not empty"):
        non_local_means(image)


def test_scikit_image_computes_the_same() -> None:
    restoration = pytest.importorskip("skimage.restoration")
    image = noisy(3, 33, 41)
    pixels = image[0].movedim(0, -1).numpy()
    # Its fast mode takes the differences of 6x6 pixels and divides them by 49, so only the exact mode can be compared.
    theirs = restoration.denoise_nl_means(
        pixels, patch_size=7, patch_distance=5, h=0.15, fast_mode=False, channel_axis=-1
    )
    ours = non_local_means(image, patch=7, strength=0.15, search=11, kernel="gaussian")
    # scikit-image drops weights below e^-5 = 0.007.
    torch.testing.assert_close(ours[0].movedim(0, -1), torch.from_numpy(theirs), atol=2e-2, rtol=0)
