"""Training crops: random scale, crop, flip and colour, or any transforms of albumentations (`data.augment`).

Every draw is a pure function of (seed, epoch, index): the same for any number of workers, and after a resume. The
transforms are seeded one by one: `Compose.set_random_seed` of albumentations 2.0.8 gives all of them one seed, which
would tie the scale of a crop to its place (tests/data/test_transforms.py: scale and place are independent).
"""

import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from segnl.core import IGNORE
from segnl.core.arrays import Floats, Pixels
from segnl.core.components import Components, is_dotted
from segnl.core.config import JSONDict, suggest
from segnl.core.errors import ConfigError
from segnl.core.seeds import seed_for
from segnl.data.base import DataConfig
from segnl.data.sample import Sample

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for the newest version
import albumentations as A
from albumentations.augmentations.crops.transforms import CropSizeError

Transform: TypeAlias = A.BasicTransform | A.BaseCompose

USERS_TRANSFORMS = Components(__name__, "TRANSFORM", key="data.augment", base=A.BasicTransform)
"""Finds transforms by dotted name only: the others are albumentations' and the two of this file."""

_CROP_TRIES = 10
VIEWS_SEED = 0
"""Seed of the crops of `data.views`, which all training seeds share."""
Window = tuple[list[int], list[int], list[float]]
"""A crop's first row and column, its height and width, and how many of the original's pixels one of its own spans."""


