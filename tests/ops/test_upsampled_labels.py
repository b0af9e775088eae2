"""Labels of upsampled logits, by rows and by cells, against upsampling everything."""

import pytest
import torch
import torch.nn.functional as F

from segnl.ops import upsampled_labels as by_rows
from segnl.ops.kernels import upsampled_labels as by_cells
from segnl.ops.upsampled_labels import upsampled_labels, winners


def reference(logits: torch.Tensor, out_hw: tuple[int, int], align_corners: bool) -> torch.Tensor:
    return F.interpolate(logits, size=out_hw, mode="bilinear", align_corners=align_corners).argmax(1).to(torch.uint8)


def patchy(k: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    """Logits as a network gives them: a few regions with a clear winner, and noise; `2 k h w`."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, k, 3, 2, generator=random)
    smooth = F.interpolate(coarse * 5, size=(h, w), mode="bilinear")
    return smooth + 0.1 * torch.randn(2, k, h, w, generator=random)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out_hw", [(56, 88), (53, 90), (29, 41), (7, 11), (5, 8), (7, 90)])
@pytest.mark.parametrize("k", [1, 3, 150])
def test_labels_equal_those_of_upsampling_everything(k: int, out_hw: tuple[int, int], align_corners: bool) -> None:
    logits = patchy(k, 7, 11)
    torch.testing.assert_close(
        upsampled_labels(logits, out_hw, align_corners=align_corners), reference(logits, out_hw, align_corners)
    )


@pytest.mark.parametrize("max_hard_share", [-1.0, 0.5, 1.0])
def test_rows_and_cells_give_the_same_labels(max_hard_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_cells, "MAX_HARD_SHARE", max_hard_share)
    monkeypatch.setattr(by_cells, "CHUNK_NUMBERS", 500)
    monkeypatch.setattr(by_rows, "BAND_NUMBERS", 500)
    monkeypatch.setattr(by_rows, "MIN_BAND_ROWS", 3)
    for logits in (patchy(19, 7, 11), torch.randn(1, 19, 7, 11, generator=torch.Generator().manual_seed(1))):
        labels = upsampled_labels(logits, (61, 83), align_corners=False)
        assert torch.equal(labels, reference(logits, (61, 83), False))


@pytest.mark.parametrize("max_hard_share", [-1.0, 1.0])
def test_of_equal_scores_the_lowest_class_wins(max_hard_share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_cells, "MAX_HARD_SHARE", max_hard_share)
    logits = torch.randint(0, 2, (2, 5, 7, 11), generator=torch.Generator().manual_seed(2)).float()  # nothing rounds
    labels = upsampled_labels(logits, (28, 44), align_corners=False)
    assert torch.equal(labels, reference(logits, (28, 44), False))
    assert not upsampled_labels(torch.ones(1, 4, 7, 11), (56, 88), align_corners=True).any()


def test_a_class_that_leads_at_no_corner_may_win_inside_a_cell() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [4.0, 4.0]]).reshape(1, 3, 1, 2)
    assert upsampled_labels(logits, (1, 16), align_corners=True)[0, 0].unique().tolist() == [0, 1, 2]


def test_cells_with_margins_below_the_rounding_are_hard() -> None:
    logits = torch.zeros(1, 2, 7, 11)
    logits[:, 1] = 1e-7
    logits[:, :, 0, 0] = 1e4  # the rounding of scores this large exceeds the margins
    assert by_cells._cells(logits)[1].all()


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_scores_that_are_not_finite_make_every_cell_hard(poison: float) -> None:
    logits = patchy(3, 7, 11)
    logits[0, 1, 3, 4] = poison
    assert by_cells._cells(logits)[1].all()
    labels = upsampled_labels(logits, (56, 88), align_corners=False)
    assert torch.equal(labels[1], reference(logits, (56, 88), False)[1])  # the other image of the batch


def test_half_precision_is_upsampled_in_float32() -> None:
    logits = patchy(19, 7, 11).bfloat16()
    labels = upsampled_labels(logits, (56, 88), align_corners=False)
    assert torch.equal(labels, reference(logits.float(), (56, 88), False))


def test_more_classes_than_8_bits_hold_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.255 classes"):
        upsampled_labels(torch.zeros(1, 256, 2, 2), (4, 4), align_corners=False)
    assert winners(torch.zeros(1, 255, 2, 3)).dtype == torch.uint8
