import pytest
import torch

from tests.losses.test_base import example, make, upsampled


def jaccard_loss(wrong: set[int], pixels: set[int]) -> float:
    """The paper's set function: 1 - IoU of a class with these pixels when the pixels in `wrong` are wrong."""
    return 1 - len(pixels - wrong) / len(pixels | wrong)


def lovasz_by_sets(logits, label, class_weight):
    """Lovasz extension from its definition: errors in descending order, each times what its pixel adds to the loss."""
    probability = logits.detach().softmax(1).movedim(1, -1).reshape(-1, logits.shape[1])
    keep = label.flatten() != 255
    probability, label = probability[keep].tolist(), label.flatten()[keep].tolist()
    total = weights = 0.0
    for k, weight in enumerate(class_weight):
        pixels = {i for i, y in enumerate(label) if y == k}
        if not pixels:
            continue
        errors = [1 - p[k] if y == k else p[k] for p, y in zip(probability, label, strict=True)]
        wrong, before = set(), 0.0
        for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
            wrong.add(i)
            now = jaccard_loss(wrong, pixels)
            total += weight * errors[i] * (now - before)
            before = now
        weights += weight
    return total / weights


@pytest.mark.parametrize("class_weight", [None, [1.0, 5.0, 0.5]])
@pytest.mark.parametrize("absent", [None, 1])
def test_lovasz_equals_its_definition_by_sets(class_weight, absent):
    logits, label = example()
    if absent is not None:
        label[label == absent] = 2
    up, label = upsampled(logits.main)[:, :, 5:16, :13], label[:, 5:16, :13]
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    expected = lovasz_by_sets(up, label, class_weight or [1.0] * 3)
    assert float(make("lovasz", weight)(up, label)) == pytest.approx(expected, rel=1e-10)


def test_at_hard_predictions_lovasz_is_one_minus_mean_iou():
    label = torch.tensor([[[0, 0, 1, 1, 255], [1, 2, 2, 2, 2]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 0], [2, 2, 2, 2, 0]]])
    logits = 60 * torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).double()
    ious = [1 / 3, 2 / 4, 3 / 5]  # of intersection and union, counted by hand
    assert float(make("lovasz")(logits, label)) == pytest.approx(1 - sum(ious) / 3)


def test_the_gradient_of_lovasz_is_that_of_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 3, 5, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[[0, 1, 2, 255, 1], [2, 2, 0, 0, 1], [1, 0, 2, 1, 0]]])
    assert torch.autograd.gradcheck(lambda x: make("lovasz")(x, label), logits)
