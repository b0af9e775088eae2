"""Checks of a component's contract, for tests of your own: `check_head("mylab.heads.swirl")`.

Each takes the name that a recipe would hold, and the keys beside it. It raises AssertionError with a sentence where the
component breaks its contract, and ConfigError where it is not found or refuses its settings.
"""

import copy
import math
import pickle
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segnl.core import IGNORE
from segnl.core.archives import is_file
from segnl.core.config import JSONDict, validate
from segnl.data.base import DataConfig
from segnl.data.find import DATASETS
from segnl.data.sample import Sample
from segnl.data.transforms import TrainTransform
from segnl.losses.base import Loss, StepNormalizer
from segnl.losses.find import LOSSES
from segnl.metrics.confusion import Confusion
from segnl.metrics.scalars.find import METRICS
from segnl.models.find import HEADS
from segnl.models.heads.base import ContextHead, HeadOutput
from segnl.models.initialisation import initialise
from segnl.models.segmenter import model_config, new_segmenter
from segnl.optim.find import OPTIMISERS, SCHEDULES
from segnl.optim.optimisers.base import set_learning_rate
from segnl.runs.checkpoint import checkpoints_of, load_checkpoint, optimiser_tensors, restore_optimiser
from segnl.runs.recipe import Recipe, compose
from segnl.training.fit import fit
from segnl.training.loggers.find import LOGGERS

STAGE_CHANNELS = (4, 8, 12, 16)
NUM_CLASSES = 3


# ---- heads ----


def check_head(name: str, **settings: Any) -> None:
    """Checks a head on stages of 4, 8, 12 and 16 channels. settings: keys of a recipe under `model.head`."""
    for batch, h, w in ((2, 7, 11), (1, 7, 11), (1, 1, 5), (2, 1, 1)):
        head = new_head(name, **settings).train(batch > 1)
        out, where = head(stages(batch, h, w)), f"for stages of {h}x{w}, batch {batch}"
        expected = (batch, head.out_channels, h, w)
        _require(isinstance(out, HeadOutput), f"it returned a {type(out).__name__}, not HeadOutput(context)")
        _require(out.context.shape == expected, f"the context {where} is {tuple(out.context.shape)}, not {expected}")
        _require(bool(out.context.isfinite().all()), f"the context {where} is not finite")
    _check_initial_values(new_head(name, **settings), new_head(name, **settings))
    _check_auxiliary_logits(new_head(name, **settings).train())
    _check_gradients_of_head(new_head(name, **settings))

    head = new_head(name, **settings)
    awake(head).eval()
    context = head(stages(2, 7, 11)).context
    largest = float(context.detach().abs().max())
    with torch.autocast("cpu", torch.bfloat16):
        half = head(stages(2, 7, 11)).context.float()
    # 8 bits through three convolutions.
    _require(_largest_gap(half, context) < 0.1 * largest, "in bfloat16 under autocast the context is another one")
    head.to(memory_format=torch.channels_last)
    nhwc = head([stage.contiguous(memory_format=torch.channels_last) for stage in stages(2, 7, 11)]).context
    _require(_largest_gap(nhwc, context) < 1e-4 * max(1.0, largest), "in channels_last the context is another one")


def new_head(name: str, **settings: Any) -> ContextHead:
    """Builds a head for 3 classes on STAGE_CHANNELS, with the initial values of seed 0; 8 `channels` unless set."""
    head_class = HEADS.find(name)
    small = {"channels": 8} if "channels" in head_class.Config.model_fields else {}
    cfg = validate(head_class.Config, {"name": name, **small, **settings}, file="check_head", at="model.head")
    head: ContextHead = head_class(cfg, STAGE_CHANNELS, NUM_CLASSES)
    initialise(head, 0)
    return head


def awake(module: nn.Module) -> nn.Module:
    """Moves parameters and running statistics away from initial values, so that every branch acts; returns `module`."""
    torch.manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            is_variance = name.endswith("running_var")
            tensor.copy_(torch.rand_like(tensor) + 0.5 if is_variance else torch.randn_like(tensor) / 3)
    return module


