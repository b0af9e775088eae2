"""One training step, and nothing around it: images in, an updated model and a report out.

A step is a pure function of the weights, the optimiser's state, its number and its batch: dropout is seeded by the
number, so a resumed training needs no saved random state.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import NonFiniteError
from segnl.core.precision import autocast
from segnl.core.seeds import seed_for
from segnl.data.sample import Batch
from segnl.losses.base import StepNormalizer
from segnl.losses.find import LOSSES
from segnl.models.norm import resolve_norm, set_process_group, synchronise
from segnl.models.segmenter import Segmenter
from segnl.optim.optimisers.base import build_optimiser, set_learning_rate
from segnl.runs.recipe import Recipe
from segnl.training.ema import ModelEMA
from segnl.training.loss_scale import LossScale

COMPILE_BACKEND = "inductor"


@dataclass(frozen=True)
class StepReport:
    """losses: by name, auxiliary ones already weighted; they sum to `loss`, over all ranks. Times in seconds.

    grad_norm: of the whole gradient before clipping, the loss scale taken out; None where it overflowed.
    """

    step: int
    loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float | None
    forward_s: float
    backward_s: float
    optim_s: float
    loss_scale: int | None = None
    """What this step's loss was multiplied by; None but in fp16."""
    is_skipped: bool = False
    """Whether its gradients overflowed float16, so that nothing was updated."""


