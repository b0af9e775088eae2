import pytest
import torch

from segnl.core.errors import ConfigError
from segnl.losses.base import StepNormalizer
from segnl.losses.find import build_loss
from segnl.runs.recipe import compose, load_recipe
from tests.losses.test_base import PIXELS, example, make
from tests.training.test_trainer import batch_of, trainer_for

SUM = "{name: sum, losses: [{name: cross_entropy, class_weight: enet}, {name: dice, weight: 0.5}, {name: ohem}]}"


def test_a_sum_is_the_weighted_sum_of_its_losses_each_with_its_own_settings(tiny_config):
    logits, label = example()
    cfg = load_recipe(tiny_config, [f"loss={SUM}"]).loss
    loss = build_loss(cfg, 3, PIXELS)
    total = loss.by_name(logits, label, StepNormalizer(loss.divisor(label)), {"auxiliary": 0.4})
    expected = {"main": 0, "auxiliary": 0}
    for member, weight in (
        (make("cross_entropy", build_loss(cfg.losses[0], 3, PIXELS).class_weight), 1),
        (make("dice"), 0.5),
        (make("ohem"), 1),
    ):
        parts = member.by_name(logits, label, StepNormalizer(member.divisor(label)), {"auxiliary": 0.4})
        expected = {name: expected[name] + weight * parts[name] for name in expected}
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(loss(logits.main, label), expected["main"])
    assert cfg.needs_class_pixels


def test_a_sum_trains_and_micro_batches_add_up(tiny_config):
    # Sums over pixels: of dice each micro-batch has its own.
    loss = "loss={name: sum, losses: [{name: cross_entropy, class_weight: [1, 2, 3]}, {name: focal, divide_by: all}]}"
    frozen = ["model.norm=frozen", "model.dropout=0", "model.aux={channels: 8, dropout: 0}", loss]
    trainer = trainer_for(tiny_config, *frozen)
    losses = [trainer.step(batch_of(0)).loss for _ in range(4)]
    assert losses[-1] < losses[0]
    halves = trainer_for(tiny_config, *frozen, "train.accumulate=2").step(batch_of(0))
    assert halves.loss == pytest.approx(losses[0], rel=1e-5)


def test_a_sum_of_one_loss_trains_as_the_loss_alone(tiny_config):
    alone, summed = (
        trainer_for(tiny_config, f"loss={loss}") for loss in ("{name: ohem}", "{name: sum, losses: [{name: ohem}]}")
    )
    for seed in range(2):
        assert alone.step(batch_of(seed)).loss == summed.step(batch_of(seed)).loss


def test_the_recipe_of_a_sum_reads_back_the_same(tiny_config):
    recipe = load_recipe(tiny_config, [f"loss={SUM}"])
    assert recipe.to_dict()["loss"]["losses"][1]["weight"] == 0.5
    assert compose(recipe.to_dict(), file="again").to_dict() == recipe.to_dict()


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("{name: sum}", "loss.losses: missing; add it"),
        ("{name: sum, losses: []}", "loss.losses: holds []; tuple should have at least 1 item"),
        ("{name: sum, losses: [dice]}", "loss.losses.0: holds 'dice', expected keys and values"),
        ("{name: sum, losses: [{name: dise}]}", "loss.losses.0.name: holds 'dise'; did you mean 'dice'?"),
        ("{name: sum, losses: [{name: dice, weigth: 2}]}", "loss.losses.0.weigth: unknown key; did you mean 'weight'?"),
        ("{name: sum, class_weight: enet, losses: [{name: dice}]}", 'loss.class_weight: holds "enet"'),
        (
            "{name: sum, losses: [{name: sum, losses: [{name: dice}]}]}",
            "loss.losses.0: a sum in a sum; list its losses here",
        ),
    ],
)
def test_an_error_in_a_sum_is_one_line_with_its_key(loss, says, tiny_config):
    with pytest.raises(ConfigError) as err:
        load_recipe(tiny_config, [f"loss={loss}"])
    assert says in str(err.value)
    assert "\n" not in str(err.value)
