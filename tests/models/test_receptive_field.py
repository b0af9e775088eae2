from typing import Any

import pytest
import torch
from torch import Tensor

from segnl.models.receptive_field import queries_per_pass, receptive_field
from segnl.models.segmenter import Segmenter, model_config

HW = (56, 88)  # a map of 7 x 11


def network(head: str, **settings: Any) -> Segmenter:
    backbone = {"name": "resnet", "blocks": [1, 1, 1, 1], "depth": None, "block": "basic", "width": 0.125}
    backbone |= {"stem": {"kind": "plain", "channels": 8}, "output_stride": 8}
    mapping = {"backbone": backbone, "head": {"name": head, "channels": 8, **settings}, "aux": None}
    model = Segmenter(model_config(mapping, file="test"), 3, seed=0).double().eval()
    torch.manual_seed(0)
    for name, parameter in model.head.named_parameters():  # nothing starts switched off
        if not name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def features(model: Segmenter) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        stages = list(model.backbone(torch.randn(1, 3, *HW, dtype=torch.float64)))
        return stages, model.classifier(model.head(stages).context)


@pytest.mark.parametrize("head", ["rcca", "psp"])
def test_a_field_is_the_gradient_of_the_pixels_highest_logit(head: str) -> None:
    model = network(head)
    stages, logits = features(model)
    pixels = [(0, 10), (3, 9), (6, 0)]
    fields = receptive_field(model, stages, logits, pixels)
    assert fields.shape == (3, 7, 11)
    for field, (row, column) in zip(fields, pixels, strict=True):
        deepest = stages[3].clone().requires_grad_()
        out = model.classifier(model.head([*stages[:3], deepest]).context)[0, :, row, column]
        out.max().backward()
        assert deepest.grad is not None
        expected = deepest.grad[0].abs().mean(dim=0)
        assert expected.sum() > 0  # the test's own network is awake
        torch.testing.assert_close(field, expected / expected.sum())


def test_a_3x3_convolution_sees_its_nine_neighbours() -> None:
    model = network("fcn", num_convs=1, concat_input=False)
    stages, logits = features(model)
    centre, corner = receptive_field(model, stages, logits, [(3, 5), (0, 0)])
    assert set(map(tuple, centre.nonzero().tolist())) <= {(i, j) for i in (2, 3, 4) for j in (4, 5, 6)}
    assert set(map(tuple, corner.nonzero().tolist())) <= {(0, 0), (0, 1), (1, 0), (1, 1)}
    torch.testing.assert_close(centre.sum(), torch.ones((), dtype=torch.float64))


def test_fields_do_not_depend_on_how_many_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("non_local")
    stages, logits = features(model)
    pixels = [(i, i) for i in range(5)]
    together = receptive_field(model, stages, logits, pixels)
    monkeypatch.setattr("segnl.models.receptive_field.MAX_NUMBERS", 1)
    assert queries_per_pass(stages) == 1
    torch.testing.assert_close(receptive_field(model, stages, logits, pixels), together)


def test_a_logit_that_nothing_reaches_has_a_field_of_zeros() -> None:
    model = network("fcn")
    torch.nn.init.zeros_(model.classifier.weight)
    stages, logits = features(model)
    assert torch.equal(receptive_field(model, stages, logits, [(3, 5)]), torch.zeros(1, 7, 11, dtype=torch.float64))


def test_no_gradient_is_left_in_the_network() -> None:
    model = network("ocr")
    stages, logits = features(model)
    receptive_field(model, stages, logits, [(3, 5)])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_in_training_mode_is_refused() -> None:
    model = network("fcn")
    stages, logits = features(model)
    with pytest.raises(ValueError, match="call eval"):
        receptive_field(model.train(), stages, logits, [(0, 0)])
