"""Inference settings: the sizes at which a network sees an image, and published settings by name."""

from segnl.core.config import JSONDict, suggest
from segnl.core.errors import ConfigError
from segnl.evaluation.inference import Size, scaled_hw
from segnl.runs.recipe import EvalConfig

_SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_SLIDE = EvalConfig(mode="slide", window_hw=(769, 769), stride_hw=(513, 513))
_SHORT_SIDE_512 = EvalConfig(short_sides_px=(512,), long_side_px=2048)

PRESETS: dict[str, EvalConfig] = {
    "cityscapes-whole": EvalConfig(),
    "cityscapes-slide": _SLIDE,
    "cityscapes-ms": EvalConfig(scales=_SIX_SCALES, flip=True),
    "cityscapes-slide-ms": _SLIDE.model_copy(update={"scales": _SIX_SCALES, "flip": True}),
    "ade20k-mmseg": _SHORT_SIDE_512,
    "ade20k-mmseg-ms": _SHORT_SIDE_512.model_copy(update={"scales": _SIX_SCALES, "flip": True}),
    "ade20k-csail": EvalConfig(short_sides_px=(300, 375, 450, 525, 600), long_side_px=1000, size_multiple=8),
}
"""Whole images of Cityscapes, or windows of 769 at a stride of 513, each also at six scales and flipped, as
mmsegmentation tests; ADE20K at a short side of 512 (it too), and at CSAIL's five sizes. All score at the label's size.

Sources: open-mmlab/mmsegmentation 1.2.2; CSAILVision/semantic-segmentation-pytorch, config and dataset.py.
CSAIL's images are resized by OpenCV or PIL, by version; here as everywhere, bilinearly after normalisation.
"""

ARITHMETIC = ("batch_size", "precision")
"""Keys of `eval` that a preset leaves alone: they change how a score is computed, not what it is."""


def preset_dict(name: str) -> JSONDict:
    """Returns a preset's keys of the `eval` section. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: no such preset{suggest(name, list(PRESETS))}")
    return _without_arithmetic(PRESETS[name])


def is_preset(name: str, cfg: EvalConfig) -> bool:
    """Tells whether `cfg` has the preset's settings, even after overrides."""
    return _without_arithmetic(cfg) == preset_dict(name)


def _without_arithmetic(cfg: EvalConfig) -> JSONDict:
    return {key: value for key, value in cfg.model_dump(mode="json").items() if key not in ARITHMETIC}


def input_hws(cfg: EvalConfig, short_side_px: int | None, hw: Size) -> list[Size]:
    """Returns the sizes, rows and columns, at which the network sees an image of size `hw`, one for each view.

    short_side_px: what training calls scale 1 (`data.short_side_px`); eval.short_sides_px comes before it.
    """
    shorts = (short_side_px,) if cfg.short_sides_px is None else cfg.short_sides_px
    sizes = []
    for short in shorts:
        unit = 1.0 if short is None else short / min(hw)
        if cfg.long_side_px is not None:
            unit = min(unit, cfg.long_side_px / max(hw))
        sizes += [_sized(hw, unit * scale, cfg.size_multiple) for scale in cfg.scales]
    return sizes


def _sized(hw: Size, factor: float, multiple: int) -> Size:
    if multiple == 1:
        return scaled_hw(hw, factor)
    # Whole pixels first, then up: as CSAIL's code counts, so that 400.9 becomes 400 and not 408.
    rows, columns = (max(1, -(-int(length * factor) // multiple)) * multiple for length in hw)
    return rows, columns
