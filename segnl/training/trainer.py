"""Training: the step, and the loop over steps with its hooks.

A step is a pure function of the weights, the optimiser's state, the step's number and the batch: dropout is seeded by
the number, so a resumed training needs no saved random state.
"""

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from segnl.core.arrays import Counts
from segnl.core.config import JSONDict
from segnl.core.distributed import SINGLE_PROCESS, ProcessGroup
from segnl.core.errors import ConfigError, NonFiniteError, SegnlError, first_line
from segnl.core.precision import autocast
from segnl.core.seeds import seed_for
from segnl.data.sample import Batch
from segnl.losses.base import StepNormalizer
from segnl.losses.find import build_loss
from segnl.models.norm import resolve_norm, set_process_group, synchronise
from segnl.models.segmenter import Segmenter
from segnl.optim.optimisers.base import build_optimiser, set_learning_rate
from segnl.runs.checkpoint import Checkpoint, load_weights, optimiser_tensors, restore_optimiser
from segnl.runs.recipe import Recipe
from segnl.training.ema import ModelEMA
from segnl.training.features import frozen_stages
from segnl.training.hooks import STOP_SIGNALS, FitResult, Hook, stop_signals
from segnl.training.loss_scale import LossScale

COMPILE_BACKEND = "inductor"


@dataclass(frozen=True)
class StepReport:
    """Numbers of one step; times in seconds. On a GPU `forward_s` ends when the work is queued, not when it is done."""

    step: int
    """Steps taken, this one included."""
    lr: float
    grad_norm: float | None
    """Norm of the whole gradient before clipping, without the loss scale; None where it overflowed."""
    forward_s: float
    backward_s: float
    optim_s: float
    loss_scale: int | None
    """Factor of this step's loss; None unless the precision is fp16."""
    read_losses: Callable[[], dict[str, float]]
    data_s: float = 0.0
    """Time that the step waited for its batch and for the other processes."""
    images_per_s: float = 0.0

    @cached_property
    def losses(self) -> dict[str, float]:
        """Losses by name over all processes, auxiliary ones already weighted; the first use waits for the device."""
        return self.read_losses()

    @property
    def loss(self) -> float:
        """The sum of `losses`, which the step minimised."""
        return sum(self.losses.values())

    @property
    def is_skipped(self) -> bool:
        """Whether the gradients overflowed float16, so that nothing was updated."""
        return self.grad_norm is None


@contextmanager
def _compile_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as err:
        if not type(err).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ConfigError(
            f"train.compile: torch cannot compile the network ({first_line(err)}); set it to false"
        ) from err