def stages(batch: int, h: int, w: int) -> list[Tensor]:
    """Returns random stages `b c h w`, one for each of STAGE_CHANNELS."""
    torch.manual_seed(2)
    return [torch.randn(batch, channels, h, w) for channels in STAGE_CHANNELS]


def _check_auxiliary_logits(head: ContextHead) -> None:
    logits = head(stages(2, 7, 11)).aux_logits
    for name, value in logits.items():
        expected = (2, NUM_CLASSES)
        _require(value.shape[:2] == expected, f"auxiliary logits {name} are {tuple(value.shape)}, not `b k h w`")
    unknown = set(head.aux_weights) - set(logits)
    _require(not unknown, f"aux_weights names {', '.join(sorted(unknown))}, but aux_logits has no such logits")


def _check_gradients_of_head(head: ContextHead) -> None:
    awake(head).train()
    out = head(stages(1, 7, 11))
    torch.stack([value.square().sum() for value in (out.context, *out.aux_logits.values())]).sum().backward()
    _check_every_parameter_learns(head)
    head.eval()
    # torch's batch norm can return wrong gradients for a batch of 1 with unusual strides.
    both = [stage.requires_grad_() for stage in stages(2, 7, 11)]
    cotangent = torch.randn(2, head.out_channels, 7, 11)
    of_two = torch.autograd.grad((head(both).context * cotangent)[:1].sum(), both, allow_unused=True)
    of_one = torch.autograd.grad(
        (head([stage[:1] for stage in both]).context * cotangent[:1]).sum(), both, allow_unused=True
    )
    for one, two in zip(of_one, of_two, strict=True):
        if one is not None and two is not None:
            is_same = _largest_gap(one, two) <= 1e-3 * float(two.abs().max())  # other kernels
            _require(is_same, "the gradient of an image alone is not that of the image in a batch of two")


# ---- backbones ----


def check_backbone(name: str, **settings: Any) -> None:
    """Checks a backbone on images of 3x57x41 and 3x64x96 pixels. settings: keys under `model.backbone`."""
    backbone = _new_backbone(name, settings)
    channels = tuple(backbone.stage_channels)
    for batch, height, width in ((2, 57, 41), (1, 64, 96)):
        torch.manual_seed(0)
        image = torch.randn(batch, 3, height, width)
        before = image.clone()
        found = backbone.train(batch > 1)(image)
        where = f"for images of {height}x{width}"
        _require(torch.equal(image, before), "forward changes its image in place")
        _require(isinstance(found, Sequence), f"forward returns a {type(found).__name__}, not a list of stages")
        shapes = [tuple(stage.shape) for stage in found]
        _require(
            tuple(shape[1] for shape in shapes) == channels and all(shape[0] == batch for shape in shapes),
            f"stages {where} are {shapes}, but stage_channels is {channels}",
        )
        for shape, stride in zip(shapes, backbone.stage_strides, strict=True):
            gaps = abs(shape[2] - height / stride), abs(shape[3] - width / stride)
            _require(max(gaps) <= 1, f"a stage {where} has {shape[2]}x{shape[3]} positions, but its stride is {stride}")
        _require(all(bool(stage.isfinite().all()) for stage in found), f"stages {where} are not finite")
    torch.stack([stage.square().mean() for stage in found]).sum().backward()
    _check_every_parameter_learns(backbone)
    _check_initial_values(_new_backbone(name, settings), _new_backbone(name, settings))
    backbone.eval()
    image = torch.randn(2, 3, 57, 41)
    for alone, both in zip(backbone(image[:1]), backbone(image), strict=True):
        is_same = _largest_gap(alone, both[:1]) <= 1e-3 * max(1.0, float(both.detach().abs().max()))
        _require(is_same, "in evaluation the stages of an image change with the other images of its batch")


def _new_backbone(name: str, settings: JSONDict) -> Any:
    mapping = {"backbone": {"name": name, **settings}, "head": {"name": "fcn", "channels": 8}, "aux": None}
    return new_segmenter(model_config(mapping, file="check_backbone"), NUM_CLASSES, 0).backbone


# ---- losses ----


