"""Operators, networks, training steps and resume on a CUDA device against the CPU: `pytest -m gpu`.

SEGNL_GPU_TESTS_ON=cpu runs the same tests on the CPU, which checks the tests themselves where there is no device.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segnl.data.sample import Batch
from segnl.evaluation.predictor import Predictor
from segnl.labels.table import ClassTable
from segnl.models.find import HEADS
from segnl.models.segmenter import Segmenter
from segnl.ops.context import channel_context, expectation_context, pyramid_means, region_context
from segnl.ops.criss_cross import criss_cross_context
from segnl.ops.non_local import concatenation_context, dot_product_context, softmax_context
from segnl.ops.pixel_loss import hardest_label, ohem_label, per_pixel_loss, pixel_cross_entropy
from segnl.ops.resize import resize
from segnl.ops.upsampled_labels import upsampled_labels
from segnl.runs.build import build_model, make_deterministic
from segnl.runs.checkpoint import newest_checkpoint
from segnl.runs.recipe import Recipe, load_recipe
from segnl.training.fit import fit
from segnl.training.trainer import Trainer

DEVICE = torch.device(os.environ.get("SEGNL_GPU_TESTS_ON", "cuda"))
# Read when the first matrix product starts on the device; without it that product raises in deterministic mode.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device on this machine"
    ),
]


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Switches the convolutions' TF32 off, and after the test deterministic mode."""
    default = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = default
    torch.use_deterministic_algorithms(False)


# Operator -> its function of floating tensors and their shapes. Odd sizes; maps of more than one tile.
OPERATORS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "criss_cross": (criss_cross_context, [(2, 4, 19, 23), (2, 4, 19, 23), (2, 6, 19, 23)]),
    "softmax": (partial(softmax_context, scale=0.5), [(2, 4, 851), (2, 4, 437), (2, 4, 437)]),
    "softmax, other channels": (softmax_context, [(2, 4, 851), (2, 4, 437), (2, 6, 437)]),
    "dot_product": (dot_product_context, [(2, 4, 851), (2, 4, 437), (2, 6, 437)]),
    "concatenation": (concatenation_context, [(2, 851), (2, 437), (2, 6, 437)]),
    "channels": (channel_context, [(2, 6, 77)]),
    "expectation": (lambda x, bases: expectation_context(x, bases, num_steps=3)[0], [(2, 6, 77), (2, 6, 5)]),
    "regions": (region_context, [(2, 3, 77), (2, 6, 77)]),
    "pyramid": (partial(pyramid_means, bins=(1, 2, 3, 6)), [(2, 6, 7, 11)]),
    "resize": (partial(resize, out_hw=(57, 41), align_corners=False), [(2, 3, 7, 11)]),
}


def values_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Returns the result and, where it has any, the gradients of all inputs for a fixed cotangent: float64, CPU."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(out, leaves, cotangent.to(out)) if out.requires_grad else ()
    return [tensor.detach().double().cpu() for tensor in (out, *gradients)]


def random_inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Returns float64 numbers that `dtype` holds exactly, so that only the arithmetic differs."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double() for shape in shapes]


TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Of the largest number of the result: sums in another order, and one rounding of inputs' gradients or more."""


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_and_its_gradients_equal_the_cpus_in_float64(name: str, dtype: torch.dtype) -> None:
    function, shapes = OPERATORS[name]
    inputs = random_inputs(shapes, dtype)
    expected = values_and_gradients(function, inputs)
    results = values_and_gradients(function, [tensor.to(DEVICE, dtype) for tensor in inputs])
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=0, atol=TOLERANCE[dtype] * float(reference.abs().max()))


def random_labels() -> Tensor:
    label = torch.randint(0, 19, (2, 65, 97), generator=torch.Generator().manual_seed(2))
    label[:, :7] = 255
    return label


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"normalize_by": "all"}], ids=str)
def test_the_pixel_loss_equals_the_cpus_in_float64(settings: dict[str, Any], dtype: torch.dtype) -> None:
    (logits,) = random_inputs([(2, 19, 9, 13)], dtype)
    weight = torch.linspace(0.5, 2, 19, dtype=torch.float64)

    def loss(logits: Tensor) -> Tensor:
        label = random_labels().to(logits.device, torch.uint8)
        class_weight = weight.to(logits.device, torch.float32)
        return pixel_cross_entropy(logits, label, align_corners=False, class_weight=class_weight, **settings)

    expected = values_and_gradients(loss, [logits])
    for result, reference in zip(values_and_gradients(loss, [logits.to(DEVICE, dtype)]), expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=0, atol=TOLERANCE[dtype] * float(reference.abs().max()))


