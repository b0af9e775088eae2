"""Sizes that networks see, against the published rules written out, and the presets' names."""

import numpy as np
import pytest

from segnl.core.errors import ConfigError
from segnl.evaluation.presets import PRESETS, find_preset, input_hws
from segnl.runs.recipe import EvalConfig

SIZES = [(512, 683), (364, 500), (300, 400), (683, 512), (97, 1203), (1603, 211), (7, 11)]


def csail_hws(hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Shorter sides 300 to 600, the longer at most 1000, cut to whole pixels, then each up to a multiple of 8."""
    found = []
    for short in (300, 375, 450, 525, 600):
        scale = min(short / float(min(hw)), 1000 / float(max(hw)))
        sides = []
        for length in hw:
            pixels = int(length * scale)
            while pixels % 8:
                pixels += 1
            sides.append(pixels)
        found.append((sides[0], sides[1]))
    return found


@pytest.mark.parametrize("hw", SIZES)
def test_csails_sizes_follow_its_rule(hw: tuple[int, int]) -> None:
    assert input_hws(PRESETS["ade20k-csail"], 512, hw) == csail_hws(hw)


@pytest.mark.parametrize("hw", SIZES)
def test_the_short_side_becomes_512_and_the_long_one_at_most_2048(hw: tuple[int, int]) -> None:
    ((rows, columns),) = input_hws(PRESETS["ade20k-mmseg"], None, hw)
    assert min(rows, columns) == 512 or (max(rows, columns) == 2048 and min(rows, columns) < 512)
    assert rows / columns == pytest.approx(hw[0] / hw[1], rel=0.01)  # a half pixel of rounding


def test_scales_are_of_the_size_that_training_calls_1() -> None:
    cfg = EvalConfig(scales=(0.5, 1.0))
    assert input_hws(cfg, None, (37, 53)) == [(19, 27), (37, 53)]
    assert input_hws(cfg, 74, (37, 53)) == [(37, 53), (74, 106)]
    assert input_hws(EvalConfig(scales=(2.0,), short_sides_px=(10, 20)), 74, (37, 53)) == [(20, 29), (40, 57)]


def test_an_image_is_never_enlarged_to_the_long_side() -> None:
    assert input_hws(EvalConfig(long_side_px=100), None, (37, 53)) == [(37, 53)]
    assert input_hws(EvalConfig(long_side_px=50), None, (50, 100)) == [(25, 50)]
    assert input_hws(EvalConfig(size_multiple=32), None, (3, 33)) == [(32, 64)]


def test_a_preset_is_a_whole_protocol_without_the_arithmetic() -> None:
    mapping = find_preset("cityscapes-slide").settings
    assert (mapping["mode"], mapping["window_hw"], mapping["stride_hw"], mapping["flip"]) == (
        "slide",
        [769, 769],
        [513, 513],
        False,
    )
    assert set(EvalConfig.model_fields) - set(mapping) == {"batch_size", "precision", "metrics"}
    for name, cfg in PRESETS.items():
        assert EvalConfig.model_validate_json(cfg.model_dump_json()) == cfg, name  # a copy escapes validation


def test_multi_scale_views_are_six_scales_and_their_mirror_images() -> None:
    for name in ("cityscapes-ms", "cityscapes-slide-ms", "ade20k-mmseg-ms"):
        assert PRESETS[name].flip
        views = input_hws(PRESETS[name], None, (1024, 2048))
        unit = 1.0 if name.startswith("cityscapes") else 0.5
        assert [rows for rows, _ in views] == [round(1024 * unit * k / 4) for k in range(2, 8)]


def test_a_name_that_is_none_lists_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"--preset ade20k-csial: no such preset; did you mean 'ade20k-csail'\?"):
        find_preset("ade20k-csial")


def test_averaging_over_sizes_is_the_mean_of_the_softmax(tiny_config) -> None:
    import torch

    from segnl.evaluation.predictor import Predictor
    from segnl.ops.resize import resize
    from segnl.runs.build import build_data, build_model, device_of
    from segnl.runs.recipe import load_recipe

    recipe = load_recipe(tiny_config, ["eval.short_sides_px=[24, 40]", "eval.size_multiple=8"])
    data = build_data(recipe, "val")
    predictor = Predictor(build_model(recipe, 3, is_new=True), recipe, data.table, device_of())
    image = data.read(0).image
    found = torch.cat([band.cpu() for _, band in predictor.scores(image).bands()], dim=2)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
    total = torch.zeros(1, 3, 37, 53)
    with torch.no_grad():
        normalised = predictor.model.input(pixels.to(predictor.device))
        for hw in ((24, 40), (40, 64)):  # 24 x 34.4 and 40 x 57.3, up to multiples of 8
            logits = predictor.logits(resize(normalised, hw, align_corners=False))
            total += resize(logits.float(), (37, 53), align_corners=False).softmax(1).cpu()
    np.testing.assert_allclose(found.numpy(), (total / 2).numpy(), atol=1e-5)  # float32 softmax and interpolation
