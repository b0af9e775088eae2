from pathlib import Path

import pytest

from segnl.core.errors import ConfigError
from segnl.models.backbones.resnet import ResNet
from segnl.models.find import BACKBONES, HEADS
from segnl.models.heads.rcca import RCCAHead

OUTSIDE = """\
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput

class Swirl(ContextHead):
    Config = HeadConfig

HEAD = Swirl
"""


def test_a_component_is_found_by_its_file_name() -> None:
    assert HEADS.find("rcca") is RCCAHead
    assert BACKBONES.find("resnet") is ResNet
    assert {"fcn", "aspp", "non_local", "rcca"} <= set(HEADS.names())
    assert "base" not in HEADS.names() + BACKBONES.names()


def test_a_head_outside_the_package_is_found_by_its_dotted_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab_find").mkdir()
    (tmp_path / "mylab_find" / "swirl.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert HEADS.find("mylab_find.swirl").__name__ == "Swirl"


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"model\.head\.name: holds 'rca'; did you mean 'rcca'\?"):
        HEADS.find("rca")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match="known: ann, aspp, da, deeplabv3plus, dnl, dpt, ema, fcn, gc, isa, linear, non_local, ocr, psp, rcca",
    ):
        HEADS.find("zzz")


def test_a_missing_module_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot import mylab\.nothing"):
        HEADS.find("mylab.nothing")


def test_a_module_without_a_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no HEAD"):
        HEADS.find("segnl.core.seeds")
