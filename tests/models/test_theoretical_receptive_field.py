"""The receptive field against a brute force that changes every pixel."""

import numpy as np
import pytest
import torch

from segnl.models.receptive_field import theoretical_receptive_field
from segnl.models.segmenter import SegmentationModel, Segmenter, model_config

HW = (24, 36)
REGION = (slice(8, 12), slice(16, 20))


def segmenter(head: dict[str, object], num_convs: int = 2) -> Segmenter:
    mapping = {"backbone": {"name": "strided_convs", "channels": 6, "num_convs": num_convs}, "head": head, "aux": None}
    return Segmenter(model_config(mapping, file="a test"), 3, seed=0).eval()


def changed_pixels(model: Segmenter) -> np.ndarray:
    """Which pixels change the logits of the region, over several images and weights that are all positive."""
    model = SegmentationModel(model).double()
    for parameter in model.parameters():
        parameter.data = torch.rand_like(parameter) + 0.1
    image = torch.rand(1, 3, *HW, dtype=torch.float64)
    changed = np.zeros(HW, bool)
    with torch.no_grad():
        before = model(image)[(..., *REGION)]
        for row, column in np.ndindex(HW):
            other = image.clone()
            other[..., row, column] += 1
            changed[row, column] = not torch.equal(model(other)[(..., *REGION)], before)
    return changed


@pytest.mark.parametrize(("kernel", "num_convs"), [(1, 2), (3, 1)])
def test_it_is_the_set_of_pixels_whose_change_is_seen(kernel: int, num_convs: int) -> None:
    head = {"name": "fcn", "channels": 6, "kernel": kernel}
    seen = theoretical_receptive_field(segmenter(head, num_convs), HW, REGION)
    assert np.array_equal(seen, changed_pixels(segmenter(head, num_convs)))
    assert 0 < seen.sum() < seen.size


def test_two_convolutions_of_stride_two_see_seven_pixels_and_upsampling_adds_a_cell() -> None:
    seen = theoretical_receptive_field(segmenter({"name": "fcn", "channels": 6, "kernel": 1}), HW, REGION)
    rows, columns = np.nonzero(seen)
    # A position of the map lies at pixel 4 i and sees 3 pixels to either side; rows 8..11 mix positions 1 to 3.
    assert (rows.min(), rows.max()) == (4 - 3, 12 + 3)
    assert (columns.min(), columns.max()) == (12 - 3, 20 + 3)


def test_a_head_with_context_sees_the_whole_image() -> None:
    assert theoretical_receptive_field(segmenter({"name": "psp", "channels": 6}), HW, REGION).all()


def test_the_network_is_not_changed() -> None:
    model = segmenter({"name": "fcn", "channels": 6})
    before = {name: values.clone() for name, values in model.state_dict().items()}
    theoretical_receptive_field(model, HW, REGION)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
