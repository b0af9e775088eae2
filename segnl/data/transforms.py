"""Training crops: random scale, crop, flip and colour, by albumentations.

Every draw is a pure function of (seed, epoch, index): the same for any number of workers, and after a resume. The
transforms are seeded one by one: `Compose.set_random_seed` of albumentations 2.0.8 gives all of them one seed, which
would tie the scale of a crop to its place (tests/data/test_transforms.py: scale and place are independent).
"""

import os
from typing import Any

import cv2
import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels
from segnl.core.seeds import seed_for
from segnl.data.base import DataConfig
from segnl.data.sample import Sample

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for the newest version
import albumentations as A

_CROP_TRIES = 10
Window = tuple[list[int], list[int], list[float]]
"""A crop's first row and column, its height and width, and how many of the original's pixels one of its own spans."""


class ScaledCrop(A.DualTransform):
    """Resizes by a random factor and cuts a random window of at most `crop_hw`; only the window is computed.

    The image is bilinear, the label nearest, both with pixel centres at .5 (cv2.resize's INTER_NEAREST would shift the
    label by up to half a pixel). A 769x769 crop of Cityscapes takes 8 ms at any factor; resizing the whole image first
    takes 2 ms at 0.5, 15 at 1.25, 30 at 2.
    A window in which one class covers more than `crop_max_class` of the labelled pixels is drawn again, ten draws at
    most, as in mmsegmentation's recipes (0.75).
    """

    def __init__(self, cfg: DataConfig) -> None:
        super().__init__(p=1.0)
        self.cfg = cfg

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        label = data["mask"]
        factor = self.py_random.uniform(*self.cfg.scale)
        if self.cfg.short_side_px is not None:
            factor *= self.cfg.short_side_px / min(label.shape)
        scaled_hw = [max(1, round(length * factor)) for length in label.shape]
        window_hw = [min(pair) for pair in zip(self.cfg.crop_hw, scaled_hw, strict=True)]
        ratio = [length / scaled for length, scaled in zip(label.shape, scaled_hw, strict=True)]
        for _ in range(_CROP_TRIES):
            corner = [self.py_random.randint(0, s - w) for s, w in zip(scaled_hw, window_hw, strict=True)]
            if self.cfg.crop_max_class is None or self._is_varied(label, corner, window_hw, ratio):
                break
        return {"window": (corner, window_hw, ratio)}

    def _is_varied(self, label: Pixels, corner: list[int], window_hw: list[int], ratio: list[float]) -> bool:
        rows, columns = (
            slice(int(c * r), max(int(c * r) + 1, round((c + w) * r)))
            for c, w, r in zip(corner, window_hw, ratio, strict=True)
        )
        counts = np.bincount(label[rows, columns].ravel(), minlength=IGNORE + 1)[:IGNORE]
        return bool(counts.max() <= self.cfg.crop_max_class * counts.sum()) if counts.any() else False

    def apply(self, img: Pixels, window: Window, **params: Any) -> Pixels:
        return self._warp(img, cv2.INTER_LINEAR, window)

    def apply_to_mask(self, mask: Pixels, window: Window, **params: Any) -> Pixels:
        return self._warp(mask, cv2.INTER_NEAREST, window)

    def _warp(self, pixels: Pixels, interpolation: int, window: Window) -> Pixels:
        (top, left), window_hw, (down, right) = window
        # Source coordinates of the window's pixel (column, row); centres lie at .5.
        source = np.array([[right, 0, (left + 0.5) * right - 0.5], [0, down, (top + 0.5) * down - 0.5]])
        flags = interpolation | cv2.WARP_INVERSE_MAP
        out = cv2.warpAffine(pixels, source, (window_hw[1], window_hw[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, dtype=np.uint8)


class PhotometricDistortion(A.ImageOnlyTransform):
    """Brightness +-32, contrast and saturation x0.5..1.5, hue +-18 of OpenCV's 180 steps, each with probability 1/2.

    Contrast comes before or after saturation and hue, at random. Source: Liu et al., "SSD: Single Shot MultiBox
    Detector", ECCV 2016, arXiv:1512.02325, in the form that segmentation recipes use.
    """

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random
        return {
            "brightness": draw.uniform(-32.0, 32.0) * draw.randint(0, 1),
            "contrast": draw.uniform(0.5, 1.5) if draw.randint(0, 1) else 1.0,
            "is_contrast_first": bool(draw.randint(0, 1)),
            "saturation": draw.uniform(0.5, 1.5) if draw.randint(0, 1) else 1.0,
            "hue": draw.randint(-18, 18) * draw.randint(0, 1),
        }

    def apply(
        self,
        img: Pixels,
        brightness: float,
        contrast: float,
        is_contrast_first: bool,
        saturation: float,
        hue: int,
        **params: Any,
    ) -> Pixels:
        values = np.arange(256, dtype=np.float64)
        brighter = np.clip(values + brightness, 0, 255) * (contrast if is_contrast_first else 1.0)
        out = _look_up(img, brighter)
        if saturation != 1.0 or hue != 0:
            hsv = np.asarray(cv2.cvtColor(out, cv2.COLOR_RGB2HSV), dtype=np.uint8)  # hue 0..179
            table = np.stack([(values + hue) % 180, values * saturation, values], axis=-1)  # 256 3
            out = np.asarray(cv2.cvtColor(_look_up(hsv, table), cv2.COLOR_HSV2RGB), dtype=np.uint8)
        return out if is_contrast_first else _look_up(out, values * contrast)


def _look_up(pixels: Pixels, table: Floats) -> Pixels:
    """Replaces every value v of `pixels` u8 `H W 3` by table[v], rounded and clipped; table: `256` or `256 3`."""
    exact = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, exact if exact.ndim == 1 else exact[None]), dtype=np.uint8)


class TrainTransform:
    """Random scale, crop, flip and colour, set by `cfg`.

    pad_rgb: padding colour of an image smaller than the crop, about the mean that the model subtracts; the label is
    ignored there. Padding is added below and to the right, after the colour distortion.
    """

    def __init__(self, cfg: DataConfig, pad_rgb: tuple[int, int, int], seed: int) -> None:
        self.seed = seed
        steps: list[A.BasicTransform] = [ScaledCrop(cfg)]
        if cfg.flip:
            steps.append(A.HorizontalFlip(p=0.5))
        if cfg.distort:
            steps.append(PhotometricDistortion())
        # albumentations pads a mask with 0, a real class, unless told otherwise.
        steps.append(A.PadIfNeeded(*cfg.crop_hw, position="top_left", fill=pad_rgb, fill_mask=IGNORE))
        self._compose = A.Compose(steps)

    def __call__(self, sample: Sample, epoch: int, index: int) -> Sample:
        """Returns the crop of `sample` in that epoch, image `crop_hw 3` and label `crop_hw`."""
        for step in self._compose.transforms:
            step.set_random_seed(seed_for(self.seed, "augment", type(step).__name__, epoch, index))
        out = self._compose(image=sample.image, mask=sample.label)
        return Sample(out["image"], out["mask"], sample.id)
