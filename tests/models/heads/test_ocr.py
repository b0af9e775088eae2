from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from segnl.models.blocks.auxiliary import AuxConfig
from segnl.models.heads.ocr import OCRConfig, OCRHead


def head_of(**coarse: Any) -> OCRHead:
    torch.manual_seed(0)
    coarse = {"leaky_slope": 0.5} | coarse  # nothing is cut off on the way
    cfg = OCRConfig(channels=8, leaky_slope=0.5, coarse=AuxConfig(channels=4, **coarse))
    head = OCRHead(cfg, (3, 4, 5, 6), 3).double().eval()
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) / 3)
    return head


def stages(b: int = 2, coarse_hw: tuple[int, int] = (7, 11)) -> list[Any]:
    torch.manual_seed(1)
    sizes = [(3, (13, 21)), (4, (7, 11)), (5, coarse_hw), (6, (7, 11))]
    return [torch.randn(b, c, *hw, dtype=torch.float64) for c, hw in sizes]


def regions_by_loops(scores: Tensor, x: Tensor) -> Tensor:
    """Class after class: the mean of all positions, weighed by the softmax of its scores over them. `b c k`."""
    b, k = scores.shape[:2]
    regions = torch.zeros(b, x.shape[1], k, dtype=torch.float64)
    for image in range(b):
        for each in range(k):
            powers = scores[image, each].exp()
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    regions[image, :, each] += powers[row, column] / powers.sum() * x[image, :, row, column]
    return regions


def by_loops(head: OCRHead, maps: list[Tensor], scores: Tensor) -> Tensor:
    """Every position asks the regions, one position after another."""
    x, attention = head.reduce(maps[3]), head.attention
    regions = regions_by_loops(scores, x)[..., None]  # b c k 1
    query, key, value = attention.query(x), attention.key(regions)[..., 0], attention.value(regions)[..., 0]
    gathered = torch.zeros_like(query)
    for image in range(x.shape[0]):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                asked = torch.stack([query[image, :, row, column] @ each for each in key[image].T])
                shares = (asked / query.shape[1] ** 0.5).softmax(dim=0)
                gathered[image, :, row, column] = sum(s * v for s, v in zip(shares, value[image].T, strict=True))
    return head.join(torch.cat([head.out(gathered), x], dim=1))


@pytest.mark.parametrize("b", [1, 2])
@torch.no_grad()
def test_every_position_attends_to_the_means_of_the_classes(b: int) -> None:
    head, maps = head_of(), stages(b)
    torch.testing.assert_close(head(maps).context, by_loops(head, maps, head.coarse(maps[2])))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("stage", "coarse_hw"), [(2, (4, 6)), (0, (7, 11))])
@torch.no_grad()
def test_coarse_logits_are_resized_for_attention_and_returned_unresized(
    stage: int, coarse_hw: tuple[int, int], align_corners: bool
) -> None:
    head, maps = head_of(stage=stage), stages(2, coarse_hw)
    head.align_corners = align_corners
    out, coarse = head(maps), head.coarse(maps[stage])
    scores = F.interpolate(coarse, (7, 11), mode="bilinear", align_corners=align_corners)
    assert torch.equal(out.aux_logits["coarse"], coarse)
    torch.testing.assert_close(out.context, by_loops(head, maps, scores))


@pytest.mark.parametrize("is_training", [True, False])
def test_coarse_logits_are_returned_in_training_and_evaluation(is_training: bool) -> None:
    head = head_of(weight=0.3).train(is_training)
    assert list(head(stages()).aux_logits) == ["coarse"]
    assert head.aux_weights == {"coarse": 0.3}


def test_the_contexts_loss_trains_the_coarse_prediction_too() -> None:
    head = head_of()
    head(stages()).context.square().sum().backward()
    assert head.coarse.classifier.weight.grad.abs().max() > 0


def test_the_default_has_the_parameters_of_its_layers() -> None:
    head = OCRHead(OCRConfig(), (256, 512, 1024, 2048), 19)
    coarse = 1024 * 256 * 9 + 2 * 256 + (256 * 19 + 19)
    reduce = 2048 * 512 * 9 + 2 * 512
    query = (512 * 256 + 2 * 256) + (256 * 256 + 2 * 256)  # and as much for the key
    attention = 2 * query + (512 * 256 + 2 * 256)
    out, join = 256 * 512 + 2 * 512, 2 * 512 * 512 + 2 * 512
    assert sum(each.numel() for each in head.parameters()) == coarse + reduce + attention + out + join
    assert head.aux_weights == {"coarse": 0.4}


def test_a_coarse_stage_that_the_backbone_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"coarse.stage: 3; expected 0 \(c2\) to 2"):
        OCRHead(OCRConfig(in_stages=(2,), coarse=AuxConfig(stage=3)), (4, 5, 6), 3)


@pytest.mark.parametrize("wrong", [{"coarse": None}, {"inner_channels": 0}, {"in_stages": ()}])
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        OCRConfig(**wrong)
