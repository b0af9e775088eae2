"""Our own components keep the contracts of segnl.testing, and a component that breaks one is told so in a sentence."""

import re
from pathlib import Path

import pytest

from segnl.core.errors import ConfigError
from segnl.losses.find import LOSSES
from segnl.metrics.scalars.find import METRICS
from segnl.models.find import BACKBONES
from segnl.optim.find import OPTIMISERS, SCHEDULES
from segnl.testing import (
    check_backbone,
    check_dataset,
    check_head,
    check_logger,
    check_loss,
    check_metric,
    check_optimiser,
    check_schedule,
    check_transform,
)
from tests.conftest import write_tiny_data

SMALL = {"resnet": {"depth": 18, "width": 0.0625}}


@pytest.mark.parametrize("name", sorted({*LOSSES.names()} - {"sum"}))
def test_losses_keep_their_contract(name: str) -> None:
    check_loss(name)


@pytest.mark.parametrize("name", sorted({*BACKBONES.names()} - {"timm"}))
def test_backbones_keep_their_contract(name: str) -> None:
    check_backbone(name, **SMALL.get(name, {}))


def test_the_folder_data_set_keeps_its_contract(tiny_data: Path) -> None:
    check_dataset("folder", tiny_data, ignore_ids=[9])
    check_dataset("folder", tiny_data, "val", ignore_ids=[9])


@pytest.mark.parametrize("name", ["ScaledCrop", "PhotometricDistortion", "Rotate", "RandomBrightnessContrast"])
def test_transforms_keep_their_contract(name: str) -> None:
    check_transform(name)


@pytest.mark.parametrize("name", OPTIMISERS.names())
def test_optimisers_keep_their_contract(name: str) -> None:
    check_optimiser(name)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_schedules_keep_their_contract(name: str) -> None:
    check_schedule(name, warmup_steps=3)


@pytest.mark.parametrize("name", METRICS.names())
def test_metrics_keep_their_contract(name: str) -> None:
    check_metric(name)


HEAD = """\
import torch
from torch import nn
from segnl.models.heads.base import ContextHead, HeadConfig, HeadOutput

class Broken(ContextHead):
    Config = HeadConfig

    def __init__(self, cfg, stage_channels, num_classes):
        super().__init__(cfg, stage_channels, num_classes)
        self.conv = nn.Conv2d(self.in_channels, 8, 1)
        self.idle = nn.Linear(3, 3)
        self.out_channels = 8

    def forward(self, stages):
        x = self.conv(self.concat_stages(stages))
        return HeadOutput(x)

HEAD = Broken
"""
BACKBONE = """\
import torch
from torch import nn
from segnl.models.backbones.base import Backbone, BackboneConfig

class Broken(Backbone):
    Config = BackboneConfig
    stage_channels = (4, 4, 4, 4)
    stage_strides = (4, 4, 4, 4)

    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def forward(self, image):
        x = self.conv(image)
        return [x, x, x, x]

BACKBONE = Broken
"""
LOSS = """\
import torch
import torch.nn.functional as F
from segnl.losses.base import Loss, LossConfig

class Broken(Loss):
    def forward(self, logits, label):
        return F.cross_entropy(logits, label, ignore_index=255)

LOSS = Broken
"""
TRANSFORM = """\
import random
import albumentations as A

class Broken(A.ImageOnlyTransform):
    def __init__(self, p=1.0):
        super().__init__(p=p)

    def apply(self, img, **params):
        return img // random.randint(1, 50)

TRANSFORM = Broken
"""
DATASET = """\
from segnl.data.datasets.folder import Folder

class Broken(Folder):
    def read(self, i):
        sample = super().read(i)
        return type(sample)(sample.image, sample.label.astype(int), sample.id)

DATASET = Broken
"""
OPTIMISER = """\
from torch import optim
from segnl.optim.optimisers.base import OptimiserConfig

class Counting(optim.SGD):
    steps = 0

    def step(self):
        self.steps += 1
        for group in self.param_groups:
            group["lr"] /= self.steps
        super().step()

class Broken(OptimiserConfig):
    def build(self, groups):
        return Counting(groups, lr=self.lr)

OPTIMISER = Broken
"""
SCHEDULE = """\
from segnl.optim.schedules.base import ScheduleConfig

class Broken(ScheduleConfig):
    def factor(self, done):
        return 1 - done ** 2 / 2

SCHEDULE = Broken
"""
METRIC = """\
from segnl.metrics.scalars.base import Metric

class Broken(Metric):
    def value(self, confusion):
        return float(1 / confusion.target().min())

METRIC = Broken
"""
LOGGER = """\
from segnl.training.loggers.base import Logger

class Broken(Logger):
    def on_step(self, trainer, report, batch):
        trainer.model.classifier.bias.data.add_(1)

LOGGER = Broken
"""