def check_loss(name: str, **settings: Any) -> None:
    """Checks a loss of 3 classes. settings: keys of a recipe under `loss`."""
    loss_class = LOSSES.find(name)
    cfg = validate(loss_class.Config, {"name": name, **settings}, file="check_loss", at="loss")
    loss: Loss = loss_class(cfg)
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, NUM_CLASSES, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, NUM_CLASSES, (2, 33, 41), generator=generator)
    label[0, :9] = IGNORE
    logits = loss.upsampled(low, label).detach().requires_grad_()

    value = loss(logits, label)
    _require(value.shape == (), f"forward returns a tensor of shape {tuple(value.shape)}, not a scalar")
    (grad,) = torch.autograd.grad(value, logits)
    _require(bool(value.isfinite() & grad.isfinite().all()), "the loss or its gradient is not finite")
    ignored = (label == IGNORE)[:, None].expand_as(grad)
    _require(not grad[ignored].any(), "ignored pixels have a gradient")
    moved = (logits + ignored * torch.randn(logits.shape, generator=generator, dtype=torch.float64)).detach()
    _require(torch.allclose(loss(moved, label), value), "the loss changes with the logits of ignored pixels")
    step = 1e-3 * grad / grad.norm().clamp(min=1e-12)
    _require(bool(loss(logits - step, label) < value), "the loss does not fall along its gradient")

    nothing, all_ignored = logits.detach().requires_grad_(), torch.full_like(label, IGNORE)
    value = loss(nothing, all_ignored)
    (grad,) = torch.autograd.grad(value, nothing)
    _require(float(value.detach()) == 0, f"the loss of ignored pixels alone is {float(value.detach())}, not 0")
    _require(not grad.any(), "ignored pixels alone have a gradient")

    one_class = label.where(label == IGNORE, 1)
    _require(bool(loss(logits, one_class).isfinite()), "the loss is not finite where only one class is present")
    half = loss.of_step(low.bfloat16(), label, StepNormalizer(loss.divisor(label)))
    full = loss.of_step(low, label, StepNormalizer(loss.divisor(label)))
    _require(_largest_gap(half, full) < 0.05 * max(1.0, float(full.detach())), "bfloat16 logits give another loss")
    weight = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    is_weighted = not torch.allclose(loss_class(cfg, weight)(logits, label), loss(logits, label))
    _require(is_weighted, "loss.class_weight changes nothing; apply self.class_weight in forward")


# ---- data sets ----


def check_dataset(name: str, root: str | Path, split: str = "train", *, max_images: int = 8, **settings: Any) -> None:
    """Checks one split of a data set, and reads its first `max_images` images. settings: keys under `data`."""
    dataset_class = DATASETS.find(name)
    mapping = {"name": name, "root": str(root), "crop_hw": [33, 41], **settings}
    data = dataset_class(validate(dataset_class.Config, mapping, file="check_dataset", at="data"), split)
    _require(len(data) > 0, f"split {split} has no images")
    _require(len(set(data.sample_ids)) == len(data), "two images have the same sample id")
    num_classes, again = data.table.num_classes, _copied(data)
    for i in range(min(max_images, len(data))):
        sample, id_ = data.read(i), data.sample_ids[i]
        _require(sample.id == id_, f"image {i} is {sample.id}, but sample_ids has {id_}")
        _require(
            sample.image.dtype == np.uint8 and sample.image.ndim == 3 and sample.image.shape[2] == 3,
            f"image {id_} is {sample.image.dtype} {sample.image.shape}; expected uint8 `H W 3`",
        )
        _require(
            sample.label.dtype == np.uint8 and sample.label.shape == sample.image.shape[:2],
            f"label {id_} is {sample.label.dtype} {sample.label.shape}; expected uint8 {sample.image.shape[:2]}",
        )
        ids = np.unique(sample.label)
        wrong = ids[(ids >= num_classes) & (ids != IGNORE)]
        _require(not len(wrong), f"label {id_} holds {wrong[:3].tolist()}; expected 0..{num_classes - 1} or {IGNORE}")
        files = [file for file in data.files_of(i) if not is_file(file)]
        _require(not files, f"files_of({i}) names {files[0] if files else ''}, which is no file")
        _require(_are_same(again.read(i), sample), f"{id_} reads differently the second time")