class ScaledCrop(A.DualTransform):
    """Resizes by a random factor and cuts a random window of at most `crop_hw`; only the window is computed.

    The image is bilinear, the label nearest, both with pixel centres at .5 (cv2.resize's INTER_NEAREST would shift the
    label by up to half a pixel). A 769x769 crop of Cityscapes takes 3 ms at any factor; resizing the whole image first
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
        if pixels.ndim == 3 and pixels.shape[2] > 4:  # OpenCV rounds more than four to 1/32 pixel
            bands = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
            return np.stack([self._warp(band, interpolation, window) for band in bands], axis=2)
        (top, left), window_hw, (down, right) = window
        # Source coordinates of the window's pixel (column, row); centres lie at .5.
        source = np.array([[right, 0, (left + 0.5) * right - 0.5], [0, down, (top + 0.5) * down - 0.5]])
        flags = interpolation | cv2.WARP_INVERSE_MAP
        is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
        if is_rgb:  # OpenCV warps four channels in 40 % of the time of three, to the same values
            pixels = _with_fourth_channel(pixels, _source_area(window))
        out = cv2.warpAffine(pixels, source, (window_hw[1], window_hw[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if is_rgb:
            return np.asarray(cv2.cvtColor(out, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
        return np.asarray(out, dtype=np.uint8).reshape(*out.shape[:2], *pixels.shape[2:])  # OpenCV drops an axis of 1


def _source_area(window: Window) -> tuple[slice, slice]:
    """Returns the rows and columns of the original that a window is interpolated from, with a margin for rounding."""
    corner, window_hw, ratio = window
    first, last = (
        [int((start + offset) * step) for start, offset, step in zip(corner, offsets, ratio, strict=True)]
        for offsets in ((0, 0), window_hw)
    )
    rows, columns = (slice(max(0, a - 2), b + 3) for a, b in zip(first, last, strict=True))
    return rows, columns


def _with_fourth_channel(pixels: Pixels, area: tuple[slice, slice]) -> Pixels:
    """Returns `H W 4` whose first three channels are those of `pixels` within `area`; the rest is undefined."""
    wide = np.empty((*pixels.shape[:2], 4), np.uint8)
    cv2.cvtColor(pixels[area], cv2.COLOR_RGB2RGBA, dst=wide[area])
    return wide


class PadBelow(A.DualTransform):
    """Pads to `crop_hw` below and to the right, any number of bands; copies nothing where no padding is needed.

    fill: the pixel. Labels are ignored there.
    """

    def __init__(self, crop_hw: tuple[int, int], fill: tuple[int, ...]) -> None:
        super().__init__(p=1.0)
        self.crop_hw, self.fill = crop_hw, fill

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        return self._padded(img, self.fill)

    def apply_to_mask(self, mask: Pixels, **params: Any) -> Pixels:
        return self._padded(mask, IGNORE)

    def _padded(self, pixels: Pixels, fill: int | tuple[int, ...]) -> Pixels:
        rows, columns = pixels.shape[:2]
        out_hw = [max(pair) for pair in zip(self.crop_hw, (rows, columns), strict=True)]
        if out_hw == [rows, columns]:
            return pixels
        out = np.empty((*out_hw, *pixels.shape[2:]), pixels.dtype)
        out[:rows, :columns], out[rows:], out[:rows, columns:] = pixels, fill, fill
        return out


class PhotometricDistortion(A.ImageOnlyTransform):
    """Brightness +-32, contrast and saturation x0.5..1.5, hue +-18 of OpenCV's 180 steps, each with probability 1/2.

    Contrast comes before or after saturation and hue, at random. Source: Liu et al., "SSD: Single Shot MultiBox
    Detector", ECCV 2016, arXiv:1512.02325, in the form that segmentation recipes use.
    """

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p=p)

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
        levels = np.arange(256, dtype=np.float64)
        brighter = np.clip(levels + brightness, 0, 255) * (contrast if is_contrast_first else 1.0)
        out = _look_up(img, brighter)
        if saturation != 1.0 or hue != 0:
            hsv = cv2.cvtColor(out, cv2.COLOR_RGB2HSV)  # hue 0..179
            hues, saturations, values = (np.asarray(plane, dtype=np.uint8) for plane in cv2.split(hsv))
            planes = [_look_up(hues, (levels + hue) % 180), _look_up(saturations, levels * saturation), values]
            out = np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB), dtype=np.uint8)
        return out if is_contrast_first else _look_up(out, levels * contrast)


def _look_up(pixels: Pixels, table: Floats) -> Pixels:
    """Replaces every value v of `pixels` u8 by table[v], rounded and clipped."""
    exact = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    shift = int(exact[128]) - 128
    if not np.array_equal(exact, np.clip(np.arange(256) + shift, 0, 255)):
        return np.asarray(cv2.LUT(pixels, exact), dtype=np.uint8)
    # OpenCV adds a number to all channels, cut to 0..255, in a seventh of the time of a table.
    channels: Any = (shift,) * 4
    return np.asarray(cv2.add(pixels, channels), dtype=np.uint8) if shift else pixels


class TrainTransform:
    """The transforms of `data.augment`; where it is null, random scale, crop, flip and colour, set by the keys beside.

    pad_rgb: padding colour of an image smaller than the crop, about the mean that the model subtracts; the label is
    ignored there. Padding is added below and to the right, after the other transforms. Where those in `augment` leave
    an image larger than the crop, a random window of it is cut.
    """

    def __init__(self, cfg: DataConfig, pad_rgb: tuple[int, ...], seed: int) -> None:
        self.seed, self.num_views = seed, cfg.views
        self.crop_hw, self.num_bands = cfg.crop_hw, len(pad_rgb)
        if cfg.augment is None and cfg.distort and self.num_bands != 3:
            raise ConfigError("data.distort: changes hues, which RGB images have only; set it to false")
        entries: list[JSONDict] = [{"name": "ScaledCrop"}]
        entries += [{"name": "HorizontalFlip", "p": 0.5}] if cfg.flip else []
        entries += [{"name": "PhotometricDistortion"}] if cfg.distort else []
        transforms = [build_transform(entry, cfg) for entry in (entries if cfg.augment is None else cfg.augment)]
        transforms.append(PadBelow(cfg.crop_hw, pad_rgb))
        if cfg.augment is not None:
            transforms.append(A.RandomCrop(*cfg.crop_hw))
        self._is_identity = cfg.augment == ()  # for images of the crop's size
        self._compose = A.Compose(transforms)

    def __call__(self, sample: Sample, epoch: int, index: int) -> Sample:
        """Returns the crop of `sample` in that epoch, image `crop_hw 3` and label `crop_hw`.

        Of a clip, image `H W t*3`, all frames get the transforms that the first, labelled one would get alone.

        Raises ConfigError when a transform of `data.augment` fails, or returns anything but uint8 of that size.
        """
        if self.num_views is not None:
            return self.view(sample, self.view_of(epoch, index))
        return self._crop(sample, self.seed, epoch, index)

    def view_of(self, epoch: int, index: int) -> int:
        """Returns which of its `data.views` an image shows in an epoch.

        All of them come once in as many epochs, in an order that depends on the seed.
        """
        if self.num_views is None:
            raise ValueError("data.views: null; expected a number of views")
        first_epoch, place = divmod(epoch, self.num_views)
        draws = np.random.default_rng(seed_for(self.seed, "views", first_epoch, index))
        return int(draws.permutation(self.num_views)[place])

    def view(self, sample: Sample, view: int) -> Sample:
        """Returns the crop of a view. It depends on the sample's id and on no seed: all runs have the same views."""
        return self._crop(sample, VIEWS_SEED, view, sample.id)

    def _crop(self, sample: Sample, seed: int, epoch: int, index: int | str) -> Sample:
        if self._is_identity and sample.label.shape == self.crop_hw:
            return sample
        seed_transforms(self._compose.transforms, seed, epoch, index)
        frames = np.split(sample.image, max(1, sample.image.shape[2] // self.num_bands), axis=2)
        others = {"images": np.stack(frames[1:])} if len(frames) > 1 else {}
        try:
            out = self._compose(image=frames[0], mask=sample.label, **others)
        except (ValueError, TypeError, LookupError, ArithmeticError, CropSizeError, cv2.error) as err:
            raise ConfigError(f"data.augment: cannot transform image {sample.id}: {_reason(err)}") from err
        image, label = out["image"], out["mask"]
        rows, columns = self.crop_hw
        has_shape = (image.shape, label.shape) == ((rows, columns, self.num_bands), (rows, columns))
        if not has_shape or image.dtype != np.uint8 or label.dtype != np.uint8:
            raise ConfigError(
                f"data.augment: makes image {sample.id} {image.dtype} {image.shape}, its label {label.dtype} "
                f"{label.shape}; expected uint8 ({rows}, {columns}, {self.num_bands}) and ({rows}, {columns})"
            )
        if others:
            image = np.concatenate([image, *out["images"]], axis=2)
        return Sample(image, label, sample.id)


def seed_transforms(transforms: Sequence[Transform], seed: int, epoch: int, index: int | str) -> None:
    """Gives every transform, those in OneOf and the like too, a seed of its own for that image in that epoch."""
    counts: Counter[str] = Counter()
    for transform in _flattened(transforms):
        name = type(transform).__name__
        # The second of a class has another seed than the first.
        purpose = ("augment", name) if not counts[name] else ("augment", name, "number", counts[name])
        counts[name] += 1
        transform.set_random_seed(seed_for(seed, *purpose, epoch, index))


def _flattened(transforms: Sequence[Transform]) -> Iterator[Transform]:
    """Yields compositions before the transforms in them, which their `set_random_seed` sets too."""
    for transform in transforms:
        yield transform
        if isinstance(transform, A.BaseCompose):
            yield from _flattened(transform.transforms)


def transform_entry(entry: Any) -> JSONDict:
    """Returns an entry of `data.augment` as {"name": NAME, ARGUMENT: value, ...}.

    entry: this form, or {NAME: {ARGUMENT: value, ...}}, or NAME alone.

    Raises ValueError in one line for another form, an unknown name or argument, or a value that the transform refuses.
    """
    normal = _with_names(entry)
    build_transform(normal, DataConfig(name="folder", root=Path(), crop_hw=(1, 1)))
    return normal


def _with_names(entry: Any) -> JSONDict:
    normal: Any = {"name": entry} if isinstance(entry, str) else entry
    if isinstance(entry, Mapping) and len(entry) == 1 and "name" not in entry:
        ((name, arguments),) = entry.items()
        normal = {"name": name, **(arguments or {})} if isinstance(arguments, Mapping | None) else None
    if not isinstance(normal, Mapping) or not isinstance(normal.get("name"), str):
        raise ValueError("expected a transform such as {HorizontalFlip: {p: 0.5}}")
    normal = dict(normal)
    if isinstance(normal.get("transforms"), list):  # OneOf and the like
        normal["transforms"] = [_with_names(inner) for inner in normal["transforms"]]
    return normal


def build_transform(entry: JSONDict, cfg: DataConfig) -> Transform:
    """Builds a transform from {"name": NAME, ARGUMENT: value, ...}.

    cfg: for ScaledCrop. Labels are filled with the ignored id unless the entry has a `fill_mask`.

    Raises ValueError as `transform_entry` does.
    """
    name, arguments = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    transform_class = _transform_class(name)
    known = inspect.signature(transform_class).parameters
    if transform_class is ScaledCrop:
        if arguments:
            raise ValueError("transform ScaledCrop: set data.scale, data.short_side_px and data.crop_max_class instead")
        return ScaledCrop(cfg)
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"transform {name}: unknown argument '{argument}'{suggest(argument, list(known))}")
    if arguments.get("mask_interpolation", cv2.INTER_NEAREST) not in (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT):
        raise ValueError(f"transform {name}: mask_interpolation: class ids cannot be interpolated; leave it out")
    if issubclass(transform_class, A.BaseCompose):
        inner = arguments.get("transforms")
        if not isinstance(inner, list) or not inner:
            raise ValueError(f"transform {name}: transforms: expected a list of transforms")
        arguments["transforms"] = [build_transform(inner_entry, cfg) for inner_entry in inner]
    if "fill_mask" in known and known["fill_mask"].default is not None:  # None leaves labels as they are
        arguments = {"fill_mask": IGNORE} | arguments
    try:
        return transform_class(**arguments)
    except (ValueError, TypeError) as err:
        raise ValueError(f"transform {name}: {_reason(err)}") from err


def _reason(err: Exception) -> str:
    """Returns the first reason of an error in one line; albumentations passes on pydantic's report of several lines."""
    lines = [line.strip() for line in str(err).strip().splitlines()] or [type(err).__name__]
    if "validation error" in lines[0] and len(lines) > 2:
        message = lines[2].partition(" [type=")[0].removeprefix("Value error, ")
        return f"{lines[1].partition('.')[0]}: {message}"
    return lines[0]


def _transform_class(name: str) -> type[Any]:
    """Returns the class of a transform by albumentations' name, the name of one of this file, or a dotted name."""
    if is_dotted(name):
        try:
            return USERS_TRANSFORMS.find(name)
        except ConfigError as err:
            raise ValueError(str(err).removeprefix(f"{USERS_TRANSFORMS.key}: ")) from err
    if name in _REFUSED:
        raise ValueError(f"transform {name}: {_REFUSED[name]}")
    known = {ScaledCrop.__name__: ScaledCrop, PhotometricDistortion.__name__: PhotometricDistortion}
    for key, value in vars(A).items():
        if isinstance(value, type) and issubclass(value, Transform) and not key.startswith(_NOT_IN_A_LIST):
            known[key] = value
    if name not in known:
        raise ValueError(f"unknown transform '{name}'{suggest(name, list(known), otherwise='see albumentations')}")
    return known[name]


_REFUSED = {
    **dict.fromkeys(
        ("Normalize", "ToFloat", "ToTensorV2"), "crops stay uint8, and the model normalises them; leave it out"
    ),
    **dict.fromkeys(
        ("FrequencyMasking", "TimeMasking"), "fills the label with class 0; write XYMasking, which takes fill_mask"
    ),
    "Morphological": "lets the class with the larger or smaller id grow in the label; leave it out",
}
_NOT_IN_A_LIST = ("Base", "Basic", "Compose", "Dual", "ImageOnly", "Transform3D", "ReplayCompose", "Lambda")
"""Beginnings of the names of base classes, and of what needs Python functions."""