class Trainer:
    """A network with its loss, optimiser, optional EMA and step number; `fit` trains it, `step` takes one step."""

    def __init__(
        self,
        recipe: Recipe,
        model: Segmenter,
        device: torch.device,
        *,
        class_pixels: Counts | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
        folder: Path = Path(),
    ) -> None:
        """class_pixels: int64 `k`, for class weights. group: rank 0's weights are copied to all processes.

        folder: the run's, where hooks write.
        """
        self.recipe = recipe
        self.device = device
        self.group = group
        self.folder = folder
        self.step_number = 0
        """Steps taken, those of earlier starts included."""
        report = model.init_report
        self.init = None if report is None else {key: report[key] for key in ("file", "checksum")}
        """The file that the weights of step 0 came from; None: they were drawn."""
        self.hooks: Sequence[Hook] = ()
        self.stop: list[signal.Signals] = []
        self.is_finished = False
        """A hook sets it, on all processes at the same step, to end the training before its last step."""
        align_corners = recipe.model.align_corners
        self.loss = build_loss(recipe.loss, model.num_classes, class_pixels, align_corners=align_corners).to(device)
        self.layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout)
        """The network itself, whose weights are updated and saved."""
        if resolve_norm(recipe.model.norm, world=group.world_size) == "sync":
            synchronise(self.model, group, on_cuda=device.type == "cuda")
        self.model.backbone.activation_checkpointing = recipe.train.activation_checkpointing
        self.network: nn.Module = self.model
        """Called by a step: `model`, wrapped by DistributedDataParallel and torch.compile where these are used."""
        if group.world_size > 1:
            set_process_group(self.model, group)
            # Without its broadcast of buffers in every step: rank 0's are saved and scored, and need no copy elsewhere.
            self.network = nn.parallel.DistributedDataParallel(self.model, broadcast_buffers=False)
        self.optimiser = build_optimiser(recipe.optim, self.model)
        if recipe.train.compile:  # `model` keeps its names and is evaluated as it stands
            self.network = torch.compile(self.network, backend=COMPILE_BACKEND)  # type: ignore[assignment]
        self.ema = ModelEMA(self.model, recipe.train.ema) if recipe.train.ema is not None else None
        self.loss_scale = LossScale() if recipe.train.precision == "fp16" else None

    @property
    def evaluated_model(self) -> Segmenter:
        """The network that validations score: the EMA of `model` if there is one, else `model`."""
        return self.model if self.ema is None else self.ema.model

    def fit(self, batches: Iterator[Batch], hooks: Sequence[Hook] = ()) -> FitResult:
        """Takes one step for each batch, with the hooks around it, until the batches or a stop signal end it.

        batches: this process's images, from step `step_number` on; all processes have equally many.
        Raises what a step or a hook raises, and data errors after the hooks' `on_end`, which saves what was learned.
        """
        self.hooks = hooks
        with stop_signals() as self.stop:
            try:
                self.call_hooks("on_start")
                result = self._take_steps(batches)
                if isinstance(batches, Generator):
                    batches.close()  # ends the loader's workers
                self.call_hooks("on_end", result)
            except Exception as error:
                self.call_hooks("on_error", error)
                raise
        if result.error is not None:
            raise result.error
        return result

    def call_hooks(self, moment: str, *args: object) -> None:
        """Calls the method `moment` of every hook with the trainer and `args`."""
        for hook in reversed(self.hooks) if moment in ("on_end", "on_error") else self.hooks:
            getattr(hook, moment)(self, *args)

    def _take_steps(self, batches: Iterator[Batch]) -> FitResult:
        """Takes steps until a hook, a signal, a data error or the end of the batches ends the training."""
        num_images = self.recipe.train.batch_size
        while not self.is_finished:
            began = time.perf_counter()
            received = self._next_batch(batches)
            if isinstance(received, FitResult):
                return received
            batch, divisor = received
            data_s = time.perf_counter() - began
            report = self.step(batch, divisor)
            rate = num_images / (time.perf_counter() - began)
            self.call_hooks("on_step", replace(report, data_s=data_s, images_per_s=rate), batch)
        return FitResult(self.step_number)

    def _next_batch(self, batches: Iterator[Batch]) -> tuple[Batch, Tensor] | FitResult:
        """Returns the next batch with the divisor of its step's loss, or why the training ends.

        The one place in a step where processes wait for one another, apart from the exchange of gradients: one sum
        holds the divisor, and who met an error or a signal. A signal takes precedence: Ctrl-C and SIGTERM may reach
        the loader's workers too, and one that ends for that reason is no error.
        """
        batch, error = None, None
        try:
            batch = next(batches, None)
        except SegnlError as err:
            error = err
        divisor = self.loss.divisor(torch.empty(0, 0, 0, dtype=torch.uint8) if batch is None else batch.label)
        votes = [error is not None, *(self.stop[:1] == [number] for number in STOP_SIGNALS)]
        sums = self.group.all_reduce_sum(torch.cat([divisor.new_tensor(votes), divisor.flatten()]))
        (has_error, *stops), divisor = sums[: len(votes)].tolist(), sums[len(votes) :].reshape(divisor.shape)
        stopped_by = next((number for number, vote in zip(STOP_SIGNALS, stops, strict=True) if vote), None)
        if stopped_by is not None:
            return FitResult(self.step_number, stopped_by)
        if has_error:
            return FitResult(self.step_number, error=self.group.error_of_any(error))
        return FitResult(self.step_number) if batch is None else (batch, divisor)

    def step(self, batch: Batch, divisor: Tensor | None = None) -> StepReport:
        """Learns from one batch, of which this process holds its share.

        divisor: of the loss, summed over all processes; None: they sum it up here.
        In fp16, gradients that overflow halve the loss scale and the step is skipped: its images are used up and the
        learning rate moves on, but weights, momentum and EMA stay.

        Raises NonFiniteError, on every process and with nothing updated, when the loss or the gradient is not finite.
        """
        recipe, scale = self.recipe, None if self.loss_scale is None else self.loss_scale.value
        lr = recipe.learning_rate(self.step_number)
        set_learning_rate(self.optimiser, lr)
        purpose = ("step", self.step_number) + (() if self.group.is_rank0 else ("rank", self.group.rank))
        torch.manual_seed(seed_for(recipe.train.seed, *purpose))  # dropout
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)

        if divisor is None:
            divisor = self.group.all_reduce_sum(self.loss.divisor(batch.label))
        losses, forward_s, backward_s = self._accumulate_gradients(batch, divisor)
        summed = self.group.start_all_reduce_sum(torch.stack(list(losses.values())))

        def read_losses() -> dict[str, float]:
            return dict(zip(losses, summed().tolist(), strict=True))

        began = time.perf_counter()
        norm = nn.utils.get_total_norm(self._unscale_gradients())  # Euclidean, the same on all processes
        grad_norm = float(norm)  # the step's only wait for the device
        updating = time.perf_counter()
        is_skipped = not math.isfinite(grad_norm)
        if is_skipped:
            self._handle_non_finite(grad_norm, read_losses(), losses, batch.sample_ids)
        else:
            self._update(norm)
        self.step_number += 1
        return StepReport(
            step=self.step_number,
            lr=lr,
            grad_norm=None if is_skipped else grad_norm,
            forward_s=forward_s,
            backward_s=backward_s + updating - began,  # an accelerator's backward ends with that wait
            optim_s=time.perf_counter() - updating,
            loss_scale=scale,
            read_losses=read_losses,
        )

    def _accumulate_gradients(self, batch: Batch, divisor: Tensor) -> tuple[dict[str, Tensor], float, float]:
        """Runs the micro-batches; returns the sums of their losses by name, seconds of forward and of backward."""
        num = self.recipe.train.accumulate
        image, label = self._to_device(batch.image), self._to_device(batch.label).long()  # b 3 H W, b H W
        step = StepNormalizer(self._to_device(divisor), num, self.group)
        # DistributedDataParallel takes the mean over processes, but their losses are summands of one loss. float16 has
        # no room for that factor: there `_unscale_gradients` applies it together with the loss scale.
        factor = self.group.world_size if self.loss_scale is None else self.loss_scale.value
        sums: dict[str, Tensor] = {}
        forward_s = backward_s = 0.0
        stages = None if batch.stages is None else [None if x is None else self._to_device(x) for x in batch.stages]
        for i, (images, labels) in enumerate(zip(image.chunk(num), label.chunk(num), strict=True)):
            began = time.perf_counter()
            # Processes exchange gradients once per step, with the last micro-batch. A compiled network passes this on.
            holds_back = self.group.world_size > 1 and i < num - 1
            with self.network.no_sync() if holds_back else nullcontext():  # type: ignore[operator]
                network_input = self.model.input(images).contiguous(memory_format=self.layout)  # b 3 H W
                with _compile_errors(), autocast(self.recipe.train.precision, self.device):
                    logits = self.network(network_input, self._fixed_stages(network_input, stages, i))
                losses = self.loss.by_name(logits, labels, step, self.model.aux_weights)
                total = torch.stack(list(losses.values())).sum()
                backward_began = time.perf_counter()
                # NaN times 0 is NaN: a loss that is not finite makes the gradients NaN, on all processes after the
                # exchange, so that `step` finds it without a wait here.
                total.backward(total.detach() * 0 + factor)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().double()
            forward_s += backward_began - began
            backward_s += time.perf_counter() - backward_began
        return sums, forward_s, backward_s

    def _fixed_stages(
        self, images: Tensor, stages: Sequence[Tensor | None] | None, micro_batch: int
    ) -> Sequence[Tensor | None] | None:
        """Returns the maps of a frozen backbone for the images of a micro-batch; None: the network computes its own.

        stages: of the whole step, where they come from a file.
        """
        if stages is not None:
            stages = [x if x is None else x.chunk(self.recipe.train.accumulate)[micro_batch] for x in stages]
        elif self.recipe.has_fixed_features:
            stages = frozen_stages(self.model, images)
        if stages is None:
            return None
        return [x if x is None else x.contiguous(memory_format=self.layout) for x in stages]

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copies without a wait: a GPU reads pinned memory by itself."""
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _unscale_gradients(self) -> list[Tensor]:
        """Divides the gradients by the loss scale, in place, and returns them."""
        grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if self.loss_scale is not None:
            for grad in grads:
                grad.mul_(self.group.world_size / self.loss_scale.value)
        return grads

    def _handle_non_finite(
        self, grad_norm: float, losses: dict[str, float], own: dict[str, Tensor], sample_ids: Sequence[str]
    ) -> None:
        """Halves the loss scale where gradients overflowed float16; raises NonFiniteError in every other case.

        losses: over all processes; own: this process's, which tell whose images to name.
        """
        loss = sum(losses.values())
        is_loss_finite = math.isfinite(loss)
        if is_loss_finite and self.loss_scale is not None and self.loss_scale.halve():
            return
        is_own = is_loss_finite or not math.isfinite(float(sum(own.values())))
        all_ids = self.group.all_gather_object(list(sample_ids) if is_own else [])
        what, value = ("gradient", grad_norm) if is_loss_finite else ("loss", loss)
        err = NonFiniteError(
            f"step {self.step_number + 1}: the {what} is {value}, nothing was updated; images "
            f"{', '.join(sample_id for ids in all_ids for sample_id in ids)}; "
            "lower optim.lr, or look at these images with `segnl check`"
        )
        err.is_relayed = not self.group.is_rank0
        raise err

    def _update(self, norm: Tensor) -> None:
        """Updates weights and EMA. norm: of the gradient that the parameters hold."""
        if self.loss_scale is not None:
            self.loss_scale.stepped()
        if self.recipe.optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.optim.clip_norm, norm)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.model, self.step_number + 1)

    def to_checkpoint(self, path: Path, classes: JSONDict, origin: JSONDict) -> Checkpoint:
        """Returns all that a resumed training needs, for the file `path`. classes, origin: see `Checkpoint`."""
        return Checkpoint(
            path=path,
            step=self.step_number,
            recipe=self.recipe.to_dict(),
            classes=classes,
            origin=origin if self.init is None else origin | {"init": self.init},
            model=self.model.state_dict(),
            optim=optimiser_tensors(self.optimiser, self.model),
            ema={} if self.ema is None else self.ema.model.state_dict(),
            loss_scale={} if self.loss_scale is None else asdict(self.loss_scale),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from `checkpoint`, to the bit. Raises CheckpointError when it does not fit the network."""
        load_weights(self.model, checkpoint)
        if self.ema is not None:
            load_weights(self.ema.model, checkpoint, use_ema=True)
        if checkpoint.optim or (checkpoint.step > 0 and self.loss_scale is None):  # float16 may have skipped all steps
            restore_optimiser(self.optimiser, self.model, checkpoint.optim)
        self.step_number, self.init = checkpoint.step, checkpoint.origin.get("init")
        if self.loss_scale is not None:
            self.loss_scale = LossScale(**checkpoint.loss_scale)
