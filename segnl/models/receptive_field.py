"""Receptive fields: the effective one, by size of the gradient, and the theoretical one, where it is not zero.

Source: Luo et al. 2016, "Understanding the Effective Receptive Field in Deep CNNs", arXiv:1701.04128. Here the
effective field's gradient is that of one class's logit, with respect to the features that the head reads and not to the
image's pixels, so that it shows the head's own view and not the backbone's.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from segnl.core.arrays import Mask
from segnl.models.blocks.attention_rows import Pixel
from segnl.models.segmenter import SegmentationModel, Segmenter

MAX_NUMBERS = 2**22
"""Numbers of the stages that one pass copies for its queries: 16 MiB."""


def queries_per_pass(stages: Sequence[Tensor]) -> int:
    """Returns the number of queries that `receptive_field` puts through the head at once."""
    return min(32, max(1, MAX_NUMBERS // max(1, sum(stage[0].numel() for stage in stages))))


def receptive_field(model: Segmenter, stages: Sequence[Tensor], logits: Tensor, pixels: Sequence[Pixel]) -> Tensor:
    """Returns each pixel's effective receptive field on the deepest stage that the head reads, `q h w`.

    stages, logits: of one image, b = 1; of a clip, the stages of all frames, and the field lies on those of the first.
    pixels: positions of the logits. A field is the absolute gradient of the
    pixel's highest logit with respect to the stage, mean over channels, divided by its sum over positions (0 where
    nothing reaches the logit).

    Raises ValueError for a network in training mode.
    """
    if model.training:
        raise ValueError("the network is in training mode; call eval()")
    fields, count = [], queries_per_pass(stages)
    for first in range(0, len(pixels), count):
        batch = pixels[first : first + count]
        rows, columns = zip(*batch, strict=True)
        at = (list(range(len(batch))), logits[0, :, list(rows), list(columns)].argmax(dim=0), rows, columns)
        inputs = [stage.detach()[None].expand(len(batch), *stage.shape).flatten(0, 1) for stage in stages]
        for stage in inputs:
            stage.requires_grad_()
        with torch.enable_grad():
            score = model.classifier(model.head(inputs).context)[at].sum()  # in evaluation mode images do not mix
            gradients = torch.autograd.grad(score, inputs, allow_unused=True)
        deepest = next(gradient for gradient in reversed(gradients) if gradient is not None)
        fields.append(deepest[:: model.num_frames].abs().mean(dim=1))  # q h w
    field = torch.cat(fields)
    return field / field.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(field.dtype).tiny)


def theoretical_receptive_field(model: Segmenter, hw: tuple[int, int], region: tuple[slice, slice]) -> Mask:
    """Marks the pixels of an image of `hw` that can change the upsampled logits in `region` at all, bool `H W`.

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
    logits: Tensor = SegmentationModel(positive)(image)
    logits[(..., *region)].sum().backward()
    if image.grad is None:
        return torch.zeros(hw, dtype=torch.bool).numpy()
    return (image.grad[0] > 0).any(dim=0).numpy()
