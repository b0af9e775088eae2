import pytest
import torch

from segnl.losses.base import StepNormalizer
from tests.losses.test_base import example, make, upsampled


def dice_by_loops(logits, label, class_weight):
    """Formula of V-Net for each class that has a pixel, from plain Python numbers."""
    probability = logits.detach().softmax(1).movedim(1, -1).reshape(-1, logits.shape[1]).tolist()
    label = label.flatten().tolist()
    total = weights = 0.0
    for k, weight in enumerate(class_weight):
        pairs = [(p[k], float(y == k)) for p, y in zip(probability, label, strict=True) if y != 255]
        if any(g for _, g in pairs):
            overlap = sum(p * g for p, g in pairs)
            total += weight * (1 - 2 * overlap / (sum(p * p for p, _ in pairs) + sum(g * g for _, g in pairs)))
            weights += weight
    return total / weights


@pytest.mark.parametrize("class_weight", [None, [1.0, 5.0, 0.5]])
@pytest.mark.parametrize("absent", [None, 1])
def test_dice_equals_the_papers_formula(class_weight, absent):
    logits, label = example()
    if absent is not None:
        label[label == absent] = 2
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    expected = dice_by_loops(upsampled(logits.main), label, class_weight or [1.0] * 3)
    assert float(make("dice", weight)(logits.main, label)) == pytest.approx(expected, rel=1e-10)


def test_a_perfect_prediction_has_dice_loss_0_although_a_class_is_absent():
    label = torch.tensor([[[0, 2, 255], [2, 2, 0]]])
    logits = 60 * torch.nn.functional.one_hot(label.clamp(max=2), 3).movedim(-1, 1).double()
    assert float(make("dice")(logits, label)) == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_dice_is_that_of_finite_differences():
    logits, label = example()
    small = torch.randn(1, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: make("dice")(x, label[1:, :3, :5]), small)
    loss = make("dice")
    halves = [loss.of_step(logits.main[i : i + 1], label[i : i + 1], StepNormalizer(torch.ones(()), 2)) for i in (0, 1)]
    means = [loss(logits.main[i : i + 1], label[i : i + 1]) for i in (0, 1)]
    assert float(sum(halves)) == pytest.approx(float(sum(means)) / 2)  # a step is the mean of its micro-batches