@pytest.mark.parametrize(
    ("check", "text", "old", "new", "says"),
    [
        (check_head, HEAD, "", "", "parameter idle.weight gets no finite gradient"),
        (check_head, HEAD, "HeadOutput(x)", "HeadOutput(x[:, :, :1])", "the context for stages of 7x11, batch 2 is"),
        (check_head, HEAD, "HeadOutput(x)", "HeadOutput(x / 0)", "is not finite"),
        (check_head, HEAD, "HeadOutput(x)", "HeadOutput(x, {'a': x})", "auxiliary logits a are (2, 8, 7, 11)"),
        (
            check_backbone,
            BACKBONE,
            "channels = (4, 4, 4, 4)",
            "channels = (4, 4, 4, 8)",
            "but stage_channels is (4, 4, 4, 8)",
        ),
        (check_backbone, BACKBONE, "[x, x, x, x]", "[x, x, x, x[..., :1]]", "has 15x1 positions, but its stride is 4"),
        (check_backbone, BACKBONE, "self.conv(image)", "self.conv(image.mul_(2))", "changes its image in place"),
        (check_backbone, BACKBONE, "x = self.conv(image)", "x = self.conv(image - image.mean(0))", "the other images"),
        (check_loss, LOSS, "", "", "the loss of ignored pixels alone is nan, not 0"),
        (check_loss, LOSS, ", ignore_index=255", " * 0 + (label == 255).long() * 0, reduction='none'", "not a scalar"),
        (check_loss, LOSS, "F.cross_entropy(logits, label, ignore_index=255)", "logits.sum()", "ignored pixels have a"),
        (check_transform, TRANSFORM, "", "", "draw from self.py_random or self.random_generator only"),
        (check_optimiser, OPTIMISER, "", "", "resumed, it gives another weight; keep all state as tensors"),
        (check_optimiser, OPTIMISER, "/= self.steps", "= 0.1", "moves the weights where every group's lr is 0"),
        (check_optimiser, OPTIMISER, "/= self.steps", "= -0.1", "the loss does not fall"),
        (check_schedule, SCHEDULE, "", "", "factor(1) is 0.5, not 0"),
        (check_schedule, SCHEDULE, "1 - done ** 2 / 2", "1 + done - 2 * done ** 4", "with lr 0.5"),
        (check_metric, METRIC, "", "", "with an absent class, the value is inf"),
        (
            check_metric,
            METRIC,
            "float(1 / confusion.target().min())",
            "confusion.iou()",
            "returns a ndarray, not a float",
        ),
        (check_logger, LOGGER, "", "", "with the logger, the training ends with another"),
        (check_dataset, DATASET, "", "", "label frame0 is int64 (37, 53); expected uint8 (37, 53)"),
        (
            check_dataset,
            DATASET,
            "sample.label.astype(int)",
            "sample.label // 255 * 252 + 3",
            "holds [3]; expected 0..2 or 255",
        ),
    ],
)
def test_a_component_that_breaks_its_contract_is_told_so(check, text, old, new, says, tmp_path, monkeypatch) -> None:
    assert old in text
    name = f"mylab_{abs(hash((check.__name__, says)))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "broken.py").write_text(text.replace(old, new) if old else text)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = [write_tiny_data(tmp_path)] if check is check_dataset else []
    settings = {"ignore_ids": [9]} if check is check_dataset else {}
    with pytest.raises(AssertionError, match=re.escape(says)):
        check(f"{name}.broken", *arguments, **settings)


def test_a_misspelt_name_or_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'dice'"):
        check_loss("dise")
    with pytest.raises(ConfigError, match=r"check_head: model\.head\.chanels: unknown key; did you mean 'channels'"):
        check_head("rcca", chanels=8)