# ---- transforms ----


def check_transform(name: str, **arguments: Any) -> None:
    """Checks a transform as an entry of `data.augment`, on images of 61x83 and 20x30 pixels."""
    mapping = {"name": "folder", "root": ".", "crop_hw": [33, 41], "augment": [{"name": name, **arguments}]}
    make = TrainTransform(validate(DataConfig, mapping, file="check_transform", at="data"), (124, 116, 104), seed=3)
    for hw in ((61, 83), (20, 30)):
        generator = np.random.default_rng(0)
        image = generator.integers(0, 256, (*hw, 3), dtype=np.uint8)
        label = (image[..., 0] % NUM_CLASSES).astype(np.uint8)
        source = Sample(image.copy(), label.copy(), "a")
        crops = [make(source, 0, index) for index in range(5)]
        _require(_are_same(source, Sample(image, label, "a")), "the transform changes its input in place")
        for crop in crops:
            new = set(np.unique(crop.label).tolist()) - {*range(NUM_CLASSES), IGNORE}
            _require(not new, f"the label holds {sorted(new)} afterwards, which were not in it before")
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        copied = _copied(make)
        for index in reversed(range(5)):
            _require(
                _are_same(copied(source, 0, index), crops[index]),
                "the crop of one epoch and index changes with what was drawn before; "
                "draw from self.py_random or self.random_generator only",
            )


# ---- optimisers and schedules ----


def check_optimiser(name: str, **settings: Any) -> None:
    """Checks an optimiser on a linear layer. settings: keys of a recipe under `optim`; lr is 0.01 unless set."""
    cfg = validate(OPTIMISERS.find(name), {"name": name, "lr": 0.01, **settings}, file="check_optimiser", at="optim")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), torch.randn(64, 3, generator=generator)
    start = [torch.randn(shape, generator=generator) for shape in ((3, 5), (3,))]

    def new() -> tuple[nn.Linear, torch.optim.Optimizer]:
        layer = nn.Linear(5, 3)
        layer.load_state_dict(dict(zip(("weight", "bias"), start, strict=True)))
        groups = [{"params": [p], "lr_mult": 1.0, "weight_decay": cfg.weight_decay} for p in layer.parameters()]
        return layer, cfg.build(groups)

    def take(num_steps: int, layer: nn.Linear, optimiser: torch.optim.Optimizer, lr: float = cfg.lr) -> float:
        for _ in range(num_steps):
            set_learning_rate(optimiser, lr)
            optimiser.zero_grad()
            loss = (layer(x) - y).square().mean()
            loss.backward()
            optimiser.step()
        return float(loss.detach())

    layer, optimiser = new()
    first = take(1, layer, optimiser)
    _require(take(20, layer, optimiser) < first, "the loss does not fall in 20 steps of a linear layer")
    weights, state = copy.deepcopy(layer.state_dict()), copy.deepcopy(optimiser_tensors(optimiser, layer))
    take(2, layer, optimiser)
    resumed, its_optimiser = new()
    resumed.load_state_dict(weights)
    restore_optimiser(its_optimiser, resumed, state)
    take(2, resumed, its_optimiser)
    for path, weight in layer.state_dict().items():
        is_same = torch.equal(weight, resumed.state_dict()[path])
        _require(is_same, f"resumed, it gives another {path}; keep all state as tensors in `state[parameter]`")
    take(1, layer, optimiser, lr=0.0)
    is_still = all(torch.equal(weight, resumed.state_dict()[path]) for path, weight in layer.state_dict().items())
    _require(is_still, "a step moves the weights where every group's lr is 0")


