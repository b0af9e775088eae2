"""Receptive field of a network without context: the pixels that can change the logits of a place at all."""

import copy

import torch

from segnl.core.arrays import Mask
from segnl.models.segmenter import SegmentationModel, Segmenter


def receptive_field(model: Segmenter, hw: tuple[int, int], region: tuple[slice, slice]) -> Mask:
    """Marks the pixels of an image of `hw` that can change the upsampled logits in `region`, bool `H W`.

    The support of the gradient, not its size: all weights are replaced by positive ones, so that nothing cancels and
    no ReLU closes. Exact for convolutions, pooling and norms in evaluation mode. The model itself is not changed.
    """
    positive = copy.deepcopy(model).double().eval().requires_grad_(False)
    for module in positive.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_factor = name == "weight" and parameter.dim() == 1  # of a norm
            is_kernel = parameter.dim() > 1
            parameter.fill_(1.0 if is_factor else 1 / parameter[0].numel() if is_kernel else 0.0)
    image = torch.ones(1, 3, *hw, dtype=torch.float64, requires_grad=True)
    logits: torch.Tensor = SegmentationModel(positive)(image)
    logits[(..., *region)].sum().backward()
    if image.grad is None:
        return torch.zeros(hw, dtype=torch.bool).numpy()
    return (image.grad[0] > 0).any(dim=0).numpy()
