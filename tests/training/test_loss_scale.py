import copy

import pytest
import torch

from segnl.core.errors import NonFiniteError
from segnl.core.run_log import read_log
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint
from segnl.runs.recipe import load_recipe
from segnl.training import loss_scale
from segnl.training import trainer as trainer_module
from segnl.training.fit import fit
from segnl.training.loss_scale import MAX_SCALE, LossScale
from tests.training.test_fit import weights_hash
from tests.training.test_trainer import batch_of, joined, trainer_for

FP16 = "train.precision=fp16"


def test_the_scale_moves_as_torchs_grad_scaler_moves_it(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = torch.ones(2, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.1)
    for is_finite in [True] * 7 + [False] * 3 + [True, True, False] + [True] * 4:
        theirs.scale(weight.sum()).backward()
        if not is_finite:
            weight.grad[0] = float("inf")
        theirs.step(sgd)
        theirs.update()
        sgd.zero_grad()
        ours.stepped() if is_finite else ours.halve()
        assert ours.value == theirs.get_scale()


def test_the_scale_stays_within_its_limits():
    scale = LossScale(value=2)
    assert scale.halve()
    assert not scale.halve()
    assert scale.value == 1
    scale = LossScale(value=MAX_SCALE, good_steps=loss_scale.GROW_AFTER - 1)
    scale.stepped()
    assert scale.value == MAX_SCALE


@pytest.mark.parametrize("head", ["fcn", "aspp", "non_local", "rcca"])
def test_float16_learns_what_float32_learns(tiny_config, head):
    options = [f"model.head={{name: {head}, channels: 8}}", "model.dropout=0.0", "model.aux={channels: 8, dropout: 0}"]
    full, half = trainer_for(tiny_config, *options), trainer_for(tiny_config, *options, FP16)
    before = flat_weights(full)
    for step in range(3):
        report = half.step(batch_of(step))
        reference = full.step(batch_of(step))
        # float16 keeps 11 bits, 5e-4, of each activation; a dozen layers and three steps add up.
        assert report.loss == pytest.approx(reference.loss, rel=5e-3)
        assert report.grad_norm == pytest.approx(reference.grad_norm, rel=5e-2)
    moved = flat_weights(full) - before
    assert (flat_weights(half) - flat_weights(full)).norm() < 5e-2 * moved.norm()
    assert half.model.classifier.weight.dtype == torch.float32


def flat_weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_a_gradient_too_small_for_float16_arrives_by_the_scale(tiny_config):
    faint = "model.aux={channels: 8, weight: 1e-6}"  # of 2706 pixels each: below 2^-25, float16's nothing
    full, scaled, unscaled = (trainer_for(tiny_config, faint, *more) for more in ([], [FP16], [FP16]))
    unscaled.loss_scale = LossScale(value=1)
    for trainer in (full, scaled, unscaled):
        trainer.step(batch_of(0))
    expected, arrived, lost = (t.model.auxiliary.classifier.weight.grad for t in (full, scaled, unscaled))
    assert not lost.any()
    torch.testing.assert_close(
        arrived, expected, rtol=0.05, atol=0.02 * float(expected.abs().max())
    )  # 11 bits, 9 layers


def test_clipping_and_the_reported_norm_are_of_the_gradient_without_the_scale(tiny_config):
    free, bound = trainer_for(tiny_config, FP16), trainer_for(tiny_config, FP16, "optim.clip_norm=0.01")
    report = free.step(batch_of(0))
    assert report.loss_scale == 2**16
    assert bound.step(batch_of(0)).grad_norm == report.grad_norm
    assert 0.01 < report.grad_norm < 100
    norm = torch.cat([p.grad.flatten() for p in bound.model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-4)


def test_a_step_that_overflows_is_skipped_and_the_next_ones_learn(tiny_config):
    trainer = trainer_for(tiny_config, FP16, "train.ema=0.9", "optim.weight_decay=0.1")
    trainer.step(batch_of(0))
    trainer.loss_scale.value = MAX_SCALE  # of 2706 pixels' mean: a logit's gradient is beyond 65504
    before = [copy.deepcopy(dict(m.named_parameters())) for m in (trainer.model, trainer.ema.model)]
    momentum = copy.deepcopy(trainer.optimiser.state_dict()["state"])
    report = trainer.step(batch_of(1))
    assert (report.is_skipped, report.grad_norm, report.loss_scale) == (True, None, MAX_SCALE)
    assert (report.step, trainer.step_number) == (2, 2)
    for model, old in zip((trainer.model, trainer.ema.model), before, strict=True):
        assert all(torch.equal(old[name], value) for name, value in model.named_parameters())
    for key, state in trainer.optimiser.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momentum[key]["momentum_buffer"])
    skipped = [trainer.step(batch_of(2 + i)).is_skipped for i in range(3)]
    assert not skipped[-1]
    assert trainer.loss_scale.value == MAX_SCALE / 2 ** (1 + sum(skipped))
    assert any(not torch.equal(before[0][name], value) for name, value in trainer.model.named_parameters())


def test_an_overflow_at_every_scale_ends_the_training_naming_the_images(tiny_config):
    trainer = trainer_for(tiny_config, FP16)
    trainer.model.classifier.weight.register_hook(lambda grad: grad * float("inf"))
    before = copy.deepcopy(dict(trainer.model.named_parameters()))
    for step in range(16):  # 2^16 to 1
        assert trainer.step(batch_of(step)).is_skipped
    with pytest.raises(NonFiniteError, match=r"step 17: the gradient is \w+, nothing was updated; images one, two"):
        trainer.step(batch_of(16))
    assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())


