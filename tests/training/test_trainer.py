import copy
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segnl.core.errors import ConfigError, DataError, NonFiniteError
from segnl.core.seeds import seed_for
from segnl.data.sample import Batch
from segnl.runs.build import build_model
from segnl.runs.recipe import load_recipe
from segnl.training.hooks import FitResult, Hook
from segnl.training.trainer import Trainer

CPU = torch.device("cpu")


def batch_of(seed: int, *, void: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 33, 41), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (2, 33, 41), generator=generator)
    label[:, :5] = 255
    if void:
        label[:] = 255
    return Batch(image, label, ["one", "two"])


def trainer_for(config, *overrides):
    recipe = load_recipe(config, overrides)
    return Trainer(recipe, build_model(recipe, 3, is_new=True), CPU)


def hard_pixels(up, label, threshold, min_kept):
    """The label without what online hard example mining leaves out, by sorting probabilities."""
    probability = up.detach().softmax(dim=1).gather(1, label.clamp(max=2)[:, None])[:, 0]  # b H W
    hardest = probability[label != 255].sort().values[min_kept - 1]
    return label.where(probability <= max(threshold, float(hardest)), 255)


@pytest.mark.parametrize("min_kept", [None, 600, 2200])
@pytest.mark.parametrize("align_corners", [False, True])
def test_three_steps_equal_a_plain_pytorch_loop(tiny_config, align_corners, min_kept):
    options = [f"model.align_corners={str(align_corners).lower()}", "optim.weight_decay=0.01"]
    if min_kept is not None:  # of 2296 pixels with a label; the classes begin about equally likely
        options.append(f"loss={{name: ohem, threshold: 0.333, min_kept: {min_kept}}}")
    trainer = trainer_for(tiny_config, *options)
    model = copy.deepcopy(trainer.model).train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=0.01)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    for step in range(3):
        batch = batch_of(step)
        report = trainer.step(batch)
        for group in sgd.param_groups:
            group["lr"] = 0.05 * (1 - step / 6) ** 0.9
        torch.manual_seed(seed_for(0, "step", step))  # dropout
        out = model((batch.image.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        loss = 0.0
        for weight, logits in ((1.0, out.main), (0.4, out.aux["auxiliary"])):
            up = F.interpolate(logits, size=(33, 41), mode="bilinear", align_corners=align_corners)
            label = batch.label
            if min_kept is not None and logits is out.main:
                label = hard_pixels(up, label, 0.333, min_kept)
                assert min_kept <= (label != 255).sum() < 2290  # some are left out
            loss = loss + weight * F.cross_entropy(up, label, ignore_index=255)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        assert report.loss == pytest.approx(float(loss.detach()), rel=1e-5)  # sums in another order
    for ours, plain in zip(trainer.model.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_an_all_void_batch_gives_zero_loss_and_leaves_the_weights(tiny_config):
    trainer = trainer_for(tiny_config)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    report = trainer.step(batch_of(0, void=True))
    assert (report.loss, report.grad_norm) == (0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_a_non_finite_loss_updates_nothing_and_names_the_images(tiny_config):
    trainer = trainer_for(tiny_config)
    with torch.no_grad():
        trainer.model.classifier.weight[0, 0] = float("nan")
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(NonFiniteError, match="the loss is nan, nothing was updated; images one, two"):
        trainer.step(batch_of(0))
    after = trainer.model.state_dict()
    names = [name for name, _ in trainer.model.named_parameters()]
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in names)
    assert trainer.step_number == 0


def test_a_non_finite_gradient_updates_nothing(tiny_config):
    trainer = trainer_for(tiny_config)
    before = copy.deepcopy(dict(trainer.model.named_parameters()))
    trainer.model.classifier.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match="the gradient is"):
        trainer.step(batch_of(0))
    assert all(torch.equal(before[name], value) for name, value in trainer.model.named_parameters())


def joined(batches: list[Batch]) -> Batch:
    image, label = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("image", "label"))
    return Batch(image, label, [sample_id for batch in batches for sample_id in batch.sample_ids])


def without_dropout(config, *overrides):
    still = ["model.norm=frozen", "model.dropout=0.0", "model.aux={channels: 8, dropout: 0.0}"]
    return trainer_for(config, *still, *overrides)


@pytest.mark.parametrize("loss", ["{name: cross_entropy}", "{name: cross_entropy, divide_by: all}"])
def test_two_micro_batches_of_two_equal_a_batch_of_four(tiny_config, loss):
    batch = joined([batch_of(0), batch_of(1)])
    batch.label[1:] = batch.label[1:].masked_fill(batch.image[1:, 0] > 90, 255)  # the micro-batches' counts differ
    one = without_dropout(tiny_config, "train.batch_size=4", f"loss={loss}")
    two = without_dropout(tiny_config, "train.batch_size=4", f"loss={loss}", "train.accumulate=2")
    for _ in range(2):
        whole, halves = one.step(batch), two.step(batch)
        assert halves.loss == pytest.approx(whole.loss, rel=1e-5)
        assert halves.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_clipping_scales_the_whole_gradient_to_the_norm_and_reports_the_one_before(tiny_config):
    free, bound = trainer_for(tiny_config), trainer_for(tiny_config, "optim.clip_norm=0.01")
    report = free.step(batch_of(0))
    assert bound.step(batch_of(0)).grad_norm == report.grad_norm > 0.01
    norm = torch.cat([p.grad.flatten() for p in bound.model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-4)
    for a, b in zip(free.model.parameters(), bound.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad * (0.01 / report.grad_norm), b.grad, rtol=1e-3, atol=1e-9)


def test_a_gradient_below_the_limit_is_left_alone(tiny_config):
    free, bound = trainer_for(tiny_config), trainer_for(tiny_config, "optim.clip_norm=1e6")
    free.step(batch_of(0)), bound.step(batch_of(0))
    for a, b in zip(free.model.parameters(), bound.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


def test_activation_checkpointing_gives_the_same_weights_to_the_bit(tiny_config):
    plain, thrifty = trainer_for(tiny_config), trainer_for(tiny_config, "train.activation_checkpointing=true")
    for step in range(2):
        plain.step(batch_of(step)), thrifty.step(batch_of(step))
    state = thrifty.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.model.state_dict().items())


def test_a_compiled_step_has_the_same_names_and_numbers(tiny_config, monkeypatch):
    monkeypatch.setattr("segnl.training.trainer.COMPILE_BACKEND", "aot_eager")  # all but the code generator
    plain, compiled = trainer_for(tiny_config), trainer_for(tiny_config, "train.compile=true")
    for step in range(2):
        report = compiled.step(batch_of(step))
        assert report.loss == pytest.approx(plain.step(batch_of(step)).loss, rel=1e-5)
    state = compiled.evaluated_model.state_dict()
    assert list(state) == list(plain.model.state_dict())
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_compiled_is_one_line(tiny_config, monkeypatch):
    def refuses(*_):
        raise torch._dynamo.exc.InternalTorchDynamoError("no compiler\nmore")

    trainer = trainer_for(tiny_config)
    monkeypatch.setattr(trainer, "network", refuses)
    with pytest.raises(ConfigError, match=r"^train\.compile: torch cannot compile the network \(no compiler\); set"):
        trainer.step(batch_of(0))


@pytest.mark.parametrize("options", [["train.precision=bf16"], ["train.channels_last=true"], ["train.batch_size=1"]])
def test_each_option_trains_a_step(tiny_config, options):
    batch = batch_of(0)
    if "batch_size" in options[0]:
        batch = Batch(batch.image[:1], batch.label[:1], ["one"])
    report = trainer_for(tiny_config, *options).step(batch)
    assert report.loss > 0
    assert report.grad_norm > 0


@pytest.mark.parametrize("head", ["fcn", "aspp", "non_local", "rcca"])
def test_every_head_learns_from_a_single_image(tiny_config, head):
    trainer = trainer_for(tiny_config, f"model.head={{name: {head}, channels: 8}}", "train.batch_size=1")
    batch = batch_of(3)
    one = Batch(batch.image[:1], (batch.image[:1, 0] > 128).long(), ["one"])
    losses = [trainer.step(one).loss for _ in range(5)]
    assert losses[-1] < losses[0]


class Waits(TorchDispatchMode):
    """Counts the reads of a tensor's value, for which a program waits until an accelerator is done."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_the_device_once_with_any_number_of_micro_batches(tiny_config):
    trainer = trainer_for(tiny_config, "train.accumulate=2", "train.ema=0.9", "optim.clip_norm=0.1")
    with Waits() as waits:
        report = trainer.step(batch_of(0))
    assert waits.count == 1
    assert report.loss > 0


class Recorder(Hook):
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __getattribute__(self, name):
        if name.startswith("on_"):
            return lambda trainer, *args: self.calls.append((self.name, name, trainer.step_number))
        return super().__getattribute__(name)


def test_hooks_are_called_around_steps_in_order_and_at_the_end_in_reverse(tiny_config):
    calls = []
    trainer = trainer_for(tiny_config)
    result = trainer.fit(iter([batch_of(0), batch_of(1)]), [Recorder("a", calls), Recorder("b", calls)])
    assert result == FitResult(2)
    moments = [("on_start", 0), ("on_step", 1), ("on_step", 2), ("on_end", 2)]
    expected = [(name, *moment) for moment in moments for name in ("ba" if moment[0] == "on_end" else "ab")]
    assert calls == expected


def test_a_failing_step_is_told_to_the_hooks_and_raised(tiny_config):
    calls = []
    trainer = trainer_for(tiny_config)
    with torch.no_grad():
        trainer.model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        trainer.fit(iter([batch_of(0)]), [Recorder("a", calls)])
    assert [moment for _, moment, _ in calls] == ["on_start", "on_error"]


def test_a_data_error_ends_a_training_as_a_signal_does_before_it_is_raised(tiny_config):
    def batches():
        yield batch_of(0)
        raise DataError("torn.png")

    calls = []
    with pytest.raises(DataError, match=r"torn\.png"):
        trainer_for(tiny_config).fit(batches(), [Recorder("a", calls)])
    assert [moment for _, moment, _ in calls] == ["on_start", "on_step", "on_end"]


def test_a_signal_ends_a_training_at_the_next_steps_edge(tiny_config):
    def batches():
        yield batch_of(0)
        os.kill(os.getpid(), signal.SIGTERM)
        yield batch_of(1)

    assert trainer_for(tiny_config).fit(batches()) == FitResult(1, signal.SIGTERM)
