"""docs/adding-a-head.md is run as it stands: its Python becomes a file, its YAML a recipe's section."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segnl.core.config import parse_yaml
from segnl.core.errors import ConfigError
from segnl.models.segmenter import model_config, new_segmenter
from segnl.runs.recipe import load_recipe
from segnl.testing import check_head

PAGE = Path(__file__).resolve().parent.parent / "docs" / "adding-a-head.md"
BACKBONE = {"name": "resnet", "depth": 18, "width": 0.0625}


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The page's section `head`, its file on the Python path."""
    section = parse_yaml(block("yaml"), "page")["model"]["head"]
    *folders, name = section["name"].split(".")
    (tmp_path / Path(*folders)).mkdir(parents=True)
    (tmp_path / Path(*folders) / f"{name}.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for depth in range(1, len(folders) + 2):
        monkeypatch.delitem(sys.modules, ".".join([*folders, name][:depth]), raising=False)
    return dict(section)


def test_the_pages_head_trains_a_step(head: dict[str, object]) -> None:
    cfg = model_config({"backbone": BACKBONE, "head": {**head, "channels": 16}, "aux": None}, file="page")
    model = new_segmenter(cfg, num_classes=3, seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(0)
    image, label = torch.randn(2, 3, 41, 57), torch.randint(0, 3, (2, 6, 8))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(image).main, label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_the_pages_head_computes_its_formula(head: dict[str, object]) -> None:
    cfg = model_config({"backbone": BACKBONE, "head": {**head, "channels": 16}}, file="page")
    one = new_segmenter(cfg, num_classes=3, seed=0).eval().head
    stages = [torch.randn(2, channels, 7, 11) for channels in (4, 8, 16, 32)]
    x = one.reduce(stages[3])
    for batch in range(2):
        means = torch.stack([x[batch, channel].mean() for channel in range(16)])
        weights = 1 / (
            1 + (-(one.up.weight @ (one.down.weight @ means + one.down.bias).clamp(min=0) + one.up.bias)).exp()
        )
        for channel in range(16):
            expected = x[batch, channel] * weights[channel]
            assert (one(stages).context[batch, channel] - expected).abs().max() < 1e-5


def test_the_pages_recipe_loads_beside_its_base(head: dict[str, object], tmp_path: Path) -> None:
    (place,) = set(re.findall(r"configs/\w+/weigh\.yaml", PAGE.read_text(encoding="utf-8")))
    shutil.copy(PAGE.parent.parent / Path(place).parent / "_base.yaml", tmp_path)
    (tmp_path / "weigh.yaml").write_text(block("yaml"), encoding="utf-8")
    assert load_recipe(tmp_path / "weigh.yaml").model.head.model_dump() == {**head, "in_stages": (3,), "channels": 512}


def test_the_pages_head_keeps_the_contract(head: dict[str, object]) -> None:
    check_head(str(head["name"]), squeeze=head["squeeze"])


def test_a_misspelt_key_of_the_pages_head_is_named(head: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"model\.head\.squeze: unknown key; did you mean 'squeeze'\?"):
        model_config({"backbone": BACKBONE, "head": {"name": head["name"], "squeze": 8}}, file="page")