def test_a_non_finite_loss_is_never_taken_for_an_overflow(tiny_config):
    trainer = trainer_for(tiny_config, FP16)
    with torch.no_grad():
        trainer.model.classifier.weight[0, 0] = 1e30  # infinite in float16
    with pytest.raises(NonFiniteError, match=r"step 1: the loss is \w+, nothing was updated; images one, two"):
        trainer.step(batch_of(0))
    assert trainer.loss_scale.value == 2**16


def test_two_micro_batches_of_two_overflow_together_and_equal_a_batch_of_four(tiny_config):
    still = ["model.norm=frozen", "model.dropout=0.0", "model.aux={channels: 8, dropout: 0.0}", "train.batch_size=4"]
    one = trainer_for(tiny_config, FP16, *still)
    two = trainer_for(tiny_config, FP16, *still, "train.accumulate=2")
    one.loss_scale.value = two.loss_scale.value = MAX_SCALE
    batch = joined([batch_of(0), batch_of(1)])
    batch.label[2:] = 255
    batch.label[2:, 0, 0] = 0  # the second micro-batch alone would not overflow
    skipped = 0
    while (whole := one.step(batch)).is_skipped:
        assert two.step(batch).is_skipped
        skipped += 1
    assert skipped > 0
    halves = two.step(batch)
    assert halves.loss == pytest.approx(whole.loss, rel=1e-3)  # float16 convolutions of other batch sizes
    assert halves.grad_norm == pytest.approx(whole.grad_norm, rel=1e-2)


def test_resumed_in_float16_equals_uninterrupted_with_a_scale_that_moves(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    monkeypatch.setattr(trainer_module, "LossScale", lambda **saved: LossScale(**{"value": MAX_SCALE} | saved))
    run = tmp_path / "run"
    recipe = load_recipe(tiny_config, [FP16, "train.max_steps=12", "train.ema=0.9", "optim.clip_norm=0.5"])
    fit(recipe, run)
    before, lines = weights_hash(run), scale_lines(run)
    assert len({scale for scale, _ in lines}) > 2
    assert {skipped for _, skipped in lines} == {False, True}
    checkpoints_of(run)[0].unlink()
    saved = load_checkpoint(checkpoints_of(run)[0])
    assert (saved.step, saved.loss_scale["value"]) == (10, lines[10][0])
    fit(recipe, run)
    assert weights_hash(run) == before
    assert scale_lines(run) == lines


def scale_lines(run):
    return [(line["loss_scale"], line["skipped"]) for line in read_log(run / "log.jsonl") if "loss_scale" in line]


def test_a_skipped_steps_line_is_plain_json_and_other_precisions_have_no_scale(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LossScale", lambda: LossScale(MAX_SCALE))
    fit(load_recipe(tiny_config, [FP16, "train.max_steps=1"]), tmp_path / "half")
    (line,) = [line for line in read_log(tmp_path / "half" / "log.jsonl") if "event" not in line]
    assert (line["skipped"], line["grad_norm"], line["loss_scale"]) == (True, None, MAX_SCALE)
    fit(load_recipe(tiny_config, ["train.max_steps=1"]), tmp_path / "full")
    (line,) = [line for line in read_log(tmp_path / "full" / "log.jsonl") if "event" not in line]
    assert not {"skipped", "loss_scale"} & line.keys()