def test_hard_pixels_are_the_cpus() -> None:
    (logits,) = random_inputs([(2, 19, 9, 13)], torch.float32)
    kept = []
    for device in (torch.device("cpu"), DEVICE):
        label = random_labels().to(device)
        losses = per_pixel_loss(logits.to(device), label, align_corners=True)
        mined = [ohem_label(label, losses, threshold=0.7, min_kept=count) for count in (0, 100, 10**9)]
        kept.append([losses.cpu(), *(x.cpu() for x in (*mined, hardest_label(label, losses, fraction=0.25)))])
    torch.testing.assert_close(kept[1][0], kept[0][0], rtol=0, atol=1e-10)
    assert all(torch.equal(device, cpu) for device, cpu in zip(kept[1][1:], kept[0][1:], strict=True))


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampled_labels_are_the_cpus_up_to_ties(align_corners: bool) -> None:
    (logits,) = random_inputs([(2, 19, 17, 23)], torch.float32)
    labels = upsampled_labels(logits.float().to(DEVICE), (129, 177), align_corners=align_corners).cpu()
    assert_best_up_to_ties(labels, resize(logits, (129, 177), align_corners=align_corners))


def assert_best_up_to_ties(labels: Tensor, scores: Tensor) -> None:
    """Asserts that each label of u8 `b H W` has the greatest of scores `b k H W`, up to float32's rounding."""
    score = scores.gather(1, labels[:, None].long())[:, 0]
    best = scores.amax(dim=1)
    assert float((best - score).max()) <= 1e-4 * float(scores.abs().max())


def recipe_for(config: Path, head: str, precision: str = "float32") -> Recipe:
    settings = [f"model.head={{name: {head}, channels: 16}}", f"train.precision={precision}", "model.dropout=0"]
    return load_recipe(config, [*settings, "optim.lr=0.001"])


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (2, 65, 97), dtype=torch.uint8, generator=generator)
    label[:, :5] = 255
    return Batch(image, label, ["first", "second"])


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("head", HEADS.names())
def test_a_training_step_of_each_head_learns_on_the_device(tiny_config: Path, head: str, precision: str) -> None:
    recipe = recipe_for(tiny_config, head, precision)
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=True), DEVICE)
    before = trainer.model.classifier.weight.detach().clone()
    reports = [trainer.step(batch()) for _ in range(4)]
    assert all(np.isfinite(report.loss) for report in reports)
    assert not reports[-1].is_skipped
    assert not torch.equal(trainer.model.classifier.weight, before)
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {DEVICE.type}


@pytest.mark.parametrize("head", HEADS.names())
def test_deterministic_training_repeats_itself_to_the_bit(tiny_config: Path, head: str) -> None:
    make_deterministic()
    recipe, states = recipe_for(tiny_config, head), []
    for _ in range(2):
        trainer = Trainer(recipe, build_model(recipe, 3, is_new=True), DEVICE)
        for _ in range(3):
            trainer.step(batch())
        states.append(trainer.model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def trained_model(recipe: Recipe) -> Segmenter:
    """Returns a model after two steps on the CPU: running statistics and gammas have left their initial values."""
    trainer = Trainer(recipe, build_model(recipe, 3, is_new=True), torch.device("cpu"))
    for _ in range(2):
        trainer.step(batch())
    return trainer.model


@pytest.mark.parametrize("head", HEADS.names())
def test_masks_are_the_cpus_up_to_ties(tiny_config: Path, head: str) -> None:
    recipe = recipe_for(tiny_config, head)
    model = trained_model(recipe)
    table = ClassTable(["road", "sky", "tree"], np.eye(3))
    image = np.random.default_rng(0).integers(0, 256, (65, 97, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        scores = resize(model.double().eval()(model.input(pixels).double()).main, (65, 97), align_corners=False)
    labels = Predictor(model.float(), recipe, table, DEVICE).labels(image)
    assert_best_up_to_ties(labels.cpu()[None], scores)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    tiny_config: Path, tmp_path: Path, precision: str
) -> None:
    recipe = load_recipe(tiny_config, ["train.deterministic=true", f"train.precision={precision}"])
    run = tmp_path / "run"
    fit(recipe, run)
    last = newest_checkpoint(run)
    assert last is not None
    last.path.unlink()
    fit(recipe, run)
    again = newest_checkpoint(run)
    assert again is not None
    assert again.step == last.step
    assert all(torch.equal(value, again.model[name]) for name, value in last.model.items())
