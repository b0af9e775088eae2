import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segnl.core.errors import ConfigError
from segnl.losses.base import LossConfig, StepNormalizer, class_weights
from segnl.losses.find import LOSSES
from segnl.models.segmenter import Logits
from segnl.runs.recipe import load_recipe
from tests.training.test_trainer import batch_of, trainer_for

NAMES = sorted({*LOSSES.names()} - {"sum"})
PIXELS = np.array([33, 1, 0])  # of road and sky; the third class is nowhere


def example() -> tuple[Logits, torch.Tensor]:
    """Logits `2 3 5 7` of a main and an auxiliary head for a label `2 33 41` whose first rows are ignored."""
    generator = torch.Generator().manual_seed(0)
    main = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    aux = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 3, (2, 33, 41), generator=generator)
    label[0, :9] = 255
    return Logits(main, {"auxiliary": aux}), label


def upsampled(logits, *, align_corners=False):
    return F.interpolate(logits, size=(33, 41), mode="bilinear", align_corners=align_corners)


def make(name, class_weight=None, *, align_corners=False, **settings):
    loss_class = LOSSES.find(name)
    return loss_class(loss_class.Config(name=name, **settings), class_weight, align_corners=align_corners)


@pytest.mark.parametrize("name", NAMES)
def test_a_void_batch_has_loss_0_and_zero_gradients(name):
    logits, label = example()
    label[:] = 255
    loss = make(name)
    total = sum(loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {"auxiliary": 0.4}).values())
    gradients = torch.autograd.grad(total, [logits.main, logits.aux["auxiliary"]])
    assert float(total.detach()) == 0
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_called_alone_takes_logits_of_any_size(name):
    logits, label = example()
    loss = make(name)
    alone = loss(logits.main, label)
    torch.testing.assert_close(alone, loss.of_step(logits.main, label, StepNormalizer(loss.divisor(label))))
    torch.testing.assert_close(loss(upsampled(logits.main), label), alone)


@pytest.mark.parametrize("divide_by", ["valid", "all"])
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ohem"])
def test_the_losses_of_micro_batches_add_up_to_the_steps(name, divide_by):
    logits, label = example()
    label[1] = 255  # the second micro-batch has no valid pixel
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    # OHEM mines within a micro-batch: with all pixels kept, none is chosen otherwise than in the whole.
    loss = make(name, weight, divide_by=divide_by, **({"fraction": 1.0} if name == "ohem" else {}))
    whole = loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {"auxiliary": 0.4})
    step = StepNormalizer(loss.divisor(label), micro_batches=2)
    halves = [
        loss.by_name(
            Logits(logits.main[i : i + 1], {"auxiliary": logits.aux["auxiliary"][i : i + 1]}),
            label[i : i + 1],
            step,
            {"auxiliary": 0.4},
        )
        for i in range(2)
    ]
    torch.testing.assert_close(halves[0]["auxiliary"] + halves[1]["auxiliary"], whole["auxiliary"])
    # OHEM's mean is each micro-batch's own; with one of two void it is half of the whole's.
    factor = 0.5 if name == "ohem" and divide_by == "valid" else 1.0
    torch.testing.assert_close(halves[0]["main"] + halves[1]["main"], factor * whole["main"])


USERS_LOSS = """\
import torch.nn.functional as F
from segnl.losses.base import Loss, LossConfig

class BrierConfig(LossConfig):
    power: float = 2.0

class Brier(Loss):
    Config = BrierConfig

    def forward(self, logits, label):
        assert logits.shape[-2:] == label.shape[-2:]
        valid = label != 255
        target = F.one_hot(label * valid, logits.shape[1]).movedim(-1, 1)
        error = (logits.softmax(1) - target).abs().pow(self.cfg.power).sum(1) * valid
        return error.sum() / valid.sum().clamp(min=1)

LOSS = Brier
"""


def test_a_users_loss_gets_upsampled_logits_and_trains(tiny_config: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "mylab_losses").mkdir()
    (tmp_path / "mylab_losses" / "brier.py").write_text(USERS_LOSS)
    monkeypatch.syspath_prepend(str(tmp_path))
    loss = "loss={name: mylab_losses.brier, power: 1.5}"
    assert load_recipe(tiny_config, [loss]).loss.power == 1.5
    trainer = trainer_for(tiny_config, loss)
    losses = [trainer.step(batch_of(0)).loss for _ in range(4)]
    assert losses[-1] < losses[0]
    frozen = ["model.norm=frozen", "model.dropout=0", "model.aux={channels: 8, dropout: 0}", loss]
    whole = trainer_for(tiny_config, *frozen).step(batch_of(0))
    halves = trainer_for(tiny_config, *frozen, "train.accumulate=2").step(batch_of(0))
    assert halves.loss == pytest.approx(whole.loss, rel=1e-5)  # equal numbers of valid pixels


def test_losses_have_the_common_settings():
    assert all(issubclass(LOSSES.find(name).Config, LossConfig) for name in LOSSES.names())
    assert LOSSES.names() == ["cross_entropy", "dice", "focal", "lovasz", "ohem", "sum"]


@pytest.mark.parametrize("name", NAMES)
def test_class_weights_as_numbers_change_the_training(name, tiny_config):
    plain, weighted = (
        trainer_for(tiny_config, f"loss={{name: {name}, class_weight: {numbers}}}").step(batch_of(0)).loss
        for numbers in ("[1, 1, 1]", "[0.1, 2, 5]")
    )
    assert plain == pytest.approx(trainer_for(tiny_config, f"loss={{name: {name}}}").step(batch_of(0)).loss, rel=1e-6)
    assert weighted != pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(("numbers", "says"), [("[1, 2]", "2 numbers, but the data set has 3 classes"), ("[]", "0 nu")])
def test_another_number_of_class_weights_than_classes_is_refused(numbers, says, tiny_config):
    with pytest.raises(ConfigError, match=rf"loss\.class_weight: {says}"):
        trainer_for(tiny_config, f"loss.class_weight={numbers}")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("enett", "loss.class_weight: holds \"enett\"; input should be 'enet'"),
        ("[1, -1, 2]", "loss.class_weight.1: holds -1; input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_class_weight_is_one_line(setting, says, tiny_config):
    with pytest.raises(ConfigError) as err:
        load_recipe(tiny_config, [f"loss.class_weight={setting}"])
    assert says in str(err.value)


@pytest.mark.parametrize("name", NAMES)
def test_weight_is_a_factor_of_the_loss(name):
    logits, label = example()
    weighed, plain = (
        loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {"auxiliary": 0.4})
        for loss in (make(name, weight=0.25), make(name))
    )
    assert all(weighed[key].item() == pytest.approx(0.25 * plain[key].item()) for key in plain)


def test_enet_is_the_papers_formula():
    expected = [1 / math.log(1.02 + share) for share in (33 / 34, 1 / 34, 0.0)]
    torch.testing.assert_close(class_weights("enet", 3, PIXELS), torch.tensor(expected))


def test_enet_sqrt_is_its_root():
    torch.testing.assert_close(class_weights("enet_sqrt", 3, PIXELS), class_weights("enet", 3, PIXELS).sqrt())


def test_median_frequency_weighs_the_median_class_1_and_an_absent_one_1():
    weight = class_weights("median_frequency", 3, PIXELS)
    torch.testing.assert_close(weight, torch.tensor([17 / 33, 17.0, 1.0]))
