"""Answers of one rank for tests/test_ranks.py: many at once, since starting a process is slow."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from segnl.core.distributed import ProcessGroup
from segnl.core.errors import DataError, NonFiniteError
from segnl.data.sample import Batch
from segnl.evaluation.evaluate import evaluate
from segnl.evaluation.predictor import Predictor
from segnl.runs.build import build_data, build_model
from segnl.runs.recipe import load_recipe
from segnl.training.hooks import Hook
from segnl.training.loss_scale import MAX_SCALE, LossScale
from segnl.training.trainer import StepReport, Trainer

CPU = torch.device("cpu")
STILL = ["train.batch_size=4", "model.dropout=0.0", "model.aux={channels: 8, dropout: 0.0}"]


def whole_batch(seed: int, *, void_half: bool = False) -> Batch:
    """Four images; void_half: those of rank 1 of 2 (every other one) have no valid pixel."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (4, 3, 33, 41), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (4, 33, 41), generator=generator)
    label[:2, :9] = 255
    if void_half:
        label[1::2] = 255
    return Batch(image, label, [f"image{i}" for i in range(4)])


def part_of(batch: Batch, group: ProcessGroup) -> Batch:
    own = slice(group.rank, None, group.world_size)
    return Batch(batch.image[own], batch.label[own], batch.sample_ids[own])


def gradients(config: Path, group: ProcessGroup, *options: str, void_half: bool = False) -> dict[str, object]:
    """Two steps; the loss, the gradient's norm and some gradients of each, and the weights after them."""
    recipe = load_recipe(config, [*STILL, *options])
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=group.is_rank0), CPU, group=group)
    reports, grads = [], []
    for step in range(2):
        report = trainer.step(part_of(whole_batch(step, void_half=void_half), group))
        reports.append([report.loss, report.grad_norm])
        grads.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).tolist())
    weights = torch.cat([value.flatten().double() for value in trainer.model.state_dict().values()]).tolist()
    return {"reports": reports, "grads": grads, "weights": weights}


def confusion(config: Path, group: ProcessGroup) -> list[list[int]]:
    recipe = load_recipe(config)
    data = build_data(recipe, "train")  # five images
    predictor = Predictor(build_model(recipe, 3, is_new=True), recipe, data.table, CPU)
    return evaluate(predictor, data, group=group).confusion.matrix.tolist()


def poisoned(config: Path, group: ProcessGroup) -> list[object]:
    """One rank's loss is NaN: what every rank raises."""
    recipe = load_recipe(config, STILL)
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=group.is_rank0), CPU, group=group)
    before = trainer.model.classifier.weight.detach().clone()
    if group.rank == group.world_size - 1:
        trainer.model.classifier.bias.data[0] = float("nan")
    try:
        trainer.step(part_of(whole_batch(0), group))
    except NonFiniteError as err:
        return [str(err), err.is_relayed, bool(torch.equal(before, trainer.model.classifier.weight))]
    return []


def skipped(config: Path, group: ProcessGroup) -> dict[str, object]:
    """Steps in float16 whose scale begins far too high for rank 0's images, while those of rank 1 are all void."""
    recipe = load_recipe(config, [*STILL, "model.norm=frozen", "train.precision=fp16"])
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=group.is_rank0), CPU, group=group)
    trainer.loss_scale = LossScale(MAX_SCALE)
    batch = part_of(whole_batch(0, void_half=True), group)
    reports = [trainer.step(batch) for _ in range(6)]
    weights = torch.cat([value.flatten().double() for value in trainer.model.state_dict().values()]).tolist()
    last = reports[-1]
    return {
        "skipped": [report.is_skipped for report in reports],
        "scale": trainer.loss_scale.value,
        "last": [last.loss, last.grad_norm],
        "weights": weights,
    }


class StepRecorder(Hook):
    """Notes which collectives were waited for until the end of each step."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.steps: list[list[str]] = []

    def wrap(self, name: str, collective: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if not kwargs.get("async_op"):
                self.waits.append(name)
            return collective(*args, **kwargs)

        return call

    def on_step(self, trainer: Trainer, report: StepReport, batch: Batch) -> None:
        self.steps.append(self.waits)
        self.waits = []


def waited_for(config: Path, group: ProcessGroup) -> list[list[str]]:
    """The collectives that a rank waits for in each of three steps, apart from the exchange of gradients."""
    recipe = load_recipe(config, [*STILL, "model.norm=frozen", "train.accumulate=2"])
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=group.is_rank0), CPU, group=group)
    recorder = StepRecorder()
    with ExitStack() as stack:
        for name in ("all_reduce", "all_gather_object", "broadcast", "broadcast_object_list"):
            stack.enter_context(mock.patch.object(dist, name, recorder.wrap(name, getattr(dist, name))))
        trainer.fit((part_of(whole_batch(step), group) for step in range(3)), [recorder])
    return recorder.steps


def errors(group: ProcessGroup) -> list[str]:
    """What each rank raises when rank 1 alone has an error, when rank 0 has one, and when all have the same."""
    results = []

    def refuse_on_rank1() -> None:
        with group.shared_errors():
            if group.rank == 1:
                raise DataError("torn.png")

    def refuse_on_all() -> None:
        with group.shared_errors():
            refuse()

    for collective in (
        refuse_on_rank1,
        lambda: group.run_on_rank0(refuse),
        refuse_on_all,
    ):
        try:
            collective()
        except DataError as err:
            results.append(f"{err} {err.is_relayed}")
    return results


def refuse() -> None:
    raise DataError("no images")


def answers(config: Path, group: ProcessGroup) -> dict[str, object]:
    if config.name == "patience":
        return {"rank 0 slept": group.run_on_rank0(lambda: time.sleep(6) or True)}
    results: dict[str, object] = {"confusion": confusion(config, group)}
    if group.world_size == 3:
        return results
    for name, norm in (("frozen", "frozen"), ("sync", "auto"), ("clipped", "frozen")):
        options = [f"model.norm={norm}"] + (["optim.clip_norm=0.05", "train.ema=0.9"] if name == "clipped" else [])
        results[name] = gradients(config, group, *options)
    results["void"] = gradients(config, group, "model.norm=frozen", void_half=True)
    results["micro_batches"] = gradients(config, group, "model.norm=frozen", "train.accumulate=2")
    ohem = "loss={name: ohem, fraction: 1.0}"  # of less, each rank would choose among its own pixels
    results["ohem"] = gradients(config, group, "model.norm=frozen", ohem)
    results["weighted"] = gradients(config, group, "model.norm=frozen", "loss={name: cross_entropy, divide_by: all}")
    summed = "loss={name: sum, losses: [{name: cross_entropy, class_weight: [1, 2, 3]}, {name: focal, divide_by: all}]}"
    results["sum"] = gradients(config, group, "model.norm=frozen", summed)
    results["half"] = skipped(config, group)
    if group.world_size > 1:
        results["waits"] = waited_for(config, group)
        results["poisoned"] = poisoned(config, group)
        results["errors"] = errors(group)
        tensors = {"a": torch.full((2, 3), float(group.rank)), "b": torch.tensor(group.rank)}
        results["shared"] = {name: value.tolist() for name, value in group.broadcast(tensors).items()}
    return results
