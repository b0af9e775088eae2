from dataclasses import replace
from pathlib import Path

import pytest

from segnl.core.config import load_mapping
from segnl.core.errors import ConfigError
from segnl.core.result_cache import ResultCache, read_record, write_record
from segnl.profiling.cost import network_counts
from segnl.runs.recipe import compose
from segnl.studies import matching
from segnl.studies.matching import matched_widths, nearest_width, with_width

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "streets"


@pytest.fixture
def mappings():
    return {head: load_mapping(CONFIGS / f"{head}.yaml", ["data.crop_hw=[64, 96]"]) for head in ("fcn", "aspp", "rcca")}


def by_trying_all(of_width, target):
    return min(range(8, 4097, 8), key=lambda channels: (abs(of_width(channels) - target), channels))


@pytest.mark.parametrize("target", [1, 64, 100, 4096.0**2, 36.0**2, 12345, 1e12])
def test_bisection_agrees_with_trying_every_width(target):
    def of_width(channels):
        return float(channels**2)

    assert nearest_width(of_width, target) == by_trying_all(of_width, target)


@pytest.mark.parametrize("measure", ["params", "gflops"])
def test_no_neighbouring_width_is_nearer_to_the_target(mappings, tmp_path, measure):
    widths = matched_widths(mappings, "fcn", measure, file="study.yaml", cache=ResultCache(tmp_path))
    which = ("params", "gflops").index(measure)

    def of(head, channels):
        recipe = compose(with_width(mappings[head], channels), file=head)
        return network_counts(recipe, 19, recipe.data.crop_hw)[which]

    target = of("fcn", widths["fcn"].channels)
    assert widths["fcn"].deviation == 0
    for head in ("aspp", "rcca"):
        channels, deviation = widths[head].channels, widths[head].deviation
        assert channels % 8 == 0
        assert deviation == pytest.approx(of(head, channels) / target - 1)
        for neighbour in (channels - 8, channels + 8):
            assert abs(of(head, neighbour) - target) >= abs(of(head, channels) - target)


def test_widths_are_solved_once_and_again_for_other_heads(mappings, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="segnl")
    calls = []

    def measured(recipe, num_classes, measure):
        calls.append(recipe.model.head.name)
        return float(recipe.model.head.channels) * (2 if recipe.model.head.name == "aspp" else 1)

    monkeypatch.setattr(matching, "_measured", measured)
    first = matched_widths(mappings, "fcn", "params", file="study.yaml", cache=ResultCache(tmp_path))
    assert first["aspp"].channels == first["fcn"].channels / 2
    assert "solving for the widths" in caplog.text
    num = len(calls)
    assert matched_widths(mappings, "fcn", "params", file="study.yaml", cache=ResultCache(tmp_path)) == first
    assert len(calls) == num
    (file,) = tmp_path.glob("widths-*.json")
    write_record(file, replace(read_record(file), value={"fcn": {"channels": 8, "deviation": 0.0}}))
    assert matched_widths(mappings, "fcn", "params", file="study.yaml", cache=ResultCache(tmp_path)) == first
    mappings["rcca"] = with_width(mappings["rcca"], 16)
    matched_widths(mappings, "rcca", "params", file="study.yaml", cache=ResultCache(tmp_path))
    assert len(calls) > num


def test_a_head_that_no_width_brings_near_is_refused(mappings, tmp_path, monkeypatch):
    monkeypatch.setattr(
        matching,
        "_measured",
        lambda recipe, *_: 1.0 if recipe.model.head.name == "fcn" else 5.0 * recipe.model.head.channels,
    )
    with pytest.raises(ConfigError, match=r"heads.aspp: no width brings it near fcn: with 8 channels .* \+3900 %"):
        matched_widths(mappings, "fcn", "params", file="study.yaml", cache=ResultCache(tmp_path))


def test_a_head_without_a_width_is_refused(mappings, tmp_path, monkeypatch):
    (tmp_path / "thin.py").write_text(
        "from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput\n"
        "class Thin(ContextHead):\n"
        "    Config = HeadConfig\n"
        "HEAD = Thin\n"
    )
    (tmp_path / "lab").mkdir()
    (tmp_path / "thin.py").rename(tmp_path / "lab" / "thin.py")
    monkeypatch.syspath_prepend(tmp_path)
    mappings["rcca"]["model"] = {**mappings["rcca"]["model"], "head": {"name": "lab.thin"}}
    with pytest.raises(ConfigError, match=r"lab\.thin has no `channels` to solve for"):
        matched_widths(mappings, "fcn", "params", file="study.yaml", cache=ResultCache(tmp_path))