class Trainer:
    """A model, its optimiser, the average of its weights where there is one, and the number of the step to come."""

    def __init__(
        self,
        recipe: Recipe,
        model: Segmenter,
        device: torch.device,
        *,
        class_weight: Tensor | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """class_weight: `k`, for the loss. group: rank 0's weights are copied to all."""
        self.group = group
        loss_class = LOSSES.find(recipe.loss.name)
        self.loss = loss_class(recipe.loss, class_weight, align_corners=recipe.model.align_corners).to(device)
        self.recipe, self.device, self.step_number = recipe, device, 0
        layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=layout)
        self.optimiser = build_optimiser(recipe.optim, self.model)
        if resolve_norm(recipe.model.norm, world=group.world_size) == "sync":
            synchronise(self.model, group, on_cuda=device.type == "cuda")
        self.model.backbone.activation_checkpointing = recipe.train.activation_checkpointing
        self.network: nn.Module = self.model
        if group.world_size > 1:
            set_process_group(self.model, group)
            self.network = nn.parallel.DistributedDataParallel(self.model)
        if recipe.train.compile:  # a wrapper: the model beside it keeps its names, and evaluates as it stands
            self.network = _compiled(self.network)
        self.ema = ModelEMA(self.model, recipe.train.ema) if recipe.train.ema is not None else None
        self.loss_scale = LossScale() if recipe.train.precision == "fp16" else None

    @property
    def evaluated(self) -> Segmenter:
        """The network that is scored: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.model

    def step(self, batch: Batch) -> StepReport:
        """Learns from one batch, of which this is the rank's part.

        In fp16 a gradient that overflows makes the loss scale smaller and the step a skipped one: its images are used
        up and the learning rate moves on, weights, momentum and average stay.

        Raises NonFiniteError, with nothing updated, when loss or gradient is not finite, on every rank.
        """
        cfg, number = self.recipe, self.step_number
        lr = cfg.schedule.learning_rate(number, max_steps=cfg.train.max_steps, lr=cfg.optim.lr)
        set_learning_rate(self.optimiser, lr)
        purpose = ("step", number) if self.group.is_rank0 else ("step", number, "rank", self.group.rank)
        torch.manual_seed(seed_for(cfg.train.seed, *purpose))  # dropout
        self.model.train()

        self.optimiser.zero_grad(set_to_none=True)
        own, forward_s, backward_s = self._accumulate_gradient(batch)
        parts = dict(zip(own, self.group.all_reduce_sums([*own.values()]), strict=True))
        loss = sum(parts.values())
        self._check_finite("loss", loss, sum(own.values()), batch.sample_ids)
        began = time.perf_counter()
        scale = None if self.loss_scale is None else self.loss_scale.value
        norm = self._unscaled_norm()
        grad_norm = float(norm)
        is_skipped = self._is_overflow(grad_norm)
        if not is_skipped:
            self._check_finite("gradient", grad_norm, grad_norm, batch.sample_ids)
        backward_s += time.perf_counter() - began  # an accelerator's backward ends here
        began = time.perf_counter()
        if not is_skipped:
            self._update(norm)

        self.step_number = number + 1
        return StepReport(
            step=self.step_number,
            loss=loss,
            losses=parts,
            lr=lr,
            grad_norm=None if is_skipped else grad_norm,
            forward_s=forward_s,
            backward_s=backward_s,
            optim_s=time.perf_counter() - began,
            loss_scale=scale,
            is_skipped=is_skipped,
        )

    def _unscaled_norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, out of which the loss scale is taken first; the same on all ranks,
        which have exchanged their gradients."""
        grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if self.loss_scale is not None:
            for grad in grads:
                grad.mul_(self.group.world_size / self.loss_scale.value)
        return nn.utils.get_total_norm(grads)

    def _is_overflow(self, grad_norm: float) -> bool:
        """Whether the step is to be skipped for float16's sake; moves the loss scale."""
        if self.loss_scale is None:
            return False
        if _is_finite(grad_norm):
            self.loss_scale.stepped()
            return False
        return self.loss_scale.overflowed()

    def _update(self, norm: Tensor) -> None:
        """norm: of the gradient that the parameters hold."""
        limit = self.recipe.optim.clip_norm
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), limit, norm)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.model, self.step_number + 1)

    def _accumulate_gradient(self, batch: Batch) -> tuple[dict[str, float], float, float]:
        """The step's gradient, piece by piece: the losses' sums by name, seconds of forward and of backward."""
        label = batch.label.to(self.device).long()  # b H W; one byte a pixel until here
        pieces = self.recipe.train.accumulate
        divisor = self.group.all_reduce_sum(self.loss.divisor(label))
        normalizer = StepNormalizer(divisor, pieces, self.group)
        sums: dict[str, float] = {}
        forward_s = backward_s = 0.0
        for i, (image, its_label) in enumerate(zip(batch.image.chunk(pieces), label.chunk(pieces), strict=True)):
            began = time.perf_counter()
            with self._exchanging(is_last=i == pieces - 1):
                parts = self._losses(image, its_label, normalizer)
                total = torch.stack(list(parts.values())).sum()
                for name, part in parts.items():
                    sums[name] = sums.get(name, 0.0) + float(part.detach())
                forwarded = time.perf_counter()
                # DistributedDataParallel takes the ranks' mean; these are parts of one loss, whose gradients add up.
                # float16 has no room for the factor: there it is put on with the scale's removal.
                factor = self.group.world_size if self.loss_scale is None else self.loss_scale.value
                (total * factor).backward()
            forward_s += forwarded - began
            backward_s += time.perf_counter() - forwarded
        return sums, forward_s, backward_s

    def _exchanging(self, *, is_last: bool) -> AbstractContextManager[object]:
        """Gradients travel between the ranks once a step, with its last piece."""
        if self.group.world_size == 1 or is_last:
            return nullcontext()
        return self.network.no_sync()  # type: ignore[operator]  # a compiled one passes it on

    def _losses(self, image: Tensor, label: Tensor, step: StepNormalizer) -> dict[str, Tensor]:
        layout = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        image = self.model.input(image.to(self.device)).contiguous(memory_format=layout)  # b 3 H W
        with autocast(self.recipe.train.precision, self.device):
            logits = self.network(image)
        return self.loss.by_name(logits, label, step, self.model.aux_weights)

    def _check_finite(self, what: str, value: float, own: float, sample_ids: Sequence[str]) -> None:
        """value: the same on all ranks; own: this rank's part, which tells whose images are to be named."""
        if _is_finite(value):
            return
        named = [
            sample_id
            for each in self.group.all_gather_object([] if _is_finite(own) else list(sample_ids))
            for sample_id in each
        ]
        err = NonFiniteError(
            f"step {self.step_number + 1}: the {what} is {value}, nothing was updated; images {', '.join(named)}; "
            "lower optim.lr, or look at these images with `segnl check`"
        )
        err.is_relayed = not self.group.is_rank0
        raise err


def _is_finite(value: float) -> bool:
    return bool(torch.isfinite(torch.tensor(value)))


def _compiled(network: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(network, backend=COMPILE_BACKEND)  # type: ignore[assignment]
    return compiled
