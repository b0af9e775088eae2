"""Published inference settings by name, and the sizes at which a network sees an image."""

from typing import NamedTuple

from segnl.core.config import JSONDict, suggest
from segnl.core.errors import ConfigError
from segnl.evaluation.inference import HW, scaled_hw
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
"""cityscapes-*: whole images, or windows of 769 at a stride of 513; -ms: at six scales, each also flipped.
ade20k-mmseg: short side 512. ade20k-csail: MIT CSAIL's five sizes, averaged. All score at the label's size.

Sources: open-mmlab/mmsegmentation 1.2.2; CSAILVision/semantic-segmentation-pytorch, config and dataset.py.
CSAIL's code resizes with OpenCV or PIL, depending on its version; segnl always resizes bilinearly after normalisation.
"""

EXECUTION_KEYS = ("batch_size", "precision", "metrics")
"""Keys of `eval` that no preset sets: they change how a score is computed or what else is, not what it means."""


class Preset(NamedTuple):
    """Published inference settings. settings: the keys of the section `eval` that it sets."""

    name: str
    settings: JSONDict


def find_preset(name: str) -> Preset:
    """Returns the preset of that name. Raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: no such preset{suggest(name, list(PRESETS))}")
    return Preset(name, PRESETS[name].model_dump(mode="json", exclude={*EXECUTION_KEYS}))


def input_hws(cfg: EvalConfig, short_side_px: int | None, hw: HW) -> list[HW]:
    """Returns the sizes at which the network sees an image of size `hw`, one per view.

    short_side_px: the training images' shorter side at scale 1 (`data.short_side_px`); eval.short_sides_px overrides
    it.
    """
    shorts = (short_side_px,) if cfg.short_sides_px is None else cfg.short_sides_px
    sizes = []
    for short in shorts:
        unit = 1.0 if short is None else short / min(hw)
        if cfg.long_side_px is not None:
            unit = min(unit, cfg.long_side_px / max(hw))
        sizes += [_sized(hw, unit * scale, cfg.size_multiple) for scale in cfg.scales]
    return sizes


def _sized(hw: HW, factor: float, multiple: int) -> HW:
    if multiple == 1:
        return scaled_hw(hw, factor)
    # CSAIL's code rounds down to whole pixels, then up to the multiple: 400.9 becomes 400, not 408.
    rows, columns = (max(1, -(-int(length * factor) // multiple)) * multiple for length in hw)
    return rows, columns
