import math

import pytest
import torch

from segnl.losses.base import StepNormalizer
from tests.losses.test_base import example, make, upsampled


@pytest.mark.parametrize("divide_by", ["valid", "all"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_the_papers_formula(gamma, divide_by):
    logits, label = example()
    alpha = [1.0, 5.0, 0.5]
    total = divisor = 0.0
    for p, y in zip(
        upsampled(logits.main).detach().softmax(1).movedim(1, -1).reshape(-1, 3).tolist(),
        label.flatten().tolist(),
        strict=True,
    ):
        if y != 255:
            total -= alpha[y] * (1 - p[y]) ** gamma * math.log(p[y])
            divisor += alpha[y]
    divisor = divisor if divide_by == "valid" else label.numel()
    loss = make("focal", torch.tensor(alpha, dtype=torch.float64), gamma=gamma, divide_by=divide_by)
    assert float(loss(logits.main, label)) == pytest.approx(total / divisor, rel=1e-10)


def test_with_gamma_0_focal_is_cross_entropy_and_its_gradient():
    logits, label = example()
    weight = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    losses = make("focal", weight, gamma=0.0)(logits.main, label), make("cross_entropy", weight)(logits.main, label)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits.main)[0] for loss in losses))


def test_a_sure_pixel_has_a_finite_gradient():
    logits = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    for gamma in (0.0, 0.5, 1.0, 2.0):
        loss = make("focal", gamma=gamma)(logits, label)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert not gradient.any()


def test_the_gradient_of_focal_is_that_of_finite_differences():
    logits = torch.randn(1, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[[0, 1, 2, 255, 1], [2, 2, 0, 0, 1], [1, 0, 2, 1, 0]]])
    assert torch.autograd.gradcheck(lambda x: make("focal")(x, label), logits)
    step = StepNormalizer(torch.tensor(28.0, dtype=torch.float64))
    assert float(make("focal").of_step(logits, label, step)) == pytest.approx(float(make("focal")(logits, label)) / 2)