def check_schedule(name: str, **settings: Any) -> None:
    """Checks a learning-rate schedule. settings: keys of a recipe under `schedule`."""
    cfg = validate(SCHEDULES.find(name), {"name": name, **settings}, file="check_schedule", at="schedule")
    for done, expected in ((0.0, 1.0), (1.0, 0.0)):
        _require(abs(cfg.factor(done) - expected) < 1e-9, f"factor({done:g}) is {cfg.factor(done)}, not {expected:g}")
    for max_steps in (1, 7, 1000):
        rates = [cfg.learning_rate(step, max_steps=max_steps, lr=0.5) for step in range(max_steps)]
        wrong = [rate for rate in rates if not 0 <= rate <= 0.5]
        _require(not wrong, f"a training of {max_steps} steps has the rate {wrong[0] if wrong else 0}, with lr 0.5")
        again = [cfg.learning_rate(step, max_steps=max_steps, lr=0.5) for step in reversed(range(max_steps))]
        _require(again[::-1] == rates, "the rate of a step depends on the steps asked for before")


# ---- metrics ----


def check_metric(name: str, **settings: Any) -> None:
    """Checks a metric on confusion matrices of 3 classes. settings: keys beside the name in `eval.metrics`."""
    ((metric_class, cfg),) = METRICS.find_listed([{"name": name, **settings}])
    metric = metric_class(cfg)
    some = np.random.default_rng(0).integers(1, 99, (NUM_CLASSES, NUM_CLASSES + 1))
    absent = some.copy()
    absent[1], absent[:, 1] = 0, 0
    for what, matrix in (("every class", some), ("an absent class", absent), ("no pixel", 0 * some)):
        confusion = Confusion(NUM_CLASSES, matrix)
        value = metric.value(confusion)
        _require(isinstance(value, float), f"with {what}, value returns a {type(value).__name__}, not a float")
        _require(math.isfinite(value) or not matrix.any(), f"with {what}, the value is {value}")
        _require(np.array_equal(confusion.matrix, matrix), "value changes the confusion matrix")
        is_same = np.array_equal(metric.value(confusion), value, equal_nan=True)
        _require(is_same, f"with {what}, the value is another one the second time")


# ---- loggers ----


def check_logger(name: str, **settings: Any) -> None:
    """Checks a logger in two trainings of four steps with two validations, of which the second resumes from step 2.

    Its exceptions are raised here. settings: keys beside the name in `train.loggers`.
    """
    ((logger_class, cfg),) = LOGGERS.find_listed([{"name": name, **settings}])
    with tempfile.TemporaryDirectory() as folder:
        recipe, runs = _tiny_recipe(), [Path(folder) / kind for kind in ("without", "with")]
        fit(recipe, runs[0])
        fit(recipe, runs[1], hooks=[logger_class(cfg, runs[1])])
        checkpoints_of(runs[1])[0].unlink()
        fit(recipe, runs[1], hooks=[logger_class(cfg, runs[1])])
        without, logged = (load_checkpoint(checkpoints_of(run)[0]).model for run in runs)
        for path, weight in without.items():
            _require(torch.equal(weight, logged[path]), f"with the logger, the training ends with another {path}")


def _tiny_recipe() -> Recipe:
    """Returns a recipe of four steps on generated images."""
    backbone = {"name": "strided_convs", "channels": 8}
    mapping = {
        "model": {"backbone": backbone, "head": {"name": "fcn", "channels": 8}, "aux": None},
        "data": {"name": "probe", "crop_hw": [24, 20], "num_targets": 2, "num_train": 4, "num_val": 2},
        "train": {"max_steps": 4, "batch_size": 2, "save_every": 2, "eval_every": 2},
        "optim": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "poly"},
        "loss": {"name": "cross_entropy"},
    }
    return compose(mapping, file="check_logger")


# ---- common ----


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _are_same(first: Sample, second: Sample) -> bool:
    return np.array_equal(first.image, second.image) and np.array_equal(first.label, second.label)


def _copied(component: Any) -> Any:
    pickle.dumps(component)  # the loader's workers get it so on some systems
    return copy.deepcopy(component)


def _largest_gap(x: Tensor, y: Tensor) -> float:
    return float((x.detach().double() - y.detach().double()).abs().max())


def _check_initial_values(first: nn.Module, second: nn.Module) -> None:
    values = second.state_dict()
    for path, value in first.state_dict().items():
        _require(torch.equal(value, values[path]), f"initial values of {path} do not follow from the seed alone")


def _check_every_parameter_learns(module: nn.Module) -> None:
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_learning = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            _require(is_learning, f"parameter {path} gets no finite gradient")
